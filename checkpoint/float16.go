package checkpoint

import "math"

// The readers widen half-precision numbers with the float16 and bfloat16 packages of GoMLX. The
// conversions in this file narrow them. GoMLX's conversions from float32 do not round to the
// nearest value, and they turn some NaNs into infinities.

// ToFloat16 rounds f to the nearest IEEE 754 binary16, ties to even. As in PyTorch, numbers from
// 65520 upwards become Inf, and their negatives become -Inf. NaN stays NaN.
func ToFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= 0x477ff000: // 65520, the middle between the largest binary16 and 2^16
		return sign | 0x7c00
	case b < 0x38800000:
		// Below 2^-14. Adding 0.5 rounds to a multiple of 2^-24, the smallest binary16.
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	default:
		b += 0xfff + b>>13&1
		return sign | uint16((b-112<<23)>>13)
	}
}

// toBFloat16 rounds f to the nearest bfloat16, ties to even. NaN stays NaN.
func toBFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		// Set a payload bit, because the bits that are dropped may be the only ones of the payload.
		// Without it the result would be Inf.
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
