package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
)

// Predictor runs the forward pass of a backbone with its tuned tensors. It uses neither dropout nor
// drop-path.
type Predictor struct {
	be       backend.Backend
	net      *network
	packs    packing
	tuned    []*tensors.Tensor // packs of tuned tensors
	borrowed bool              // tuned and net belong to a Stepper
	logits   *program.Program
	features *program.Program
	tokens   *program.Program // tokens that enter block Selection.FromBlock
	split    *program.Program // splits a batch into micro-batches
	mirror   *program.Program // mirrors the images of a batch
}

// NewPredictor returns a Predictor for the backbone m. tuned holds the values of the tuned tensors
// t, by peft.Param.Name. NewPredictor copies them to the backend and returns an error if a tensor
// is missing or has the wrong size. The objective o defines the logits and the metrics. Call Close
// to release the Predictor.
func NewPredictor(be backend.Backend, m *backbone.Model, o objective.Objective, t *peft.Tuning, tuned checkpoint.StateDict) (_ *Predictor, err error) {
	net, err := newNetwork(be, m, o, t)
	if err != nil {
		return nil, err
	}
	p := &Predictor{be: be, net: net, packs: pack(be, t.Params, nil)}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.tuned, err = p.packs.place(be, tuned); err != nil {
		return nil, fmt.Errorf("preparing predictions: %w", err)
	}
	return p, p.prepare()
}

// predictor returns a Predictor with the current tuned tensors of s. Each step makes new tuned
// tensors, so a caller must set Predictor.tuned again before it predicts. Close the Predictor
// before s.
func (s *Stepper) predictor() (*Predictor, error) {
	p := &Predictor{be: s.be, net: s.net, packs: s.packs, tuned: s.tuned(), borrowed: true}
	if err := p.prepare(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// tuned returns the packs of the tuned tensors.
func (s *Stepper) tuned() []*tensors.Tensor { return s.state[:len(s.packs.packs)] }

// prepare creates the programs. They are compiled when they first run.
func (p *Predictor) prepare() (err error) {
	net := p.net
	if p.logits, err = program.New(p.be, "forward pass", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.inputs(in)
		return []*Node{net.logits(tuned, frozen, images, nil, peft.Rates{})}
	}); err != nil {
		return err
	}
	if p.features, err = program.New(p.be, "features", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.inputs(in)
		return []*Node{net.objective.Features(net.model, net.layers(tuned, frozen, nil, peft.Rates{}), images)}
	}); err != nil {
		return err
	}
	if p.mirror, err = program.New(p.be, "mirror images", func(_ *Graph, in []*Node) []*Node {
		return []*Node{Reverse(in[0], 2)}
	}); err != nil {
		return err
	}
	if p.tokens, err = program.New(p.be, "tokens of a block", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.inputs(in)
		return []*Node{net.model.Hidden(net.layers(tuned, frozen, nil, peft.Rates{}), net.tuning.Selection.FromBlock, images)}
	}); err != nil {
		return err
	}
	p.split, err = newSplit(p.be, net.model.Config)
	return err
}

// inputs divides the inputs of a program into tuned tensors, frozen tensors and images.
func (p *Predictor) inputs(in []*Node) (tuned, frozen []*Node, images *Node) {
	n := len(p.tuned)
	return p.packs.unpack(in[:n]), in[n : len(in)-1], in[len(in)-1]
}

// expect starts to compile the program that Evaluate needs for data. It does nothing on the CPU.
func (p *Predictor) expect(data *Data, batchSize int) {
	if data == nil || !backend.OnDevice(p.be) {
		return
	}
	var in []shapes.Shape
	for _, t := range slices.Concat(p.tuned, p.net.values) {
		in = append(in, t.Shape())
	}
	size := p.net.model.Config.ImageSize
	p.logits.Prepare(append(in, shapes.Make(dtypes.Uint8, p.batchSize(data, batchSize), size, size, 3))...)
}

// Close releases the compiled programs, and the tuned tensors that NewPredictor copied.
func (p *Predictor) Close() {
	for _, each := range []*program.Program{p.logits, p.features, p.tokens, p.split, p.mirror} {
		if each != nil {
			each.Close()
		}
	}
	if p.borrowed {
		return
	}
	program.Free(p.tuned...)
	p.net.close()
}

// Logits returns the logits of the objective, [B, …] row-major. images has the form that
// [Stepper.Enqueue] takes, with at least one image.
func (p *Predictor) Logits(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	out, err := p.run(ctx, p.logits, images)
	return out.values, err
}

// MirroredLogits returns the mean of the logits of each image and of its mirror image, [B, classes]
// row-major. images has the form that [Stepper.Enqueue] takes, with at least one image. An
// objective whose output is a map is an error, because the map of a mirror image is mirrored too.
func (p *Predictor) MirroredLogits(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	if images.Shape().Dim(0) == 0 {
		return p.Logits(ctx, images) // reports the error
	}
	mirrored, err := p.mirrored(ctx, images)
	if err != nil {
		return nil, err
	}
	defer program.Free(mirrored)
	return p.meanLogits(ctx, images, mirrored)
}

// mirrored returns the mirror images of images.
func (p *Predictor) mirrored(ctx context.Context, images *tensors.Tensor) (*tensors.Tensor, error) {
	out, err := p.mirror.Run(ctx, images)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// meanLogits returns the mean of the logits of images, or of their features, and of those of their
// mirror images.
func (p *Predictor) meanLogits(ctx context.Context, images, mirrored *tensors.Tensor) ([]float32, error) {
	mean, err := p.run(ctx, p.logits, images)
	if err != nil {
		return nil, err
	}
	if len(mean.shape) != 1 {
		return nil, fmt.Errorf("averaging the predictions of an image and its mirror image: the objective %s predicts a map; predict the image alone", p.net.objective.Name())
	}
	other, err := p.Logits(ctx, mirrored)
	if err != nil {
		return nil, err
	}
	for i, v := range other {
		mean.values[i] = (mean.values[i] + v) / 2
	}
	return mean.values, nil
}

// Features returns the input of the head, [B, …] row-major. images has the form that
// [Stepper.Enqueue] takes, with at least one image.
func (p *Predictor) Features(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	out, err := p.run(ctx, p.features, images)
	return out.values, err
}

// output holds the output of a program for a batch.
type output struct {
	values []float32 // row-major
	shape  []int     // shape of the values of one image
}

// run returns the output of a program for images. It splits a batch that is too large for the CPU
// caches into micro-batches.
func (p *Predictor) run(ctx context.Context, forward *program.Program, images *tensors.Tensor) (all output, err error) {
	one := func(images *tensors.Tensor) (output, error) {
		out, err := forward.Run(ctx, program.Lend(p.tuned, p.net.values, []*tensors.Tensor{images})...)
		if err != nil {
			return output{}, err
		}
		defer program.Free(out...)
		values, err := program.Float32s(out[0])
		return output{values, out[0].Shape().Dimensions[1:]}, err
	}
	if images.Shape().Dim(0) == 0 {
		return all, errors.New("predicting: the batch has no images; give at least one")
	}
	sizes := microBatchSizes(p.be, p.net.model.Config, images.Shape())
	if len(sizes) == 1 {
		return one(images)
	}
	parts, err := p.split.Run(ctx, images)
	if err != nil {
		return all, err
	}
	defer program.Free(parts...)
	for part, err := range concurrently(concurrency(p.be, p.net.model.Config, sizes[0]), len(sizes), func(i int) (output, error) { return one(parts[i]) }, func(output) {}) {
		if err != nil {
			return output{}, err
		}
		all.values, all.shape = append(all.values, part.values...), part.shape
	}
	return all, nil
}

// A Sink receives predictions in batches, in the order of the data: the logits of the objective,
// [B, …], and the encoded targets, [B, …], both row-major. It must not keep the slices. If it
// returns an error, the evaluation ends with this error.
type Sink func(logits []float32, targets []int32) error

// Evaluate predicts all images of data and returns the metrics of the objective. It also passes the
// predictions to sink, unless sink is nil. batchSize is the batch size of the training; a device
// predicts up to four times as many images in one batch. If the transform of the data has TestFlip,
// the predictions are the means of the logits of each image and its mirror image. Evaluate reports
// an event with stage progress.Evaluate after each batch. A loss that is not finite is an error.
func (p *Predictor) Evaluate(ctx context.Context, data *Data, batchSize int, sink Sink, report progress.Func) (objective.Evaluation, error) {
	o := p.net.objective
	if data.objective.Name() != o.Name() {
		return objective.Evaluation{}, fmt.Errorf("evaluating with the objective %s: the data has the objective %s; use the same objective for both", o.Name(), data.objective.Name())
	}
	metrics := o.NewMetrics(p.net.model.Config)
	done := 0
	for b, err := range data.batches(ctx, p.be, nil, p.batchSize(data, batchSize), true, 0, 0) {
		if err != nil {
			return metrics.Evaluation(), err
		}
		rows := b.images.Shape().Dim(0)
		var logits []float32
		switch {
		case b.mirrored != nil:
			logits, err = p.meanLogits(ctx, b.images, b.mirrored)
		case data.testFlip():
			logits, err = p.MirroredLogits(ctx, b.images)
		default:
			logits, err = p.Logits(ctx, b.images)
		}
		b.free()
		logits = logits[:len(logits)/rows*b.n]
		if err == nil {
			err = metrics.Add(logits, b.host)
		}
		if err == nil && sink != nil {
			err = sink(logits, b.host)
		}
		if err != nil {
			return metrics.Evaluation(), err
		}
		done += b.n
		report.Report(progress.Event{Stage: progress.Evaluate, Done: int64(done), Total: int64(data.Len())})
	}
	e := metrics.Evaluation()
	return e, objective.CheckLoss(fmt.Sprintf("evaluating %d images", e.Images), e.Loss, "if the weights were trained just now, lower the learning rate, otherwise check the weights and the normalisation of the images")
}

// batchSize returns how many images to predict in one batch for a training with the given batch
// size. On the CPU it returns the same number, or the number of images if that is smaller.
//
// A device waits for the host between batches, and a prediction keeps no activations. So on a
// device the batch is up to four times as large. A device fills up a smaller batch, so one compiled
// program serves data of many sizes.
func (p *Predictor) batchSize(data *Data, batchSize int) int {
	if backend.OnDevice(p.be) {
		return batchSize * max(1, min(4, (data.Len()+batchSize-1)/batchSize))
	}
	return max(1, min(batchSize, data.Len()))
}

// ReadFeatures returns the input of the head for each sample of data, [N, width] row-major, and the
// encoded targets, [N, targetSize]. Both are nil if the features of an image are not one vector. It
// computes the features of an image once: data keeps them, also for a training of the head. The
// caller must not change them. batchSize is as for [Predictor.Evaluate]. ReadFeatures reports an
// event with stage progress.Features after each batch.
func (p *Predictor) ReadFeatures(ctx context.Context, data *Data, batchSize int, report progress.Func) (features []float32, targets []int32, err error) {
	out, err := p.computed(ctx, data, 0, batchSize, report)
	if out == nil || err != nil {
		return nil, nil, err
	}
	return out.features, out.targets, nil
}

// computed returns a Data with values of each sample from which a training can start: the tokens
// that enter the given block, or for block 0 the features, for training only the head. It returns
// nil if the features of an image are not one vector. It computes the values of an image once: data
// keeps them. It reports an event with stage progress.Tokens or progress.Features after each batch.
//
// Tokens are kept as float16 numbers, which halves their memory. On a ViT-Ti and a DeiT-Ti, before
// blocks 3 to 11, rounding changes tokens by 0.02 % (root mean square) and the logits of a new head
// by 0.02 to 0.06 %. With bfloat16 both changes are eight times as large.
func (p *Predictor) computed(ctx context.Context, data *Data, block, batchSize int, report progress.Func) (*Data, error) {
	if data.whole != nil {
		whole, err := p.computed(ctx, data.whole, block, batchSize, report)
		if whole == nil || err != nil {
			return nil, err
		}
		return whole.Part(data.first, data.Len()), nil
	}
	key := computedKey{p.net.model, p.be, block}
	if out := data.computed[key]; out != nil {
		return out, nil
	}
	out := newComputed(data)
	forward, stage := p.features, progress.Features
	if block > 0 {
		if err := CheckMemory(data.config, block, data.Len()); err != nil {
			return nil, err
		}
		forward, stage = p.tokens, progress.Tokens
	}
	for b, err := range data.batches(ctx, p.be, nil, p.batchSize(data, batchSize), true, 0, 0) {
		if err != nil {
			return nil, err
		}
		rows := b.images.Shape().Dim(0)
		f, err := p.run(ctx, forward, b.images)
		var of []float32 // the features of the mirror images
		if err == nil && block == 0 && len(f.shape) == 1 && data.testFlip() {
			of, err = p.mirroredFeatures(ctx, b.images)
		}
		b.free()
		if err != nil {
			return nil, err
		}
		if block == 0 && len(f.shape) > 1 {
			return nil, nil
		}
		out.shape, out.width = f.shape, len(f.values)/rows
		values := f.values[:b.n*out.width]
		if block == 0 {
			out.features = append(out.features, values...)
			out.mirrored = append(out.mirrored, of[:len(of)/rows*b.n]...)
		} else if err := out.addTokens(values, data.Len()); err != nil {
			return nil, option.Errorf("from-block", "training from block %d on: %w; train from the images, or from another block", block, err)
		}
		out.targets = append(out.targets, b.host...)
		report.Report(progress.Event{Stage: stage, Done: int64(out.Len()), Total: int64(data.Len())})
	}
	if data.computed == nil {
		data.computed = map[computedKey]*Data{}
	}
	data.computed[key] = out
	return out, nil
}

// mirroredFeatures returns the features of the mirror images of images.
func (p *Predictor) mirroredFeatures(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	mirrored, err := p.mirrored(ctx, images)
	if err != nil {
		return nil, err
	}
	defer program.Free(mirrored)
	return p.Features(ctx, mirrored)
}

// addTokens appends the tokens of some of n images to d.tokens.
func (d *Data) addTokens(values []float32, n int) error {
	if d.tokens == nil {
		d.tokens = make([]float16.Float16, 0, n*d.width)
	}
	for _, v := range values {
		h := float16.FromBits(checkpoint.ToFloat16(v))
		if !(math.Abs(float64(h.Float32())) <= 65504) {
			return fmt.Errorf("a number of the tokens that enter the block is %g, but float16 numbers, which keep the tokens, are at most 65504", v)
		}
		d.tokens = append(d.tokens, h)
	}
	return nil
}

// TokenBytes returns the memory of the tokens of that many images, as a training from the given
// block on keeps them: images × tokens × width numbers of 2 bytes. The block is one for which
// backbone.Config.HiddenSize returns no error.
func TokenBytes(c backbone.Config, block, images int) int64 {
	tokens, width, _ := c.HiddenSize(block)
	return int64(images) * int64(tokens) * int64(width) * 2
}

// CheckMemory returns an error if the memory that the process may have is less than TokenBytes.
func CheckMemory(c backbone.Config, block, images int) error {
	tokens, width, err := c.HiddenSize(block)
	if err != nil {
		return option.Errorf("from-block", "training from a block on: %w", err)
	}
	need := TokenBytes(c, block, images)
	if free, known := measure.Available(); known && need > free {
		return option.Errorf("from-block", "training from block %d on: the tokens of %d images that enter the block need %.1f GB of memory (%d tokens of %d numbers, 2 bytes each), but %.1f GB are available; use fewer or smaller images, or train from the images", block, images, float64(need)/1e9, tokens, width, float64(free)/1e9)
	}
	return nil
}
