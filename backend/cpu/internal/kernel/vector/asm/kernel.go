package main

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
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

// sorted goes through m in the order of its keys, so that each run writes the
// same files.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

// params writes the parameters of a Go signature: slices are "name type" or
// just "name" for float32, scalars are float32.
func params(slice, scalar []string) string {
	var list []string
	for _, s := range slice {
		name, typ, typed := strings.Cut(s, " ")
		if !typed {
			typ = "float32"
		}
		list = append(list, fmt.Sprintf("%s []%s", name, typ))
	}
	for _, s := range scalar {
		list = append(list, s+" float32")
	}
	return strings.Join(list, ", ")
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
		Doc(fmt.Sprintf("%s%s: see asm.", name, suffix))
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

// scalar broadcasts a float32 parameter.
func (k *kernel) scalar(name string) vec {
	x, r := XMM(), k.reg()
	Load(Param(name), x)
	VBROADCASTSS(x, r)
	return r
}

// constant is 32 bits in memory, repeated to fill a vector of AVX2; AVX-512
// repeats it while reading.
type constant struct{ Mem }

var constants []uint32

func bits(v uint32) constant {
	i := slices.Index(constants, v)
	if i < 0 {
		i = len(constants)
		constants = append(constants, v)
	}
	return constant{NewDataAddr(NewStaticSymbol("constants"), 32*i)}
}

func float(v float32) constant { return bits(math.Float32bits(v)) }

// emitConstants writes the table that [bits] refers to.
func emitConstants() {
	GLOBL("constants", attr.RODATA|attr.NOPTR)
	for i, v := range constants {
		for j := range 8 {
			DATA(32*i+4*j, U32(v))
		}
	}
}

// lane is the table of lane numbers 0 to 63, for the masks of AVX2.
var lane Mem

func emitLanes() {
	lane = GLOBL("lane", attr.RODATA|attr.NOPTR)
	for i := range 64 {
		DATA(4*i, U32(i))
	}
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
	unequal      = 0x0c // ordered
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

// bytes is the size of an element by its Go type.
var bytes = map[string]int{"float32": 4, "int32": 4, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1}

// slice is a parameter: its first element and the size of each.
type slice struct {
	base reg.Register
	size int
}

// slices loads the bases of the parameters named as in [params].
func (k *kernel) slices(names []string) map[string]slice {
	all := map[string]slice{}
	for _, s := range names {
		name, typ, typed := strings.Cut(s, " ")
		if !typed {
			typ = "float32"
		}
		all[name] = slice{Load(Param(name).Base(), GP64()), bytes[typ]}
	}
	return all
}

// at is the memory of a vector that starts at element index + offset.
func (s slice) at(index reg.Register, offset int) Mem {
	return Mem{Base: s.base, Index: index, Scale: uint8(s.size), Disp: s.size * offset}
}

// load reads a vector of elements of any size; lanes beyond the tail are zero.
// Narrow elements fill just the low part of the register.
func (k *kernel) load(m Mem, size int) vec {
	r := k.reg()
	switch {
	case size == 4 && k.tail == nil:
		VMOVUPS(m, r)
	case size == 4 && k.wide:
		VMOVUPS_Z(m, k.tail, r)
	case size == 4:
		VMASKMOVPS(m, k.tail, r)
	case size == 2 && k.tail == nil && k.wide:
		VMOVDQU(m, r.AsY())
	case size == 2 && k.wide:
		VMOVDQU16_Z(m, k.tail, r.AsY())
	case size == 2:
		VMOVDQU(m, r.AsX())
	case k.tail == nil && k.wide:
		VMOVDQU(m, r.AsX())
	case k.wide:
		VMOVDQU8_Z(m, k.tail, r.AsX())
	default:
		VMOVQ(m, r.AsX())
	}
	return r
}

// store is the counterpart of load.
func (k *kernel) store(r vec, m Mem, size int) {
	switch {
	case size == 4 && k.tail == nil:
		VMOVUPS(r, m)
	case size == 4 && k.wide:
		VMOVUPS(r, k.tail, m)
	case size == 4:
		VMASKMOVPS(r, k.tail, m)
	case size == 2 && k.tail == nil && k.wide:
		VMOVDQU(r.AsY(), m)
	case size == 2 && k.wide:
		VMOVDQU16(r.AsY(), k.tail, m)
	case size == 2:
		VMOVDQU(r.AsX(), m)
	case k.tail == nil && k.wide:
		VMOVDQU(r.AsX(), m)
	case k.wide:
		VMOVDQU8(r.AsX(), k.tail, m)
	default:
		VMOVQ(r.AsX(), m)
	}
}

// elementwise writes a function that computes dst from equally long slices
// and float32 scalars, vector by vector, and a last vector of fewer elements
// through a mask. At AVX2, which has no masks for narrow elements, functions
// with any of those leave a last vector of fewer elements to the caller. dst
// stands first in names; it may stand in inputs too.
func elementwise(name string, names, inputs, scalars []string, body func(k *kernel, in, s []vec) vec) {
	begin(name, "("+params(names, scalars)+")", func(k *kernel) {
		pointers := k.slices(names)
		n := Load(Param("dst").Len(), GP64()).(reg.GPVirtual)
		narrow := false
		for _, p := range pointers {
			narrow = narrow || p.size < 4
		}
		var s []vec
		for _, name := range scalars {
			s = append(s, k.scalar(name))
		}
		dst := pointers["dst"]
		index := GP64()
		step := func() {
			var in []vec
			for _, name := range inputs {
				in = append(in, k.load(pointers[name].at(index, 0), pointers[name].size))
			}
			k.store(body(k, in, s), dst.at(index, 0), dst.size)
		}

		XORQ(index, index)
		whole := GP64()
		MOVQ(n, whole)
		ANDQ(I32(-k.lanes), whole)
		JZ(LabelRef("tail"))
		Label("loop")
		step()
		ADDQ(Imm(uint64(k.lanes)), index)
		CMPQ(index, whole)
		JLT(LabelRef("loop"))

		Label("tail")
		if k.wide || !narrow {
			SUBQ(index, n)
			JZ(LabelRef("done"))
			k.tail = k.partial(n)
			step()
			Label("done")
		}
	})
}

// reduction writes a function that folds equally long slices into one number:
// body folds the vectors in of the slices into acc. There are 64 lanes, in
// registers of 16 or 8, and element i goes to lane i mod 64.
func reduction(name string, names, scalars []string, start func(k *kernel) vec, body func(k *kernel, acc vec, in, s []vec), join func(a, b, dst Op), finish func(k *kernel, result vec)) {
	begin(name, "("+params(names, scalars)+") float32", func(k *kernel) {
		pointers := k.slices(names)
		n := Load(Param(names[0]).Len(), GP64()).(reg.GPVirtual)
		var s []vec
		for _, name := range scalars {
			s = append(s, k.scalar(name))
		}
		acc := make([]vec, 64/k.lanes)
		for i := range acc {
			acc[i] = start(k)
		}
		index := GP64()
		fold := func(j int) {
			var in []vec
			for _, name := range names {
				in = append(in, k.load(pointers[name].at(index, j*k.lanes), 4))
			}
			body(k, acc[j], in, s)
		}

		XORQ(index, index)
		whole := GP64()
		MOVQ(n, whole)
		ANDQ(I32(-64), whole)
		JZ(LabelRef("tail"))
		Label("loop")
		for j := range acc {
			fold(j)
		}
		ADDQ(Imm(64), index)
		CMPQ(index, whole)
		JLT(LabelRef("loop"))

		Label("tail")
		SUBQ(index, n)
		JZ(LabelRef("join"))
		if k.wide {
			all := GP64()
			MOVQ(I32(-1), all)
			BZHIQ(n, all, all)
			for j := range acc {
				m := K()
				KMOVW(all.As32(), m)
				SHRQ(Imm(16), all)
				k.tail = m
				fold(j)
			}
		} else {
			counts := k.counts(n)
			for j := range acc {
				k.tail = k.below(counts, j)
				fold(j)
			}
		}
		k.tail = nil

		// groups of 16 lanes as (0+1)+(2+3), then halves of what is left
		Label("join")
		group := len(acc) / 4
		for i := range group {
			join(acc[group+i], acc[i], acc[i])
			join(acc[3*group+i], acc[2*group+i], acc[2*group+i])
			join(acc[2*group+i], acc[i], acc[i])
		}
		low := acc[0]
		y := YMM()
		if k.wide {
			VEXTRACTF64X4(Imm(1), low, y)
			join(y, low.AsY(), y)
		} else {
			join(acc[1], low, y)
		}
		x := XMM()
		VEXTRACTF128(Imm(1), y, x)
		join(y.AsX(), x, x)
		high := XMM()
		VMOVHLPS(x, x, high)
		join(high, x, x)
		VMOVSHDUP(x, high)
		join(high, x, x)
		if finish != nil {
			finish(k, x)
		}
		Store(x, ReturnIndex(0))
	})
}
