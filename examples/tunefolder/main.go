// Command tunefolder tunes a backbone on a folder that has one folder of images for each class. It
// keeps the run, with its delta, in the folder RUN:
//
//	go run ./examples/tunefolder BACKBONE IMAGES RUN
//
// BACKBONE is the path of a checkpoint, hf:OWNER/NAME for a model of the Hugging Face Hub, or demo.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/sptune/spt"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: tunefolder BACKBONE IMAGES RUN")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop() // after an interrupt, the same command continues the run
	report := func(e progress.Event) {
		if epoch, ok := e.Detail.(train.Epoch); ok {
			fmt.Printf("epoch %d of %d: loss %.3f\n", epoch.Epoch, e.Epochs, epoch.TrainLoss)
		}
	}

	config := run.Config{Model: run.ModelConfig{Path: os.Args[1]}, Data: run.DataConfig{Path: os.Args[2]}}
	task, err := spt.Open(ctx, &config, report)
	if err != nil {
		log.Fatal(err)
	}
	options := run.TuneOptions{
		Method:  method.SPTLoRA,
		Budgets: []plan.Budget{plan.MustParseBudget("0.5%")},
		Train:   train.VTAB().WithEpochs(10),
	}
	result, err := task.Tune(ctx, options, os.Args[3], report)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("tuned %d parameters, test accuracy %.1f %%\n", result.Counts.Tuned(), 100*result.Test.Accuracy)
}
