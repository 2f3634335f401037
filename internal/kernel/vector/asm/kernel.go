package main

import (
	"log"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

type (
	// vec is a vector register.
	vec = reg.VecVirtual
	// mask selects lanes. With AVX-512 it is an opmask register. With AVX2 and NEON it is a vector
	// in which each lane is all ones or all zeros.
	mask = reg.Register
)

// kernel generates the body of one function for one instruction set. Its methods emit the same
// arithmetic for all instruction sets, so all versions give the same bits.
type kernel struct {
	wide  bool  // the instruction set is AVX-512
	neon  *neon // the function for NEON; nil: the instruction set is AVX-512 or AVX2
	lanes int   // number of float32s in a register
	tail  mask  // mask of the lanes of a partial vector; nil: the vector is complete
	nan   mask  // mask of the lanes in which a reduction found a NaN
}

// operation is an instruction of each instruction set. repeated is the form for AVX-512 that
// broadcasts 32 bits of memory.
type operation struct {
	avx, repeated func(...Op)
	neon          encoding
}

var (
	addPS = operation{VADDPS, VADDPS_BCST, fadd}
	subPS = operation{VSUBPS, VSUBPS_BCST, fsub}
	mulPS = operation{VMULPS, VMULPS_BCST, fmul}
	divPS = operation{VDIVPS, VDIVPS_BCST, fdiv}
	andPS = operation{VANDPS, VANDPS_BCST, andV}
	orPS  = operation{VORPS, VORPS_BCST, orrV}
	xorPS = operation{VXORPS, VXORPS_BCST, eorV}
	addD  = operation{VPADDD, VPADDD_BCST, addV}
	subD  = operation{VPSUBD, VPSUBD_BCST, subV}

	sqrtPS  = operation{avx: VSQRTPS, neon: fsqrt}
	toInt   = operation{avx: VCVTPS2DQ, neon: fcvtns}
	toFloat = operation{avx: VCVTDQ2PS, neon: scvtf}
)

// newXMM returns a new vector register for NEON. avo numbers it.
func newXMM() vec { return XMM() }

// begin writes the function for AVX-512 and for AVX2. body writes the code of the function.
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

// reg returns a new vector register.
func (k *kernel) reg() vec {
	if k.wide {
		return ZMM()
	}
	return YMM()
}

// copy returns a new register with the value of x.
func (k *kernel) copy(x vec) vec {
	if k.neon != nil {
		return k.neon.copy(x)
	}
	r := k.reg()
	VMOVAPS(x, r)
	return r
}

// zero returns a new register that holds zeros.
func (k *kernel) zero() vec {
	if k.neon != nil {
		return k.neon.zero()
	}
	r := k.reg()
	VXORPS(r, r, r)
	return r
}

// half returns the lower half of the register x. It holds the elements if they have 16 bits.
func (k *kernel) half(x vec) reg.Register {
	if k.wide {
		return x.AsY()
	}
	return x.AsX()
}

// scalar broadcasts a parameter of 32 bits. name has the form that [params] takes.
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

// broadcast loads a constant into all lanes of a new register.
func (k *kernel) broadcast(c constant) vec {
	if k.neon != nil {
		return k.neon.broadcast(c)
	}
	r := k.reg()
	VBROADCASTSS(c.Mem, r)
	return r
}

// emit writes the instruction op. The last source comes first, as the assembler expects. repeated
// is the form of op that broadcasts 32 bits of memory.
func (k *kernel) emit(op, repeated func(...Op), last Op, rest ...Op) {
	if c, ok := last.(constant); ok {
		last = c.Mem
		if k.wide {
			op = repeated
		}
	}
	op(append([]Op{last}, rest...)...)
}

// binary emits an instruction with two sources. The result is in a new register.
func (k *kernel) binary(op operation, a vec, b Op) vec {
	if k.neon != nil {
		return k.neon.op(op.neon, a, b)
	}
	r := k.reg()
	k.emit(op.avx, op.repeated, b, a, r)
	return r
}

func (k *kernel) add(a vec, b Op) vec { return k.binary(addPS, a, b) }
func (k *kernel) sub(a vec, b Op) vec { return k.binary(subPS, a, b) }
func (k *kernel) mul(a vec, b Op) vec { return k.binary(mulPS, a, b) }
func (k *kernel) div(a vec, b Op) vec { return k.binary(divPS, a, b) }
func (k *kernel) and(a vec, b Op) vec { return k.binary(andPS, a, b) }
func (k *kernel) or(a vec, b Op) vec  { return k.binary(orPS, a, b) }
func (k *kernel) xor(a vec, b Op) vec { return k.binary(xorPS, a, b) }

func (k *kernel) addInt(a vec, b Op) vec { return k.binary(addD, a, b) }
func (k *kernel) subInt(a vec, b Op) vec { return k.binary(subD, a, b) }

// atMost computes the minimum of a and the constant c. If a source is NaN, the instruction returns
// its second source, so a NaN in a stays NaN.
func (k *kernel) atMost(a vec, c constant) vec {
	if k.neon != nil {
		return k.neon.op(fmin, a, c)
	}
	r := k.broadcast(c)
	VMINPS(a, r, r)
	return r
}

// atLeast computes the maximum of a and the constant c. A NaN in a stays NaN.
func (k *kernel) atLeast(a vec, c constant) vec {
	if k.neon != nil {
		return k.neon.op(fmax, a, c)
	}
	r := k.broadcast(c)
	VMAXPS(a, r, r)
	return r
}

// mulAdd sets p to p·x + c.
func (k *kernel) mulAdd(p, x vec, c Op) {
	if k.neon != nil {
		sum := k.neon.copy(c)
		k.neon.update(fmla, sum, p, x)
		k.neon.names[p.ID()] = sum
		return
	}
	k.emit(VFMADD213PS, VFMADD213PS_BCST, c, x, p)
}

// mulSub sets p to p·x − c.
func (k *kernel) mulSub(p, x, c vec) {
	if k.neon != nil {
		k.mulAdd(p, x, k.neon.op(fneg, c))
		return
	}
	VFMSUB213PS(c, x, p)
}

// addMul adds a·b to sum.
func (k *kernel) addMul(sum, a vec, b Op) {
	if k.neon != nil {
		k.neon.update(fmla, sum, a, b)
		return
	}
	k.emit(VFMADD231PS, VFMADD231PS_BCST, b, a, sum)
}

// subMul subtracts a·b from sum.
func (k *kernel) subMul(sum, a vec, b Op) {
	if k.neon != nil {
		k.neon.update(fmls, sum, a, b)
		return
	}
	k.emit(VFNMADD231PS, VFNMADD231PS_BCST, b, a, sum)
}

// accumulate adds x to sum.
func (k *kernel) accumulate(sum, x vec) {
	if k.neon != nil {
		k.neon.set(fadd, sum, x, sum)
		return
	}
	VADDPS(x, sum, sum)
}

// horner evaluates the polynomial with ascending coefficients c at x.
func (k *kernel) horner(c []float32, x vec) vec {
	p := k.broadcast(float(c[len(c)-1]))
	for i := len(c) - 2; i >= 0; i-- {
		k.mulAdd(p, x, float(c[i]))
	}
	return p
}

// unary emits an instruction with one source. The result is in a new register.
func (k *kernel) unary(op operation, x vec) vec {
	if k.neon != nil {
		return k.neon.op(op.neon, x)
	}
	r := k.reg()
	op.avx(x, r)
	return r
}

// shift emits an instruction that shifts each lane of x by n bits.
func (k *kernel) shift(op func(...Op), n int, x vec) vec {
	r := k.reg()
	op(Imm(uint64(n)), x, r)
	return r
}

// left shifts each lane of x to the left by n bits.
func (k *kernel) left(n int, x vec) vec {
	if k.neon != nil {
		return k.neon.op(shiftLeft(n), x)
	}
	return k.shift(VPSLLD, n, x)
}

// right shifts each lane of x to the right by n bits and keeps its sign.
func (k *kernel) right(n int, x vec) vec {
	if k.neon != nil {
		return k.neon.op(shiftRight(n), x)
	}
	return k.shift(VPSRAD, n, x)
}

// The predicates of VCMPPS are false for NaN, unless the comment says otherwise.
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

// compare computes the mask of the lanes for which the predicate is true.
func (k *kernel) compare(predicate uint64, a vec, b Op) mask {
	if f := k.neon; f != nil {
		switch predicate {
		case equal:
			return f.op(fcmeq, a, b)
		case less:
			return f.op(fcmgt, b, a)
		case notLess:
			return f.op(notV, f.op(fcmgt, b, a))
		}
		log.Fatalf("generating %s: the predicate %#x has no instruction of NEON", f.name, predicate)
	}
	var m mask = YMM()
	if k.wide {
		m = K()
	}
	k.emit(func(ops ...Op) { VCMPPS(append([]Op{Imm(predicate)}, ops...)...) },
		func(ops ...Op) { VCMPPS_BCST(append([]Op{Imm(predicate)}, ops...)...) }, b, a, m)
	return m
}

// negative computes the mask of the lanes of x with the sign bit set.
func (k *kernel) negative(x vec) mask {
	if k.neon != nil {
		return k.right(31, x)
	}
	if !k.wide {
		return x
	}
	m := K()
	VPMOVD2M(x, m)
	return m
}

// choose takes the lanes of yes where m is set, and the lanes of no elsewhere.
func (k *kernel) choose(m mask, yes, no vec) vec {
	if k.neon != nil {
		r := k.neon.copy(m.(vec))
		k.neon.update(bsl, r, yes, no)
		return r
	}
	r := k.reg()
	if k.wide {
		VBLENDMPS(yes, no, m, r)
	} else {
		VBLENDVPS(m, yes, no, r)
	}
	return r
}

// present replaces the lanes of x outside of the tail by fill. It returns x if the vector is
// complete.
func (k *kernel) present(x vec, fill func() vec) vec {
	if k.tail == nil {
		return x
	}
	return k.choose(k.tail, x, fill())
}

// partial computes the mask of the first count lanes. count is a register of 64 bits.
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

// partials calls f for each of the given number of vectors, which together have at most 64 lanes.
// Only the first count lanes exist. During the call f(j), k.tail is the mask of these lanes in
// vector j.
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

// counts broadcasts the count to each lane of an AVX2 vector.
func (k *kernel) counts(count reg.GPVirtual) vec {
	x, y := XMM(), YMM()
	VMOVD(count.As32(), x)
	VPBROADCASTD(x, y)
	return y
}

// below computes the AVX2 mask of the lanes in vector j whose number is less than the count.
func (k *kernel) below(counts vec, j int) mask {
	m := YMM()
	VPCMPGTD(lane.Offset(32*j), counts, m)
	return m
}
