package sensitivity_test

import (
	"context"
	"fmt"
	"log"
	"slices"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/sensitivity"
)

// Score the weights of the embedded backbone. The class of each image is its colour.
func ExampleScore() {
	model, err := embedded.Model(3)
	if err != nil {
		log.Fatal(err)
	}
	device, _, err := backend.Open("cpu", 1)
	if err != nil {
		log.Fatal(err)
	}
	head, err := peft.New(model.Config, peft.Selection{})
	if err != nil {
		log.Fatal(err)
	}
	size := model.Config.ImageSize
	in := sensitivity.Input{
		Backend:   device,
		Model:     model,
		Objective: objective.SingleLabel,
		Head:      head.Init(0, peft.PaperScheme, model.Weights),
		Images:    dataset.NewLoader(colours.Samples(24, size, 0), dataset.Transform{Size: size}, nil, dataset.LoaderOptions{}),
	}
	options := sensitivity.Options{Batches: 2, BatchSize: 8}
	scores, err := sensitivity.Score(context.Background(), in, options, func(e progress.Event) {
		fmt.Printf("%s: %d of %d images\n", e.Stage, e.Done, e.Total)
	})
	if err != nil {
		log.Fatal(err)
	}
	q := scores.Tensors[slices.IndexFunc(scores.Tensors, func(t sensitivity.Tensor) bool { return t.Name == "blocks.0.attn.q.weight" })]
	fmt.Println(q.Name, q.Shape, "has", len(q.Scores), "scores")
	// Output:
	// score: 8 of 16 images
	// score: 16 of 16 images
	// blocks.0.attn.q.weight [128 128] has 16384 scores
}
