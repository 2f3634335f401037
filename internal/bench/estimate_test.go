package bench

import (
	"math"
	"testing"

	"github.com/sptune/spt/backbone/catalogue"
)

// TestEstimate compares estimates with the images per second that docs/benchmarks.md states for the
// machine EPYC, whose peak is 234 GFLOPS. Zero means that the document has no figure.
func TestEstimate(t *testing.T) {
	for name, want := range map[string]struct{ forward, step float64 }{
		"vit_base": {6.51, 3.04}, "vit_tiny": {82.3, 32.2}, "swin_tiny": {18.7, 0}, "convnext_tiny": {19.2, 0},
	} {
		b, _ := catalogue.Find(name)
		forward, step, err := Estimate(b.Config, 234)
		if err != nil {
			t.Fatal(err)
		}
		for what, pair := range map[string][2]float64{"forward": {1 / forward, want.forward}, "step": {1 / step, want.step}} {
			if pair[1] != 0 && math.Abs(pair[0]/pair[1]-1) > 0.1 {
				t.Errorf("%s: estimate of %.1f images/s for a %s pass, measured %.1f", name, pair[0], what, pair[1])
			}
		}
	}
}

// TestQuickest checks what the catalogue says of the time of backbones.
func TestQuickest(t *testing.T) {
	seconds := map[string]float64{}
	for _, b := range catalogue.All() {
		_, step, err := Estimate(b.Config, 1)
		if err != nil {
			t.Fatal(err)
		}
		seconds[b.Name] = step
	}
	for name, s := range seconds {
		if s < 0.95*seconds["convnext_atto"] {
			t.Errorf("%s takes less time than convnext_atto", name)
		}
	}
	for _, test := range []struct {
		name, than string
		times      float64
	}{{"vit_small_patch32", "vit_tiny", 0.75}, {"vit_base_patch32_clip", "vit_base", 0.25}, {"convnext_nano", "vit_tiny", 2},
		{"convnext_tiny", "vit_small", 1.1}, {"swin_tiny", "vit_small", 1.2}, {"swin_base", "vit_base", 1.2}} {
		if got := seconds[test.name] / seconds[test.than]; math.Abs(got/test.times-1) > 0.1 {
			t.Errorf("%s takes %.2f times the time of %s, expected %.2f", test.name, got, test.than, test.times)
		}
	}
}
