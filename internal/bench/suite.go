package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/run"
)

// SuiteOptions says what [Suite] measures.
type SuiteOptions struct {
	Compute run.ComputeConfig // device and precision, opened
	Backend backend.Backend   // the backend that Compute.Open returned
	Name    string            // name of the backbone whose steps are timed, one of [Sizes]
	Batch   int               // images in a step
	Epochs  int               // epochs of the whole task; 0: the 100 of the recipe
	Within  time.Duration     // time limit; items that would exceed it are skipped; 0: 8 minutes
	// Data is the data set of the whole task. Nil: 1000 generated images for training and 1000 for
	// the test.
	Data *dataset.Dataset
	// Python is the interpreter that runs the PyTorch items, or "none" to skip them. Empty:
	// python3, if it has PyTorch.
	Python string
	// Only limits the suite to the items whose description it matches, such as "timing lora". Nil:
	// all items.
	Only     *regexp.Regexp
	Progress func(what string) // called before each item; may be nil
	// Keep is called with the report after each item and at the end, because a driver may end the
	// process in any item. It may be nil.
	Keep func(*SuiteReport) error
}

// SuiteReport holds what a device computes and how fast.
type SuiteReport struct {
	jsonfile.Header
	Spt         string      `json:"spt"` // version of the program
	Started     time.Time   `json:"started"`
	Seconds     float64     `json:"seconds"`
	Device      string      `json:"device"`
	Description string      `json:"description"`
	Precision   string      `json:"precision"` // the device's default
	Peaks       []peak      `json:"peaks"`
	Checks      []check     `json:"checks"`
	Steps       []suiteStep `json:"steps"`
	Task        *suiteTask  `json:"task,omitempty"`
	// PyTorch holds the objects that peers/torch_step.py printed.
	PyTorch []json.RawMessage `json:"pytorch,omitempty"`
	Failed  []string          `json:"failed"`  // items that ended in an error, with the error
	Skipped []string          `json:"skipped"` // items skipped for lack of time or of PyTorch
}

// check compares a result of the device with that of spt's own CPU backend.
type check struct {
	What       string  `json:"what"`
	Precision  string  `json:"precision"`
	Difference float64 `json:"difference"` // relative, in the Euclidean norm
	Bound      float64 `json:"bound"`
	OK         bool    `json:"ok"`
}

// suiteStep holds the time of a step.
type suiteStep struct {
	Name      string  `json:"name"`
	Method    Method  `json:"method"`
	Precision string  `json:"precision"`
	Batch     int     `json:"batch"`
	ImgPerS   float64 `json:"img_per_s"`
	// mean of steps without a result read between them
	SecondsPerStep float64 `json:"seconds_per_step"`
	Steps          int     `json:"steps"`
	// arithmetic that the step cannot do without, a second
	TFLOPS float64 `json:"tflops"`
	// TFLOPS ÷ the measured matrix product of the same type
	PeakFraction float64 `json:"peak_fraction"`
	// placing the weights, compiling, the first step
	WarmUpSeconds float64 `json:"warm_up_seconds"`
}

// suiteTask holds one run of spt tune from decoded images to the test.
type suiteTask struct {
	Data         string       `json:"data"`
	Images       int          `json:"images"` // images trained on
	Tested       int          `json:"tested"` // images tested
	Epochs       int          `json:"epochs"`
	Seconds      float64      `json:"seconds"`
	Stages       []suiteStage `json:"stages"`
	TestAccuracy float64      `json:"test_accuracy"`
}

// suiteStage is a stage of a whole task: images, score, plan, train, test, or end, which stores the
// result.
type suiteStage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	First   float64 `json:"first"` // seconds up to the first report of progress, compiling included
}

// suite is the state of a run of Suite.
type suite struct {
	SuiteOptions
	*SuiteReport
	start time.Time
}

// Suite compares a device with spt's own CPU backend and measures it: matrix products, memory,
// steps of several methods and precisions, a whole task, and PyTorch. An item that fails does not
// end the suite, and items that would exceed the time limit are skipped; the report lists both.
// Suite returns an error if ctx is cancelled, Keep fails or the options are wrong.
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
		Header: jsonfile.Header{Kind: jsonfile.Suite, Version: 1}, Spt: spt.Version, Started: time.Now().UTC(), Device: backend.NameOf(o.Backend), Description: o.Backend.Description(),
		Precision: string(backend.DefaultPrecision(o.Backend)), Peaks: []peak{}, Checks: []check{}, Steps: []suiteStep{}, Failed: []string{}, Skipped: []string{},
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
		seconds float64 // time that it takes at most, compiling included
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
		item{"timing scoring", 30, func() error { return s.step(ctx, config, score, bf16, way{what: "score"}) }},
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

// OK reports whether nothing failed and every check is within its bound.
func (r *SuiteReport) OK() bool {
	return len(r.Failed) == 0 && !slices.ContainsFunc(r.Checks, func(c check) bool { return !c.OK })
}

// peak adds a measured peak to the report.
func (s *suite) peak(p peak, err error) error {
	if err == nil {
		s.Peaks = append(s.Peaks, p)
	}
	return err
}
