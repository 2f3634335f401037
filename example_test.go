package spt_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Tune the embedded backbone on a generated task: score its weights, plan
// under a budget, tune, test, and keep a delta in a run folder.
func Example() {
	data, err := demo.Data("location", 192, 32, 64, 0)
	if err != nil {
		log.Fatal(err)
	}
	model, err := embedded.Model(len(data.Classes))
	if err != nil {
		log.Fatal(err)
	}
	task, err := spt.New(model, data)
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	options := run.TuneOptions{Method: method.SPTLoRA, Budgets: []plan.Budget{plan.MustParseBudget("4%")}, Options: method.Options{Rank: 4}, Train: train.VTAB().WithEpochs(1)}
	result, err := task.Tune(context.Background(), options, dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("tuned at most 4 % of the backbone:", result.Counts.Tuned() <= model.Config.Size()*4/100)
	fmt.Println("tested on", result.Test.Images, "images")
	// Output:
	// tuned at most 4 % of the backbone: true
	// tested on 64 images
}
