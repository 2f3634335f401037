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
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
)

// Predictor computes logits with the tuned tensors in place. Nothing is dropped.
type Predictor struct {
	be       backend.Backend
	net      *network
	packs    packing
	tuned    []*tensors.Tensor // stored as packs says
	borrowed bool              // tuned and net belong to a Stepper
	logits   *program.Program
	features *program.Program
	cut      *program.Program // cuts a batch that is too large for the caches
}

// NewPredictor places the tuned tensors, by peft.Param.Name, on the backend. The objective o gives
// the logits. Close releases the Predictor.
func NewPredictor(be backend.Backend, m *backbone.Model, o objective.Objective, t *peft.Tuning, tuned checkpoint.StateDict) (_ *Predictor, err error) {
	net, err := newNetwork(be, m, o, t)
	if err != nil {
		return nil, err
	}
	p := &Predictor{be: be, net: net, packs: pack(be, t.Params)}
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

// predictor returns a Predictor with what the stepper has tuned so far. Each step makes new tuned
// tensors, so a caller sets Predictor.tuned again before it predicts. Close it before s.
func (s *Stepper) predictor() (*Predictor, error) {
	p := &Predictor{be: s.be, net: s.net, packs: s.packs, tuned: s.tuned(), borrowed: true}
	if err := p.prepare(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// tuned returns the packs of tuned tensors.
func (s *Stepper) tuned() []*tensors.Tensor { return s.state[:len(s.packs.packs)] }

// prepare makes the programs.
func (p *Predictor) prepare() (err error) {
	net := p.net
	if p.logits, err = program.New(p.be, "forward pass", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.split(in)
		return []*Node{net.logits(tuned, frozen, images, nil, peft.Rates{})}
	}); err != nil {
		return err
	}
	if p.features, err = program.New(p.be, "features", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.split(in)
		return []*Node{net.objective.Features(net.model, net.layers(tuned, frozen, nil, peft.Rates{}), images)}
	}); err != nil {
		return err
	}
	p.cut, err = newCut(p.be, net.model.Config)
	return err
}

// split returns the inputs of a program: tuned tensors, frozen tensors and images.
func (p *Predictor) split(in []*Node) (tuned, frozen []*Node, images *Node) {
	n := len(p.tuned)
	return p.packs.unpack(in[:n]), in[n : len(in)-1], in[len(in)-1]
}

// expect begins to compile, on a device, what Evaluate needs.
func (p *Predictor) expect(data *Data, batchSize int) {
	if data == nil || !backend.OnDevice(p.be) {
		return
	}
	var in []shapes.Shape
	for _, t := range slices.Concat(p.tuned, p.net.values) {
		in = append(in, t.Shape())
	}
	size := p.net.model.Config.ImageSize
	p.logits.Prepare(append(in, shapes.Make(dtypes.Uint8, p.atOnce(data, batchSize), size, size, 3))...)
}

// Close releases the compiled programs and the tuned tensors.
func (p *Predictor) Close() {
	for _, each := range []*program.Program{p.logits, p.features, p.cut} {
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

// Logits returns the objective's logits, [B, …] row-major, for images as Stepper.Enqueue takes
// them.
func (p *Predictor) Logits(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	out, err := p.run(ctx, p.logits, images)
	return out.values, err
}

// Features returns what the head reads, [B, …] row-major, for images as Stepper.Enqueue takes them.
func (p *Predictor) Features(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	out, err := p.run(ctx, p.features, images)
	return out.values, err
}

// output is the output of a program for a batch.
type output struct {
	values []float32 // row-major
	axes   int       // number of axes, with the batch axis
}

// run returns the output of a program for images.
func (p *Predictor) run(ctx context.Context, forward *program.Program, images *tensors.Tensor) (all output, err error) {
	one := func(images *tensors.Tensor) (output, error) {
		out, err := forward.Run(ctx, program.Lend(p.tuned, p.net.values, []*tensors.Tensor{images})...)
		if err != nil {
			return output{}, err
		}
		defer program.Free(out...)
		values, err := program.Float32s(out[0])
		return output{values, out[0].Shape().Rank()}, err
	}
	if images.Shape().Dim(0) == 0 {
		return all, errors.New("predicting: there are no images")
	}
	sizes := pieces(p.be, p.net.model.Config, images.Shape())
	if len(sizes) == 1 {
		return one(images)
	}
	cut, err := p.cut.Run(ctx, images)
	if err != nil {
		return all, err
	}
	defer program.Free(cut...)
	for piece, err := range sideBySide(runs(p.be, p.net.model.Config, sizes[0]), len(sizes), func(i int) (output, error) { return one(cut[i]) }, func(output) {}) {
		if err != nil {
			return output{}, err
		}
		all.values, all.axes = append(all.values, piece.values...), piece.axes
	}
	return all, nil
}

// Evaluate predicts every image of data and measures the predictions with the objective's metrics.
// It reports progress.Evaluate after each batch.
func (p *Predictor) Evaluate(ctx context.Context, data *Data, batchSize int, report progress.Func) (objective.Evaluation, error) {
	o := p.net.objective
	if data.objective.Name() != o.Name() {
		return objective.Evaluation{}, fmt.Errorf("evaluating with the objective %s: the data has the objective %s; give data of the same objective", o.Name(), data.objective.Name())
	}
	metrics := o.NewMetrics(p.net.model.Config)
	done := 0
	for b, err := range data.batches(ctx, p.be, nil, p.atOnce(data, batchSize), false, 0, 0) {
		if err != nil {
			return metrics.Evaluation(), err
		}
		rows := b.images.Shape().Dim(0)
		logits, err := p.Logits(ctx, b.images)
		b.free()
		if err == nil {
			err = metrics.Add(logits[:len(logits)/rows*b.n], b.host)
		}
		if err != nil {
			return metrics.Evaluation(), err
		}
		done += b.n
		report.Report(progress.Event{Stage: progress.Evaluate, Done: int64(done), Total: int64(data.Len())})
	}
	e := metrics.Evaluation()
	if math.IsNaN(e.Loss) || math.IsInf(e.Loss, 0) {
		return e, fmt.Errorf("the loss on %d images is %v; if a training led to it, lower the learning rate, else check the weights and the images' normalisation", e.Images, e.Loss)
	}
	return e, nil
}

// atOnce returns how many images to predict at once for a training with that batch size: as many,
// or up to four times as many on a device, which waits for the host between batches and keeps no
// activations here. A device fills up a short batch, so that one program serves data of many sizes.
func (p *Predictor) atOnce(data *Data, batchSize int) int {
	if backend.OnDevice(p.be) {
		return batchSize * max(1, min(4, (data.Len()+batchSize-1)/batchSize))
	}
	return max(1, min(batchSize, data.Len()))
}

// featuresOf returns the features of every sample, for a head that is trained alone on a frozen
// backbone. It returns nil if the objective does not read one feature vector per image.
func (p *Predictor) featuresOf(ctx context.Context, data *Data, batchSize int) (*Data, error) {
	out := &Data{objective: data.objective, config: data.config, targetSize: data.targetSize, kept: map[backend.Backend]*resident{}}
	for b, err := range data.batches(ctx, p.be, nil, p.atOnce(data, batchSize), false, 0, 0) {
		if err != nil {
			return nil, err
		}
		rows := b.images.Shape().Dim(0)
		f, err := p.run(ctx, p.features, b.images)
		b.free()
		if err != nil {
			return nil, err
		}
		if f.axes != 2 {
			return nil, nil
		}
		out.width = len(f.values) / rows
		out.features = append(out.features, f.values[:b.n*out.width]...)
		out.targets = append(out.targets, b.host...)
	}
	return out, nil
}
