package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// emitBlocks writes the table of the blocks that the 64-bit lanes begin with.
// Even lanes hold the first half of the blocks and odd lanes the second, so
// that interleaving the words of each pair of lanes leaves the blocks in their
// order.
func emitBlocks(name string, blocks int) Mem {
	table := GLOBL(name, attr.RODATA|attr.NOPTR)
	for i := range blocks {
		DATA(8*i, U64(i/2+i%2*blocks/2))
	}
	return table
}

// philox writes Philox4x32-10 for as many blocks at once as there are 64-bit
// lanes; a last group of fewer blocks is left to the caller. A lane holds one
// 32-bit word of its block in its low half. The upper half is never looked at,
// which saves all masking: VPMULUDQ reads low halves and leaves the two words
// of a product. keys are the ten round keys.
func philox() {
	tables := map[bool]Mem{true: emitBlocks("blocks8", 8), false: emitBlocks("blocks4", 4)}
	begin("philox", "(dst []uint32, keys *[20]uint32, n uint64, c2, c3 uint32)", func(k *kernel) {
		blocks := uint64(k.lanes / 2)
		dst := Load(Param("dst").Base(), GP64())
		left := Load(Param("dst").Len(), GP64())
		keys := Mem{Base: Load(Param("keys"), GP64())}
		n := k.repeat64(Load(Param("n"), GP64()))
		VPADDQ(tables[k.wide], n, n)
		word2 := k.repeat64(Load(Param("c2"), GP32()).(reg.GPVirtual).As64())
		word3 := k.repeat64(Load(Param("c3"), GP32()).(reg.GPVirtual).As64())
		mul0, mul1 := k.broadcast(bits(0xd2511f53)), k.broadcast(bits(0xcd9e8d57))
		count := GP64()
		MOVQ(U32(blocks), count)
		advance := k.repeat64(count)
		odd := K()
		if k.wide {
			MOVQ(U32(0xaaaa), count)
			KMOVW(count.As32(), odd)
		}

		SHRQ(Imm(2), left)
		SUBQ(Imm(blocks), left)
		JLT(LabelRef("done"))
		Label("loop")
		c0, c2, c3 := n, word2, word3
		c1 := k.shift(VPSRLQ, 32, n)
		for round := range 10 {
			p0, p1 := k.reg(), k.reg()
			VPMULUDQ(mul0, c0, p0)
			VPMULUDQ(mul1, c2, p1)
			c0 = k.xorKey(k.shift(VPSRLQ, 32, p1), c1, keys.Offset(8*round))
			c2 = k.xorKey(k.shift(VPSRLQ, 32, p0), c3, keys.Offset(8*round+4))
			c1, c3 = p1, p0
		}
		pair := func(low, high vec) vec {
			high = k.shift(VPSLLQ, 32, high)
			if k.wide {
				VPBLENDMD(high, low, odd, high)
			} else {
				VPBLENDD(Imm(0xaa), high, low, high)
			}
			return high
		}
		first, second := pair(c0, c1), pair(c2, c3)
		low, high := k.reg(), k.reg()
		VPUNPCKLQDQ(second, first, low)
		VPUNPCKHQDQ(second, first, high)
		out := Mem{Base: dst}
		VMOVUPS(low, out)
		VMOVUPS(high, out.Offset(4*k.lanes))
		ADDQ(Imm(uint64(8*k.lanes)), dst)
		VPADDQ(advance, n, n)
		SUBQ(Imm(blocks), left)
		JGE(LabelRef("loop"))
		Label("done")
	})
}

// repeat64 broadcasts a 64-bit register.
func (k *kernel) repeat64(r reg.Register) vec {
	x, v := XMM(), k.reg()
	MOVQ(r, x)
	VPBROADCASTQ(x, v)
	return v
}

// xorKey turns a into the exclusive or of a, b and 32 bits of memory.
func (k *kernel) xorKey(a, b vec, key Mem) vec {
	if k.wide {
		VPTERNLOGD_BCST(Imm(0x96), key, b, a)
		return a
	}
	r := YMM()
	VPBROADCASTD(key, r)
	VPXOR(r, b, r)
	VPXOR(r, a, a)
	return a
}
