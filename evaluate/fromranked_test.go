package evaluate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestFromRanked checks that the metrics of ranked predictions are those of the predictions, also
// with many classes and extreme logits.
func TestFromRanked(t *testing.T) {
	for _, c := range []struct {
		classes int
		scale   float64
	}{{2, 1}, {3, 5}, {6, 3}, {40, 1}, {40, 8}, {40, 60}} {
		rng := rand.New(rand.NewPCG(1, uint64(c.classes)))
		p := &Predictions{}
		for i := range c.classes {
			p.Classes = append(p.Classes, fmt.Sprint(i))
		}
		for i := range 300 {
			logits, target := make([]float32, c.classes), rng.IntN(c.classes)
			for j := range logits {
				logits[j] = float32(c.scale * rng.NormFloat64())
			}
			logits[target] += float32(c.scale)
			if err := p.Add([]string{fmt.Sprint(i)}, []int32{int32(target)}, logits); err != nil {
				t.Fatal(err)
			}
		}
		want, err := p.Metrics(1)
		if err != nil {
			t.Fatal(err)
		}
		ranked, err := FromRanked(p.Classes, p.Ranked(5, 1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ranked.Metrics(1)
		if err != nil {
			t.Fatal(err)
		}
		if got.Correct != want.Correct || got.Top5 != want.Top5 || got.Kappa != want.Kappa || !reflect.DeepEqual(got.Classes, want.Classes) || !reflect.DeepEqual(got.Confusion, want.Confusion) {
			t.Errorf("%d classes, scale %g: found %d correct, top-5 %g, kappa %g; want %d, %g, %g", c.classes, c.scale, got.Correct, got.Top5, got.Kappa, want.Correct, want.Top5, want.Kappa)
		}
		if math.Abs(got.LogLoss-want.LogLoss) > 1e-5*(1+want.LogLoss) || math.Abs(got.Calibration.ECE-want.Calibration.ECE) > 1e-5 {
			t.Errorf("%d classes, scale %g: log loss %g, ECE %g; want %g, %g", c.classes, c.scale, got.LogLoss, got.Calibration.ECE, want.LogLoss, want.Calibration.ECE)
		}
	}
	if _, err := FromRanked([]string{"a"}, []Ranked{{Path: "x", Top: []ClassProbability{{3, 1}}}}); err == nil {
		t.Error("a class outside of the classes: no error")
	}
}
