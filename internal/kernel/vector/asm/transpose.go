package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// transpose writes the function that transposes 8 rows with 8·blocks columns, one block of 8 × 8
// after the other. The function needs AVX.
func transpose() {
	TEXT("transpose8", attr.NOSPLIT, "func(dst []float32, ldd int, src []float32, lds, blocks int)")
	Doc("transpose8 sets dst[j*ldd+i] = src[i*lds+j] for i < 8 and j < 8*blocks. It needs AVX.")
	Pragma("noescape")
	dst := Load(Param("dst").Base(), GP64())
	ldd := Load(Param("ldd"), GP64())
	src := Load(Param("src").Base(), GP64())
	lds := Load(Param("lds"), GP64())
	blocks := Load(Param("blocks"), GP64())
	SHLQ(Imm(2), ldd)
	SHLQ(Imm(2), lds)
	lds3, ldd3 := triple(lds), triple(ldd)
	lower, right := GP64(), GP64() // row 4 of src, row 4 of dst
	LEAQ(Mem{Base: src, Index: lds, Scale: 4}, lower)

	Label("loop")
	LEAQ(Mem{Base: dst, Index: ldd, Scale: 4}, right)
	for half, out := range []reg.Register{dst, right} {
		// Register row[i] holds four columns of the rows i and i+4.
		var row [4]vec
		for i, r := range rows(src, lds, lds3) {
			x := YMM()
			row[i] = YMM()
			VMOVUPS(r.Offset(16*half), x.AsX())
			VINSERTF128(Imm(1), rows(lower, lds, lds3)[i].Offset(16*half), x, row[i])
		}
		var t [4]vec
		for i := range t {
			t[i] = YMM()
		}
		VUNPCKLPS(row[1], row[0], t[0])
		VUNPCKHPS(row[1], row[0], t[1])
		VUNPCKLPS(row[3], row[2], t[2])
		VUNPCKHPS(row[3], row[2], t[3])
		for j, m := range rows(out, ldd, ldd3) {
			column := YMM()
			if j%2 == 0 {
				VUNPCKLPD(t[j/2+2], t[j/2], column)
			} else {
				VUNPCKHPD(t[j/2+2], t[j/2], column)
			}
			VMOVUPS(column, m)
		}
	}
	ADDQ(Imm(32), src)
	ADDQ(Imm(32), lower)
	LEAQ(Mem{Base: dst, Index: ldd, Scale: 8}, dst)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// triple returns a register with three times a stride.
func triple(stride reg.Register) reg.Register {
	r := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, r)
	return r
}

// rows returns the memory operands of four rows. stride3 is three times the stride.
func rows(base, stride, stride3 reg.Register) [4]Mem {
	return [4]Mem{
		{Base: base},
		{Base: base, Index: stride, Scale: 1},
		{Base: base, Index: stride, Scale: 2},
		{Base: base, Index: stride3, Scale: 1},
	}
}
