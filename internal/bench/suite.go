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

// SuiteOptions configures [Suite].
type SuiteOptions struct {
	// Compute is the device and the precision. Compute.Open has been called.
	Compute run.ComputeConfig
	// Backend is the backend that Compute.Open returned.
	Backend backend.Backend
	// Name is the name of the backbone whose steps are timed, one of [Sizes].
	Name string
	// Batch is the number of images in a mini-batch.
	Batch int
	// Epochs is the number of epochs of the whole task. Default: 100, as in the recipe.
	Epochs int
	// Within is the time limit. Items that could exceed it are skipped. Default: 8 minutes.
	Within time.Duration
	// Data is the data set of the whole task. Default: 1000 synthetic training images and 1000
	// synthetic test images.
	Data *dataset.Dataset
	// Python is the interpreter that runs the PyTorch items, or "none" to skip them. Default:
	// python3, if PyTorch is installed for it.
	Python string
	// Only restricts the suite to items whose description it matches, such as "timing lora".
	// Default: all items.
	Only *regexp.Regexp
	// Progress is called before each item with the description of the item. It may be nil.
	Progress func(what string)
	// Keep is called with the report after each item and at the end, for example to save it. The
	// driver of a device may crash the process in any item, so the report must be saved early. Keep
	// may be nil.
	Keep func(*SuiteReport) error
}

// SuiteReport holds the results of [Suite] for one device: how accurate and how fast it computes.
type SuiteReport struct {
	jsonfile.Header
	// Spt is the version of the program.
	Spt string `json:"spt"`
	// Started is the time at which the suite started, in UTC.
	Started time.Time `json:"started"`
	// Seconds is the duration of the suite so far.
	Seconds float64 `json:"seconds"`
	// Device is the name of the device, and Description is a longer description.
	Device      string `json:"device"`
	Description string `json:"description"`
	// Precision is the default precision of the device.
	Precision string `json:"precision"`
	// Peaks holds the measured peak speeds.
	Peaks []peak `json:"peaks"`
	// Checks holds the comparisons with the CPU backend.
	Checks []check `json:"checks"`
	// Steps holds the times of steps.
	Steps []suiteStep `json:"steps"`
	// Task holds the time of a whole task. It is nil if the task was not run.
	Task *suiteTask `json:"task,omitempty"`
	// PyTorch holds the JSON objects that peers/torch_step.py printed.
	PyTorch []json.RawMessage `json:"pytorch,omitempty"`
	// Failed lists the items that ended in an error, with the error.
	Failed []string `json:"failed"`
	// Skipped lists the items that were skipped because of the time limit or because PyTorch is not
	// installed.
	Skipped []string `json:"skipped"`
}

// check is a comparison of a result of the device with the result of the CPU backend.
type check struct {
	What       string  `json:"what"`
	Precision  string  `json:"precision"`
	Difference float64 `json:"difference"` // relative difference in the Euclidean norm
	Bound      float64 `json:"bound"`      // largest difference that passes
	OK         bool    `json:"ok"`
}

// suiteStep holds the time of one kind of step.
type suiteStep struct {
	// Name, Method, Precision and Batch describe the step.
	Name      string `json:"name"`
	Method    Method `json:"method"`
	Precision string `json:"precision"`
	Batch     int    `json:"batch"`
	// ImgPerS is the number of images per second.
	ImgPerS float64 `json:"img_per_s"`
	// SecondsPerStep is the mean time of steps that run without reading a result between them.
	SecondsPerStep float64 `json:"seconds_per_step"`
	// Steps is the number of timed steps.
	Steps int `json:"steps"`
	// TFLOPS is the least arithmetic that the step needs, in 10¹² operations, per second of its
	// time.
	TFLOPS float64 `json:"tflops"`
	// PeakFraction is TFLOPS ÷ the measured speed of matrix products in the same data type.
	PeakFraction float64 `json:"peak_fraction"`
	// WarmUpSeconds is the time for placing the weights, compiling and the first step.
	WarmUpSeconds float64 `json:"warm_up_seconds"`
}

// suiteTask holds the times and the result of one run like that of spt tune, from decoded images to
// the test.
type suiteTask struct {
	Data         string       `json:"data"`
	Images       int          `json:"images"` // number of training images
	Tested       int          `json:"tested"` // number of test images
	Epochs       int          `json:"epochs"`
	Seconds      float64      `json:"seconds"`
	Stages       []suiteStage `json:"stages"`
	TestAccuracy float64      `json:"test_accuracy"`
}

// suiteStage holds the time of a stage of a whole task. Name is images, score, plan, train, test,
// or end. The stage end stores the result.
type suiteStage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	// seconds until the first progress event, which includes compilation
	First float64 `json:"first"`
}

// suite holds the state of a run of [Suite].
type suite struct {
	SuiteOptions
	*SuiteReport
	start time.Time
}

// Suite compares the results of a device with the CPU backend and measures the speed of the device:
// matrix products, memory, steps of several methods and precisions, and a whole task. For
// comparison it also measures PyTorch.
//
// If an item fails, the suite continues. Items that could exceed the time limit are skipped. The
// report lists both. Suite returns an error if ctx is cancelled, Keep returns an error or an option
// is wrong.
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
		seconds float64 // greatest expected time, compilation included
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
		item{"checking training losses", 40, func() error { return s.checkTraining(ctx, vit) }},
		item{"timing spt-lora", 25, func() error { return s.step(ctx, config, Method(method.SPTLoRA), bf16, stepVariant{what: "spt-lora"}) }},
		item{"timing a whole task", 75, func() error { return s.task(ctx, config) }},
		item{"timing LoRA in PyTorch", 75, func() error { return s.torch(ctx, config, "lora") }},
		item{"timing the arithmetic of the reference release in PyTorch", 40, func() error { return s.torch(ctx, config, "reference") }},
		item{"timing spt-lora, entries picked from whole gradients", 25, func() error {
			return s.step(ctx, config, Method(method.SPTLoRA), bf16, stepVariant{what: "spt-lora, entries picked", whole: true})
		}},
		item{"timing lora", 25, func() error { return s.step(ctx, config, Method(method.LoRA), bf16, stepVariant{what: "lora"}) }},
		item{"timing predictions", 15, func() error { return s.step(ctx, config, Forward, bf16, stepVariant{what: "forward"}) }},
		item{"timing scoring", 30, func() error { return s.step(ctx, config, score, bf16, stepVariant{what: "score"}) }},
		item{"timing full fine-tuning", 40, func() error { return s.step(ctx, config, Method(method.Full), bf16, stepVariant{what: "full"}) }},
		item{"timing spt-lora with activation checkpointing", 30, func() error {
			return s.step(ctx, config, Method(method.SPTLoRA), bf16, stepVariant{what: "spt-lora, checkpointed", checkpoint: true})
		}},
		item{"timing spt-lora in f32", 45, func() error {
			return s.step(ctx, config, Method(method.SPTLoRA), backend.F32, stepVariant{what: "spt-lora"})
		}},
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

// OK reports whether no item failed and every check is within its bound.
func (r *SuiteReport) OK() bool {
	return len(r.Failed) == 0 && !slices.ContainsFunc(r.Checks, func(c check) bool { return !c.OK })
}

// peak adds a measured peak to the report, unless err is not nil. It returns err.
func (s *suite) peak(p peak, err error) error {
	if err == nil {
		s.Peaks = append(s.Peaks, p)
	}
	return err
}
