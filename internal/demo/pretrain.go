package demo

import (
	"context"
	"fmt"

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

// Config is the embedded backbone: a ViT of 0.3 million parameters for 32 px
// images in patches of 4 px.
func Config() backbone.Config {
	return backbone.Config{ImageSize: synth.DefaultSize, NumClasses: len(synth.Classes()), NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 64, Depth: 6, HiddenDim: 256}}
}

// PretrainOptions is the recipe of the embedded backbone; [PretrainRecipe] is
// the one that made it.
type PretrainOptions struct {
	ImagesPerClass int
	ValPerClass    int
	Train          train.Options
}

// PretrainRecipe made the embedded backbone: supervised classification of synth's 240
// pretraining classes, to 49.8 % on fresh images (chance 0.4 %) in 15
// minutes on two cores that other programs used too.
func PretrainRecipe() PretrainOptions {
	return PretrainOptions{
		ImagesPerClass: 400, ValPerClass: 5,
		Train: train.Options{Epochs: 4, BatchSize: 32, LR: 1.5e-3, WeightDecay: 0.05, WarmupEpochs: 0.2, WarmupLR: 1e-6, MinLR: 1e-5},
	}
}

// Pretrain trains the demo's backbone from random weights on generated images.
// The run can be stopped and continued through checkpointPath.
func Pretrain(ctx context.Context, be backend.Backend, o PretrainOptions, checkpointPath string, report progress.Func) (*backbone.Model, *train.Result, error) {
	c := Config()
	pre := backbone.Preprocessing{Mean: [3]float32{0.5, 0.5, 0.5}, Std: [3]float32{0.5, 0.5, 0.5}, Interpolation: "bicubic", Source: "spt pretrain"}
	m := backbone.NewModel(c, pre, initialWeights(c, o.Train.Seed))
	tuning, err := peft.New(c, peft.Full(c))
	if err != nil {
		return nil, nil, err
	}
	run := train.Run{Backend: be, Model: m, Tuning: tuning, Options: o.Train, Checkpoint: checkpointPath, Progress: report,
		Train: pretrainingData(o.Train.Seed, 0, o.ImagesPerClass, c, true),
		Val:   pretrainingData(o.Train.Seed, o.ImagesPerClass, o.ValPerClass, c, false)}
	result, err := run.Do(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("pretraining the demo backbone: %w", err)
	}
	return backbone.NewModel(c, pre, result.Tuned), result, nil
}

// pretrainingData draws images first … first+perClass−1 of every class. flip
// mirrors half of them left to right, others in each epoch; no class of synth
// changes by that.
func pretrainingData(seed uint64, first, perClass int, c backbone.Config, flip bool) *train.Data {
	var samples []dataset.Sample
	for i := range perClass {
		for class := range synth.Classes() {
			index := (first+i)*len(synth.Classes()) + class
			pix := synth.Pretraining(seed, index, class, c.ImageSize)
			samples = append(samples, dataset.Sample{Image: &dataset.RGB{Width: c.ImageSize, Height: c.ImageSize, Pix: pix}, Target: dataset.Class(class)})
		}
	}
	// The images have their final size already, so a cache would only copy them.
	return train.Images(dataset.NewLoader(samples, dataset.Transform{Size: c.ImageSize, HorizontalFlip: flip}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
}

// initialWeights are normal with σ 0.1 for matrices and embeddings, ones and
// zeros for norms and biases. timm's σ of 0.02 is made for widths of 768: at
// width 64 every layer then shrinks what it passes on, and the loss stays twice
// as many steps at that of a guess.
func initialWeights(c backbone.Config, seed uint64) checkpoint.StateDict {
	sd := checkpoint.StateDict{}
	for _, p := range c.Params() {
		w := checkpoint.NewTensor(p.Shape...)
		r := seeded.Rand(seed, p.Name)
		for i := range w.Data {
			switch {
			case len(p.Shape) > 1:
				w.Data[i] = float32(0.1 * r.NormFloat64())
			case p.Norm && p.Name[len(p.Name)-len("weight"):] == "weight":
				w.Data[i] = 1
			}
		}
		sd[p.Name] = w
	}
	return sd
}
