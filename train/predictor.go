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
	"github.com/sptune/spt/peft"
)

// Predictor computes logits with tuned tensors in place; nothing is dropped.
type Predictor struct {
	be       backend.Backend
	net      *network
	packs    packing
	tuned    []*tensors.Tensor // as packs says
	borrowed bool              // tuned and net are a Stepper's
	logits   *backend.Program
	features *backend.Program
	cut      *backend.Program // a batch that is too large for the caches
}

// NewPredictor places the tuned tensors, by peft.Param.Name, on the backend.
func NewPredictor(be backend.Backend, m *backbone.Model, t *peft.Tuning, tuned checkpoint.StateDict) (_ *Predictor, err error) {
	net, err := newNetwork(be, m, t)
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

// predictor predicts with what the stepper has tuned so far. Its tuned tensors are
// those of s.tuned at the time: each step makes new ones. It closes before s does.
func (s *Stepper) predictor() (*Predictor, error) {
	p := &Predictor{be: s.be, net: s.net, packs: s.packs, tuned: s.tuned(), borrowed: true}
	if err := p.prepare(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// tuned are the packs of tuned tensors.
func (s *Stepper) tuned() []*tensors.Tensor { return s.state[:len(s.packs.packs)] }

func (p *Predictor) prepare() (err error) {
	net := p.net
	if p.logits, err = backend.NewProgram(p.be, "forward pass", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.split(in)
		return []*Node{net.logits(tuned, frozen, images, nil, peft.Rates{})}
	}); err != nil {
		return err
	}
	if p.features, err = backend.NewProgram(p.be, "features", func(_ *Graph, in []*Node) []*Node {
		tuned, frozen, images := p.split(in)
		return []*Node{net.model.Features(net.layers(tuned, frozen, nil, peft.Rates{}), images)}
	}); err != nil {
		return err
	}
	p.cut, err = newCut(p.be, net.model.Config)
	return err
}

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

// Close releases the compiled graphs and the tuned tensors.
func (p *Predictor) Close() {
	for _, program := range []*backend.Program{p.logits, p.features, p.cut} {
		if program != nil {
			program.Close()
		}
	}
	if p.borrowed {
		return
	}
	backend.Free(p.tuned...)
	p.net.close()
}

// Logits is [B, C], row-major, for images as Stepper.Step takes them.
func (p *Predictor) Logits(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	return p.run(ctx, p.logits, images)
}

// Features is what the head sees, [B, D], row-major.
func (p *Predictor) Features(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	return p.run(ctx, p.features, images)
}

// run is the output of a program for images, row-major.
func (p *Predictor) run(ctx context.Context, program *backend.Program, images *tensors.Tensor) (out []float32, err error) {
	one := func(images *tensors.Tensor) ([]float32, error) {
		out, err := program.Run(ctx, backend.Lend(p.tuned, p.net.values, []*tensors.Tensor{images})...)
		if err != nil {
			return nil, err
		}
		defer backend.Free(out...)
		return backend.Float32s(out[0])
	}
	if images.Shape().Dim(0) == 0 {
		return nil, errors.New("predicting: there are no images")
	}
	sizes := pieces(p.be, p.net.model.Config, images.Shape())
	if len(sizes) == 1 {
		return one(images)
	}
	cut, err := p.cut.Run(ctx, images)
	if err != nil {
		return nil, err
	}
	defer backend.Free(cut...)
	for rows, err := range sideBySide(runs(p.be, p.net.model.Config, sizes[0]), len(sizes), func(i int) ([]float32, error) { return one(cut[i]) }, func([]float32) {}) {
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

// Evaluation is how well predictions match labels.
type Evaluation struct {
	Images   int        `json:"images"`
	Accuracy float64    `json:"accuracy"` // fraction of right top-1 predictions
	Loss     float64    `json:"loss"`     // mean cross-entropy
	Classes  []PerClass `json:"classes,omitempty"`
}

// PerClass counts the images of one class and how many were recognised.
type PerClass struct {
	Images  int `json:"images"`
	Correct int `json:"correct"`
}

// Evaluate predicts every image of the loader. progress, if not nil, is called
// with the images seen so far.
func (p *Predictor) Evaluate(ctx context.Context, data *Data, batchSize int, progress func(images int)) (Evaluation, error) {
	var e Evaluation
	classes := p.net.model.Config.NumClasses
	e.Classes = make([]PerClass, classes)
	loss := 0.0
	correct := 0
	for b, err := range data.batches(ctx, p.be, nil, p.atOnce(data, batchSize), false, 0, 0) {
		if err != nil {
			return e, err
		}
		logits, err := p.Logits(ctx, b.images)
		b.free()
		if err != nil {
			return e, err
		}
		for i, label := range b.host {
			if label < 0 || int(label) >= classes {
				return e, fmt.Errorf("image %d has label %d, expected 0 to %d, the classes of the head", e.Images+i+1, label, classes-1)
			}
			row := logits[i*classes : (i+1)*classes]
			best, lse := logSumExp(row)
			loss += lse - float64(row[label])
			e.Classes[label].Images++
			if best == int(label) {
				e.Classes[label].Correct++
				correct++
			}
		}
		e.Images += len(b.host)
		if progress != nil {
			progress(e.Images)
		}
	}
	if e.Images > 0 {
		e.Accuracy = float64(correct) / float64(e.Images)
		e.Loss = loss / float64(e.Images)
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return e, fmt.Errorf("the loss on %d images is %v; if training led to it, lower the learning rate (--lr), else check the weights and the images' normalisation", e.Images, loss)
	}
	return e, nil
}

// atOnce is how many images to predict at once, for a batchSize of training: as many,
// or on a device, which waits for the host between batches, up to four times as many, whose
// activations are not kept. There a short batch is filled up, so that one program does for
// data of many sizes.
func (p *Predictor) atOnce(data *Data, batchSize int) int {
	if backend.OnDevice(p.be) {
		return batchSize * max(1, min(4, (data.Len()+batchSize-1)/batchSize))
	}
	return max(1, min(batchSize, data.Len()))
}

// logSumExp returns the position of the largest value and log Σ exp.
func logSumExp(row []float32) (best int, lse float64) {
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v - row[best]))
	}
	return best, float64(row[best]) + math.Log(sum)
}

// featuresOf computes the features of every sample once, for a head trained
// alone on a frozen backbone.
func (p *Predictor) featuresOf(ctx context.Context, data *Data, batchSize int, progress func(images int)) (*Data, error) {
	out := &Data{width: p.net.model.Config.NumFeatures(), kept: map[backend.Backend]*resident{}}
	for b, err := range data.batches(ctx, p.be, nil, p.atOnce(data, batchSize), false, 0, 0) {
		if err != nil {
			return nil, err
		}
		f, err := p.Features(ctx, b.images)
		b.free()
		if err != nil {
			return nil, err
		}
		out.features = append(out.features, f[:len(b.host)*out.width]...)
		out.labels = append(out.labels, b.host...)
		if progress != nil {
			progress(len(out.labels))
		}
	}
	return out, nil
}
