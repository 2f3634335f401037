package spt

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Restore returns the tuned parameters of the delta d, for its backbone m. If d is nil, Restore
// returns only the head that the checkpoint of m has, such as the head of a merged checkpoint. A
// delta of another backbone and a checkpoint without a head are a [*run.InputError].
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
			return nil, &run.InputError{Err: fmt.Errorf("backbone %s was loaded without the head tensor %s, so it cannot predict; give a delta, or a checkpoint with a head", m.Path, p.Name)}
		}
		head[p.Name] = w
	}
	return &Trained{Objective: objective.SingleLabel, Tuning: tuning, Tuned: head}, nil
}

// Classifier predicts the classes of images. [NewClassifier] makes a Classifier; Close releases it.
type Classifier struct {
	Classes []string // names of the classes, in the order of the rows of the head
	// Transform resizes an image to the input size of the backbone. With TestFlip, a prediction is
	// that of the mean of the logits of an image and its mirror image.
	Transform dataset.Transform
	// Posthoc says how probabilities and labels follow from the logits. That of the delta
	// calibrates the probabilities and has the thresholds of the labels; see delta.Delta. The zero
	// value keeps the probabilities of the model, with evaluate.DefaultThreshold for all labels. No
	// temperature changes the order of the classes, and no calibration the predicted labels.
	evaluate.Posthoc
	// RejectBelow is the probability of the most probable class, from 0 to below 1, below which an
	// image is unknown. The probability depends on Temperature. Default: 0, and no image is
	// unknown.
	RejectBelow float64
	// SeveralLabels reports whether an image may have any number of labels. The probability of a
	// label is then the sigmoid of its logit. NewClassifier sets it by the objective.
	SeveralLabels bool

	be        backend.Backend
	predictor *train.Predictor
}

// NewClassifier returns a Classifier that computes on be with the backbone m and its tuned
// parameters. A nil be means the CPU. classes holds the name of each class, in the order of the
// rows of the head; nil numbers the classes from 0. t must be the transform with which the images
// were evaluated; see delta.Delta.ImageTransform. Call Close when the Classifier is no longer
// needed.
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
		return nil, &run.InputError{Err: fmt.Errorf("%d class names were given for a head of %d classes; give one name for each class", len(classes), m.Config.NumClasses)}
	}
	if err := t.Validate(); err != nil {
		return nil, optionError(err)
	}
	p, err := train.NewPredictor(be, m, tuned.Objective, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return nil, err
	}
	return &Classifier{Classes: classes, Transform: t, SeveralLabels: objective.SeveralLabels(tuned.Objective, m.Config), be: be, predictor: p}, nil
}

// Close releases the memory that the classifier holds on the device.
func (c *Classifier) Close() { c.predictor.Close() }

// Prediction holds the most probable classes of one image.
type Prediction struct {
	Path string        // path of the image, as in dataset.Sample.Path
	Top  []Probability // largest logit first; classes with equal logits in the order of their index
	// Unknown reports whether the most probable class is less probable than Classifier.RejectBelow.
	// Top holds the classes all the same.
	Unknown bool
	// Labels holds the labels whose probabilities are at least their thresholds, most probable
	// first. It is nil unless an image may have several labels.
	Labels []Probability
	Err    error // why the image could not be read, with Top empty; nil: the image was read
}

// Probability is the predicted probability of one class: the softmax of the logits, divided by the
// temperature of the Classifier, at that class. With several labels it is the sigmoid of the logit.
type Probability struct {
	Class       string  `json:"class"`       // name of the class
	Index       int     `json:"index"`       // row of the head, from 0
	Probability float64 `json:"probability"` // from 0 to 1
	// Threshold is the probability from which the label is predicted. It is 0 unless an image may
	// have several labels.
	Threshold float64 `json:"threshold,omitempty"`
}

// Predict yields a Prediction for each image file, in the order of files, with the topK most
// probable classes. An image that cannot be read yields a Prediction with Err set, and the sequence
// continues. Any other error, such as the error of a cancelled ctx or a logit that is not finite,
// ends the sequence. topK must be at least 1; there may be fewer classes.
func (c *Classifier) Predict(ctx context.Context, files []string, topK int) iter.Seq2[Prediction, error] {
	samples := make([]dataset.Sample, len(files))
	for i, path := range files {
		samples[i].Path = path
	}
	return c.PredictSamples(ctx, samples, topK)
}

// PredictSamples is [Classifier.Predict] for samples, whose images may be in archives; their
// targets are not used.
func (c *Classifier) PredictSamples(ctx context.Context, samples []dataset.Sample, topK int) iter.Seq2[Prediction, error] {
	const batchSize = 32
	return func(yield func(Prediction, error) bool) {
		if err := c.checkOptions(topK); err != nil {
			yield(Prediction{}, fmt.Errorf("predicting: %w", err))
			return
		}
		for batch := range slices.Chunk(samples, batchSize) {
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

// checkOptions returns an error if topK, the temperature or RejectBelow is out of range.
func (c *Classifier) checkOptions(topK int) error {
	switch {
	case topK < 1:
		return optionError(option.Errorf("top-k", "top-k %d: expected at least 1 class", topK))
	case c.SeveralLabels && c.RejectBelow != 0:
		return optionError(option.Errorf("reject-below", "a rejection compares the probability of the one label of an image, but the classifier predicts several labels, each by its own threshold; leave it out"))
	case c.Check(len(c.Classes), c.SeveralLabels) != nil:
		return optionError(c.Check(len(c.Classes), c.SeveralLabels))
	case !(c.RejectBelow >= 0 && c.RejectBelow < 1):
		return optionError(option.Errorf("reject-below", "rejection below the probability %v: expected a number from 0 to below 1; 0 rejects no image", c.RejectBelow))
	}
	return nil
}

// batch predicts the classes of one mini-batch of images.
func (c *Classifier) batch(ctx context.Context, samples []dataset.Sample, topK int) ([]Prediction, error) {
	out := make([]Prediction, len(samples))
	pixels, errs := readImages(c.Transform, samples)
	var good []int
	var read []string
	var flat []uint8
	for i, s := range samples {
		out[i] = Prediction{Path: s.Path, Err: errs[i]}
		if errs[i] == nil {
			good, read = append(good, i), append(read, s.Path)
			flat = append(flat, pixels[i]...)
		}
	}
	if len(good) == 0 {
		return out, ctx.Err()
	}
	logits, err := c.logits(ctx, flat, len(good))
	if err != nil {
		return nil, err
	}
	if c.SeveralLabels {
		p := evaluate.LabelPredictions{Classes: c.Classes}
		unknown := make([]int32, len(logits))
		if err := p.Add(read, unknown, logits); err != nil {
			return nil, err
		}
		for row, i := range good {
			c.addLabels(&out[i], logits[row*len(c.Classes):(row+1)*len(c.Classes)], topK)
		}
		return out, nil
	}
	p := evaluate.Predictions{Classes: c.Classes}
	if err := p.Add(read, slices.Repeat([]int32{evaluate.Unknown}, len(read)), logits); err != nil {
		return nil, err
	}
	for row, r := range p.Ranked(topK, cmp.Or(c.Temperature, 1)) {
		top := make([]Probability, len(r.Top))
		for rank, t := range r.Top {
			top[rank] = Probability{Class: c.Classes[t.Class], Index: t.Class, Probability: t.Probability}
		}
		out[good[row]].Top, out[good[row]].Unknown = top, r.Confidence() < c.RejectBelow
	}
	return out, nil
}

// addLabels adds the labels of an image and the topK most probable ones. logits are those of the
// image, one for each label.
func (c *Classifier) addLabels(p *Prediction, logits []float32, topK int) {
	p.Labels = []Probability{}
	for rank, l := range evaluate.RankedLabels(logits, c.Thresholds, c.LabelCalibration) {
		named := Probability{c.Classes[l.Class], l.Class, l.Probability, l.Threshold}
		if l.Predicted {
			p.Labels = append(p.Labels, named)
		}
		if rank < topK {
			p.Top = append(p.Top, named)
		}
	}
}

// logits returns the logits of n images, [n, classes] row-major. pixels is [n, Size, Size, 3].
func (c *Classifier) logits(ctx context.Context, pixels []uint8, n int) ([]float32, error) {
	images, err := program.Tensor(c.be, pixels, n, c.Transform.Size, c.Transform.Size, 3)
	if err != nil {
		return nil, err
	}
	defer program.Free(images)
	predict := c.predictor.Logits
	if c.Transform.TestFlip {
		predict = c.predictor.MirroredLogits
	}
	logits, err := predict(ctx, images)
	if err != nil {
		return nil, err
	}
	if want := n * len(c.Classes); len(logits) != want {
		return nil, fmt.Errorf("the objective returned %d logits for %d images, expected %d: one for each class of each image; use a delta whose objective classifies whole images", len(logits), n, want)
	}
	return logits, nil
}

// readImages reads images in parallel. For each sample it returns either the pixels or an error.
func readImages(t dataset.Transform, samples []dataset.Sample) (pixels [][]uint8, errs []error) {
	pixels, errs = make([][]uint8, len(samples)), make([]error, len(samples))
	var g errgroup.Group
	// Few at a time: a decoded photograph takes about 50 MB.
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

// Probes returns the pixels of images on which [delta.Delta.Merge] compares logits,
// [n, Size, Size, 3]. The first images have random pixels, which are the same in every call; random
// is their number. The images of samples follow; their targets are not used. Samples that cannot be
// read are skipped, and unreadable holds their errors. If no sample can be read, err is a
// [*run.InputError].
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
		return nil, nil, &run.InputError{Err: fmt.Errorf("none of the %d images can be read; the first error: %w", n, unreadable[0])}
	}
	return pixels, unreadable, nil
}
