package bench

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// SuiteOptions say what [Suite] measures.
type SuiteOptions struct {
	Compute run.ComputeConfig // opened
	Backend backend.Backend   // what Compute.Open gave
	Name    string            // of the backbone whose steps are timed, of [Sizes]
	Batch   int               // images in a step
	Epochs  int               // of the whole task; 0: the recipe's 100
	Within  time.Duration     // what would not fit is skipped; 0: 8 minutes
	// Data is what the whole task is tuned on; nil: 1000 generated images, tested on
	// 1000 more.
	Data *dataset.Dataset
	// Python runs PyTorch's side; empty: python3, if there is one that has PyTorch;
	// NoPython: it is skipped.
	Python string
	// Only limits the suite to the items whose description it matches, such as
	// "timing lora"; nil: all.
	Only     *regexp.Regexp
	Progress func(what string) // may be nil
	// Keep is given the report after each item, because a driver may end the process in
	// the next, and at the end; may be nil.
	Keep func(*SuiteReport) error
}

// SuiteReport is what a device does, and whether it does it right.
type SuiteReport struct {
	Version     string      `json:"version"`
	Started     time.Time   `json:"started"`
	Seconds     float64     `json:"seconds"`
	Device      string      `json:"device"`
	Description string      `json:"description"`
	Precision   string      `json:"precision"` // the device's default
	Peaks       []Peak      `json:"peaks"`
	Checks      []Check     `json:"checks"`
	Steps       []SuiteStep `json:"steps"`
	Task        *SuiteTask  `json:"task,omitempty"`
	// PyTorch's side, as peers/torch_step.py prints it.
	PyTorch []json.RawMessage `json:"pytorch,omitempty"`
	Failed  []string          `json:"failed"`  // what ended in an error, and with which
	Skipped []string          `json:"skipped"` // for want of time
}

// Check holds what the device computes against spt's own CPU backend.
type Check struct {
	What       string  `json:"what"`
	Precision  string  `json:"precision"`
	Difference float64 `json:"difference"` // relative, in the Euclidean norm
	Bound      float64 `json:"bound"`
	OK         bool    `json:"ok"`
}

// SuiteStep is the time of a step.
type SuiteStep struct {
	Name           string  `json:"name"`
	Method         Method  `json:"method"`
	Precision      string  `json:"precision"`
	Batch          int     `json:"batch"`
	ImgPerS        float64 `json:"img_per_s"`
	SecondsPerStep float64 `json:"seconds_per_step"` // mean of steps that nothing is read back between
	Steps          int     `json:"steps"`
	TFLOPS         float64 `json:"tflops"`          // of the arithmetic that the step cannot do without
	PeakFraction   float64 `json:"peak_fraction"`   // of the measured product of the same type
	WarmUpSeconds  float64 `json:"warm_up_seconds"` // placing the weights, compiling, the first step
}

// SuiteTask is one run of spt tune from decoded images to the test.
type SuiteTask struct {
	Data         string       `json:"data"`
	Images       int          `json:"images"` // trained on
	Tested       int          `json:"tested"`
	Epochs       int          `json:"epochs"`
	Seconds      float64      `json:"seconds"`
	Stages       []SuiteStage `json:"stages"`
	TestAccuracy float64      `json:"test_accuracy"`
}

// SuiteStage is a stage of a whole task: images, score, plan, train, test, and end, when
// what was tuned is kept.
type SuiteStage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	First   float64 `json:"first"` // of Seconds, those up to its first sign of progress: compiling is in them
}

// torchStep is PyTorch's side of the steps.
//
//go:embed peers/torch_step.py
var torchStep []byte

// suite is a run of Suite.
type suite struct {
	SuiteOptions
	*SuiteReport
	start time.Time
}

// Suite checks a device against spt's own CPU backend and measures it: matrix
// products and memory, steps of several methods and precisions, a whole task, and
// PyTorch beside them. It goes on after what fails and stops short of the time
// limit; the report says of both. Only a cancelled ctx is an error, and Keep's.
func Suite(ctx context.Context, o SuiteOptions) (*SuiteReport, error) {
	if o.Within == 0 {
		o.Within = 8 * time.Minute
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Keep == nil {
		o.Keep = func(*SuiteReport) error { return nil }
	}
	s := &suite{SuiteOptions: o, start: time.Now(), SuiteReport: &SuiteReport{
		Version: spt.Version, Started: time.Now().UTC(), Device: backend.NameOf(o.Backend), Description: o.Backend.Description(),
		Precision: string(backend.DefaultPrecision(o.Backend)), Peaks: []Peak{}, Checks: []Check{}, Steps: []SuiteStep{}, Failed: []string{}, Skipped: []string{},
	}}
	if d := o.Backend.DeviceDescription(0); d != s.Description {
		s.Description += "; " + d
	}
	config, err := Config(o.Name, 100)
	if err != nil {
		return nil, err
	}
	bf16 := backend.BF16
	type item struct {
		what    string
		seconds float64 // that it should take at most, compiling included
		run     func() error
	}
	items := []item{
		{"matrix products in bf16", 12, func() error { return s.peak(greatestPeak(ctx, o.Backend, dtypes.BFloat16)) }},
		{"matrix products in f32", 15, func() error { return s.peak(greatestPeak(ctx, o.Backend, dtypes.Float32)) }},
		{"memory", 6, func() error { return s.peak(memoryPeak(ctx, o.Backend, 1<<27)) }},
	}
	for _, c := range checkConfigs() {
		items = append(items, item{"checking features of " + c.String(), 15, func() error { return s.checkFeatures(ctx, c) }})
	}
	vit := checkConfigs()[0]
	items = append(items,
		item{"checking scores", 15, func() error { return s.checkScores(ctx, vit) }},
		item{"checking a training", 40, func() error { return s.checkTraining(ctx, vit) }},
		item{"timing spt-lora", 25, func() error { return s.step(ctx, config, Method(method.SPTLoRA), bf16, way{what: "spt-lora"}) }},
		item{"timing a whole task", 75, func() error { return s.task(ctx, config) }},
		item{"timing PyTorch's LoRA", 75, func() error { return s.torch(ctx, config, "lora") }},
		item{"timing the reference release's arithmetic in PyTorch", 40, func() error { return s.torch(ctx, config, "reference") }},
		item{"timing spt-lora, entries picked", 25, func() error {
			return s.step(ctx, config, Method(method.SPTLoRA), bf16, way{what: "spt-lora, entries picked", whole: true})
		}},
		item{"timing lora", 25, func() error { return s.step(ctx, config, Method(method.LoRA), bf16, way{what: "lora"}) }},
		item{"timing predictions", 15, func() error { return s.step(ctx, config, Forward, bf16, way{what: "forward"}) }},
		item{"timing scoring", 30, func() error { return s.step(ctx, config, Score, bf16, way{what: "score"}) }},
		item{"timing full fine-tuning", 40, func() error { return s.step(ctx, config, Method(method.Full), bf16, way{what: "full"}) }},
		item{"timing spt-lora, activations checkpointed", 30, func() error {
			return s.step(ctx, config, Method(method.SPTLoRA), bf16, way{what: "spt-lora, checkpointed", checkpoint: true})
		}},
		item{"timing spt-lora in f32", 45, func() error { return s.step(ctx, config, Method(method.SPTLoRA), backend.F32, way{what: "spt-lora"}) }},
	)
	for _, i := range items {
		if err := ctx.Err(); err != nil {
			return s.SuiteReport, err
		}
		if o.Only != nil && !o.Only.MatchString(i.what) {
			continue
		}
		if left := o.Within - time.Since(s.start); left.Seconds() < i.seconds {
			s.Skipped = append(s.Skipped, i.what)
			continue
		}
		o.Progress(i.what)
		if err := i.run(); errors.Is(err, errNoPython) {
			s.Skipped = append(s.Skipped, i.what+": "+err.Error())
		} else if err != nil {
			s.Failed = append(s.Failed, fmt.Sprintf("%s: %v", i.what, err))
		}
		s.Seconds = time.Since(s.start).Seconds()
		if err := o.Keep(s.SuiteReport); err != nil {
			return s.SuiteReport, err
		}
	}
	s.Seconds = time.Since(s.start).Seconds()
	return s.SuiteReport, cmp.Or(ctx.Err(), o.Keep(s.SuiteReport))
}

func (s *suite) peak(p Peak, err error) error {
	if err == nil {
		s.Peaks = append(s.Peaks, p)
	}
	return err
}

// checkConfigs are small backbones of every architecture, the ViT first.
func checkConfigs() []backbone.Config {
	vit, _ := Config("tiny", 10)
	swin, _ := Config("swin-tiny", 10)
	convnext, _ := Config("convnext-tiny", 10)
	v, w, n := vit.Form.(backbone.ViT), swin.Form.(backbone.Swin), convnext.Form.(backbone.ConvNeXt)
	v.Depth, w.Depths, n.Depths = 4, []int{2, 2, 2, 2}, []int{1, 1, 2, 1}
	vit.Form, swin.Form, convnext.Form = v, w, n
	return []backbone.Config{vit, swin, convnext}
}

// The bounds of checks: products and their sums have another order, and bfloat16
// eight bits.
func bound(p backend.Precision) float64 {
	if p == backend.BF16 {
		return 0.05
	}
	return 1e-3
}

func (s *suite) check(what string, p backend.Precision, got, want []float32, bound float64) {
	var difference, size float64
	if len(got) != len(want) {
		difference = math.NaN()
		got = want
	}
	for i, w := range want {
		difference += math.Pow(float64(got[i]-w), 2)
		size += math.Pow(float64(w), 2)
	}
	d := math.Sqrt(difference / size)
	s.Checks = append(s.Checks, Check{what, string(p), d, bound, d <= bound})
}

// onBoth runs f on spt's own backend in f32, and on the device in each precision.
func (s *suite) onBoth(m *backbone.Model, f func(be backend.Backend, m *backbone.Model) ([]float32, error), each func(p backend.Precision, got, want []float32)) error {
	own, err := backend.New()
	if err != nil {
		return err
	}
	want, err := f(own, m)
	if err != nil {
		return err
	}
	for _, p := range []backend.Precision{backend.F32, backend.BF16} {
		got, err := f(s.Backend, m.In(p, false))
		if err != nil {
			return fmt.Errorf("in %s: %w", p, err)
		}
		each(p, got, want)
	}
	return nil
}

func (s *suite) checkFeatures(ctx context.Context, c backbone.Config) error {
	return s.onBoth(Model(c), func(be backend.Backend, m *backbone.Model) ([]float32, error) {
		tuning, err := peft.New(c, peft.Linear())
		if err != nil {
			return nil, err
		}
		p, err := train.NewPredictor(be, m, objective.SingleLabel, tuning, tuning.Init(0, m.Weights))
		if err != nil {
			return nil, err
		}
		defer p.Close()
		b, err := noise(be, c, 4)
		if err != nil {
			return nil, err
		}
		defer b.free()
		return p.Features(ctx, b.images)
	}, func(p backend.Precision, got, want []float32) {
		s.check("features of "+c.String(), p, got, want, bound(p))
	})
}

func (s *suite) checkScores(ctx context.Context, c backbone.Config) error {
	return s.onBoth(Model(c), func(be backend.Backend, m *backbone.Model) (out []float32, err error) {
		tuning, err := peft.New(c, peft.Linear())
		if err != nil {
			return nil, err
		}
		step, err := newStep(be, m, tuning, Score)
		if err != nil {
			return nil, err
		}
		defer step.close()
		b, err := noise(be, c, 8)
		if err != nil {
			return nil, err
		}
		defer b.free()
		if err := step.run(ctx, b, 1); err != nil {
			return nil, err
		}
		scores, err := step.scorer.Scores()
		if err != nil {
			return nil, err
		}
		for _, t := range scores.Tensors {
			for _, v := range t.Scores {
				out = append(out, float32(math.Sqrt(float64(v)))) // the gradients' sizes
			}
		}
		return out, nil
	}, func(p backend.Precision, got, want []float32) {
		s.check("sizes of gradients", p, got, want, 4*bound(p))
	})
}

// checkTraining tunes a plan for a few steps without drops, whose random numbers
// are the backend's own.
func (s *suite) checkTraining(ctx context.Context, c backbone.Config) error {
	const steps = 8
	selection, err := Select(ctx, c, Method(method.SPTLoRA), plan.MustParseBudget("60k"))
	if err != nil {
		return err
	}
	losses := func(be backend.Backend, m *backbone.Model, w way) (out []float32, err error) {
		tuning, err := peft.New(c, selection)
		if err != nil {
			return nil, err
		}
		if w.whole {
			tuning.EntryGradient = peft.WholeGradient
		}
		stepper, err := train.NewStepper(be, m.In(m.Precision, w.checkpoint), objective.SingleLabel, tuning, tuning.Init(0, m.Weights), peft.Rates{}, 1e-4)
		if err != nil {
			return nil, err
		}
		defer stepper.Close()
		b, err := noise(be, c, 8)
		if err != nil {
			return nil, err
		}
		defer b.free()
		if w.loop {
			order, lrs := make([]int, steps*8), slices.Repeat([]float64{1e-3}, steps)
			for i := range order {
				order[i] = i % 8
			}
			if _, err := stepper.EnqueueLoop(ctx, b.data, order, lrs, 0, 0); err != nil {
				return nil, err
			}
		} else {
			for range steps {
				if err := stepper.Enqueue(ctx, b.images, b.labels, 1e-3, 0); err != nil {
					return nil, err
				}
			}
		}
		metrics, err := stepper.Read()
		for _, m := range metrics {
			out = append(out, float32(m.Loss))
		}
		return out, err
	}
	var want []float32
	model := Model(c)
	err = s.onBoth(model, func(be backend.Backend, m *backbone.Model) ([]float32, error) { return losses(be, m, way{}) },
		func(p backend.Precision, got, w []float32) {
			want = w
			s.check("losses of a training", p, got, want, bound(p))
		})
	if err != nil {
		return err
	}
	for _, w := range []way{{what: "losses, entries picked", whole: true}, {what: "losses, activations checkpointed", checkpoint: true}, {what: "losses, steps one program", loop: true}} {
		got, err := losses(s.Backend, model.In(backend.F32, false), w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.what, err)
		}
		s.check(w.what, backend.F32, got, want, bound(backend.F32))
	}
	return nil
}

// way is one way in which a step can be computed.
type way struct {
	what       string // its name in the report
	whole      bool   // entries' gradients are picked from those of whole matrices
	checkpoint bool   // activations are computed again in the backward pass
	loop       bool   // many steps are one program
}

// stepTime is how long steps are timed after the first.
const stepTime = 2 * time.Second

func (s *suite) step(ctx context.Context, c backbone.Config, m Method, p backend.Precision, w way) error {
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
	// As many steps as fit, timed together: nothing is read back between them.
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
	out := SuiteStep{Name: w.what, Method: m, Precision: string(p), Batch: s.Batch, Steps: n, SecondsPerStep: seconds / float64(n), WarmUpSeconds: warm}
	out.ImgPerS = float64(s.Batch) / out.SecondsPerStep
	out.TFLOPS = Work(c, selection, m, s.Batch) / out.SecondsPerStep / 1e12
	for _, peak := range s.Peaks {
		if peak.TFLOPS > 0 && peak.DType == p.DType().String() {
			out.PeakFraction = out.TFLOPS / peak.TFLOPS
		}
	}
	s.Steps = append(s.Steps, out)
	return nil
}

// task tunes as spt tune does, in the device's default precision.
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
	out := &SuiteTask{Data: data.Name, Images: len(data.Train) + len(data.Val), Tested: len(data.Test), Epochs: o.Train.Epochs}
	start, last := time.Now(), time.Now()
	after := func(stage string) { // what led to a sign of progress
		seconds := time.Since(last).Seconds()
		last = time.Now()
		n := len(out.Stages)
		if n == 0 || out.Stages[n-1].Name != stage {
			out.Stages = append(out.Stages, SuiteStage{stage, seconds, seconds})
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

// NoPython is the [SuiteOptions].Python that leaves PyTorch out.
const NoPython = "none"

var errNoPython = errors.New("no Python with PyTorch was given")

// torch runs PyTorch's side on the same sizes; reference tunes the very selection
// that spt-lora does.
func (s *suite) torch(ctx context.Context, c backbone.Config, variant string) error {
	if s.Python == NoPython {
		return errNoPython
	}
	if _, ok := c.Form.(backbone.ViT); !ok {
		return fmt.Errorf("PyTorch's side knows ViTs only, not %s", s.Name)
	}
	dir, err := os.MkdirTemp("", "spt-suite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script, planFile := filepath.Join(dir, "torch_step.py"), filepath.Join(dir, "plan.json")
	selection, err := Select(ctx, c, Method(method.SPTLoRA), DefaultBudget(c))
	if err != nil {
		return err
	}
	plan, err := json.Marshal(map[string]any{"rank": selection.Rank, "matrices": selection.Structured, "vectors": selection.Whole, "entries": selection.Entries})
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{script: torchStep, planFile: plan} {
		if err := os.WriteFile(path, data, 0o666); err != nil {
			return err
		}
	}
	device, dtype := "cpu", "f32" // as spt computes there
	if strings.HasPrefix(s.Device, "cuda") {
		device, dtype = "cuda", "bf16"
	}
	ctx, cancel := context.WithTimeout(ctx, s.Within-time.Since(s.start)) // it may hang where there is no compiler
	defer cancel()
	python := cmp.Or(s.Python, "python3")
	cmd := exec.CommandContext(ctx, python, script, "--variant", variant, "--plan", planFile, "--model", s.Name, "--batch", strconv.Itoa(s.Batch), "--device", device, "--dtype", dtype)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		last := lines[len(lines)-1]
		if s.Python == "" && (errors.Is(err, exec.ErrNotFound) || strings.Contains(last, "No module named 'torch'")) {
			return errNoPython
		}
		return fmt.Errorf("%s: %w: %s", python, err, last)
	}
	if !json.Valid(out) {
		return fmt.Errorf("%s printed %q, expected a JSON object", python, out)
	}
	s.PyTorch = append(s.PyTorch, json.RawMessage(bytes.TrimSpace(out)))
	return nil
}

// OK reports whether nothing failed and every check is within its bound.
func (r *SuiteReport) OK() bool {
	return len(r.Failed) == 0 && !slices.ContainsFunc(r.Checks, func(c Check) bool { return !c.OK })
}
