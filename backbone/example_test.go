package backbone_test

import (
	"fmt"

	"github.com/sptune/spt/backbone"
)

// Load reads a backbone and gives it a new head with ten classes. The report lists the tensors of
// the checkpoint that the backbone does not use. Here these are the tensors of the old head.
func ExampleLoad() {
	m, report, err := backbone.Load("../internal/embedded/vit_demo.safetensors", backbone.LoadOptions{NumClasses: 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Config)
	fmt.Println("parameters without the head:", m.Config.Size())
	fmt.Println("unused:", report.Unused)
	for _, p := range m.Config.Params()[:3] {
		fmt.Println(p.Name, p.Shape)
	}
	// Output:
	// ViT 6×128, 4 heads, patch 8, 64 px
	// parameters without the head: 1223040
	// unused: [head.bias head.weight]
	// cls_token [1 1 128]
	// pos_embed [1 65 128]
	// patch_embed.proj.weight [128 3 8 8]
}

// A configuration holds the fields that are common to all architectures. Its Form holds the fields
// of one architecture.
func ExampleConfig() {
	c := backbone.Config{
		ImageSize: 224, NumClasses: 1000, NumHeads: 12, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 768, Depth: 12, HiddenDim: 3072},
	}
	fmt.Println(c.Validate(), c)
	fmt.Println(c.Tokens(), "tokens,", c.Blocks(), "blocks,", c.Size(), "parameters")
	// Output:
	// <nil> ViT 12×768, 12 heads, patch 16, 224 px
	// 197 tokens, 12 blocks, 85798656 parameters
}
