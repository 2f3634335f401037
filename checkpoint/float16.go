package checkpoint

import "math"

// fromFloat16 widens an IEEE 754 binary16: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits. Every value is exact.
func fromFloat16(h uint16) float32 {
	sign, rest := uint32(h&0x8000)<<16, uint32(h&0x7fff)
	switch {
	case rest >= 0x7c00: // Inf and NaN, payload kept
		return math.Float32frombits(sign | 0x7f800000 | (rest&0x3ff)<<13)
	case rest >= 0x0400: // normal: the exponent bias grows from 15 to 127
		return math.Float32frombits(sign | (rest<<13 + 112<<23))
	default: // zero and subnormals, in units of 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(rest)*0x1p-24))
	}
}

// toFloat16 rounds to nearest even. From 65520 upwards the nearest is Inf, as in IEEE 754 and PyTorch; NaN stays NaN.
func toFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= 0x477ff000: // 65520, half way from the largest binary16 to 2^16
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14. One unit in the last place of [0.5, 1) is 2^-24, so the sum does the rounding.
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	default:
		b += 0xfff + b>>13&1
		return sign | uint16((b-112<<23)>>13)
	}
}

// fromBFloat16 widens the upper half of a float32. Every value is exact.
func fromBFloat16(h uint16) float32 {
	return math.Float32frombits(uint32(h) << 16)
}

// toBFloat16 rounds to nearest even; NaN stays NaN.
func toBFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40 // the payload may sit in the lower half only, which would leave Inf
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
