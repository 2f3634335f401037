package cpu

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/internal/kernel/vector"
)

// special returns the numbers for which formulas often differ.
func special() []float32 {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	return []float32{nan, inf, -inf, 0, float32(math.Copysign(0, -1)), 1, -1, 0.5, -2.5, 88, -88, 1e-40, -1e-40, 1e-20, math.MaxFloat32, -math.MaxFloat32, 3, -0.25}
}

// alike compares results with the Go backend of GoMLX. NaN and infinities must be equal. Other
// numbers may differ by a relative 4e-6, or by an absolute difference that matters only for
// subnormal numbers.
func alike(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, expected %d", what, len(got), len(want))
	}
	for i, w := range want {
		g, v := float64(got[i]), float64(w)
		switch {
		case math.IsNaN(g) && math.IsNaN(v), g == v:
		case math.Abs(g-v) <= 4e-6*math.Abs(v)+1e-37:
		default:
			t.Errorf("%s, element %d: %g, expected %g", what, i, g, v)
		}
	}
}

// TestSpecialNumbers runs every operation of loops on NaN, infinities, zeros of both signs, and the
// smallest and largest numbers. The operands are tensors, one number for each row, or one number
// for all elements.
func TestSpecialNumbers(t *testing.T) {
	t.Parallel()
	be := newBackend(t)
	v := special()
	n := len(v)
	// a and b hold every pair; c is one number for each row.
	a, b := make([]float32, n*n), make([]float32, n*n)
	for i := range a {
		a[i], b[i] = v[i/n], v[i%n]
	}
	compare := map[string]func(x, y *Node) *Node{"LessThan": LessThan, "LessOrEqual": LessOrEqual, "GreaterThan": GreaterThan, "GreaterOrEqual": GreaterOrEqual, "Equal": Equal, "NotEqual": NotEqual}
	graphs := map[string]graphFunc{}
	for name, f := range map[string]func(x *Node) *Node{
		"Neg": Neg, "Abs": Abs, "Sqrt": Sqrt, "Rsqrt": Rsqrt, "Exp": Exp, "Log": Log, "Tanh": Tanh, "Erf": Erf, "Logistic": Logistic,
		"GELU": func(x *Node) *Node { return BackendFusedGelu(x, true) }, "GELU by tanh": func(x *Node) *Node { return BackendFusedGelu(x, false) },
		"softmax": func(x *Node) *Node { return BackendFusedSoftmax(x, x.Rank()-1) },
		"sum":     func(x *Node) *Node { return ReduceSum(x, -1) }, "sum of rows": func(x *Node) *Node { return ReduceSum(x, 0) },
	} {
		graphs[name] = func(in []*Node) []*Node { return []*Node{f(in[0]), f(Transpose(in[0], 0, 1))} }
		if name == "sum of rows" || name == "softmax" || name == "sum" {
			continue
		}
		// The first output has rows of equal numbers, which the loop reads as one number for each
		// row. The second output is one number for each row, which the loop computes.
		graphs[name+" of reduced rows"] = func(in []*Node) []*Node {
			return []*Node{Add(in[1], BroadcastToDims(f(ReduceAndKeep(in[0], ReduceMax, 1)), n, n)), f(ReduceMin(in[0], 1))}
		}
		graphs[name+" of one number"] = func(in []*Node) []*Node {
			return []*Node{Add(in[0], f(BroadcastToDims(in[2], n, n))), f(BroadcastToDims(in[2], n, n)), f(in[2])}
		}
	}
	for name, f := range map[string]func(x, y *Node) *Node{"Add": Add, "Sub": Sub, "Mul": Mul, "Div": Div, "Max": Max, "Min": Min} {
		graphs[name] = func(in []*Node) []*Node {
			x, y, row := in[0], in[1], in[2]
			return []*Node{f(x, y), f(y, x), f(x, row), f(row, x), f(x, Transpose(row, 0, 1)), f(row, row), f(f(x, row), f(row, Neg(row))),
				Mul(x, BroadcastToDims(f(ReduceAndKeep(x, ReduceMax, 1), ReduceAndKeep(y, ReduceMin, 1)), n, n)),
				Mul(x, BroadcastToDims(f(ReduceAndKeep(x, ReduceMin, 1), Const(x.Graph(), float32(1))), n, n)),
				Mul(Abs(x), BroadcastToDims(f(ReduceAndKeep(Abs(y), ReduceMin, 1), ReduceAndKeep(x, ReduceMax, 1)), n, n))}
		}
		for i, s := range v {
			graphs[fmt.Sprintf("%s %d: %g", name, i, s)] = func(in []*Node) []*Node {
				c := Const(in[0].Graph(), s)
				return []*Node{f(in[0], c), f(c, in[0])}
			}
		}
	}
	for name, f := range compare {
		graphs[name] = func(in []*Node) []*Node {
			x, y, row := in[0], in[1], in[2]
			var out []*Node
			for _, m := range []*Node{f(x, y), f(x, row), f(row, x), f(row, Neg(row)), f(x, ScalarZero(x.Graph(), dtypes.Float32)), f(ScalarZero(x.Graph(), dtypes.Float32), x)} {
				shape := m.Shape().Dimensions
				out = append(out, ConvertDType(m, dtypes.Float32),
					// the conversion goes through memory
					ConvertDType(ConvertDType(m, dtypes.Int32), dtypes.Float32),
					Where(m, BroadcastToDims(row, n, shape[1]), Slice(x, AxisRange(), AxisRange(0, shape[1]))))
			}
			// This is a comparison of one number for each row, which the loop computes.
			each := f(ReduceAndKeep(x, ReduceMax, 1), ReduceAndKeep(y, ReduceMin, 1))
			least := f(ReduceAndKeep(Abs(y), ReduceMin, 1), ReduceAndKeep(x, ReduceMin, 1))
			return append(out, Where(BroadcastToDims(each, n, n), y, Neg(x)), Where(BroadcastToDims(least, n, n), y, Neg(x)))
		}
	}
	graphs["Where"] = func(in []*Node) []*Node {
		x, y, row := in[0], in[1], in[2]
		m, one := GreaterThan(x, y), Const(x.Graph(), float32(math.NaN()))
		each := BroadcastToDims(LessThan(row, ScalarOne(x.Graph(), dtypes.Float32)), n, n)
		full := func(s *Node) *Node { return BroadcastToDims(s, n, n) }
		return []*Node{Where(m, x, y), Where(m, full(row), y), Where(m, x, full(row)), Where(m, full(one), full(row)), Where(m, full(one), x),
			Where(each, x, y), Where(each, full(row), y), Where(each, full(row), full(one)), Where(LessThan(row, one), row, Neg(row))}
	}
	graphs["layer norm"] = func(in []*Node) []*Node {
		// Rows around one number, small, NaN or infinite, and rows of equal numbers.
		g := BroadcastToDims(ScalarOne(in[0].Graph(), dtypes.Float32), n)
		c := func(v float64) *Node { return Const(in[0].Graph(), float32(v)) }
		around := Where(Equal(Abs(in[0]), c(math.MaxFloat32)), c(2), in[0])
		x := Add(around, Where(LessThan(Abs(in[1]), c(4)), in[1], c(1)))
		return []*Node{BackendFusedLayerNorm(x, []int{1}, 1e-6, g, nil), BackendFusedLayerNorm(in[2], []int{1}, 1e-6, nil, nil)}
	}
	graphs["product"] = func(in []*Node) []*Node {
		return []*Node{DotGeneral(in[0], []int{1}, nil, in[1], []int{0}, nil), Add(DotGeneral(in[1], []int{1}, nil, in[0], []int{1}, nil), in[0])}
	}
	for name, f := range map[string]func(x *Node, axes ...int) *Node{"ReduceMax": ReduceMax, "ReduceMin": ReduceMin, "ReduceSum": ReduceSum} {
		graphs[name] = func(in []*Node) []*Node { return []*Node{f(in[0], 1), f(in[1], 1), f(in[0], 0), f(in[0]), f(in[2])} }
	}
	for name, graph := range graphs {
		run := func(be compute.Backend) [][]float32 {
			return execute(t, compiled(t, be, graph, []int{n, n}, []int{n, n}, []int{n, 1}), []compute.Buffer{upload(t, be, a, n, n), upload(t, be, b, n, n), upload(t, be, v, n, 1)}, nil)
		}
		want := run(be.plain)
		for i, got := range run(be) {
			alike(t, fmt.Sprintf("%s, output %d", name, i), got, want[i])
		}
	}
}

// TestTables runs every operation of the tables of package vector on special numbers and compares
// the results with the Go backend of GoMLX. The operands are tensors, one number for each row, or
// one of each.
func TestTables(t *testing.T) {
	t.Parallel()
	be := newBackend(t)
	v := special()
	n := len(v)
	a, b := make([]float32, n*n), make([]float32, n*n)
	for i := range a {
		a[i], b[i] = v[i/n], v[i%n]
	}
	var ops []compute.OpType
	ops = slices.AppendSeq(ops, maps.Keys(vector.Unaries))
	ops = slices.AppendSeq(ops, maps.Keys(vector.Binaries))
	ops = slices.AppendSeq(ops, maps.Keys(vector.Comparisons))
	for _, op := range ops {
		build := func(f built, in []compute.Value) (out []compute.Value) {
			// apply calls the operation on its operands and converts truth values to numbers.
			apply := func(operands ...compute.Value) compute.Value {
				method := reflect.ValueOf(f.Function).MethodByName(op.String())
				var args []reflect.Value
				for _, o := range operands[:method.Type().NumIn()] {
					args = append(args, reflect.ValueOf(o))
				}
				results := method.Call(args)
				if err, _ := results[1].Interface().(error); err != nil {
					t.Fatalf("%s: %v", op, err)
				}
				return f.ok(f.ConvertDType(results[0].Interface().(compute.Value), dtypes.Float32))
			}
			spread := func(row compute.Value) compute.Value {
				return f.ok(f.BroadcastInDim(row, shapes.Make(dtypes.Float32, n, n), []int{0}))
			}
			x, y := in[0], in[1]
			top, bottom := f.ok(f.ReduceMax(x, 1)), f.ok(f.ReduceMin(y, 1))
			rows := apply(top, bottom)
			return []compute.Value{apply(x, y), rows, f.ok(f.Add(y, spread(rows))), apply(x, spread(bottom)), apply(spread(top), y)}
		}
		shape := shapes.Make(dtypes.Float32, n, n)
		run := func(be compute.Backend) []any {
			return results(t, be, assembled(t, be, build, shape, shape), float32s(a, n, n), float32s(b, n, n))
		}
		want := run(be.plain)
		for i, got := range run(be) {
			alike(t, fmt.Sprintf("%s, output %d", op, i), got.([]float32), want[i].([]float32))
		}
	}
}
