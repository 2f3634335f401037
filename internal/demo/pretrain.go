package demo

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/seeded"
	"github.com/sptune/spt/internal/synth"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/train"
)

// Config returns the configuration of the embedded backbone. It is a ViT with 1.2 million
// parameters, for images of 64×64 pixels and patches of 8×8 pixels.
func Config() backbone.Config {
	return backbone.Config{ImageSize: synth.DefaultSize, NumClasses: len(synth.Classes()), NumHeads: 4, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 128, Depth: 6, HiddenDim: 512}}
}

// PretrainOptions configures [Pretrain]. [PretrainRecipe] returns the options of the embedded
// backbone.
type PretrainOptions struct {
	ImagesPerClass int           // number of training images of each class
	ValPerClass    int           // number of validation images of each class
	Train          train.Options // hyper-parameters and seed
}

// PretrainRecipe returns the options that the embedded backbone is pretrained with. The task is to
// classify the 760 pretraining classes of package synth.
func PretrainRecipe() PretrainOptions {
	return PretrainOptions{
		ImagesPerClass: 130, ValPerClass: 2,
		Train: train.Options{Epochs: 4, BatchSize: 32, LR: 1e-3, WeightDecay: 0.05, WarmupEpochs: 0.2, WarmupLR: 1e-6, MinLR: 1e-5},
	}
}

// Pretrain trains the embedded backbone on synthetic images, starting from random weights. It saves
// its state in the file checkpointPath. If the file exists, Pretrain continues from the state of an
// interrupted run. If checkpointPath is empty, it saves no state. report may be nil.
func Pretrain(ctx context.Context, be backend.Backend, o PretrainOptions, checkpointPath string, report progress.Func) (*backbone.Model, *train.Result, error) {
	c := Config()
	pre := backbone.Preprocessing{Mean: [3]float32{0.5, 0.5, 0.5}, Std: [3]float32{0.5, 0.5, 0.5}, Interpolation: "bicubic", Source: "spt pretrain"}
	m := backbone.NewModel(c, pre, initialWeights(c, o.Train.Seed))
	tuning, err := peft.New(c, peft.Full(c))
	if err != nil {
		return nil, nil, err
	}
	run := train.Run{Backend: be, Model: m, Tuning: tuning, Options: o.Train, Checkpoint: checkpointPath, Progress: report}
	if run.Train, err = pretrainingData(ctx, o.Train.Seed, 0, o.ImagesPerClass, c, true); err == nil {
		run.Val, err = pretrainingData(ctx, o.Train.Seed, o.ImagesPerClass, o.ValPerClass, c, false)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("drawing the images for the demo backbone: %w", err)
	}
	result, err := run.Do(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("pretraining the demo backbone: %w", err)
	}
	return backbone.NewModel(c, pre, result.Tuned), result, nil
}

// margin is the number of pixels that the crop removes along each side of an image.
const margin = 8

// pretrainingData returns the images with indexes from first to first+perClass−1 of every class. If
// augment is set, each epoch crops each image at another position and mirrors a random half of the
// images left to right. A mirrored image keeps its class.
func pretrainingData(ctx context.Context, seed uint64, first, perClass int, c backbone.Config, augment bool) (*train.Data, error) {
	classes := len(synth.Classes())
	samples := make([]dataset.Sample, perClass*classes)
	side := c.ImageSize + margin
	var next atomic.Int64
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(samples) {
					return
				}
				pix := synth.Pretraining(seed, first*classes+i, i%classes, side)
				samples[i] = dataset.Sample{Image: &dataset.RGB{Width: side, Height: side, Pix: pix}, Target: dataset.Class(i % classes)}
			}
		})
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := dataset.Transform{Size: c.ImageSize, Resize: "crop", ResizeTo: side, RandomCrop: augment, HorizontalFlip: augment}
	// The images are in memory and have their final scale already, so a cache would only copy them.
	return train.Images(dataset.NewLoader(samples, t, nil, dataset.LoaderOptions{}), objective.SingleLabel, c), nil
}

// initialWeights returns random initial weights. Matrices and embeddings are normal with σ 0.08,
// the weights of norms are one, and biases are zero. timm uses a σ of 0.02, which suits a width of
// 768. At a width of 128, every layer would shrink its input. Then the loss would stay at chance
// level for twice as many steps.
func initialWeights(c backbone.Config, seed uint64) checkpoint.StateDict {
	sd := checkpoint.StateDict{}
	for _, p := range c.Params() {
		w := checkpoint.NewTensor(p.Shape...)
		r := seeded.Rand(seed, p.Name)
		for i := range w.Data {
			switch {
			case len(p.Shape) > 1:
				w.Data[i] = float32(0.08 * r.NormFloat64())
			case p.Norm && p.Name[len(p.Name)-len("weight"):] == "weight":
				w.Data[i] = 1
			}
		}
		sd[p.Name] = w
	}
	return sd
}
