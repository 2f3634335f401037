package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// copy generates the packing of a matrix in which the lanes of a step are contiguous.
func (tg target) copy(lanes Mem) {
	TEXT("copy"+tg.suffix, NOSPLIT, "func(dst *float32, ldd int, src *float32, lds int, n, k int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("copy%s writes k rows of %d lanes to dst, ldd bytes apart. The first n lanes come from the", tg.suffix, tg.lanes),
		"rows of src, which are lds bytes apart. The other lanes are 0.")
	Load(Param("dst"), RDI)
	Load(Param("ldd"), R8)
	Load(Param("src"), RSI)
	Load(Param("lds"), R9)
	Load(Param("n"), RBX)
	Load(Param("k"), RCX)
	v, mask := tg.vec[0], tg.vec[1]
	tg.mask(lanes, RBX, mask)
	// Prefetch the next rows. The caller packs them after all columns of these rows.
	MOVQ(R9, R10)
	IMULQ(RCX, R10)
	Label("row")
	tg.load(Mem{Base: RSI}, mask, v)
	PREFETCHT0(Mem{Base: RSI, Index: R10, Scale: 1})
	VMOVUPS(v, Mem{Base: RDI})
	ADDQ(R9, RSI)
	ADDQ(R8, RDI)
	DECQ(RCX)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// transpose generates the packing of a matrix in which the steps of a lane are contiguous. It
// transposes square blocks in registers.
func (tg target) transpose(lanes Mem) {
	TEXT("transpose"+tg.suffix, NOSPLIT, "func(dst *float32, ldd int, src *float32, lds int, n, k int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("transpose%s writes k rows of %d lanes to dst, ldd bytes apart. Lane i of row p is", tg.suffix, tg.lanes),
		"element p of row i of src for i < n, and 0 for other lanes. The rows of src are lds bytes apart.")
	Load(Param("dst"), RDI)
	Load(Param("ldd"), R8)
	Load(Param("src"), RSI)
	Load(Param("lds"), R9)
	Load(Param("n"), RBX)
	Load(Param("k"), RCX)
	LEAQ(Mem{Base: R9, Index: R9, Scale: 2}, R10)  // 3 rows
	LEAQ(Mem{Base: R9, Index: R9, Scale: 4}, R11)  // 5 rows
	LEAQ(Mem{Base: R10, Index: R9, Scale: 4}, R12) // 7 rows
	LEAQ(Mem{Base: RSI, Index: R9, Scale: 8}, R13) // row 8
	row := func(i int) Mem {
		m := Mem{Base: RSI, Scale: 1}
		if i >= 8 {
			m.Base = R13
		}
		switch i & 7 {
		case 0:
			m.Scale = 0
		case 1:
			m.Index = R9
		case 2:
			m.Index, m.Scale = R9, 2
		case 3:
			m.Index = R10
		case 4:
			m.Index, m.Scale = R9, 4
		case 5:
			m.Index = R11
		case 6:
			m.Index, m.Scale = R10, 2
		case 7:
			m.Index = R12
		}
		return m
	}
	w := tg.lanes
	for _, whole := range []bool{true, false} {
		name := "tail"
		if whole {
			name = "block"
		}
		Label(name)
		if whole {
			CMPQ(RCX, Imm(uint64(w)))
			JL(LabelRef("tail"))
		} else {
			TESTQ(RCX, RCX)
			JZ(LabelRef("done"))
			MOVQ(RCX, RDX)
			// the mask of AVX2, whose rows are in the registers 0 to 7
			tg.mask(lanes, RDX, tg.vec[15])
		}
		for i := range w {
			tg.zero(tg.vec[i])
		}
		// With AVX2, register 15 holds the mask until all rows are loaded. Then the transposition
		// overwrites the registers 8 to 15.
		for i := range w {
			if i > 0 {
				CMPQ(RBX, Imm(uint64(i)))
				JLE(LabelRef(name + "loaded"))
			}
			if whole {
				VMOVUPS(row(i), tg.vec[i])
			} else {
				tg.load(row(i), tg.vec[15], tg.vec[i])
			}
		}
		Label(name + "loaded")
		out := tg.square()
		for p := range w {
			if !whole && p > 0 {
				CMPQ(RCX, Imm(uint64(p)))
				JLE(LabelRef("done"))
			}
			VMOVUPS(out[p], Mem{Base: RDI})
			ADDQ(R8, RDI)
		}
		if whole {
			ADDQ(Imm(uint64(tg.bytes())), RSI)
			ADDQ(Imm(uint64(tg.bytes())), R13)
			SUBQ(Imm(uint64(w)), RCX)
			JMP(LabelRef("block"))
		}
	}
	Label("done")
	VZEROUPPER()
	RET()
}

// square generates the transposition of a square block in the first registers. It returns the
// registers that hold the rows of the result.
func (tg target) square() []VecPhysical {
	w := tg.lanes
	x, y := tg.vec[:w], tg.vec[w:2*w]
	// Transpose pairs of rows, then groups of four. Afterwards, the 128-bit part L of register 4g+c
	// holds column 4L+c of the rows 4g to 4g+3.
	for i := 0; i < w; i += 2 {
		VUNPCKLPS(x[i+1], x[i], y[i])
		VUNPCKHPS(x[i+1], x[i], y[i+1])
	}
	for i := 0; i < w; i += 4 {
		VUNPCKLPD(y[i+2], y[i], x[i])
		VUNPCKHPD(y[i+2], y[i], x[i+1])
		VUNPCKLPD(y[i+3], y[i+1], x[i+2])
		VUNPCKHPD(y[i+3], y[i+1], x[i+3])
	}
	if w == 8 {
		for c := range 4 {
			VPERM2F128(Imm(0x20), x[4+c], x[c], y[c])
			VPERM2F128(Imm(0x31), x[4+c], x[c], y[4+c])
		}
		return y
	}
	// Combine the 128-bit parts of the four groups, first the even groups, then the odd groups.
	for c := range 4 {
		even01, odd01, even23, odd23 := y[c], y[4+c], y[8+c], y[12+c]
		VSHUFF32X4(Imm(0x88), x[4+c], x[c], even01)
		VSHUFF32X4(Imm(0xdd), x[4+c], x[c], odd01)
		VSHUFF32X4(Imm(0x88), x[12+c], x[8+c], even23)
		VSHUFF32X4(Imm(0xdd), x[12+c], x[8+c], odd23)
		VSHUFF32X4(Imm(0x88), even23, even01, x[c])
		VSHUFF32X4(Imm(0x88), odd23, odd01, x[4+c])
		VSHUFF32X4(Imm(0xdd), even23, even01, x[8+c])
		VSHUFF32X4(Imm(0xdd), odd23, odd01, x[12+c])
	}
	return x
}
