package train

import (
	"context"
	"iter"
	"math/rand/v2"
	"runtime"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/microbatch"
	"github.com/sptune/spt/internal/program"
)

// On the processor a batch is computed in pieces, a few of them side by side. The gradient of a
// mean is the mean of the gradients. So only the order of sums and the random numbers of drops
// differ from a batch that is computed at once. Activations are held for the running pieces only,
// and stay in the caches. Gradients are added in the order of the pieces, so the bits do not depend
// on how many pieces run at once.

// pieces returns the numbers of images in the pieces of a batch.
func pieces(be backend.Backend, c backbone.Config, images shapes.Shape) []int {
	tokens, _ := program.AtOnce(be)
	return microbatch.Sizes(c, images, tokens)
}

// newCut prepares the program that cuts images, and their targets, into pieces.
func newCut(be backend.Backend, c backbone.Config) (*program.Program, error) {
	tokens, _ := program.AtOnce(be)
	return microbatch.NewCut(be, c, tokens)
}

// runs returns how many pieces run side by side, for pieces of that many images.
func runs(be backend.Backend, c backbone.Config, images int) int {
	_, all := program.AtOnce(be)
	return max(1, min(runtime.GOMAXPROCS(0), all/(images*c.Tokens())))
}

// sideBySide yields f(0) … f(n−1) in order and calls f that many times at once. After an error it
// starts no further call. It passes results that are not yielded to drop.
func sideBySide[T any](runs, n int, f func(i int) (T, error), drop func(T)) iter.Seq2[T, error] {
	type result struct {
		value T
		err   error
	}
	return func(yield func(T, error) bool) {
		var running []chan result // the oldest call first
		start := func(i int) {
			c := make(chan result, 1)
			running = append(running, c)
			go func() {
				value, err := f(i)
				c <- result{value, err}
			}()
		}
		defer func() {
			for _, c := range running {
				if r := <-c; r.err == nil {
					drop(r.value)
				}
			}
		}()
		for i := range min(runs, n) {
			start(i)
		}
		for i := range n {
			r := <-running[0]
			running = running[1:]
			if r.err == nil && i+runs < n {
				start(i + runs)
			}
			if !yield(r.value, r.err) || r.err != nil {
				return
			}
		}
	}
}

// buildGradients maps tuned tensors, frozen tensors, and the images, targets, random state and
// share of a piece in its batch to the piece's part of the gradient of each tuned tensor, of the
// loss and of the right predictions.
func (s *Stepper) buildGradients(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	tuned, in := s.packs.unpack(in[:n]), in[n:]
	frozen, in := in[:len(s.net.inputs)], in[len(s.net.inputs):]
	loss, hits := s.loss(tuned, frozen, in[0], in[1], in[2])
	loss = Mul(loss, in[3])
	return append(s.packs.join(Gradient(loss, tuned...)), loss, hits)
}

// buildSum maps the sums of the outputs of buildGradients for some pieces, and its outputs for
// another piece, to new sums.
func (s *Stepper) buildSum(_ *Graph, in []*Node) (out []*Node) {
	n := len(in) / 2
	for i, x := range in[:n] {
		out = append(out, Add(x, in[n+i]))
	}
	return out
}

// buildUpdate maps tuned tensors, first and second moments, gradients, and the scalars lr, 1−β₁ᵗ
// and 1−β₂ᵗ to new tuned tensors and moments.
func (s *Stepper) buildUpdate(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	return s.adamW(in[:3*n], in[3*n:4*n], in[4*n], in[4*n+1], in[4*n+2])
}

// inPieces is a step on the pieces of the batch.
func (s *Stepper) inPieces(ctx context.Context, images, targets *tensors.Tensor, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error) {
	sizes := pieces(s.be, s.net.model.Config, images.Shape())
	cut, err := s.cut.Run(ctx, images, targets)
	if err != nil {
		return nil, nil, err
	}
	defer program.Free(cut...)
	rngs := make([]*tensors.Tensor, len(sizes))
	defer func() { program.Free(rngs...) }()
	for i := range rngs {
		if rngs[i], err = s.draw(r); err != nil {
			return nil, nil, err
		}
	}
	gradients := func(i int) ([]*tensors.Tensor, error) {
		share, err := program.Tensor(s.be, []float32{float32(sizes[i]) / float32(images.Shape().Dim(0))})
		if err != nil {
			return nil, err
		}
		defer program.Free(share)
		return s.gradients.Run(ctx, program.Lend(s.tuned(), s.net.values, []*tensors.Tensor{cut[i], cut[len(sizes)+i], rngs[i], share})...)
	}
	var sums []*tensors.Tensor
	defer func() { program.Free(sums...) }()
	for piece, err := range sideBySide(runs(s.be, s.net.model.Config, sizes[0]), len(sizes), gradients, func(ts []*tensors.Tensor) { program.Free(ts...) }) {
		if err != nil {
			return nil, nil, err
		}
		if sums == nil {
			sums = piece
			continue
		}
		out, err := s.sum.Run(ctx, append(program.Donate(sums), program.Donate(piece)...)...)
		if err != nil {
			program.Free(piece...)
			return nil, nil, err
		}
		sums = out
	}
	n := len(s.packs.packs)
	out, err := s.update.Run(ctx, append(program.Donate(s.state), append(program.Donate(sums[:n]), program.Lend(scalars)...)...)...)
	if err != nil {
		return nil, nil, err
	}
	metrics, sums = sums[n:], nil
	return out, metrics, nil
}
