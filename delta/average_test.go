package delta_test

import (
	"math"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
)

// merged returns the merged weights of a delta.
func merged(t *testing.T, m *backbone.Model, d *delta.Delta) *delta.Merged {
	t.Helper()
	out, err := d.Merge(t.Context(), be(t), m, probes(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestInterpolate compares interpolated weights with a delta whose changes were scaled before the
// merge: its B, its entries, and the differences of its whole vectors.
func TestInterpolate(t *testing.T) {
	const alpha = 0.25
	m := tiny(tinyConfig, 1)
	d := result(t, m, "spt-lora", selections()["spt-lora"])
	whole := merged(t, m, d)
	got, err := whole.Interpolate(m, alpha)
	if err != nil {
		t.Fatal(err)
	}
	scaled := *d
	scaled.Tuned = checkpoint.StateDict{}
	for name, x := range d.Tuned {
		y := checkpoint.Tensor{Shape: x.Shape, Data: append([]float32(nil), x.Data...)}
		base, own := m.Weights[name]
		for i, v := range x.Data {
			switch {
			case strings.HasPrefix(name, "head."):
			case own:
				y.Data[i] = base.Data[i] + alpha*(v-base.Data[i])
			case strings.HasSuffix(name, ".lora_B") || strings.HasSuffix(name, ".sparse_values"):
				y.Data[i] = alpha * v
			}
		}
		scaled.Tuned[name] = y
	}
	want := merged(t, m, &scaled)
	changed := 0
	for name, x := range want.Model.Weights {
		for i, v := range x.Data {
			if math.Abs(float64(got.Model.Weights[name].Data[i]-v)) > 1e-6 {
				t.Fatalf("%s[%d] is %v, want %v", name, i, got.Model.Weights[name].Data[i], v)
			}
			if w, ok := m.Weights[name]; ok && v != w.Data[i] {
				changed++
			}
		}
	}
	if changed == 0 {
		t.Error("the delta changes no weight")
	}
	if _, err := whole.Interpolate(m, math.NaN()); err == nil {
		t.Error("an alpha of NaN was accepted")
	}
}

// TestAverage compares the average of two deltas with the mean of their weights.
func TestAverage(t *testing.T) {
	m := tiny(tinyConfig, 1)
	a, b := merged(t, m, result(t, m, "lora", selections()["lora"])), merged(t, m, result(t, m, "bitfit", selections()["bitfit"]))
	mean, err := delta.Average([]*delta.Merged{a, b})
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range mean.Model.Weights {
		for i, v := range x.Data {
			if want := (float64(a.Model.Weights[name].Data[i]) + float64(b.Model.Weights[name].Data[i])) / 2; math.Abs(float64(v)-want) > 1e-7 {
				t.Fatalf("%s[%d] is %v, want %v", name, i, v, want)
			}
		}
	}
	other := *b
	other.Transform.TestFlip = true
	if _, err := delta.Average([]*delta.Merged{a, &other}); err == nil || !strings.Contains(err.Error(), "delta 2") {
		t.Errorf("Average of two transforms returned %v", err)
	}
	if _, err := delta.Average(nil); err == nil {
		t.Error("Average of nothing returned no error")
	}
}
