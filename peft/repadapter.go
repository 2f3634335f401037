package peft

import (
	"errors"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// repAdapter is RepAdapter (Luo et al. 2023, "Towards Efficient Visual Adaption via Structural
// Re-parameterization", arXiv 2302.08106) on one layer: a linear bottleneck on the input of the
// layer. It returns W·(x + U·(D·x + d) + u) + b. U has two groups, as in the paper: the first half
// of the hidden values acts on the first half of the inputs, and the second half on the second.
// With an odd number, the first half is the larger one. At rank 1 there is one group. The factor s
// of the paper is 1.
//
// D starts Xavier-uniform, and d, U and u at zero, so the output is unchanged at first. Dropout is
// applied to D·x + d. The module merges into the weight and the bias of the layer.
var repAdapter = Module{
	Name: "repadapter",
	Count: func(in, _, rank int) int {
		n := rank*in + rank + in
		for _, g := range repGroups(in, rank) {
			n += g.inputs * g.hidden
		}
		return n
	},
	Graph: func(s *Site, x, y *Node) *Node {
		down := s.Param("repadapter_down.weight", xavierUniform, s.Rank, s.In)
		downBias := s.Param("repadapter_down.bias", Zero, s.Rank)
		// The product W·U is small. So the frozen weight is not applied to the tokens again.
		w := s.Weight()
		var parts []*Node
		first := 0
		for _, g := range repGroups(s.In, s.Rank) {
			up := s.Param(g.name, Zero, g.inputs, g.hidden)
			parts = append(parts, MatMul(SliceAxis(w, 1, AxisRange(first, first+g.inputs)), up))
			first += g.inputs
		}
		wide := Concatenate(parts, 1)                                // [out, rank]
		upBias := s.Param("repadapter_up.bias", Zero, s.In)          // [in]
		shift := Reshape(MatMul(w, Reshape(upBias, s.In, 1)), s.Out) // [out]
		hidden := s.Dropout(backbone.Linear(x, down, downBias))      // [..., rank]
		return Add(y, backbone.Linear(hidden, wide, shift))
	},
	Merge: func(l *MergedLayer) error {
		if l.Bias.Data == nil {
			return errors.New("the layer has no bias")
		}
		down, downBias, upBias := l.Tensors["repadapter_down.weight"].Data, l.Tensors["repadapter_down.bias"].Data, l.Tensors["repadapter_up.bias"].Data
		wide := make([]float64, l.Rank) // product of a row of W and U
		for o := range l.Out {
			row := l.Weight.Data[o*l.In : (o+1)*l.In]
			clear(wide)
			input, first := 0, 0
			for _, g := range repGroups(l.In, l.Rank) {
				up := l.Tensors[g.name].Data
				for i := range g.inputs {
					for h := range g.hidden {
						wide[first+h] += float64(row[input+i]) * float64(up[i*g.hidden+h])
					}
				}
				input, first = input+g.inputs, first+g.hidden
			}
			bias := float64(l.Bias.Data[o])
			for i, w := range row {
				bias += float64(w) * float64(upBias[i])
			}
			for r, v := range wide {
				bias += v * float64(downBias[r])
			}
			l.Bias.Data[o] = float32(bias)
			for i, w := range row {
				sum := float64(w)
				for r, v := range wide {
					sum += v * float64(down[r*l.In+i])
				}
				row[i] = float32(sum)
			}
		}
		return nil
	},
}

func init() { builtIn(repAdapter) }

// repGroup is a group of U: its number of inputs and of hidden values, and the name of its tensor
// [inputs, hidden].
type repGroup struct {
	inputs, hidden int
	name           string
}

// repGroups returns the groups of U for a layer with the given number of inputs.
func repGroups(in, rank int) []repGroup {
	if rank == 1 || in == 1 {
		return []repGroup{{in, rank, "repadapter_up.0.weight"}}
	}
	return []repGroup{{in - in/2, rank - rank/2, "repadapter_up.0.weight"}, {in / 2, rank / 2, "repadapter_up.1.weight"}}
}
