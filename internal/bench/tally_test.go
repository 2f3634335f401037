package bench

import (
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/internal/program"
)

// TestTallyConvolution compares the recorded multiply-adds of a convolution with the result of the
// convolution. If all inputs are one, each value of the result is the number of its multiply-adds
// that meet no padding.
func TestTallyConvolution(t *testing.T) {
	axes := compute.ConvolveAxesConfig{
		InputBatch: 0, InputSpatial: []int{1, 2}, InputChannels: 3,
		KernelOutputChannels: 0, KernelInputChannels: 1, KernelSpatial: []int{2, 3},
		OutputBatch: 0, OutputSpatial: []int{1, 2}, OutputChannels: 3,
	}
	for _, test := range []struct {
		name                            string
		input, kernel                   []int
		strides                         []int
		paddings                        [][2]int
		inputDilations, kernelDilations []int
		channelGroups, batchGroups      int
	}{
		{"plain", []int{2, 5, 6, 4}, []int{3, 4, 2, 3}, nil, nil, nil, nil, 1, 1},
		{"padded", []int{2, 5, 6, 4}, []int{3, 4, 3, 3}, nil, [][2]int{{1, 1}, {2, 0}}, nil, nil, 1, 1},
		{"strides", []int{1, 7, 8, 2}, []int{3, 2, 3, 3}, []int{2, 3}, [][2]int{{1, 0}, {1, 2}}, nil, nil, 1, 1},
		{"dilated kernel", []int{1, 7, 8, 2}, []int{3, 2, 3, 2}, nil, [][2]int{{2, 1}, {0, 3}}, nil, []int{2, 3}, 1, 1},
		{"dilated input", []int{1, 4, 3, 2}, []int{3, 2, 3, 2}, nil, [][2]int{{2, 1}, {0, 3}}, []int{2, 3}, nil, 1, 1},
		{"depth-wise", []int{2, 5, 5, 4}, []int{4, 1, 3, 3}, nil, [][2]int{{1, 1}, {1, 1}}, nil, nil, 4, 1},
		{"groups of images", []int{4, 5, 5, 3}, []int{2, 3, 3, 3}, nil, [][2]int{{1, 1}, {1, 1}}, nil, nil, 1, 2},
	} {
		tally, err := newTally()
		if err != nil {
			t.Fatal(err)
		}
		build := func(g *Graph) *Node {
			ones := func(dims []int) *Node { return Ones(g, shapes.Make(dtypes.Float32, dims...)) }
			return ConvGeneral(ones(test.input), ones(test.kernel), axes, test.strides, test.paddings, test.inputDilations, test.kernelDilations, test.channelGroups, test.batchGroups)
		}
		g := NewGraph(tally, "test")
		var recorded product
		if err := program.Caught(func() { recorded = tally.products[InternalBackendOutputs(build(g))[0]] }); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		result := MustExecOnce(tally.Backend, build)
		total := 0.0
		for i, want := range result.Value().([][][][]float32) {
			for j, row := range want {
				for k, values := range row {
					for l, v := range values {
						total += float64(v)
						d := recorded.dims
						if got := recorded.at(((i*d[1]+j)*d[2]+k)*d[3] + l); got != float64(v) {
							t.Errorf("%s: %g multiply-adds for the value at %d %d %d %d, expected %g", test.name, got, i, j, k, l, v)
						}
					}
				}
			}
		}
		if got := recorded.total(); got != total {
			t.Errorf("%s: %g multiply-adds, expected %g", test.name, got, total)
		}
		g.Finalize()
		tally.Finalize()
	}
}

func TestTransposed(t *testing.T) {
	// [2, 3, 4] → [4, 2, 3]: the value at [3, 1, 2] comes from [1, 2, 3].
	if got := transposed(3*6+1*3+2, []int{4, 2, 3}, []int{2, 3, 4}, []int{2, 0, 1}); got != 1*12+2*4+3 {
		t.Errorf("position %d, expected 23", got)
	}
}
