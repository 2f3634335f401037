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

// The constants of AdamW, with the default values of PyTorch.
const (
	beta1   = 0.9
	beta2   = 0.999
	epsilon = 1e-8
)

// StepOptions configures the steps of a [Stepper]. Steppers with other options need other compiled
// programs.
type StepOptions struct {
	// Rates holds the drop rates. Default: nothing is dropped.
	Rates peft.Rates
	// WeightDecay is the decoupled weight decay of AdamW. It applies only to tensors of two or more
	// dimensions, and not to class tokens and position embeddings. Default: 0.
	WeightDecay float64
	// Factors holds factors for the learning rates of groups of tensors. Default: 1.
	Factors map[peft.Group]float64
	// Loss configures the losses of the images. If it is not zero, the objective must be an
	// objective.PerImage. Default: objective.Objective.Loss.
	Loss objective.LossOptions
}

// Stepper runs training steps: forward pass, backward pass and AdamW. It holds the training state,
// that is the tuned tensors and the moments of the optimiser, on the backend between steps.
//
// A Stepper must not be used by two goroutines at the same time.
type Stepper struct {
	be     backend.Backend
	tuning *peft.Tuning
	net    *network
	o      StepOptions
	// program runs one step on a whole mini-batch.
	program *program.Program
	// loop runs several steps on a device.
	loop *program.Program
	// These programs run one step with gradient accumulation, for a mini-batch that is too large
	// for the CPU caches. They split the mini-batch into micro-batches, compute the gradients of a
	// micro-batch, add gradients, and update the tuned tensors.
	split, gradients, sum, update *program.Program

	// steps is the number of finished optimiser steps.
	steps int
	// packs describes how the tensors of state are stored.
	packs packing
	// state holds the packs of the tuned tensors, of the first moments and of the second moments:
	// 3·len(packs.packs) tensors.
	state []*tensors.Tensor
	// copies holds copies of state on the other devices, if there are several.
	copies [][]*tensors.Tensor
	// unread holds the metrics of the steps since the last Read.
	unread []metrics
}

// metrics holds the metrics of one step or of several steps, on the backend.
type metrics struct {
	// steps is the number of steps.
	steps int
	// loss and hits hold the loss and the number of correct predictions of a single step.
	loss, hits *tensors.Tensor
	// table holds the loss and the number of correct predictions of each step, float32
	// [loopSteps, 2]. It is nil for a single step.
	table *tensors.Tensor
}

func (m metrics) free() { program.Free(m.loss, m.hits, m.table) }

// read returns the loss and the number of correct predictions of each step.
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

// NewStepper returns a Stepper that trains the tuned tensors t of the backbone m. tuned holds their
// initial values, by peft.Param.Name, such as the result of t.Init. The moments of the optimiser
// start at zero. The objective defines the loss. Call Close to release the Stepper.
func NewStepper(be backend.Backend, m *backbone.Model, loss objective.Objective, t *peft.Tuning, tuned checkpoint.StateDict, o StepOptions) (_ *Stepper, err error) {
	if o.Loss.Smoothing != 0 || o.Loss.ClassWeights != nil {
		if err := objective.CheckPerImage(loss, "label smoothing or weighting classes"); err != nil {
			return nil, err
		}
	}
	net, err := newNetwork(be, m, loss, t)
	if err != nil {
		return nil, err
	}
	s := &Stepper{be: be, tuning: t, net: net, o: o, packs: pack(be, t.Params, o.Factors)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.restart(tuned); err != nil {
		return nil, err
	}
	// Return the memory that scoring and planning used, because the activations need much memory.
	program.ReturnMemory()
	for _, p := range []struct {
		to    **program.Program
		name  string
		build program.Build
	}{
		{&s.program, "training step", s.build},
		{&s.loop, "training steps", s.buildLoop},
		{&s.gradients, "gradients of a micro-batch", s.buildGradients},
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
	if s.split, err = newSplit(be, m.Config); err != nil {
		return nil, err
	}
	return s, nil
}

// Close releases the compiled programs and the training state.
func (s *Stepper) Close() {
	for _, p := range []*program.Program{s.program, s.loop, s.split, s.gradients, s.sum, s.update} {
		if p != nil { // nil if NewStepper failed
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

// restart sets the state to the start of a training: the given tuned tensors, and moments of zero.
func (s *Stepper) restart(tuned checkpoint.StateDict) error {
	zero := checkpoint.StateDict{}
	for _, p := range s.tuning.Params {
		zero[p.Name] = checkpoint.NewTensor(p.Shape...)
	}
	return s.load(0, tuned, zero, zero)
}

// load sets the training state. If it fails, the state is unchanged.
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

// save copies the training state from the backend.
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

// Tuned copies the tuned tensors from the backend and returns them by peft.Param.Name.
func (s *Stepper) Tuned() (checkpoint.StateDict, error) {
	tuned, _, _, err := s.save()
	return tuned, err
}

// build builds the program of one step on a whole mini-batch. Its inputs are the packed tuned
// tensors, first moments and second moments, the frozen tensors, the images, the targets, the
// random state, the scalars lr, 1−β₁ᵗ and 1−β₂ᵗ, and for mixed images the targets of the other
// images and the shares. Its outputs are the new tuned tensors and moments, the loss, and the
// number of correct predictions.
func (s *Stepper) build(_ *Graph, in []*Node) []*Node {
	n := len(s.packs.packs)
	state, rest := in[:3*n], in[3*n:]
	frozen, rest := rest[:len(s.net.inputs)], rest[len(s.net.inputs):]
	tuned := s.packs.unpack(state[:n])
	loss, hits := s.loss(tuned, frozen, rest[0], rest[1], rest[2], rest[6:])
	grads := s.packs.join(Gradient(loss, tuned...))
	for i, g := range grads {
		grads[i] = program.AllMean(g)
	}
	return append(s.adamW(state, grads, rest[3], rest[4], rest[5]), program.AllMean(loss), program.AllSum(hits))
}

// loss returns the mean loss of the images and the number of correct predictions. For mixed images,
// mixed holds the targets of the other images and the shares; otherwise it is empty.
func (s *Stepper) loss(tuned, frozen []*Node, images, targets, rng *Node, mixed []*Node) (loss, hits *Node) {
	logits := s.net.logits(tuned, frozen, images, rng, s.o.Rates)
	hits = ReduceAllSum(s.net.objective.Correct(logits, targets))
	if len(mixed) == 0 && s.o.Loss.Smoothing == 0 && s.o.Loss.ClassWeights == nil {
		return s.net.objective.Loss(logits, targets), hits
	}
	each := s.net.objective.(objective.PerImage)
	losses := each.Losses(logits, targets, s.o.Loss)
	if len(mixed) > 0 {
		others, shares := mixed[0], mixed[1]
		losses = Add(Mul(shares, losses), Mul(OneMinus(shares), each.Losses(logits, others, s.o.Loss)))
	}
	return ReduceAllMean(losses), hits
}

// adamW returns the packs of the tuned tensors, first moments and second moments after one step of
// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101). The order of the operations is that of
// PyTorch. state holds the packs before the step; correct1 and correct2 are 1−β₁ᵗ and 1−β₂ᵗ.
func (s *Stepper) adamW(state, grads []*Node, lr, correct1, correct2 *Node) []*Node {
	n := len(grads)
	out := make([]*Node, 3*n, 3*n+2)
	for i, grad := range grads {
		w, lr := state[i], lr
		if f := s.packs.factor(i); f != 1 {
			lr = MulScalar(lr, f)
		}
		if s.packs.decays(i) && s.o.WeightDecay > 0 {
			w = Sub(w, Mul(w, MulScalar(lr, s.o.WeightDecay)))
		}
		m := Add(MulScalar(state[n+i], beta1), MulScalar(grad, 1-beta1))
		v := Add(MulScalar(state[2*n+i], beta2), MulScalar(Mul(grad, grad), 1-beta2))
		denominator := AddScalar(Div(Sqrt(v), Sqrt(correct2)), epsilon)
		out[i] = Sub(w, Div(Mul(m, Div(lr, correct1)), denominator))
		out[n+i], out[2*n+i] = m, v
	}
	return out
}

// StepMetrics holds the metrics of one mini-batch, measured before its update.
type StepMetrics struct {
	Loss float64 // mean loss of the images, as StepOptions.Loss configures it
	// Correct is the sum of objective.Objective.Correct over the images. For a mixed image it
	// counts the target of the image itself, not that of the image mixed into it.
	Correct float64
}

// Step trains on one mini-batch by calling [Stepper.Enqueue] and [Stepper.Read]. It returns the
// mean loss and the number of correct predictions of the mini-batch, measured before the update.
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

// Enqueue trains on one mini-batch. images holds pixels, uint8 or normalised float32 [B, S, S, 3].
// If only the head is tuned, images can also hold pooled features [B, D]. If the selection has a
// FromBlock, images can also hold the tokens [B, N, D] that enter this block. targets holds the
// targets as the objective encodes them, int32 [B, TargetShape…]. lr is the learning rate of the
// step. seed decides what dropout and drop-path drop. The metrics stay on the backend until Read.
func (s *Stepper) Enqueue(ctx context.Context, images, targets *tensors.Tensor, lr float64, seed uint64) error {
	return s.enqueueBatch(ctx, batch{images: images, targets: targets}, lr, seed)
}

// EnqueueMixed is [Stepper.Enqueue] for images into which other images are mixed. others holds the
// encoded targets of the other images, with the shape of targets. shares, float32 [B], holds the
// weight of the targets in the loss of each image: the loss is share·L(target) +
// (1−share)·L(other). The objective must be an objective.PerImage.
func (s *Stepper) EnqueueMixed(ctx context.Context, images, targets, others, shares *tensors.Tensor, lr float64, seed uint64) error {
	return s.enqueueBatch(ctx, batch{images: images, targets: targets, others: others, shares: shares}, lr, seed)
}

// enqueueBatch trains on one mini-batch, as a whole or in micro-batches.
func (s *Stepper) enqueueBatch(ctx context.Context, b batch, lr float64, seed uint64) error {
	if n := backend.Replicas(s.be); n > 1 {
		return fmt.Errorf("training on %d devices: the images must be stored on each device, which requires squares of one size, at most %d GB in all, and no augmentation except crops and flips; train on one device", n, residentBytes>>30)
	}
	if b.others != nil {
		if err := objective.CheckPerImage(s.net.objective, "mixing images"); err != nil {
			return err
		}
	}
	step := s.wholeBatch
	if len(microBatchSizes(s.be, s.net.model.Config, b.images.Shape())) > 1 {
		step = s.inMicroBatches
	}
	return s.enqueue(ctx, step, b, lr, seed)
}

// stepFunc runs one training step on a mini-batch. scalars holds lr, 1−β₁ᵗ and 1−β₂ᵗ. It returns
// the new state, and as metrics the loss and the number of correct predictions.
type stepFunc func(ctx context.Context, b batch, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error)

// enqueue runs step and keeps its state and its metrics.
func (s *Stepper) enqueue(ctx context.Context, step stepFunc, b batch, lr float64, seed uint64) error {
	if err := ctx.Err(); err != nil { // the program consumes the state, so check first
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
	state, measured, err := step(ctx, b, r, scalars)
	if err != nil {
		return err
	}
	s.state = state
	s.unread = append(s.unread, metrics{steps: 1, loss: measured[0], hits: measured[1]})
	s.steps++
	return nil
}

// random returns the random number generator for the step that follows the given number of finished
// steps. It decides what dropout and drop-path drop.
func random(seed uint64, steps int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(steps))) }

// stepScalars returns the scalars of adamW for the step that follows the given number of finished
// steps: lr, 1−β₁ᵗ and 1−β₂ᵗ.
func stepScalars(lr float64, steps int) []float32 {
	t := float64(steps + 1)
	return []float32{float32(lr), float32(1 - math.Pow(beta1, t)), float32(1 - math.Pow(beta2, t))}
}

// Read returns the metrics of the steps since the last Read, in order. If a loss is not finite,
// Read returns an error and the metrics up to this step.
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
			if err := objective.CheckLoss(fmt.Sprintf("training step %d", step), v[0], "lower the learning rate, or check the weights of the backbone and the normalisation of the images"); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// wholeBatch trains on a mini-batch without splitting it. It is a stepFunc.
func (s *Stepper) wholeBatch(ctx context.Context, b batch, r *rand.Rand, scalars []*tensors.Tensor) (state, metrics []*tensors.Tensor, err error) {
	rng, err := program.RandomState(s.be, r)
	if err != nil {
		return nil, nil, err
	}
	defer program.Free(rng)
	args := append(program.Donate(s.state), program.Lend(s.net.values, []*tensors.Tensor{b.images, b.targets, rng}, scalars, b.mixed())...)
	out, err := s.program.Run(ctx, args...)
	if err != nil {
		return nil, nil, err
	}
	n := len(s.state)
	return out[:n], out[n:], nil
}

// numbers reads two scalars from the backend.
func numbers(s, t *tensors.Tensor) (a, b float64, err error) {
	if a, err = program.Number(s); err != nil {
		return 0, 0, err
	}
	b, err = program.Number(t)
	return a, b, err
}

// network builds the forward pass and holds its constant inputs on the backend.
type network struct {
	model     *backbone.Model
	objective objective.Objective
	tuning    *peft.Tuning
	// values holds the frozen tensors, then the positions of the tuned entries of each tensor.
	values []*tensors.Tensor
	// inputs holds the canonical name of the tensor of each of values.
	inputs []string
	// frozen is the number of frozen tensors in values.
	frozen int
	// copies holds copies of values on the other devices. It is nil until it is needed.
	copies [][]*tensors.Tensor
}

// newNetwork copies the constant inputs of the forward pass to the backend.
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
				return nil, fmt.Errorf("copying the positions of the tuned entries of %s to the backend: %w", p.Name, err)
			}
			n.inputs = append(n.inputs, p.Name)
			n.values = append(n.values, x)
		}
	}
	return n, nil
}

// close releases the tensors that newNetwork created. The frozen tensors belong to the model.
func (n *network) close() {
	program.Free(n.values[n.frozen:]...)
	program.Free(slices.Concat(n.copies...)...)
}

// logits returns the logits of the objective for images, for the tokens [B, N, D] that enter block
// Selection.FromBlock of the tuning, or for pooled features [B, width]. A nil rng means evaluation,
// without dropout and drop-path.
func (n *network) logits(tuned, frozen []*Node, images, rng *Node, rates peft.Rates) *Node {
	layers := n.layers(tuned, frozen, rng, rates)
	features := images
	switch images.Rank() {
	case 2:
	case 3:
		features = n.objective.Features(n.model.FromBlock(n.tuning.Selection.FromBlock), layers, images)
	default:
		features = n.objective.Features(n.model, layers, images)
	}
	return n.objective.Logits(n.model.Config, layers, features)
}

// layers returns the layers of the backbone with the tuned tensors. The argument frozen holds the
// nodes of n.values.
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
