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

// On the CPU a mini-batch that is too large for the CPU caches is split into micro-batches, and
// their gradients are accumulated. Several micro-batches are computed at the same time. Activations
// are held only for these micro-batches, so they stay in the caches.
//
// The gradient of a mean is the mean of the gradients. Therefore only the order of the sums and the
// random numbers of dropout and drop-path differ from a mini-batch that is computed as a whole. The
// gradients are added in the order of the micro-batches. So the bits of the result do not depend on
// the number of micro-batches that are computed at the same time.

// microBatchSizes returns the number of images in each micro-batch of a mini-batch. A mini-batch
// that is computed as a whole has one size.
func microBatchSizes(be backend.Backend, c backbone.Config, images shapes.Shape) []int {
	tokens, _ := program.AtOnce(be)
	return microbatch.Sizes(c, images, tokens)
}

// newSplit prepares the program that splits images and their targets into micro-batches.
func newSplit(be backend.Backend, c backbone.Config) (*program.Program, error) {
	tokens, _ := program.AtOnce(be)
	return microbatch.NewCut(be, c, tokens)
}

// concurrency returns how many micro-batches are computed at the same time, if each has the given
// number of images.
func concurrency(be backend.Backend, c backbone.Config, images int) int {
	_, all := program.AtOnce(be)
	return max(1, min(runtime.GOMAXPROCS(0), all/(images*c.Tokens())))
}

// concurrently yields f(0) … f(n−1) in this order. Up to limit calls of f run at the same time.
// After an error it starts no further calls. It passes each result that is not yielded to drop.
func concurrently[T any](limit, n int, f func(i int) (T, error), drop func(T)) iter.Seq2[T, error] {
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
		for i := range min(limit, n) {
			start(i)
		}
		for i := range n {
			r := <-running[0]
			running = running[1:]
			if r.err == nil && i+limit < n {
				start(i + limit)
			}
			if !yield(r.value, r.err) || r.err != nil {
				return
			}
		}
	}
}

// buildGradients builds the program of one micro-batch. Its inputs are the packed tuned tensors,
// the frozen tensors, the images, the targets, the random state, the share of the micro-batch in
// its mini-batch, and for mixed images the targets of the other images and the shares. Its outputs
// are what the micro-batch adds to the packed gradients, to the loss and to the number of correct
// predictions of the mini-batch.
func (s *Stepper) buildGradients(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	tuned, in := s.packs.unpack(in[:n]), in[n:]
	frozen, in := in[:len(s.net.inputs)], in[len(s.net.inputs):]
	loss, hits := s.loss(tuned, frozen, in[0], in[1], in[2], in[4:])
	loss = Mul(loss, in[3])
	return append(s.packs.join(Gradient(loss, tuned...)), loss, hits)
}

// buildSum builds the program that accumulates gradients. Its inputs are the sums so far and the
// outputs of buildGradients for one more micro-batch. Its outputs are the new sums.
func (s *Stepper) buildSum(_ *Graph, in []*Node) (out []*Node) {
	n := len(in) / 2
	for i, x := range in[:n] {
		out = append(out, Add(x, in[n+i]))
	}
	return out
}

// buildUpdate builds the program that updates the tuned tensors. Its inputs are the tuned tensors,
// the first and second moments, the gradients (all packed), and the scalars lr, 1−β₁ᵗ and 1−β₂ᵗ.
// Its outputs are the new tuned tensors and moments.
func (s *Stepper) buildUpdate(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	return s.adamW(in[:3*n], in[3*n:4*n], in[4*n], in[4*n+1], in[4*n+2])
}

// inMicroBatches trains on one mini-batch by gradient accumulation over its micro-batches. It is a
// stepFunc.
func (s *Stepper) inMicroBatches(ctx context.Context, b batch, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error) {
	sizes := microBatchSizes(s.be, s.net.model.Config, b.images.Shape())
	parts, err := s.split.Run(ctx, program.Lend([]*tensors.Tensor{b.images, b.targets}, b.mixed())...)
	if err != nil {
		return nil, nil, err
	}
	defer program.Free(parts...)
	rngs := make([]*tensors.Tensor, len(sizes))
	defer func() { program.Free(rngs...) }()
	for i := range rngs {
		if rngs[i], err = program.RandomState(s.be, r); err != nil {
			return nil, nil, err
		}
	}
	gradients := func(i int) ([]*tensors.Tensor, error) {
		share, err := program.Tensor(s.be, []float32{float32(sizes[i]) / float32(b.images.Shape().Dim(0))})
		if err != nil {
			return nil, err
		}
		defer program.Free(share)
		in := []*tensors.Tensor{parts[i], parts[len(sizes)+i], rngs[i], share}
		for j := 2*len(sizes) + i; j < len(parts); j += len(sizes) { // mixed images
			in = append(in, parts[j])
		}
		return s.gradients.Run(ctx, program.Lend(s.tuned(), s.net.values, in)...)
	}
	var sums []*tensors.Tensor
	defer func() { program.Free(sums...) }()
	for part, err := range concurrently(concurrency(s.be, s.net.model.Config, sizes[0]), len(sizes), gradients, func(ts []*tensors.Tensor) { program.Free(ts...) }) {
		if err != nil {
			return nil, nil, err
		}
		if sums == nil {
			sums = part
			continue
		}
		out, err := s.sum.Run(ctx, append(program.Donate(sums), program.Donate(part)...)...)
		if err != nil {
			program.Free(part...)
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
