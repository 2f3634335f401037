package train_test

import (
	"context"
	"fmt"
	"log"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/train"
)

// Tune LoRA modules on the embedded backbone. The class of each image is its colour. Then evaluate
// the result on other images.
func ExampleRun() {
	model, err := embedded.Model(3)
	if err != nil {
		log.Fatal(err)
	}
	device, _, err := backend.Open("cpu", 1)
	if err != nil {
		log.Fatal(err)
	}
	tuning, err := peft.New(model.Config, peft.Uniform(model.Config, "lora", 2))
	if err != nil {
		log.Fatal(err)
	}
	images := func(n, salt int) *train.Data {
		size := model.Config.ImageSize
		loader := dataset.NewLoader(colours.Samples(n, size, salt), dataset.Transform{Size: size}, nil, dataset.LoaderOptions{})
		return train.Images(loader, objective.SingleLabel, model.Config)
	}
	options := train.VTAB().WithEpochs(2)
	options.BatchSize, options.LR = 8, 5e-3
	run := train.Run{
		Backend: device,
		Model:   model,
		Tuning:  tuning,
		Options: options,
		Train:   images(48, 0),
		Keep:    true, // keep the tuned tensors for Evaluate
		Progress: func(e progress.Event) {
			if e.Stage == progress.Epoch {
				fmt.Printf("epoch %d of %d\n", e.Epoch+1, e.Epochs)
			}
		},
	}
	defer run.Close()
	result, err := run.Do(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	test, err := run.Evaluate(context.Background(), images(12, 7), nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the loss falls:", result.Epochs[1].TrainLoss < result.Epochs[0].TrainLoss)
	fmt.Printf("%d of %d test images are predicted right\n", int(test.Accuracy*float64(test.Images)), test.Images)
	// Output:
	// epoch 1 of 2
	// epoch 2 of 2
	// the loss falls: true
	// 12 of 12 test images are predicted right
}
