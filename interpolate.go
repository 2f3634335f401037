package spt

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// alphas lists the points between the linear probe (0) and the end of the training (1) whose
// weights a run by the recipe auto validates. docs/notes/accuracy.md has the measurements behind
// them.
var alphas = []float64{0.75, 0.5}

// leastGain is the share by which weights on the way must lower the validation loss to replace the
// end of the training. Smaller gains did not carry over to test images.
const leastGain = 0.2

// interpolates reports whether a run validates weights between the probe and the end of a training:
// with the recipe auto, if the candidate may become the result as it is.
func interpolates(o run.TuneOptions) bool {
	return o.Recipe == run.RecipeAuto && o.NoRefit && o.Probe && o.FromDelta == "" && o.Method != method.Linear
}

// interpolationTime returns the estimated time of the validations by interpolate, with a margin.
func (r *runner) interpolationTime() time.Duration {
	if !interpolates(r.o) {
		return 0
	}
	return time.Duration(len(alphas)*len(r.data.Val)) * r.forward * 13 / 10
}

// interpolate moves a training that has overfitted back towards the linear probe. Of the points
// whose validation metric is at least that of the end of the training, and whose validation loss is
// lower by leastGain and by two standard errors, it takes the one with the lowest loss. It changes
// the tuned tensors of trained and the validation results of c, and returns the predictions of the
// validation images that belong to them. Such weights can be better than both ends, because the
// training begins at the probe (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR
// 2022).
func (r *runner) interpolate(ctx context.Context, trained *Trained, c *run.Candidate, predictions *Predicted) (*Predicted, error) {
	if !interpolates(r.o) || trained.Tuning.Counts.Tuned() == 0 || trained.Tuning.Selection.MLPHead > 0 {
		return predictions, nil
	}
	by := r.o.Train.Select
	least, most, tuned := c.Selected(by), (1-leastGain)*c.ValLoss, trained.Tuned
	end, err := predictions.losses()
	if err != nil || end == nil {
		return predictions, err
	}
	start := starts(trained.Tuning, r.o.Train.Init, r.model.Weights, r.probed.trained.Tuned)
	for _, alpha := range alphas {
		if !r.deadline.IsZero() && time.Until(r.deadline) < r.testTime()+r.interpolationTime()/time.Duration(len(alphas)) {
			break
		}
		at := *trained
		at.Tuned = between(start, tuned, alpha)
		e, predicted, err := r.validateAgain(ctx, &at)
		if err != nil {
			return nil, fmt.Errorf("validating weights between the probe and the end of the training: %w", err)
		}
		losses, err := predicted.losses()
		if err != nil {
			return nil, err
		}
		next := *c
		next.ValAccuracy, next.ValLoss, next.ValMetric, next.Alpha = e.Accuracy, e.Loss, by.Stored(e), alpha
		if next.Selected(by) >= least && next.ValLoss <= most && next.ValLoss < c.ValLoss && clearlyLower(losses, end) {
			*c, trained.Tuned, predictions = next, at.Tuned, predicted
		}
	}
	return predictions, nil
}

// clearlyLower reports whether the mean of losses is below that of others by more than two standard
// errors of the differences. Both hold the losses of the same images.
func clearlyLower(losses, others []float64) bool {
	n, mean, squares := float64(len(losses)), 0.0, 0.0
	for i, v := range losses {
		mean += (others[i] - v) / n
	}
	for i, v := range losses {
		d := others[i] - v - mean
		squares += d * d
	}
	return n > 1 && mean > 0 && mean*mean > 4*squares/(n*(n-1))
}

// validateAgain evaluates the validation images.
func (r *runner) validateAgain(ctx context.Context, t *Trained) (e objective.Evaluation, predictions *Predicted, err error) {
	err = r.skipping(ctx, r.report, []string{"val"}, func() (err error) {
		e, predictions, err = r.Evaluate(ctx, t, "val", r.data.Val, func(e progress.Event) {
			if e.Done < e.Total { // the last event of a stage makes a line
				r.report.Report(e)
			}
		})
		return err
	})
	return e, predictions, err
}

// starts returns the values at which tuned tensors start, with the given head. It leaves out
// tensors that start with random values, such as the first matrix of a LoRA module: the second one
// starts at zero and alone moves the weights.
func starts(t *peft.Tuning, scheme peft.Scheme, weights, head checkpoint.StateDict) checkpoint.StateDict {
	first, second := t.Init(0, scheme, weights), t.Init(1, scheme, weights)
	for name := range first {
		if !slices.Equal(first[name].Data, second[name].Data) {
			delete(first, name)
		}
	}
	for name, v := range head {
		first[name] = v
	}
	return first
}

// between returns the tensors at the point alpha between start and end, and the tensors of end that
// start lacks.
func between(start, end checkpoint.StateDict, alpha float64) checkpoint.StateDict {
	out := checkpoint.StateDict{}
	for name, v := range end {
		from, ok := start[name]
		if !ok {
			out[name] = v
			continue
		}
		data := make([]float32, len(v.Data))
		for i := range data {
			data[i] = float32((1-alpha)*float64(from.Data[i]) + alpha*float64(v.Data[i]))
		}
		out[name] = checkpoint.Tensor{Shape: v.Shape, Data: data}
	}
	return out
}
