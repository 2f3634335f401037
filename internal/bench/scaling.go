package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/classfolders"
	"github.com/sptune/spt/internal/cputime"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// ScalingOptions configures [Scaling].
type ScalingOptions struct {
	// Within is the time limit. Points that could exceed it are skipped. Default: 8 minutes.
	Within time.Duration
	// Large also measures the largest backbones and data sets, which take minutes and gigabytes.
	// Default: false.
	Large bool
	// Only restricts the report to curves whose name it matches. Default: all curves.
	Only *regexp.Regexp
	// Progress is called before each point with the curve and the point. It may be nil.
	Progress func(what string)
}

// ScalingReport holds the results of [Scaling]: how time and memory grow with one quantity at a
// time.
type ScalingReport struct {
	// Spt is the version of the program.
	Spt string `json:"spt"`
	// Started is the time at which the measurements started, in UTC.
	Started time.Time `json:"started"`
	// Seconds is the duration of all measurements.
	Seconds float64 `json:"seconds"`
	// Machine describes the machine.
	Machine machine `json:"machine"`
	// Curves holds the measured curves.
	Curves []ScalingCurve `json:"curves"`
}

// ScalingCurve holds the measured points of one curve, and its exponents. An exponent b belongs to
// the power law y = a·x^b that fits the points best; see [powerLaw]. It is nil if fewer than two
// points were measured.
type ScalingCurve struct {
	// Name is the name of the curve, such as "step over batch".
	Name string `json:"name"`
	// X is the quantity that grows, with its unit. Y is the work that is timed.
	X string `json:"x"`
	Y string `json:"y"`
	// Points holds the measured points, by x.
	Points []ScalingPoint `json:"points"`
	// Exponent is the exponent of the seconds, and CPUExponent that of the processor time.
	Exponent    *float64 `json:"exponent"`
	CPUExponent *float64 `json:"cpu_exponent"`
	// ArenaExponent and PeakExponent are the exponents of the memory, ArenaMB and PeakMB.
	ArenaExponent *float64 `json:"arena_exponent"`
	PeakExponent  *float64 `json:"peak_exponent"`
	// Skipped lists the points that were not measured.
	Skipped []SkippedPoint `json:"skipped"`
}

// ScalingPoint is a measured point of a curve. 1 MB is 10⁶ bytes.
type ScalingPoint struct {
	// X is the quantity that grows.
	X float64 `json:"x"`
	// Label is the name of the point, such as "ViT-B". Empty means that X says it.
	Label string `json:"label,omitempty"`
	// Seconds is the median time of the work.
	Seconds float64 `json:"seconds"`
	// CPUSeconds is the median processor time of the work, on all threads. Unlike Seconds, it
	// hardly depends on other programs.
	CPUSeconds float64 `json:"cpu_seconds"`
	// ArenaMB is the memory of the intermediate results of a step. It is 0 for other work.
	ArenaMB float64 `json:"arena_mb,omitempty"`
	// PeakMB is the greatest resident memory of the process. It is 0 if the system does not report
	// it.
	PeakMB float64 `json:"peak_mb,omitempty"`
}

// SkippedPoint is a point that was not measured.
type SkippedPoint struct {
	// X and Label are those of the point.
	X     float64 `json:"x"`
	Label string  `json:"label,omitempty"`
	// Reason says why the point was not measured.
	Reason string `json:"reason"`
	// Option is the name of the option that helps. Empty means that none does.
	Option string `json:"option,omitempty"`
}

// scalingRuns is the number of times that the work of a point is timed, after one warm-up.
const scalingRuns = 3

// scalingBatch is the number of images in a mini-batch, unless the mini-batch grows.
const scalingBatch = 4

// curve is a curve to measure.
type curve struct {
	name, x, y string
	points     []curvePoint
}

// curvePoint is a point of a curve.
type curvePoint struct {
	x     float64
	label string
	large bool // measured with ScalingOptions.Large only
	work  scalingWork
}

// scalingWork is the work of a point.
type scalingWork interface {
	// foresee returns the cost of the work. It needs far less time and memory than the work.
	foresee(ctx context.Context, s *scaling) (foreseen, error)
	// measure does the work and returns a point without X and Label.
	measure(ctx context.Context) (ScalingPoint, error)
}

// foreseen is the expected cost of the work of a point, with its warm-up. Zero means unknown.
type foreseen struct {
	seconds float64
	bytes   int64
	// option is the name of an option that reduces the memory, and reduced is the memory with it.
	option  string
	reduced int64
}

// scaling holds the state of a run of [Scaling].
type scaling struct {
	ScalingOptions
	*ScalingReport
	// available is measure.Available. Tests replace it.
	available func() (bytes int64, known bool)
	deadline  time.Time
	// peak is the speed in GFLOPS that [Peak] returned. It is 0 before the first use.
	peak float64
	// slower is the time of the last step as a multiple of its expected time. It corrects the next
	// expected time. It is 0 before the first step.
	slower float64
}

// Scaling measures how time and memory grow: of steps with the mini-batch, the tokens, the depth,
// the classes and the budget; of scoring and planning with the backbone; and of opening a data set
// with its images. The backbones have synthetic weights and the data sets are links to one file.
//
// A point is skipped if its expected time or memory exceeds the limits, or if the time ends while
// it is measured. The report lists these points. Scaling returns an error if ctx is cancelled, Only
// matches no curve, or a measurement fails.
func Scaling(ctx context.Context, o ScalingOptions) (*ScalingReport, error) {
	curves, err := scalingCurves()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range curves {
		names = append(names, c.name)
	}
	if o.Only != nil {
		curves = slices.DeleteFunc(curves, func(c curve) bool { return !o.Only.MatchString(c.name) })
	}
	if len(curves) == 0 {
		return nil, &run.OptionError{Option: "only", Err: fmt.Errorf("only %q matches no curve; the curves are: %s", o.Only, strings.Join(names, ", "))}
	}
	return newScaling(o).measure(ctx, curves)
}

// newScaling prepares a run. Its time begins now.
func newScaling(o ScalingOptions) *scaling {
	o.Within = cmp.Or(o.Within, 8*time.Minute)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	now := time.Now()
	return &scaling{ScalingOptions: o, available: measure.Available, deadline: now.Add(o.Within), ScalingReport: &ScalingReport{
		Spt: spt.Version, Started: now.UTC(), Machine: thisMachine(false), Curves: []ScalingCurve{},
	}}
}

// measure measures all curves.
func (s *scaling) measure(ctx context.Context, curves []curve) (*ScalingReport, error) {
	for _, c := range curves {
		out := ScalingCurve{Name: c.name, X: c.x, Y: c.y, Points: []ScalingPoint{}, Skipped: []SkippedPoint{}}
		// x of the last measured point, and the time for all of its work, in seconds
		last, lastSeconds := 0.0, 0.0
		for _, p := range c.points {
			start := time.Now()
			skipped, err := s.skips(ctx, p, lastSeconds*p.x/cmp.Or(last, p.x))
			if err == nil && skipped == nil {
				what := cmp.Or(p.label, fmt.Sprintf("%g", p.x))
				s.Progress(fmt.Sprintf("%s: %s (%s)", c.name, what, c.x))
				limited, cancel := context.WithDeadline(ctx, s.deadline)
				var measured ScalingPoint
				if measured, err = p.work.measure(limited); err == nil {
					measured.X, measured.Label = p.x, p.label
					out.Points = append(out.Points, measured)
					last, lastSeconds = p.x, time.Since(start).Seconds()
				} else if limited.Err() != nil && ctx.Err() == nil {
					skipped, err = &SkippedPoint{Reason: fmt.Sprintf("the time of %v was over while it was measured", s.Within), Option: "within"}, nil
				}
				cancel()
			}
			if err != nil {
				return s.ScalingReport, fmt.Errorf("measuring %s at %g: %w", c.name, p.x, cmp.Or(ctx.Err(), err))
			}
			if skipped != nil {
				skipped.X, skipped.Label = p.x, p.label
				out.Skipped = append(out.Skipped, *skipped)
			}
		}
		out.fit()
		s.Curves = append(s.Curves, out)
	}
	s.Seconds = time.Since(s.Started).Seconds()
	return s.ScalingReport, nil
}

// skips returns the reason why a point must be skipped, or nil. seconds is the expected time of the
// point if its work does not foresee one; 0 means unknown.
func (s *scaling) skips(ctx context.Context, p curvePoint, seconds float64) (*SkippedPoint, error) {
	if p.large && !s.Large {
		return &SkippedPoint{Reason: "it takes minutes and gigabytes", Option: "scaling-large"}, nil
	}
	left := time.Until(s.deadline).Seconds()
	if left <= 0 {
		return &SkippedPoint{Reason: fmt.Sprintf("the time of %v is over", s.Within), Option: "within"}, nil
	}
	f, err := p.work.foresee(ctx, s)
	if err != nil {
		return nil, err
	}
	available, known := s.available()
	if known && f.bytes > available {
		skipped := &SkippedPoint{Reason: fmt.Sprintf("it needs about %.1f GB of memory, but %.1f GB are available", float64(f.bytes)/1e9, float64(available)/1e9)}
		if f.option != "" && f.reduced <= available {
			skipped.Option = f.option
		}
		return skipped, nil
	}
	if seconds = cmp.Or(f.seconds, seconds); seconds > left {
		return &SkippedPoint{Reason: fmt.Sprintf("it takes about %.0f s, but %.0f s are left", seconds, left), Option: "within"}, nil
	}
	return nil, nil
}

// fit sets the exponents.
func (c *ScalingCurve) fit() {
	exponent := func(y func(ScalingPoint) float64) *float64 {
		var xs, ys []float64
		for _, p := range c.Points {
			if y(p) > 0 {
				xs, ys = append(xs, p.X), append(ys, y(p))
			}
		}
		if _, b, ok := powerLaw(xs, ys); ok {
			return &b
		}
		return nil
	}
	c.Exponent = exponent(func(p ScalingPoint) float64 { return p.Seconds })
	c.CPUExponent = exponent(func(p ScalingPoint) float64 { return p.CPUSeconds })
	c.ArenaExponent = exponent(func(p ScalingPoint) float64 { return p.ArenaMB })
	c.PeakExponent = exponent(func(p ScalingPoint) float64 { return p.PeakMB })
}

// powerLaw returns a and b of the power law y = a·x^b with the least sum of squared differences of
// log y. All x and y must be above 0. ok is false if there are fewer than two different x.
func powerLaw(x, y []float64) (a, b float64, ok bool) {
	var meanX, meanY float64
	for i := range x {
		meanX += math.Log(x[i]) / float64(len(x))
		meanY += math.Log(y[i]) / float64(len(x))
	}
	var xx, xy float64
	for i := range x {
		d := math.Log(x[i]) - meanX
		xx += d * d
		xy += d * (math.Log(y[i]) - meanY)
	}
	if len(x) < 2 || slices.Min(x) == slices.Max(x) {
		return 0, 0, false
	}
	b = xy / xx
	return math.Exp(meanY - b*meanX), b, true
}

// scalingCurves returns all curves.
func scalingCurves() ([]curve, error) {
	tiny, err := Config("tiny", 100)
	if err != nil {
		return nil, err
	}
	step := func(c backbone.Config, batch int) *stepWork {
		return &stepWork{config: c, method: Method(method.LoRA), batch: batch}
	}
	batch := curve{name: "step over batch", x: "images in a mini-batch", y: "step of LoRA, ViT-Ti, 224 px"}
	for n := 1; n <= 128; n *= 2 {
		batch.points = append(batch.points, curvePoint{x: float64(n), work: step(tiny, n)})
	}
	tokens := curve{name: "step over tokens", x: "tokens of an image", y: "step of LoRA, ViT-Ti, 4 images"}
	for _, size := range []int{112, 160, 224, 320, 384, 512} {
		c := tiny
		c.ImageSize = size
		tokens.points = append(tokens.points, curvePoint{x: float64(c.Tokens()), label: fmt.Sprintf("%d px", size), work: step(c, scalingBatch)})
	}
	depth := curve{name: "step over depth", x: "blocks of width 192", y: "step of LoRA, ViT of width 192, 4 images"}
	for _, blocks := range []int{3, 6, 12, 24} {
		depth.points = append(depth.points, curvePoint{x: float64(blocks), work: step(vitOf(tiny, 192, blocks, 3, 16), scalingBatch)})
	}
	classes := curve{name: "step over classes", x: "classes", y: "step of LoRA, ViT-Ti, 4 images"}
	for _, n := range []int{10, 100, 1000, 20_000} {
		c := tiny
		c.NumClasses = n
		classes.points = append(classes.points, curvePoint{x: float64(n), work: step(c, scalingBatch)})
	}
	budget := curve{name: "step over budget", x: "budget, % of the parameters", y: "step of SPT-LoRA, ViT-Ti, 4 images"}
	for _, percent := range []float64{0.25, 0.5, 1, 2, 4} {
		w := &stepWork{config: tiny, method: Method(method.SPTLoRA), budget: plan.MustParseBudget(fmt.Sprintf("%g%%", percent)), batch: scalingBatch}
		budget.points = append(budget.points, curvePoint{x: percent, work: w})
	}
	scoring := curve{name: "scoring over parameters", x: "parameters", y: "step of scoring, 4 images"}
	planning := curve{name: "planning over parameters", x: "parameters", y: "plan of SPT-LoRA for 0.5 % of the parameters"}
	for _, b := range []struct {
		label  string
		config backbone.Config
		large  bool
	}{
		{"ViT-Ti", tiny, false},
		{"ViT-S", vitOf(tiny, 384, 12, 6, 16), false},
		{"ViT-B", vitOf(tiny, 768, 12, 12, 16), false},
		{"ViT-L", vitOf(tiny, 1024, 24, 16, 16), true},
		{"ViT-H", vitOf(tiny, 1280, 32, 16, 14), true},
	} {
		x := float64(b.config.Size())
		scoring.points = append(scoring.points, curvePoint{x, b.label, b.large, &stepWork{config: b.config, method: score, batch: scalingBatch}})
		planning.points = append(planning.points, curvePoint{x, b.label, b.large, planWork{b.config}})
	}
	opening := curve{name: "opening over images", x: "images in class folders of 50", y: "opening a data set"}
	fingerprint := curve{name: "fingerprint over images", x: "images in class folders of 50", y: "fingerprint of a data set"}
	for _, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		opening.points = append(opening.points, curvePoint{float64(n), "", n > 100_000, folderWork{n, false}})
		fingerprint.points = append(fingerprint.points, curvePoint{float64(n), "", n > 100_000, folderWork{n, true}})
	}
	return []curve{batch, tokens, depth, classes, budget, scoring, planning, opening, fingerprint}, nil
}

// vitOf returns a ViT like c, which must be a ViT, in another size. Its MLPs are four times as wide
// as its tokens, as in all published sizes.
func vitOf(c backbone.Config, width, depth, heads, patch int) backbone.Config {
	form := c.Form.(backbone.ViT)
	form.EmbedDim, form.HiddenDim, form.Depth, form.PatchSize = width, 4*width, depth, patch
	c.Form, c.NumHeads = form, heads
	return c
}

// stepWork is a step of a method on images of noise.
type stepWork struct {
	config backbone.Config
	method Method
	budget plan.Budget
	batch  int
	// selection is the selection of tuned parameters, which foresee makes.
	selection peft.Selection
	// expected is the expected time of a step in seconds, without s.slower.
	expected float64
	s        *scaling
}

func (w *stepWork) foresee(ctx context.Context, s *scaling) (f foreseen, err error) {
	w.s = s
	if w.selection, err = Select(ctx, w.config, w.method, w.budget); err != nil {
		return f, err
	}
	flop, err := work(w.config, w.selection, w.method, w.batch)
	if err != nil {
		return f, err
	}
	if s.peak == 0 {
		s.peak = Peak()
	}
	w.expected = flop / 1e9 / (s.peak * shareOf(w.config).step)
	f.seconds = (scalingRuns + 1) * w.expected * cmp.Or(s.slower, 1)

	be, err := cpu.New("")
	if err != nil {
		return f, err
	}
	defer be.Finalize()
	weights := int64(4 * w.config.Size())
	size := int64(w.config.ImageSize)
	images := int64(w.batch) * 3 * size * size
	if w.method == score {
		// The footprint needs no weights, so it is known before the weights take memory.
		m := backbone.NewModel(w.config, backbone.Preprocessing{}, nil)
		total := func(batch int) (int64, error) {
			f, err := sensitivity.FootprintOf(be, m, objective.SingleLabel, sensitivity.Options{BatchSize: batch}, batch)
			return weights + 2*images + f.Scores + f.Activations + f.Packed, err
		}
		if f.bytes, err = total(w.batch); err != nil {
			return f, err
		}
		f.option = "score-batch-size"
		f.reduced, err = total(1)
		return f, err
	}
	tuning, err := peft.New(w.config, w.selection)
	if err != nil {
		return f, err
	}
	t, err := train.FootprintOf(be, Model(w.config), objective.SingleLabel, tuning, train.StepOptions{}, w.batch)
	f.bytes = weights + 2*images + t.State + t.Activations + t.Packed
	return f, err
}

func (w *stepWork) measure(ctx context.Context) (p ScalingPoint, err error) {
	tuning, err := peft.New(w.config, w.selection)
	if err != nil {
		return p, err
	}
	// A backend counts its largest arena so far, so each point has its own backend.
	be, err := cpu.New("")
	if err != nil {
		return p, err
	}
	defer be.Finalize()
	program.ReturnMemory()
	resetPeakRSS()
	var clock cpuClock
	o := Options{Method: w.method, Batch: w.batch, Steps: scalingRuns, Progress: func(int, int) { clock.lap() }}
	var r Report
	seconds, err := r.steps(ctx, be, Model(w.config).In(backend.F32, false), tuning, o)
	if err = cmp.Or(err, clock.err); err != nil {
		return p, err
	}
	p = ScalingPoint{Seconds: measure.Median(seconds), CPUSeconds: measure.Median(clock.laps[1:]), ArenaMB: r.ActivationsMB, PeakMB: peakRSS() / 1e6}
	w.s.slower = p.Seconds / w.expected
	return p, nil
}

// planWork is the plan of a backbone from synthetic scores.
type planWork struct{ config backbone.Config }

func (w planWork) foresee(context.Context, *scaling) (foreseen, error) {
	// The peak memory of a ViT-S grows by 5 bytes for each parameter: 4 of them are the score.
	const bytes = 6 // for each parameter
	return foreseen{bytes: bytes * int64(w.config.Size())}, nil
}

func (w planWork) measure(ctx context.Context) (ScalingPoint, error) {
	row, err := method.Lookup(method.SPTLoRA)
	if err != nil {
		return ScalingPoint{}, err
	}
	program.ReturnMemory()
	resetPeakRSS()
	scores := syntheticScores(w.config)
	return timeWork(ctx, func() error {
		_, err := spt.Plan(ctx, w.config, scores, plan.MustParseBudget("0.5%"), plan.Options{Module: row.Module, Rank: plan.DefaultRank})
		return err
	})
}

// folderWork opens a data set of class folders with links to a file, or takes its fingerprint.
type folderWork struct {
	images      int
	fingerprint bool
}

func (folderWork) foresee(context.Context, *scaling) (foreseen, error) { return foreseen{}, nil }

func (w folderWork) measure(ctx context.Context) (p ScalingPoint, err error) {
	dir, err := os.MkdirTemp("", "spt-scaling-")
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root, err := classfolders.Make(ctx, dir, w.images, max(1, w.images/50))
	if err != nil {
		return p, err
	}
	program.ReturnMemory()
	resetPeakRSS()
	var d *dataset.Dataset
	open := func() (err error) {
		d, err = dataset.Open(ctx, root, dataset.OpenOptions{})
		return err
	}
	if !w.fingerprint {
		return timeWork(ctx, open)
	}
	if err := open(); err != nil {
		return p, err
	}
	return timeWork(ctx, func() error {
		d.Fingerprint()
		return nil
	})
}

// timeWork calls f once as warm-up and then scalingRuns times. It returns the median times, and the
// greatest resident memory since the last resetPeakRSS.
func timeWork(ctx context.Context, f func() error) (p ScalingPoint, err error) {
	var seconds []float64
	var clock cpuClock
	for range scalingRuns + 1 {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		start := time.Now()
		if err := f(); err != nil {
			return p, err
		}
		seconds = append(seconds, time.Since(start).Seconds())
		clock.lap()
	}
	return ScalingPoint{Seconds: measure.Median(seconds[1:]), CPUSeconds: measure.Median(clock.laps[1:]), PeakMB: peakRSS() / 1e6}, clock.err
}

// cpuClock measures processor time in laps.
type cpuClock struct {
	last time.Duration
	laps []float64 // in seconds; the first lap begins with the process
	err  error
}

// lap ends a lap.
func (c *cpuClock) lap() {
	now, err := cputime.Process()
	c.laps, c.last, c.err = append(c.laps, (now-c.last).Seconds()), now, cmp.Or(c.err, err)
}
