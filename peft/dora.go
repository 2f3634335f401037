package peft

import (
	"math"
	"math/rand/v2"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/graph"
)

// dora is DoRA (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353):
// the weight W + B·A, with its rows scaled to learned lengths m. It returns
// m/‖W + B·A‖⊙(W + B·A)·x + b. No gradient flows through the lengths ‖W + B·A‖ of the rows, as in
// section 4.3 of the paper. A and B start as in LoRA, and m with the lengths of the rows of W, so
// the output is unchanged at first. Dropout and drop-path are those of LoRA: on the input of A,
// except on attn.proj, and on what the module adds to the output.
var dora = Module{
	Name:  "dora",
	Count: func(in, out, rank int) int { return rank*(in+out) + out },
	Graph: func(s *Site, x, y *Node) *Node {
		a := s.Param("lora_A", KaimingUniform, s.Rank, s.In)
		b := s.Param("lora_B", Zero, s.Out, s.Rank)
		m := s.Param(doraMagnitude, rowLengths, s.Out)
		if !s.is("attn.proj") {
			x = s.Dropout(x)
		}
		frozen := y // W·x
		if bias := s.Bias(); bias != nil {
			frozen = Sub(y, graph.Everywhere(bias, y))
		}
		w := ConvertDType(Add(s.Weight(), MatMul(b, a)), dtypes.Float32)
		lengths := ConvertDType(StopGradient(Sqrt(ReduceSum(Square(w), 1))), m.DType()) // [out]
		scale := graph.Everywhere(Div(m, lengths), y)
		low := backbone.Linear(backbone.Linear(x, a, nil), b, nil)
		return Add(y, s.DropPath(Add(Mul(MinusOne(scale), frozen), Mul(scale, low))))
	},
	Merge: func(l *MergedLayer) error {
		a, b, m := l.Tensors["lora_A"].Data, l.Tensors["lora_B"].Data, l.Tensors[doraMagnitude].Data
		row := make([]float64, l.In)
		for o := range l.Out {
			sum := 0.0
			for i := range row {
				row[i] = float64(l.Weight.Data[o*l.In+i])
				for r := range l.Rank {
					row[i] += float64(b[o*l.Rank+r]) * float64(a[r*l.In+i])
				}
				sum += row[i] * row[i]
			}
			for i := range row {
				l.Weight.Data[o*l.In+i] = float32(row[i] * float64(m[o]) / math.Sqrt(sum))
			}
		}
		return nil
	},
}

func init() { builtIn(dora) }

// doraMagnitude is the name of m after the name of the layer.
const doraMagnitude = "dora_magnitude"

// rowLengths is the Init of m. It returns the lengths of the rows of the weight of the layer.
func rowLengths(p Param, _ *rand.Rand, weights checkpoint.StateDict) []float32 {
	w := weights[strings.TrimSuffix(p.Name, doraMagnitude)+"weight"]
	in := w.Shape[1]
	v := make([]float32, p.Size())
	for o := range v {
		sum := 0.0
		for _, x := range w.Data[o*in : (o+1)*in] {
			sum += float64(x) * float64(x)
		}
		v[o] = float32(math.Sqrt(sum))
	}
	return v
}
