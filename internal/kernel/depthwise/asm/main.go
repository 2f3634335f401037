// Command asm generates the amd64 kernels of package depthwise for AVX2 with FMA and for AVX-512.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// target is an instruction set.
type target struct {
	suffix string
	lanes  int    // number of float32s in a register
	cols   [2]int // largest number of columns of a tile with one row, and with two rows
	run    [2]int // the same for a tile with runs of taps; 0: there is no such tile
	vec    []VecPhysical
}

// run is the number of taps in a run: neighbouring taps that the micro-kernel processes in one
// step.
const run = 7

var targets = []target{
	{"AVX2", 8, [2]int{14, 7}, [2]int{7, 0}, []VecPhysical{
		Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}},
	{"AVX512", 16, [2]int{14, 14}, [2]int{14, 9}, []VecPhysical{
		Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31}},
}

func main() {
	Package("github.com/sptune/spt/internal/kernel/depthwise")
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
		tg.tile("tile", 1, tg.cols)
		tg.tile("runs", run, tg.run)
		tg.gather(lanes)
	}
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

// tile generates a micro-kernel. It has variants for one and two rows and for every number of
// columns. most holds the largest numbers of columns. The sums stay in registers. Each step loads
// the weights of n neighbouring taps into registers. If n is greater than 1, each pixel of the
// source is loaded once for all n taps.
func (tg target) tile(name string, n int, most [2]int) {
	TEXT(name+tg.suffix, NOSPLIT, "func(t *tile)")
	Pragma("noescape")
	taps := "single taps"
	if n > 1 {
		taps = fmt.Sprintf("runs of %d taps", n)
	}
	Doc(fmt.Sprintf("%s%s computes a tile with %s; see the type tile.", name, tg.suffix, taps))
	t := Dereference(Param("t"))
	load := func(name string, r GPPhysical) {
		b, err := t.Field(name).Resolve()
		if err != nil {
			panic(err)
		}
		MOVQ(b.Addr, r)
	}
	load("rows", R9)
	load("cols", R10)
	load("src", RSI)
	load("kernel", RDX)
	load("offsets", RDI)
	load("taps", RCX)
	load("pitch", R8)
	load("add", R13)
	load("dstCol", R12)
	load("dstRow", R11)
	load("dst", RAX)
	ADDQ(RAX, R11) // the second row
	if most[1] > 0 {
		CMPQ(R9, Imm(1))
		JG(LabelRef("two"))
	}
	for rows := 1; rows <= 2; rows++ {
		if rows == 2 && most[1] > 0 {
			Label("two")
		}
		for m := most[rows-1]; m > 1; m-- {
			CMPQ(R10, Imm(uint64(m)))
			JE(LabelRef(fmt.Sprintf("tile%dx%d", rows, m)))
		}
		for m := 1; m <= most[rows-1]; m++ {
			tg.variant(n, rows, m)
		}
	}
}

// variant generates the code for a tile of rows × cols pixels and n taps in a step.
func (tg target) variant(n, rows, cols int) {
	name := func(s string) string { return fmt.Sprintf("%s%dx%d", s, rows, cols) }
	acc, free := tg.vec[:rows*cols], tg.vec[rows*cols:]
	k := free[:n]
	// each calls f for every sum and its destination.
	each := func(f func(acc VecPhysical, mem Mem)) {
		MOVQ(RAX, R14)
		for i := range rows {
			if i == 1 {
				MOVQ(R11, R14)
			}
			for j := range cols {
				f(acc[i*cols+j], Mem{Base: R14})
				if j < cols-1 {
					ADDQ(R12, R14)
				}
			}
		}
	}
	Label(name("tile"))
	for _, v := range acc {
		tg.zero(v)
	}
	TESTQ(R13, R13)
	JZ(LabelRef(name("tap")))
	each(func(acc VecPhysical, mem Mem) { VMOVUPS(mem, acc) })
	Label(name("tap"))
	MOVQ(Mem{Base: RDI}, R9)
	ADDQ(RSI, R9)
	for i, v := range k {
		VMOVUPS(Mem{Base: RDX, Disp: i * tg.bytes()}, v)
	}
	at := []GPPhysical{R9, R10}
	if rows == 2 {
		LEAQ(Mem{Base: R9, Index: R8, Scale: 1}, R10)
	}
	for c := range cols + n - 1 {
		for i := range rows {
			pixel := Mem{Base: at[i], Disp: c * tg.bytes()}
			if n == 1 {
				VFMADD231PS(pixel, k[0], acc[i*cols+c])
				continue
			}
			x := free[n+(rows*c+i)%min(2, len(free)-n)]
			VMOVUPS(pixel, x)
			for tap := max(0, c-cols+1); tap <= min(c, n-1); tap++ {
				VFMADD231PS(x, k[tap], acc[i*cols+c-tap])
			}
		}
	}
	ADDQ(U32(n*tg.bytes()), RDX)
	ADDQ(Imm(8), RDI)
	DECQ(RCX)
	JNZ(LabelRef(name("tap")))
	each(func(acc VecPhysical, mem Mem) { VMOVUPS(acc, mem) })
	VZEROUPPER()
	RET()
}

// gather generates the function that copies n pixels to blocks. A pixel has 1 to lanes channels,
// and the other lanes of its block become zeros.
func (tg target) gather(lanes Mem) {
	TEXT("gather"+tg.suffix, NOSPLIT, "func(dst *float32, dstStep int, src *float32, srcStep, channels, n int)")
	Pragma("noescape")
	Doc("gather" + tg.suffix + " copies n ≥ 1 pixels to blocks. Steps are in bytes; see kernel.gather.")
	Load(Param("dst"), RDI)
	Load(Param("dstStep"), R8)
	Load(Param("src"), RSI)
	Load(Param("srcStep"), R9)
	Load(Param("channels"), R10)
	Load(Param("n"), RCX)
	v, m := tg.vec[0], tg.vec[1]
	CMPQ(R10, Imm(uint64(tg.lanes)))
	JE(LabelRef("whole"))
	if tg.lanes == 16 {
		MOVL(I32(-1), EAX)
		BZHIL(R10L, EAX, EAX)
		KMOVW(EAX, K1)
	} else {
		NEGQ(R10)
		LEAQ(lanes, RAX)
		VMOVUPS(Mem{Base: RAX, Disp: 32, Index: R10, Scale: 4}, m)
	}
	for _, whole := range []bool{false, true} {
		name := "partial"
		if whole {
			name = "whole"
		}
		Label(name)
		switch {
		case whole:
			VMOVUPS(Mem{Base: RSI}, v)
		case tg.lanes == 16:
			VMOVUPS_Z(Mem{Base: RSI}, K1, v)
		default:
			VMASKMOVPS(Mem{Base: RSI}, m, v)
		}
		VMOVUPS(v, Mem{Base: RDI})
		ADDQ(R9, RSI)
		ADDQ(R8, RDI)
		DECQ(RCX)
		JNZ(LabelRef(name))
		VZEROUPPER()
		RET()
	}
}
