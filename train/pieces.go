package train

import (
	"context"
	"math/rand/v2"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
)

// A large batch is trained on in pieces. The gradient of a mean is the mean of
// gradients, so nothing changes but the order of sums and what is drawn for
// drops; activations are held for one piece only, and stay in the caches.

// pieces cuts n images, or feature vectors, of a network into equal numbers for
// backend.TokensAtOnce, with one smaller piece at the end if need be.
func pieces(be backend.Backend, c backbone.Config, images shapes.Shape) (sizes []int) {
	n, tokens := images.Dim(0), 1
	if images.Rank() == 4 {
		tokens = c.Tokens()
	}
	most := n
	if limit := backend.TokensAtOnce(be); limit > 0 {
		most = max(1, limit/tokens)
	}
	if n <= most {
		return []int{n}
	}
	// A divisor spares the smaller piece, which is compiled apart.
	size := most
	for d := most; d > most/2; d-- {
		if n%d == 0 {
			size = d
			break
		}
	}
	for ; n > 0; n -= size {
		sizes = append(sizes, min(size, n))
	}
	return sizes
}

func (s *Stepper) pieces(images shapes.Shape) []int { return pieces(s.be, s.net.model.Config, images) }

// buildCut: images, labels → the images and the labels of each piece.
func (s *Stepper) buildCut(_ *Graph, in []*Node) (out []*Node) {
	sizes := s.pieces(in[0].Shape())
	for _, x := range in {
		at := 0
		for _, size := range sizes {
			out = append(out, SliceAxis(x, 0, AxisRange(at, at+size)))
			at += size
		}
	}
	return out
}

// buildAccumulate: sums so far (the gradient of each tuned tensor, the loss, the
// right predictions), tuned, frozen, a piece's images, labels, random state and
// share of the batch → the sums anew.
func (s *Stepper) buildAccumulate(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	sums, in := in[:n+2], in[n+2:]
	tuned, in := s.packs.unpack(in[:n]), in[n:]
	frozen, in := in[:len(s.net.inputs)], in[len(s.net.inputs):]
	loss, hits := s.loss(tuned, frozen, in[0], in[1], in[2])
	loss = Mul(loss, in[3])
	out := append(s.packs.join(Gradient(loss, tuned...)), loss, hits)
	for i, sum := range sums {
		out[i] = Add(sum, out[i])
	}
	return out
}

// buildUpdate: tuned, first and second moments, gradients, and the scalars lr,
// 1−β₁ᵗ, 1−β₂ᵗ → the first three anew.
func (s *Stepper) buildUpdate(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	return s.adamW(in[:3*n], in[3*n:4*n], in[4*n], in[4*n+1], in[4*n+2])
}

// inPieces is a step on one piece of the batch after the other.
func (s *Stepper) inPieces(ctx context.Context, images, labels *tensors.Tensor, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error) {
	n := len(s.packs.packs)
	sizes := s.pieces(images.Shape())
	cut, err := s.cut.Run(ctx, images, labels)
	if err != nil {
		return nil, nil, err
	}
	defer backend.Free(cut...)
	var sums []*tensors.Tensor
	defer func() { backend.Free(sums...) }()
	for i := range n + 2 {
		var shape []int
		size := 1
		if i < n {
			shape = s.packs.shape(i)
			for _, d := range shape {
				size *= d
			}
		}
		t, err := backend.Tensor(s.be, make([]float32, size), shape...)
		if err != nil {
			return nil, nil, err
		}
		sums = append(sums, t)
	}
	for i, size := range sizes {
		rng, err := s.draw(r)
		if err != nil {
			return nil, nil, err
		}
		share, err := backend.Scalar(s.be, float32(size)/float32(images.Shape().Dim(0)))
		if err != nil {
			backend.Free(rng)
			return nil, nil, err
		}
		args := append(donated(sums), given(s.state[:n], s.net.values, []*tensors.Tensor{cut[i], cut[len(sizes)+i], rng, share})...)
		out, err := s.accumulate.Run(ctx, args...)
		backend.Free(rng, share)
		if err != nil {
			return nil, nil, err
		}
		sums = out
	}
	out, err := s.update.Run(ctx, append(donated(s.state), append(donated(sums[:n]), given(scalars)...)...)...)
	if err != nil {
		return nil, nil, err
	}
	metrics, sums = sums[n:], nil
	return out, metrics, nil
}
