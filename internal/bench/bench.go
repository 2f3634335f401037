// Package bench measures how fast this machine runs training steps, and compares the speed with the
// limit of the hardware. It does the work of the command 'spt bench'.
//
// [Run] times steps of one [Method] on a backbone and returns a [Report]. The limit is the measured
// multiply-add peak of the processor divided by the least arithmetic that a step needs. The
// backbone comes from a checkpoint, or [Config] and [Model] make one with synthetic weights. The
// selection of tuned parameters comes from a plan ([SelectPlan]) or from the method ([Select]).
// Synthetic inputs need no file and are the same on every machine.
//
// [Suite] checks the results of a device against the CPU backend and measures its speed on many
// tasks. [Scaling] measures how time and memory grow with one quantity at a time.
package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

// Options configures [Run].
type Options struct {
	// Name is the name of the backbone in the report.
	Name string
	// Method is the kind of step that is timed.
	Method Method
	// Selection is the selection of tuned parameters, from [Select] or [SelectPlan].
	Selection peft.Selection
	// Budget is the budget of the selection, for the report. Zero means none.
	Budget plan.Budget
	// Batch is the number of images in a mini-batch, 1 to 4096.
	Batch int
	// Steps is the number of timed steps, at least 1. Run does one more step before them, as
	// warm-up.
	Steps int
	// Precision is the precision of the steps and of the matrix products. Default: f32.
	Precision backend.Precision
	// GEMM also measures the matrix products of the backbone on their own. Default: false.
	GEMM bool
	// Breakdown also reports the time of each kind of operation in a step. Default: false.
	Breakdown bool
	// Progress is called after each step with the number of timed steps so far. done is 0 after the
	// warm-up. Progress may be nil.
	Progress func(done, total int)
}

// Report holds the measurements of [Run]. 1 GFLOPS is 10⁹ floating-point operations per second, and
// a multiply-add counts as two operations. 1 MB is 10⁶ bytes.
type Report struct {
	// Machine describes the machine.
	Machine machine `json:"machine"`
	// PeakGFLOPS is the speed of multiply-adds in registers on all threads, in Precision. It is the
	// largest of several measurements before and after the steps.
	PeakGFLOPS float64 `json:"peak_gflops"`
	// BandwidthGB is the memory bandwidth, in 10⁹ bytes per second. It is measured on arrays far
	// larger than the caches, for reading and writing together.
	BandwidthGB float64 `json:"bandwidth_gb_s"`
	// GEMM lists the speeds of matrix products. It is empty unless Options.GEMM is set.
	GEMM []gemm `json:"gemm"`

	// Model, Method, Precision and Batch are from Options.
	Model     string            `json:"model"`
	Method    Method            `json:"method"`
	Precision backend.Precision `json:"precision"`
	Batch     int               `json:"batch"`
	// Budget is the budget of the selection. Zero means that the method takes none.
	Budget plan.Budget `json:"budget"`
	// TunedParams is the number of tuned parameters, without the head.
	TunedParams int `json:"tuned_params"`
	// GFLOPPerImage is the least arithmetic that a step needs for one image, in 10⁹ operations.
	GFLOPPerImage float64 `json:"gflop_per_image"`
	// LimitImgPerS is PeakGFLOPS ÷ GFLOPPerImage, in images per second.
	LimitImgPerS float64 `json:"limit_img_per_s"`
	// ImgPerS is the measured speed, in images per second.
	ImgPerS float64 `json:"img_per_s"`
	// LimitFraction is ImgPerS ÷ LimitImgPerS.
	LimitFraction float64 `json:"limit_fraction"`
	// SecondsPerStep is the median time of the timed steps.
	SecondsPerStep float64 `json:"seconds_per_step"`
	// Steps is the number of timed steps.
	Steps int `json:"steps"`
	// WeightsMB is the memory of the frozen and the tuned tensors, and of the positions of single
	// entries.
	WeightsMB float64 `json:"weights_mb"`
	// ActivationsMB is the memory of the intermediate results of a step.
	ActivationsMB float64 `json:"activations_mb"`
	// OptimizerMB is the memory of both moments of AdamW. For the method score it is the memory of
	// the sums of squared gradients.
	OptimizerMB float64 `json:"optimizer_mb"`
	// PackedMB is the memory of the copies of weights in the layout of the matrix kernel.
	PackedMB float64 `json:"packed_mb"`
	// Breakdown lists the time of each kind of operation in a step, the longest first. It is empty
	// unless Options.Breakdown is set.
	Breakdown []part `json:"breakdown,omitempty"`
	// PeakRSSMB is the greatest resident memory of the process between placing the weights and the
	// last step. It is 0 if the system does not report it.
	PeakRSSMB float64 `json:"peak_rss_mb"`
}

// machine describes the machine that Run measured.
type machine struct {
	CPU     string `json:"cpu"`     // model name; empty if the system does not report it
	Arch    string `json:"arch"`    // GOARCH
	Threads int    `json:"threads"` // GOMAXPROCS
	Kernel  string `json:"kernel"`  // name of the kernel for matrix products
}

// gemm is a matrix product [M, K]·[K, N] of the backbone, and its speed.
type gemm struct {
	Name   string  `json:"name"` // names of the layers with this product
	M      int     `json:"m"`
	K      int     `json:"k"`
	N      int     `json:"n"`
	GFLOPS float64 `json:"gflops"`
}

// part is the time of the operations of one kind and size in a step.
type part struct {
	Kind    string  `json:"kind"`
	Detail  string  `json:"detail"`
	Calls   float64 `json:"calls"`   // number of calls in a step
	Seconds float64 `json:"seconds"` // in a step
}

// mostImages is the largest mini-batch. It protects against using all memory after a typing error.
const mostImages = 4096

// gemmTime is the time for measuring each matrix product, and for measuring the bandwidth.
const gemmTime = 200 * time.Millisecond

// Run places m on the CPU backend and times steps on images of random noise. It returns a
// [run.OptionError] if an option is out of range or the selection does not fit m. If ctx is
// cancelled, Run returns the error of ctx after the current step.
func Run(ctx context.Context, m *backbone.Model, o Options) (*Report, error) {
	if err := o.Method.Validate(); err != nil {
		return nil, err
	}
	if o.Batch < 1 || o.Batch > mostImages || o.Steps < 1 {
		return nil, &run.OptionError{Err: fmt.Errorf("measuring %d steps of %d images: expected at least one step, of 1 to %d images", o.Steps, o.Batch, mostImages)}
	}
	tuning, err := peft.New(m.Config, o.Selection)
	if err != nil {
		return nil, &run.OptionError{Err: fmt.Errorf("measuring %s: %w", o.Method, err)}
	}
	compute := run.ComputeConfig{Device: "cpu", Precision: o.Precision}
	be, err := compute.Open(nil)
	if err != nil {
		return nil, err
	}
	m = m.In(o.Precision, false)
	flop, err := work(m.Config, o.Selection, o.Method, o.Batch)
	if err != nil {
		return nil, err
	}
	bf16 := compute.Precision == backend.BF16
	r := &Report{
		Machine: thisMachine(bf16), GEMM: []gemm{},
		Model: o.Name, Method: o.Method, Precision: compute.Precision, Batch: o.Batch, Budget: o.Budget, TunedParams: tuning.Counts.Tuned(), Steps: o.Steps,
		GFLOPPerImage: flop / float64(o.Batch) / 1e9,
	}
	r.PeakGFLOPS = peakGFLOPS(r.Machine.Threads, bf16)
	// Memory that was used earlier, for example for scores, does not belong to the step.
	program.ReturnMemory()
	resetPeakRSS()
	seconds, err := r.steps(ctx, be, m, tuning, o)
	if err != nil {
		return nil, err
	}
	r.PeakRSSMB = peakRSS() / 1e6
	r.PeakGFLOPS = max(r.PeakGFLOPS, peakGFLOPS(r.Machine.Threads, bf16))
	r.SecondsPerStep = measure.Median(seconds)
	r.ImgPerS = float64(o.Batch) / r.SecondsPerStep
	r.LimitImgPerS = r.PeakGFLOPS / r.GFLOPPerImage
	r.LimitFraction = r.ImgPerS / r.LimitImgPerS
	// Measure the bandwidth after PeakRSSMB, because its arrays can be larger than those of a step.
	r.BandwidthGB = measure.Bandwidth(gemmTime)
	if o.GEMM {
		list, err := products(m.Config, o.Batch)
		if err != nil {
			return nil, err
		}
		for _, g := range list {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("measuring matrix products: %w", err)
			}
			g.GFLOPS = measure.GEMM(g.M, g.K, g.N, bf16, gemmTime)
			r.GEMM = append(r.GEMM, g)
		}
	}
	return r, nil
}

// peakGFLOPS returns the largest of several short measurements. A single measurement can be too
// low, because other programs use the processor at times.
func peakGFLOPS(threads int, bf16 bool) (gflops float64) {
	for range 6 {
		gflops = max(gflops, measure.PeakGFLOPS(threads, bf16, 50*time.Millisecond))
	}
	return gflops
}

// steps runs o.Steps steps and returns the seconds of each. Before them it runs one step as
// warm-up, which includes compilation. It also sets the fields of r for memory and Breakdown,
// except PeakRSSMB.
func (r *Report) steps(ctx context.Context, be backend.Backend, m *backbone.Model, tuning *peft.Tuning, o Options) ([]float64, error) {
	step, err := newStep(be, m, tuning, o.Method)
	if err != nil {
		return nil, err
	}
	defer step.close()
	r.OptimizerMB = float64(step.state) / 1e6
	if used, ok := cpu.MemoryOf(be); ok {
		r.WeightsMB = float64(used.Buffers)/1e6 - r.OptimizerMB
	}
	x, err := noise(be, m.Config, o.Batch)
	if err != nil {
		return nil, err
	}
	defer x.free()
	var seconds []float64
	timings := func() []cpu.Timing { return nil }
	for i := range o.Steps + 1 {
		start := time.Now()
		if err := step.run(ctx, x, 1); err != nil {
			return nil, fmt.Errorf("measuring %s: %w", o.Method, err)
		}
		if i > 0 {
			seconds = append(seconds, time.Since(start).Seconds())
		} else if o.Breakdown {
			timings = cpu.TimeSteps(be)
		}
		if o.Progress != nil {
			o.Progress(i, o.Steps)
		}
	}
	for _, t := range timings() {
		r.Breakdown = append(r.Breakdown, part{t.Kind, t.Detail, float64(t.Calls) / float64(o.Steps), t.Seconds / float64(o.Steps)})
	}
	if used, ok := cpu.MemoryOf(be); ok {
		r.ActivationsMB, r.PackedMB = float64(used.Arena)/1e6, float64(used.Packed)/1e6
	}
	return seconds, nil
}
