package cpu

import (
	"math"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend/cpu/internal/kernel/vector"
	"github.com/sptune/spt/backend/cpu/internal/workers"
)

// The operations that loops have instructions for, on rows and on single
// numbers.

type unary struct {
	v func(dst, x []float32)
	s func(x float32) float32
}

type binary struct {
	vv func(dst, a, b []float32)
	vs func(dst, a []float32, s float32)
	sv func(dst []float32, s float32, a []float32)
	ss func(a, b float32) float32
}

type comparison struct {
	vv      func(dst []bool, a, b []float32)
	vs      func(dst []bool, a []float32, s float32)
	swapped func(dst []bool, a []float32, s float32) // s OP a
	ss      func(a, b float32) bool
}

func through(f func(float64) float64) func(float32) float32 {
	return func(x float32) float32 { return float32(f(float64(x))) }
}

func gelu32(x float32) float32 {
	return float32(0.5 * float64(x) * (1 + math.Erf(float64(x)*math.Sqrt(0.5))))
}

func geluTanh32(x float32) float32 {
	v := float64(x)
	return float32(0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))))
}

var unaries = map[compute.OpType]unary{
	compute.OpTypeNeg:      {vector.Neg, func(x float32) float32 { return -x }},
	compute.OpTypeAbs:      {vector.Abs, through(math.Abs)},
	compute.OpTypeSqrt:     {vector.Sqrt, through(math.Sqrt)},
	compute.OpTypeRsqrt:    {vector.Rsqrt, through(func(x float64) float64 { return 1 / math.Sqrt(x) })},
	compute.OpTypeExp:      {vector.Exp, through(math.Exp)},
	compute.OpTypeLog:      {vector.Log, through(math.Log)},
	compute.OpTypeTanh:     {vector.Tanh, through(math.Tanh)},
	compute.OpTypeErf:      {vector.Erf, through(math.Erf)},
	compute.OpTypeLogistic: {vector.Logistic, through(func(x float64) float64 { return 1 / (1 + math.Exp(-x)) })},
	compute.OpTypeIdentity: {func(dst, x []float32) { copy(dst, x) }, func(x float32) float32 { return x }},
}

var binaries = map[compute.OpType]binary{
	compute.OpTypeAdd: {vector.Add, vector.AddScalar, func(d []float32, s float32, a []float32) { vector.AddScalar(d, a, s) }, func(a, b float32) float32 { return a + b }},
	compute.OpTypeSub: {vector.Sub, func(d, a []float32, s float32) { vector.AddScalar(d, a, -s) }, vector.SubFrom, func(a, b float32) float32 { return a - b }},
	compute.OpTypeMul: {vector.Mul, vector.MulScalar, func(d []float32, s float32, a []float32) { vector.MulScalar(d, a, s) }, func(a, b float32) float32 { return a * b }},
	compute.OpTypeDiv: {vector.Div, vector.DivScalar, vector.DivFrom, func(a, b float32) float32 { return a / b }},
	compute.OpTypeMax: {vector.Max, vector.MaxScalar, func(d []float32, s float32, a []float32) { vector.MaxScalar(d, a, s) }, func(a, b float32) float32 { return max(a, b) }},
	compute.OpTypeMin: {vector.Min, vector.MinScalar, func(d []float32, s float32, a []float32) { vector.MinScalar(d, a, s) }, func(a, b float32) float32 { return min(a, b) }},
}

var comparisons = map[compute.OpType]comparison{
	compute.OpTypeLessThan:       {vector.Less, vector.LessScalar, vector.GreaterScalar, func(a, b float32) bool { return a < b }},
	compute.OpTypeLessOrEqual:    {vector.LessEqual, vector.LessEqualScalar, vector.GreaterEqualScalar, func(a, b float32) bool { return a <= b }},
	compute.OpTypeGreaterThan:    {vector.Greater, vector.GreaterScalar, vector.LessScalar, func(a, b float32) bool { return a > b }},
	compute.OpTypeGreaterOrEqual: {vector.GreaterEqual, vector.GreaterEqualScalar, vector.LessEqualScalar, func(a, b float32) bool { return a >= b }},
	compute.OpTypeEqual:          {vector.Equal, vector.EqualScalar, vector.EqualScalar, func(a, b float32) bool { return a == b }},
	compute.OpTypeNotEqual:       {vector.NotEqual, vector.NotEqualScalar, vector.NotEqualScalar, func(a, b float32) bool { return a != b }},
}

var reductions = map[compute.OpType]func(x []float32) float32{
	compute.OpTypeReduceSum: vector.Sum,
	compute.OpTypeReduceMax: vector.MaxOf,
	compute.OpTypeReduceMin: vector.MinOf,
}

// conversions to float32. src has as many elements as dst.
var conversions = map[dtypes.DType]func(dst []float32, src unsafe.Pointer){
	dtypes.Float32: func(dst []float32, src unsafe.Pointer) { copy(dst, unsafe.Slice((*float32)(src), len(dst))) },
	dtypes.Bool:    func(dst []float32, src unsafe.Pointer) { vector.FromBool(dst, unsafe.Slice((*bool)(src), len(dst))) },
	dtypes.Float16: func(dst []float32, src unsafe.Pointer) {
		vector.FromFloat16(dst, unsafe.Slice((*uint16)(src), len(dst)))
	},
	dtypes.BFloat16: func(dst []float32, src unsafe.Pointer) {
		vector.FromBFloat16(dst, unsafe.Slice((*uint16)(src), len(dst)))
	},
	dtypes.Uint8: func(dst []float32, src unsafe.Pointer) { vector.FromUint8(dst, unsafe.Slice((*uint8)(src), len(dst))) },
	dtypes.Int32: func(dst []float32, src unsafe.Pointer) { vector.FromInt32(dst, unsafe.Slice((*int32)(src), len(dst))) },
	dtypes.Uint32: func(dst []float32, src unsafe.Pointer) {
		vector.FromUint32(dst, unsafe.Slice((*uint32)(src), len(dst)))
	},
}

// randomBits writes the bits at positions e0, e0+1, … of the stream that state
// names: Philox 4×32-10 with the first word as key and the other two, plus the
// number of the block of four, as counter.
func randomBits(dst []uint32, state []uint64, e0 int, scratch *workers.Scratch) {
	key, counter := philox(state, e0)
	skip := e0 % 4
	if skip == 0 && len(dst)%4 == 0 {
		vector.Philox(dst, key, counter)
		return
	}
	mark := scratch.Mark()
	f := scratch.Float32s((skip + len(dst) + 3) &^ 3)
	bits := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(f))), len(f))
	vector.Philox(bits, key, counter)
	copy(dst, bits[skip:])
	scratch.Release(mark)
}

// philox is the key and the counter of the block with word e0 of a stream.
func philox(state []uint64, e0 int) (key [2]uint32, counter [4]uint32) {
	lo := state[1] + uint64(e0/4)
	return [2]uint32{uint32(state[0]), uint32(state[0] >> 32)}, [4]uint32{uint32(lo), uint32(lo >> 32), uint32(state[2]), uint32(state[2] >> 32)}
}

// drop multiplies x with the mask of the words from e0 on.
func drop(dst, x []float32, d dropout, state []uint64, e0 int, scratch *workers.Scratch) {
	if e0%4 == 0 {
		key, counter := philox(state, e0)
		vector.Dropout(dst, x, d.scale, d.threshold, key, counter)
		return
	}
	mark := scratch.Mark()
	f := scratch.Float32s(len(dst))
	bits := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(f))), len(f))
	randomBits(bits, state, e0, scratch)
	for i, b := range bits {
		m := float32(0)
		if b >= d.threshold {
			m = d.scale
		}
		dst[i] = x[i] * m
	}
	scratch.Release(mark)
}

// nextState is the state after n words were taken.
func nextState(dst, state []uint64, n int) {
	dst[0], dst[1], dst[2] = state[0], state[1]+uint64(n+3)/4, state[2]
	if dst[1] < state[1] {
		dst[2]++
	}
}
