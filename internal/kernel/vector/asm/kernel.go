package main

import (
	"strings"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

type (
	vec  = reg.VecVirtual
	mask = reg.Register // an opmask register, or at AVX2 a vector of full lanes
)

// kernel is one function in the making, for one instruction set. Its methods
// emit the same arithmetic for both sets, so both give the same bits.
type kernel struct {
	wide  bool // AVX-512
	lanes int  // float32s in a register
	tail  mask // lanes of a partial vector; nil while vectors are whole
	nan   mask // lanes in which a reduction met a NaN
}

// begin starts the function name for both instruction sets in turn and lets
// body write it.
func begin(name, signature string, body func(k *kernel)) {
	for _, k := range []*kernel{{wide: true, lanes: 16}, {lanes: 8}} {
		suffix := "AVX2"
		if k.wide {
			suffix = "AVX512"
		}
		TEXT(name+suffix, attr.NOSPLIT, "func"+signature)
		Pragma("noescape")
		body(k)
		VZEROUPPER()
		RET()
	}
}

func (k *kernel) reg() vec {
	if k.wide {
		return ZMM()
	}
	return YMM()
}

func (k *kernel) zero() vec {
	r := k.reg()
	VXORPS(r, r, r)
	return r
}

// half is the register of half the width in which x has 16-bit elements.
func (k *kernel) half(x vec) reg.Register {
	if k.wide {
		return x.AsY()
	}
	return x.AsX()
}

// scalar broadcasts a parameter of 32 bits, named as in [params].
func (k *kernel) scalar(name string) vec {
	name, _, _ = strings.Cut(name, " ")
	parameter, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	r := k.reg()
	VBROADCASTSS(parameter.Addr, r)
	return r
}

// broadcast loads a constant into a register.
func (k *kernel) broadcast(c constant) vec {
	r := k.reg()
	VBROADCASTSS(c.Mem, r)
	return r
}

// emit writes op with the last source in the first place of the assembler's
// order; repeated is op's form that repeats 32 bits of memory.
func (k *kernel) emit(op, repeated func(...Op), last Op, rest ...Op) {
	if c, ok := last.(constant); ok {
		last = c.Mem
		if k.wide {
			op = repeated
		}
	}
	op(append([]Op{last}, rest...)...)
}

func (k *kernel) binary(op, repeated func(...Op), a vec, b Op) vec {
	r := k.reg()
	k.emit(op, repeated, b, a, r)
	return r
}

func (k *kernel) add(a vec, b Op) vec { return k.binary(VADDPS, VADDPS_BCST, a, b) }
func (k *kernel) sub(a vec, b Op) vec { return k.binary(VSUBPS, VSUBPS_BCST, a, b) }
func (k *kernel) mul(a vec, b Op) vec { return k.binary(VMULPS, VMULPS_BCST, a, b) }
func (k *kernel) div(a vec, b Op) vec { return k.binary(VDIVPS, VDIVPS_BCST, a, b) }
func (k *kernel) and(a vec, b Op) vec { return k.binary(VANDPS, VANDPS_BCST, a, b) }
func (k *kernel) or(a vec, b Op) vec  { return k.binary(VORPS, VORPS_BCST, a, b) }
func (k *kernel) xor(a vec, b Op) vec { return k.binary(VXORPS, VXORPS_BCST, a, b) }

func (k *kernel) addInt(a vec, b Op) vec { return k.binary(VPADDD, VPADDD_BCST, a, b) }
func (k *kernel) subInt(a vec, b Op) vec { return k.binary(VPSUBD, VPSUBD_BCST, a, b) }

// atMost is a clipped to the constant c from above. The instruction returns
// its second source where either is NaN, so NaN stays NaN.
func (k *kernel) atMost(a vec, c constant) vec {
	r := k.broadcast(c)
	VMINPS(a, r, r)
	return r
}

// atLeast is a clipped to the constant c from below.
func (k *kernel) atLeast(a vec, c constant) vec {
	r := k.broadcast(c)
	VMAXPS(a, r, r)
	return r
}

// mulAdd turns p into p·x + c.
func (k *kernel) mulAdd(p, x vec, c Op) { k.emit(VFMADD213PS, VFMADD213PS_BCST, c, x, p) }

// addMul adds a·b to sum.
func (k *kernel) addMul(sum, a vec, b Op) { k.emit(VFMADD231PS, VFMADD231PS_BCST, b, a, sum) }

// subMul subtracts a·b from sum.
func (k *kernel) subMul(sum, a vec, b Op) { k.emit(VFNMADD231PS, VFNMADD231PS_BCST, b, a, sum) }

// horner evaluates the polynomial with ascending coefficients c at x.
func (k *kernel) horner(c []float32, x vec) vec {
	p := k.broadcast(float(c[len(c)-1]))
	for i := len(c) - 2; i >= 0; i-- {
		k.mulAdd(p, x, float(c[i]))
	}
	return p
}

// unary emits an instruction of one source.
func (k *kernel) unary(op func(...Op), x vec) vec {
	r := k.reg()
	op(x, r)
	return r
}

// shift emits an instruction that shifts each lane of x by n bits.
func (k *kernel) shift(op func(...Op), n int, x vec) vec {
	r := k.reg()
	op(Imm(uint64(n)), x, r)
	return r
}

// The predicates of VCMPPS; the ordered ones are false for NaN.
const (
	equal        = 0x00
	less         = 0x11
	lessEqual    = 0x12
	unordered    = 0x03
	notEqual     = 0x04 // true for NaN
	notLess      = 0x15 // true for NaN
	greaterEqual = 0x1d
	greater      = 0x1e
)

func (k *kernel) compare(predicate uint64, a vec, b Op) mask {
	var m mask = YMM()
	if k.wide {
		m = K()
	}
	k.emit(func(ops ...Op) { VCMPPS(append([]Op{Imm(predicate)}, ops...)...) },
		func(ops ...Op) { VCMPPS_BCST(append([]Op{Imm(predicate)}, ops...)...) }, b, a, m)
	return m
}

// negative is the mask of the lanes of x whose sign bit is set.
func (k *kernel) negative(x vec) mask {
	if !k.wide {
		return x
	}
	m := K()
	VPMOVD2M(x, m)
	return m
}

// choose is yes where m is set and no elsewhere.
func (k *kernel) choose(m mask, yes, no vec) vec {
	r := k.reg()
	if k.wide {
		VBLENDMPS(yes, no, m, r)
	} else {
		VBLENDVPS(m, yes, no, r)
	}
	return r
}

// present is x where the vector has elements and fill beyond its end.
func (k *kernel) present(x vec, fill func() vec) vec {
	if k.tail == nil {
		return x
	}
	return k.choose(k.tail, x, fill())
}

// partial is the mask of the lanes below count, a register of 64 bits.
func (k *kernel) partial(count reg.GPVirtual) mask {
	if k.wide {
		all, m := GP64(), K()
		MOVQ(I32(-1), all)
		BZHIQ(count, all, all)
		KMOVW(all.As32(), m)
		return m
	}
	return k.below(k.counts(count), 0)
}

// partials calls f for each of the vectors, at most 64 lanes, of which just the
// lanes below count exist: for vector j, k.tail is their mask.
func (k *kernel) partials(count reg.GPVirtual, vectors int, f func(j int)) {
	if k.wide {
		all := GP64()
		MOVQ(I32(-1), all)
		BZHIQ(count, all, all)
		for j := range vectors {
			m := K()
			KMOVW(all.As32(), m)
			SHRQ(Imm(16), all)
			k.tail = m
			f(j)
		}
	} else {
		counts := k.counts(count)
		for j := range vectors {
			k.tail = k.below(counts, j)
			f(j)
		}
	}
	k.tail = nil
}

// counts repeats the count in each lane of a vector of AVX2.
func (k *kernel) counts(count reg.GPVirtual) vec {
	x, y := XMM(), YMM()
	VMOVD(count.As32(), x)
	VPBROADCASTD(x, y)
	return y
}

// below is the AVX2 mask of the lanes of block j that are below the count.
func (k *kernel) below(counts vec, j int) mask {
	m := YMM()
	VPCMPGTD(lane.Offset(32*j), counts, m)
	return m
}
