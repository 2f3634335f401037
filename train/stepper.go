package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// The constants of AdamW besides learning rate and weight decay: PyTorch's defaults.
const (
	beta1   = 0.9
	beta2   = 0.999
	epsilon = 1e-8
)

// Stepper is one compiled training step: forward pass, backward pass, AdamW. The tuned tensors and
// the optimiser's moments stay on the backend between steps.
type Stepper struct {
	be      backend.Backend
	tuning  *peft.Tuning
	net     *network
	rates   peft.Rates
	decay   float64
	program *program.Program // a whole step
	loop    *program.Program // several steps, on a device
	// A batch that is too large for the caches is computed in pieces. Their gradients are added up;
	// then the weights are updated.
	cut, gradients, sum, update *program.Program

	steps  int                 // optimiser steps taken
	packs  packing             // how state is stored
	state  []*tensors.Tensor   // tuned tensors, first moments, second moments: 3·len(packs.packs)
	copies [][]*tensors.Tensor // copies of state on further devices
	unread []metrics           // metrics of the last steps
}

// metrics holds the metrics of one step, or of several, on the backend.
type metrics struct {
	steps      int
	loss, hits *tensors.Tensor // of a single step
	table      *tensors.Tensor // both, of several steps: float32 [loopSteps, 2]
}

func (m metrics) free() { program.Free(m.loss, m.hits, m.table) }

// read returns the loss and the number of right predictions of each step.
func (m metrics) read() (out [][2]float64, err error) {
	if m.table == nil {
		loss, hits, err := numbers(m.loss, m.hits)
		return [][2]float64{{loss, hits}}, err
	}
	values, err := program.Float32s(m.table)
	if err != nil {
		return nil, err
	}
	for i := range m.steps {
		out = append(out, [2]float64{float64(values[2*i]), float64(values[2*i+1])})
	}
	return out, nil
}

// NewStepper starts a training with the objective o at the tuned values, by peft.Param.Name, with
// the optimiser's moments at zero. weightDecay is decoupled and applies to tensors of two or more
// dimensions. Close releases the Stepper.
func NewStepper(be backend.Backend, m *backbone.Model, o objective.Objective, t *peft.Tuning, tuned checkpoint.StateDict, rates peft.Rates, weightDecay float64) (_ *Stepper, err error) {
	net, err := newNetwork(be, m, o, t)
	if err != nil {
		return nil, err
	}
	s := &Stepper{be: be, tuning: t, net: net, rates: rates, decay: weightDecay, packs: pack(be, t.Params)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.restart(tuned); err != nil {
		return nil, err
	}
	// Memory that scoring and planning used must not stay allocated beside the activations.
	program.ReturnMemory()
	for _, p := range []struct {
		to    **program.Program
		name  string
		build program.Build
	}{
		{&s.program, "training step", s.build},
		{&s.loop, "training steps", s.buildLoop},
		{&s.gradients, "gradients of a part of a batch", s.buildGradients},
		{&s.sum, "sum of gradients", s.buildSum},
		{&s.update, "optimiser step", s.buildUpdate},
	} {
		prepare := program.New
		if p.to == &s.loop {
			prepare = program.NewReplicated
		}
		if *p.to, err = prepare(be, p.name, p.build); err != nil {
			return nil, err
		}
	}
	if s.cut, err = newCut(be, m.Config); err != nil {
		return nil, err
	}
	return s, nil
}

// Close releases the compiled step and its state.
func (s *Stepper) Close() {
	for _, p := range []*program.Program{s.program, s.loop, s.cut, s.gradients, s.sum, s.update} {
		if p != nil { // a program is nil if NewStepper failed before
			p.Close()
		}
	}
	program.Free(s.state...)
	program.Free(slices.Concat(s.copies...)...)
	for _, m := range s.unread {
		m.free()
	}
	s.net.close()
}

// restart sets the training state to the start of a training: the given tuned values, and moments
// of zero.
func (s *Stepper) restart(tuned checkpoint.StateDict) error {
	zero := checkpoint.StateDict{}
	for _, p := range s.tuning.Params {
		zero[p.Name] = checkpoint.NewTensor(p.Shape...)
	}
	return s.load(0, tuned, zero, zero)
}

// load sets the training state. It leaves the state as it is if it fails.
func (s *Stepper) load(steps int, tuned, first, second checkpoint.StateDict) (err error) {
	var state []*tensors.Tensor
	defer func() {
		if err != nil {
			program.Free(state...)
		}
	}()
	for _, sd := range []checkpoint.StateDict{tuned, first, second} {
		packs, err := s.packs.place(s.be, sd)
		if err != nil {
			return err
		}
		state = append(state, packs...)
	}
	copies, err := program.Replicate(s.be, state)
	if err != nil {
		return err
	}
	program.Free(s.state...)
	program.Free(slices.Concat(s.copies...)...)
	s.steps, s.state, s.copies = steps, state, copies
	return nil
}

// save reads the training state from the backend.
func (s *Stepper) save() (tuned, first, second checkpoint.StateDict, err error) {
	var out [3]checkpoint.StateDict
	n := len(s.packs.packs)
	for i := range out {
		if out[i], err = s.packs.read(s.state[i*n : (i+1)*n]); err != nil {
			return nil, nil, nil, err
		}
	}
	return out[0], out[1], out[2], nil
}

// Tuned reads the tuned tensors from the backend, by peft.Param.Name.
func (s *Stepper) Tuned() (checkpoint.StateDict, error) {
	tuned, _, _, err := s.save()
	return tuned, err
}

// build maps tuned tensors, first moments, second moments, frozen tensors, images, targets, random
// state, and the scalars lr, 1−β₁ᵗ and 1−β₂ᵗ to new tuned tensors and moments, the loss and the
// number of right predictions.
func (s *Stepper) build(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	state, rest := in[:3*n], in[3*n:]
	frozen, rest := rest[:len(s.net.inputs)], rest[len(s.net.inputs):]
	tuned := s.packs.unpack(state[:n])
	loss, hits := s.loss(tuned, frozen, rest[0], rest[1], rest[2])
	grads := s.packs.join(Gradient(loss, tuned...))
	for i, g := range grads {
		grads[i] = program.AllMean(g)
	}
	return append(s.adamW(state, grads, rest[3], rest[4], rest[5]), program.AllMean(loss), program.AllSum(hits))
}

// loss returns the mean loss of images, and the number of right predictions.
func (s *Stepper) loss(tuned, frozen []*Node, images, targets, rng *Node) (loss, hits *Node) {
	logits := s.net.logits(tuned, frozen, images, rng, s.rates)
	hits = ReduceAllSum(s.net.objective.Correct(logits, targets))
	return s.net.objective.Loss(logits, targets), hits
}

// adamW returns the packs of tuned tensors, first and second moments after one step of AdamW
// (Loshchilov and Hutter 2019, arXiv 1711.05101), in PyTorch's order of operations. state holds the
// packs before the step; correct1 and correct2 are 1−β₁ᵗ and 1−β₂ᵗ.
func (s *Stepper) adamW(state, grads []*Node, lr, correct1, correct2 *Node) []*Node {
	n := len(grads)
	out := make([]*Node, 3*n, 3*n+2)
	for i, grad := range grads {
		w := state[i]
		if s.packs.decays(i) && s.decay > 0 {
			w = Sub(w, Mul(w, MulScalar(lr, s.decay)))
		}
		m := Add(MulScalar(state[n+i], beta1), MulScalar(grad, 1-beta1))
		v := Add(MulScalar(state[2*n+i], beta2), MulScalar(Mul(grad, grad), 1-beta2))
		denominator := AddScalar(Div(Sqrt(v), Sqrt(correct2)), epsilon)
		out[i] = Sub(w, Div(Mul(m, Div(lr, correct1)), denominator))
		out[n+i], out[2*n+i] = m, v
	}
	return out
}

// StepMetrics holds the metrics of one batch before its update.
type StepMetrics struct {
	Loss    float64 // mean loss of the images
	Correct float64 // sum of what objective.Objective.Correct returns for each image
}

// Step calls Enqueue and Read: it trains on one batch and returns its mean loss and its number of
// right predictions, both before the update.
func (s *Stepper) Step(ctx context.Context, images, targets *tensors.Tensor, lr float64, seed uint64) (loss, correct float64, err error) {
	if err := s.Enqueue(ctx, images, targets, lr, seed); err != nil {
		return 0, 0, err
	}
	m, err := s.Read()
	if len(m) == 0 {
		return 0, 0, err
	}
	last := m[len(m)-1]
	return last.Loss, last.Correct, err
}

// Enqueue trains on one batch. images are uint8 pixels or normalised float32 [B, S, S, 3], or
// pooled features [B, D] if only the head is tuned; targets are encoded by the objective, int32
// [B, TargetShape…]. seed decides what is dropped. The metrics stay on the backend until Read.
func (s *Stepper) Enqueue(ctx context.Context, images, targets *tensors.Tensor, lr float64, seed uint64) error {
	if n := backend.Replicas(s.be); n > 1 {
		return fmt.Errorf("training on %d devices: the images must be stored on each of them, as squares of one size that take at most %d GB; train on one device", n, residentBytes>>30)
	}
	step := s.whole
	if len(pieces(s.be, s.net.model.Config, images.Shape())) > 1 {
		step = s.inPieces
	}
	return s.enqueue(ctx, step, images, targets, lr, seed)
}

// stepFunc runs one training step on a batch and returns the new state, and the loss and the number
// of right predictions.
type stepFunc func(ctx context.Context, images, targets *tensors.Tensor, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error)

func (s *Stepper) enqueue(ctx context.Context, step stepFunc, images, targets *tensors.Tensor, lr float64, seed uint64) error {
	if err := ctx.Err(); err != nil { // checked before the state is donated
		return err
	}
	r := random(seed, s.steps)
	var scalars []*tensors.Tensor
	defer func() { program.Free(scalars...) }()
	for _, v := range stepScalars(lr, s.steps) {
		x, err := program.Tensor(s.be, []float32{v})
		if err != nil {
			return err
		}
		scalars = append(scalars, x)
	}
	state, measured, err := step(ctx, images, targets, r, scalars)
	if err != nil {
		return err
	}
	s.state = state
	s.unread = append(s.unread, metrics{steps: 1, loss: measured[0], hits: measured[1]})
	s.steps++
	return nil
}

// random returns the random numbers of the step after that many, which decide what is dropped.
func random(seed uint64, steps int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(steps))) }

// stepScalars returns what adamW takes in the step after that many: lr, 1−β₁ᵗ and 1−β₂ᵗ.
func stepScalars(lr float64, steps int) []float32 {
	t := float64(steps + 1)
	return []float32{float32(lr), float32(1 - math.Pow(beta1, t)), float32(1 - math.Pow(beta2, t))}
}

// Read returns the metrics of the steps since the last Read, in order. A loss that is not finite is
// an error; the metrics up to that step are returned too.
func (s *Stepper) Read() (out []StepMetrics, err error) {
	defer func() {
		for _, m := range s.unread {
			m.free()
		}
		s.unread = nil
	}()
	step := s.steps
	for _, m := range s.unread {
		step -= m.steps
	}
	for _, m := range s.unread {
		values, err := m.read()
		if err != nil {
			return out, err
		}
		for _, v := range values {
			step++
			out = append(out, StepMetrics{v[0], v[1]})
			if math.IsNaN(v[0]) || math.IsInf(v[0], 0) {
				return out, fmt.Errorf("training step %d: the loss is %v; lower the learning rate, or check the backbone's weights and the images' normalisation", step, v[0])
			}
		}
	}
	return out, nil
}

// whole is a step on all images at once.
func (s *Stepper) whole(ctx context.Context, images, targets *tensors.Tensor, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error) {
	rng, err := s.draw(r)
	if err != nil {
		return nil, nil, err
	}
	defer program.Free(rng)
	args := append(program.Donate(s.state), program.Lend(s.net.values, []*tensors.Tensor{images, targets, rng}, scalars)...)
	out, err := s.program.Run(ctx, args...)
	if err != nil {
		return nil, nil, err
	}
	n := len(s.state)
	return out[:n], out[n:], nil
}

// draw places the random state of one forward pass on the backend.
func (s *Stepper) draw(r *rand.Rand) (*tensors.Tensor, error) {
	return program.Tensor(s.be, []uint64{r.Uint64(), r.Uint64(), r.Uint64()}, 3)
}

// numbers reads two scalars from the backend.
func numbers(s, t *tensors.Tensor) (a, b float64, err error) {
	if a, err = program.Number(s); err != nil {
		return 0, 0, err
	}
	b, err = program.Number(t)
	return a, b, err
}

// network is the forward pass with its frozen inputs placed on the backend.
type network struct {
	model     *backbone.Model
	objective objective.Objective
	tuning    *peft.Tuning
	inputs    []string // names of values: frozen tensors, then index tensors
	values    []*tensors.Tensor
	frozen    int                 // number of frozen tensors in values
	copies    [][]*tensors.Tensor // copies of values on further devices; made when they are needed
}

func newNetwork(be backend.Backend, m *backbone.Model, o objective.Objective, t *peft.Tuning) (*network, error) {
	if o == nil {
		return nil, errors.New("preparing the forward pass: the objective is not set; give one, such as objective.SingleLabel")
	}
	placed, err := m.On(be)
	if err != nil {
		return nil, err
	}
	tuned := map[string]bool{}
	for _, p := range t.Params {
		tuned[p.Name] = true
	}
	n := &network{model: m, objective: o, tuning: t}
	for _, p := range m.Config.Params() {
		if !tuned[p.Name] {
			n.inputs = append(n.inputs, p.Name)
			n.values = append(n.values, placed[p.Name])
		}
	}
	n.frozen = len(n.inputs)
	for _, p := range m.Config.Params() {
		if entries, ok := t.Selection.Entries[p.Name]; ok {
			x, err := program.Tensor(be, entries, len(entries))
			if err != nil {
				n.close()
				return nil, fmt.Errorf("placing the positions of %s: %w", p.Name, err)
			}
			n.inputs = append(n.inputs, p.Name)
			n.values = append(n.values, x)
		}
	}
	return n, nil
}

func (n *network) close() {
	program.Free(n.values[n.frozen:]...)
	program.Free(slices.Concat(n.copies...)...)
}

// logits returns the objective's logits for images, or for pooled features [B, width]. rng nil
// means evaluation, without drops.
func (n *network) logits(tuned, frozen []*Node, images, rng *Node, rates peft.Rates) *Node {
	layers := n.layers(tuned, frozen, rng, rates)
	features := images
	if images.Rank() != 2 {
		features = n.objective.Features(n.model, layers, images)
	}
	return n.objective.Logits(n.model.Config, layers, features)
}

func (n *network) layers(tuned, frozen []*Node, rng *Node, rates peft.Rates) backbone.Layers {
	in := peft.Inputs{Frozen: map[string]*Node{}, Tuned: map[string]*Node{}, Indices: map[string]*Node{}, RNG: rng, Rates: rates}
	for i, name := range n.inputs {
		if i < n.frozen {
			in.Frozen[name] = frozen[i]
		} else {
			in.Indices[name] = frozen[i]
		}
	}
	for i, p := range n.tuning.Params {
		in.Tuned[p.Name] = tuned[i]
	}
	return n.tuning.Layers(in)
}
