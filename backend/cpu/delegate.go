package cpu

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// delegated is one operation that is compiled as a program of the Go backend of GoMLX.
type delegated struct {
	backend *backend
	kind    compute.OpType
	exec    compute.Executable
	in      []shapes.Shape
	results []shapes.Shape
}

// delegate compiles o as a program of the Go backend of GoMLX. Each operand becomes a parameter. An
// absent optional operand gets no parameter.
func (b *backend) delegate(o *op) (*delegated, error) {
	d := &delegated{backend: b, kind: o.kind}
	bld := b.plain.Builder(o.kind.String())
	main := bld.Main()
	in := make([]compute.Value, len(o.in))
	for i, v := range o.in {
		if v == nil {
			continue
		}
		p, err := main.Parameter(fmt.Sprintf("%d", i), v.shape, nil)
		if err != nil {
			return nil, err
		}
		in[i] = p
		d.in = append(d.in, v.shape)
	}
	out, err := o.emit(main, in)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", o.kind, err)
	}
	for _, v := range o.out {
		d.results = append(d.results, v.shape)
	}
	if err := main.Return(out, nil); err != nil {
		return nil, fmt.Errorf("compiling %s: %w", o.kind, err)
	}
	d.exec, err = bld.Compile()
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", o.kind, err)
	}
	return d, nil
}

// recovered runs call, which uses the Go backend of GoMLX, and returns a panic as an error. This
// backend panics for some programs and inputs.
func recovered(call func() error) (err error, panicked bool) {
	defer func() {
		if r := recover(); r != nil {
			err, panicked = fmt.Errorf("the Go backend of GoMLX panicked: %v", r), true
		}
	}()
	return call(), false
}

// newDelegatedKernel compiles the operation of n for the Go backend of GoMLX.
func (b *backend) newDelegatedKernel(n *node) (*delegatedKernel, error) {
	d, err := b.delegate(n.rec)
	if err != nil {
		return nil, err
	}
	k := &delegatedKernel{delegated: d}
	for _, e := range n.in {
		k.from = append(k.from, memoryRange{e.t.slot, e.t.dtype.SizeForDimensions(e.offset), e.t.dtype.SizeForDimensions(e.size())})
	}
	for _, t := range n.out {
		k.to = append(k.to, t.slot)
	}
	k.empty = !slices.ContainsFunc(n.out, func(t *tensor) bool { return t.n > 0 })
	return k, nil
}

// delegatedKernel runs one operation on the Go backend of GoMLX.
type delegatedKernel struct {
	*delegated
	from  []memoryRange
	to    []*slot
	empty bool // all results are empty
}

// memoryRange is a part of a slot, in bytes.
type memoryRange struct {
	slot         *slot
	offset, size int
}

func (k *delegatedKernel) run(x *execution) error {
	if k.empty {
		return nil
	}
	var in, out [][]byte
	for _, r := range k.from {
		in = append(in, x.mem(r.slot)[r.offset:][:r.size])
	}
	for _, s := range k.to {
		out = append(out, x.mem(s))
	}
	return k.compute(in, out)
}

// compute runs the operation. in holds the memory of the operands, out holds the memory of the
// results.
func (d *delegated) compute(in, out [][]byte) error {
	d.backend.delegating.Lock()
	defer d.backend.delegating.Unlock()
	err := d.backend.usable()
	if err == nil {
		err, _ = recovered(func() error { return d.copyAndRun(in, out) })
	}
	if err != nil {
		return fmt.Errorf("running %s on operands of shape %s: %w", d.kind, list(d.in), err)
	}
	return nil
}

// list returns shapes as text for an error message.
func list(all []shapes.Shape) string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

// copyAndRun copies the operands to the Go backend of GoMLX, runs the operation and copies the
// results back.
func (d *delegated) copyAndRun(in, out [][]byte) error {
	buffers := make([]compute.Buffer, len(in))
	donate := make([]bool, len(in))
	for i, data := range in {
		buf, flat, err := d.backend.plain.NewSharedBuffer(0, d.in[i])
		if err != nil {
			return err
		}
		dst, err := flatBytes(flat, d.in[i])
		if err != nil {
			return err
		}
		copy(dst, data)
		buffers[i], donate[i] = buf, true
	}
	results, err := d.exec.Execute(buffers, donate, 0)
	if err != nil {
		return err
	}
	for i, r := range results {
		flat, err := r.Data()
		if err != nil {
			return err
		}
		src, err := flatBytes(flat, d.results[i])
		if err != nil {
			return err
		}
		copy(out[i], src)
		if err := r.Finalize(); err != nil {
			return err
		}
	}
	return nil
}

// wholeProgram is a program that runs completely on the Go backend of GoMLX, because it has axes of
// unknown size.
type wholeProgram struct {
	backend *backend
	name    string
	names   []string
	params  []shapes.Shape
	outputs []shapes.Shape
	live    sync.RWMutex       // runs hold the read lock, Finalize holds the write lock
	exec    compute.Executable // nil after Finalize
}

// delegateWhole compiles the complete program for the Go backend of GoMLX.
func (b *builder) delegateWhole() (*wholeProgram, error) {
	w := &wholeProgram{backend: b.backend, name: b.name}
	err, _ := recovered(func() error {
		bld := b.backend.plain.Builder(b.name)
		if err := b.main.replay(bld.Main(), map[*value]compute.Value{}); err != nil {
			return err
		}
		exec, err := bld.Compile()
		if err != nil {
			return err
		}
		w.exec, w.outputs = exec, exec.Outputs()
		w.names, w.params = exec.Inputs()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compiling %q: %w", b.name, err)
	}
	return w, nil
}

// Finalize waits for the runs in progress and releases the program.
func (w *wholeProgram) Finalize() {
	w.live.Lock()
	defer w.live.Unlock()
	if w.exec != nil {
		w.exec.Finalize()
		w.exec = nil
	}
}

// Inputs returns the names and shapes of the parameters.
func (w *wholeProgram) Inputs() (names []string, inputShapes []shapes.Shape) {
	return slices.Clone(w.names), slices.Clone(w.params)
}

// Outputs returns the shapes of the results.
func (w *wholeProgram) Outputs() []shapes.Shape { return slices.Clone(w.outputs) }

// Execute copies the inputs to the Go backend of GoMLX, runs the program and copies the outputs
// back. If the run succeeds, donated inputs are invalid afterwards. If it fails, they stay valid.
func (w *wholeProgram) Execute(inputs []compute.Buffer, donate []bool, device compute.DeviceNum) (out []compute.Buffer, err error) {
	w.live.RLock()
	defer w.live.RUnlock()
	if w.exec == nil {
		return nil, fmt.Errorf("running %q: the program was finalized", w.name)
	}
	buffers, err := w.backend.accept(inputs, donate, device, w.names, w.params)
	if err != nil {
		return nil, fmt.Errorf("running %q: %w", w.name, err)
	}
	w.backend.delegating.Lock()
	defer w.backend.delegating.Unlock()
	err, _ = recovered(func() error { out, err = w.copyAndRun(buffers); return err })
	if err != nil {
		given := make([]shapes.Shape, len(buffers))
		for i, b := range buffers {
			given[i] = b.shape
		}
		return nil, fmt.Errorf("running %q on inputs of shape %s: %w", w.name, list(given), err)
	}
	for i, b := range buffers {
		if len(donate) > 0 && donate[i] {
			_ = b.Finalize() // Finalize never fails
		}
	}
	return out, nil
}

// copyAndRun runs the program on copies of the inputs and returns copies of the outputs.
func (w *wholeProgram) copyAndRun(inputs []*buffer) ([]compute.Buffer, error) {
	theirs := make([]compute.Buffer, len(inputs))
	for i, b := range inputs {
		var err error
		if theirs[i], err = w.backend.plain.BufferFromFlatData(0, b.flat(), b.shape); err != nil {
			return nil, err
		}
	}
	out, err := w.exec.Execute(theirs, slices.Repeat([]bool{true}, len(theirs)), 0)
	if err != nil {
		return nil, err
	}
	ours := make([]compute.Buffer, len(out))
	for i, r := range out {
		shape, err := r.Shape()
		if err != nil {
			return nil, err
		}
		flat := dtypes.MakeAnySlice(shape.DType, shape.Size())
		if err := r.ToFlatData(flat); err != nil {
			return nil, err
		}
		if ours[i], err = w.backend.BufferFromFlatData(0, flat, shape); err != nil {
			return nil, err
		}
		_ = r.Finalize()
	}
	return ours, nil
}
