package cpu

import (
	"fmt"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// BenchmarkEntries compares two ways to compute the gradient of single entries of a [768, 768]
// matrix over 1576 tokens: one dot product for each entry, and a gather from the complete product.
// The break-even point is options.denseFraction.
func BenchmarkEntries(b *testing.B) {
	be := newBackend(b)
	const tokens, width = 1576, 768
	for _, share := range []float64{0.002, 0.01, 0.025, 0.05, 0.1} {
		n := int(share * width * width)
		for name, fraction := range map[string]float64{"entries": 1, "product": 0} {
			be.options.denseFraction = fraction
			bld := be.Builder("entries")
			f := bld.Main()
			x, _ := f.Parameter("x", shapes.Make(dtypes.Float32, tokens, width), nil)
			dy, _ := f.Parameter("dy", shapes.Make(dtypes.Float32, tokens, width), nil)
			at, _ := f.Parameter("at", shapes.Make(dtypes.Int32, n, 1), nil)
			dw, err := f.DotGeneral(dy, []int{0}, nil, x, []int{0}, nil, compute.DotGeneralConfig{})
			if err != nil {
				b.Fatal(err)
			}
			flat, _ := f.Reshape(dw, width*width)
			v, err := f.Gather(flat, at, 1, nil, []int{0}, []int{0}, []int{1}, true)
			if err != nil {
				b.Fatal(err)
			}
			if err := f.Return([]compute.Value{v}, nil); err != nil {
				b.Fatal(err)
			}
			exec, err := bld.Compile()
			if err != nil {
				b.Fatal(err)
			}
			positions := make([]int32, n)
			for i := range positions {
				positions[i] = int32(i * (width*width - 1) / n)
			}
			var in []compute.Buffer
			for _, flat := range []any{normal(tokens*width, 1), normal(tokens*width, 2), positions} {
				shape := shapes.Make(dtypes.Float32, tokens, width)
				if _, ok := flat.([]int32); ok {
					shape = shapes.Make(dtypes.Int32, n, 1)
				}
				buf, err := be.BufferFromFlatData(0, flat, shape)
				if err != nil {
					b.Fatal(err)
				}
				in = append(in, buf)
			}
			b.Run(fmt.Sprintf("%.1f%%/%s", 100*share, name), func(b *testing.B) {
				for b.Loop() {
					out, err := exec.Execute(in, []bool{false, false, false}, 0)
					if err != nil {
						b.Fatal(err)
					}
					_ = out[0].Finalize()
				}
			})
		}
	}
}
