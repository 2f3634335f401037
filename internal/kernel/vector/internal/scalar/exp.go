package scalar

import "math"

// powers holds 2^(i/32) for i < 32. The bits of entry i are reduced by i·2^47, so adding n·2^47 for
// any integer n with n mod 32 = i gives the bits of 2^(n/32).
var powers [32]uint64

func init() {
	for i := range powers {
		powers[i] = math.Float64bits(math.Exp2(float64(i)/32)) - uint64(i)<<47
	}
}

// exp returns e^x for -700 <= x <= 700. With n = round(32·x/ln 2), it computes 2^(n/32) · e^u for
// the rest u, |u| <= ln(2)/64. Its relative error is 2^-30, because e^u is a sum of four terms. A
// float64 needs neither a second constant for ln 2 nor a special case for subnormal results.
func exp(x float64) float64 {
	const (
		ln     = math.Ln2 / 32
		second = ln * ln / 2
		third  = ln * ln * ln / 6
		shift  = 0x1.8p52 // the sum with shift is rounded to an integer
	)
	t := x * (1 / ln)
	k := t + shift
	r := t - (k - shift)
	n := math.Float64bits(k)
	return math.Float64frombits(powers[n%32]+n<<47) * ((1 + ln*r) + r*r*(second+third*r))
}
