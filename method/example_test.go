package method_test

import (
	"fmt"
	"log"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

func ExampleCatalogue() {
	for _, r := range method.Catalogue() {
		if !r.Scores {
			fmt.Printf("%-12s %s\n", r.Name, r.Summary)
		}
	}
	// Output:
	// NAME         the module NAME on every matrix of every block
	// NAME+vectors the module NAME on every matrix of every block, and every bias and norm
	// lora-qkv     LoRA on q, k and v of every block
	// adapter-mlp  an adapter after the MLP of every block
	// houlsby      adapters after the attention and after the MLP of every block
	// adaptformer  a bottleneck beside the MLP of every block
	// adapter-plus an adapter with learned factors of the channels after every block
	// convpass     a convolutional bypass beside the attention and the MLP of every block
	// fact-tt      a product of factors on every matrix, the outer two shared by all matrices
	// vpt-shallow  prompts before the first block
	// vpt-deep     prompts before every block
	// ssf          a scale and a shift for the output of every operation
	// bitfit       every bias
	// norm         every norm
	// difffit      every bias and norm, and factors for the output of every branch
	// partial-K    the last K blocks and all layers after them
	// mlp-K        a head of K layers
	// linear       the head alone
	// full         every weight
}

// Find the parameters that LoRA tunes on a ViT-Ti under a budget, and the learning rate of its
// recipe.
func ExampleLookup() {
	row, err := method.Lookup(method.LoRA)
	if err != nil {
		log.Fatal(err)
	}
	vit := backbone.Config{ImageSize: 224, NumClasses: 10, NumHeads: 3, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 192, Depth: 12, HiddenDim: 768}}
	s, err := row.Select(vit, method.Options{Budget: plan.MustParseBudget("0.2M")})
	if err != nil {
		log.Fatal(err)
	}
	tuning, err := peft.New(vit, s)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("rank", s.Rank, "with", tuning.Counts.Tuned(), "parameters; merges:", row.Merges())
	fmt.Println("learning rate", row.TrainOptions().LR)
	// Output:
	// rank 4 with 165888 parameters; merges: true
	// learning rate 0.001
}
