package spt

import (
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Restore returns the result of an earlier training: the delta d on its backbone m. With a nil d it
// returns m with the head of its own checkpoint, as after a merge. A delta of another backbone and
// a checkpoint without a head are a [*run.InputError].
func Restore(m *backbone.Model, d *delta.Delta) (*Trained, error) {
	if d != nil {
		if err := d.Check(m); err != nil {
			return nil, &run.InputError{Err: err}
		}
		tuning, err := peft.New(d.Config, d.Selection)
		if err != nil {
			return nil, err
		}
		o, err := objective.Get(d.Objective)
		return &Trained{Objective: o, Tuning: tuning, Tuned: d.Tuned}, err
	}
	tuning, err := peft.New(m.Config, peft.Selection{})
	if err != nil {
		return nil, err
	}
	head := checkpoint.StateDict{}
	for _, p := range tuning.Params {
		w, ok := m.Weights[p.Name]
		if !ok {
			return nil, &run.InputError{Err: fmt.Errorf("backbone %s was loaded without its head %s, so it cannot predict; give a delta, or a checkpoint with a head", m.Path, p.Name)}
		}
		head[p.Name] = w
	}
	return &Trained{Objective: objective.SingleLabel, Tuning: tuning, Tuned: head}, nil
}

// Classifier predicts the classes of images.
type Classifier struct {
	Classes   []string          // names of the classes, in the order of the head's rows
	Transform dataset.Transform // how an image becomes the input of the backbone

	be        backend.Backend
	predictor *train.Predictor
}

// NewClassifier prepares a backbone with tuned weights on a backend, nil for the processor. classes
// names the head's rows; nil numbers them. Close releases it.
func NewClassifier(be backend.Backend, m *backbone.Model, tuned *Trained, classes []string, t dataset.Transform) (_ *Classifier, err error) {
	if be == nil {
		if be, _, err = backend.Open("cpu", 1); err != nil {
			return nil, err
		}
	}
	if classes == nil {
		for i := range m.Config.NumClasses {
			classes = append(classes, fmt.Sprint(i))
		}
	}
	if len(classes) != m.Config.NumClasses {
		return nil, &run.InputError{Err: fmt.Errorf("there are %d class names for a head of %d rows", len(classes), m.Config.NumClasses)}
	}
	if err := t.Validate(); err != nil {
		return nil, optionError(err)
	}
	p, err := train.NewPredictor(be, m, tuned.Objective, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return nil, err
	}
	return &Classifier{Classes: classes, Transform: t, be: be, predictor: p}, nil
}

// Close releases the tensors that the classifier holds on the device.
func (c *Classifier) Close() { c.predictor.Close() }

// Prediction holds the most probable classes of one image.
type Prediction struct {
	Path string        // of the image
	Top  []Probability // most probable class first; of equal ones the lower index
	Err  error         // why the image could not be read; Top is empty then
}

// Probability is the softmax of the logits at one class.
type Probability struct {
	Class       string  `json:"class"`
	Index       int     `json:"index"` // row of the head
	Probability float64 `json:"probability"`
}

// Predict yields the topK most probable classes of each image file, in order. An image that cannot
// be read yields a Prediction with Err and does not end the sequence. An error of the sequence
// itself, such as that of ctx, ends it.
func (c *Classifier) Predict(ctx context.Context, files []string, topK int) iter.Seq2[Prediction, error] {
	const batchSize = 32
	return func(yield func(Prediction, error) bool) {
		for batch := range slices.Chunk(files, batchSize) {
			predictions, err := c.batch(ctx, batch, topK)
			if err != nil {
				yield(Prediction{}, fmt.Errorf("predicting: %w", err))
				return
			}
			for _, p := range predictions {
				if !yield(p, nil) {
					return
				}
			}
		}
	}
}

func (c *Classifier) batch(ctx context.Context, files []string, topK int) ([]Prediction, error) {
	out := make([]Prediction, len(files))
	samples := make([]dataset.Sample, len(files))
	for i, path := range files {
		samples[i].Path = path
	}
	pixels, errs := readImages(c.Transform, samples)
	var good []int
	var flat []uint8
	for i, path := range files {
		out[i] = Prediction{Path: path, Err: errs[i]}
		if errs[i] == nil {
			good = append(good, i)
			flat = append(flat, pixels[i]...)
		}
	}
	if len(good) == 0 {
		return out, ctx.Err()
	}
	images, err := program.Tensor(c.be, flat, len(good), c.Transform.Size, c.Transform.Size, 3)
	if err != nil {
		return nil, err
	}
	defer program.Free(images)
	logits, err := c.predictor.Logits(ctx, images)
	if err != nil {
		return nil, err
	}
	if n := len(good) * len(c.Classes); len(logits) != n {
		return nil, fmt.Errorf("the objective gives %d logits for %d images, expected %d: one for each class; it does not classify images", len(logits), len(good), n)
	}
	for row, i := range good {
		out[i].Top = c.top(logits[row*len(c.Classes):][:len(c.Classes)], topK)
	}
	return out, nil
}

// top returns the k largest values of the softmax.
func (c *Classifier) top(logits []float32, k int) []Probability {
	largest := float64(slices.Max(logits))
	sum := 0.0
	all := make([]Probability, len(logits))
	for i, v := range logits {
		e := math.Exp(float64(v) - largest)
		sum += e
		all[i] = Probability{c.Classes[i], i, e}
	}
	slices.SortStableFunc(all, func(a, b Probability) int {
		switch {
		case a.Probability > b.Probability:
			return -1
		case a.Probability < b.Probability:
			return 1
		}
		return 0
	})
	all = all[:min(k, len(all))]
	for i := range all {
		all[i].Probability /= sum
	}
	return all
}

// readImages reads images at the same time. Each image has its pixels or its error.
func readImages(t dataset.Transform, samples []dataset.Sample) (pixels [][]uint8, errs []error) {
	pixels, errs = make([][]uint8, len(samples)), make([]error, len(samples))
	var g errgroup.Group
	// A decoded photograph takes about 50 MB.
	g.SetLimit(4)
	for i, s := range samples {
		g.Go(func() error {
			pixels[i], errs[i] = t.SamplePixels(s)
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	return pixels, errs
}

// Probes returns images, [n, Size, Size, 3], on which a merge is checked: random pixels, the same
// every time, and samples, whose targets do not matter. Samples that cannot be read are skipped;
// unreadable holds the reasons. If no sample can be read, the error is a [*run.InputError].
func Probes(t dataset.Transform, random int, samples []dataset.Sample) (pixels []uint8, unreadable []error, err error) {
	pixels = make([]uint8, random*t.Size*t.Size*3)
	_, _ = rand.NewChaCha8([32]byte{}).Read(pixels) // never fails
	read, errs := readImages(t, samples)
	for i, err := range errs {
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		pixels = append(pixels, read[i]...)
	}
	if n := len(unreadable); n > 0 && n == len(samples) {
		return nil, nil, &run.InputError{Err: fmt.Errorf("none of %d images can be read; the first one: %w", n, unreadable[0])}
	}
	return pixels, unreadable, nil
}
