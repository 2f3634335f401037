package plan_test

import (
	"context"
	"fmt"
	"log"

	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// This example makes a plan for a network of three tensors, with LoRA of rank 1. In a real program,
// package sensitivity computes the scores.
func ExampleNew() {
	scores := &sensitivity.Scores{Tensors: []sensitivity.Tensor{
		{Name: "blocks.0.attn.q.weight", Shape: []int{4, 4}, Scores: []float32{9, 8, 7, 6, 5, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{Name: "blocks.0.attn.q.bias", Shape: []int{4}, Scores: []float32{3, 0, 0, 0}},
		{Name: "blocks.0.mlp.fc1.weight", Shape: []int{4, 4}, Scores: []float32{2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	}}
	lora := func(in, out, rank int) int { return rank * (in + out) }
	p, err := plan.New(context.Background(), scores, 14, plan.Options{Module: "lora", Rank: 1, Alpha: 2}, lora)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("modules on", p.Matrices)
	fmt.Println("whole vectors", p.Vectors)
	fmt.Println("entries", p.Entries)
	fmt.Println("cost", p.Cost.Total, "of", p.Budget)
	// Output:
	// modules on [blocks.0.attn.q.weight]
	// whole vectors [blocks.0.attn.q.bias]
	// entries map[blocks.0.mlp.fc1.weight:[0 1]]
	// cost 14 of 14
}

func ExampleParseBudget() {
	for _, text := range []string{"0.4M", "400000", "0.5%"} {
		b, err := plan.ParseBudget(text)
		if err != nil {
			log.Fatal(err)
		}
		n, err := b.Parameters(85_798_656) // ViT-B/16
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(b, "is", n, "parameters")
	}
	// Output:
	// 0.4M is 400000 parameters
	// 400000 is 400000 parameters
	// 0.5% is 428993 parameters
}
