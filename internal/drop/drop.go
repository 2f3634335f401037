// Package drop draws the random masks of dropout and drop-path. [New] returns the [Masks] of one
// forward pass. [PathRate] returns the drop-path rate of a block.
package drop

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
)

// Masks draws the random masks of one forward pass. Each mask is new, but the same random state
// gives the same masks in the same order.
type Masks struct {
	state *Node // random state; nil in evaluation
	draws int   // number of draws on a device so far
}

// New returns the masks of a forward pass. state is its random state, uint64 [3]. Nil means
// evaluation, in which nothing is dropped.
func New(state *Node) *Masks { return &Masks{state: state} }

// Values sets values of x to zero with probability rate and scales the other values by 1/(1−rate).
// The random mask has the shape mask, which is broadcast to x.
func (m *Masks) Values(x *Node, rate float64, mask []int) *Node {
	if m.state == nil || rate <= 0 {
		return x
	}
	keep := ConvertDType(m.draw(mask, rate), x.DType())
	return Mul(x, MulScalar(keep, 1/(1-rate)))
}

// Images sets all values of an image to zero with probability rate and scales the values of the
// other images by 1/(1−rate). The first axis of x is the batch axis.
func (m *Masks) Images(x *Node, rate float64) *Node {
	mask := make([]int, x.Rank())
	for i := range mask {
		mask[i] = 1
	}
	mask[0] = x.Shape().Dim(0)
	return m.Values(x, rate, mask)
}

// PathRate returns the drop-path rate of a block. The rate grows linearly from 0 in the first
// block, number 0, to last in the last block. A backbone with a single block has the rate 0.
func PathRate(last float64, block, blocks int) float64 {
	if blocks < 2 {
		return 0
	}
	return last * float64(block) / float64(blocks-1)
}

// draw returns a random bool tensor of the given shape. Each element is true with probability
// 1−rate. Each call draws new values.
func (m *Masks) draw(shape []int, rate float64) *Node {
	g := m.state.Graph()
	if !backend.OnDevice(g.Backend()) {
		var u *Node
		m.state, u = RandomUniform(m.state, shapes.Make(dtypes.Float32, shape...))
		return GreaterOrEqual(u, Scalar(g, dtypes.Float32, rate))
	}
	// On a device, the generator of GoMLX would write its numbers to memory, which takes several
	// times the memory traffic of the layer itself. Here each number is a hash of the position of
	// its element, so it stays in a register. The hash applies the finaliser of MurmurHash3 twice,
	// with keys from the random state and the number of the call.
	m.draws++
	key := func(i int) *Node { return Reshape(ConvertDType(Slice(m.state, AxisElem(i)), dtypes.Uint32)) }
	number := func(v uint32) *Node { return Scalar(g, dtypes.Uint32, v) }
	mix := func(h *Node) *Node {
		for _, round := range []struct{ shift, factor uint32 }{{16, 0x85ebca6b}, {13, 0xc2b2ae35}, {16, 0}} {
			h = BitwiseXor(h, BitwiseShiftRightLogical(h, number(round.shift)))
			if round.factor != 0 {
				h = Mul(h, number(round.factor))
			}
		}
		return h
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	h := mix(Add(Iota(g, shapes.Make(dtypes.Uint32, n), 0), Add(key(0), number(uint32(m.draws)*0x9e3779b9))))
	h = mix(BitwiseXor(h, key(1)))
	return Reshape(GreaterOrEqual(h, number(uint32(rate*(1<<32)))), shape...)
}
