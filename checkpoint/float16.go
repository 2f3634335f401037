package checkpoint

import "math"

// GoMLX's dtypes widen half-precision numbers as this package needs it. Their conversions from
// float32 do not round to the nearest float16 and make infinities of some NaNs, so these two stand
// here.

// toFloat16 rounds f to the nearest IEEE 754 binary16, ties to even. Numbers from 65520 upwards
// become Inf, as in PyTorch. NaN stays NaN.
func toFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= 0x477ff000: // 65520, half way from the largest binary16 to 2^16
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14. The last place of [0.5, 1) is 2^-24, so the sum rounds.
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
		// the payload may lie in the lower half only, which would leave Inf
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
