package train

import (
	"context"
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
)

// On a device such as a GPU, one program runs many steps in a loop. The loop takes its mini-batches
// from images that are stored on the device. Without the loop the device would wait for the host
// for milliseconds after each step. The XLA backend of GoMLX waits for each program to end, and
// starting a program with hundreds of tensors takes time.

// loopSteps is the largest number of steps that one run of the program takes. The number of steps
// is an input of the program, so one compiled program serves epochs of any length.
const loopSteps = 50

// EnqueueLoop trains on several mini-batches of data that is stored on the device, in one run of
// one program. It has the same effect as one Enqueue for each mini-batch. lrs holds the learning
// rate of each step, for 1 to 50 steps. order lists the positions of the images in data, one
// mini-batch after the other. seed and epoch, counted from 0, decide the crops and flips. seed also
// decides what dropout and drop-path drop.
//
// EnqueueLoop reports whether it trained. It returns false without an error if the data is not
// stored on the device, as on the CPU.
func (s *Stepper) EnqueueLoop(ctx context.Context, data *Data, order []int, lrs []float64, seed uint64, epoch int) (ok bool, err error) {
	r, err := data.resident(ctx, s.be)
	if err != nil || r == nil {
		return false, err
	}
	if err := ctx.Err(); err != nil { // the program consumes the state, so check first
		return true, err
	}
	n, replicas := len(lrs), backend.Replicas(s.be)
	if n < 1 || n > loopSteps || len(order)%n != 0 {
		return true, fmt.Errorf("training %d steps on %d images as one program: expected 1 to %d steps with the same number of images in each", n, len(order), loopSteps)
	}
	batch := len(order) / n
	if batch%replicas != 0 {
		return true, fmt.Errorf("training on %d devices: a batch of %d images does not divide evenly among them; give a batch size that is a multiple of %d", replicas, batch, replicas)
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
		program.Free(own[last]) // all devices have the same metrics
	}
	s.steps += n
	return true, nil
}

// lists returns the tensors that device d needs for several steps. They are the number of steps,
// the random states, the scalars of AdamW, and the lists of selectBatch for the share of device d
// in each mini-batch. All tensors except the first have loopSteps rows, one for each step.
func (s *Stepper) lists(data *Data, r *resident, d int, order []int, lrs []float64, seed uint64, epoch int) (sent []*tensors.Tensor, err error) {
	var rng []uint64
	var scalars []float32
	var own []int
	n := len(lrs)
	batch, share := len(order)/n, len(order)/n/backend.Replicas(s.be)
	for i, lr := range lrs {
		random := random(seed, s.steps+i)
		for range 3 * d { // skip the numbers of the previous devices
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

// rows appends zeros to values, up to loopSteps rows of the given width.
func rows[T any](values []T, width int) []T {
	return append(values, make([]T, loopSteps*width-len(values))...)
}

// buildLoop builds the program of several steps. With n = loopSteps and B images in a mini-batch,
// its inputs are
//   - the tuned tensors, their first moments and their second moments, packed
//   - the frozen tensors
//   - the images and targets that are stored on the device
//   - the number of steps, int32
//   - the random states, uint64 [n, 3]
//   - the scalars lr, 1−β₁ᵗ and 1−β₂ᵗ, float32 [n, 3]
//   - the lists of selectBatch, each int32 [n, B].
//
// Its outputs are the new tuned tensors and moments, and a table float32 [n, 2] with the loss and
// the number of correct predictions of each step.
func (s *Stepper) buildLoop(g *Graph, in []*Node) []*Node {
	packs, inputs := 3*len(s.packs.packs), len(s.net.inputs)
	// GoMLX makes equal constants once and shares them. A shared constant belongs to the function
	// that made it first, so the body of the loop could not use it. Therefore only the body has
	// scalar constants; here a scalar is a reshaped vector.
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
		images, targets := selectBatch(all[0], all[1], lists, s.net.model.Config.ImageSize)
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
