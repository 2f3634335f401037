package peft_test

import (
	"fmt"
	"log"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
)

// Register a new structured module, which multiplies the output of a linear layer by 1 + γ. It can
// be merged into weight and bias. After the registration the methods ia3, spt-ia3 and
// spt-ia3-structured exist.
func ExampleRegister() {
	err := peft.Register(peft.Module{
		Name:  "ia3",
		Count: func(in, out, rank int) int { return out },
		Graph: func(s *peft.Site, x, y *Node) *Node { // x [..., in], y [..., out]
			gamma := s.Param("gamma", peft.Zero, s.Out)
			return Mul(y, OnePlus(ExpandLeftToRank(gamma, y.Rank())))
		},
		Merge: func(l *peft.MergedLayer) error {
			for o, g := range l.Tensors["gamma"].Data {
				for i := range l.In {
					l.Weight.Data[o*l.In+i] *= 1 + g
				}
				if l.Bias.Data != nil {
					l.Bias.Data[o] *= 1 + g
				}
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	vit := backbone.Config{ImageSize: 32, NumClasses: 10, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 64, Depth: 2, HiddenDim: 128}}
	tuning, err := peft.New(vit, peft.Uniform(vit, "ia3", 1))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tuning.Counts.Tuned(), "parameters, mergeable:", tuning.Mergeable() == nil)
	// Output: 896 parameters, mergeable: true
}
