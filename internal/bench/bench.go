// Package bench measures how fast this machine tunes and how far from its
// limit that is.
//
// [Run] times steps of one [Method] on a backbone and holds them against the
// arithmetic that they cannot do without ([Work]) and the processors' measured
// multiply-add peak. The backbone is a checkpoint's or a synthetic one
// ([Config], [Model]); what is tuned is a plan's or a synthetic selection
// ([Select]). So it needs no file, and every machine measures the same work.
package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Method is what a step does: tune by one of package spt's methods, with the
// recipe's drop rates, or one of the two below. Linear passes every image
// through the backbone in every step, where a run computes features once.
type Method string

// The methods that tune nothing. The others are those of package spt.
const (
	Forward Method = "forward" // prediction
	Score   Method = "score"   // stage 1: squared gradients of every scored weight
)

// Methods lists the methods.
func Methods() []Method {
	return []Method{Method(method.SPTLoRA), Method(method.SPTAdapter), Method(method.LoRA), Method(method.Adapter), Method(method.Full), Method(method.Linear), Forward, Score}
}

// Validate says what is wrong with m, if anything, as an *[run.OptionError].
func (m Method) Validate() error {
	if slices.Contains(Methods(), m) {
		return nil
	}
	var names []string
	for _, k := range Methods() {
		names = append(names, string(k))
	}
	return &run.OptionError{Err: fmt.Errorf("method %q cannot be measured; known: %s", m, strings.Join(names, ", "))}
}

// Scores reports whether a step of the method tunes what a plan selects.
func (m Method) Scores() bool {
	row, err := method.Lookup(method.Method(m))
	return err == nil && row.Scores
}

// Options say what [Run] measures.
type Options struct {
	Name   string // of the backbone, for the report
	Method Method
	// Selection is what is tuned, of [Select] or a plan; see [spt.Select].
	Selection peft.Selection
	Budget    plan.Budget // of the selection, for the report; zero: the method takes none
	Batch     int         // images in a step, 1 to 4096
	Steps     int         // timed after one that warms up, at least 1
	GEMM      bool        // measure matrix products of the backbone's shapes too
	Breakdown bool        // say what the time of the steps goes to
	// Progress is called after each step, with 0 after the one that warms up.
	// Nil: not at all.
	Progress func(done, total int)
}

// Report is what was measured. GFLOPS are 10⁹ floating-point operations a
// second, two for a multiply-add; MB are 10⁶ bytes.
type Report struct {
	Machine     Machine `json:"machine"`
	PeakGFLOPS  float64 `json:"peak_gflops"`    // multiply-adds in registers, all threads; the largest of several measurements before and after the steps
	BandwidthGB float64 `json:"bandwidth_gb_s"` // reading and writing arrays far larger than the caches
	GEMM        []GEMM  `json:"gemm"`           // empty if not asked for

	Model          string      `json:"model"`
	Method         Method      `json:"method"`
	Batch          int         `json:"batch"`
	Budget         plan.Budget `json:"budget"`       // zero: the method takes none
	TunedParams    int         `json:"tuned_params"` // without the head
	GFLOPPerImage  float64     `json:"gflop_per_image"`
	LimitImgPerS   float64     `json:"limit_img_per_s"` // peak ÷ GFLOP per image
	ImgPerS        float64     `json:"img_per_s"`
	LimitFraction  float64     `json:"limit_fraction"`   // of the limit that was reached
	SecondsPerStep float64     `json:"seconds_per_step"` // median
	Steps          int         `json:"steps"`
	WeightsMB      float64     `json:"weights_mb"`          // frozen and tuned tensors, and the positions of single entries
	ActivationsMB  float64     `json:"activations_mb"`      // intermediate results of a step
	OptimizerMB    float64     `json:"optimizer_mb"`        // both moments of AdamW; for score the sums of squares
	PackedMB       float64     `json:"packed_mb"`           // weights once more, in the matrix kernel's layout
	Breakdown      []Part      `json:"breakdown,omitempty"` // what a step's time goes to, the longest first
	PeakRSSMB      float64     `json:"peak_rss_mb"`         // of the process from placing the weights to the last step; 0: the system does not say
}

// Machine is where it was measured.
type Machine struct {
	CPU     string `json:"cpu"` // empty: the system does not say
	Arch    string `json:"arch"`
	Threads int    `json:"threads"`
	Kernel  string `json:"kernel"` // of matrix products
}

// GEMM is a matrix product [m,k]·[k,n] of the backbone.
type GEMM struct {
	Name   string  `json:"name"`
	M      int     `json:"m"`
	K      int     `json:"k"`
	N      int     `json:"n"`
	GFLOPS float64 `json:"gflops"`
}

// Part is what the operations of one kind and size take of a step.
type Part struct {
	Kind    string  `json:"kind"`
	Detail  string  `json:"detail"`
	Calls   float64 `json:"calls"`   // in a step
	Seconds float64 `json:"seconds"` // of a step
}

// mostImages bounds a batch, so that a slip of the finger is an error rather
// than all of the memory.
const mostImages = 4096

// gemmTime is how long each matrix product, and the bandwidth, is measured.
const gemmTime = 200 * time.Millisecond

// Run measures o on m, which it places on the default backend. The images are
// noise. Cancelling ctx ends it between two steps with the context's error.
// Options out of range are an *[run.OptionError]; so is a selection that m
// does not fit.
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
	be, err := backend.New()
	if err != nil {
		return nil, err
	}
	r := &Report{
		Machine: thisMachine(), GEMM: []GEMM{},
		Model: o.Name, Method: o.Method, Batch: o.Batch, Budget: o.Budget, TunedParams: tuning.Counts.Tuned(), Steps: o.Steps,
		GFLOPPerImage: Work(m.Config, o.Selection, o.Method, 1) / 1e9,
	}
	r.PeakGFLOPS = peak(r.Machine.Threads)
	// What came before, such as the scores behind a plan, is no part of a step.
	backend.ReturnMemory()
	resetPeakRSS()
	seconds, err := r.steps(ctx, be, m, tuning, o)
	if err != nil {
		return nil, err
	}
	r.PeakRSSMB = peakRSS() / 1e6
	r.PeakGFLOPS = max(r.PeakGFLOPS, peak(r.Machine.Threads))
	r.SecondsPerStep = measure.Median(seconds)
	r.ImgPerS = float64(o.Batch) / r.SecondsPerStep
	r.LimitImgPerS = r.PeakGFLOPS / r.GFLOPPerImage
	r.LimitFraction = r.ImgPerS / r.LimitImgPerS
	// After the peak of memory was read: its arrays are larger than a small step's.
	r.BandwidthGB = measure.Bandwidth(gemmTime)
	if o.GEMM {
		for _, g := range products(m.Config, o.Batch) {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("measuring matrix products: %w", err)
			}
			g.GFLOPS = measure.GEMM(g.M, g.K, g.N, gemmTime)
			r.GEMM = append(r.GEMM, g)
		}
	}
	return r, nil
}

// peak is the largest of several short measurements: what other programs take
// away is no part of the limit.
func peak(threads int) (gflops float64) {
	for range 6 {
		gflops = max(gflops, measure.PeakGFLOPS(threads, 50*time.Millisecond))
	}
	return gflops
}

// steps times o.Steps steps after one that compiles and warms up, in seconds
// each, and notes what memory they took.
func (r *Report) steps(ctx context.Context, be backend.Backend, m *backbone.Model, tuning *peft.Tuning, o Options) ([]float64, error) {
	step, err := newStep(be, m, tuning, o.Method)
	if err != nil {
		return nil, err
	}
	defer step.close()
	r.OptimizerMB = float64(step.state) / 1e6
	if b, ok := be.(*cpu.Backend); ok {
		r.WeightsMB = float64(b.Memory().Buffers)/1e6 - r.OptimizerMB
	}
	x, err := noise(be, m.Config, o.Batch)
	if err != nil {
		return nil, err
	}
	defer x.free()
	var seconds []float64
	for i := range o.Steps + 1 {
		start := time.Now()
		if err := step.run(ctx, x, 1); err != nil {
			return nil, fmt.Errorf("measuring %s: %w", o.Method, err)
		}
		if i > 0 {
			seconds = append(seconds, time.Since(start).Seconds())
		} else if own, ok := be.(*cpu.Backend); ok && o.Breakdown {
			own.StartTimings()
		}
		if o.Progress != nil {
			o.Progress(i, o.Steps)
		}
	}
	if b, ok := be.(*cpu.Backend); ok {
		if o.Breakdown {
			for _, t := range b.Timings() {
				r.Breakdown = append(r.Breakdown, Part{t.Kind, t.Detail, float64(t.Calls) / float64(o.Steps), t.Seconds / float64(o.Steps)})
			}
		}
		used := b.Memory()
		r.ActivationsMB, r.PackedMB = float64(used.Arena)/1e6, float64(used.Packed)/1e6
	}
	return seconds, nil
}

// batch is images and labels as train.Stepper takes them, one by one and as data.
type batch struct {
	images, labels *tensors.Tensor
	data           *train.Data
}

func (b batch) free() { backend.Free(b.images, b.labels) }

// noise is a batch of random pixels, always the same, with labels in turn.
func noise(be backend.Backend, c backbone.Config, n int) (b batch, err error) {
	random := rand.New(rand.NewPCG(1, 0))
	pixels, labels := make([]uint8, n*c.ImageSize*c.ImageSize*3), make([]int32, n)
	for i := range pixels {
		pixels[i] = uint8(random.Uint32())
	}
	for i := range labels {
		labels[i] = int32(i % c.NumClasses)
	}
	size := c.ImageSize * c.ImageSize * 3
	var samples []dataset.Sample
	for i := range n {
		samples = append(samples, dataset.Sample{Image: &dataset.RGB{Width: c.ImageSize, Height: c.ImageSize, Pix: pixels[i*size : (i+1)*size]}, Target: dataset.Class(labels[i])})
	}
	b.data = train.Images(dataset.NewLoader(samples, dataset.Transform{Size: c.ImageSize}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	if b.images, err = backend.Uint8(be, pixels, n, c.ImageSize, c.ImageSize, 3); err == nil {
		b.labels, err = backend.Int32(be, labels, n)
	}
	return b, err
}

// step is one step of a method, to be repeated.
type step struct {
	enqueue func(ctx context.Context, b batch) error // takes so many steps
	steps   int
	finish  func() error // waits for what was enqueued
	close   func()
	state   int                 // bytes that are kept from step to step beside weights
	scorer  *sensitivity.Scorer // of Score
}

// loopSteps is how many training steps on a device are one program.
const loopSteps = 10

// run takes n times the step's steps on the same batch.
func (s *step) run(ctx context.Context, b batch, n int) error {
	for range n {
		if err := s.enqueue(ctx, b); err != nil {
			return err
		}
	}
	return s.finish()
}

func newStep(be backend.Backend, m *backbone.Model, tuning *peft.Tuning, method Method) (*step, error) {
	tuned := tuning.Init(0, m.Weights)
	s := &step{steps: 1, finish: func() error { return nil }}
	switch method {
	case Forward:
		p, err := train.NewPredictor(be, m, objective.SingleLabel, tuning, tuned)
		if err != nil {
			return nil, err
		}
		s.close = p.Close
		s.enqueue = func(ctx context.Context, b batch) error {
			_, err := p.Logits(ctx, b.images)
			return err
		}
	case Score:
		scorer, err := sensitivity.NewScorer(be, m, objective.SingleLabel, tuned)
		if err != nil {
			return nil, err
		}
		for _, p := range m.Config.Params() {
			if p.Role == backbone.Scored {
				s.state += 4 * p.Size()
			}
		}
		s.scorer, s.close = scorer, scorer.Close
		s.enqueue = func(ctx context.Context, b batch) error {
			_, err := scorer.Add(ctx, b.images, b.labels)
			return err
		}
	default:
		recipe := train.VTAB()
		rates := peft.Rates{DropPath: recipe.DropPath, Dropout: recipe.Dropout, ModuleDropPath: recipe.ModuleDropPath}
		stepper, err := train.NewStepper(be, m, objective.SingleLabel, tuning, tuned, rates, recipe.WeightDecay)
		if err != nil {
			return nil, err
		}
		for _, p := range tuning.Params {
			s.state += 2 * 4 * p.Size()
		}
		s.close = stepper.Close
		s.enqueue = func(ctx context.Context, b batch) error {
			// The recipe's first rate: noise teaches nothing, and nothing diverges.
			return stepper.Enqueue(ctx, b.images, b.labels, recipe.WarmupLR, 0)
		}
		if backend.OnDevice(be) { // as train.Run does
			s.steps = loopSteps
			lrs := slices.Repeat([]float64{recipe.WarmupLR}, loopSteps)
			s.enqueue = func(ctx context.Context, b batch) error {
				order := make([]int, 0, loopSteps*b.data.Len())
				for range loopSteps {
					for i := range b.data.Len() {
						order = append(order, i)
					}
				}
				_, err := stepper.EnqueueLoop(ctx, b.data, order, lrs, 0, 0)
				return err
			}
		}
		s.finish = func() error {
			_, err := stepper.Read()
			return err
		}
	}
	return s, nil
}

// products are the forward products of the backbone on a batch. Those of the
// backward pass for inputs have the same shapes, k and n exchanged.
func products(c backbone.Config, batch int) []GEMM {
	var v backbone.ViT
	switch form := c.Form.(type) {
	case backbone.ConvNeXt:
		return convnextProducts(c, form, batch)
	case backbone.Swin:
		return swinProducts(c, form, batch)
	case backbone.ViT:
		v = form
	default:
		return nil
	}
	tokens, d, h := batch*c.Tokens(), v.EmbedDim, v.HiddenDim
	up := h // what fc1 returns
	if v.SwiGLU {
		up *= 2
	}
	return []GEMM{
		{Name: "patch_embed.proj", M: batch * (c.ImageSize / v.PatchSize) * (c.ImageSize / v.PatchSize), K: 3 * v.PatchSize * v.PatchSize, N: d},
		{Name: "attn.q, k, v, proj", M: tokens, K: d, N: d},
		{Name: "mlp.fc1", M: tokens, K: d, N: up},
		{Name: "mlp.fc2", M: tokens, K: h, N: d},
	}
}
