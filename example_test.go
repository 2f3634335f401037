package spt_test

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log"
	"os"
	"path/filepath"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Tune the embedded backbone on a synthetic data set: score its weights, make a plan under a
// budget, train, test, and keep a delta in a run folder.
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

// Open a backbone and a folder of images by their paths, and tune. "demo" is the embedded backbone;
// use the path of a checkpoint, or hf:OWNER/NAME for a checkpoint on the Hugging Face Hub, in its
// place.
func ExampleOpen() {
	folder, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	images := filepath.Join(folder, "images")
	if err := writeImages(images); err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	config := run.Config{
		Model: run.ModelConfig{Path: "demo"},
		Data:  run.DataConfig{Path: images, ValFraction: 0.25, TestFraction: 0.25},
	}
	task, err := spt.Open(ctx, &config, nil)
	if err != nil {
		log.Fatal(err)
	}
	options := run.TuneOptions{Method: method.Linear, Train: train.VTAB().WithEpochs(20)}
	options.Train.LR = 0.01
	result, err := task.Tune(ctx, options, filepath.Join(folder, "run"), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Classes, "trained on", result.TrainedOn)
	fmt.Println("test accuracy", result.Test.Accuracy, "on", result.Test.Images, "images")
	// Output:
	// [blue red] trained on train+val
	// test accuracy 1 on 8 images
}

// Run the stages one by one: score, plan, train and evaluate.
func ExampleTask() {
	data, err := demo.Data("location", 64, 32, 32, 0)
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
	ctx := context.Background()

	scores, err := task.Score(ctx, sensitivity.Options{Batches: 2, BatchSize: 16}, nil)
	if err != nil {
		log.Fatal(err)
	}
	p, err := spt.Plan(ctx, model.Config, scores, plan.MustParseBudget("8000"), plan.Options{Module: "lora", Rank: 2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the plan is within its budget:", p.Cost.Total <= 8000)
	trained, err := task.Train(ctx, spt.Select(model.Config, p), spt.TrainOptions{Options: train.VTAB().WithEpochs(1)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the plan was tuned:", trained.Tuning.Counts.Tuned() == p.Cost.Total)
	evaluation, _, err := task.Evaluate(ctx, trained, "test", data.Test, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("evaluated on", evaluation.Images, "images")
	d := task.Delta(method.SPTLoRA, trained, p, nil)
	fmt.Println("the delta has", len(d.Classes), "classes")
	// Output:
	// the plan is within its budget: true
	// the plan was tuned: true
	// evaluated on 32 images
	// the delta has 16 classes
}

// Predict the class of an image file with a tuned backbone. If a program starts from the folder of
// a run, it gets the delta from delta.Load and the backbone from run.ModelConfig.OpenTuned.
func ExampleClassifier() {
	folder, err := os.MkdirTemp("", "images")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := writeImages(folder); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	config := run.Config{Model: run.ModelConfig{Path: "demo"}, Data: run.DataConfig{Path: folder}}
	task, err := spt.Open(ctx, &config, nil)
	if err != nil {
		log.Fatal(err)
	}
	recipe := train.VTAB().WithEpochs(20)
	recipe.LR = 0.01
	trained, err := task.Train(ctx, peft.Selection{}, spt.TrainOptions{Options: recipe})
	if err != nil {
		log.Fatal(err)
	}
	d := task.Delta(method.Linear, trained, nil, nil)

	restored, err := spt.Restore(task.Model(), d)
	if err != nil {
		log.Fatal(err)
	}
	classifier, err := spt.NewClassifier(task.Backend(), task.Model(), restored, d.Classes, d.ImageTransform())
	if err != nil {
		log.Fatal(err)
	}
	defer classifier.Close()
	for p, err := range classifier.Predict(ctx, []string{filepath.Join(folder, "red", "3.png")}, 1) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(filepath.Base(p.Path), "is", p.Top[0].Class)
	}
	// Output:
	// 3.png is red
}

// writeImages writes a folder with 16 images for each of two classes.
func writeImages(folder string) error {
	for class, c := range map[string]color.NRGBA{"blue": {B: 200, A: 255}, "red": {R: 200, A: 255}} {
		if err := os.MkdirAll(filepath.Join(folder, class), 0o700); err != nil {
			return err
		}
		for i := range 16 {
			m := image.NewNRGBA(image.Rect(0, 0, 32, 32))
			for j := range 32 * 32 {
				c.G = uint8((j*7 + i*13) % 64)
				m.SetNRGBA(j%32, j/32, c)
			}
			f, err := os.Create(filepath.Join(folder, class, fmt.Sprintf("%d.png", i)))
			if err != nil {
				return err
			}
			if err := png.Encode(f, m); err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}
