package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// fields returns a function that returns the address of a field of the tile that the argument t
// points to.
func fields() func(name string) Mem {
	t := Dereference(Param("t"))
	return func(name string) Mem {
		b, err := t.Field(name).Resolve()
		if err != nil {
			panic(err)
		}
		return b.Addr
	}
}

// tile generates the micro-kernel. It has one variant for each number of rows up to mr and for each
// of one and two registers of columns. The sums stay in registers over the whole depth. Each step
// loads a row of the panel and broadcasts the elements of a column of the strip one after the
// other. The strip is packed or is read in place from A.
func (tg target) tile(lanes Mem) {
	TEXT("tile"+tg.suffix, NOSPLIT, "func(t *tile)")
	Pragma("noescape")
	Doc("tile" + tg.suffix + " is the micro-kernel; see the type tile.")
	addr := fields()
	MOVQ(addr("mr"), R9)
	MOVQ(addr("n"), R10)
	tg.operands(addr)
	CMPQ(R10, Imm(uint64(tg.lanes)))
	JG(LabelRef("wide"))
	for nv := 1; nv <= 2; nv++ {
		if nv == 2 {
			Label("wide")
		}
		for m := tg.mr; m > 1; m-- {
			CMPQ(R9, Imm(uint64(m)))
			JE(LabelRef(fmt.Sprintf("rows%dx%d", m, nv)))
		}
		for m := 1; m <= tg.mr; m++ {
			tg.variant(lanes, addr, m, nv)
		}
	}
}

// operands loads the addresses of the strip and the panel of a tile, the depth and the strides of
// the panel.
func (tg target) operands(addr func(string) Mem) {
	MOVQ(addr("a"), RSI)
	MOVQ(addr("b"), RDX)
	MOVQ(addr("k"), RCX)
	MOVQ(addr("ldb"), R8)
	MOVQ(addr("ahead"), R11)
}

// variant generates the code for m rows and nv registers of columns.
func (tg target) variant(lanes Mem, addr func(string) Mem, m, nv int) {
	name := func(s string) string { return fmt.Sprintf("%s%dx%d", s, m, nv) }
	acc := func(i, v int) VecPhysical { return tg.vec[i*nv+v] }
	free := tg.vec[len(tg.vec)-4:]
	b, a := free[:2], free[2:]

	Label(name("rows"))
	// Prefetch the rows of the destination. A prefetch of all rows at once would delay the loads of
	// the strip and the panel. With AVX-512, a step has 28 multiply-adds and enough time to
	// prefetch one row. With AVX2, a step has only 12, so all rows are prefetched first.
	dst, spread := R15, tg.lanes == 16
	if spread {
		MOVQ(addr("dst"), dst)
	} else {
		tg.fetch(addr("dst"), addr("ldd"), m, nv)
	}
	// The residual is not in the cache either.
	CMPQ(addr("residual"), Imm(0))
	JE(LabelRef(name("fetched")))
	tg.fetch(addr("residual"), addr("ldr"), m, nv)
	Label(name("fetched"))
	for _, v := range tg.vec[:m*nv] {
		tg.zero(v)
	}
	Label(name("term"))
	TESTQ(RCX, RCX)
	JZ(LabelRef(name("sum")))
	// One pointer with its index registers addresses five rows of A.
	row, row3, next := RAX, RBX, R9
	rows := []GPPhysical{RSI, R12, R13}[:(m+4)/5]
	MOVQ(addr("lda"), row)
	MOVQ(addr("step"), next)
	MOVQ(addr("fetch"), R14)
	MOVQ(addr("fetchStep"), R10)
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, row3)
	for q := 1; q < len(rows); q++ {
		LEAQ(Mem{Base: rows[q-1], Index: row, Scale: 4}, rows[q])
		ADDQ(row, rows[q])
	}
	element := func(i int) Mem {
		at := Mem{Base: rows[i/5]}
		switch r := i % 5; r {
		case 1, 2, 4:
			at.Index, at.Scale = row, uint8(r)
		case 3:
			at.Index, at.Scale = row3, 1
		}
		return at
	}
	Label(name("step"))
	for v := range nv {
		VMOVUPS(Mem{Base: RDX, Disp: v * tg.bytes()}, b[v])
		PREFETCHT0(Mem{Base: RDX, Index: R11, Scale: 1, Disp: v * tg.bytes()})
	}
	PREFETCHT0(Mem{Base: R14})
	ADDQ(R10, R14)
	if spread {
		for v := range nv {
			PREFETCHT0(Mem{Base: dst, Disp: v * tg.bytes()})
		}
		ADDQ(addr("ldd"), dst)
		CMPQ(dst, addr("last"))
		CMOVQHI(addr("dst"), dst) // start again at the first row
	}
	for i := range m {
		VBROADCASTSS(element(i), a[i&1])
		for v := range nv {
			VFMADD231PS(b[v], a[i&1], acc(i, v))
		}
	}
	for _, p := range rows {
		ADDQ(next, p)
	}
	ADDQ(R8, RDX)
	DECQ(RCX)
	JNZ(LabelRef(name("step")))
	Label(name("sum"))
	// Continue with the next tile of the list, which adds to the same sums.
	this := addr("next").Base
	MOVQ(addr("next"), RAX)
	TESTQ(RAX, RAX)
	JZ(LabelRef(name("summed")))
	MOVQ(RAX, this)
	tg.operands(addr)
	JMP(LabelRef(name("term")))
	Label(name("summed"))
	MOVQ(NewParamAddr("t", 0), this)

	// The registers of the panel and the strip are free now. They hold the temporaries tmp and
	// scale and the mask for the last register of a row.
	tmp, scale, mask := free[0], free[1], free[2]
	MOVQ(addr("n"), R10)
	if nv == 2 {
		SUBQ(Imm(uint64(tg.lanes)), R10)
	}
	full := tg.lanes == 8
	if full {
		CMPQ(R10, Imm(uint64(tg.lanes)))
		JE(LabelRef(name("full")))
	}
	tg.mask(lanes, R10, mask)
	tg.writeBack(addr, name, "", m, nv, tmp, scale, mask)
	if full {
		Label(name("full"))
		tg.writeBack(addr, name, "full", m, nv, tmp, scale, nil)
	}
}

// fetch generates the prefetching of the rows of a tile, which are ld bytes apart.
func (tg target) fetch(ptr, ld Mem, m, nv int) {
	MOVQ(ptr, RAX)
	MOVQ(ld, RBX)
	for i := range m {
		for v := range nv {
			PREFETCHT0(Mem{Base: RAX, Disp: v * tg.bytes()})
		}
		if i < m-1 {
			ADDQ(RBX, RAX)
		}
	}
}

// writeBack generates dst = alpha·sum + gamma·src + bias + residual. The last register of a row is
// masked, unless mask is nil.
func (tg target) writeBack(addr func(string) Mem, label func(string) string, kind string, m, nv int, tmp, scale, mask VecPhysical) {
	name := func(s string) string { return label(s + kind) }
	acc := func(i, v int) VecPhysical { return tg.vec[i*nv+v] }
	masked := func(v int) bool { return mask != nil && v == nv-1 }
	// each calls f for every register of every row of a matrix. ptr and ld name the fields of the
	// tile that hold its address and its row stride. If skip is not empty, the generated code jumps
	// to this label if the address is nil.
	each := func(ptr, ld, skip string, f func(i, v int, mem Mem)) {
		MOVQ(addr(ptr), RAX)
		if skip != "" {
			TESTQ(RAX, RAX)
			JZ(LabelRef(name(skip)))
		}
		MOVQ(addr(ld), RBX)
		for i := range m {
			for v := range nv {
				f(i, v, Mem{Base: RAX, Disp: v * tg.bytes()})
			}
			if i < m-1 {
				ADDQ(RBX, RAX)
			}
		}
		if skip != "" {
			Label(name(skip))
		}
	}

	MOVL(addr("alpha"), EAX)
	CMPL(EAX, U32(0x3f800000)) // 1.0
	JE(LabelRef(name("scaled")))
	VBROADCASTSS(addr("alpha"), scale)
	for i := range m {
		for v := range nv {
			VMULPS(scale, acc(i, v), acc(i, v))
		}
	}
	Label(name("scaled"))

	VBROADCASTSS(addr("gamma"), scale)
	each("src", "lds", "added", func(i, v int, mem Mem) {
		if masked(v) {
			tg.load(mem, mask, tmp)
			VFMADD231PS(tmp, scale, acc(i, v))
		} else {
			VFMADD231PS(mem, scale, acc(i, v))
		}
	})

	MOVQ(addr("bias"), RAX)
	TESTQ(RAX, RAX)
	JZ(LabelRef(name("biased")))
	for v := range nv {
		mem := Mem{Base: RAX, Disp: v * tg.bytes()}
		if masked(v) {
			tg.load(mem, mask, tmp)
		} else {
			VMOVUPS(mem, tmp)
		}
		for i := range m {
			VADDPS(tmp, acc(i, v), acc(i, v))
		}
	}
	Label(name("biased"))

	each("residual", "ldr", "whole", func(i, v int, mem Mem) {
		if masked(v) {
			tg.load(mem, mask, tmp)
			VADDPS(tmp, acc(i, v), acc(i, v))
		} else {
			VADDPS(mem, acc(i, v), acc(i, v))
		}
	})

	each("dst", "ldd", "", func(i, v int, mem Mem) {
		if masked(v) {
			tg.store(acc(i, v), mask, mem)
		} else {
			VMOVUPS(acc(i, v), mem)
		}
	})
	VZEROUPPER()
	RET()
}

// peak generates n rounds of independent multiply-adds. A round has one multiply-add for each
// register of sums of a tile.
func (tg target) peak() {
	TEXT("peak"+tg.suffix, NOSPLIT, "func(n int)")
	Doc(fmt.Sprintf("peak%s runs n rounds of %d multiply-adds of %d lanes.", tg.suffix, 2*tg.mr, tg.lanes))
	Load(Param("n"), RCX)
	for _, v := range tg.vec {
		tg.zero(v)
	}
	Label("round")
	for i := range 2 * tg.mr {
		VFMADD231PS(tg.vec[2*tg.mr], tg.vec[2*tg.mr+1], tg.vec[i])
	}
	DECQ(RCX)
	JNZ(LabelRef("round"))
	VZEROUPPER()
	RET()
}
