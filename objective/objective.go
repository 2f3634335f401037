// Package objective defines the objectives of tasks. An objective encodes the targets of images as
// tensors, and computes the loss and the metrics.
//
// [SingleLabel] is the objective for images with one label each, and [MultiLabel] for images with
// any number of labels; [For] chooses between them. Package dataset reads the targets. Package
// sensitivity scores weights with the loss of an [Objective]. Package train minimises the loss and
// reports the metrics.
//
// To add an objective, write one type that implements Objective, and call [Register]. Embed
// [Pooled] if the head reads one feature vector per image. Other packages need no change.
package objective

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/probe"
)

// Objective encodes targets and computes the loss and the metrics of a task. An Objective has no
// state, so that several runs can use one value at the same time. The methods that take graph nodes
// build a computation graph; like the functions of GoMLX, they may panic.
type Objective interface {
	// Name returns the name of the objective, which run folders and deltas record.
	Name() string
	// TargetShape returns the shape of the encoded target of one image, without the batch axis. An
	// empty shape means one number. A shape of two axes, [rows, columns], means a map of the image.
	// Images with such targets cannot be cropped or flipped at random, because the map would not be
	// changed with the image.
	TargetShape(c backbone.Config) []int
	// Encode writes the target of one image to dst, in row-major order. dst has the number of
	// values of TargetShape, all zero. A target of a kind that the objective cannot read is an
	// error.
	Encode(target dataset.Target, dst []int32) error
	// Features returns the input of the head, [B, …, width]: pooled features, or a map of features
	// from backbone.Model.FeatureMap. images are as for backbone.Model.Features. If only the head
	// is tuned and the features have the shape [B, width], they are computed only once for each
	// image and cached for all epochs.
	Features(m *backbone.Model, l backbone.Layers, images *Node) *Node
	// Logits returns the outputs of the head, [B, …], for the features that Features returns.
	Logits(c backbone.Config, l backbone.Layers, features *Node) *Node
	// Loss returns the loss of a mini-batch, a float32 scalar. logits are as Logits returns them;
	// targets are encoded targets, int32 [B, TargetShape…]. The loss must be the mean of the losses
	// of the images, because a mini-batch may be split into micro-batches. The losses of
	// micro-batches are averaged, weighted by their numbers of images.
	Loss(logits, targets *Node) *Node
	// Correct returns the correctly predicted share of each image, float32 [B], from 0 to 1. Its
	// arguments are as for Loss. Its mean over an epoch is the training accuracy.
	Correct(logits, targets *Node) *Node
	// NewMetrics returns empty metrics, to which the predictions of a split can be added.
	NewMetrics(c backbone.Config) Metrics
}

// PerImage is an Objective that also returns the loss of each image. Label smoothing, weights of
// classes and mixed images need it.
type PerImage interface {
	Objective
	// Losses returns the loss of each image, float32 [B]. The arguments logits and targets are as
	// for Loss. With zero options the mean of the losses is the result of Loss.
	Losses(logits, targets *Node, o LossOptions) *Node
}

// LossOptions configures [PerImage]. The zero value changes nothing.
type LossOptions struct {
	// Smoothing is the share of the target that is spread evenly over all classes, at least 0 and
	// below 1. With several labels, it is spread over the presence and the absence of each label.
	// Default: 0.
	Smoothing float64
	// ClassWeights holds a factor for the loss of each image, by the class of its target. With
	// several labels, it is the factor for the loss of a label that an image has, pos_weight in
	// PyTorch. Nil means 1 for all classes.
	ClassWeights []float32
}

// Probed is an Objective with a linear head on one feature vector, such as [Pooled], that package
// probe can fit to cached features.
type Probed interface {
	Objective
	// Problem returns the problem whose labels are the encoded targets, and whose loss is Loss.
	Problem() probe.Problem
}

// CheckPerImage returns an error if o is no [PerImage]. what names the option that needs it, such
// as "label smoothing".
func CheckPerImage(o Objective, what string) error {
	if _, ok := o.(PerImage); !ok {
		return fmt.Errorf("%s needs the loss of each image, which the objective %s does not give; leave the option out, or add the method Losses of objective.PerImage", what, o.Name())
	}
	return nil
}

// Metrics accumulates the predictions of a split. It sees the whole split, so a metric need not be
// a mean over images.
type Metrics interface {
	// Add adds images: their logits and their encoded targets, both in row-major order with the
	// batch axis first. A target that does not fit the head is an error.
	Add(logits []float32, targets []int32) error
	// Evaluation returns the metrics of all images added so far.
	Evaluation() Evaluation
}

// Evaluation holds the metrics of a split.
type Evaluation struct {
	// Images is the number of images in the split.
	Images int `json:"images"`
	// Accuracy is the metric by which a run chooses between candidates, from 0 (worst) to 1 (best).
	// For SingleLabel it is the share of images whose largest logit is the logit of the label, and
	// for MultiLabel the mean average precision of the labels.
	Accuracy float64 `json:"accuracy"`
	// Loss is the mean loss over the images. It is 0 if the objective does not compute it.
	Loss float64 `json:"loss"`
	// Classes holds the counts of each class, in the order of the rows of the head. It is empty if
	// the objective does not count classes.
	Classes []ClassCount `json:"classes,omitempty"`
	// Metrics holds further metrics of the objective by name, such as "map" or "miou".
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// ClassCount holds the numbers of images of one class.
type ClassCount struct {
	Images    int `json:"images"`  // images with this label
	Correct   int `json:"correct"` // images with this label and the right prediction
	Predicted int `json:"-"`       // images with this prediction; not stored
}

// Pooled implements Objective.Features and Objective.Logits for a head that reads one feature
// vector per image: the pooled features, [B, width]. The head returns one logit per class, [B, C].
// Embed Pooled in an objective with such a head.
type Pooled struct{}

// Features returns the pooled features, [B, width].
func (Pooled) Features(m *backbone.Model, l backbone.Layers, images *Node) *Node {
	return m.Features(l, images)
}

// Logits returns one logit for each class, [B, C].
func (Pooled) Logits(c backbone.Config, l backbone.Layers, features *Node) *Node {
	return c.Classify(l, features)
}

// TargetSize returns the number of values in the encoded target of one image, the product of
// TargetShape.
func TargetSize(o Objective, c backbone.Config) int {
	n := 1
	for _, d := range o.TargetShape(c) {
		n *= d
	}
	return n
}

// Encode returns the encoded targets of images, in row-major order, of shape
// [len(targets), TargetShape…].
func Encode(o Objective, c backbone.Config, targets []dataset.Target) ([]int32, error) {
	n := TargetSize(o, c)
	out := make([]int32, len(targets)*n)
	for i, t := range targets {
		if err := o.Encode(t, out[i*n:(i+1)*n]); err != nil {
			return nil, fmt.Errorf("encoding the target of image %d of the batch: %w", i+1, err)
		}
	}
	return out, nil
}

var registry = struct {
	sync.RWMutex
	objectives map[string]Objective
}{objectives: map[string]Objective{SingleLabel.Name(): SingleLabel, MultiLabel.Name(): MultiLabel}}

// Register makes an objective available under its name, to [Get] and so to configurations and
// deltas. An empty name and a name that is already registered are errors.
func Register(o Objective) error {
	registry.Lock()
	defer registry.Unlock()
	if o.Name() == "" {
		return errors.New("registering an objective: its name is empty; return a name from its method Name")
	}
	if _, ok := registry.objectives[o.Name()]; ok {
		return fmt.Errorf("registering objective %q: another objective has this name; return another name from its method Name", o.Name())
	}
	registry.objectives[o.Name()] = o
	return nil
}

// Get returns the registered objective with that name; for "" it returns [SingleLabel]. The error
// for an unknown name lists the registered names.
func Get(name string) (Objective, error) {
	if name == "" {
		return SingleLabel, nil
	}
	registry.RLock()
	o, ok := registry.objectives[name]
	registry.RUnlock()
	if !ok {
		return nil, option.Unknown("objective", "objective", name, Names())
	}
	return o, nil
}

// For returns the objective for a data set: [MultiLabel] if its targets are dataset.Labels, and
// else [SingleLabel].
func For(d *dataset.Dataset) Objective {
	for _, samples := range [][]dataset.Sample{d.Train, d.Val, d.Test} {
		if len(samples) > 0 {
			if _, several := samples[0].Target.(dataset.Labels); several {
				return MultiLabel
			}
			return SingleLabel
		}
	}
	return SingleLabel
}

// Check returns an error if the objective cannot read the target of a sample of the data set on the
// backbone c.
func Check(o Objective, c backbone.Config, d *dataset.Dataset) error {
	for _, samples := range [][]dataset.Sample{d.Train, d.Val, d.Test} {
		if len(samples) == 0 {
			continue
		}
		if err := o.Encode(samples[0].Target, make([]int32, TargetSize(o, c))); err != nil {
			return fmt.Errorf("data set %s, %s: %w", d.Name, samples[0].Where, err)
		}
	}
	return nil
}

// Names returns the names of all registered objectives, sorted.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	return slices.Sorted(maps.Keys(registry.objectives))
}
