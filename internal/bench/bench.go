// Package bench measures how fast this machine tunes and how far from its limit that is.
//
// [Run] times steps of one [Method] on a backbone. It compares them with the arithmetic that the
// steps cannot do without and with the measured multiply-add peak of the processor. The backbone
// comes from a checkpoint or is synthetic ([Config], [Model]). What is tuned comes from a plan
// ([SelectPlan]) or from the method ([Select]). Synthetic inputs need no file and are the same on
// every machine. [Suite] checks and measures a device as a whole.
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

// Options says what [Run] measures.
type Options struct {
	Name      string         // name of the backbone, for the report
	Method    Method         // what a step does
	Selection peft.Selection // what the method tunes, from [Select] or [SelectPlan]
	Budget    plan.Budget    // budget of the selection, for the report; zero: none
	Batch     int            // images in a step, 1 to 4096
	Steps     int            // timed steps, at least 1; one more step comes first, as warm-up
	GEMM      bool           // measure matrix products of the backbone's shapes too
	Breakdown bool           // report what the time of a step goes to
	// Progress is called after each step; done is 0 after the warm-up. It may be nil.
	Progress func(done, total int)
}

// Report holds what Run measured. GFLOPS are 10⁹ floating-point operations a second, two for a
// multiply-add; MB are 10⁶ bytes.
type Report struct {
	Machine machine `json:"machine"`
	// multiply-adds in registers, all threads; the largest of several measurements before and after
	// the steps
	PeakGFLOPS float64 `json:"peak_gflops"`
	// reading and writing arrays far larger than the caches
	BandwidthGB float64 `json:"bandwidth_gb_s"`
	GEMM        []gemm  `json:"gemm"` // empty if not asked for

	Model          string      `json:"model"`
	Method         Method      `json:"method"`
	Batch          int         `json:"batch"`
	Budget         plan.Budget `json:"budget"`       // zero: the method has none
	TunedParams    int         `json:"tuned_params"` // without the head
	GFLOPPerImage  float64     `json:"gflop_per_image"`
	LimitImgPerS   float64     `json:"limit_img_per_s"` // peak ÷ GFLOP per image
	ImgPerS        float64     `json:"img_per_s"`
	LimitFraction  float64     `json:"limit_fraction"`   // ImgPerS ÷ LimitImgPerS
	SecondsPerStep float64     `json:"seconds_per_step"` // median
	Steps          int         `json:"steps"`
	// frozen and tuned tensors, and the positions of single entries
	WeightsMB     float64 `json:"weights_mb"`
	ActivationsMB float64 `json:"activations_mb"` // intermediate results of a step
	// both moments of AdamW; for score the sums of squares
	OptimizerMB float64 `json:"optimizer_mb"`
	// copies of weights in the layout of the matrix kernel
	PackedMB float64 `json:"packed_mb"`
	// what the time of a step goes to, the longest first
	Breakdown []part `json:"breakdown,omitempty"`
	// resident memory of the process, the most from placing the weights to the last step; 0: the
	// system does not report it
	PeakRSSMB float64 `json:"peak_rss_mb"`
}

// machine describes where Run measured.
type machine struct {
	CPU     string `json:"cpu"` // empty: the system does not report it
	Arch    string `json:"arch"`
	Threads int    `json:"threads"`
	Kernel  string `json:"kernel"` // name of the kernel of matrix products
}

// gemm is a matrix product [m,k]·[k,n] of the backbone.
type gemm struct {
	Name   string  `json:"name"`
	M      int     `json:"m"`
	K      int     `json:"k"`
	N      int     `json:"n"`
	GFLOPS float64 `json:"gflops"`
}

// part is the share of the operations of one kind and size in a step.
type part struct {
	Kind    string  `json:"kind"`
	Detail  string  `json:"detail"`
	Calls   float64 `json:"calls"`   // in a step
	Seconds float64 `json:"seconds"` // in a step
}

// mostImages is the largest mini-batch. A typing error must not take all of the memory.
const mostImages = 4096

// gemmTime is how long Run measures each matrix product, and the bandwidth.
const gemmTime = 200 * time.Millisecond

// Run places m on the default backend and measures steps on images of noise. If ctx is cancelled,
// it returns the context's error after the current step. Options out of range and a selection that
// does not fit m are a [run.OptionError].
func Run(ctx context.Context, m *backbone.Model, o Options) (*Report, error) {
	if err := o.Method.Validate(); err != nil {
		return nil, err
	}
	if o.Batch < 1 || o.Batch > mostImages || o.Steps < 1 {
		return nil, &run.OptionError{Err: fmt.Errorf("measuring %d steps of %d images: expected one step or more of 1 to %d images", o.Steps, o.Batch, mostImages)}
	}
	tuning, err := peft.New(m.Config, o.Selection)
	if err != nil {
		return nil, &run.OptionError{Err: fmt.Errorf("measuring %s: %w", o.Method, err)}
	}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		return nil, err
	}
	flop, err := work(m.Config, o.Selection, o.Method, o.Batch)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Machine: thisMachine(), GEMM: []gemm{},
		Model: o.Name, Method: o.Method, Batch: o.Batch, Budget: o.Budget, TunedParams: tuning.Counts.Tuned(), Steps: o.Steps,
		GFLOPPerImage: flop / float64(o.Batch) / 1e9,
	}
	r.PeakGFLOPS = peakGFLOPS(r.Machine.Threads)
	// Memory from before, such as the scores behind a plan, does not belong to a step.
	program.ReturnMemory()
	resetPeakRSS()
	seconds, err := r.steps(ctx, be, m, tuning, o)
	if err != nil {
		return nil, err
	}
	r.PeakRSSMB = peakRSS() / 1e6
	r.PeakGFLOPS = max(r.PeakGFLOPS, peakGFLOPS(r.Machine.Threads))
	r.SecondsPerStep = measure.Median(seconds)
	r.ImgPerS = float64(o.Batch) / r.SecondsPerStep
	r.LimitImgPerS = r.PeakGFLOPS / r.GFLOPPerImage
	r.LimitFraction = r.ImgPerS / r.LimitImgPerS
	// The arrays of the bandwidth are larger than those of a small step: PeakRSSMB comes first.
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
			g.GFLOPS = measure.GEMM(g.M, g.K, g.N, gemmTime)
			r.GEMM = append(r.GEMM, g)
		}
	}
	return r, nil
}

// peakGFLOPS returns the largest of several short measurements, because other programs take a part
// of the processor from time to time.
func peakGFLOPS(threads int) (gflops float64) {
	for range 6 {
		gflops = max(gflops, measure.PeakGFLOPS(threads, 50*time.Millisecond))
	}
	return gflops
}

// steps returns the seconds of each of o.Steps steps. One more step comes first; it compiles and
// warms up. steps also sets what r says of memory.
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
