//go:build xla && linux

package drop

import (
	"math"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/devicetest"
	"github.com/sptune/spt/internal/program"
)

// TestDraw checks that a device drops values at the given rate, in each row and column. It also
// checks that each call and each step draws other values.
func TestDraw(t *testing.T) {
	be, _ := devicetest.Open(t)
	const rows, columns, rate = 400, 600, 0.1
	p, err := program.New(be, "draw", func(_ *Graph, in []*Node) []*Node {
		m := New(in[0])
		return []*Node{ConvertDType(m.draw([]int{rows, columns}, rate), dtypes.Float32), ConvertDType(m.draw([]int{rows, columns}, rate), dtypes.Float32)}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var all [][]float32
	for step := range uint64(2) {
		rng, err := program.Tensor(be, []uint64{step*0x9e3779b97f4a7c15 + 1, step + 7, 0}, 3)
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Run(t.Context(), rng)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range out {
			v, err := program.Float32s(x)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		}
	}
	within := func(what string, kept float64, n int, deviations float64) {
		if d := math.Abs(kept-(1-rate)*float64(n)) / math.Sqrt(rate*(1-rate)*float64(n)); d > deviations {
			t.Errorf("%s: %g of %d values kept, which is %.1f standard deviations off", what, kept, n, d)
		}
	}
	for k, v := range all {
		sums := map[string][]float64{"row": make([]float64, rows), "column": make([]float64, columns)}
		total := 0.0
		for i, x := range v {
			sums["row"][i/columns] += float64(x)
			sums["column"][i%columns] += float64(x)
			total += float64(x)
		}
		within("all", total, len(v), 4)
		for what, s := range sums {
			for _, kept := range s {
				within(what, kept, len(v)/len(s), 5)
			}
		}
		for _, w := range all[:k] {
			both := 0.0
			for i := range v {
				both += float64((1 - v[i]) * (1 - w[i])) // dropped in both
			}
			n := float64(len(v))
			if d := math.Abs(both-rate*rate*n) / math.Sqrt(rate*rate*(1-rate*rate)*n); d > 4 || slices.Equal(v, w) {
				t.Errorf("two draws both drop %g of %g values, which is %.1f standard deviations off", both, n, d)
			}
		}
	}
}
