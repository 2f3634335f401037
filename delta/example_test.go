package delta_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// Save a delta, load it again and merge it into its backbone.
func Example() {
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}
	m := colours.Model(c) // backbone.Load reads a checkpoint
	s := peft.Uniform(c, "lora", 2)
	tuning, err := peft.New(c, s)
	if err != nil {
		log.Fatal(err)
	}
	d := delta.New(m, nil)
	d.Method, d.Objective, d.Classes = "lora", objective.SingleLabel.Name(), []string{"red", "green", "blue"}
	d.Transform, d.Selection = delta.Transform{Resize: "direct"}, s
	// a real program takes the values of train.Result
	d.Tuned = tuning.Init(1, peft.PaperScheme, m.Weights)
	dir, err := os.MkdirTemp("", "delta")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := d.Save(dir); err != nil {
		log.Fatal(err)
	}

	loaded, err := delta.Load(dir)
	if err != nil {
		log.Fatal(err)
	}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		log.Fatal(err)
	}
	merged, err := loaded.Merge(context.Background(), be, m, colours.Pixels(0, c.ImageSize, 0), delta.DefaultBound)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(loaded.Method, "on", loaded.Classes, "merges, checked on", merged.Images, "image")
	// Output: lora on [red green blue] merges, checked on 1 image
}
