package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const convertISA = "AVX512_BF16"

// packBF16 generates the packing of operands of the AMX kernel. A lane is a row of A or a column of
// B. A tile of A has the 32 steps of a lane in each row. A tile of B has a pair of steps of all
// lanes in each row. There is a function for each of the two tiles, and for matrices in which the
// steps (along) or the lanes (across) are contiguous.
func packBF16() {
	// The order that joins the steps of a pair: the lanes of the first step are in the low half.
	order := GLOBL("pairs", RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(uint32(i|(16+i)<<16)))
	}
	alongA()
	alongB()
	across("acrossB", false, order)
	across("acrossA", true, order)
}

// packBF16Args loads the arguments of a packing function.
func packBF16Args() {
	Load(Param("dst"), RDI)
	Load(Param("step"), R8)
	Load(Param("src"), RSI)
	Load(Param("lds"), R9)
	Load(Param("n"), RBX)
	Load(Param("k"), RCX)
}

const packBF16Signature = "func(dst *float32, step int, src *float32, lds int, n, k int)"

// packBF16Masks sets K1 and K2 to the masks of the lower and the upper half of r steps, 0 < r < 32.
func packBF16Masks(r GPPhysical) {
	MOVL(I32(-1), EAX)
	BZHIL(r.As32(), EAX, EAX)
	KMOVW(EAX, K1)
	SHRL(Imm(16), EAX)
	KMOVW(EAX, K2)
}

// convert loads 32 float32s at mem, and the high half at mem+64, and rounds them into v. If masked
// is set, it reads only those of K1 and K2. tmp is overwritten.
func convert(base GPPhysical, index Mem, masked bool, v, tmp VecPhysical) {
	low := index
	low.Base = base
	high := low
	high.Disp += 64
	if masked {
		VMOVUPS_Z(low, K1, v)
		VMOVUPS_Z(high, K2, tmp)
	} else {
		VMOVUPS(low, v)
		VMOVUPS(high, tmp)
	}
	toBFloat16(v, tmp, v).emit(convertISA)
}

// alongA generates the packing of tiles of A from contiguous steps.
func alongA() {
	TEXT("alongA", NOSPLIT, packBF16Signature)
	Pragma("noescape")
	Doc("alongA packs n rows of k contiguous steps, lds bytes apart, into tiles of A, step bytes apart.")
	packBF16Args()
	MOVQ(RCX, R10)
	ANDQ(Imm(31), R10) // steps of the last tile
	packBF16Masks(R10)
	SHRQ(Imm(5), RCX)
	Label("row")
	MOVQ(RSI, R11)
	MOVQ(RDI, R12)
	MOVQ(RCX, R13)
	TESTQ(R13, R13)
	JZ(LabelRef("tail"))
	Label("tile")
	convert(R11, Mem{}, false, Z0, Z1)
	VMOVUPS(Z0, Mem{Base: R12})
	ADDQ(Imm(128), R11)
	ADDQ(R8, R12)
	DECQ(R13)
	JNZ(LabelRef("tile"))
	Label("tail")
	TESTQ(R10, R10)
	JZ(LabelRef("next"))
	convert(R11, Mem{}, true, Z0, Z1)
	VMOVUPS(Z0, Mem{Base: R12})
	Label("next")
	ADDQ(R9, RSI)
	ADDQ(Imm(tileRow), RDI)
	DECQ(RBX)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// alongB generates the packing of tiles of B from contiguous steps: the transposition of tiles of
// A.
func alongB() {
	tg := targets[1]
	TEXT("alongB", NOSPLIT, packBF16Signature)
	Pragma("noescape")
	Doc("alongB packs n columns of k contiguous steps, lds bytes apart, into tiles of B, step bytes apart.",
		"Columns after the first n are 0.")
	packBF16Args()
	LEAQ(Mem{Base: R9, Index: R9, Scale: 2}, R10)  // 3 columns
	LEAQ(Mem{Base: R9, Index: R9, Scale: 4}, R11)  // 5 columns
	LEAQ(Mem{Base: R10, Index: R9, Scale: 4}, R12) // 7 columns
	LEAQ(Mem{Base: RSI, Index: R9, Scale: 8}, R13) // column 8
	offset := []Mem{{}, {Index: R9, Scale: 1}, {Index: R9, Scale: 2}, {Index: R10, Scale: 1},
		{Index: R9, Scale: 4}, {Index: R11, Scale: 1}, {Index: R10, Scale: 2}, {Index: R12, Scale: 1}}
	for _, name := range []string{"tile", "tail"} {
		whole := name == "tile"
		Label(name)
		if whole {
			CMPQ(RCX, Imm(32))
			JL(LabelRef("tail"))
		} else {
			TESTQ(RCX, RCX)
			JZ(LabelRef("done"))
			packBF16Masks(RCX)
		}
		for i := range 16 {
			tg.zero(tg.vec[i])
		}
		for i := range 16 {
			if i > 0 {
				CMPQ(RBX, Imm(uint64(i)))
				JLE(LabelRef(name + "loaded"))
			}
			base := RSI
			if i >= 8 {
				base = R13
			}
			convert(base, offset[i%8], !whole, tg.vec[i], tg.vec[16])
		}
		Label(name + "loaded")
		for p, v := range tg.square() {
			VMOVUPS(v, Mem{Base: RDI, Disp: tileRow * p})
		}
		if whole {
			ADDQ(Imm(128), RSI)
			ADDQ(Imm(128), R13)
			ADDQ(R8, RDI)
			SUBQ(Imm(32), RCX)
			JMP(LabelRef("tile"))
		}
	}
	Label("done")
	VZEROUPPER()
	RET()
}

// across generates the packing of contiguous lanes into tiles of A or B.
func across(function string, a bool, order Mem) {
	tg := targets[1]
	TEXT(function, NOSPLIT, packBF16Signature)
	Pragma("noescape")
	if a {
		Doc("acrossA packs k steps of n contiguous rows, lds bytes apart, into tiles of A, step bytes apart.",
			"Rows after the first n are 0.")
	} else {
		Doc("acrossB packs k steps of n contiguous columns, lds bytes apart, into tiles of B, step bytes",
			"apart. Columns after the first n are 0.")
	}
	packBF16Args()
	tg.mask(Mem{}, RBX, nil)
	LEAQ(order, R10)
	for _, name := range []string{"tile", "tail"} {
		whole := name == "tile"
		Label(name)
		if whole {
			CMPQ(RCX, Imm(32))
			JL(LabelRef("tail"))
		} else {
			TESTQ(RCX, RCX)
			JZ(LabelRef("done"))
		}
		permutation, low, high := tg.vec[31], tg.vec[16], tg.vec[17]
		VMOVDQU32(Mem{Base: R10}, permutation)
		if !whole {
			for i := range 16 {
				tg.zero(tg.vec[i])
			}
		}
		for i := range 16 {
			v := tg.vec[i]
			if !whole {
				CMPQ(RCX, Imm(uint64(2*i)))
				JLE(LabelRef("tailloaded"))
				tg.zero(high)
			}
			VMOVUPS_Z(Mem{Base: RSI}, K1, low)
			if !whole {
				CMPQ(RCX, Imm(uint64(2*i+1)))
				JLE(LabelRef(fmt.Sprint("tailodd", i)))
			}
			VMOVUPS_Z(Mem{Base: RSI, Index: R9, Scale: 1}, K1, high)
			if !whole {
				Label(fmt.Sprint("tailodd", i))
			}
			LEAQ(Mem{Base: RSI, Index: R9, Scale: 2}, RSI)
			toBFloat16(low, high, low).emit(convertISA)
			VPERMW(low, permutation, v)
		}
		if !whole {
			Label("tailloaded")
		}
		out := tg.vec[:16]
		if a {
			out = tg.square()
		}
		for p, v := range out {
			VMOVUPS(v, Mem{Base: RDI, Disp: tileRow * p})
		}
		if whole {
			ADDQ(R8, RDI)
			SUBQ(Imm(32), RCX)
			JMP(LabelRef("tile"))
		}
	}
	Label("done")
	VZEROUPPER()
	RET()
}
