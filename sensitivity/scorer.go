package sensitivity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/microbatch"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// Scorer accumulates scores on a backend.
type Scorer struct {
	be        backend.Backend
	model     *backbone.Model
	objective objective.Objective
	by        Criterion
	program   *program.Program
	params    []backbone.Param // the scored tensors, in order
	order     []string         // names of the program's weight inputs
	weights   []*tensors.Tensor
	head      []*tensors.Tensor
	sums      []*tensors.Tensor // the scores so far, one tensor for each of params
	losses    []float64
	images    int

	// A batch that is too large for the caches is computed in pieces. Their gradients are added up;
	// then the sum is scored.
	cut, gradients, finish *program.Program
	gradient               []*tensors.Tensor // one tensor for each of params; zeros between batches
}

// NewScorer prepares stage 1 with the criterion [SquaredGradient]. head holds the tensors of the
// backbone's head, such as "head.weight" [C, D] and "head.bias" [C]; the paper draws new ones.
// Close releases what the Scorer holds.
func NewScorer(be backend.Backend, m *backbone.Model, o objective.Objective, head checkpoint.StateDict) (*Scorer, error) {
	return newScorer(be, m, o, head, SquaredGradient)
}

func newScorer(be backend.Backend, m *backbone.Model, o objective.Objective, head checkpoint.StateDict, by Criterion) (_ *Scorer, err error) {
	if o == nil {
		return nil, errors.New("scoring: the objective is not set; give one, such as objective.SingleLabel")
	}
	s := &Scorer{be: be, model: m, objective: o, by: by}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	placed, err := m.On(be)
	if err != nil {
		return nil, err
	}
	for _, p := range m.Config.Params() {
		if p.Role == backbone.Head {
			h, ok := head[p.Name]
			if !ok || !slices.Equal(h.Shape, p.Shape) {
				return nil, fmt.Errorf("scoring: the head's %s has shape %v, expected %v", p.Name, h.Shape, p.Shape)
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
		if p.Role == backbone.Scored {
			s.params = append(s.params, p)
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
		{&s.gradients, "stage 1, gradients of a part of a batch", s.buildGradients},
		{&s.finish, "stage 1, scores", s.buildFinish},
	} {
		if *p.to, err = program.New(be, p.name, p.build); err != nil {
			return nil, err
		}
	}
	s.cut, err = microbatch.NewCut(be, m.Config, s.atOnce())
	return s, err
}

// atOnce returns how many tokens are scored at once; 0 means all. Each piece holds a gradient of
// all weights and adds to it. Pieces therefore run one after the other, and are twice as large as
// those of a training step.
func (s *Scorer) atOnce() int {
	tokens, _ := program.AtOnce(s.be)
	return 2 * tokens
}

// Close releases the accumulated scores.
func (s *Scorer) Close() {
	for _, p := range []*program.Program{s.program, s.cut, s.gradients, s.finish} {
		if p != nil { // a program is nil if newScorer failed before
			p.Close()
		}
	}
	program.Free(s.sums...)
	program.Free(s.gradient...)
	program.Free(s.head...)
}

// build maps sums, weights with the head last, images and targets to new sums and the loss.
func (s *Scorer) build(_ *Graph, in []*Node) []*Node {
	n := len(s.params)
	sums, weights, images, targets := in[:n], in[n:len(in)-2], in[len(in)-2], in[len(in)-1]
	loss, scored := s.loss(weights, images, targets)
	return append(s.score(sums, scored, Gradient(loss, scored...)), loss)
}

// buildGradients maps the gradient so far, weights with the head last, and the images, the targets
// and the share of a piece in its batch to the new gradient and the piece's part of the loss.
func (s *Scorer) buildGradients(_ *Graph, in []*Node) (out []*Node) {
	n := len(s.params)
	so, weights, in := in[:n], in[n:len(in)-3], in[len(in)-3:]
	loss, scored := s.loss(weights, in[0], in[1])
	loss = Mul(loss, in[2])
	for i, g := range Gradient(loss, scored...) {
		out = append(out, Add(so[i], ConvertDType(g, dtypes.Float32)))
	}
	return append(out, loss)
}

// buildFinish maps sums, the gradient of a batch and weights with the head last to new sums and a
// gradient of zeros.
func (s *Scorer) buildFinish(_ *Graph, in []*Node) []*Node {
	n := len(s.params)
	sums, gradient, weights := in[:n], in[n:2*n], in[2*n:]
	out := s.score(sums, s.scored(weights), gradient)
	for _, g := range gradient {
		out = append(out, ZerosLike(g))
	}
	return out
}

// loss returns the mean loss of images, and the weights that are scored.
func (s *Scorer) loss(weights []*Node, images, targets *Node) (loss *Node, scored []*Node) {
	byName := map[string]*Node{}
	for i, name := range s.order {
		byName[name] = weights[i]
	}
	layers := backbone.Untuned(byName)
	logits := s.objective.Logits(s.model.Config, layers, s.objective.Features(s.model, layers, images))
	return s.objective.Loss(logits, targets), s.scored(weights)
}

// scored returns those of weights that get scores.
func (s *Scorer) scored(weights []*Node) (scored []*Node) {
	for _, p := range s.params {
		scored = append(scored, weights[slices.Index(s.order, p.Name)])
	}
	return scored
}

// score adds the scores of a batch to the sums.
func (s *Scorer) score(sums, weights, gradient []*Node) (out []*Node) {
	for i, g := range gradient {
		out = append(out, Add(sums[i], s.by.score(ConvertDType(weights[i], dtypes.Float32), ConvertDType(g, dtypes.Float32))))
	}
	return out
}

// Add scores one batch and returns its loss. images are pixels [B, S, S, 3], as uint8 or as
// normalised float32; targets are encoded by the objective, int32 [B, TargetShape…].
func (s *Scorer) Add(ctx context.Context, images, targets *tensors.Tensor) (float64, error) {
	if err := ctx.Err(); err != nil { // checked before the sums are donated
		return 0, err
	}
	add := s.whole
	if len(microbatch.Sizes(s.model.Config, images.Shape(), s.atOnce())) > 1 {
		add = s.inPieces
	}
	loss, err := add(ctx, images, targets)
	if err != nil {
		return 0, err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("scoring batch %d: the loss is %v; check the backbone's weights and the images' normalisation", len(s.losses), loss)
	}
	s.losses = append(s.losses, loss)
	s.images += images.Shape().Dim(0)
	return loss, nil
}

// whole scores a batch at once.
func (s *Scorer) whole(ctx context.Context, images, targets *tensors.Tensor) (float64, error) {
	out, err := s.program.Run(ctx, slices.Concat(program.Donate(s.sums), program.Lend(s.weights, s.head), []any{images, targets})...)
	if err != nil {
		return 0, err
	}
	s.sums = out[:len(s.params)]
	return number(out[len(s.params)])
}

// inPieces scores a batch piece by piece. The order of the sums does not depend on the number of
// threads.
func (s *Scorer) inPieces(ctx context.Context, images, targets *tensors.Tensor) (loss float64, err error) {
	n := len(s.params)
	for _, p := range s.params[len(s.gradient):] {
		t, err := program.Tensor(s.be, make([]float32, p.Size()), p.Shape...)
		if err != nil {
			return 0, err
		}
		s.gradient = append(s.gradient, t)
	}
	sizes := microbatch.Sizes(s.model.Config, images.Shape(), s.atOnce())
	cut, err := s.cut.Run(ctx, images, targets)
	if err != nil {
		return 0, err
	}
	defer program.Free(cut...)
	defer func() {
		if err != nil { // the next batch must not score the sum of some pieces of this one
			program.Free(s.gradient...)
			s.gradient = nil
		}
	}()
	for i, size := range sizes {
		share, err := program.Tensor(s.be, []float32{float32(size) / float32(images.Shape().Dim(0))})
		if err != nil {
			return 0, err
		}
		out, err := s.gradients.Run(ctx, slices.Concat(program.Donate(s.gradient), program.Lend(s.weights, s.head), []any{cut[i], cut[len(sizes)+i], share})...)
		program.Free(share)
		if err != nil {
			return 0, err
		}
		s.gradient = out[:n]
		part, err := number(out[n])
		if err != nil {
			return 0, err
		}
		loss += part
	}
	out, err := s.finish.Run(ctx, slices.Concat(program.Donate(s.sums), program.Donate(s.gradient), program.Lend(s.weights, s.head))...)
	if err != nil {
		return 0, err
	}
	s.sums, s.gradient = out[:n], out[n:]
	return loss, nil
}

// number reads a scalar from the backend and releases it.
func number(t *tensors.Tensor) (float64, error) {
	defer program.Free(t)
	return program.Number(t)
}

// Scores reads the scores of all batches so far from the backend.
func (s *Scorer) Scores() (*Scores, error) {
	out := newScores(s.model, s.by)
	out.Losses, out.Images = s.losses, s.images
	for i := range out.Tensors {
		v, err := program.Float32s(s.sums[i])
		if err != nil {
			return nil, fmt.Errorf("reading the scores of %s: %w", out.Tensors[i].Name, err)
		}
		out.Tensors[i].Scores = v
	}
	return out, nil
}
