package bench

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// stepVariant selects how a step is computed. The zero value is the default.
type stepVariant struct {
	what       string // name in the report
	whole      bool   // compute the gradients of whole matrices and pick the tuned entries
	checkpoint bool   // compute activations again in the backward pass
	loop       bool   // run many steps as one program
}

// stepTime is the approximate time for timing steps after the warm-up.
const stepTime = 2 * time.Second

// step times steps of a method and adds the result to the report.
func (s *suite) step(ctx context.Context, c backbone.Config, m Method, p backend.Precision, w stepVariant) error {
	var budget plan.Budget
	if m.Scores() {
		budget = DefaultBudget(c)
	}
	selection, err := Select(ctx, c, m, budget)
	if err != nil {
		return err
	}
	start := time.Now()
	model := Model(c).In(p, w.checkpoint)
	tuning, err := peft.New(c, selection)
	if err != nil {
		return err
	}
	if w.whole {
		tuning.EntryGradient = peft.WholeGradient
	}
	step, err := newStep(s.Backend, model, tuning, m)
	if err != nil {
		return err
	}
	defer step.close()
	b, err := noise(s.Backend, c, s.Batch)
	if err != nil {
		return err
	}
	defer b.free()
	if err := step.run(ctx, b, 1); err != nil {
		return err
	}
	warm := time.Since(start).Seconds()
	// Increase the number of steps until they take at least half of stepTime together. No result is
	// read back between the steps.
	n, seconds := 1, 0.0
	for {
		start := time.Now()
		if err := step.run(ctx, b, n); err != nil {
			return err
		}
		if seconds = time.Since(start).Seconds(); seconds > stepTime.Seconds()/2 {
			break
		}
		n = max(2*n, min(16*n, int(float64(n)*stepTime.Seconds()/seconds)))
	}
	n *= step.steps
	out := suiteStep{Name: w.what, Method: m, Precision: string(p), Batch: s.Batch, Steps: n, SecondsPerStep: seconds / float64(n), WarmUpSeconds: warm}
	out.ImgPerS = float64(s.Batch) / out.SecondsPerStep
	flop, err := work(c, selection, m, s.Batch)
	if err != nil {
		return err
	}
	out.TFLOPS = flop / out.SecondsPerStep / 1e12
	for _, peak := range s.Peaks {
		if peak.TFLOPS > 0 && peak.DType == p.DType(s.Backend).String() {
			out.PeakFraction = out.TFLOPS / peak.TFLOPS
		}
	}
	s.Steps = append(s.Steps, out)
	return nil
}

// task times a whole task, as spt tune runs it, in the default precision of the device.
func (s *suite) task(ctx context.Context, c backbone.Config) error {
	data := s.Data
	if data == nil {
		var err error
		if data, err = demo.Data(demo.DefaultTask, 800, 200, 1000, 0); err != nil {
			return err
		}
	}
	c.NumClasses = len(data.Classes)
	task, err := spt.New(Model(c), data, spt.WithBackend(s.Backend), spt.WithCompute(s.Compute))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "spt-suite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o := run.TuneOptions{Method: method.SPTLoRA, Budgets: []plan.Budget{DefaultBudget(c)}, Train: train.VTAB(), NoValidation: true}
	if s.Epochs > 0 {
		o.Train = o.Train.WithEpochs(s.Epochs)
	}
	out := &suiteTask{Data: data.Name, Images: len(data.Train) + len(data.Val), Tested: len(data.Test), Epochs: o.Train.Epochs}
	start, last := time.Now(), time.Now()
	after := func(stage string) { // adds the time since the last progress event to a stage
		seconds := time.Since(last).Seconds()
		last = time.Now()
		n := len(out.Stages)
		if n == 0 || out.Stages[n-1].Name != stage {
			out.Stages = append(out.Stages, suiteStage{stage, seconds, seconds})
		} else {
			out.Stages[n-1].Seconds += seconds
		}
	}
	result, err := task.Tune(ctx, o, filepath.Join(dir, "run"), func(e progress.Event) { after(string(e.Stage)) })
	if err != nil {
		return err
	}
	after("end")
	out.Seconds = time.Since(start).Seconds()
	if result.Test != nil {
		out.TestAccuracy = result.Test.Accuracy
	}
	s.Task = out
	return nil
}
