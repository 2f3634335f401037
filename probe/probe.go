// Package probe fits linear probes: logistic regression with L2 regularisation on the features of a
// frozen backbone. A fit takes seconds, because it reads no image and runs no backbone.
//
// Begin with [Fit]. It fits a path of strengths of L2 and returns the [Probe] that is best on
// held-out images. [Probe.Head] makes the head with which a fine-tuning can start. Options.Problem
// says whether images have [OneLabel] or [SeveralLabels].
//
// # The objective
//
// For image i with the features x_i, Fit minimises
//
//	Σ loss_i / n + L2/2·‖W‖²,   loss_i = loss of W·z_i + b,   z_i = (x_i − mean) / deviation
//
// over W and b. Mean and standard deviation of each feature come from the training images. So the
// probe does not depend on the scale and the offset of a feature, and a strength means the same for
// every backbone. The result holds W and b for the raw features: they contain mean and deviation.
// The objective is convex. L-BFGS finds the minimum.
//
// With OneLabel, loss_i is the softmax cross-entropy of the label, times the weight c_i of its
// class, and n = Σ c_i. The objective is that of scikit-learn's LogisticRegression after
// StandardScaler with
//
//	C = 1 / (L2 · Σ c_i),
//
// so C = 1/(L2·N) for N images without class weights. With two classes, scikit-learn has one vector
// of weights instead of two, and C = 2/(L2·N) gives the same probabilities.
//
// With SeveralLabels, loss_i is the sum over labels of the binary cross-entropy of the sigmoid,
// times the weight of the label if the image has it, as pos_weight of PyTorch's BCEWithLogitsLoss.
// n is the number of images. The labels have nothing in common, so the objective is that of
// scikit-learn's LogisticRegression for each label against the rest, with C = 1/(L2·N). The figures
// of a [Try] are means over pairs of an image and a label.
//
// The files in the order in which data passes through them:
//
//   - probe.go has the options, the checks and the choice of the strength.
//   - problem.go lists what differs between one label and several: softmax.go and sigmoid.go.
//   - split.go holds out training images if there are no validation images.
//   - path.go scales the features and fits one strength after the other.
//   - lbfgs.go minimises, objective.go computes the objective and its gradient in blocks.
//   - head.go makes the head for the start of a fine-tuning.
//
// Matrix products run on all cores through the worker pool of the CPU backend. Results have the
// same bits for any GOMAXPROCS. A fit keeps one scaled copy of the training features, 25 float64
// vectors with the size of the head, and a block of logits of at most 8 MiB.
package probe

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/internal/workers"
)

// Features holds the features of labelled images. Fit and the methods of Probe only read it.
type Features struct {
	// Width is the number of features of an image.
	Width int
	// Values holds the features, [images, Width], row-major.
	Values []float32
	// Labels holds the labels of each image, as Options.Problem defines them.
	Labels []int32
}

// Len returns the number of images.
func (f Features) Len() int {
	if f.Width < 1 {
		return 0
	}
	return len(f.Values) / f.Width
}

// rows returns a copy of the features of the given images.
func (f Features) rows(images []int) Features {
	targets := len(f.Labels) / f.Len()
	out := Features{f.Width, make([]float32, 0, len(images)*f.Width), make([]int32, 0, len(images)*targets)}
	for _, i := range images {
		out.Values = append(out.Values, f.Values[i*f.Width:(i+1)*f.Width]...)
		out.Labels = append(out.Labels, f.Labels[i*targets:(i+1)*targets]...)
	}
	return out
}

// check reports features that do not fit width features and the number of classes. name says which
// images they belong to.
func (f Features) check(name string, p Problem, width, classes int) error {
	targets := p.targets(classes)
	images := len(f.Labels) / targets
	switch {
	case f.Width < 1:
		return fmt.Errorf("%s features have width %d; a width is at least 1", name, f.Width)
	case f.Width != width:
		return fmt.Errorf("%s features have width %d, but %d was expected; compute all features with the same backbone", name, f.Width, width)
	case len(f.Labels) == 0:
		return fmt.Errorf("there are no %s images; give at least one", name)
	case len(f.Labels) != images*targets:
		return fmt.Errorf("%s labels: found %d values, which is no multiple of the %d labels; give a value for each label of each image", name, len(f.Labels), targets)
	case images > math.MaxInt/f.Width || len(f.Values) != images*f.Width:
		return fmt.Errorf("%s features: found %d numbers for %d images of width %d; give width numbers for each image", name, len(f.Values), images, f.Width)
	}
	if err := p.check(f.Labels, classes); err != nil {
		return fmt.Errorf("%s %w", name, err)
	}
	const part = 1 << 16
	bad := make([]bool, (len(f.Values)+part-1)/part)
	workers.Run(len(bad), func(p int, _ *workers.Scratch) {
		bad[p] = !finite(f.Values[p*part : min(len(f.Values), (p+1)*part)])
	})
	if p := slices.Index(bad, true); p >= 0 {
		for i := p * part; ; i++ {
			if !finite(f.Values[i : i+1]) {
				return fmt.Errorf("feature %d of %s image %d is %v; features must be finite", i%f.Width, name, i/f.Width, f.Values[i])
			}
		}
	}
	return nil
}

// Options configures [Fit]. Zero fields take the defaults, except Classes.
type Options struct {
	// Problem is the kind of the labels. The default is [OneLabel].
	Problem Problem
	// Classes is the number of classes or, with several labels, of labels.
	Classes int
	// L2s holds the strengths of L2 that are tried, in any order. All are positive. The default is
	// [DefaultL2s].
	L2s []float64
	// ClassWeights holds a positive weight for each class. A weight multiplies the loss of the
	// images of the class; with several labels, it is the factor for the loss of a label that an
	// image has. It also weighs the held-out images in the choice of the strength. Nil means equal
	// weights.
	ClassWeights []float64
	// Tolerance ends the fit of one strength. The estimated distance to the minimum of the
	// objective is at most this share of the objective. The default is [DefaultTolerance]. With it,
	// the loss and the accuracy on held-out images hardly differ from those at the minimum, and the
	// objective exceeds its minimum by less than 1 %.
	Tolerance float64
	// Iterations is the largest number of iterations of L-BFGS for one strength. The default is
	// [DefaultIterations].
	Iterations int
}

// Defaults of [Options].
const (
	DefaultTolerance  = 1e-4
	DefaultIterations = 300
)

// DefaultL2s returns the strengths that Fit tries by default: 1 to 10⁻⁵ in steps of √10.
func DefaultL2s() []float64 {
	var out []float64
	for e := 0; e >= -10; e-- {
		out = append(out, math.Pow(10, float64(e)/2))
	}
	return out
}

// HeldOut names the images on which the strength of L2 is chosen.
type HeldOut string

const (
	// Validation stands for the validation images.
	Validation HeldOut = "validation"
	// Folds stands for cross-validation on the training images with five folds.
	Folds HeldOut = "5 folds"
	// Tenth stands for a tenth of the training images.
	Tenth HeldOut = "a tenth of the training images"
)

// Try is the result of one strength of L2. Its figures weigh images with the class weights.
type Try struct {
	L2 float64 `json:"l2"`
	// TrainLoss is the mean loss of the training images without the L2 term, averaged over the
	// folds.
	TrainLoss float64 `json:"train_loss"`
	// ValLoss and ValAccuracy are the mean loss and the share of right predictions on the held-out
	// images. With several labels, a prediction is right for each label whose probability is at
	// least 0.5 if the image has it, or below if not.
	ValLoss     float64 `json:"val_loss"`
	ValAccuracy float64 `json:"val_accuracy"`
	// Iterations is the number of iterations of L-BFGS, over all folds.
	Iterations int `json:"iterations"`
	// Converged reports whether the fit reached the tolerance, in all folds.
	Converged bool `json:"converged"`
}

// Probe is a fitted linear probe. It is a linear head on raw features: logits = Weight·x + Bias.
type Probe struct {
	// Problem is the kind of the labels.
	Problem Problem
	// Width is the number of features.
	Width int
	// Weight is [classes, Width], row-major.
	Weight []float32
	// Bias is [classes].
	Bias []float32
	// Try is the result of the chosen strength.
	Try
	// HeldOut names the images on which the strength was chosen. HeldOutLogits, [images, classes],
	// and HeldOutLabels are the predictions and the labels of these images, in the order of the
	// validation images or of the folds. A head that did not see an image predicts it.
	HeldOut       HeldOut
	HeldOutLogits []float32
	HeldOutLabels []int32
	// Tried holds the results of all strengths that were fitted, in descending order of L2.
	Tried []Try

	classWeights []float64
}

// Fit fits a probe for each strength of L2 on the training images, and returns the one with the
// least loss on the validation images. Choosing by accuracy gives test accuracies that differ by
// less than 0.1 points in the mean, but accuracies of a few hundred images have ties, and the loss
// shows earlier that the path can end. With several labels, choosing by the mean average precision
// was not better either: on pairs of sign_digits and of clothing, it changed the test mAP of 100
// training images by -0.5 ± 0.3 and -0.3 ± 0.3 points, of 300 by -0.3 ± 0.1 and +0.3 ± 0.2, and of
// 800 by less than 0.1 (means of ten draws with their standard errors), and raised the test loss.
//
// Strengths are fitted from strong to weak. Each fit starts at the result of the one before. The
// path ends early when three strengths in a row have a greater validation loss than the best.
//
// Without validation images, that is, if val.Labels is empty, Fit holds out training images. Up to
// 2,000 images are cut into five stratified folds. Of more images, a stratified tenth is held out.
// The probe of the chosen strength is then fitted on all training images. A class with a single
// training image is never held out. If every class has a single image, nothing can be held out, and
// Fit returns an error.
//
// A class without training images gets a weight of 0. Its bias makes its mean probability on the
// training images 1/(2N). At least two classes need training images. With several labels, the same
// holds for a label that all training images have, whose absence has this probability. At least one
// label needs training images with and without it.
//
// Errors report features or options that do not fit, or are ctx.Err().
func Fit(ctx context.Context, train, val Features, o Options) (*Probe, error) {
	o, err := o.check()
	if err != nil {
		return nil, fmt.Errorf("fitting a linear probe: %w", err)
	}
	if err = train.check("training", o.Problem, train.Width, o.Classes); err == nil && len(val.Labels)+len(val.Values) > 0 {
		err = val.check("validation", o.Problem, train.Width, o.Classes)
	}
	if err != nil {
		return nil, fmt.Errorf("fitting a linear probe: %w", err)
	}
	p, err := fit(ctx, train, val, o)
	if err != nil {
		return nil, fmt.Errorf("fitting a linear probe: %w", err)
	}
	return p, nil
}

// check returns o with defaults. L2s is in descending order.
func (o Options) check() (Options, error) {
	if o.Problem == nil {
		o.Problem = OneLabel
	}
	if o.Classes < 1 {
		return o, fmt.Errorf("found %d classes; give the number of classes", o.Classes)
	}
	if len(o.L2s) == 0 {
		o.L2s = DefaultL2s()
	}
	o.L2s = slices.Clone(o.L2s)
	slices.SortFunc(o.L2s, func(a, b float64) int {
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	o.L2s = slices.Compact(o.L2s)
	for _, v := range o.L2s {
		if !(v > 0 && v <= math.MaxFloat32) {
			return o, fmt.Errorf("found the strength %v of L2; strengths are positive numbers", v)
		}
	}
	if o.ClassWeights != nil {
		if len(o.ClassWeights) != o.Classes {
			return o, fmt.Errorf("found %d class weights for %d classes; give one for each class", len(o.ClassWeights), o.Classes)
		}
		for class, v := range o.ClassWeights {
			if !(v > 0 && !math.IsInf(v, 0)) {
				return o, fmt.Errorf("class %d has weight %v; weights are positive numbers", class, v)
			}
		}
		o.ClassWeights = slices.Clone(o.ClassWeights)
	}
	if o.Tolerance == 0 {
		o.Tolerance = DefaultTolerance
	}
	if !(o.Tolerance > 0) {
		return o, fmt.Errorf("found the tolerance %v; a tolerance is a positive number", o.Tolerance)
	}
	if o.Iterations == 0 {
		o.Iterations = DefaultIterations
	}
	if o.Iterations < 0 {
		return o, fmt.Errorf("found %d iterations; give a positive number", o.Iterations)
	}
	return o, nil
}

// patience is the number of strengths in a row with a greater loss than the best that end the path.
const patience = 3

// fit fits the path for checked arguments.
func fit(ctx context.Context, train, val Features, o Options) (*Probe, error) {
	splits, heldOut, err := splitsOf(train, val, o)
	if err != nil {
		return nil, err
	}
	paths := make([]*path, len(splits))
	for i, s := range splits {
		if paths[i], err = newPath(s.train, o); err != nil {
			return nil, err
		}
	}
	p := &Probe{Problem: o.Problem, Width: train.Width, HeldOut: heldOut, classWeights: o.ClassWeights}
	best := -1
	var chosen []head // of the best strength, one for each split
	for at, l2 := range o.L2s {
		try := Try{L2: l2, Converged: true}
		var total measure
		heads := make([]head, len(splits))
		for i, s := range splits {
			out, err := paths[i].step(ctx, l2)
			if err != nil {
				return nil, err
			}
			try.TrainLoss += paths[i].loss() / float64(len(splits)*o.Problem.targets(o.Classes))
			try.Iterations += out.iterations
			try.Converged = try.Converged && out.converged
			if heads[i], err = paths[i].head(ctx); err != nil {
				return nil, err
			}
			m, err := heads[i].measure(ctx, o.Problem, s.val, o.ClassWeights)
			if err != nil {
				return nil, err
			}
			total.add(m)
		}
		try.ValLoss, try.ValAccuracy = total.mean(), total.accuracy()
		if math.IsNaN(try.ValLoss) || math.IsInf(try.ValLoss, 0) {
			return nil, fmt.Errorf("the held-out loss is %v for the strength %v of L2; features of held-out images differ too much from those of training images", try.ValLoss, l2)
		}
		p.Tried = append(p.Tried, try)
		if best < 0 || try.ValLoss < p.Tried[best].ValLoss {
			best = at
			p.Try, chosen = try, heads
		} else if at-best == patience {
			break
		}
	}
	for i, s := range splits {
		logits, err := chosen[i].logits(ctx, s.val)
		if err != nil {
			return nil, err
		}
		p.HeldOutLogits, p.HeldOutLabels = append(p.HeldOutLogits, logits...), append(p.HeldOutLabels, s.val.Labels...)
	}
	if heldOut == Validation {
		p.Weight, p.Bias = chosen[0].weight, chosen[0].bias
		return p, nil
	}
	whole, err := newPath(train, o)
	if err != nil {
		return nil, err
	}
	if _, err := whole.step(ctx, p.L2); err != nil {
		return nil, err
	}
	h, err := whole.head(ctx)
	p.Weight, p.Bias = h.weight, h.bias
	return p, err
}

// Classes returns the number of classes.
func (p *Probe) Classes() int { return len(p.Bias) }

// Logits returns the logits, [images, classes], of features [images, width].
func (p *Probe) Logits(ctx context.Context, values []float32) ([]float32, error) {
	if len(values)%p.Width != 0 {
		return nil, fmt.Errorf("computing logits: found %d features; give a multiple of the width %d", len(values), p.Width)
	}
	return head{p.Weight, p.Bias}.logits(ctx, Features{Width: p.Width, Values: values})
}

// Evaluate returns the share of right predictions and the mean loss of labelled images, as for a
// [Try]. Class weights have no influence.
func (p *Probe) Evaluate(ctx context.Context, f Features) (accuracy, loss float64, err error) {
	if err := f.check("evaluated", p.Problem, p.Width, p.Classes()); err != nil {
		return 0, 0, fmt.Errorf("evaluating a linear probe: %w", err)
	}
	m, err := head{p.Weight, p.Bias}.measure(ctx, p.Problem, f, nil)
	if err != nil {
		return 0, 0, err
	}
	return m.accuracy(), m.mean(), nil
}
