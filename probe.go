package spt

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/probe"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// A linear probe is a head that is fitted to the features of the frozen backbone. It takes seconds,
// because each image passes through the backbone once. Its accuracy is the floor of a tuning, and
// its head is a better start than a random one: the first gradients then come from the images that
// the features do not separate.

// featureBatch is the number of images whose features are computed at once.
const featureBatch = 64

// fitted is the linear probe of a run.
type fitted struct {
	result  *run.Candidate
	trained *Trained // its head
	// test is the evaluation of the probe on the test images; nil before testProbe
	test *objective.Evaluation
	// the features of the training and the validation images; empty in a resumed run
	in, val probe.Features
	// the head with a bounded norm, with which scoring and training start
	start checkpoint.StateDict
}

// probes reports whether a linear probe can fit the head of the task.
func (t *Task) probes() bool {
	_, ok := t.objective.(objective.Probed)
	return ok
}

// checkProbe returns an error if no linear probe can fit the head of the task.
func (t *Task) checkProbe() error {
	if !t.probes() {
		return option.Errorf("probe-head", "no linear probe can fit the head of the objective %s, which does not state its problem (objective.Probed); leave the probe out", t.objective.Name())
	}
	return nil
}

// probeOptions returns the options of the linear probe of a run with the training options o, for a
// task that probes. The probe has the class weights of the training.
func (t *Task) probeOptions(o train.Options) (probe.Options, error) {
	o, err := t.weighClasses(o)
	if err != nil {
		return probe.Options{}, err
	}
	return probe.Options{Problem: t.objective.(objective.Probed).Problem(), Classes: len(t.data.Classes), ClassWeights: o.Weights()}, nil
}

// fitProbe fits a linear probe. It also returns the metrics of the held-out images.
func (t *Task) fitProbe(ctx context.Context, in, val probe.Features, o train.Options) (*probe.Probe, objective.Evaluation, error) {
	options, err := t.probeOptions(o)
	if err != nil {
		return nil, objective.Evaluation{}, err
	}
	p, err := probe.Fit(ctx, in, val, options)
	if err != nil {
		return nil, objective.Evaluation{}, err
	}
	metrics := t.objective.NewMetrics(t.model.Config)
	err = metrics.Add(p.HeldOutLogits, p.HeldOutLabels)
	return p, metrics.Evaluation(), err
}

// frozen returns a predictor of the backbone without tuned parameters, with a new head. The caller
// closes it.
func (t *Task) frozen() (*train.Predictor, error) {
	tuning, err := peft.New(t.model.Config, peft.Selection{})
	if err != nil {
		return nil, err
	}
	return train.NewPredictor(t.be, t.model, t.objective, tuning, tuning.Init(0, peft.PaperScheme, t.model.Weights))
}

// featureChunk is the number of images after which a computation of features looks at the time.
const featureChunk = 256

// features returns the features of the frozen backbone for the training and the validation images.
// It also measures the speed of the forward pass. If the images may take longer than until, it
// reads the training images in random order after the validation images, and leaves out those that
// come after this time. A zero until is no limit.
//
// features skips broken images; see SkipBroken.
func (t *Task) features(ctx context.Context, until time.Time, report progress.Func) (in, val probe.Features, err error) {
	err = t.skipping(ctx, report, []string{"train", "val"}, func() (err error) {
		in, val, err = t.featuresOnce(ctx, until, report)
		return err
	})
	return in, val, err
}

// featuresOnce is features for images that can all be decoded.
func (t *Task) featuresOnce(ctx context.Context, until time.Time, report progress.Func) (in, val probe.Features, err error) {
	p, err := t.frozen()
	if err != nil {
		return in, val, err
	}
	defer p.Close()
	total := len(t.data.Train) + len(t.data.Val)
	began, read, targets := time.Now(), 0, objective.TargetSize(t.objective, t.model.Config)
	add := func(images *train.Data, to *probe.Features) error {
		values, labels, err := p.ReadFeatures(ctx, images, featureBatch, func(e progress.Event) {
			e.Done, e.Total = e.Done+int64(read), int64(total)
			report.Report(e)
		})
		if err != nil {
			return fmt.Errorf("computing the features of the images: %w", err)
		}
		n := images.Len()
		if len(labels) != n*targets {
			return fmt.Errorf("computing the features of %d images: the backbone gives no feature vector for an image", n)
		}
		to.Width, to.Values, to.Labels = len(values)/n, append(to.Values, values...), append(to.Labels, labels...)
		read += n
		return nil
	}
	if until.IsZero() || t.forward > 0 && time.Until(until) > 2*t.forward*time.Duration(total) {
		// the final training reads both, so a device keeps them together
		if err := add(t.images(t.eval, t.data.Train, t.data.Val), &in); err != nil {
			return in, val, err
		}
		n := len(t.data.Train)
		val = probe.Features{Width: in.Width, Values: in.Values[n*in.Width:], Labels: in.Labels[n*targets:]}
		in.Values, in.Labels = in.Values[:n*in.Width:n*in.Width], in.Labels[:n*targets:n*targets]
	} else {
		if len(t.data.Val) > 0 {
			err = add(t.images(t.eval, t.data.Val, nil), &val)
		}
		for chunk := range slices.Chunk(shuffled(t.data.Train), featureChunk) {
			if err != nil || in.Len() > 0 && time.Now().After(until) {
				break
			}
			err = add(t.images(t.eval, chunk, nil), &in)
		}
		if err != nil {
			return in, val, err
		}
	}
	// features that were computed before take no time
	if each := time.Since(began) / time.Duration(read); each > t.forward/2 {
		t.forward = each
	}
	return in, val, nil
}

// shuffled returns the samples in a random order, which is always the same.
func shuffled(samples []dataset.Sample) []dataset.Sample {
	out := slices.Clone(samples)
	rand.New(rand.NewPCG(0, 0)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// probe fits a linear probe on the training images and keeps it in folder, as a delta with a
// result. If the folder holds a finished probe, probe reads it. o holds the options of the
// training; until is as for features.
func (t *Task) probe(ctx context.Context, folder run.Folder, o train.Options, until time.Time, report progress.Func) (*fitted, error) {
	result, err := run.LoadResult[run.Candidate](folder)
	if err != nil {
		return nil, err
	}
	if result != nil {
		d, err := delta.Load(string(folder))
		if err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("resuming the run: reading its linear probe: %w; remove the folder %s to fit the probe again", err, folder)}
		}
		trained, err := Restore(t.model, d)
		if err != nil {
			return nil, err
		}
		return &fitted{result: result, trained: trained, start: scaled(trained.Tuned, result.HeadScale)}, nil
	}
	f, p, held, err := t.newProbe(ctx, o, until, report)
	if err != nil {
		return nil, err
	}
	result = f.result
	if f.val.Len() > 0 {
		predictions, sink := t.predictions(t.data.Val)
		result.ValMetric = o.Select.Stored(held)
		if err = sink(p.HeldOutLogits, p.HeldOutLabels); err == nil {
			err = validate(predictions, o, result)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(string(folder), 0o777); err != nil {
		return nil, fmt.Errorf("making the folder of the linear probe: %w", err)
	}
	d := t.Delta(method.Linear, f.trained, nil, map[string]float64{"val_accuracy": result.ValAccuracy})
	d.Posthoc = result.Posthoc
	if err := d.Save(string(folder)); err != nil {
		return nil, err
	}
	if err := run.SaveResult(folder, result); err != nil {
		return nil, err
	}
	report.Report(progress.Event{Stage: progress.Probe, Detail: result})
	return f, nil
}

// newProbe fits a linear probe to the features of the images. It also returns the probe with the
// logits of the held-out images, and their metrics. o and until are as for probe.
func (t *Task) newProbe(ctx context.Context, o train.Options, until time.Time, report progress.Func) (*fitted, *probe.Probe, objective.Evaluation, error) {
	began := time.Now()
	var held objective.Evaluation
	in, val, err := t.features(ctx, until, report)
	if err != nil {
		return nil, nil, held, err
	}
	p, held, err := t.fitProbe(ctx, in, val, o)
	if err != nil {
		return nil, nil, held, err
	}
	head, err := p.Head(ctx, in)
	if err != nil {
		return nil, nil, held, err
	}
	trained, err := t.headOf(p)
	if err != nil {
		return nil, nil, held, err
	}
	result := &run.Candidate{Counts: trained.Tuning.Counts, ValAccuracy: held.Accuracy, ValLoss: held.Loss, L2: p.L2, HeadScale: head.Scale, Seconds: time.Since(began).Seconds()}
	return &fitted{result: result, trained: trained, in: in, val: val, start: scaled(trained.Tuned, head.Scale)}, p, held, nil
}

// isProbe reports whether the linear probe of the run is the training of t: t tunes only the head.
func (r *runner) isProbe(t *peft.Tuning) bool {
	return r.probed != nil && t.Counts.Tuned() == 0 && t.Selection.MLPHead == 0
}

// trainedProbe returns the probe as the training of a head. With o.WithVal it fits the probe again,
// on the training and validation images together, with the same regularisation.
func (r *runner) trainedProbe(ctx context.Context, folder run.Folder, o TrainOptions) (*Trained, error) {
	began := time.Now()
	var err error
	in, val := r.probed.in, r.probed.val
	if in.Len() == 0 {
		if in, val, err = r.features(ctx, time.Time{}, nil); err != nil {
			return nil, err
		}
	}
	head := r.model.Config.Head()
	options, err := r.probeOptions(r.o.Train)
	if err != nil {
		return nil, err
	}
	p := &probe.Probe{Problem: options.Problem, Width: in.Width, Weight: r.probed.trained.Tuned[head+".weight"].Data, Bias: r.probed.trained.Tuned[head+".bias"].Data}
	e := train.Epoch{Epoch: 1}
	switch {
	case o.WithVal:
		in.Values, in.Labels = slices.Concat(in.Values, val.Values), slices.Concat(in.Labels, val.Labels)
		options.L2s = []float64{r.probed.result.L2}
		if p, err = probe.Fit(ctx, in, probe.Features{}, options); err != nil {
			return nil, err
		}
	case val.Len() > 0:
		e.ValLoss, e.ValAccuracy, e.ValMetric = r.probed.result.ValLoss, r.probed.result.ValAccuracy, r.probed.result.ValMetric
		if o.ValSink != nil {
			logits, err := p.Logits(ctx, val.Values)
			if err == nil {
				err = o.ValSink(logits, val.Labels)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	if e.TrainAccuracy, e.TrainLoss, err = p.Evaluate(ctx, in); err != nil {
		return nil, err
	}
	trained, err := r.headOf(p)
	if err != nil {
		return nil, err
	}
	if e.Seconds = time.Since(began).Seconds(); e.Seconds > 0 {
		e.ImagesPerSecond = float64(in.Len()) / e.Seconds
	}
	trained.Epochs, trained.Best = []train.Epoch{e}, 1
	return trained, folder.SaveMetrics(trained.Epochs)
}

// keepsProbe reports whether the run delivers its linear probe instead of the candidate that it
// chose: the probe is better on the validation images. Only the recipe auto promises the better of
// both; a run that compares methods delivers the method that it was asked for.
func (r *runner) keepsProbe(chosen *run.Candidate) bool {
	by := r.o.Train.Select
	return r.probed != nil && chosen != nil && r.o.Recipe == run.RecipeAuto && chosen.Counts.Tuned() > 0 && r.probed.result.Selected(by) > chosen.Selected(by)
}

// deliverProbe makes the linear probe the result of the run. Unless NoRefit is set, it fits the
// probe once more, on the training and validation images together.
func (r *runner) deliverProbe(ctx context.Context, result *run.Result) error {
	p := r.probed.result
	result.Method, result.Budget, result.LR = method.Linear, plan.Budget{}, 0
	result.TakeValidation(p)
	if !r.o.NoRefit {
		result.TrainedOn = "train+val"
	}
	trained, err := r.trainedProbe(ctx, r.folder, TrainOptions{WithVal: !r.o.NoRefit})
	if err != nil {
		return err
	}
	return r.deliver(ctx, trained, nil, result, func(sink train.Sink, report progress.Func) (objective.Evaluation, error) {
		return r.evaluate(ctx, trained, r.data.Test, sink, report)
	})
}

// headOf returns the head of a probe as a trained head of the task.
func (t *Task) headOf(p *probe.Probe) (*Trained, error) {
	tuning, err := peft.New(t.model.Config, peft.Selection{})
	if err != nil {
		return nil, err
	}
	head := t.model.Config.Head()
	tuned := checkpoint.StateDict{
		head + ".weight": {Shape: []int{len(p.Bias), p.Width}, Data: p.Weight},
		head + ".bias":   {Shape: []int{len(p.Bias)}, Data: p.Bias},
	}
	return &Trained{Objective: t.objective, Tuning: tuning, Tuned: tuned}, nil
}

// scaled returns the tensors multiplied by a factor.
func scaled(tensors checkpoint.StateDict, factor float64) checkpoint.StateDict {
	out := checkpoint.StateDict{}
	for name, v := range tensors {
		data := make([]float32, len(v.Data))
		for i, x := range v.Data {
			data[i] = float32(factor * float64(x))
		}
		out[name] = checkpoint.Tensor{Shape: v.Shape, Data: data}
	}
	return out
}
