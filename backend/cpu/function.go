package cpu

import (
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
)

//go:generate go run ./internal/genops

// builder implements compute.Builder. It records a program. The field shadow builds the same
// program on the Go backend of GoMLX, which checks every operation and infers its shape. The shadow
// is never compiled.
type builder struct {
	backend *backend
	name    string
	shadow  compute.Builder
	main    *function
	dynamic bool // a parameter has axes of unknown size, so the complete program is delegated
	done    bool // Compile was called
}

func newBuilder(b *backend, name string) *builder {
	bld := &builder{backend: b, name: name, shadow: b.plain.Builder(name)}
	bld.main = &function{builder: bld, name: compute.MainName, shadow: bld.shadow.Main()}
	return bld
}

func (b *builder) Name() string           { return b.name }
func (b *builder) Main() compute.Function { return b.main }

func (b *builder) NewFunction(name string) (compute.Function, error) {
	if err := b.backend.usable(); err != nil {
		return nil, fmt.Errorf("building the function %q in %q: %w", name, b.name, err)
	}
	shadow, err := b.shadow.NewFunction(name)
	if err != nil {
		return nil, err
	}
	return &function{builder: b, name: name, shadow: shadow}, nil
}

func (b *builder) OpShape(v compute.Value) (shapes.Shape, error) { return b.main.Shape(v) }

func (b *builder) DistributedSPMD(n int) error { return b.shadow.DistributedSPMD(n) }
func (b *builder) DistributedAutoSharding(meshes ...compute.Mesh) error {
	return b.shadow.DistributedAutoSharding(meshes...)
}
func (b *builder) DeviceAssignment(devices ...compute.DeviceNum) error {
	return b.shadow.DeviceAssignment(devices...)
}

// Compile compiles the program. It returns a panic of the compiler as an error. After a panic,
// GoMLX would wait forever for the graph.
func (b *builder) Compile() (exec compute.Executable, err error) {
	defer func() {
		if r := recover(); r != nil {
			exec, err = nil, fmt.Errorf("compiling %q: the compiler panicked: %v", b.name, r)
		}
	}()
	if err := b.backend.usable(); err != nil {
		return nil, fmt.Errorf("compiling %q: %w", b.name, err)
	}
	if b.done {
		return nil, fmt.Errorf("compiling %q: the program was already compiled", b.name)
	}
	if b.main.outputs == nil {
		return nil, fmt.Errorf("compiling %q: the main function returns nothing; call Return first", b.name)
	}
	b.done = true
	if b.dynamic {
		return b.delegateWhole()
	}
	return compile(b)
}

// emit builds an operation on g, a function of another backend. in holds values of the same
// backend.
type emit func(g compute.Function, in []compute.Value) ([]compute.Value, error)

// op is one recorded operation.
type op struct {
	kind   compute.OpType
	in     []*value    // operands; nil: an absent optional operand
	attrs  any         // the other arguments, for example a struct of gen_ops.go; nil: none
	emit   emit        // nil for parameters
	out    []*value    // results
	bodies []*function // the functions of If, While, Sort and Call
}

// parameter holds the attributes of a parameter of a function.
type parameter struct {
	name  string
	index int
}

// value is one result of an operation. GoMLX holds it as compute.Value.
type value struct {
	op     *op
	index  int // in op.out
	fn     *function
	shape  shapes.Shape
	shadow compute.Value
}

// function implements compute.Function. It records the main function, a closure or a named
// function.
type function struct {
	builder *builder
	parent  *function
	name    string
	shadow  compute.Function
	ops     []*op
	params  []*value
	outputs []*value // nil before Return
}

func (f *function) Name() string             { return f.name }
func (f *function) Builder() compute.Builder { return f.builder }

func (f *function) Parent() compute.Function {
	if f.parent == nil {
		return nil
	}
	return f.parent
}

func (f *function) Closure() (compute.Function, error) {
	if err := f.builder.backend.usable(); err != nil {
		return nil, fmt.Errorf("building a closure in %q: %w", f.builder.name, err)
	}
	shadow, err := f.shadow.Closure()
	if err != nil {
		return nil, err
	}
	return &function{builder: f.builder, parent: f, shadow: shadow}, nil
}

func (f *function) Shape(v compute.Value) (shapes.Shape, error) {
	x, ok := v.(*value)
	if !ok || x == nil {
		return shapes.Invalid(), fmt.Errorf("reading a shape in %q: a value has type %T, which does not belong to the backend %q", f.builder.name, v, backendName)
	}
	return x.shape, nil
}

// one returns a list of one value.
func one(v compute.Value) []compute.Value { return []compute.Value{v} }

// join concatenates lists of values.
func join(parts ...[]compute.Value) []compute.Value { return slices.Concat(parts...) }

// own returns the values in as values of this backend and as values of the shadow. It returns an
// error if the backend was finalized or if a value does not belong to this program.
func (f *function) own(kind compute.OpType, in []compute.Value) (ours []*value, shadows []compute.Value, err error) {
	if err := f.builder.backend.usable(); err != nil {
		return nil, nil, fmt.Errorf("building %s in %q: %w", kind, f.builder.name, err)
	}
	ours, shadows = make([]*value, len(in)), make([]compute.Value, len(in))
	for i, v := range in {
		if v == nil || reflect.ValueOf(v).IsNil() {
			continue
		}
		x, ok := v.(*value)
		if !ok || x.fn.builder != f.builder {
			return nil, nil, fmt.Errorf("building %s in %q: operand %d does not belong to this program", kind, f.builder.name, i)
		}
		ours[i], shadows[i] = x, x.shadow
	}
	return ours, shadows, nil
}

// checked runs call, which builds an operation on the shadow. It returns a panic of the Go backend
// of GoMLX as an error.
func (f *function) checked(kind compute.OpType, call func() error) error {
	if err := f.builder.backend.usable(); err != nil {
		return fmt.Errorf("building %s in %q: %w", kind, f.builder.name, err)
	}
	err, panicked := recovered(call)
	if panicked {
		return fmt.Errorf("building %s in %q: %w", kind, f.builder.name, err)
	}
	return err
}

// record builds an operation on the shadow, which checks it, and adds the operation to f.
func (f *function) record(kind compute.OpType, in []compute.Value, attrs any, e emit) ([]compute.Value, error) {
	ours, shadows, err := f.own(kind, in)
	if err != nil {
		return nil, err
	}
	var results []compute.Value
	if err := f.checked(kind, func() (err error) { results, err = e(f.shadow, shadows); return err }); err != nil {
		return nil, err
	}
	return f.add(&op{kind: kind, in: ours, attrs: attrs, emit: e}, results)
}

// add appends o to f. It gives o one result for each result of the shadow.
func (f *function) add(o *op, shadows []compute.Value) ([]compute.Value, error) {
	out := make([]compute.Value, len(shadows))
	for i, s := range shadows {
		shape, err := f.shadow.Shape(s)
		if err != nil {
			return nil, err
		}
		v := &value{op: o, index: i, fn: f, shape: shape, shadow: s}
		o.out = append(o.out, v)
		out[i] = v
	}
	f.ops = append(f.ops, o)
	return out, nil
}

// placeholder adds an operation that the shadow cannot build. In the shadow, a parameter replaces
// each result, so that the shadow can infer the shapes of later operations.
func (f *function) placeholder(o *op, outputs ...shapes.Shape) ([]compute.Value, error) {
	var shadows []compute.Value
	for i, s := range outputs {
		p, err := f.shadow.Parameter(fmt.Sprintf("%s %d.%d", o.kind, len(f.ops), i), s, nil)
		if err != nil {
			return nil, err
		}
		shadows = append(shadows, p)
	}
	return f.add(o, shadows)
}

func (f *function) Parameter(name string, shape shapes.Shape, sharding *compute.ShardingSpec) (compute.Value, error) {
	var s compute.Value
	if err := f.checked(compute.OpTypeParameter, func() (err error) { s, err = f.shadow.Parameter(name, shape, sharding); return err }); err != nil {
		return nil, err
	}
	f.builder.dynamic = f.builder.dynamic || shape.IsDynamic()
	out, err := f.add(&op{kind: compute.OpTypeParameter, attrs: parameter{name, len(f.params)}}, one(s))
	if err != nil {
		return nil, err
	}
	f.params = append(f.params, out[0].(*value))
	return out[0], nil
}

func (f *function) Constant(flat any, dims ...int) (compute.Value, error) {
	var s compute.Value
	if err := f.checked(compute.OpTypeConstant, func() (err error) { s, err = f.shadow.Constant(flat, dims...); return err }); err != nil {
		return nil, err
	}
	shape, err := f.shadow.Shape(s)
	if err != nil {
		return nil, err
	}
	buf, err := f.builder.backend.BufferFromFlatData(0, flat, shape)
	if err != nil {
		return nil, err
	}
	b := buf.(*buffer)
	f.builder.backend.buffers.Add(-int64(len(b.data))) // the compiled program counts it
	out, err := f.add(&op{kind: compute.OpTypeConstant, attrs: b, emit: func(g compute.Function, _ []compute.Value) ([]compute.Value, error) {
		v, err := g.Constant(b.flat(), shape.Dimensions...)
		return one(v), err
	}}, one(s))
	return single(out, err)
}

func (f *function) Return(outputs []compute.Value, shardings []*compute.ShardingSpec) error {
	ours, shadows, err := f.own(compute.OpTypeInvalid, outputs)
	if err != nil {
		return err
	}
	if err := f.shadow.Return(shadows, shardings); err != nil {
		return err
	}
	f.outputs = ours
	return nil
}

// body returns g, an argument of a control-flow operation, as a function of this backend. It
// returns an error if g does not belong to this program or returns nothing.
func (f *function) body(kind compute.OpType, g compute.Function) (*function, error) {
	b, ok := g.(*function)
	if !ok || b.builder != f.builder {
		return nil, fmt.Errorf("building %s in %q: a function of type %T does not belong to this program", kind, f.builder.name, g)
	}
	if b.outputs == nil {
		return nil, fmt.Errorf("building %s in %q: the function %q returns nothing; call Return first", kind, f.builder.name, b.name)
	}
	return b, nil
}

// control records an operation with function bodies. If the bodies use values of the functions
// around them, these values become additional operands after the operands in.
func (f *function) control(kind compute.OpType, in []compute.Value, bodies []compute.Function, e func(g compute.Function, in []compute.Value, bodies []compute.Function) ([]compute.Value, error)) ([]compute.Value, error) {
	ours, shadows, err := f.own(kind, in)
	if err != nil {
		return nil, err
	}
	o := &op{kind: kind, in: ours}
	var shadowBodies []compute.Function
	for _, g := range bodies {
		b, err := f.body(kind, g)
		if err != nil {
			return nil, err
		}
		o.bodies = append(o.bodies, b)
		shadowBodies = append(shadowBodies, b.shadow)
	}
	var results []compute.Value
	if err := f.checked(kind, func() (err error) { results, err = e(f.shadow, shadows, shadowBodies); return err }); err != nil {
		return nil, err
	}
	captured := captures(o.bodies)
	o.in = append(slices.Clip(o.in), captured...)
	n := len(ours)
	o.emit = func(g compute.Function, in []compute.Value) ([]compute.Value, error) {
		known := map[*value]compute.Value{}
		for i, v := range captured {
			known[v] = in[n+i]
		}
		var copies []compute.Function
		for _, b := range o.bodies {
			c, err := b.copyTo(g, known)
			if err != nil {
				return nil, err
			}
			copies = append(copies, c)
		}
		return e(g, in[:n], copies)
	}
	return f.add(o, results)
}

// captures returns the values that the functions use but do not compute, in the order of their
// first use.
func captures(fns []*function) (out []*value) {
	inside := map[*function]bool{}
	for _, f := range fns {
		inside[f] = true
	}
	use := func(v *value) {
		if v != nil && !inside[v.fn] && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	for _, f := range fns {
		for _, o := range f.ops {
			for _, v := range o.in {
				use(v)
			}
		}
		for _, v := range f.outputs {
			use(v)
		}
	}
	return out
}

// copies counts the copies of named functions.
var copies atomic.Int64

// copyTo rebuilds f on another backend, as a closure of g or as a named function. known maps
// captured values to values of the other backend.
func (f *function) copyTo(g compute.Function, known map[*value]compute.Value) (c compute.Function, err error) {
	if f.parent != nil {
		c, err = g.Closure()
	} else {
		// Each use of a named function is a separate copy, and the copies need different names.
		c, err = g.Builder().NewFunction(fmt.Sprintf("%s %d", f.name, copies.Add(1)))
	}
	if err != nil {
		return nil, err
	}
	local := map[*value]compute.Value{}
	for v, w := range known {
		local[v] = w
	}
	return c, f.replay(c, local)
}

// replay builds the operations and the results of f on g, a function of another backend. known maps
// values of f to values of the other backend.
func (f *function) replay(g compute.Function, known map[*value]compute.Value) error {
	lookup := func(vs []*value) []compute.Value {
		out := make([]compute.Value, len(vs))
		for i, v := range vs {
			if v != nil {
				out[i] = known[v]
			}
		}
		return out
	}
	for _, o := range f.ops {
		var out []compute.Value
		var err error
		switch {
		case o.kind == compute.OpTypeParameter:
			var p compute.Value
			p, err = g.Parameter(o.attrs.(parameter).name, o.out[0].shape, nil)
			out = one(p)
		default:
			out, err = o.emit(g, lookup(o.in))
		}
		if err != nil {
			return err
		}
		for i, v := range o.out {
			known[v] = out[i]
		}
	}
	return g.Return(lookup(f.outputs), nil)
}

func (f *function) Call(g compute.Function, inputs ...compute.Value) ([]compute.Value, error) {
	return f.control(compute.OpTypeCall, inputs, []compute.Function{g}, func(h compute.Function, in []compute.Value, b []compute.Function) ([]compute.Value, error) {
		return h.Call(b[0], in...)
	})
}

func (f *function) Sort(comparator compute.Function, axis int, isStable bool, inputs ...compute.Value) ([]compute.Value, error) {
	return f.control(compute.OpTypeSort, inputs, []compute.Function{comparator}, func(h compute.Function, in []compute.Value, b []compute.Function) ([]compute.Value, error) {
		return h.Sort(b[0], axis, isStable, in...)
	})
}

func (f *function) While(cond, body compute.Function, initialState ...compute.Value) ([]compute.Value, error) {
	return f.control(compute.OpTypeWhile, initialState, []compute.Function{cond, body}, func(h compute.Function, in []compute.Value, b []compute.Function) ([]compute.Value, error) {
		return h.While(b[0], b[1], in...)
	})
}

func (f *function) If(pred compute.Value, trueBranch, falseBranch compute.Function) ([]compute.Value, error) {
	return f.control(compute.OpTypeIf, one(pred), []compute.Function{trueBranch, falseBranch}, func(h compute.Function, in []compute.Value, b []compute.Function) ([]compute.Value, error) {
		return h.If(in[0], b[0], b[1])
	})
}
