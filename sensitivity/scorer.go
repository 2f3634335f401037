package sensitivity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/drop"
	"github.com/sptune/spt/internal/microbatch"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/internal/seeded"
	"github.com/sptune/spt/objective"
)

// Scorer adds up the scores of batches on a backend. Call [Scorer.Add] for each batch, then
// [Scorer.Scores]. A Scorer must not be used by two goroutines at the same time.
type Scorer struct {
	be        backend.Backend
	model     *backbone.Model
	objective objective.Objective
	// options holds the criterion, the compat mode and the seed.
	options Options
	// program scores a whole batch.
	program *program.Program
	// params lists the tensors whose gradients are computed, in the order of
	// backbone.Config.Params: the scored tensors from block options.FromBlock on.
	params []backbone.Param
	// order lists the names of the weight inputs of the programs.
	order []string
	// weights holds the weights without the head.
	weights []*tensors.Tensor
	// head holds the tensors of the head.
	head []*tensors.Tensor
	// formula is that of the criterion.
	formula formula
	// sums holds the sums of the formula so far: the first sum of each of params, then the second
	// of each.
	sums []*tensors.Tensor
	// losses holds the mean loss of each batch so far.
	losses []float64
	// images is the number of images so far.
	images int
	// first is the number of images of the first batch.
	first int

	// These programs score a batch that is too large for the CPU caches. They split the batch into
	// micro-batches, accumulate the gradients of the micro-batches, and score the sum.
	split, gradients, finish *program.Program
	// tokens is the largest number of tokens in a micro-batch. Zero means that batches are not
	// split. Each micro-batch adds to a gradient of all scored weights. To keep only one such
	// gradient in memory, the micro-batches run one after the other. They are twice as large as in
	// a training step.
	tokens int
	// gradient holds the accumulated gradient, one tensor for each of params. It is zero between
	// batches, and empty until the first batch that is split.
	gradient []*tensors.Tensor
}

// NewScorer returns a Scorer with the criterion [SquaredGradient]. head holds the tensors of the
// head by name, such as "head.weight" [C, D] and "head.bias" [C] of a ViT with C classes. The
// objective o defines the loss. Call Close to release the Scorer.
func NewScorer(be backend.Backend, m *backbone.Model, o objective.Objective, head checkpoint.StateDict) (*Scorer, error) {
	return newScorer(be, m, o, head, Options{Criterion: SquaredGradient})
}

// newScorer returns a Scorer with the criterion, the compat mode and the seed of options. The
// criterion needs images.
func newScorer(be backend.Backend, m *backbone.Model, o objective.Objective, head checkpoint.StateDict, options Options) (_ *Scorer, err error) {
	if o == nil {
		return nil, errors.New("scoring: the objective is not set; give one, such as objective.SingleLabel")
	}
	tokens, _ := program.AtOnce(be)
	s := &Scorer{be: be, model: m, objective: o, options: options, formula: options.Criterion.formula(), tokens: 2 * tokens}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	placed, err := m.On(be)
	if err != nil {
		return nil, err
	}
	early := len(m.Config.Params()) - len(m.Config.ParamsFrom(options.FromBlock))
	for i, p := range m.Config.Params() {
		if p.Role == backbone.Head {
			h, ok := head[p.Name]
			if !ok || !slices.Equal(h.Shape, p.Shape) {
				return nil, fmt.Errorf("scoring: the head tensor %s has shape %v, expected %v; give the head of this backbone", p.Name, h.Shape, p.Shape)
			}
			t, err := program.Tensor(be, h.Data, h.Shape...)
			if err != nil {
				return nil, err
			}
			s.head = append(s.head, t)
		} else {
			s.weights = append(s.weights, placed[p.Name])
		}
		s.order = append(s.order, p.Name)
		if p.Role == backbone.Scored && i >= early {
			s.params = append(s.params, p)
		}
	}
	for range s.formula.sums() {
		for _, p := range s.params {
			t, err := program.Tensor(be, make([]float32, p.Size()), p.Shape...)
			if err != nil {
				return nil, err
			}
			s.sums = append(s.sums, t)
		}
	}
	for _, p := range []struct {
		to    **program.Program
		name  string
		build program.Build
	}{
		{&s.program, "stage 1 (sensitivity)", s.build},
		{&s.gradients, "stage 1, gradients of a micro-batch", s.buildGradients},
		{&s.finish, "stage 1, scores", s.buildFinish},
	} {
		if *p.to, err = program.New(be, p.name, p.build); err != nil {
			return nil, err
		}
	}
	s.split, err = microbatch.NewCut(be, m.Config, s.tokens)
	return s, err
}

// Close releases the compiled programs and the accumulated scores.
func (s *Scorer) Close() {
	for _, p := range []*program.Program{s.program, s.split, s.gradients, s.finish} {
		if p != nil { // nil if newScorer failed
			p.Close()
		}
	}
	program.Free(s.sums...)
	program.Free(s.gradient...)
	program.Free(s.head...)
}

// build builds the program that scores a whole batch. Its inputs are the sums, the weights with the
// head last, the images, the targets, the random state, the factor of the batch, and whether its
// number is odd. Its outputs are the new sums and the loss.
func (s *Scorer) build(_ *Graph, in []*Node) []*Node {
	n := len(s.params) * s.formula.sums()
	sums, weights, in := in[:n], in[n:len(in)-5], in[len(in)-5:]
	loss, signals := s.signals(weights, in[0], in[1], in[2], nil)
	return append(s.score(sums, s.scored(weights), signals, in[3], in[4]), loss)
}

// buildGradients builds the program that accumulates the signals of a micro-batch, the gradients.
// Its inputs are the gradient so far, the weights with the head last, the images, the targets, the
// random state, and the share of the micro-batch in its batch. Its outputs are the new gradient and
// what the micro-batch adds to the loss of the batch.
func (s *Scorer) buildGradients(_ *Graph, in []*Node) (out []*Node) {
	n := len(s.params)
	before, weights, in := in[:n], in[n:len(in)-4], in[len(in)-4:]
	loss, signals := s.signals(weights, in[0], in[1], in[2], in[3])
	for i, g := range signals {
		out = append(out, Add(before[i], ConvertDType(g, dtypes.Float32)))
	}
	return append(out, loss)
}

// buildFinish builds the program that scores the accumulated gradient of a batch. Its inputs are
// the sums, the gradient, the weights with the head last, the factor of the batch, and whether its
// number is odd. Its outputs are the new sums and a gradient of zeros.
func (s *Scorer) buildFinish(_ *Graph, in []*Node) []*Node {
	n, last := len(s.params)*s.formula.sums(), len(in)-2
	sums, gradient, weights := in[:n], in[n:n+len(s.params)], in[n+len(s.params):last]
	out := s.score(sums, s.scored(weights), gradient, in[last], in[last+1])
	for _, g := range gradient {
		out = append(out, ZerosLike(g))
	}
	return out
}

// signals returns the mean loss of the images and its gradient with respect to each of the scored
// tensors. If the criterion needs no gradient, it returns the means of their inputs instead; see
// Activation. state is the random state of the drop-path of CompatRelease. All results are
// multiplied by share, unless it is nil.
func (s *Scorer) signals(weights []*Node, images, targets, state, share *Node) (loss *Node, signals []*Node) {
	byName := map[string]*Node{}
	for i, name := range s.order {
		byName[name] = weights[i]
	}
	layers := backbone.Untuned(byName)
	if s.options.Compat == CompatRelease {
		layers = trainingMode{layers, drop.New(state), s.model.Config.Blocks()}
	}
	inputs := &inputMeans{Layers: layers, means: map[string]*Node{}}
	if s.formula.forward {
		layers = inputs
	}
	logits := s.objective.Logits(s.model.Config, layers, s.objective.Features(s.model, layers, images))
	loss = s.objective.Loss(logits, targets)
	if share != nil {
		loss = Mul(loss, share)
	}
	if !s.formula.forward {
		return loss, Gradient(loss, s.scored(weights)...)
	}
	for _, p := range s.params {
		mean := inputs.of(loss.Graph(), p)
		if share != nil {
			mean = Mul(mean, share)
		}
		signals = append(signals, mean)
	}
	return loss, signals
}

// scored returns the scored tensors among the weights.
func (s *Scorer) scored(weights []*Node) (scored []*Node) {
	for _, p := range s.params {
		scored = append(scored, weights[slices.Index(s.order, p.Name)])
	}
	return scored
}

// score returns the sums with the part of one batch added, times its factor.
func (s *Scorer) score(sums, weights, gradient []*Node, factor, odd *Node) []*Node {
	out := make([]*Node, len(sums))
	for i, g := range gradient {
		for k, part := range s.formula.add(ConvertDType(weights[i], dtypes.Float32), ConvertDType(g, dtypes.Float32), odd) {
			j := k*len(s.params) + i
			out[j] = Add(sums[j], Mul(part, factor))
		}
	}
	return out
}

// Add adds the scores of one batch and returns the mean loss of the batch. images holds pixels,
// uint8 or normalised float32 [B, S, S, 3]. targets holds the targets as the objective encodes
// them, int32 [B, TargetShape…]. If the loss is not finite, Add returns an error.
//
// The scores of a batch of B images are multiplied by B/F, where F is the number of images of the
// first batch. The gradient of a smaller batch is noisier, and the square of the noise would raise
// all its scores.
func (s *Scorer) Add(ctx context.Context, images, targets *tensors.Tensor) (float64, error) {
	if err := ctx.Err(); err != nil { // the program consumes the sums, so check first
		return 0, err
	}
	n := images.Shape().Dim(0)
	if s.images == 0 {
		s.first = n
	}
	batch := len(s.losses)
	factor, err := program.Tensor(s.be, []float32{s.factor(n)})
	if err != nil {
		return 0, err
	}
	defer program.Free(factor)
	odd, err := program.Tensor(s.be, []float32{float32(batch % 2)})
	if err != nil {
		return 0, err
	}
	defer program.Free(odd)
	add := s.wholeBatch
	if len(microbatch.Sizes(s.model.Config, images.Shape(), s.tokens)) > 1 {
		add = s.inMicroBatches
	}
	loss, err := add(ctx, images, targets, []any{factor, odd}, seeded.Rand(s.options.Seed, fmt.Sprintf("batch %d", batch)))
	if err != nil {
		return 0, err
	}
	if err := objective.CheckLoss(fmt.Sprintf("scoring batch %d", batch), loss, "check the weights of the backbone and the normalisation of the images"); err != nil {
		return 0, err
	}
	s.losses = append(s.losses, loss)
	s.images += n
	return loss, nil
}

// factor returns the factor of the scores of a batch of n images.
func (s *Scorer) factor(n int) float32 {
	if s.options.Compat == CompatRelease {
		return 1
	}
	return float32(n) / float32(s.first)
}

// wholeBatch scores a batch without splitting it. place holds the factor of the batch and whether
// its number is odd. r draws the random state.
func (s *Scorer) wholeBatch(ctx context.Context, images, targets *tensors.Tensor, place []any, r *rand.Rand) (float64, error) {
	state, err := program.RandomState(s.be, r)
	if err != nil {
		return 0, err
	}
	defer program.Free(state)
	out, err := s.program.Run(ctx, slices.Concat(program.Donate(s.sums), program.Lend(s.weights, s.head), []any{images, targets, state}, place)...)
	if err != nil {
		return 0, err
	}
	s.sums = out[:len(s.sums)]
	return number(out[len(s.sums)])
}

// inMicroBatches scores a batch by gradient accumulation over its micro-batches. r draws the random
// state of each micro-batch. place is as for wholeBatch. The order of the sums does not depend on
// the number of threads.
func (s *Scorer) inMicroBatches(ctx context.Context, images, targets *tensors.Tensor, place []any, r *rand.Rand) (loss float64, err error) {
	n := len(s.sums)
	for _, p := range s.params[len(s.gradient):] {
		t, err := program.Tensor(s.be, make([]float32, p.Size()), p.Shape...)
		if err != nil {
			return 0, err
		}
		s.gradient = append(s.gradient, t)
	}
	sizes := microbatch.Sizes(s.model.Config, images.Shape(), s.tokens)
	parts, err := s.split.Run(ctx, images, targets)
	if err != nil {
		return 0, err
	}
	defer program.Free(parts...)
	defer func() {
		if err != nil { // the next batch must start with a gradient of zeros
			program.Free(s.gradient...)
			s.gradient = nil
		}
	}()
	for i, size := range sizes {
		share := float32(size) / float32(images.Shape().Dim(0))
		part, err := s.accumulate(ctx, parts[i], parts[len(sizes)+i], share, r)
		if err != nil {
			return 0, err
		}
		loss += part
	}
	out, err := s.finish.Run(ctx, slices.Concat(program.Donate(s.sums), program.Donate(s.gradient), program.Lend(s.weights, s.head), place)...)
	if err != nil {
		return 0, err
	}
	s.sums, s.gradient = out[:n], out[n:]
	return loss, nil
}

// accumulate adds the gradient of a micro-batch to s.gradient. share is the share of the
// micro-batch in its batch. It returns what the micro-batch adds to the loss of the batch.
func (s *Scorer) accumulate(ctx context.Context, images, targets *tensors.Tensor, share float32, r *rand.Rand) (float64, error) {
	state, err := program.RandomState(s.be, r)
	if err != nil {
		return 0, err
	}
	defer program.Free(state)
	scale, err := program.Tensor(s.be, []float32{share})
	if err != nil {
		return 0, err
	}
	defer program.Free(scale)
	out, err := s.gradients.Run(ctx, slices.Concat(program.Donate(s.gradient), program.Lend(s.weights, s.head), []any{images, targets, state, scale})...)
	if err != nil {
		return 0, err
	}
	n := len(s.params)
	s.gradient = out[:n]
	return number(out[n])
}

// number copies a scalar from the backend and releases the tensor.
func number(t *tensors.Tensor) (float64, error) {
	defer program.Free(t)
	return program.Number(t)
}

// Scores returns the scores of all batches so far. It copies them from the backend.
func (s *Scorer) Scores() (*Scores, error) {
	out := newScores(s.model, s.options.Criterion)
	out.Compat, out.Losses, out.Images, out.FromBlock = s.options.Compat, s.losses, s.images, s.options.FromBlock
	early := len(out.Tensors) - len(s.params)
	for i := range out.Tensors {
		t := &out.Tensors[i]
		if i < early {
			t.Scores = make([]float32, t.size())
			continue
		}
		v, err := s.read(i-early, t.Name)
		if err != nil {
			return nil, err
		}
		t.Scores = v
	}
	return out, nil
}

// read returns the scores of s.params[i] from its sums.
func (s *Scorer) read(i int, name string) ([]float32, error) {
	var sums [][]float32
	for k := range s.formula.sums() {
		v, err := program.Float32s(s.sums[k*len(s.params)+i])
		if err != nil {
			return nil, fmt.Errorf("reading the scores of %s: %w", name, err)
		}
		sums = append(sums, v)
	}
	if s.formula.score == nil {
		return sums[0], nil
	}
	parts := make([]float64, len(sums))
	for j := range sums[0] {
		for k := range sums {
			parts[k] = float64(sums[k][j])
		}
		sums[0][j] = float32(s.formula.score(parts))
	}
	return sums[0], nil
}
