// Command asm generates the amd64 micro-kernels and packing loops of package gemm for AVX2 with FMA
// and for AVX-512.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// target is an instruction set. A tile has up to mr rows of two registers.
type target struct {
	suffix string
	lanes  int // number of float32s in a register
	mr     int
	vec    []VecPhysical
}

var targets = []target{
	{"AVX2", 8, 6, []VecPhysical{
		Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}},
	{"AVX512", 16, 14, []VecPhysical{
		Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31}},
}

func main() {
	Package("github.com/sptune/spt/internal/kernel/gemm")
	ConstraintExpr("amd64")
	// The AVX2 mask for the first r of 8 lanes starts at entry 8-r of this table.
	lanes := GLOBL("lanes", RODATA|NOPTR)
	for i := range 16 {
		var m uint32
		if i < 8 {
			m = 1<<32 - 1
		}
		DATA(4*i, U32(m))
	}
	for _, tg := range targets {
		tg.tile(lanes)
		tg.dots(lanes)
		tg.transpose(lanes)
		tg.copy(lanes)
		tg.peak()
	}
	amx()
	amxPeak()
	dp()
	dpPeak()
	packBF16()
	Generate()
}

func (tg target) bytes() int { return 4 * tg.lanes }

// zero clears a register.
func (tg target) zero(v VecPhysical) {
	if tg.lanes == 16 {
		VPXORD(v, v, v)
	} else {
		VXORPS(v, v, v)
	}
}

// mask loads the mask for the first r lanes, 1 ≤ r ≤ lanes. With AVX-512 the mask is in K1, with
// AVX2 in the register m. It overwrites r.
func (tg target) mask(lanes Mem, r GPPhysical, m VecPhysical) {
	if tg.lanes == 16 {
		all := RAX.As32()
		MOVL(I32(-1), all)
		BZHIL(r.As32(), all, all)
		KMOVW(all, K1)
		return
	}
	NEGQ(r)
	LEAQ(lanes, RAX)
	VMOVUPS(Mem{Base: RAX, Disp: 32, Index: r, Scale: 4}, m)
}

// load reads the masked lanes of mem and sets the other lanes to zero.
func (tg target) load(mem Mem, m, v VecPhysical) {
	if tg.lanes == 16 {
		VMOVUPS_Z(mem, K1, v)
	} else {
		VMASKMOVPS(mem, m, v)
	}
}

// store writes the masked lanes of v.
func (tg target) store(v, m VecPhysical, mem Mem) {
	if tg.lanes == 16 {
		VMOVUPS(v, K1, mem)
	} else {
		VMASKMOVPS(v, m, mem)
	}
}
