package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	philoxRounds = 10
	philoxMul0   = 0xd2511f53
	philoxMul1   = 0xcd9e8d57
	philoxKey0   = 0x9e3779b9
	philoxKey1   = 0xbb67ae85

	// philoxGroups is the number of groups of blocks that are computed at the same time. A round
	// needs the products of the round before, so a single group would wait for each product.
	philoxGroups = 2
)

// philox writes the functions that need random bits.
func philox() {
	first := map[bool]Mem{true: emitProducts("products8", 8), false: emitProducts("products4", 4)}
	random("philox", first, []string{"dst uint32"}, nil, func(_ *kernel, words vec, _, _ []vec) vec { return words })
	dropout := []string{"scale", "threshold uint32"}
	random("dropout", first, []string{"dst", "x"}, dropout, func(k *kernel, words vec, in, s []vec) vec { return k.mul(in[0], k.kept(words, s)) })
}

// emitProducts writes a table with the product philoxMul0·b of block b for every 64-bit lane of
// every group. In a group, even lanes hold the first half of the blocks, and odd lanes the second
// half. With this order, interleaving the words of each pair of lanes gives the blocks in order.
func emitProducts(name string, blocks int) Mem {
	table := GLOBL(name, attr.RODATA|attr.NOPTR)
	for i := range philoxGroups * blocks {
		b := i/blocks*blocks + i%blocks/2 + i%2*blocks/2
		DATA(8*i, U64(philoxMul0*uint64(b)))
	}
	return table
}

// generator holds the registers of Philox4x32-10 in a kernel.
type generator struct {
	*kernel
	product vec    // product of round 0 for the first block of this step
	first   Mem    // the table of emitProducts
	mul     [2]vec // philoxMul0 and philoxMul1
	keys    Mem    // keys that philoxKeys in package vector returns
	even    mask   // with AVX-512, the mask of the even 32-bit lanes
}

// random writes a function that computes dst from the words of Philox4x32-10, slices of equal
// length and scalars. The first name is dst, and the other names are inputs. The parameter product
// of the written function is philoxMul0 times the low word of the counter of the first block. The
// low word must not overflow before the last block.
func random(name string, first map[bool]Mem, names, scalars []string, body func(k *kernel, words vec, in, s []vec) vec) {
	defer neonRandom(name, names, scalars, body)
	begin(name, "("+params(names, scalars)+", keys *[20]uint32, product uint64)", func(k *kernel) {
		pointers := k.slices(names)
		n := Load(Param("dst").Len(), GP64()).(reg.GPVirtual)
		var s []vec
		for _, name := range scalars {
			s = append(s, k.scalar(name))
		}
		g := &generator{
			kernel:  k,
			product: k.repeat64(Load(Param("product"), GP64())),
			first:   first[k.wide],
			mul:     [2]vec{k.broadcast(bits(philoxMul0)), k.broadcast(bits(philoxMul1))},
			keys:    Mem{Base: Load(Param("keys"), GP64())},
		}
		if k.wide {
			lanes := GP32()
			MOVL(U32(0x5555), lanes)
			g.even = K()
			KMOVW(lanes, g.even)
		}
		vectors := 2 * philoxGroups
		words := uint64(vectors * k.lanes)
		index, advance := GP64(), GP64()
		MOVQ(U64(philoxMul0*words/4), advance)
		step := k.repeat64(advance)
		use := func(j int, words vec) {
			var in []vec
			for _, name := range names[1:] {
				in = append(in, k.load(pointers[name].at(index, j*k.lanes), 4))
			}
			k.store(body(k, words, in, s), pointers["dst"].at(index, j*k.lanes), 4)
		}

		XORQ(index, index)
		whole := GP64()
		MOVQ(n, whole)
		ANDQ(I32(-int32(words)), whole)
		JZ(LabelRef("tail"))
		Label("loop")
		for j, words := range g.words() {
			use(j, words)
		}
		VPADDQ(step, g.product, g.product)
		ADDQ(Imm(words), index)
		CMPQ(index, whole)
		JLT(LabelRef("loop"))

		Label("tail")
		SUBQ(index, n)
		JZ(LabelRef("done"))
		last := g.words()
		k.partials(n, vectors, func(j int) { use(j, last[j]) })
		Label("done")
	})
}

// words returns the next vectors of words. During the rounds, the low half of a 64-bit lane holds
// one 32-bit word of its block. No instruction uses the upper half, so no masking is needed:
// VPMULUDQ reads low halves and writes both words of a product.
//
// Only one product of each of the first two rounds differs between blocks. The product of round 0
// grows by a constant, so an addition replaces the multiplication. keys contains the results of the
// other two products.
func (g *generator) words() []vec {
	var state [philoxGroups][4]vec
	for i := range state {
		p0 := g.reg()
		VPADDQ(g.first.Offset(4*g.lanes*i), g.product, p0)
		p1 := g.multiply(1, g.xorKey(g.high(p0), g.key(1)))
		state[i] = [4]vec{g.xorKey(g.high(p1), g.key(2)), p1, g.xorKey(p0, g.key(3)), nil}
	}
	for round := 2; round < philoxRounds-1; round++ {
		for i, c := range state {
			p0, p1 := g.multiply(0, c[0]), g.multiply(1, c[2])
			state[i] = [4]vec{g.xor3(g.high(p1), c[1], g.key(2*round)), p1, g.xor3(g.high(p0), c[3], g.key(2*round+1)), p0}
		}
	}
	var words []vec
	for _, c := range state {
		first := g.pair(g.multiply(1, c[2]), c[1], g.key(2*philoxRounds-2))
		second := g.pair(g.multiply(0, c[0]), c[3], g.key(2*philoxRounds-1))
		low, high := g.reg(), g.reg()
		VPUNPCKLQDQ(second, first, low)
		VPUNPCKHQDQ(second, first, high)
		words = append(words, low, high)
	}
	return words
}

// key returns the memory operand of key word i.
func (g *generator) key(i int) Mem { return g.keys.Offset(4 * i) }

// high moves the upper half of each 64-bit lane to the low half.
func (g *generator) high(x vec) vec { return g.shift(VPSRLQ, 32, x) }

// multiply computes the 64-bit products of the low halves of x and g.mul[multiplier].
func (g *generator) multiply(multiplier int, x vec) vec {
	r := g.reg()
	VPMULUDQ(g.mul[multiplier], x, r)
	return r
}

// pair computes the last round for the two words of a product p. The first word is the XOR of the
// upper half of p, b and key. The second word is the lower half of p.
func (g *generator) pair(p, b vec, key Mem) vec {
	r := g.shift(VPSHUFD, 0xb1, p) // swaps the halves
	if g.wide {
		VPTERNLOGD_BCST(Imm(0x96), key, b, g.even, r)
		return r
	}
	first := g.xorKey(b, key)
	VPXOR(r, first, first)
	VPBLENDD(Imm(0xaa), r, first, first)
	return first
}

// xorKey computes the XOR of a and 32 bits of memory.
func (g *generator) xorKey(a vec, key Mem) vec {
	r := g.reg()
	if g.wide {
		VPXORD_BCST(key, a, r)
	} else {
		VPBROADCASTD(key, r)
		VPXOR(r, a, r)
	}
	return r
}

// xor3 computes the XOR of a, b and 32 bits of memory. A nil b stands for 0. It may overwrite a.
func (g *generator) xor3(a, b vec, key Mem) vec {
	switch {
	case b == nil:
		return g.xorKey(a, key)
	case g.wide:
		VPTERNLOGD_BCST(Imm(0x96), key, b, a)
		return a
	}
	VPXOR(g.xorKey(b, key), a, a)
	return a
}

// kept computes s[0] in the lanes whose words, as unsigned numbers, are at least s[1]. Other lanes
// are 0.
func (k *kernel) kept(words vec, s []vec) vec {
	if k.neon != nil {
		return k.and(k.neon.op(cmhs, words, s[1]), s[0])
	}
	r := k.reg()
	if k.wide {
		m := K()
		VPCMPUD(Imm(5), s[1], words, m) // 5: not less
		VMOVAPS_Z(s[0], m, r)
		return r
	}
	VPMAXUD(words, s[1], r)
	VPCMPEQD(words, r, r)
	return k.and(r, s[0])
}

// repeat64 broadcasts a 64-bit register to all 64-bit lanes.
func (k *kernel) repeat64(r reg.Register) vec {
	x, v := XMM(), k.reg()
	MOVQ(r, x)
	VPBROADCASTQ(x, v)
	return v
}
