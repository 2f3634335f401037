package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	tileISA = "AMX-BF16"
	// tileRow and tileBytes are the size of a row of a tile and of a tile in bytes.
	tileRow   = 64
	tileBytes = 16 * tileRow
)

// acc is the tile of sums for the tile i of the strip and the tile j of the panel.
func acc(i, j int) tmm { return tmm(2*i + j) }

// stripTile and panelTile are the tiles that hold a step of the strip and of the panel.
func stripTile(i int) tmm { return tmm(4 + i) }
func panelTile(j int) tmm { return tmm(6 + j) }

// Registers of both kernels that compute a strip, this one and the one for AVX512-BF16.
var (
	stripArgs      = RDI // the argument t
	stripTerm      = R14 // the product that is computed now
	stripA, stripB = RSI, RDX
	stripDst       = R11
	stripSrc       = R12
	stripRes       = R13
	stripColumns   = R15                      // number of columns that are not computed
	stripMask      = []OpmaskPhysical{K1, K2} // columns of the panel that exist
)

// Other registers of this kernel.
var (
	amxSteps  = RCX
	amxStride = R8  // row stride of a tile of an operand
	amxSum    = R9  // next row of the sums that are written
	amxLeft   = R10 // number of rows that are not written
	amxBias   = []VecPhysical{Z10, Z11}
	amxAlpha  = Z12
	amxGamma  = Z13
)

// amx generates the kernel for processors with AMX-BF16. It computes a strip of C, up to 32 rows
// and any number of columns, in panels of 32 columns. The tile unit multiplies a panel while the
// other units write the sums of the panel before it.
func amx() {
	// All tiles have 16 rows of 64 bytes, see LDTILECFG in the Intel Software Developer's Manual.
	config := GLOBL("tileConfig", RODATA|NOPTR)
	DATA(0, U64(1)) // palette 1
	DATA(8, U64(0))
	for i := range 4 {
		columns := uint64(tileRow * 0x0001_0001_0001_0001)
		if i > 1 {
			columns = 0
		}
		DATA(16+8*i, U64(columns))
	}
	DATA(48, U64(0x1010_1010_1010_1010))
	DATA(56, U64(0))

	TEXT("stripAMX", NOSPLIT, "func(t *strip)")
	Pragma("noescape")
	Doc("stripAMX computes a strip of C; see the type strip.")
	Load(Param("t"), stripArgs)
	addr := stripField(stripArgs)
	// fetchDst is the next row of the panel that is prefetched. fetchA and fetchB are the next
	// lines of the memory that the next strips need.
	fetch := amxFetch{AllocLocal(8), AllocLocal(8), AllocLocal(8)}
	for _, f := range []struct {
		field string
		local Mem
	}{{"fetchA", fetch.a}, {"fetchB", fetch.b}} {
		MOVQ(addr(f.field), RAX)
		MOVQ(RAX, f.local)
	}
	// at is the distance of the panel from the first panel in a row of C, in bytes.
	at := AllocLocal(8)
	MOVQ(U32(0), at)
	MOVQ(addr("n"), stripColumns)
	LEAQ(config, RAX)
	loadTileConfig(RAX).emit(tileISA)
	MOVQ(U32(tileRow), amxStride)
	XORQ(amxLeft, amxLeft)
	VBROADCASTSS(addr("alpha"), amxAlpha)
	VBROADCASTSS(addr("gamma"), amxGamma)

	Label("panel")
	MOVQ(addr("dst"), RAX)
	ADDQ(at, RAX)
	MOVQ(RAX, fetch.dst)
	CMPQ(addr("mr"), Imm(16))
	JG(LabelRef("tall"))
	CMPQ(stripColumns, Imm(16))
	JG(LabelRef("sums1x2"))
	amxPanel(addr, at, fetch, 1, 1)
	amxPanel(addr, at, fetch, 1, 2)
	Label("tall")
	CMPQ(stripColumns, Imm(16))
	JG(LabelRef("sums2x2"))
	amxPanel(addr, at, fetch, 2, 1)
	amxPanel(addr, at, fetch, 2, 2)

	// The sums of the panel are in the memory sums. Prepare to write them.
	Label("summed")
	MOVQ(addr("mr"), amxLeft)
	MOVQ(addr("sums"), amxSum)
	stripMasks()
	MOVQ(at, RBX)
	ADDQ(U32(2*tileRow), at)
	MOVQ(addr("dst"), stripDst)
	ADDQ(RBX, stripDst)
	stripPointer(addr, "src", RBX, stripSrc)
	stripPointer(addr, "residual", RBX, stripRes)
	stripPointer(addr, "bias", RBX, RAX)
	for _, v := range amxBias {
		VPXORD(v, v, v)
	}
	TESTQ(RAX, RAX)
	JZ(LabelRef("biased"))
	for j, v := range amxBias {
		VMOVUPS_Z(Mem{Base: RAX, Disp: j * tileRow}, stripMask[j], v)
	}
	Label("biased")
	SUBQ(Imm(32), stripColumns)
	JG(LabelRef("panel"))
	amxWrite(addr, "last")
	tileRelease().emit(tileISA)
	VZEROUPPER()
	RET()
}

// stripField returns a function that returns the address of a field of the strip at r.
func stripField(r Register) func(name string) Mem {
	t := Param("t").Dereference(r)
	return func(name string) Mem {
		b, err := t.Field(name).Resolve()
		if err != nil {
			panic(err)
		}
		return b.Addr
	}
}

// stripMasks sets stripMask to the columns of the panel that exist. It overwrites RAX.
func stripMasks() {
	MOVQ(I32(-1), RAX)
	CMPQ(stripColumns, Imm(32))
	JGE(LabelRef("masked"))
	BZHIQ(stripColumns, RAX, RAX)
	Label("masked")
	KMOVW(EAX, stripMask[0])
	SHRQ(Imm(16), RAX)
	KMOVW(EAX, stripMask[1])
}

// stripPointer sets r to the address in a field of the strip plus at, or to nil if the address is
// nil.
func stripPointer(addr func(string) Mem, field string, at Op, r GPPhysical) {
	MOVQ(addr(field), r)
	TESTQ(r, r)
	JZ(LabelRef("no" + field))
	ADDQ(at, r)
	Label("no" + field)
}

// stripPanel sets stripB to the panel of the current product whose distance in a row of C is at.
func stripPanel(field func(string) Mem, at Mem) {
	MOVQ(at, stripB)
	SHRQ(Imm(7), stripB)
	IMULQ(field("panel"), stripB)
	ADDQ(field("b"), stripB)
}

// amxFetch holds the local variables of the prefetch.
type amxFetch struct{ dst, a, b Mem }

// lines generates the prefetch of a number of cache lines, which a field holds, starting at local.
func (amxFetch) lines(name string, local, count Mem) {
	MOVQ(count, RBX)
	TESTQ(RBX, RBX)
	JZ(LabelRef(name + "done"))
	MOVQ(local, RAX)
	Label(name)
	PREFETCHT1(Mem{Base: RAX})
	ADDQ(Imm(64), RAX)
	DECQ(RBX)
	JNZ(LabelRef(name))
	MOVQ(RAX, local)
	Label(name + "done")
}

// rows generates the prefetch of some rows of the panel.
func (f amxFetch) rows(name string, addr func(string) Mem) {
	MOVQ(addr("rate"), RBX)
	MOVQ(f.dst, RAX)
	Label(name)
	PREFETCHT0(Mem{Base: RAX})
	PREFETCHT0(Mem{Base: RAX, Disp: tileRow})
	ADDQ(addr("ldd"), RAX)
	DECQ(RBX)
	JNZ(LabelRef(name))
	MOVQ(RAX, f.dst)
}

// amxPanel generates the products of a panel: mt tiles of the strip by nt tiles of the panel. It
// stores the sums after the sums of the panel before are written.
func amxPanel(addr func(string) Mem, at Mem, fetch amxFetch, mt, nt int) {
	name := func(s string) string { return fmt.Sprintf("%s%dx%d", s, mt, nt) }
	field := stripField(stripTerm) // of the current product
	Label(name("sums"))
	for i := range mt {
		for j := range nt {
			tileZero(acc(i, j)).emit(tileISA)
		}
	}
	MOVQ(stripArgs, stripTerm)
	Label(name("term"))
	MOVQ(field("a"), stripA)
	stripPanel(field, at)
	MOVQ(field("steps"), amxSteps)
	Label(name("step"))
	for i := range mt {
		tileLoad(stripTile(i), stripA, amxStride, int32(i*tileBytes)).emit(tileISA)
		for j := range nt {
			if i == 0 {
				tileLoad(panelTile(j), stripB, amxStride, int32(j*tileBytes)).emit(tileISA)
			}
			tileProduct(acc(i, j), stripTile(i), panelTile(j)).emit(tileISA)
		}
	}
	ADDQ(U32(uint32(mt*tileBytes)), stripA)
	ADDQ(U32(2*tileBytes), stripB)
	fetch.rows(name("fetchDst"), addr)
	fetch.lines(name("fetchA"), fetch.a, addr("linesA"))
	fetch.lines(name("fetchB"), fetch.b, addr("linesB"))
	// Write some rows of the panel before.
	MOVQ(addr("rate"), RBX)
	Label(name("write"))
	TESTQ(amxLeft, amxLeft)
	JZ(LabelRef(name("written")))
	amxWriteRow(addr, name("row"))
	DECQ(RBX)
	JNZ(LabelRef(name("write")))
	Label(name("written"))
	DECQ(amxSteps)
	JNZ(LabelRef(name("step")))
	MOVQ(field("next"), stripTerm)
	TESTQ(stripTerm, stripTerm)
	JNZ(LabelRef(name("term")))
	amxWrite(addr, name("rest"))
	MOVQ(addr("sums"), RAX)
	MOVQ(U32(2*tileRow), RBX)
	for i := range mt {
		for j := range nt {
			tileStore(RAX, RBX, int32(16*2*tileRow*i+tileRow*j), acc(i, j)).emit(tileISA)
		}
	}
	JMP(LabelRef("summed"))
}

// amxWrite generates the writing of all rows that are left.
func amxWrite(addr func(string) Mem, name string) {
	Label(name)
	TESTQ(amxLeft, amxLeft)
	JZ(LabelRef(name + "done"))
	amxWriteRow(addr, name+"row")
	JMP(LabelRef(name))
	Label(name + "done")
}

// amxWriteRow generates dst = alpha·sum + gamma·src + bias + residual for the next row.
func amxWriteRow(addr func(string) Mem, name string) {
	sums, tmp := []VecPhysical{Z0, Z1}, Z2
	for j, v := range sums {
		VMULPS(Mem{Base: amxSum, Disp: j * tileRow}, amxAlpha, v)
	}
	ADDQ(U32(2*tileRow), amxSum)
	TESTQ(stripSrc, stripSrc)
	JZ(LabelRef(name + "added"))
	for j, v := range sums {
		VMOVUPS_Z(Mem{Base: stripSrc, Disp: j * tileRow}, stripMask[j], tmp)
		VFMADD231PS(tmp, amxGamma, v)
	}
	ADDQ(addr("lds"), stripSrc)
	Label(name + "added")
	for j, v := range sums {
		VADDPS(amxBias[j], v, v)
	}
	TESTQ(stripRes, stripRes)
	JZ(LabelRef(name + "whole"))
	for j, v := range sums {
		VMOVUPS_Z(Mem{Base: stripRes, Disp: j * tileRow}, stripMask[j], tmp)
		VADDPS(tmp, v, v)
	}
	ADDQ(addr("ldr"), stripRes)
	Label(name + "whole")
	for j, v := range sums {
		VMOVUPS(v, stripMask[j], Mem{Base: stripDst, Disp: j * tileRow})
	}
	ADDQ(addr("ldd"), stripDst)
	DECQ(amxLeft)
}

// amxPeak generates n rounds of four independent tile products.
func amxPeak() {
	TEXT("peakAMX", NOSPLIT, "func(n int)")
	Doc("peakAMX runs n rounds of four products of tiles.")
	Load(Param("n"), RCX)
	LEAQ(NewDataAddr(Symbol{Name: "tileConfig", Static: true}, 0), RAX)
	loadTileConfig(RAX).emit(tileISA)
	for t := range tmm(8) {
		tileZero(t).emit(tileISA)
	}
	Label("round")
	for i := range 2 {
		for j := range 2 {
			tileProduct(acc(i, j), stripTile(i), panelTile(j)).emit(tileISA)
		}
	}
	DECQ(RCX)
	JNZ(LabelRef("round"))
	tileRelease().emit(tileISA)
	RET()
}
