package main

import (
	"fmt"
	"math"
	"strings"
)

// neonElementwise writes the NEON version of a function that [elementwise] writes. It processes
// four vectors at a time if the arithmetic of one vector is short, and a partial vector at the end.
func neonElementwise(name string, names, inputs, scalars []string, body func(k *kernel, in, s []vec) vec) {
	k := neonKernel(name, names, scalars, false)
	f := k.neon
	pointers := map[string]string{}
	for _, n := range names {
		base, _, _ := strings.Cut(n, " ")
		pointers[base] = f.param(base + "_base")
	}
	n, scratch := f.param("dst_len"), f.gp()
	var s []vec
	for _, name := range scalars {
		s = append(s, f.scalar(name))
	}
	f.hoist()
	// step processes the vector at the given offset in bytes. suffix ".P" advances the pointers.
	step := func(offset int, suffix string) {
		var in []vec
		for _, name := range inputs {
			advance := suffix
			if name == "dst" {
				advance = "" // the store advances it
			}
			if suffix != "" {
				offset = 16
			}
			at := fmt.Sprintf("%d(%s)", offset, pointers[name])
			if advance == "" && suffix != "" {
				at = fmt.Sprintf("(%s)", pointers[name])
			}
			in = append(in, f.load(at, advance))
		}
		if suffix != "" {
			offset = 16
		}
		f.store(body(k, in, s), fmt.Sprintf("%d(%s)", offset, pointers["dst"]), suffix)
	}

	before := len(f.lines) - f.prologue // hoisted constants are inserted before this line
	f.raw("\tSUBS $4, %s", n)
	f.raw("\tBLT tail")
	f.loop(fmt.Sprintf("SUBS $4, %s\n\tBGE LOOP", n), func() { step(0, ".P") })
	if len(f.lines)-f.prologue-before <= shortBody {
		// Write the loop over one vector again, after the loop over four vectors.
		f.lines = f.lines[:f.prologue+before]
		f.raw("\tSUBS $16, %s", n)
		f.raw("\tBLT one")
		f.loop(fmt.Sprintf("SUBS $16, %s\n\tBGE LOOP", n), func() {
			for u := range 4 {
				step(16*u, "")
			}
			for _, name := range names {
				base, _, _ := strings.Cut(name, " ")
				f.raw("\tADD $64, %s", pointers[base])
			}
		})
		f.raw("one:")
		f.raw("\tADDS $12, %s", n)
		f.raw("\tBLT tail")
		f.loop(fmt.Sprintf("SUBS $4, %s\n\tBGE LOOP", n), func() { step(0, ".P") })
	}
	f.raw("tail:")
	f.raw("\tADDS $4, %s", n)
	f.raw("\tBEQ done")
	var in []vec
	for _, name := range inputs {
		in = append(in, f.loadPart(pointers[name], n, scratch))
	}
	f.storePart(body(k, in, s), pointers["dst"], n, scratch)
	f.raw("done:")
}

// shortBody is the largest number of lines of a loop over one vector that is unrolled.
const shortBody = 20

// neonReduction writes the NEON version of a function that [reduction] writes. It adds the elements
// to 64 lanes and stores the lanes. The length of the slices must be a multiple of 4.
func neonReduction(name string, names, scalars []string, body func(k *kernel, acc vec, in, s []vec)) {
	k := neonKernel(name, names, append([]string{"lane *[64]float32"}, scalars...), false)
	f := k.neon
	var pointers []string
	for _, n := range names {
		pointers = append(pointers, f.param(n+"_base"))
	}
	n, lane := f.param(names[0]+"_len"), f.param("lane")
	var s []vec
	for _, name := range scalars {
		s = append(s, f.scalar(name))
	}
	var acc [16]vec
	for i := range acc {
		acc[i] = f.zero()
	}
	fold := func(j int) {
		var in []vec
		for _, p := range pointers {
			in = append(in, f.load(fmt.Sprintf("16(%s)", p), ".P"))
		}
		body(k, acc[j], in, s)
	}
	f.folds(n, len(acc), fold)
	for j := range acc {
		f.store(acc[j], fmt.Sprintf("%d(%s)", 16*j, lane), "")
	}
}

// folds writes the loop of a reduction with several accumulators. n is the register with the number
// of elements, a multiple of 4, and fold adds the next 4 elements to accumulator j.
func (f *neon) folds(n string, accumulators int, fold func(j int)) {
	f.raw("\tSUBS $%d, %s", 4*accumulators, n)
	f.raw("\tBLT tail")
	f.loop(fmt.Sprintf("SUBS $%d, %s\n\tBGE LOOP", 4*accumulators, n), func() {
		for j := range accumulators {
			fold(j)
		}
	})
	f.raw("tail:")
	f.raw("\tADD $%d, %s", 4*accumulators, n)
	for j := range accumulators - 1 {
		f.raw("\tSUBS $4, %s", n)
		f.raw("\tBLT done")
		fold(j)
	}
	f.raw("done:")
}

// neonAddLanes writes the function that adds the lanes of a reduction, in the order of addLanes.
func neonAddLanes() {
	k := neonKernel("addLanes", nil, []string{"lane *[64]float32"}, true)
	f := k.neon
	lane := f.param("lane")
	var acc [4]vec
	for i := range acc {
		var group [4]vec
		for g := range group {
			group[g] = f.load(fmt.Sprintf("%d(%s)", 64*g+16*i, lane), "")
		}
		acc[i] = f.op(fadd, f.op(fadd, group[0], group[1]), f.op(fadd, group[2], group[3]))
	}
	f.result(f.sum(acc))
}

// result returns lane 0 of v.
func (f *neon) result(v vec) {
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVS F?, ret+%d(FP)", f.offsets["ret"]), regs: []vec{f.value(v)}})
}

// sum adds 16 lanes as halves, until one number is left. It is in all lanes of the result.
func (f *neon) sum(acc [4]vec) vec {
	r := f.op(fadd, f.op(fadd, acc[0], acc[2]), f.op(fadd, acc[1], acc[3]))
	r = f.op(fadd, r, f.op(ext8, r, r))
	return f.op(dup, f.op(faddp, r, r))
}

// extremeOf reduces 16 lanes by the operation op, whose pairwise form is pair. The result is in all
// lanes.
func (f *neon) extremeOf(acc [4]vec, op, pair encoding) vec {
	r := f.op(op, f.op(op, acc[0], acc[2]), f.op(op, acc[1], acc[3]))
	r = f.op(pair, r, r)
	return f.op(pair, r, r)
}

// neonExtreme writes the NEON version of a function that [extreme] writes. The length must be a
// multiple of 4. The instruction op returns NaN if one operand is NaN.
func neonExtreme(name string, neutral float64, op, pair encoding) {
	k := neonKernel(name, []string{"a"}, nil, true)
	f := k.neon
	p, n := f.param("a_base"), f.param("a_len")
	var acc [4]vec
	for i := range acc {
		acc[i] = f.source(float(float32(neutral)))
	}
	fold := func(j int) { f.set(op, acc[j], f.load(fmt.Sprintf("16(%s)", p), ".P"), acc[j]) }
	f.folds(n, len(acc), fold)
	f.result(f.extremeOf(acc, op, pair))
}

// neonTranspose writes the function that transposes 4 rows with 4·blocks columns, one block of 4 ×
// 4 after the other. The strides are in bytes, and blocks is at least 1.
func neonTranspose() {
	f := neonKernel("transpose4", []string{"dst"}, []string{"ldd int", "src *float32", "lds int", "blocks int"}, false).neon
	dst, ldd, blocks := f.param("dst_base"), f.param("ldd"), f.param("blocks")
	src, lds := [4]string{f.param("src")}, f.param("lds")
	for i := range 3 {
		src[i+1] = f.gp()
		f.raw("\tADD %s, %s, %s", lds, src[i], src[i+1])
	}
	f.loop(fmt.Sprintf("SUBS $1, %s\n\tBGT LOOP", blocks), func() {
		var row [4]vec
		for i := range row {
			row[i] = f.load(fmt.Sprintf("16(%s)", src[i]), ".P")
		}
		for _, zip := range []encoding{zip1, zip2} {
			even, odd := f.op(zip, row[0], row[2]), f.op(zip, row[1], row[3])
			for _, zip := range []encoding{zip1, zip2} {
				f.store(f.op(zip, even, odd), fmt.Sprintf("(%s)", dst), "")
				f.raw("\tADD %s, %s", ldd, dst)
			}
		}
	})
}

// neonMatrix generates loops over the rows of matrices, in units of 16 columns.
type neonMatrix struct {
	*kernel
	f                   *neon
	cols, left, scratch string
	mask                vec // the lanes of the partial vector at the end of a row
	partial             bool
	// the addends: the addresses of the row and of the current vector, and the row strides in bytes
	a, b, pa, pb, sA, sB string
}

// neonAttention writes the NEON versions of the functions that [attention] writes.
func neonAttention() {
	k := neonKernel("softmaxRows", []string{"x", "top", "sum", "a", "b"}, []string{"stepA int", "stepB int", "cols int", "stride int", "scale"}, false)
	f := k.neon
	x, top, sum, rows := f.param("x_base"), f.param("top_base"), f.param("sum_base"), f.param("top_len")
	m := newNEONMatrix(k)
	px, stride := f.gp(), f.param("stride")
	scale := f.scalar("scale")
	low := float(float32(math.Inf(-1)))
	f.hoist()
	f.loop(fmt.Sprintf("SUBS $1, %s\n\tBGT LOOP", rows), func() {
		var acc [4]vec
		for j := range acc {
			acc[j] = f.fresh(low)
		}
		m.begin(x, px)
		m.row(func(j int) {
			z := m.scores(m.load(px, false), scale)
			m.store(z, px)
			if m.partial {
				z = k.choose(m.mask, z, k.broadcast(low))
			}
			f.set(fmax, acc[j], z, acc[j])
		})
		most := f.extremeOf(acc, fmax, fmaxp)
		f.storeLane(most, top)
		for j := range acc {
			acc[j] = f.zero()
		}
		f.raw("\tMOVD %s, %s", x, px)
		m.row(func(j int) {
			e := k.exp(k.sub(m.load(px, false), most), false)
			m.store(e, px)
			if m.partial {
				e = k.and(e, m.mask)
			}
			k.accumulate(acc[j], e)
		})
		total := f.sum(acc)
		f.storeLane(total, sum)
		by := k.div(k.broadcast(float(1)), total)
		f.raw("\tMOVD %s, %s", x, px)
		m.row(func(int) { m.store(k.mul(m.load(px, false), by), px) })
		m.next()
		f.raw("\tADD %s<<2, %s", stride, x)
	})

	k = neonKernel("softmaxGradRows", []string{"p", "dp", "lse", "d", "a", "b"}, []string{"stepA int", "stepB int", "cols int", "stride int", "scale"}, false)
	f = k.neon
	p, dp, lse, d := f.param("p_base"), f.param("dp_base"), f.param("lse_base"), f.param("d_base")
	rows = f.param("lse_len")
	m = newNEONMatrix(k)
	gap := f.param("stride") // from the end of a row to the next row
	f.raw("\tSUB %s, %s", m.cols, gap)
	scale = f.scalar("scale")
	f.hoist()
	f.loop(fmt.Sprintf("SUBS $1, %s\n\tBGT LOOP", rows), func() {
		shift, by := f.loadLane(lse), f.loadLane(d)
		m.begin("", "")
		m.row(func(int) {
			e := k.exp(k.sub(m.scores(m.load(p, false), scale), shift), false)
			m.store(e, p)
			m.store(k.mul(k.sub(m.load(dp, false), by), e), dp)
		})
		f.raw("\tADD %s<<2, %s", gap, p)
		f.raw("\tADD %s<<2, %s", gap, dp)
		m.next()
	})
}

// newNEONMatrix loads the parameters cols, a, b, stepA and stepB.
func newNEONMatrix(k *kernel) *neonMatrix {
	f := k.neon
	m := &neonMatrix{kernel: k, f: f, cols: f.param("cols"), left: f.gp(), scratch: f.gp(),
		a: f.param("a_base"), b: f.param("b_base"), sA: f.param("stepA"), sB: f.param("stepB"), pa: f.gp(), pb: f.gp()}
	f.raw("\tLSL $2, %s", m.sA)
	f.raw("\tLSL $2, %s", m.sB)
	// The mask of a partial vector of i columns is constant i of a table.
	const all = math.MaxUint32
	table := f.table([][4]uint32{{0, 0, 0, 0}, {all, 0, 0, 0}, {all, all, 0, 0}, {all, all, all, 0}})
	f.raw("\tAND $3, %s, %s", m.cols, m.scratch)
	f.raw("\tADD %s<<4, %s, %s", m.scratch, constantBase, m.scratch)
	m.mask = f.load(fmt.Sprintf("%d(%s)", table, m.scratch), "")
	return m
}

// begin starts a row of scores and of the addends.
func (m *neonMatrix) begin(base, p string) {
	if base != "" {
		m.f.raw("\tMOVD %s, %s", base, p)
	}
	m.f.raw("\tMOVD %s, %s", m.a, m.pa)
	m.f.raw("\tMOVD %s, %s", m.b, m.pb)
}

// next advances the addends to the next row. An absent addend has address 0 and step 0.
func (m *neonMatrix) next() {
	m.f.raw("\tADD %s, %s", m.sA, m.a)
	m.f.raw("\tADD %s, %s", m.sB, m.b)
}

// row generates the loop over one row. body generates the code for one vector; j is its position in
// the unit. m.partial says that the vector is partial.
func (m *neonMatrix) row(body func(j int)) {
	f := m.f
	tail, done := f.label(), f.label()
	f.raw("\tSUBS $16, %s, %s", m.cols, m.left)
	f.raw("\tBLT %s", tail)
	f.loop(fmt.Sprintf("SUBS $16, %s\n\tBGE LOOP", m.left), func() {
		for j := range 4 {
			body(j)
		}
	})
	f.raw("%s:", tail)
	f.raw("\tADD $16, %s", m.left)
	var part [4]string
	for j := range part {
		part[j] = f.label()
		if j == 3 {
			continue // at most three vectors are complete
		}
		f.raw("\tCMP $4, %s", m.left)
		f.raw("\tBLT %s", part[j])
		body(j)
		f.raw("\tSUB $4, %s", m.left)
	}
	m.partial = true
	for _, j := range []int{3, 2, 1, 0} {
		f.raw("%s:", part[j])
		f.raw("\tCBZ %s, %s", m.left, done)
		body(j)
		if j > 0 {
			f.raw("\tB %s", done)
		}
	}
	m.partial = false
	f.raw("%s:", done)
}

// load reads the vector at p. It advances p if advance is set.
func (m *neonMatrix) load(p string, advance bool) vec {
	if !m.partial {
		if advance {
			return m.f.load(fmt.Sprintf("16(%s)", p), ".P")
		}
		return m.f.load(fmt.Sprintf("(%s)", p), "")
	}
	return m.f.loadPart(p, m.left, m.scratch)
}

// store writes the vector at p and advances p.
func (m *neonMatrix) store(v vec, p string) {
	if !m.partial {
		m.f.store(v, fmt.Sprintf("16(%s)", p), ".P")
		return
	}
	m.f.storePart(v, p, m.left, m.scratch)
	m.f.raw("\tADD %s<<2, %s", m.left, p)
}

// scores computes scale·x and adds the addends.
func (m *neonMatrix) scores(x, scale vec) vec {
	z := m.mul(x, scale)
	for _, p := range []string{m.pa, m.pb} {
		none := m.f.label()
		m.f.raw("\tCBZ %s, %s", p, none)
		m.f.set(fadd, z, z, m.load(p, true))
		m.f.raw("%s:", none)
	}
	return z
}

// storeLane writes lane 0 to the address p and advances p.
func (f *neon) storeLane(v vec, p string) {
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVS.P F?, 4(%s)", p), regs: []vec{f.value(v)}})
}

// loadLane broadcasts the number at the address p and advances p.
func (f *neon) loadLane(p string) vec {
	r := f.newVec()
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVS.P 4(%s), F?", p), regs: []vec{r}, writes: true})
	return f.op(dup, r)
}

// neonRandom writes the NEON version of a function that [random] writes. The parameters are the key
// and the counter of the first block. The length must be a multiple of 32. The low word of the
// counter must not overflow.
func neonRandom(name string, names, scalars []string, body func(k *kernel, words vec, in, s []vec) vec) {
	k := neonKernel(name, names, append(scalars, "k0 uint32", "k1 uint32", "c0 uint32", "c1 uint32", "c2 uint32", "c3 uint32"), false)
	f := k.neon
	var pointers []string
	for _, n := range names {
		base, _, _ := strings.Cut(n, " ")
		pointers = append(pointers, f.param(base+"_base"))
	}
	n := f.param("dst_len")
	var s []vec
	for _, name := range scalars {
		s = append(s, f.scalar(name))
	}
	first := [2]vec{f.scalar("k0"), f.scalar("k1")}
	counter := f.op(addV, f.scalar("c0"), f.constant([4]uint32{0, 1, 2, 3}))
	start := [3]vec{f.scalar("c1"), f.scalar("c2"), f.scalar("c3")}
	f.hoist()
	f.raw("\tCBZ %s, done", n)
	f.loop(fmt.Sprintf("SUBS $32, %s\n\tBGT LOOP", n), func() {
		var state [2][4]vec
		for g := range state {
			state[g] = [4]vec{f.copy(counter), start[0], start[1], start[2]}
			f.set(addV, counter, counter, bits(4))
		}
		key := first
		for round := range philoxRounds {
			if round > 0 {
				key = [2]vec{f.op(addV, key[0], bits(philoxKey0)), f.op(addV, key[1], bits(philoxKey1))}
			}
			for g, c := range state {
				var high, low [2]vec
				for i, by := range []constant{bits(philoxMul0), bits(philoxMul1)} {
					p, q := f.op(umull, c[2*i], by), f.op(umull2, c[2*i], by)
					high[i], low[i] = f.op(uzp2, p, q), f.op(uzp1, p, q)
				}
				state[g] = [4]vec{f.op(eorV, f.op(eorV, high[1], c[1]), key[0]), low[1], f.op(eorV, f.op(eorV, high[0], c[3]), key[1]), low[0]}
			}
		}
		for _, c := range state {
			for _, zip := range []encoding{zip1, zip2} {
				even, odd := f.op(zip, c[0], c[2]), f.op(zip, c[1], c[3])
				for _, zip := range []encoding{zip1, zip2} {
					var in []vec
					for _, p := range pointers[1:] {
						in = append(in, f.load(fmt.Sprintf("16(%s)", p), ".P"))
					}
					f.store(body(k, f.op(zip, even, odd), in, s), fmt.Sprintf("16(%s)", pointers[0]), ".P")
				}
			}
		}
	})
	f.raw("done:")
}
