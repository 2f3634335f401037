package run_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Create writes the configuration of a run, and Open reads it back. Programs rarely call Create,
// because Task.Tune of package spt does.
func ExampleCreate() {
	parent, err := os.MkdirTemp("", "runs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "pets")

	config := run.Config{
		Model:   run.ModelConfig{Path: "vit.safetensors"},
		Data:    run.DataConfig{Path: "pets"},
		Compute: run.ComputeConfig{Device: "cpu"},
		Tune:    run.TuneOptions{Method: method.SPTLoRA, Train: train.VTAB()},
	}
	if _, err := run.Create(dir, &config); err != nil {
		log.Fatal(err)
	}
	folder, found, err := run.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found.Kind, "of", found.Tune.Method, "for", found.Tune.Train.Epochs, "epochs")
	result, err := run.LoadResult[run.Result](folder)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("finished:", result != nil)
	// Output:
	// run of spt-lora for 100 epochs
	// finished: false
}

// Read the result of a finished run.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := tune(dir); err != nil {
		log.Fatal(err)
	}

	folder, config, err := run.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	result, err := run.LoadResult[run.Result](folder)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.Tune.Method, "on", len(result.Classes), "classes, seed", result.Seed)
	fmt.Println("trained on", result.TrainedOn, "for", len(result.Epochs), "epochs")
	fmt.Println("tested on", result.Test.Images, "images")
	// Output:
	// linear on 16 classes, seed 0
	// trained on train+val for 2 epochs
	// tested on 16 images
}

// tune trains a head on the embedded backbone and keeps the run in dir.
func tune(dir string) error {
	data, err := demo.Data("location", 32, 16, 16, 0)
	if err != nil {
		return err
	}
	model, err := embedded.Model(len(data.Classes))
	if err != nil {
		return err
	}
	task, err := spt.New(model, data)
	if err != nil {
		return err
	}
	options := run.TuneOptions{Method: method.Linear, Train: train.VTAB().WithEpochs(2)}
	_, err = task.Tune(context.Background(), options, dir, nil)
	return err
}
