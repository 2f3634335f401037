package cpu

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// argument is an input of a program: a shape, and a flat slice with the element type of the shape.
type argument struct {
	shape shapes.Shape
	flat  any
}

func float32s(values []float32, dims ...int) argument {
	return argument{shapes.Make(dtypes.Float32, dims...), values}
}

func int32s(values []int32, dims ...int) argument {
	return argument{shapes.Make(dtypes.Int32, dims...), values}
}

// built wraps a function. The test fails if an operation on the function fails.
type built struct {
	compute.Function
	t testing.TB
}

// ok returns v, or ends the test if an operation failed.
func (f built) ok(v compute.Value, err error) compute.Value {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// all returns vs, or ends the test if an operation failed.
func (f built) all(vs []compute.Value, err error) []compute.Value {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	return vs
}

// closure builds a closure of f with parameters of the given shapes. It returns the values that
// body returns.
func (f built) closure(params []shapes.Shape, body func(f built, in []compute.Value) []compute.Value) compute.Function {
	f.t.Helper()
	c, err := f.Closure()
	if err != nil {
		f.t.Fatal(err)
	}
	g := built{c, f.t}
	var in []compute.Value
	for i, s := range params {
		in = append(in, g.ok(g.Parameter(fmt.Sprint("c", i), s, nil)))
	}
	if err := g.Return(body(g, in), nil); err != nil {
		f.t.Fatal(err)
	}
	return c
}

type structure func(f built, in []compute.Value) []compute.Value

// assembled compiles a program for arguments of the given shapes.
func assembled(t testing.TB, be compute.Backend, build structure, params ...shapes.Shape) compute.Executable {
	t.Helper()
	b := be.Builder(t.Name())
	f := built{b.Main(), t}
	var in []compute.Value
	for i, s := range params {
		in = append(in, f.ok(f.Parameter(fmt.Sprint("p", i), s, nil)))
	}
	if err := f.Return(build(f, in), nil); err != nil {
		t.Fatal(err)
	}
	exec, err := b.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return exec
}

// results runs a program on copies of its arguments and returns its outputs as flat slices.
func results(t testing.TB, be compute.Backend, exec compute.Executable, args ...argument) (out []any) {
	t.Helper()
	var in []compute.Buffer
	for _, a := range args {
		b, err := be.BufferFromFlatData(0, a.flat, a.shape)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, b)
	}
	buffers, err := exec.Execute(in, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range buffers {
		s, err := b.Shape()
		if err != nil {
			t.Fatal(err)
		}
		flat := dtypes.MakeAnySlice(s.DType, s.Size())
		if s.DType.IsPacked() {
			flat = make([]byte, s.ByteSize())
		}
		if err := b.ToFlatData(flat); err != nil {
			t.Fatal(err)
		}
		out = append(out, flat)
	}
	return out
}

func shapesOf(args []argument) (params []shapes.Shape) {
	for _, a := range args {
		params = append(params, a.shape)
	}
	return params
}

// onBoth runs a program twice on be and once on the Go backend of GoMLX, and compares the outputs.
func onBoth(t *testing.T, be *backend, build structure, args ...argument) {
	t.Helper()
	gives(t, be, build, results(t, be.plain, assembled(t, be.plain, build, shapesOf(args)...), args...), args...)
}

// gives runs a program twice on be and compares its outputs with the flat slices in want.
func gives(t *testing.T, be *backend, build structure, want []any, args ...argument) {
	t.Helper()
	own := assembled(t, be, build, shapesOf(args)...)
	for run := range 2 {
		got := results(t, be, own, args...)
		if len(got) != len(want) {
			t.Fatalf("%d outputs, expected %d", len(got), len(want))
		}
		for i := range want {
			what := fmt.Sprintf("run %d, output %d", run, i)
			if w, ok := want[i].([]float32); ok {
				alike(t, what, got[i].([]float32), w)
			} else if !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("%s: %v, expected %v", what, got[i], want[i])
			}
		}
	}
}

func f32(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// TestEmpty runs every kind of step on tensors without elements.
func TestEmpty(t *testing.T) {
	be := newBackend(t)
	empty := func(dims ...int) argument { return float32s([]float32{}, dims...) }
	six := float32s(normal(6, 1), 2, 3)
	for name, c := range map[string]struct {
		build structure
		args  []argument
	}{
		"element-wise": {func(f built, in []compute.Value) []compute.Value {
			x := f.ok(f.Exp(f.ok(f.Add(in[0], in[0]))))
			return []compute.Value{x, f.ok(f.FusedGelu(x, true)), f.ok(f.ConvertDType(f.ok(f.LessThan(x, in[0])), dtypes.Float32))}
		}, []argument{empty(0, 3)}},
		"rows": {func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.FusedSoftmax(in[0], 1)), f.ok(f.FusedLayerNorm(in[0], []int{1}, 1e-6, nil, nil))}
		}, []argument{empty(0, 3)}},
		"parameter returned": {func(f built, in []compute.Value) []compute.Value { return in }, []argument{empty(0), empty(3, 0, 2)}},
		"moved": {func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.Transpose(in[0], 1, 0)), f.ok(f.Reshape(in[0], 5, 0, 2)), f.ok(f.BroadcastInDim(in[0], f32(4, 0, 3), []int{1, 2})), f.ok(f.Slice(in[1], []int{1, 0}, []int{1, 3}, []int{1, 1}))}
		}, []argument{empty(0, 3), six}},
		"concatenated": {func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.Concatenate(0, in[0], in[1])), f.ok(f.Concatenate(0, in[1], in[0], in[1])), f.ok(f.Concatenate(0, in[0], in[0]))}
		}, []argument{empty(0, 3), six}},
		"summed": {func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.ReduceSum(in[0], 1)), f.ok(f.ReduceSum(in[0])), f.ok(f.ReduceSum(in[0], 0))}
		}, []argument{empty(3, 0)}},
		"greatest": {func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.ReduceMax(in[0], 1)), f.ok(f.ReduceMin(in[0], 1))}
		}, []argument{empty(3, 0)}},
		"padded to something": {func(f built, in []compute.Value) []compute.Value {
			fill := f.ok(f.Constant([]float32{2}))
			return []compute.Value{f.ok(f.Pad(in[0], fill, compute.PadAxis{Start: 1, End: 1}, compute.PadAxis{}))}
		}, []argument{empty(0, 3)}},
		"nothing gathered": {func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.Gather(in[0], in[1], 1, nil, []int{0}, []int{0}, []int{1}, false))}
		}, []argument{float32s(normal(9, 1), 9), int32s([]int32{}, 0, 1)}},
	} {
		t.Run(name, func(t *testing.T) { onBoth(t, be, c.build, c.args...) })
	}
}

// TestProductOverNothing checks empty operations. A product with an empty contracted axis is zero,
// a product with an empty result is empty, and a scatter of no values returns its operand. The Go
// backend of GoMLX panics in all three cases.
func TestProductOverNothing(t *testing.T) {
	be := newBackend(t)
	gives(t, be, func(f built, in []compute.Value) []compute.Value {
		return []compute.Value{f.ok(f.ScatterSum(in[0], in[1], in[2], 1, nil, []int{0}, []int{0}, false, false))}
	}, []any{normal(9, 1)}, float32s(normal(9, 1), 9), int32s([]int32{}, 0, 1), float32s([]float32{}, 0))
	gives(t, be, func(f built, in []compute.Value) []compute.Value {
		y := f.ok(f.DotGeneral(in[0], []int{1}, nil, in[1], []int{0}, nil, compute.DotGeneralConfig{}))
		return []compute.Value{y, f.ok(f.FusedDense(in[0], in[1], nil, compute.DenseConfig{})), f.ok(f.ReduceSum(y, 0)),
			f.ok(f.DotGeneral(in[1], []int{0}, nil, in[0], []int{1}, nil, compute.DotGeneralConfig{}))}
	}, []any{[]float32{}, []float32{}, make([]float32, 3), []float32{}}, float32s([]float32{}, 0, 2), float32s(normal(6, 1), 2, 3))
	for _, batch := range []int{1, 3} {
		n := batch * 6
		gives(t, be, func(f built, in []compute.Value) []compute.Value {
			zero := f.ok(f.DotGeneral(in[0], []int{2}, []int{0}, in[1], []int{1}, []int{0}, compute.DotGeneralConfig{}))
			return []compute.Value{zero, f.ok(f.Add(f.ok(f.DotGeneral(in[0], []int{2}, []int{0}, in[1], []int{1}, []int{0}, compute.DotGeneralConfig{})), in[2]))}
		}, []any{make([]float32, n), normal(n, 1)}, float32s([]float32{}, batch, 2, 0), float32s([]float32{}, batch, 0, 3), float32s(normal(n, 1), batch, 2, 3))
	}
}

// TestNegativeAxis checks that an axis with a negative number is counted from the end and uses the
// same kernel.
func TestNegativeAxis(t *testing.T) {
	be := newBackend(t)
	norm := func(axis int) structure {
		return func(f built, in []compute.Value) []compute.Value {
			return []compute.Value{f.ok(f.FusedLayerNorm(in[0], []int{axis}, 1e-6, in[1], in[2]))}
		}
	}
	args := []argument{float32s(normal(30, 1), 2, 3, 5), float32s(normal(5, 2), 5), float32s(normal(5, 3), 5)}
	be.startTimings()
	gives(t, be, norm(-1), results(t, be, assembled(t, be, norm(2), shapesOf(args)...), args...), args...)
	if steps := stepNames(be); strings.Contains(steps, "GoMLX") {
		t.Errorf("steps\n%s", steps)
	}
	onBoth(t, be, norm(-1), args...)
}

// TestSliceBounds checks slices that count from the end, exceed the axis or have no strides,
// against the Go backend of GoMLX.
func TestSliceBounds(t *testing.T) {
	be := newBackend(t)
	onBoth(t, be, func(f built, in []compute.Value) []compute.Value {
		x := in[0]
		return []compute.Value{
			f.ok(f.Slice(x, []int{0, 0}, []int{9, 3}, []int{1, 1})), f.ok(f.Slice(x, []int{-2, 0}, []int{4, -1}, []int{1, 1})),
			f.ok(f.Slice(x, []int{-9, 1}, []int{100, 3}, nil)), f.ok(f.Slice(x, []int{1, 0}, []int{4, 3}, []int{2, 0})),
			f.ok(f.Slice(x, []int{7, 0}, []int{9, 3}, nil)), f.ok(f.Neg(f.ok(f.Slice(x, []int{-3, -2}, []int{-1, 8}, []int{2, 2})))),
		}
	}, float32s(normal(12, 1), 4, 3))
}

// TestNegativePadding checks that negative padding removes elements. The Go backend of GoMLX panics
// for it.
func TestNegativePadding(t *testing.T) {
	be := newBackend(t)
	gives(t, be, func(f built, in []compute.Value) []compute.Value {
		fill := f.ok(f.Constant([]float32{9}))
		return []compute.Value{
			f.ok(f.Pad(in[0], fill, compute.PadAxis{Start: -1}, compute.PadAxis{Start: 1, End: -1})),
			f.ok(f.Pad(f.ok(f.Transpose(in[0], 1, 0)), fill, compute.PadAxis{Start: -1, End: -1}, compute.PadAxis{Start: -1, End: 2})),
		}
	}, []any{[]float32{9, 4, 5}, []float32{5, 9, 9}}, float32s([]float32{1, 2, 3, 4, 5, 6}, 2, 3))
}

// TestScalars runs loops, reductions, matrix products and copies on tensors without axes.
func TestScalars(t *testing.T) {
	be := newBackend(t)
	onBoth(t, be, func(f built, in []compute.Value) []compute.Value {
		x, y := in[0], in[1]
		two := f.ok(f.Constant([]float32{2}))
		less := f.ok(f.LessThan(x, two))
		return []compute.Value{
			f.ok(f.Add(x, two)), f.ok(f.Mul(y, x)), f.ok(f.Sub(two, y)), less, f.ok(f.Where(less, x, two)), f.ok(f.Where(less, y, x)),
			f.ok(f.ConvertDType(less, dtypes.Float32)), f.ok(f.ReduceSum(y)), f.ok(f.Mul(f.ok(f.ReduceMax(y)), x)), f.ok(f.Exp(x)),
			f.ok(f.BroadcastInDim(x, f32(2, 2), nil)), f.ok(f.Reshape(x, 1, 1)), f.ok(f.Add(f.ok(f.Reshape(x, 1)), f.ok(f.Constant([]float32{1}, 1)))),
			f.ok(f.DotGeneral(y, []int{0}, nil, y, []int{0}, nil, compute.DotGeneralConfig{})),
			f.ok(f.DotGeneral(x, nil, nil, y, nil, nil, compute.DotGeneralConfig{})),
			f.ok(f.FusedGelu(x, true)), f.ok(f.Concatenate(0, f.ok(f.Reshape(x, 1)), y)),
		}
	}, float32s([]float32{1.5}), float32s([]float32{1, -2, 3}, 3))
}

// TestReturned checks outputs that are parameters, constants, views of these, or the same value
// several times. It also has a parameter that no operation reads.
func TestReturned(t *testing.T) {
	be := newBackend(t)
	onBoth(t, be, func(f built, in []compute.Value) []compute.Value {
		x := in[0]
		c := f.ok(f.Constant([]int32{7, 8, 9, 10}, 2, 2))
		y := f.ok(f.Neg(x))
		moved := f.ok(f.Transpose(x, 1, 0))
		same := f.ok(f.Neg(x)) // recorded twice, computed once
		return []compute.Value{x, x, c, c, y, y, same, moved, f.ok(f.Transpose(y, 1, 0)), f.ok(f.Reshape(y, 6)), f.ok(f.Slice(y, []int{0, 1}, []int{2, 3}, []int{1, 1})),
			f.ok(f.Identity(x)), f.ok(f.BroadcastInDim(c, shapes.Make(dtypes.Int32, 3, 2, 2), []int{1, 2})), f.ok(f.Exp(y)), f.ok(f.ReduceSum(y, 1)), in[2]}
	}, float32s(normal(6, 1), 2, 3), float32s(normal(4, 1), 4), argument{shapes.Make(dtypes.Bool, 3), []bool{true, false, true}})
}

// TestReturnedApart checks that outputs with the same value, and outputs that are an input, have
// separate memory. A later donation of one output must not change the others.
func TestReturnedApart(t *testing.T) {
	be := newBackend(t)
	exec := assembled(t, be, func(f built, in []compute.Value) []compute.Value {
		y := f.ok(f.Neg(in[0]))
		return []compute.Value{y, y, in[0]}
	}, f32(100))
	negated := assembled(t, be, func(f built, in []compute.Value) []compute.Value { return []compute.Value{f.ok(f.Exp(in[0]))} }, f32(100))
	x := normal(100, 1)
	in := upload(t, be, x, 100)
	out, err := exec.Execute([]compute.Buffer{in}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := contents(t, out[1])
	for _, b := range []compute.Buffer{out[0], out[2]} {
		if _, err := negated.Execute([]compute.Buffer{b}, []bool{true}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if !sameBits(contents(t, out[1]), want) || !sameBits(contents(t, in), x) {
		t.Error("donating one output changed another, or the input")
	}
}

// TestOtherTypes checks other types than float32. This backend moves their data, and the Go backend
// of GoMLX computes with them, also between operations of this backend.
func TestOtherTypes(t *testing.T) {
	be := newBackend(t)
	for _, a := range []argument{
		{shapes.Make(dtypes.Float64, 2, 3), []float64{1, -2, 3, 4, 5, 6}},
		{shapes.Make(dtypes.Int64, 2, 3), []int64{1, -2, 3, 4, 5, 6}},
		{shapes.Make(dtypes.Int32, 2, 3), []int32{1, -2, 3, 4, 5, 6}},
		{shapes.Make(dtypes.Uint8, 2, 3), []uint8{1, 250, 3, 4, 5, 6}},
		{shapes.Make(dtypes.Int8, 2, 3), []int8{1, -2, 3, 4, 5, 6}},
		{shapes.Make(dtypes.Uint32, 2, 3), []uint32{1, 1<<32 - 1, 3, 4, 5, 6}},
	} {
		t.Run(a.shape.DType.String(), func(t *testing.T) {
			onBoth(t, be, func(f built, in []compute.Value) []compute.Value {
				x := f.ok(f.Add(in[0], in[0]))
				moved := f.ok(f.Transpose(x, 1, 0))
				real := f.ok(f.ConvertDType(moved, dtypes.Float32))
				back := f.ok(f.ConvertDType(f.ok(f.Abs(real)), a.shape.DType))
				return []compute.Value{x, moved, f.ok(f.Concatenate(0, moved, back)), f.ok(f.Mul(back, moved)), real, f.ok(f.ReduceMax(x, 1)), f.ok(f.Equal(x, in[0])),
					f.ok(f.Slice(x, []int{0, 0}, []int{2, 3}, []int{1, 2})), f.ok(f.Mul(real, real)), in[0]}
			}, a)
		})
	}
}

// TestPacked checks types with elements smaller than a byte. They can be inputs and outputs with an
// odd number of elements, and are converted like on the Go backend of GoMLX, which accepts only
// complete bytes.
func TestPacked(t *testing.T) {
	be := newBackend(t)
	for _, dtype := range []dtypes.DType{dtypes.Int4, dtypes.Uint4, dtypes.Int2, dtypes.Uint2} {
		for _, dims := range [][]int{{8}, {3, 5}, {1}, {}, {0, 4}} {
			t.Run(fmt.Sprint(dtype, dims), func(t *testing.T) {
				shape := shapes.Make(dtype, dims...)
				x := argument{shape, []byte{0x21, 0x43, 0xfe, 0x80, 0x7b, 0x36, 0x99, 0x0c}[:shape.ByteSize()]}
				gives(t, be, func(f built, in []compute.Value) []compute.Value {
					return []compute.Value{in[0], f.ok(f.Identity(in[0])), in[0]}
				}, []any{x.flat, x.flat, x.flat}, x)
				if shape.Size()%8 != 0 {
					return
				}
				onBoth(t, be, func(f built, in []compute.Value) []compute.Value {
					y := f.ok(f.ConvertDType(in[0], dtypes.Float32))
					return []compute.Value{y, f.ok(f.Exp(y))}
				}, x)
			})
		}
	}
}

// TestControl checks If, While, Sort and Call with bodies that use values of the functions around
// them: parameters, constants, and results of steps of this backend.
func TestControl(t *testing.T) {
	be := newBackend(t)
	scalar, x := f32(), float32s(normal(12, 1), 3, 4)
	for name, build := range map[string]structure{
		"if": func(f built, in []compute.Value) []compute.Value {
			// A product, a strided view and a constant are captured.
			gram := f.ok(f.DotGeneral(in[0], []int{1}, nil, in[0], []int{1}, nil, compute.DotGeneralConfig{}))
			turned := f.ok(f.Transpose(in[0], 1, 0))
			c := f.ok(f.Constant([]float32{10}))
			branch := func(scale bool) compute.Function {
				return f.closure(nil, func(f built, _ []compute.Value) []compute.Value {
					if scale {
						return []compute.Value{f.ok(f.Mul(gram, c)), f.ok(f.Neg(turned))}
					}
					return []compute.Value{gram, turned}
				})
			}
			var out []compute.Value
			for _, limit := range []float32{-100, 100} {
				out = append(out, f.all(f.If(f.ok(f.LessThan(f.ok(f.ReduceSum(in[0])), f.ok(f.Constant([]float32{limit})))), branch(true), branch(false)))...)
			}
			return append(out, f.ok(f.Exp(out[0])), gram)
		},
		"while": func(f built, in []compute.Value) []compute.Value {
			step := f.ok(f.Tanh(in[0]))
			limit := f.ok(f.Constant([]float32{5}))
			state := []shapes.Shape{scalar, f32(3, 4)}
			out := f.all(f.While(
				f.closure(state, func(f built, s []compute.Value) []compute.Value {
					return []compute.Value{f.ok(f.LessThan(s[0], limit))}
				}),
				f.closure(state, func(f built, s []compute.Value) []compute.Value {
					one := f.ok(f.Constant([]float32{1}))
					return []compute.Value{f.ok(f.Add(s[0], one)), f.ok(f.Add(s[1], f.ok(f.Mul(step, s[0]))))}
				}), f.ok(f.Constant([]float32{0})), in[0]))
			return append(out, f.ok(f.Mul(out[1], step)))
		},
		"while around if": func(f built, in []compute.Value) []compute.Value {
			total := f.ok(f.ReduceSum(f.ok(f.Abs(in[0]))))
			state := []shapes.Shape{scalar}
			return f.all(f.While(
				f.closure(state, func(f built, s []compute.Value) []compute.Value {
					return []compute.Value{f.ok(f.LessThan(s[0], total))}
				}),
				f.closure(state, func(f built, s []compute.Value) []compute.Value {
					half := f.ok(f.Mul(total, f.ok(f.Constant([]float32{0.5}))))
					return f.all(f.If(f.ok(f.LessThan(s[0], half)),
						f.closure(nil, func(f built, _ []compute.Value) []compute.Value {
							return []compute.Value{f.ok(f.Add(s[0], f.ok(f.Constant([]float32{1}))))}
						}),
						f.closure(nil, func(f built, _ []compute.Value) []compute.Value { return []compute.Value{f.ok(f.Add(s[0], half))} })))
				}), f.ok(f.Constant([]float32{0}))))
		},
		"sort": func(f built, in []compute.Value) []compute.Value {
			// Sort by the distance from a value of main. The second tensor gets the same order.
			middle := f.ok(f.Mul(f.ok(f.ReduceSum(in[0])), f.ok(f.Constant([]float32{0.1}))))
			distance := func(f built, v compute.Value) compute.Value { return f.ok(f.Abs(f.ok(f.Sub(v, middle)))) }
			turned := f.ok(f.Transpose(f.ok(f.Exp(in[0])), 1, 0))
			along := f.ok(f.Iota(shapes.Make(dtypes.Int32, 4, 3), 0))
			return f.all(f.Sort(f.closure([]shapes.Shape{scalar, scalar, shapes.Make(dtypes.Int32), shapes.Make(dtypes.Int32)}, func(f built, v []compute.Value) []compute.Value {
				return []compute.Value{f.ok(f.LessThan(distance(f, v[0]), distance(f, v[1])))}
			}), 0, true, turned, along))
		},
		"call": func(f built, in []compute.Value) []compute.Value {
			c, err := f.Builder().NewFunction("twice")
			if err != nil {
				f.t.Fatal(err)
			}
			g := built{c, f.t}
			p := g.ok(g.Parameter("x", f32(3, 4), nil))
			if err := g.Return([]compute.Value{g.ok(g.Add(p, p)), g.ok(g.ReduceSum(p, 0))}, nil); err != nil {
				f.t.Fatal(err)
			}
			first := f.all(f.Call(c, f.ok(f.Exp(in[0]))))
			return append(f.all(f.Call(c, first[0])), first[1], f.ok(f.Mul(first[0], in[0])))
		},
	} {
		t.Run(name, func(t *testing.T) { onBoth(t, be, build, x) })
	}
}

// TestCapturedAttention checks a branch that uses the result of attention. The branch gets the
// result as an operand, because the Go backend of GoMLX cannot compute it.
func TestCapturedAttention(t *testing.T) {
	be := newBackend(t)
	args := []argument{float32s(normal(24, 1), 1, 3, 2, 4), float32s([]float32{1})}
	var want []any
	for _, negated := range []bool{false, true} {
		build := func(f built, in []compute.Value) []compute.Value {
			y, _, err := f.FusedScaledDotProductAttention(in[0], in[0], in[0], compute.AttentionAxesLayoutBSHD, nil)
			f.ok(y, err)
			if !negated {
				return []compute.Value{f.ok(f.Neg(y))}
			}
			return f.all(f.If(f.ok(f.GreaterThan(in[1], f.ok(f.Constant([]float32{0})))),
				f.closure(nil, func(f built, _ []compute.Value) []compute.Value { return []compute.Value{f.ok(f.Neg(y))} }),
				f.closure(nil, func(f built, _ []compute.Value) []compute.Value { return []compute.Value{y} })))
		}
		if !negated {
			want = results(t, be, assembled(t, be, build, shapesOf(args)...), args...)
			continue
		}
		gives(t, be, build, want, args...)
	}
}

// TestDynamicShapes checks that a program with an axis of unknown size runs for any size of this
// axis.
func TestDynamicShapes(t *testing.T) {
	be := newBackend(t)
	build := func(f built, in []compute.Value) []compute.Value {
		y := f.ok(f.DotGeneral(in[0], []int{1}, nil, in[1], []int{0}, nil, compute.DotGeneralConfig{}))
		return []compute.Value{f.ok(f.Tanh(y)), f.ok(f.ReduceSum(in[0]))}
	}
	own, plain := assembled(t, be, build, rows, f32(3, 2)), assembled(t, be.plain, build, rows, f32(3, 2))
	w := normal(6, 9)
	for _, n := range []int{1, 4, 33, 4} {
		args := []argument{float32s(normal(3*n, uint64(n)), n, 3), float32s(w, 3, 2)}
		want := results(t, be.plain, plain, args...)
		for i, got := range results(t, be, own, args...) {
			alike(t, fmt.Sprintf("%d rows, output %d", n, i), got.([]float32), want[i].([]float32))
		}
	}
	x, wb := upload(t, be, normal(6, 1), 2, 3), upload(t, be, w, 3, 2)
	if _, err := own.Execute([]compute.Buffer{x, wb}, []bool{true, false}, 0); err != nil {
		t.Fatal(err)
	}
	if x.(*buffer).valid() == nil || wb.(*buffer).valid() != nil {
		t.Error("a donated input is still valid, or one that was not donated is not")
	}
	for what, in := range map[string][]compute.Buffer{
		"a buffer that was donated": {x, wb},
		"too few inputs":            {wb},
		"a buffer of another kind":  {upload(t, be.plain, w, 2, 3), wb},
		"an axis that does not fit": {wb, wb},
		"no buffer":                 {nil, wb},
		"another cpu backend's":     {upload(t, newBackend(t), w, 2, 3), wb},
	} {
		if _, err := own.Execute(in, nil, 0); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	if _, err := own.Execute([]compute.Buffer{wb, wb}, []bool{true}, 0); err == nil || wb.(*buffer).valid() != nil {
		t.Errorf("one donation for two inputs: %v", err)
	}
	if _, err := own.Execute([]compute.Buffer{upload(t, be, w, 2, 3), wb}, nil, 1); err == nil {
		t.Error("the program ran on device 1")
	}
}

// TestDynamicAttention checks attention and its gradient over tensors of fixed size, in a program
// with an axis of unknown size.
func TestDynamicAttention(t *testing.T) {
	be := newBackend(t)
	for _, layout := range []compute.AttentionAxesLayout{compute.AttentionAxesLayoutBSHD, compute.AttentionAxesLayoutBHSD} {
		heads := layout.HeadsAxis()
		for _, groups := range []int{2, 6} { // heads of key and value; the query has six heads
			q, kv := []int{2, 6, 6, 4}, []int{2, 6, 6, 4}
			q[layout.SeqAxis()], kv[layout.SeqAxis()] = 5, 7
			kv[heads] = groups
			for _, kind := range []string{"plain", "scaled", "mask and bias"} {
				build := func(f built, in []compute.Value) []compute.Value {
					config := &compute.ScaledDotProductAttentionConfig{}
					switch kind {
					case "scaled":
						config.Scale = 0.7
					case "mask and bias":
						config.Mask, config.Bias = in[5], in[6]
					}
					y, states, err := f.FusedScaledDotProductAttention(in[0], in[1], in[2], layout, config)
					f.ok(y, err)
					dq, dk, dv, err := f.FusedScaledDotProductAttentionVJP(in[0], in[1], in[2], layout, config, y, states, in[3])
					f.ok(dq, err)
					return []compute.Value{y, states[0], dq, dk, dv, f.ok(f.ReduceSum(in[4], 1))}
				}
				x := float32s(normal(6, 5), 2, 3)
				args := []argument{float32s(normal(shapeOf(q).Size(), 1), q...), float32s(normal(shapeOf(kv).Size(), 2), kv...), float32s(normal(shapeOf(kv).Size(), 3), kv...), float32s(normal(shapeOf(q).Size(), 4), q...), x,
					float32s(normal(2*5*7, 6), 2, 1, 5, 7), float32s(normal(6*7, 7), 6, 1, 7)}
				want := results(t, be, assembled(t, be, build, shapesOf(args)...), args...)
				params := shapesOf(args)
				params[4] = rows
				for i, got := range results(t, be, assembled(t, be, build, params...), args...) {
					near(t, fmt.Sprintf("%v, %d heads for 6, %s, output %d", layout, groups, kind, i), got.([]float32), want[i].([]float32), 2e-6)
				}
			}
		}
	}
}

// TestExecuteErrors checks that errors for wrong inputs name the input and the expected value, and
// that the other inputs stay valid.
func TestExecuteErrors(t *testing.T) {
	be := newBackend(t)
	exec := assembled(t, be, func(f built, in []compute.Value) []compute.Value { return []compute.Value{f.ok(f.Add(in[0], in[1]))} }, f32(2, 3), f32(2, 3))
	good := func() compute.Buffer { return upload(t, be, normal(6, 1), 2, 3) }
	gone := good()
	if err := gone.Finalize(); err != nil {
		t.Fatal(err)
	}
	if err := gone.Finalize(); err != nil {
		t.Errorf("finalizing twice: %v", err)
	}
	kept := good()
	var none *buffer
	for what, c := range map[string]struct {
		in     []compute.Buffer
		donate []bool
		says   []string
	}{
		"too few":               {[]compute.Buffer{kept}, nil, []string{"1", "2"}},
		"too many":              {[]compute.Buffer{kept, kept, kept}, nil, []string{"3", "2"}},
		"none":                  {nil, nil, []string{"0", "2"}},
		"wrong donations":       {[]compute.Buffer{kept, kept}, []bool{true}, []string{"1", "2"}},
		"wrong shape":           {[]compute.Buffer{kept, upload(t, be, normal(6, 1), 3, 2)}, nil, []string{"p1", "[3, 2]", "[2, 3]"}},
		"wrong type":            {[]compute.Buffer{upload(t, be, make([]int32, 6), -2, 3), kept}, nil, []string{"p0", "Int32", "Float32"}},
		"finalized":             {[]compute.Buffer{kept, gone}, nil, []string{"p1"}},
		"of another backend":    {[]compute.Buffer{upload(t, be.plain, normal(6, 1), 2, 3), kept}, nil, []string{"p0"}},
		"nil":                   {[]compute.Buffer{kept, nil}, nil, []string{"p1"}},
		"nil of the right type": {[]compute.Buffer{none, kept}, nil, []string{"p0"}},
		"another cpu backend's": {[]compute.Buffer{kept, upload(t, newBackend(t), normal(6, 1), 2, 3)}, nil, []string{"p1"}},
	} {
		_, err := exec.Execute(c.in, c.donate, 0)
		if err == nil {
			t.Errorf("%s: no error", what)
			continue
		}
		for _, s := range append(c.says, "running") {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", what, err, s)
			}
		}
	}
	for _, device := range []compute.DeviceNum{-1, 1} {
		if _, err := exec.Execute([]compute.Buffer{kept, kept}, []bool{true, true}, device); err == nil || !strings.Contains(err.Error(), fmt.Sprint("device ", device)) {
			t.Errorf("running on device %d: %v", device, err)
		}
	}
	if _, err := exec.Execute([]compute.Buffer{kept, kept}, nil, 0); err != nil {
		t.Errorf("after errors: %v", err)
	}
}

// TestBufferErrors checks the errors for buffers of wrong sizes and types, and for finalized
// buffers.
func TestBufferErrors(t *testing.T) {
	be := newBackend(t)
	for what, flat := range map[string]any{"too short": make([]float32, 5), "too long": make([]float32, 7), "another type": make([]int32, 6), "no slice": 3, "nil": nil} {
		if _, err := be.BufferFromFlatData(0, flat, f32(2, 3)); err == nil {
			t.Errorf("%s: a buffer was made", what)
		}
		if err := upload(t, be, normal(6, 1), 2, 3).ToFlatData(flat); err == nil {
			t.Errorf("%s: a buffer was read", what)
		}
	}
	if _, err := be.BufferFromFlatData(1, make([]float32, 6), f32(2, 3)); err == nil {
		t.Error("a buffer was made on device 1")
	}
	if _, err := Borrow(be, make([]float32, 5), 2, 3); err == nil {
		t.Error("an array of 5 was borrowed as [2 3]")
	}
	if _, err := Borrow(be, make([]float32, 6), -2, -3); err == nil {
		t.Error("an array was borrowed as [-2 -3]")
	}
	if _, err := Borrow(be, nil, 1<<32, 1<<32); err == nil {
		t.Error("nothing was borrowed as 2⁶⁴ elements")
	}
	for what, shape := range map[string]shapes.Shape{
		"no type":           {},
		"an unknown type":   shapes.Make(dtypes.DType(99), 0),
		"a type without Go": shapes.Make(dtypes.F8E5M2, 0),
		"a tuple":           shapes.MakeTuple([]shapes.Shape{f32(2), f32(3)}),
		"negative":          {DType: dtypes.Float32, Dimensions: []int{-2, -3}},
		"negative, empty":   {DType: dtypes.Float32, Dimensions: []int{0, -3}},
		"dynamic":           rows,
		"2⁶⁴ elements":      f32(1<<32, 1<<32),
		"2⁶³ bytes":         f32(1<<31, 1<<30),
		"2⁶⁴ and empty":     {DType: dtypes.Float32, Dimensions: []int{1 << 32, 1 << 32, 3}},
	} {
		for _, flat := range []any{[]float32{}, make([]float32, 6), []byte(nil)} {
			if _, err := be.BufferFromFlatData(0, flat, shape); err == nil {
				t.Errorf("%s: a buffer was made", what)
			}
		}
	}
	b := upload(t, be, normal(6, 1), 2, 3)
	c, err := b.CopyToDevice(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Finalize(); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, c); !sameBits(got, normal(6, 1)) {
		t.Error("a copy changed when its original was finalized")
	}
	if _, err := b.Shape(); err == nil {
		t.Error("Shape of a finalized buffer returned no error")
	}
	if err := b.ToFlatData(make([]float32, 6)); err == nil {
		t.Error("a finalized buffer was read")
	}
	if _, err := b.CopyToDevice(0); err == nil {
		t.Error("a finalized buffer was copied")
	}
}

// TestFinalized checks that all functions of a finalized backend return an error with this reason,
// and that buffers from before can still be read.
func TestFinalized(t *testing.T) {
	be, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	neg := func(f built, in []compute.Value) []compute.Value { return []compute.Value{f.ok(f.Neg(in[0]))} }
	exec, dynamic := assembled(t, be, neg, f32(3)), assembled(t, be, neg, rows)
	b, bd := upload(t, be, normal(3, 1), 3), upload(t, be, normal(9, 1), 3, 3)
	half := be.Builder("half")
	f := built{half.Main(), t}
	x := f.ok(f.Parameter("x", f32(3), nil))
	c, err := f.Closure()
	if err != nil {
		t.Fatal(err)
	}
	whole := be.Builder("whole")
	g := built{whole.Main(), t}
	if err := g.Return([]compute.Value{g.ok(g.Parameter("x", f32(3), nil))}, nil); err != nil {
		t.Fatal(err)
	}
	be.Finalize()
	be.Finalize()
	if !be.IsFinalized() {
		t.Error("IsFinalized returns false after Finalize")
	}
	value := func(_ any, err error) error { return err }
	for what, use := range map[string]func() error{
		"running a program":              func() error { return value(exec.Execute([]compute.Buffer{b}, nil, 0)) },
		"running one with dynamic axes":  func() error { return value(dynamic.Execute([]compute.Buffer{bd}, nil, 0)) },
		"placing an array":               func() error { return value(be.BufferFromFlatData(0, normal(3, 1), f32(3))) },
		"borrowing an array":             func() error { return value(Borrow(be, normal(3, 1), 3)) },
		"copying a buffer":               func() error { return value(b.CopyToDevice(0)) },
		"an operation":                   func() error { return value(f.Neg(x)) },
		"an operation in a closure":      func() error { return value(c.Neg(x)) },
		"a parameter":                    func() error { return value(f.Parameter("y", f32(3), nil)) },
		"a constant":                     func() error { return value(f.Constant([]float32{1})) },
		"a closure":                      func() error { return value(f.Closure()) },
		"a function":                     func() error { return value(half.NewFunction("g")) },
		"returning":                      func() error { return f.Return([]compute.Value{x}, nil) },
		"compiling":                      func() error { return value(whole.Compile()) },
		"a program from a finalized one": func() error { return value(be.Builder("new").Main().Constant([]float32{1})) },
	} {
		if err := use(); err == nil || !strings.Contains(err.Error(), "finalized") {
			t.Errorf("%s: %v, expected an error that says that the backend was finalized", what, err)
		}
	}
	if !sameBits(contents(t, b), normal(3, 1)) {
		t.Error("a buffer changed when its backend was finalized")
	}
	if err := b.Finalize(); err != nil {
		t.Error(err)
	}
	if _, err := New("threads=4"); err == nil {
		t.Error("a configuration is accepted")
	}
}

// TestFinalizedProgram checks that running a finalized program is an error and leaves its inputs
// valid. It also finalizes a program while it runs.
func TestFinalizedProgram(t *testing.T) {
	be := newBackend(t)
	for name, shape := range map[string]shapes.Shape{"fixed": f32(2, 3), "dynamic": rows} {
		t.Run(name, func(t *testing.T) {
			exec := assembled(t, be, func(f built, in []compute.Value) []compute.Value {
				c := f.ok(f.Constant(normal(3, 2), 3, 1))
				return []compute.Value{f.ok(f.DotGeneral(in[0], []int{1}, nil, c, []int{0}, nil, compute.DotGeneralConfig{}))}
			}, shape)
			x := upload(t, be, normal(6, 1), 2, 3)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 50 {
						out, err := exec.Execute([]compute.Buffer{x}, nil, 0)
						if err != nil && !strings.Contains(err.Error(), "finalized") {
							t.Error(err)
						}
						for _, b := range out {
							_ = b.Finalize() // never fails
						}
					}
				})
			}
			exec.Finalize()
			exec.Finalize()
			wg.Wait()
			if _, err := exec.Execute([]compute.Buffer{x}, []bool{true}, 0); err == nil || !strings.Contains(err.Error(), "finalized") {
				t.Errorf("running it: %v", err)
			}
			if !sameBits(contents(t, x), normal(6, 1)) {
				t.Error("the input is gone")
			}
			if names, in := exec.Inputs(); len(names) != 1 || !in[0].Equal(shape) || len(exec.Outputs()) != 1 {
				t.Errorf("inputs %v %v, outputs %v", names, in, exec.Outputs())
			}
		})
	}
}

// rows is the shape of a matrix with three columns and any number of rows.
var rows = shapes.MakeDynamic(dtypes.Float32, []int{shapes.DynamicDim, 3}, []string{"batch", ""})

// TestDelegatedPanics checks that a panic of the Go backend of GoMLX becomes an error with the
// operation and its shapes, and that the backend can run other programs afterwards.
func TestDelegatedPanics(t *testing.T) {
	be := newBackend(t)
	scatter := func(f built, in []compute.Value) []compute.Value {
		return []compute.Value{f.ok(f.ScatterMax(in[0], in[1], in[2], 1, nil, []int{0}, []int{0}, false, false))}
	}
	any := shapes.MakeDynamic(dtypes.Float32, []int{shapes.DynamicDim}, []string{"n"})
	for name, shape := range map[string]shapes.Shape{"alone": f32(9), "in a program with dynamic axes": any} {
		t.Run(name, func(t *testing.T) {
			exec := assembled(t, be, scatter, shape, shapes.Make(dtypes.Int32, 1, 1), f32(1))
			in := func(position int32) []compute.Buffer {
				return []compute.Buffer{upload(t, be, normal(9, 1), 9), upload(t, be, []int32{position}, -1, 1), upload(t, be, []float32{100}, 1)}
			}
			out, err := exec.Execute(in(9), nil, 0)
			if err == nil {
				t.Fatalf("a position outside the tensor gave no error: %v", out)
			}
			for _, s := range []string{"ScatterMax", "Go backend", "(Float32)[9]", "(Int32)[1, 1]"} {
				if shape.IsDynamic() && s == "ScatterMax" {
					s = t.Name() // the program's name
				}
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("a stack trace: %q", err)
			}
			want := normal(9, 1)
			want[8] = 100
			if got := execute(t, exec, in(8), nil); !sameBits(got[0], want) {
				t.Errorf("after a panic: %v, expected %v", got[0], want)
			}
		})
	}
}

// TestBuildErrors checks that wrong programs give an error when they are built or compiled.
func TestBuildErrors(t *testing.T) {
	be := newBackend(t)
	b := be.Builder("wrong")
	f := built{b.Main(), t}
	x, y := f.ok(f.Parameter("x", f32(2, 3), nil)), f.ok(f.Parameter("y", f32(4), nil))
	if _, err := f.Add(x, y); err == nil {
		t.Error("[2 3] and [4] were added")
	}
	if _, err := f.Add(x, nil); err == nil {
		t.Error("a sum of one")
	}
	for what, build := range map[string]func() (compute.Value, error){
		"a constant of negative size": func() (compute.Value, error) { return f.Constant([]float32{1}, -1) },
		"no constant":                 func() (compute.Value, error) { return f.Constant(nil, 1) },
		"a parameter without type":    func() (compute.Value, error) { return f.Parameter("z", shapes.Shape{}, nil) },
		"a sum over axis 7":           func() (compute.Value, error) { return f.ReduceSum(x, 7) },
		"a sum over axis -1":          func() (compute.Value, error) { return f.ReduceSum(x, -1) },
		"a softmax over axis -1":      func() (compute.Value, error) { return f.FusedSoftmax(x, -1) },
		"concatenation along -1":      func() (compute.Value, error) { return f.Concatenate(-1, x, x) },
		"a transposition of one axis": func() (compute.Value, error) { return f.Transpose(x, 0) },
		"a slice that runs backwards": func() (compute.Value, error) { return f.Slice(x, []int{2, 0}, []int{1, 3}, []int{1, 1}) },
		"a reshape to more":           func() (compute.Value, error) { return f.Reshape(x, 7) },
		"a reshape to less than 0":    func() (compute.Value, error) { return f.Reshape(x, -2, -3) },
		"a broadcast to another size": func() (compute.Value, error) { return f.BroadcastInDim(x, f32(2, 4), []int{0, 1}) },
		"a broadcast to axis 5":       func() (compute.Value, error) { return f.BroadcastInDim(x, f32(2, 3), []int{0, 5}) },
		"a product over axis -1": func() (compute.Value, error) {
			return f.DotGeneral(x, []int{-1}, nil, x, []int{-1}, nil, compute.DotGeneralConfig{})
		},
		"negative padding of too much": func() (compute.Value, error) {
			return f.Pad(x, f.ok(f.Constant([]float32{0})), compute.PadAxis{Start: -3}, compute.PadAxis{})
		},
	} {
		if v, err := build(); err == nil {
			t.Errorf("%s is accepted: %v", what, v.(*value).shape)
		}
	}
	other := built{be.Builder("other").Main(), t}
	if _, err := other.Neg(x); err == nil {
		t.Error("a value of another program was used")
	}
	theirs := built{be.plain.Builder("plain").Main(), t}
	z := theirs.ok(theirs.Parameter("z", f32(2, 3), nil))
	if _, err := f.Neg(z); err == nil {
		t.Error("a value of another backend was used")
	}
	if _, err := f.Shape(z); err == nil {
		t.Error("a value of another backend has a shape here")
	}
	if _, err := f.If(f.ok(f.Constant([]bool{true})), theirs.Function, theirs.Function); err == nil {
		t.Error("functions of another backend were used")
	}
	if _, err := b.Compile(); err == nil {
		t.Error("a program that returns nothing was compiled")
	}
	if err := f.Return([]compute.Value{x}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Compile(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Compile(); err == nil {
		t.Error("a program was compiled twice")
	}
}
