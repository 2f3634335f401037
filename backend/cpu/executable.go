package cpu

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend/cpu/internal/workers"
)

// executable is a compiled program.
type executable struct {
	backend    *Backend
	name       string
	names      []string // of the parameters
	params     []shapes.Shape
	outputs    []*tensor
	results    []shapes.Shape
	steps      []step
	constants  []*buffer
	delegates  map[*node]*delegated
	arenaBytes int

	// Held by runs for reading and by Finalize for writing.
	live      sync.RWMutex
	finalized bool

	mu      sync.Mutex
	patches map[*node][]*patched // kept from run to run
}

// executable finishes the compilation: loops are assembled and memory planned.
func (c *compiler) executable(b *builder) (*executable, error) {
	x := &executable{backend: c.backend, name: b.name, outputs: c.outputs, results: c.results, delegates: map[*node]*delegated{}, patches: map[*node][]*patched{}}
	for _, v := range b.main.params {
		t := c.values[v].t
		x.names = append(x.names, v.op.data.(*parameter).name)
		x.params = append(x.params, v.shape)
		t.place = place{where: inInput, index: v.op.data.(*parameter).index}
	}
	id := 0
	for _, n := range c.nodes {
		if n.kind == kindInput || n.kind == kindConstant {
			for _, t := range n.out {
				if n.kind == kindConstant {
					t.place = place{where: inConstant}
					b := n.rec.data.(*buffer)
					c.backend.buffers.Add(int64(len(b.data)))
					x.constants = append(x.constants, b)
				}
			}
			continue
		}
		s := step{node: n}
		switch {
		case n.loop != nil:
			s.reads, s.writes = n.loop.loop.reads(), n.loop.loop.writes()
		default:
			for _, e := range n.edges() {
				if !slices.Contains(s.reads, e.t) {
					s.reads = append(s.reads, e.t)
				}
			}
			s.writes = slices.Clone(n.out)
			if n.kind == kindRandom && !c.inMemory[n.out[1]] {
				s.writes = s.writes[:1]
			}
		}
		if n.kind == kindDelegated {
			d, err := c.backend.delegate(n.rec)
			if err != nil {
				return nil, err
			}
			x.delegates[n] = d
		}
		for _, t := range s.writes {
			t.id = id
			id++
		}
		x.steps = append(x.steps, s)
	}
	x.arenaBytes = plan(x.steps, c.outputs)
	return x, nil
}

// Finalize releases what the program keeps, once no run needs it any more.
func (x *executable) Finalize() {
	x.live.Lock()
	defer x.live.Unlock()
	x.finalized = true
	for _, list := range x.patches {
		for _, p := range list {
			x.backend.packed.Add(-p.bytes())
		}
	}
	x.patches = nil
	for _, b := range x.constants {
		_ = b.Finalize() // never fails
	}
}

// Inputs lists the parameters.
func (x *executable) Inputs() (names []string, inputShapes []shapes.Shape) {
	return slices.Clone(x.names), slices.Clone(x.params)
}

// Outputs lists the shapes of the results.
func (x *executable) Outputs() []shapes.Shape { return slices.Clone(x.results) }

// execution is one run.
type execution struct {
	*executable
	arena   []byte
	buffers []*buffer // of the parameters; nil: donated
	memory  [][]byte  // of the parameters
	out     []*buffer

	patching []*patched // in use by the step in progress
}

// mem is the memory of t.
func (x *execution) mem(t *tensor) []byte {
	switch p := &t.place; p.where {
	case inInput:
		return x.memory[p.index]
	case inConstant:
		return t.node.rec.data.(*buffer).data
	case inOutput:
		return x.out[p.index].data
	default:
		return x.arena[p.offset : p.offset+t.bytes()]
	}
}

func (x *execution) float32s(t *tensor) []float32 { return view[float32](x.mem(t), 0, t.n) }

// shared is the buffer behind t if its content outlives the run and was used
// before, so that other forms of it are worth keeping.
func (x *execution) shared(t *tensor) *buffer {
	switch t.place.where {
	case inConstant:
		return t.node.rec.data.(*buffer)
	case inInput:
		if b := x.buffers[t.place.index]; b != nil && b.again.Load() {
			return b
		}
	}
	return nil
}

// accept checks the inputs of a program against its parameters.
func (b *Backend) accept(inputs []compute.Buffer, donate []bool, device compute.DeviceNum, names []string, params []shapes.Shape) ([]*buffer, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	if device != 0 {
		return nil, fmt.Errorf("it cannot run on device %d: the backend %q has device 0 only", device, BackendName)
	}
	if len(inputs) != len(params) {
		return nil, fmt.Errorf("got %d inputs, expected %d", len(inputs), len(params))
	}
	if len(donate) != 0 && len(donate) != len(inputs) {
		return nil, fmt.Errorf("%d donations are given for %d inputs", len(donate), len(inputs))
	}
	buffers := make([]*buffer, len(inputs))
	for i, in := range inputs {
		own, ok := in.(*buffer)
		if !ok || own.valid() != nil {
			return nil, fmt.Errorf("input %d (%s) is no valid buffer of the backend %q", i, names[i], BackendName)
		}
		if own.backend != b {
			return nil, fmt.Errorf("input %d (%s) is a buffer of another backend %q than the program's", i, names[i], BackendName)
		}
		if !matches(own.shape, params[i]) {
			return nil, fmt.Errorf("input %d (%s) has shape %s, expected %s", i, names[i], own.shape, params[i])
		}
		buffers[i] = own
	}
	return buffers, nil
}

// matches reports whether a tensor of a shape can be given for a parameter, of
// which some axes may have any size.
func matches(shape, param shapes.Shape) bool {
	return shape.DType == param.DType && slices.EqualFunc(shape.Dimensions, param.Dimensions, func(d, p int) bool { return d == p || p == shapes.DynamicDim })
}

// Execute runs the program. If the inputs fit, donated ones are invalid
// afterwards, whether it succeeds or not.
func (x *executable) Execute(inputs []compute.Buffer, donate []bool, device compute.DeviceNum) (out []compute.Buffer, err error) {
	x.live.RLock()
	defer x.live.RUnlock()
	if x.finalized {
		return nil, fmt.Errorf("running %q: the program was finalized", x.name)
	}
	buffers, err := x.backend.accept(inputs, donate, device, x.names, x.params)
	if err != nil {
		return nil, fmt.Errorf("running %q: %w", x.name, err)
	}
	run := &execution{executable: x, buffers: buffers, memory: make([][]byte, len(inputs)), out: make([]*buffer, len(x.outputs))}
	for i, b := range buffers {
		run.memory[i] = b.data
		if len(donate) > 0 && donate[i] {
			buffers[i] = nil
		}
	}
	for i, t := range x.outputs {
		shape := x.results[i]
		if d := t.place.donor; d != nil && run.buffers[d.place.index] == nil && once(inputs, d.place.index) {
			if donor := inputs[d.place.index].(*buffer); !donor.borrowed {
				x.backend.buffers.Add(shape.ByteSize()) // the donor's are taken off when it is finalized
				run.out[i] = &buffer{backend: x.backend, shape: shape, data: donor.data}
				donor.borrowed = true
				continue
			}
		}
		run.out[i] = x.backend.newBuffer(shape)
	}
	defer func() {
		for i, in := range inputs {
			if b := run.buffers[i]; b == nil {
				_ = in.Finalize() // never fails
			} else {
				b.again.Store(true)
			}
		}
	}()
	workers.Begin()
	defer workers.End()
	run.arena = x.backend.arenas.take(x.arenaBytes)
	defer x.backend.arenas.give(run.arena)
	timed := x.backend.timings.on()
	for i := range x.steps {
		start := time.Time{}
		if timed {
			start = time.Now()
		}
		if err := run.step(&x.steps[i]); err != nil {
			for _, b := range run.out {
				_ = b.Finalize() // never fails
			}
			return nil, fmt.Errorf("running %q: %w", x.name, err)
		}
		if timed {
			x.backend.timings.add(&x.steps[i], time.Since(start)/time.Duration(workers.Programs()))
		}
	}
	for _, b := range run.out {
		out = append(out, b)
	}
	return out, nil
}

// once reports whether input i was given once only.
func once(inputs []compute.Buffer, i int) bool {
	for j, in := range inputs {
		if j != i && in == inputs[i] {
			return false
		}
	}
	return true
}

// step runs one node.
func (x *execution) step(s *step) error {
	n := s.node
	if n.loop != nil {
		n.loop.loop.run(x.mem)
		return nil
	}
	switch n.kind {
	case kindCopy:
		x.runCopy(n)
	case kindPad:
		x.runPad(n)
	case kindConcat:
		x.runConcat(n)
	case kindReduce:
		x.runReduce(n)
	case kindDot:
		x.runDot(n)
	case kindAttention:
		x.runAttention(n)
	case kindAttentionVJP:
		x.runAttentionVJP(n)
	case kindDepthwise:
		x.runDepthwise(n)
	case kindDepthwiseGradient:
		x.runDepthwiseGradient(n)
	case kindConv:
		x.runConv(n)
	case kindRandom:
		x.runRandom(n)
	case kindScatter:
		x.runScatter(n)
	case kindGather:
		x.runGather(n)
	case kindSparseDot:
		x.runSparseDot(n)
	case kindDelegated:
		if !slices.ContainsFunc(n.out, func(t *tensor) bool { return t.n > 0 }) {
			return nil // nothing to compute
		}
		var in, out [][]byte
		for _, e := range n.in {
			size := e.t.dtype.SizeForDimensions(e.size())
			at := e.t.dtype.SizeForDimensions(e.offset)
			in = append(in, x.mem(e.t)[at:at+size])
		}
		for _, t := range n.out {
			out = append(out, x.mem(t))
		}
		return x.delegates[n].run(in, out)
	default:
		return fmt.Errorf("a step of kind %d (%s) has no code", n.kind, n.op)
	}
	return nil
}
