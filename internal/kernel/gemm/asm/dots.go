package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dots generates the kernel for narrow products: inner products of rows of A with 8 contiguous
// columns of B. It computes three rows at the same time if there are enough registers.
func (tg target) dots(lanes Mem) {
	TEXT("dots"+tg.suffix, NOSPLIT, "func(t *tile)")
	Pragma("noescape")
	rows := "one row of A"
	if tg.dotRows() > 1 {
		rows = fmt.Sprintf("mr rows of A, 1 or %d,", tg.dotRows())
	}
	Doc(fmt.Sprintf("dots%s computes the inner products of %s and 8 columns of B;", tg.suffix, rows),
		"see kernel.dots.")
	addr := fields()
	MOVQ(addr("mr"), R9)
	MOVQ(addr("n"), R10)
	MOVQ(addr("a"), RSI)
	MOVQ(addr("lda"), R13)
	MOVQ(addr("b"), RDX)
	MOVQ(addr("k"), RCX)
	MOVQ(addr("ldb"), R8)
	if tg.dotRows() > 1 {
		CMPQ(R9, Imm(1))
		JE(LabelRef("one"))
		tg.dotVariant(lanes, addr, tg.dotRows(), "some")
		Label("one")
	}
	tg.dotVariant(lanes, addr, 1, "one")
}

// dotRows returns the number of rows that are computed at the same time. The registers hold 8 sums
// for each of them.
func (tg target) dotRows() int {
	if tg.lanes == 16 {
		return 3
	}
	return 1
}

// dotVariant generates the code for m rows. Its labels start with kind.
func (tg target) dotVariant(lanes Mem, addr func(string) Mem, m int, kind string) {
	name := func(s string) string { return kind + s }
	acc := func(i, j int) VecPhysical { return tg.vec[8*i+j] }
	a := tg.vec[8*tg.dotRows():]
	b, mask := a[m], a[m+1]
	LEAQ(Mem{Base: R8, Index: R8, Scale: 2}, R9)  // 3 columns
	LEAQ(Mem{Base: R8, Index: R8, Scale: 4}, R11) // 5 columns
	LEAQ(Mem{Base: R9, Index: R8, Scale: 4}, R12) // 7 columns
	column := []Mem{{Base: RDX}, {Base: RDX, Index: R8, Scale: 1}, {Base: RDX, Index: R8, Scale: 2},
		{Base: RDX, Index: R9, Scale: 1}, {Base: RDX, Index: R8, Scale: 4}, {Base: RDX, Index: R11, Scale: 1},
		{Base: RDX, Index: R9, Scale: 2}, {Base: RDX, Index: R12, Scale: 1}}
	row := []Mem{{Base: RSI}, {Base: RSI, Index: R13, Scale: 1}, {Base: RSI, Index: R13, Scale: 2}}

	for _, v := range tg.vec[:8*m] {
		tg.zero(v)
	}
	products := func() {
		for j := range 8 {
			VMOVUPS(column[j], b)
			for i := range m {
				VFMADD231PS(b, a[i], acc(i, j))
			}
		}
	}
	// Prefetch the next m rows while these rows are multiplied.
	next := []Mem{{Base: RBX}, {Base: RBX, Index: R13, Scale: 1}, {Base: RBX, Index: R13, Scale: 2}}
	MOVQ(RSI, RBX)
	for range m {
		ADDQ(R13, RBX)
	}
	SUBQ(Imm(uint64(tg.lanes)), RCX)
	JL(LabelRef(name("tail")))
	Label(name("step"))
	for i := range m {
		VMOVUPS(row[i], a[i])
		PREFETCHT0(next[i])
	}
	products()
	ADDQ(Imm(uint64(tg.bytes())), RSI)
	ADDQ(Imm(uint64(tg.bytes())), RBX)
	ADDQ(Imm(uint64(tg.bytes())), RDX)
	SUBQ(Imm(uint64(tg.lanes)), RCX)
	JGE(LabelRef(name("step")))
	Label(name("tail"))
	ADDQ(Imm(uint64(tg.lanes)), RCX)
	JZ(LabelRef(name("sum")))
	tg.mask(lanes, RCX, mask)
	for i := range m {
		tg.load(row[i], mask, a[i])
	}
	products()
	Label(name("sum"))

	// Reduce the 8 registers of row i to one register with 8 sums, y(i).
	y := func(i int) VecPhysical { return tg.vec[i].AsY().(VecPhysical) }
	half := y(len(tg.vec) - 1)
	for i := range m {
		// Horizontal additions can use only the first 16 registers.
		to := 8 * min(i, 1)
		if tg.lanes == 16 {
			for j := range 8 {
				VEXTRACTF64X4(Imm(1), acc(i, j), half)
				VADDPS(half, y(8*i+j), y(to+j))
			}
		}
		for j := 0; j < 8; j += 2 {
			VHADDPS(y(to+j+1), y(to+j), y(to+j))
		}
		for j := 0; j < 8; j += 4 {
			VHADDPS(y(to+j+2), y(to+j), y(to+j))
		}
		VPERM2F128(Imm(0x20), y(to+4), y(to), y(to+1))
		VPERM2F128(Imm(0x31), y(to+4), y(to), y(to+2))
		VADDPS(y(to+1), y(to+2), y(i))
	}

	sums := target{tg.suffix, tg.lanes, tg.mr, nil}
	for i := range tg.vec {
		sums.vec = append(sums.vec, y(i))
	}
	free := sums.vec[len(sums.vec)-3:]
	if tg.lanes == 8 {
		CMPQ(R10, Imm(8))
		JE(LabelRef(name("full")))
	}
	tg.mask(lanes, R10, free[2])
	sums.writeBack(addr, name, "", m, 1, free[0], free[1], free[2])
	if tg.lanes == 8 {
		Label(name("full"))
		sums.writeBack(addr, name, "full", m, 1, free[0], free[1], nil)
	}
}
