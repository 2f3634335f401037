package vector

import (
	"math"
	"unsafe"
)

// FromFloat16 converts IEEE 754 half precision, given as bits; exact.
func FromFloat16(dst []float32, src []uint16) {
	src = src[:len(dst)]
	done := 0
	switch level {
	case avx512:
		fromFloat16AVX512(dst, src)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		fromFloat16AVX2(dst, src)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = fromFloat16(src[i])
	}
}

// ToFloat16 converts to the bits of IEEE 754 half precision, rounding to
// nearest, ties to even. From 65520 the result is infinite; a NaN stays a
// NaN.
func ToFloat16(dst []uint16, src []float32) {
	src = src[:len(dst)]
	done := 0
	switch level {
	case avx512:
		toFloat16AVX512(dst, src)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		toFloat16AVX2(dst, src)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = toFloat16(src[i])
	}
}

// FromBFloat16 converts bfloat16, given as bits; exact.
func FromBFloat16(dst []float32, src []uint16) {
	src = src[:len(dst)]
	done := 0
	switch level {
	case avx512:
		fromBFloat16AVX512(dst, src)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		fromBFloat16AVX2(dst, src)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = math.Float32frombits(uint32(src[i]) << 16)
	}
}

// ToBFloat16 converts to the bits of bfloat16, rounding to nearest, ties to
// even. A NaN stays a NaN.
func ToBFloat16(dst []uint16, src []float32) {
	src = src[:len(dst)]
	done := 0
	switch level {
	case avx512:
		toBFloat16AVX512(dst, src)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		toBFloat16AVX2(dst, src)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = toBFloat16(src[i])
	}
}

// FromUint8 converts bytes; exact.
func FromUint8(dst []float32, src []uint8) {
	src = src[:len(dst)]
	done := 0
	switch level {
	case avx512:
		fromUint8AVX512(dst, src)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		fromUint8AVX2(dst, src)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = float32(src[i])
	}
}

// FromInt32 converts integers, rounding to nearest, ties to even.
func FromInt32(dst []float32, src []int32) {
	src = src[:len(dst)]
	switch level {
	case avx512:
		fromInt32AVX512(dst, src)
	case avx2:
		fromInt32AVX2(dst, src)
	default:
		for i := range dst {
			dst[i] = float32(src[i])
		}
	}
}

// FromUint32 converts integers, rounding to nearest, ties to even.
func FromUint32(dst []float32, src []uint32) {
	src = src[:len(dst)]
	switch level {
	case avx512:
		fromUint32AVX512(dst, src)
	case avx2:
		fromUint32AVX2(dst, src)
	default:
		for i := range dst {
			dst[i] = float32(src[i])
		}
	}
}

// FromBool converts false to 0 and true to 1.
func FromBool(dst []float32, src []bool) {
	FromUint8(dst, unsafe.Slice((*uint8)(unsafe.Pointer(unsafe.SliceData(src))), len(src)))
}

// UnitFromBits sets dst[i] = (bits[i]>>8)·2^-24: uniform random bits become
// uniform numbers in [0, 1).
func UnitFromBits(dst []float32, bits []uint32) {
	bits = bits[:len(dst)]
	switch level {
	case avx512:
		unitFromBitsAVX512(dst, bits)
	case avx2:
		unitFromBitsAVX2(dst, bits)
	default:
		for i, v := range bits {
			dst[i] = float32(v>>8) * 0x1p-24
		}
	}
}

// fromFloat16 is [FromFloat16] of one number.
func fromFloat16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent, mantissa := uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exponent {
	case 0: // zero or subnormal: mantissa·2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(mantissa)*0x1p-24))
	case 0x1f:
		if mantissa != 0 {
			mantissa |= 0x200 // quiet NaN
		}
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | mantissa<<13)
}

// toFloat16 is [ToFloat16] of one number.
func toFloat16(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits>>16) & 0x8000
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(bits>>13)&0x1ff
	case bits >= 0x47800000: // from 2^16
		return sign | 0x7c00
	case bits < 0x38800000: // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)&0xffff)
	}
	bits += 0xfff + bits>>13&1
	return sign | uint16((bits-112<<23)>>13)
}

// toBFloat16 is [ToBFloat16] of one number.
func toBFloat16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
