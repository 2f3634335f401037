package bench

import (
	"context"
	"errors"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
)

// TestPowerLaw checks fits of exact power laws, and of points that have no exponent.
func TestPowerLaw(t *testing.T) {
	x := []float64{1, 2, 5, 30, 1000}
	for _, want := range []struct{ a, b float64 }{{3, 1}, {0.01, 2}, {7, 0}, {2, 0.5}, {4, -1.5}} {
		var y []float64
		for _, v := range x {
			y = append(y, want.a*math.Pow(v, want.b))
		}
		if a, b, ok := powerLaw(x, y); !ok || math.Abs(a/want.a-1) > 1e-9 || math.Abs(b-want.b) > 1e-9 {
			t.Errorf("%g·x^%g: found %g·x^%g, %v", want.a, want.b, a, b, ok)
		}
	}
	// With residuals of log y of 1, −2 and 1 the line does not change.
	if _, b, ok := powerLaw([]float64{1, math.E, math.E * math.E}, []float64{math.E, math.Exp(-1), math.Exp(3)}); !ok || math.Abs(b-1) > 1e-9 {
		t.Errorf("exponent %g, want 1", b)
	}
	for _, x := range [][]float64{nil, {2}, {2, 2}} {
		if _, _, ok := powerLaw(x, x); ok {
			t.Errorf("a fit through %v", x)
		}
	}
}

// TestScalingCurves checks that the curves have distinct names and growing x, and that --only finds
// them.
func TestScalingCurves(t *testing.T) {
	curves, err := scalingCurves()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range curves {
		if seen[c.name] || c.x == "" || c.y == "" || len(c.points) < 4 {
			t.Errorf("curve %q of %q over %q with %d points", c.name, c.y, c.x, len(c.points))
		}
		seen[c.name] = true
		if !slices.IsSortedFunc(c.points, func(a, b curvePoint) int { return int(a.x - b.x) }) && c.name != "step over budget" {
			t.Errorf("%s: x does not grow", c.name)
		}
	}
	for label, millions := range map[string]float64{"ViT-Ti": 5.5, "ViT-S": 21.7, "ViT-B": 85.8, "ViT-L": 303, "ViT-H": 631} {
		points := curves[slices.IndexFunc(curves, func(c curve) bool { return c.name == "planning over parameters" })].points
		i := slices.IndexFunc(points, func(p curvePoint) bool { return p.label == label })
		if got := points[i].x / 1e6; math.Abs(got/millions-1) > 0.01 {
			t.Errorf("%s has %.1f million parameters, want %.1f", label, got, millions)
		}
	}
	_, err = Scaling(t.Context(), ScalingOptions{Only: regexp.MustCompile("nothing")})
	refused(t, err, `only "nothing" matches no curve; the curves are: step over batch, `)
}

// TestScaling measures small curves of all kinds of work.
func TestScaling(t *testing.T) {
	c := backbone.Config{ImageSize: 32, NumClasses: 5, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: 8, EmbedDim: 64, Depth: 2, HiddenDim: 128}}
	var lines []string
	s := newScaling(ScalingOptions{Progress: func(what string) { lines = append(lines, what) }})
	r, err := s.measure(t.Context(), []curve{
		{name: "step", x: "images", points: []curvePoint{
			{x: 1, work: &stepWork{config: c, method: Method(method.LoRA), batch: 1}},
			{x: 8, work: &stepWork{config: c, method: Method(method.LoRA), batch: 8}},
		}},
		{name: "score", x: "images", points: []curvePoint{{x: 2, label: "two", work: &stepWork{config: c, method: score, batch: 2}}}},
		{name: "plan", x: "parameters", points: []curvePoint{{x: 1, work: planWork{vitOf(c, 64, 24, 2, 8)}}}},
		{name: "open", x: "images", points: []curvePoint{{x: 100, work: folderWork{100, false}}, {x: 200, work: folderWork{200, false}}}},
		{name: "fingerprint", x: "images", points: []curvePoint{{x: 100, work: folderWork{100, true}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "step: 1 (images)|step: 8 (images)|score: two (images)|plan: 1 (parameters)|open: 100 (images)|open: 200 (images)|fingerprint: 100 (images)"; strings.Join(lines, "|") != want {
		t.Errorf("progress %q", lines)
	}
	for i, curve := range r.Curves {
		if len(curve.Skipped) > 0 || (curve.Exponent != nil) != (len(curve.Points) > 1) || (curve.CPUExponent != nil) != (len(curve.Points) > 1) {
			t.Errorf("%+v", curve)
		}
		for _, p := range curve.Points {
			if !(p.Seconds > 0) || !(p.CPUSeconds > 0) || (p.ArenaMB > 0) != (i < 2) {
				t.Errorf("%s: %+v", curve.Name, p)
			}
		}
	}
	if r.Curves[0].ArenaExponent == nil || r.Curves[3].ArenaExponent != nil {
		t.Errorf("exponents of the arenas: %v, %v", r.Curves[0].ArenaExponent, r.Curves[3].ArenaExponent)
	}
}

// costly is work with a given expected cost. measure waits for the end of its context.
type costly struct{ foreseen }

func (w costly) foresee(context.Context, *scaling) (foreseen, error) { return w.foreseen, nil }

func (w costly) measure(ctx context.Context) (ScalingPoint, error) {
	if w.seconds == 0 {
		return ScalingPoint{Seconds: 1}, nil
	}
	<-ctx.Done()
	return ScalingPoint{}, ctx.Err()
}

// TestScalingSkips checks the reasons for which points are skipped.
func TestScalingSkips(t *testing.T) {
	s := newScaling(ScalingOptions{Within: 200 * time.Millisecond})
	s.available = func() (int64, bool) { return 2e9, true }
	r, err := s.measure(t.Context(), []curve{{name: "costs", points: []curvePoint{
		{x: 1, work: costly{}},
		{x: 2, large: true, work: costly{}},
		{x: 3, work: costly{foreseen{bytes: 3e9}}},
		{x: 4, work: costly{foreseen{bytes: 3e9, option: "score-batch-size", reduced: 2.5e9}}},
		{x: 5, work: costly{foreseen{bytes: 3e9, option: "score-batch-size", reduced: 1e9}}},
		{x: 6, work: costly{foreseen{seconds: 60}}},
		{x: 7, label: "seven", work: costly{foreseen{seconds: 0.01}}},
		{x: 8, work: costly{}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	got := r.Curves[0]
	memory := "it needs about 3.0 GB of memory, but 2.0 GB are available"
	want := []SkippedPoint{
		{2, "", "it takes minutes and gigabytes", "scaling-large"},
		{3, "", memory, ""}, {4, "", memory, ""}, {5, "", memory, "score-batch-size"},
		{6, "", "it takes about 60 s, but 0 s are left", "within"},
		{7, "seven", "the time of 200ms was over while it was measured", "within"},
		{8, "", "the time of 200ms is over", "within"},
	}
	if !slices.Equal(got.Skipped, want) {
		t.Errorf("skipped %+v", got.Skipped)
	}
	if len(got.Points) != 1 || got.Points[0].X != 1 || got.Exponent != nil {
		t.Errorf("points %+v", got.Points)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := newScaling(ScalingOptions{}).measure(ctx, []curve{{points: []curvePoint{{x: 1, work: costly{foreseen{seconds: 0.01}}}}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestScalingForesees checks that the foreseen memory of scoring does not need the weights, and
// that the foreseen time of a point without its own estimate grows with x.
func TestScalingForesees(t *testing.T) {
	tiny := size(t, "tiny", 10)
	w := &stepWork{config: tiny, method: score, batch: scalingBatch}
	f, err := w.foresee(t.Context(), newScaling(ScalingOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	// three tensors of the size of the scores, the weights and their packed copies, 78 MB of arena
	if mb := float64(f.bytes) / 1e6; mb < 150 || mb > 250 || f.reduced >= f.bytes {
		t.Errorf("%.0f MB, %.0f MB for one image", mb, float64(f.reduced)/1e6)
	}
	s := newScaling(ScalingOptions{Within: time.Minute})
	if skipped, err := s.skips(t.Context(), curvePoint{x: 10, work: costly{}}, 600); err != nil || skipped == nil || !strings.Contains(skipped.Reason, "about 600 s") {
		t.Errorf("%+v, %v", skipped, err)
	}
}
