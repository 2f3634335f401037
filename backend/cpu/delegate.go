package cpu

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// delegated is one operation, compiled as a program of its own on GoMLX's Go
// backend.
type delegated struct {
	backend *Backend
	kind    compute.OpType
	exec    compute.Executable
	in      []shapes.Shape
	results []shapes.Shape
}

// delegate compiles o alone: each operand becomes a parameter. Operands left
// out stay so.
func (b *Backend) delegate(o *op) (*delegated, error) {
	if o.emit == nil {
		return nil, fmt.Errorf("compiling %s: %w", o.kind, compute.ErrNotImplemented)
	}
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

// run computes out from in, both raw memory in the order of the operation's
// operands and results.
func (d *delegated) run(in, out [][]byte) error {
	d.backend.delegating.Lock()
	defer d.backend.delegating.Unlock()
	buffers := make([]compute.Buffer, len(in))
	donate := make([]bool, len(in))
	for i, data := range in {
		buf, flat, err := d.backend.plain.NewSharedBuffer(0, d.in[i])
		if err != nil {
			return fmt.Errorf("running %s: %w", d.kind, err)
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
		return fmt.Errorf("running %s: %w", d.kind, err)
	}
	for i, r := range results {
		flat, err := r.Data()
		if err != nil {
			return fmt.Errorf("running %s: %w", d.kind, err)
		}
		src, err := flatBytes(flat, d.results[i])
		if err != nil {
			return err
		}
		copy(out[i], src)
		if err := r.Finalize(); err != nil {
			return fmt.Errorf("running %s: %w", d.kind, err)
		}
	}
	return nil
}

// whole is a program with axes of unknown size: it runs on GoMLX's Go backend
// from beginning to end.
type whole struct {
	backend *Backend
	compute.Executable
}

func (b *builder) delegateWhole() (compute.Executable, error) {
	bld := b.backend.plain.Builder(b.name)
	if err := b.main.replay(bld.Main(), map[*value]compute.Value{}); err != nil {
		return nil, fmt.Errorf("compiling %q: %w", b.name, err)
	}
	exec, err := bld.Compile()
	if err != nil {
		return nil, err
	}
	return &whole{b.backend, exec}, nil
}

// Execute copies the inputs to the Go backend and the outputs back.
func (w *whole) Execute(inputs []compute.Buffer, donate []bool, device compute.DeviceNum) ([]compute.Buffer, error) {
	theirs := make([]compute.Buffer, len(inputs))
	for i, in := range inputs {
		b, ok := in.(*buffer)
		if !ok || b.valid() != nil {
			return nil, fmt.Errorf("running a program: input %d is no valid buffer of the backend %q", i, BackendName)
		}
		var err error
		if theirs[i], err = w.backend.plain.BufferFromFlatData(0, b.flat(), b.shape); err != nil {
			return nil, err
		}
	}
	w.backend.delegating.Lock()
	defer w.backend.delegating.Unlock()
	out, err := w.Executable.Execute(theirs, slices.Repeat([]bool{true}, len(theirs)), device)
	if err != nil {
		return nil, err
	}
	for i, in := range inputs {
		if i < len(donate) && donate[i] {
			_ = in.Finalize() // never fails
		}
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
