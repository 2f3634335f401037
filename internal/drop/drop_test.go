package drop_test

import (
	"math"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/drop"
	"github.com/sptune/spt/internal/program"
)

// TestMasks checks how many values dropout and drop-path drop, the scale of the other values, and
// that equal random states give equal masks.
func TestMasks(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	const images, width, rate = 2000, 8, 0.25
	p, err := program.New(be, "masks", func(_ *Graph, in []*Node) []*Node {
		m, x := drop.New(in[0]), in[1]
		return []*Node{m.Values(x, rate, x.Shape().Dimensions), m.Images(x, rate), m.Images(x, rate), m.Images(x, 0), drop.New(nil).Images(x, rate)}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ones, err := program.Tensor(be, slices.Repeat([]float32{1}, images*width), images, width)
	if err != nil {
		t.Fatal(err)
	}
	run := func(seed uint64) (out [][]float32) {
		state, err := program.Tensor(be, []uint64{seed, 1, 2}, 3)
		if err != nil {
			t.Fatal(err)
		}
		var got []*tensors.Tensor
		if got, err = p.Run(t.Context(), state, ones); err != nil {
			t.Fatal(err)
		}
		for _, x := range got {
			v, err := program.Float32s(x)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		return out
	}
	first, again, other := run(1), run(1), run(2)
	for i, x := range first {
		n := 0
		for k, v := range x {
			switch {
			case v == 0:
				n++
			case i < 3 && math.Abs(float64(v)-1/(1-rate)) > 1e-6, i >= 3 && v != 1:
				t.Fatalf("output %d: value %d is %g", i, k, v)
			}
			if (i == 1 || i == 2) && v != x[k/width*width] {
				t.Fatalf("output %d: image %d is dropped in part", i, k/width)
			}
		}
		want := []float64{rate, rate, rate, 0, 0}[i]
		if share := float64(n) / float64(len(x)); math.Abs(share-want) > 0.04 {
			t.Errorf("output %d: %.3f of the values are dropped, expected %g", i, share, want)
		}
		if !slices.Equal(x, again[i]) {
			t.Errorf("output %d: two runs with the same random state differ", i)
		}
		if i < 3 && slices.Equal(x, other[i]) {
			t.Errorf("output %d: another random state gives the same mask", i)
		}
	}
	if slices.Equal(first[1], first[2]) {
		t.Error("the second drop-path of a forward pass drops the same images as the first")
	}
}

// TestPathRate checks the drop-path rates of the blocks.
func TestPathRate(t *testing.T) {
	for _, c := range []struct {
		block, blocks int
		want          float64
	}{{0, 12, 0}, {11, 12, 0.1}, {1, 3, 0.05}, {0, 1, 0}} {
		if got := drop.PathRate(0.1, c.block, c.blocks); got != c.want {
			t.Errorf("block %d of %d: rate %g, expected %g", c.block, c.blocks, got, c.want)
		}
	}
}
