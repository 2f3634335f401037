package train

import (
	"context"
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
)

// On a device one program runs many steps: a loop that takes its batches from images on the device.
// Between two programs a device waits for the host for milliseconds, because GoMLX's XLA backend
// waits for each program to end, and starting one with hundreds of tensors takes time.

// loopSteps is the largest number of steps in one program. The number of steps is an input of the
// program, so epochs of any length need one program only.
const loopSteps = 50

// EnqueueLoop trains on one batch after the other of data that is stored on the device. It does for
// each batch what Enqueue does. order lists positions in the data, batch by batch; lrs holds the
// learning rates of the steps, at most 50. ok is false, and nothing is trained, if the data is not
// stored on the device.
func (s *Stepper) EnqueueLoop(ctx context.Context, data *Data, order []int, lrs []float64, seed uint64, epoch int) (ok bool, err error) {
	r, err := data.resident(ctx, s.be)
	if err != nil || r == nil {
		return false, err
	}
	if err := ctx.Err(); err != nil { // checked before the state is donated
		return true, err
	}
	n, replicas := len(lrs), backend.Replicas(s.be)
	if n < 1 || n > loopSteps || len(order)%n != 0 {
		return true, fmt.Errorf("training %d steps on %d images as one program: expected 1 to %d steps and as many images in each", n, len(order), loopSteps)
	}
	batch := len(order) / n
	if batch%replicas != 0 {
		return true, fmt.Errorf("training on %d devices: a batch of %d images does not divide among them; give another batch size", replicas, batch)
	}
	if replicas > 1 && s.net.copies == nil {
		if s.net.copies, err = program.Replicate(s.be, s.net.values); err != nil {
			return true, err
		}
	}
	var args []any
	var sent []*tensors.Tensor
	defer func() { program.Free(sent...) }()
	for d := range replicas {
		state, values, images := s.state, s.net.values, []*tensors.Tensor{r.pixels, r.targets}
		if d > 0 {
			state, values, images = s.copies[d-1], s.net.copies[d-1], r.copies[d-1]
		}
		lists, err := s.lists(data, r, d, order, lrs, seed, epoch)
		sent = append(sent, lists...)
		if err != nil {
			return true, err
		}
		args = append(args, append(program.Donate(state), program.Lend(values, images, lists)...)...)
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
		program.Free(own[last]) // the metrics are the same on all devices
	}
	s.steps += n
	return true, nil
}

// lists returns what device d gets for several steps: the number of steps, the random states, the
// scalars, and its share of each batch as cut takes it. All but the first have loopSteps rows.
func (s *Stepper) lists(data *Data, r *resident, d int, order []int, lrs []float64, seed uint64, epoch int) (sent []*tensors.Tensor, err error) {
	var rng []uint64
	var scalars []float32
	var own []int
	n := len(lrs)
	batch, share := len(order)/n, len(order)/n/backend.Replicas(s.be)
	for i, lr := range lrs {
		random := random(seed, s.steps+i)
		for range 3 * d { // the numbers of the devices before this one
			random.Uint64()
		}
		rng = append(rng, random.Uint64(), random.Uint64(), random.Uint64())
		scalars = append(scalars, stepScalars(lr, s.steps+i)...)
		own = append(own, order[i*batch+d*share:i*batch+(d+1)*share]...)
	}
	send := func(t *tensors.Tensor, err error) error {
		if err == nil && d > 0 {
			first := t
			t, err = program.Copy(s.be, first, d)
			program.Free(first)
		}
		if err == nil {
			sent = append(sent, t)
		}
		return err
	}
	if err := send(program.Tensor(s.be, []int32{int32(n)})); err != nil {
		return sent, err
	}
	if err := send(program.Tensor(s.be, rows(rng, 3), loopSteps, 3)); err != nil {
		return sent, err
	}
	if err := send(program.Tensor(s.be, rows(scalars, 3), loopSteps, 3)); err != nil {
		return sent, err
	}
	for _, l := range r.lists(data, own, seed, epoch) {
		if err := send(program.Tensor(s.be, rows(l, share), loopSteps, share)); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// rows fills values up with zeros to loopSteps rows of that width.
func rows[T any](values []T, width int) []T {
	return append(values, make([]T, loopSteps*width-len(values))...)
}

// buildLoop maps tuned tensors, first and second moments, frozen tensors, the images and targets on
// the device, the number of steps int32, and for each step, in n = loopSteps rows, the random state
// uint64 [n, 3], the scalars lr, 1−β₁ᵗ and 1−β₂ᵗ float32 [n, 3] and the lists that cut takes, int32
// [n, B], to new tuned tensors and moments, and for each step the loss and the number of right
// predictions, float32 [n, 2].
func (s *Stepper) buildLoop(g *Graph, in []*Node) []*Node {
	packs, inputs := 3*len(s.packs.packs), len(s.net.inputs)
	// GoMLX uses a constant again that it has met before, and a constant belongs to the function in
	// which it was made. So only the body may have plain scalars.
	scalar := func(v int32) *Node { return Reshape(Const(g, []int32{v})) }
	measured := BroadcastToDims(Reshape(Const(g, []float32{0}), 1, 1), loopSteps, 2)
	state := append([]*Node{scalar(0), measured}, in...)
	parameters := func(g *Graph) (ps []*Node) {
		for _, x := range state {
			ps = append(ps, Parameter(g, "", x.Shape()))
		}
		return ps
	}
	more := NewClosure(g, func(g *Graph) []*Node {
		ps := parameters(g)
		return []*Node{LessThan(ps[0], ps[2+packs+inputs+2])} // steps done < number of steps
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
		images, targets := cut(all[0], all[1], lists, s.net.model.Config.ImageSize)
		args := append(append([]*Node{}, in[:packs+inputs]...), images, targets, row(all[3]))
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
