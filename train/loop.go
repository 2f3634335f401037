package train

import (
	"context"
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
)

// On a device many steps are one program: a loop that takes its batches from images
// that are there. Between programs a device waits for the host, for milliseconds: GoMLX's
// XLA backend waits for each to end, and starting one with hundreds of tensors takes
// its time.

// LoopSteps is how many steps at most one program takes: it is told how many, so that
// epochs of any length need one program only.
const LoopSteps = 50

// EnqueueLoop trains on one batch after the other of images that are kept on the
// device, and does what Enqueue does for each. order are positions in the data, those
// of a batch beside each other; lrs are the steps' learning rates, at most LoopSteps. Data
// that is not kept there is refused: ok is false.
func (s *Stepper) EnqueueLoop(ctx context.Context, data *Data, order []int, lrs []float64, seed uint64, epoch int) (ok bool, err error) {
	r, err := data.resident(ctx, s.be)
	if err != nil || r == nil {
		return false, err
	}
	if err := ctx.Err(); err != nil { // before the state is given away
		return true, err
	}
	n, replicas := len(lrs), backend.Replicas(s.be)
	if n < 1 || n > LoopSteps || len(order)%n != 0 {
		return true, fmt.Errorf("training %d steps on %d images as one program: expected 1 to %d steps and as many images in each", n, len(order), LoopSteps)
	}
	batch := len(order) / n
	if batch%replicas != 0 {
		return true, fmt.Errorf("training on %d devices: a batch of %d images does not divide among them; give another --batch-size", replicas, batch)
	}
	if replicas > 1 && s.net.copies == nil {
		if s.net.copies, err = backend.Replicate(s.be, s.net.values); err != nil {
			return true, err
		}
	}
	var args []any
	var sent []*tensors.Tensor
	defer func() { backend.Free(sent...) }()
	for d := range replicas {
		state, values, images := s.state, s.net.values, []*tensors.Tensor{r.pixels, r.labels}
		if d > 0 {
			state, values, images = s.copies[d-1], s.net.copies[d-1], r.copies[d-1]
		}
		lists, err := s.lists(data, r, d, order, lrs, seed, epoch)
		sent = append(sent, lists...)
		if err != nil {
			return true, err
		}
		args = append(args, append(backend.Donate(state), backend.Lend(values, images, lists)...)...)
	}
	out, err := s.loop.Run(ctx, args...)
	if err != nil {
		return true, err
	}
	last := len(out)/replicas - 1
	s.state = out[:last:last]
	s.unread = append(s.unread, metrics{steps: n, table: out[last]})
	for d := 1; d < replicas; d++ {
		own := out[d*(last+1) : (d+1)*(last+1)]
		s.copies[d-1] = own[:last:last]
		backend.Free(own[last]) // the same everywhere
	}
	s.steps += n
	return true, nil
}

// lists is what device d is sent for several steps: how many there are, the random states, the
// scalars, and of each batch its share, as cut takes it. All but the first have LoopSteps rows.
func (s *Stepper) lists(data *Data, r *resident, d int, order []int, lrs []float64, seed uint64, epoch int) (sent []*tensors.Tensor, err error) {
	var rng []uint64
	var scalars []float32
	var own []int
	n := len(lrs)
	batch, share := len(order)/n, len(order)/n/backend.Replicas(s.be)
	for i, lr := range lrs {
		random := random(seed, s.steps+i)
		for range 3 * d { // what devices before draw
			random.Uint64()
		}
		rng = append(rng, random.Uint64(), random.Uint64(), random.Uint64())
		scalars = append(scalars, stepScalars(lr, s.steps+i)...)
		own = append(own, order[i*batch+d*share:i*batch+(d+1)*share]...)
	}
	send := func(t *tensors.Tensor, err error) error {
		if err == nil && d > 0 {
			first := t
			t, err = backend.Copy(s.be, first, d)
			backend.Free(first)
		}
		if err == nil {
			sent = append(sent, t)
		}
		return err
	}
	if err := send(backend.Int32(s.be, []int32{int32(n)})); err != nil {
		return sent, err
	}
	if err := send(backend.Uint64(s.be, rows(rng, 3), LoopSteps, 3)); err != nil {
		return sent, err
	}
	if err := send(backend.Tensor(s.be, rows(scalars, 3), LoopSteps, 3)); err != nil {
		return sent, err
	}
	for _, l := range r.lists(data, own, seed, epoch) {
		if err := send(backend.Int32(s.be, rows(l, share), LoopSteps, share)); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// rows fills values up to LoopSteps rows of that width.
func rows[T any](values []T, width int) []T {
	return append(values, make([]T, LoopSteps*width-len(values))...)
}

// buildLoop: tuned, first and second moments, frozen, the images and labels that are
// kept, the number of steps int32, and of each step, in n = LoopSteps rows, the random state
// uint64 [n, 3], the scalars lr, 1−β₁ᵗ, 1−β₂ᵗ float32 [n, 3] and the lists that cut takes,
// int32 [n, B] → the first three anew, and of each step the loss and the number of right
// predictions, float32 [n, 2].
func (s *Stepper) buildLoop(g *Graph, in []*Node) []*Node {
	packs, inputs := 3*len(s.packs.packs), len(s.net.inputs)
	// A constant that GoMLX knows again is the function's in which it was made: in none
	// but the body may there be plain scalars.
	scalar := func(v int32) *Node { return Reshape(Const(g, []int32{v})) }
	measured := BroadcastToDims(Reshape(Const(g, []float32{0}), 1, 1), LoopSteps, 2)
	state := append([]*Node{scalar(0), measured}, in...)
	parameters := func(g *Graph) (ps []*Node) {
		for _, x := range state {
			ps = append(ps, Parameter(g, "", x.Shape()))
		}
		return ps
	}
	more := NewClosure(g, func(g *Graph) []*Node {
		ps := parameters(g)
		return []*Node{LessThan(ps[0], ps[2+packs+inputs+2])} // the steps done, those to do
	})
	body := NewClosure(g, func(g *Graph) []*Node {
		ps := parameters(g)
		step, measured, in := ps[0], ps[1], ps[2:]
		row := func(x *Node) *Node {
			width := x.Shape().Dim(1)
			return Reshape(DynamicSlice(x, []*Node{step, scalar(0)}, []int{1, width}), width)
		}
		all := in[packs+inputs:]
		scalars := row(all[4])
		var lists []*Node
		for _, l := range all[5:] {
			lists = append(lists, row(l))
		}
		images, labels := cut(all[0], all[1], lists, s.net.model.Config.ImageSize)
		args := append(append([]*Node{}, in[:packs+inputs]...), images, labels, row(all[3]))
		for i := range 3 {
			args = append(args, Reshape(Slice(scalars, AxisElem(i))))
		}
		out := s.build(g, args)
		loss, hits := out[packs], out[packs+1]
		values := Reshape(Concatenate([]*Node{Reshape(loss, 1), Reshape(hits, 1)}, 0), 1, 2)
		measured = DynamicUpdateSlice(measured, values, []*Node{step, scalar(0)})
		next := append([]*Node{Add(step, scalar(1)), measured}, out[:packs]...)
		return append(next, in[packs:]...)
	})
	out := While(more, body, state...)
	return append(out[2:2+packs:2+packs], out[1])
}
