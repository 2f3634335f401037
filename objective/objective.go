// Package objective defines what a task optimises: how the target of an image enters the graph, the
// loss, and the metrics.
//
// An [Objective] stands between the data set, which reads targets, and the graph. Package
// sensitivity scores weights by its loss; package train minimises the loss and reports the metrics.
// [SingleLabel] is the objective of images with one label each.
//
// An objective of your own is one type. Embed [Pooled] if the head reads one feature vector per
// image, write the other methods of Objective, and call [Register]. Neither the planner nor the
// structured modules nor the training loop need to know it.
package objective

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
)

// Objective is what a task optimises. An Objective holds no state: one value serves many runs at
// the same time. Its methods on graph nodes build the graph and may panic, as GoMLX does.
type Objective interface {
	// Name returns the name under which run folders and deltas record the objective.
	Name() string
	// TargetShape returns the shape of the encoded target of one image, without the batch axis. An
	// empty shape is one number. A shape of two axes is a map of the image, [rows, columns]: images
	// with such targets cannot be cropped or flipped at random, because the map would stay in
	// place.
	TargetShape(c backbone.Config) []int
	// Encode writes the target of one image to dst, row-major, which has as many values as
	// TargetShape and holds zeros. It reports a target of a kind that the objective does not read.
	Encode(target dataset.Target, dst []int32) error
	// Features returns what the head reads, [B, …, width], for images as Model.Features takes them:
	// pooled features, or a map of features from Model.FeatureMap. Where only the head is tuned and
	// features have the shape [B, width], they are computed once for each image instead of once in
	// each epoch.
	Features(m *backbone.Model, l backbone.Layers, images *Node) *Node
	// Logits returns the outputs of the head, [B, …], for features as Features returns them.
	Logits(c backbone.Config, l backbone.Layers, features *Node) *Node
	// Loss returns the loss of a batch, a float32 scalar, for logits as Logits returns them and
	// encoded targets, int32 [B, TargetShape…]. It must be the mean of a loss of each image: a
	// batch may be computed in pieces, whose losses are averaged with their numbers of images as
	// weights.
	Loss(logits, targets *Node) *Node
	// Correct returns which share of each image is predicted right, float32 [B], from 0 to 1, for
	// the arguments of Loss. Its mean over an epoch is the training accuracy.
	Correct(logits, targets *Node) *Node
	// NewMetrics returns the metrics of a split, which no image has been added to.
	NewMetrics(c backbone.Config) Metrics
}

// Metrics accumulates the predictions of a split, so that metrics need not be means over images.
type Metrics interface {
	// Add adds further images: their logits and encoded targets, both row-major with the batch axis
	// first. It reports a target that does not fit the head.
	Add(logits []float32, targets []int32) error
	// Evaluation returns the metrics of all images added so far.
	Evaluation() Evaluation
}

// Evaluation tells how well the predictions of a split match its targets.
type Evaluation struct {
	// Images is the number of images in the split.
	Images int `json:"images"`
	// Accuracy is the metric by which a run chooses between candidates, from 0 to 1; more is
	// better. For SingleLabel it is the share of images whose largest logit is that of the label.
	Accuracy float64 `json:"accuracy"`
	// Loss is the mean loss of an image.
	Loss float64 `json:"loss"`
	// Classes counts the images of each class. It is empty if the objective does not count them.
	Classes []ClassCount `json:"classes,omitempty"`
	// Metrics holds further metrics of the objective by name, such as "map" or "miou".
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// ClassCount counts the images of one class.
type ClassCount struct {
	Images  int `json:"images"`  // images with this label
	Correct int `json:"correct"` // images of these that are predicted right
}

// Pooled reads one feature vector per image: the pooled features, [B, width], and one logit per
// class, [B, C]. Embed it in an objective that needs nothing else.
type Pooled struct{}

// Features returns the pooled features, [B, width].
func (Pooled) Features(m *backbone.Model, l backbone.Layers, images *Node) *Node {
	return m.Features(l, images)
}

// Logits returns one logit for each class, [B, C].
func (Pooled) Logits(c backbone.Config, l backbone.Layers, features *Node) *Node {
	return c.Classify(l, features)
}

// TargetSize returns the number of values in the encoded target of one image.
func TargetSize(o Objective, c backbone.Config) int {
	n := 1
	for _, d := range o.TargetShape(c) {
		n *= d
	}
	return n
}

// Encode returns the encoded targets of images, row-major, of shape [len(targets), TargetShape…].
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
}{objectives: map[string]Objective{SingleLabel.Name(): SingleLabel}}

// Register makes an objective known under its name. It reports a name that is empty or taken.
func Register(o Objective) error {
	registry.Lock()
	defer registry.Unlock()
	if o.Name() == "" {
		return errors.New("registering an objective: it has no name; return one from Name")
	}
	if _, ok := registry.objectives[o.Name()]; ok {
		return fmt.Errorf("registering objective %q: the name is taken; return another one from Name", o.Name())
	}
	registry.objectives[o.Name()] = o
	return nil
}

// Get returns the objective of that name; "" stands for [SingleLabel]. The error lists the
// registered names.
func Get(name string) (Objective, error) {
	if name == "" {
		return SingleLabel, nil
	}
	registry.RLock()
	o, ok := registry.objectives[name]
	registry.RUnlock()
	if !ok {
		return nil, fmt.Errorf("objective %q is unknown; known: %s", name, strings.Join(Names(), ", "))
	}
	return o, nil
}

// Names returns the names of all registered objectives, sorted.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	return slices.Sorted(maps.Keys(registry.objectives))
}
