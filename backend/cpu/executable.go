package cpu

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/internal/workers"
)

// This file contains the parts of a compiled program: steps with their kernels, and slots, which
// are the memory of tensors. A compiled program does not refer to the graph of the compiler.

// where selects the memory in which a slot lies.
type where int

const (
	inArena    where = iota // in the arena of the run
	inInput                 // in the buffer of a parameter
	inConstant              // in the buffer of a constant
	inOutput                // in a new buffer that the caller gets
)

// slot is the memory of one tensor.
type slot struct {
	where where
	bytes int
	// Offset in the arena, in bytes.
	offset int
	// Index of the parameter or of the program output.
	index int
	// The buffer of a constant.
	constant *buffer
	// The parameter whose memory an output takes over if the input is donated. Nil means none.
	donor *slot
}

// operand describes how a kernel reads a tensor: the memory and the layout.
type operand struct {
	slot *slot
	layout
}

// kernel computes one step. An implementation holds the slots, sizes and layouts of its operands.
type kernel interface{ run(x *execution) error }

// step is one step of a program. The fields kind and detail describe the step for [Timing].
type step struct {
	kernel
	kind, detail string
}

// executable is a compiled program. It implements compute.Executable.
type executable struct {
	backend    *backend
	name       string
	names      []string // names of the parameters
	params     []shapes.Shape
	outputs    []*slot
	results    []shapes.Shape // shapes of the outputs
	steps      []step
	constants  []*buffer
	patches    []*patch
	arenaBytes int

	live      sync.RWMutex // runs hold the read lock, Finalize holds the write lock
	finalized bool
}

// Finalize waits for the runs in progress and releases the memory of the program.
func (x *executable) Finalize() {
	x.live.Lock()
	defer x.live.Unlock()
	x.finalized = true
	for _, p := range x.patches {
		p.drop(x.backend)
	}
	for _, b := range x.constants {
		_ = b.Finalize() // Finalize never fails
	}
}

// Inputs returns the names and shapes of the parameters.
func (x *executable) Inputs() (names []string, inputShapes []shapes.Shape) {
	return slices.Clone(x.names), slices.Clone(x.params)
}

// Outputs returns the shapes of the results.
func (x *executable) Outputs() []shapes.Shape { return slices.Clone(x.results) }

// execution is one run of a program.
type execution struct {
	*executable
	arena   []byte
	buffers []*buffer // buffers of the parameters; nil: the input is donated
	memory  [][]byte  // memory of the parameters
	out     []*buffer

	patching []*patched // patched weights that the current step uses
}

// mem returns the memory of s in this run.
func (x *execution) mem(s *slot) []byte {
	switch s.where {
	case inInput:
		return x.memory[s.index]
	case inConstant:
		return s.constant.data
	case inOutput:
		return x.out[s.index].data
	default:
		return x.arena[s.offset : s.offset+s.bytes]
	}
}

// float32s returns the memory of s as float32 numbers.
func (x *execution) float32s(s *slot) []float32 { return view[float32](x.mem(s), 0, s.bytes/4) }

// int32s returns the elements of o as int32 numbers. o is contiguous.
func (x *execution) int32s(o *operand) []int32 { return view[int32](x.mem(o.slot), o.offset, o.size()) }

// shared returns the buffer of s if its content outlives the run and if a program used the buffer
// before. Only then is it useful to keep a packed form of the content. Otherwise shared returns
// nil.
func (x *execution) shared(s *slot) *buffer {
	switch s.where {
	case inConstant:
		return s.constant
	case inInput:
		if b := x.buffers[s.index]; b != nil && b.again.Load() {
			return b
		}
	}
	return nil
}

// accept checks the inputs of a program against its parameters and returns them as buffers of b.
func (b *backend) accept(inputs []compute.Buffer, donate []bool, device compute.DeviceNum, names []string, params []shapes.Shape) ([]*buffer, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	if device != 0 {
		return nil, fmt.Errorf("device %d does not exist: the backend %q has only device 0", device, backendName)
	}
	if len(inputs) != len(params) {
		return nil, fmt.Errorf("the number of inputs is wrong: got %d inputs, expected %d", len(inputs), len(params))
	}
	if len(donate) != 0 && len(donate) != len(inputs) {
		return nil, fmt.Errorf("the length of the list of donated inputs is wrong: got %d elements, expected %d, one for each input", len(donate), len(inputs))
	}
	buffers := make([]*buffer, len(inputs))
	for i, in := range inputs {
		own, ok := in.(*buffer)
		if !ok || own.valid() != nil {
			return nil, fmt.Errorf("input %d (%s) is not a valid buffer of the backend %q", i, names[i], backendName)
		}
		if own.backend != b {
			return nil, fmt.Errorf("input %d (%s) belongs to another backend with the name %q; copy it to the backend that compiled the program", i, names[i], backendName)
		}
		if !matches(own.shape, params[i]) {
			return nil, fmt.Errorf("input %d (%s) has shape %s, expected %s", i, names[i], own.shape, params[i])
		}
		buffers[i] = own
	}
	return buffers, nil
}

// matches reports whether a tensor with the given shape is a valid input for a parameter with the
// shape param. Dynamic axes of param accept any size.
func matches(shape, param shapes.Shape) bool {
	return shape.DType == param.DType && slices.EqualFunc(shape.Dimensions, param.Dimensions, func(d, p int) bool { return d == p || p == shapes.DynamicDim })
}

// Execute runs the program and returns its outputs. donate selects the inputs whose memory the
// program may overwrite. An empty donate selects none. If the inputs match the parameters, donated
// inputs are invalid afterwards, also if the run fails.
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
	for i, s := range x.outputs {
		shape := x.results[i]
		if d := s.donor; d != nil && run.buffers[d.index] == nil && once(inputs, d.index) {
			if donor := inputs[d.index].(*buffer); !donor.borrowed {
				x.backend.buffers.Add(shape.ByteSize()) // finalizing the donor subtracts its bytes
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
				_ = in.Finalize() // Finalize never fails
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
		if err := x.steps[i].run(run); err != nil {
			for _, b := range run.out {
				_ = b.Finalize() // Finalize never fails
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

// once reports whether the buffer of input i is not also another input.
func once(inputs []compute.Buffer, i int) bool {
	for j, in := range inputs {
		if j != i && in == inputs[i] {
			return false
		}
	}
	return true
}
