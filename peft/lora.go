package peft

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// lora is LoRA (Hu et al. 2022, arXiv 2106.09685) in the form of SPT: y + B·A·x, without the factor
// alpha/r. A starts Kaiming-uniform and B starts at zero. Dropout is applied to the input x, except
// on attn.proj. Drop-path is applied to the output.
var lora = Module{
	Name:  "lora",
	Count: func(in, out, rank int) int { return rank * (in + out) },
	Graph: func(s *Site, x, y *Node) *Node {
		a := s.Param("lora_A", KaimingUniform, s.Rank, s.In)
		b := s.Param("lora_B", Zero, s.Out, s.Rank)
		if !s.is("attn.proj") {
			x = s.Dropout(x)
		}
		// Drop-path multiplies all values of an image by the same number. So it can be applied
		// between A and B, where there are the fewest values.
		return Add(y, backbone.Linear(s.DropPath(backbone.Linear(x, a, nil)), b, nil))
	},
	Merge: func(l *MergedLayer) error {
		a, b := l.Tensors["lora_A"], l.Tensors["lora_B"]
		for o := range l.Out {
			row := l.Weight.Data[o*l.In : (o+1)*l.In]
			for i := range row {
				sum := 0.0
				for r := range l.Rank {
					sum += float64(b.Data[o*l.Rank+r]) * float64(a.Data[r*l.In+i])
				}
				row[i] = float32(float64(row[i]) + sum)
			}
		}
		return nil
	},
}

func init() { builtIn(lora) }
