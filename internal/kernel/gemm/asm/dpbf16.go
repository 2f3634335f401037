package main

import (
	"fmt"
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dpRows are the numbers of rows whose sums are computed at the same time. The registers hold the
// sums of at most twelve rows: two registers for each row, two for a pair of steps of the panel,
// and two for elements of the strip. A strip of 32 rows is computed as 12, 12 and 8.
var dpRows = []int{12, 8, 4, 2, 1}

// Registers of this kernel, besides those of both kernels.
var (
	dpPairs = RCX // number of pairs of steps that are not multiplied
	dpInner = R8  // number of pairs that are left in this step
	dpLeft  = R9  // number of rows of the panel that are not computed
	dpFetch = R10 // next row of C that is prefetched
)

// dp generates the kernel for processors with AVX512-BF16 but without AMX. It computes the same
// strip from the same packed operands as the kernel for AMX. The sums of a group of rows and 32
// columns stay in registers over the whole depth. For each pair of steps, the kernel loads a row of
// the tiles of the panel and broadcasts a pair of each row of the strip.
func dp() {
	TEXT("stripDP", NOSPLIT, "func(t *strip)")
	Pragma("noescape")
	Doc("stripDP computes a strip of C with AVX512-BF16; see the type strip.")
	Load(Param("t"), stripArgs)
	addr := stripField(stripArgs)
	// at is the distance of the panel from the first panel in a row of C, and row is the distance
	// of the group of rows from the first row of the packed strip. skip is the distance from the
	// end of a row of a tile of A to the same row of the next step. All are in bytes. first and
	// last are the first and the last row of C that are prefetched.
	at, row, skip, first, last := AllocLocal(8), AllocLocal(8), AllocLocal(8), AllocLocal(8), AllocLocal(8)
	MOVQ(U32(0), at)
	MOVQ(addr("n"), stripColumns)
	MOVQ(U32(tileBytes-tileRow), RAX)
	CMPQ(addr("mr"), Imm(16))
	JLE(LabelRef("short"))
	MOVQ(U32(2*tileBytes-tileRow), RAX)
	Label("short")
	MOVQ(RAX, skip)

	Label("panel")
	stripMasks()
	stripPointer(addr, "src", at, stripSrc)
	stripPointer(addr, "residual", at, stripRes)
	MOVQ(addr("dst"), stripDst)
	ADDQ(at, stripDst)
	MOVQ(addr("mr"), dpLeft)
	MOVQ(U32(0), row)

	Label("rows")
	MOVQ(stripDst, dpFetch)
	MOVQ(stripDst, first)
	MOVQ(stripArgs, stripTerm)
	CMPQ(stripColumns, Imm(16))
	JG(LabelRef("wide"))
	for nv := 1; nv <= 2; nv++ {
		if nv == 2 {
			Label("wide")
		}
		for _, m := range dpRows[:len(dpRows)-1] {
			CMPQ(dpLeft, Imm(uint64(m)))
			JGE(LabelRef(fmt.Sprintf("sums%dx%d", m, nv)))
		}
		for _, m := range slices.Backward(dpRows) {
			dpGroup(addr, at, row, skip, first, last, m, nv)
		}
	}

	Label("written")
	TESTQ(dpLeft, dpLeft)
	JNZ(LabelRef("rows"))
	ADDQ(U32(2*tileRow), at)
	SUBQ(Imm(32), stripColumns)
	JG(LabelRef("panel"))
	VZEROUPPER()
	RET()
}

// dpGroup generates the products of m rows and nv registers of columns, and writes them.
func dpGroup(addr func(string) Mem, at, row, skip, first, last Mem, m, nv int) {
	name := func(s string) string { return fmt.Sprintf("%s%dx%d", s, m, nv) }
	vec := targets[1].vec
	acc := func(i, v int) VecPhysical { return vec[i*nv+v] }
	b, a := vec[28:30], vec[30:32]
	field := stripField(stripTerm) // of the current product
	Label(name("sums"))
	MOVQ(addr("ldd"), RAX)
	IMUL3Q(U8(uint8(m-1)), RAX, RAX)
	ADDQ(stripDst, RAX)
	MOVQ(RAX, last)
	for _, v := range vec[:m*nv] {
		VPXORD(v, v, v)
	}
	Label(name("term"))
	MOVQ(field("a"), stripA)
	ADDQ(row, stripA)
	stripPanel(field, at)
	MOVQ(field("pairs"), dpPairs)
	Label(name("step"))
	MOVQ(U32(16), dpInner)
	CMPQ(dpPairs, dpInner)
	CMOVQLT(dpPairs, dpInner)
	SUBQ(dpInner, dpPairs)
	Label(name("pair"))
	for v := range nv {
		at := Mem{Base: stripB, Disp: v * tileBytes}
		VMOVUPS(at, b[v])
		at.Disp += 2 * tileBytes
		PREFETCHT0(at) // the next step
	}
	for i := range m {
		VBROADCASTSS(Mem{Base: stripA, Disp: i * tileRow}, a[i&1])
		for v := range nv {
			addDotProducts(acc(i, v), b[v], a[i&1]).emit(convertISA)
		}
	}
	for v := range nv {
		PREFETCHT0(Mem{Base: dpFetch, Disp: v * tileRow})
	}
	ADDQ(addr("ldd"), dpFetch)
	CMPQ(dpFetch, last)
	CMOVQHI(first, dpFetch) // start again at the first row
	ADDQ(Imm(4), stripA)
	ADDQ(Imm(tileRow), stripB)
	DECQ(dpInner)
	JNZ(LabelRef(name("pair")))
	ADDQ(skip, stripA)
	ADDQ(U32(tileBytes), stripB)
	TESTQ(dpPairs, dpPairs)
	JNZ(LabelRef(name("step")))
	MOVQ(field("next"), stripTerm)
	TESTQ(stripTerm, stripTerm)
	JNZ(LabelRef(name("term")))

	// Write dst = alpha·sum + gamma·src + bias + residual.
	scale, gamma, tmp := vec[28], vec[29], vec[30]
	MOVQ(addr("bias"), RAX)
	VBROADCASTSS(addr("alpha"), scale)
	VBROADCASTSS(addr("gamma"), gamma)
	for i := range m {
		for v := range nv {
			VMULPS(scale, acc(i, v), acc(i, v))
		}
	}
	TESTQ(stripSrc, stripSrc)
	JZ(LabelRef(name("added")))
	for i := range m {
		for v := range nv {
			VMOVUPS_Z(Mem{Base: stripSrc, Disp: v * tileRow}, stripMask[v], tmp)
			VFMADD231PS(tmp, gamma, acc(i, v))
		}
		ADDQ(addr("lds"), stripSrc)
	}
	Label(name("added"))
	TESTQ(RAX, RAX)
	JZ(LabelRef(name("biased")))
	ADDQ(at, RAX)
	for v := range nv {
		VMOVUPS_Z(Mem{Base: RAX, Disp: v * tileRow}, stripMask[v], tmp)
		for i := range m {
			VADDPS(tmp, acc(i, v), acc(i, v))
		}
	}
	Label(name("biased"))
	TESTQ(stripRes, stripRes)
	JZ(LabelRef(name("whole")))
	for i := range m {
		for v := range nv {
			VMOVUPS_Z(Mem{Base: stripRes, Disp: v * tileRow}, stripMask[v], tmp)
			VADDPS(tmp, acc(i, v), acc(i, v))
		}
		ADDQ(addr("ldr"), stripRes)
	}
	Label(name("whole"))
	for i := range m {
		for v := range nv {
			VMOVUPS(acc(i, v), stripMask[v], Mem{Base: stripDst, Disp: v * tileRow})
		}
		ADDQ(addr("ldd"), stripDst)
	}
	ADDQ(U32(uint32(m*tileRow)), row)
	SUBQ(Imm(uint64(m)), dpLeft)
	JMP(LabelRef("written"))
}

// dpPeak generates n rounds of sixteen independent sums of dot products.
func dpPeak() {
	TEXT("peakDP", NOSPLIT, "func(n int)")
	Doc("peakDP runs n rounds of 16 instructions that add the dot products of 16 pairs of numbers.")
	Load(Param("n"), RCX)
	vec := targets[1].vec
	for _, v := range vec[:18] {
		VPXORD(v, v, v)
	}
	Label("round")
	for _, v := range vec[:16] {
		addDotProducts(v, vec[16], vec[17]).emit(convertISA)
	}
	DECQ(RCX)
	JNZ(LabelRef("round"))
	VZEROUPPER()
	RET()
}
