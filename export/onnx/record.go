package onnx

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/notimplemented"
	"github.com/gomlx/compute/shapes"
)

// Recorder is a backend that records the programs that run on it. It also computes them, on another
// backend. Run the same program twice on it, with [Batches] images, and call [Recorder.Translate].
// A Recorder cannot be used by several goroutines at the same time.
type Recorder struct {
	compute.Backend
	programs []*program
}

// Batches holds the numbers of images with which a program runs on a [Recorder]. A size that
// differs between the two runs depends on the number of images.
var Batches = [2]int{2, 3}

// NewRecorder returns a Recorder that computes on be.
func NewRecorder(be compute.Backend) *Recorder { return &Recorder{Backend: be} }

// Capabilities returns the capabilities of the backend without fused attention, for which opset 20
// has no operator.
func (r *Recorder) Capabilities() compute.Capabilities {
	c := r.Backend.Capabilities().Clone()
	maps.DeleteFunc(c.Operations, func(op compute.OpType, _ bool) bool {
		return op == compute.OpTypeFusedScaledDotProductAttention || op == compute.OpTypeFusedScaledDotProductAttentionVJP
	})
	return c
}

// Builder returns a builder that records a program.
func (r *Recorder) Builder(name string) compute.Builder {
	b := &builder{Builder: r.Backend.Builder(name), recorder: r}
	b.main = &function{program: new(program), builder: b, inner: b.Builder.Main()}
	b.main.ErrFn = func(op compute.OpType) error {
		return fmt.Errorf("the operation %s has no translation to ONNX: %w", op, compute.ErrNotImplemented)
	}
	return b
}

// program is a recorded program.
type program struct {
	ops     []*op // in the order in which they can be computed
	params  []*op
	outputs []*op
	// constants holds the values of operations that depend neither on images nor on their number.
	constants map[*op]*Tensor
}

// op is a recorded operation with one result. GoMLX holds it as compute.Value.
type op struct {
	kind  compute.OpType
	in    []*op // nil: an absent optional operand
	attrs any   // the other arguments
	shape shapes.Shape
	inner compute.Value // the same result in the other backend
	id    int           // position in program.ops
}

// builder implements compute.Builder.
type builder struct {
	compute.Builder
	recorder *Recorder
	main     *function
}

func (b *builder) Main() compute.Function { return b.main }

func (b *builder) NewFunction(name string) (compute.Function, error) {
	return nil, fmt.Errorf("the function %q has no translation to ONNX; compute without functions and loops", name)
}

func (b *builder) OpShape(v compute.Value) (shapes.Shape, error) { return b.main.Shape(v) }

// Compile compiles the program on the other backend. The second program also returns the results
// that become constants of the model.
func (b *builder) Compile() (compute.Executable, error) {
	p, r := b.main.program, b.recorder
	var constants []*op
	if len(r.programs) > 0 {
		f, err := newFlow(r.programs[0], p)
		if err != nil {
			return nil, err
		}
		constants = f.stored()
	}
	var inner []compute.Value
	var computed []*op
	for _, o := range p.outputs {
		inner = append(inner, o.inner)
	}
	for _, o := range constants {
		if o.kind != compute.OpTypeParameter && o.kind != compute.OpTypeConstant {
			inner, computed = append(inner, o.inner), append(computed, o)
		}
	}
	if err := b.main.inner.Return(inner, nil); err != nil {
		return nil, err
	}
	exec, err := b.Builder.Compile()
	if err != nil {
		return nil, err
	}
	r.programs = append(r.programs, p)
	return &executable{exec, p, constants, computed}, nil
}

// executable runs a program and collects its constants.
type executable struct {
	compute.Executable
	program             *program
	constants, computed []*op
}

func (e *executable) Outputs() []shapes.Shape {
	return e.Executable.Outputs()[:len(e.program.outputs)]
}

func (e *executable) Execute(inputs []compute.Buffer, donate []bool, device compute.DeviceNum) ([]compute.Buffer, error) {
	values := map[*op]*Tensor{}
	for _, o := range e.constants {
		switch o.kind {
		case compute.OpTypeParameter:
			t, err := download(o.shape, inputs[slices.Index(e.program.params, o)])
			if err != nil {
				return nil, err
			}
			values[o] = t
		case compute.OpTypeConstant:
			values[o] = &Tensor{Dims: o.shape.Dimensions, Data: o.attrs}
		}
	}
	out, err := e.Executable.Execute(inputs, donate, device)
	if err != nil {
		return nil, err
	}
	n := len(e.program.outputs)
	for i, o := range e.computed {
		t, err := download(o.shape, out[n+i])
		if err = errors.Join(err, out[n+i].Finalize()); err != nil {
			return nil, err
		}
		values[o] = t
	}
	e.program.constants = values
	return out[:n], nil
}

// download returns the values of a buffer.
func download(shape shapes.Shape, b compute.Buffer) (*Tensor, error) {
	t := &Tensor{Dims: slices.Clone(shape.Dimensions)}
	var err error
	read := func(flat any) { t.Data, err = flat, b.ToFlatData(flat) }
	switch n := shape.Size(); shape.DType {
	case dtypes.Float32:
		read(make([]float32, n))
	case dtypes.Int32:
		read(make([]int32, n))
	case dtypes.Int64:
		read(make([]int64, n))
	case dtypes.Uint8:
		read(make([]uint8, n))
	case dtypes.Bool:
		read(make([]bool, n))
	default:
		_, err = dataType(shape.DType)
	}
	return t, err
}

// function implements compute.Function. Operations that it does not override return an error that
// names the operation.
type function struct {
	notimplemented.Function
	*program
	builder *builder
	inner   compute.Function
}

func (f *function) Builder() compute.Builder { return f.builder }

func (f *function) Shape(v compute.Value) (shapes.Shape, error) {
	o, ok := v.(*op)
	if !ok {
		return shapes.Invalid(), fmt.Errorf("a value of type %T was not recorded", v)
	}
	return o.shape, nil
}

func (f *function) Closure() (compute.Function, error) {
	return nil, errors.New("a closure has no translation to ONNX; compute without branches and loops")
}

// Return marks the outputs of the program.
func (f *function) Return(outputs []compute.Value, _ []*compute.ShardingSpec) error {
	for _, v := range outputs {
		f.outputs = append(f.outputs, v.(*op))
	}
	return nil
}

func (f *function) Parameter(name string, shape shapes.Shape, sharding *compute.ShardingSpec) (compute.Value, error) {
	v, err := f.record(compute.OpTypeParameter, nil, func([]compute.Value) (compute.Value, error) { return f.inner.Parameter(name, shape, sharding) })
	if err == nil {
		f.params = append(f.params, v.(*op))
	}
	return v, err
}

func (f *function) Constant(flat any, dims ...int) (compute.Value, error) {
	return f.record(compute.OpTypeConstant, flat, func([]compute.Value) (compute.Value, error) { return f.inner.Constant(flat, dims...) })
}

// record records an operation. emit builds it on the other backend. An operand may be nil.
func (f *function) record(kind compute.OpType, attrs any, emit func(in []compute.Value) (compute.Value, error), operands ...compute.Value) (compute.Value, error) {
	o := &op{kind: kind, attrs: attrs, id: len(f.ops)}
	inner := make([]compute.Value, len(operands))
	for i, v := range operands {
		if v == nil {
			o.in = append(o.in, nil)
			continue
		}
		in, ok := v.(*op)
		if !ok {
			return nil, fmt.Errorf("recording %s: operand %d has type %T, expected a recorded value", kind, i, v)
		}
		o.in, inner[i] = append(o.in, in), in.inner
	}
	var err error
	if o.inner, err = emit(inner); err != nil {
		return nil, err
	}
	if o.shape, err = f.inner.Shape(o.inner); err != nil {
		return nil, err
	}
	f.ops = append(f.ops, o)
	return o, nil
}

func (f *function) unary(kind compute.OpType, emit func(x compute.Value) (compute.Value, error), x compute.Value) (compute.Value, error) {
	return f.record(kind, nil, func(in []compute.Value) (compute.Value, error) { return emit(in[0]) }, x)
}

func (f *function) binary(kind compute.OpType, emit func(x, y compute.Value) (compute.Value, error), x, y compute.Value) (compute.Value, error) {
	return f.record(kind, nil, func(in []compute.Value) (compute.Value, error) { return emit(in[0], in[1]) }, x, y)
}

func (f *function) reduce(kind compute.OpType, emit func(x compute.Value, axes ...int) (compute.Value, error), x compute.Value, axes []int) (compute.Value, error) {
	return f.record(kind, slices.Clone(axes), func(in []compute.Value) (compute.Value, error) { return emit(in[0], axes...) }, x)
}

func (f *function) Abs(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeAbs, f.inner.Abs, x)
}

func (f *function) Ceil(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeCeil, f.inner.Ceil, x)
}

func (f *function) Cos(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeCos, f.inner.Cos, x)
}

func (f *function) Erf(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeErf, f.inner.Erf, x)
}

func (f *function) Exp(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeExp, f.inner.Exp, x)
}

func (f *function) Expm1(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeExpm1, f.inner.Expm1, x)
}

func (f *function) Floor(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeFloor, f.inner.Floor, x)
}

func (f *function) IsFinite(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeIsFinite, f.inner.IsFinite, x)
}

func (f *function) IsNaN(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeIsNaN, f.inner.IsNaN, x)
}

func (f *function) Log(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeLog, f.inner.Log, x)
}

func (f *function) Log1p(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeLog1p, f.inner.Log1p, x)
}

func (f *function) LogicalNot(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeLogicalNot, f.inner.LogicalNot, x)
}

func (f *function) Logistic(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeLogistic, f.inner.Logistic, x)
}

func (f *function) Neg(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeNeg, f.inner.Neg, x)
}

func (f *function) Round(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeRound, f.inner.Round, x)
}

func (f *function) Rsqrt(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeRsqrt, f.inner.Rsqrt, x)
}

func (f *function) Sign(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeSign, f.inner.Sign, x)
}

func (f *function) Sin(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeSin, f.inner.Sin, x)
}

func (f *function) Sqrt(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeSqrt, f.inner.Sqrt, x)
}

func (f *function) Tanh(x compute.Value) (compute.Value, error) {
	return f.unary(compute.OpTypeTanh, f.inner.Tanh, x)
}

func (f *function) Add(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeAdd, f.inner.Add, x, y)
}

func (f *function) Atan2(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeAtan2, f.inner.Atan2, x, y)
}

func (f *function) Div(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeDiv, f.inner.Div, x, y)
}

func (f *function) Equal(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeEqual, f.inner.Equal, x, y)
}

func (f *function) GreaterOrEqual(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeGreaterOrEqual, f.inner.GreaterOrEqual, x, y)
}

func (f *function) GreaterThan(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeGreaterThan, f.inner.GreaterThan, x, y)
}

func (f *function) LessOrEqual(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeLessOrEqual, f.inner.LessOrEqual, x, y)
}

func (f *function) LessThan(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeLessThan, f.inner.LessThan, x, y)
}

func (f *function) LogicalAnd(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeLogicalAnd, f.inner.LogicalAnd, x, y)
}

func (f *function) LogicalOr(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeLogicalOr, f.inner.LogicalOr, x, y)
}

func (f *function) LogicalXor(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeLogicalXor, f.inner.LogicalXor, x, y)
}

func (f *function) Max(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeMax, f.inner.Max, x, y)
}

func (f *function) Min(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeMin, f.inner.Min, x, y)
}

func (f *function) Mul(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeMul, f.inner.Mul, x, y)
}

func (f *function) NotEqual(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeNotEqual, f.inner.NotEqual, x, y)
}

func (f *function) Pow(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypePow, f.inner.Pow, x, y)
}

func (f *function) Rem(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeRem, f.inner.Rem, x, y)
}

func (f *function) Sub(x, y compute.Value) (compute.Value, error) {
	return f.binary(compute.OpTypeSub, f.inner.Sub, x, y)
}

func (f *function) ReduceMax(x compute.Value, axes ...int) (compute.Value, error) {
	return f.reduce(compute.OpTypeReduceMax, f.inner.ReduceMax, x, axes)
}

func (f *function) ReduceMin(x compute.Value, axes ...int) (compute.Value, error) {
	return f.reduce(compute.OpTypeReduceMin, f.inner.ReduceMin, x, axes)
}

func (f *function) ReduceProduct(x compute.Value, axes ...int) (compute.Value, error) {
	return f.reduce(compute.OpTypeReduceProduct, f.inner.ReduceProduct, x, axes)
}

func (f *function) ReduceSum(x compute.Value, axes ...int) (compute.Value, error) {
	return f.reduce(compute.OpTypeReduceSum, f.inner.ReduceSum, x, axes)
}

// Identity and the barriers have no effect on the values.

func (f *function) Identity(x compute.Value) (compute.Value, error) { return x, nil }

func (f *function) OptimizationBarrier(in ...compute.Value) ([]compute.Value, error) { return in, nil }

func (f *function) SchedulingBarrier(x compute.Value, _ ...compute.Value) (compute.Value, error) {
	return x, nil
}

func (f *function) ConvertDType(x compute.Value, dtype dtypes.DType) (compute.Value, error) {
	return f.record(compute.OpTypeConvertDType, nil, func(in []compute.Value) (compute.Value, error) { return f.inner.ConvertDType(in[0], dtype) }, x)
}

func (f *function) Where(condition, yes, no compute.Value) (compute.Value, error) {
	return f.record(compute.OpTypeWhere, nil, func(in []compute.Value) (compute.Value, error) { return f.inner.Where(in[0], in[1], in[2]) }, condition, yes, no)
}

func (f *function) Clamp(low, x, high compute.Value) (compute.Value, error) {
	return f.record(compute.OpTypeClamp, nil, func(in []compute.Value) (compute.Value, error) { return f.inner.Clamp(in[0], in[1], in[2]) }, low, x, high)
}

func (f *function) Reshape(x compute.Value, dims ...int) (compute.Value, error) {
	return f.record(compute.OpTypeReshape, nil, func(in []compute.Value) (compute.Value, error) { return f.inner.Reshape(in[0], dims...) }, x)
}

func (f *function) Transpose(x compute.Value, permutation ...int) (compute.Value, error) {
	return f.record(compute.OpTypeTranspose, slices.Clone(permutation), func(in []compute.Value) (compute.Value, error) { return f.inner.Transpose(in[0], permutation...) }, x)
}

func (f *function) BroadcastInDim(x compute.Value, shape shapes.Shape, axes []int) (compute.Value, error) {
	return f.record(compute.OpTypeBroadcastInDim, slices.Clone(axes), func(in []compute.Value) (compute.Value, error) { return f.inner.BroadcastInDim(in[0], shape, axes) }, x)
}

func (f *function) Concatenate(axis int, in ...compute.Value) (compute.Value, error) {
	return f.record(compute.OpTypeConcatenate, axis, func(in []compute.Value) (compute.Value, error) { return f.inner.Concatenate(axis, in...) }, in...)
}

// slice holds the arguments of Slice.
type slice struct{ starts, limits, strides []int }

func (f *function) Slice(x compute.Value, starts, limits, strides []int) (compute.Value, error) {
	a := slice{slices.Clone(starts), slices.Clone(limits), slices.Clone(strides)}
	return f.record(compute.OpTypeSlice, a, func(in []compute.Value) (compute.Value, error) { return f.inner.Slice(in[0], starts, limits, strides) }, x)
}

func (f *function) Pad(x, fill compute.Value, axes ...compute.PadAxis) (compute.Value, error) {
	return f.record(compute.OpTypePad, slices.Clone(axes), func(in []compute.Value) (compute.Value, error) { return f.inner.Pad(in[0], in[1], axes...) }, x, fill)
}

func (f *function) Reverse(x compute.Value, axes ...int) (compute.Value, error) {
	return f.record(compute.OpTypeReverse, slices.Clone(axes), func(in []compute.Value) (compute.Value, error) { return f.inner.Reverse(in[0], axes...) }, x)
}

func (f *function) Iota(shape shapes.Shape, axis int) (compute.Value, error) {
	return f.record(compute.OpTypeIota, nil, func([]compute.Value) (compute.Value, error) { return f.inner.Iota(shape, axis) })
}

func (f *function) Gather(x, at compute.Value, vectorAxis int, offsetAxes, collapsedAxes, startMap, sizes []int, sorted bool) (compute.Value, error) {
	return f.record(compute.OpTypeGather, nil, func(in []compute.Value) (compute.Value, error) {
		return f.inner.Gather(in[0], in[1], vectorAxis, offsetAxes, collapsedAxes, startMap, sizes, sorted)
	}, x, at)
}

func (f *function) ScatterSum(x, at, updates compute.Value, vectorAxis int, windowAxes, insertedAxes, scatterAxes []int, sorted, unique bool) (compute.Value, error) {
	return f.record(compute.OpTypeScatterSum, nil, func(in []compute.Value) (compute.Value, error) {
		return f.inner.ScatterSum(in[0], in[1], in[2], vectorAxis, windowAxes, insertedAxes, scatterAxes, sorted, unique)
	}, x, at, updates)
}

// dot holds the axes of DotGeneral: contracted axes and batch axes of the left and the right
// operand.
type dot struct{ left, leftBatch, right, rightBatch []int }

func (f *function) DotGeneral(x compute.Value, left, leftBatch []int, y compute.Value, right, rightBatch []int, config compute.DotGeneralConfig) (compute.Value, error) {
	a := dot{slices.Clone(left), slices.Clone(leftBatch), slices.Clone(right), slices.Clone(rightBatch)}
	return f.record(compute.OpTypeDotGeneral, a, func(in []compute.Value) (compute.Value, error) {
		return f.inner.DotGeneral(in[0], left, leftBatch, in[1], right, rightBatch, config)
	}, x, y)
}

// convolution holds the arguments of ConvGeneral.
type convolution struct {
	axes                            compute.ConvolveAxesConfig
	strides                         []int
	paddings                        [][2]int
	inputDilations, kernelDilations []int
	groups, batchGroups             int
}

func (f *function) ConvGeneral(x, kernel compute.Value, axes compute.ConvolveAxesConfig, strides []int, paddings [][2]int, inputDilations, kernelDilations []int, groups, batchGroups int) (compute.Value, error) {
	a := convolution{axes.Clone(), slices.Clone(strides), slices.Clone(paddings), slices.Clone(inputDilations), slices.Clone(kernelDilations), groups, batchGroups}
	return f.record(compute.OpTypeConvGeneral, a, func(in []compute.Value) (compute.Value, error) {
		return f.inner.ConvGeneral(in[0], in[1], axes, strides, paddings, inputDilations, kernelDilations, groups, batchGroups)
	}, x, kernel)
}

func (f *function) FusedSoftmax(x compute.Value, axis int) (compute.Value, error) {
	return f.record(compute.OpTypeFusedSoftmax, axis, func(in []compute.Value) (compute.Value, error) { return f.inner.FusedSoftmax(in[0], axis) }, x)
}

func (f *function) FusedGelu(x compute.Value, exact bool) (compute.Value, error) {
	return f.record(compute.OpTypeFusedGelu, exact, func(in []compute.Value) (compute.Value, error) { return f.inner.FusedGelu(in[0], exact) }, x)
}

func (f *function) FusedLayerNorm(x compute.Value, axes []int, epsilon float64, gamma, beta compute.Value) (compute.Value, error) {
	for i, axis := range axes {
		// LayerNormalization normalises the last axes. GoMLX decomposes a norm over other axes.
		if o, ok := x.(*op); !ok || gamma == nil || axis != o.shape.Rank()-len(axes)+i {
			return f.Function.FusedLayerNorm(x, axes, epsilon, gamma, beta)
		}
	}
	return f.record(compute.OpTypeFusedLayerNorm, norm{len(axes), epsilon}, func(in []compute.Value) (compute.Value, error) {
		return f.inner.FusedLayerNorm(in[0], axes, epsilon, in[1], in[2])
	}, x, gamma, beta)
}

// norm holds the arguments of a layer norm: the number of axes, counted from the last, and the
// number that is added to the variance.
type norm struct {
	axes    int
	epsilon float64
}
