package cpu

import (
	"math"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// The kernels of most element-wise operations are in the tables of package vector. This file adds
// the kernels that these tables do not contain.

// gelu32 returns the exact GELU of one number.
func gelu32(x float32) float32 {
	return float32(0.5 * float64(x) * (1 + math.Erf(float64(x)*math.Sqrt(0.5))))
}

// geluTanh32 returns the tanh approximation of GELU of one number.
func geluTanh32(x float32) float32 {
	v := float64(x)
	return float32(0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))))
}

// reduction reduces slices to numbers.
type reduction struct {
	fold  func(x []float32) float32 // reduces one slice
	merge vector.Binary             // merges the results of two slices
}

// reductions holds the kernels of the supported reductions.
var reductions = map[compute.OpType]reduction{
	compute.OpTypeReduceSum: {vector.Sum, vector.Binaries[compute.OpTypeAdd]},
	compute.OpTypeReduceMax: {vector.MaxOf, vector.Binaries[compute.OpTypeMax]},
	compute.OpTypeReduceMin: {vector.MinOf, vector.Binaries[compute.OpTypeMin]},
}

// conversions holds the kernels that convert elements to float32. The memory src has the same
// number of elements as dst.
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

// randomBits writes the 32-bit words at the positions e0, e0+1, … of the random stream of state to
// dst. The generator is Philox 4×32-10. Its key is the first word of state. Its counter is the
// second and third word of state plus the index of the block of four 32-bit words.
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

// philox returns the key and the counter of the block that contains the 32-bit word e0 of the
// random stream of state.
func philox(state []uint64, e0 int) (key [2]uint32, counter [4]uint32) {
	lo := state[1] + uint64(e0/4)
	return [2]uint32{uint32(state[0]), uint32(state[0] >> 32)}, [4]uint32{uint32(lo), uint32(lo >> 32), uint32(state[2]), uint32(state[2] >> 32)}
}

// drop multiplies x by the dropout mask and writes the product to dst. The mask comes from the
// 32-bit words of the random stream of state, starting at word e0.
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

// nextState sets dst to the state of the generator after n 32-bit words were drawn.
func nextState(dst, state []uint64, n int) {
	dst[0], dst[1], dst[2] = state[0], state[1]+uint64(n+3)/4, state[2]
	if dst[1] < state[1] {
		dst[2]++
	}
}
