package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// matrix generates loops over the rows of matrices with cols columns, in units of 16 columns.
type matrix struct {
	*kernel
	// whole is the number of columns in complete units, rest the number of the other columns, and
	// index the current column.
	whole, rest, index reg.GPVirtual
	// masks holds the masks of the registers of the last unit.
	masks []mask
	// labels is the number of labels in use.
	labels int
}

// label returns a new label.
func (m *matrix) label() string {
	m.labels++
	return fmt.Sprintf("l%d", m.labels)
}

// matrix loads the parameter cols and prepares the masks of the last unit.
func (k *kernel) matrix() *matrix {
	m := &matrix{kernel: k, whole: GP64(), rest: GP64(), index: GP64()}
	Load(Param("cols"), m.whole)
	MOVQ(m.whole, m.rest)
	ANDQ(Imm(15), m.rest)
	SUBQ(m.rest, m.whole)
	k.partials(m.rest, 16/k.lanes, func(int) { m.masks = append(m.masks, k.tail) })
	return m
}

// row generates the loop over one row. f generates the code for one register; j is the position of
// the register in its unit.
func (m *matrix) row(f func(j int)) {
	loop, tail, done := m.label(), m.label(), m.label()
	XORQ(m.index, m.index)
	CMPQ(m.index, m.whole)
	JE(LabelRef(tail))
	Label(loop)
	for j := range m.masks {
		f(j)
	}
	ADDQ(Imm(16), m.index)
	CMPQ(m.index, m.whole)
	JLT(LabelRef(loop))
	Label(tail)
	TESTQ(m.rest, m.rest)
	JZ(LabelRef(done))
	for j := range m.masks {
		m.tail = m.masks[j]
		f(j)
	}
	m.tail = nil
	Label(done)
}

// at returns the memory of register j of the current unit.
func (m *matrix) at(base reg.Register, j int) Mem {
	return Mem{Base: base, Index: m.index, Scale: 4, Disp: 4 * m.lanes * j}
}

// addend is a matrix that is added to the scores. step is its row stride in bytes.
type addend struct{ base, step reg.GPVirtual }

// addend loads the address and the row stride of an addend from the parameters with these names.
func (m *matrix) addend(name, step string) addend {
	a := addend{Load(Param(name).Base(), GP64()).(reg.GPVirtual), GP64()}
	Load(Param(step), a.step)
	SHLQ(Imm(2), a.step)
	return a
}

// next generates the step to the next row.
func (a addend) next() { ADDQ(a.step, a.base) }

// scores computes scale·x and adds the addends. An absent addend has address 0 and step 0.
func (m *matrix) scores(x reg.Register, j int, scale vec, added ...addend) vec {
	z := m.mul(m.load(m.at(x, j), 4), scale)
	for _, a := range added {
		none := m.label()
		TESTQ(a.base, a.base)
		JZ(LabelRef(none))
		VADDPS(m.load(m.at(a.base, j), 4), z, z)
		Label(none)
	}
	return z
}

// fold reduces the lanes of the registers of a unit to one number and broadcasts it to all lanes of
// acc[0].
func (m *matrix) fold(acc []vec, join func(...Op)) {
	y := YMM()
	if m.wide {
		VEXTRACTF64X4(Imm(1), acc[0], y)
		join(y, acc[0].AsY(), y)
	} else {
		join(acc[1], acc[0], y)
	}
	x, high := XMM(), XMM()
	VEXTRACTF128(Imm(1), y, x)
	join(y.AsX(), x, x)
	VMOVHLPS(x, x, high)
	join(high, x, x)
	VMOVSHDUP(x, high)
	join(high, x, x)
	VBROADCASTSS(x, acc[0])
}

// attention writes the kernels of softmax over rows of attention scores and of its gradient.
func attention() {
	begin("softmaxRows", "(x, top, sum, a, b []float32, stepA, stepB, cols, stride int, scale float32)", func(k *kernel) {
		m := k.matrix()
		x := Load(Param("x").Base(), GP64()).(reg.GPVirtual)
		top, sum := Load(Param("top").Base(), GP64()), Load(Param("sum").Base(), GP64())
		rows := Load(Param("top").Len(), GP64()).(reg.GPVirtual)
		a, b := m.addend("a", "stepA"), m.addend("b", "stepB")
		scale := k.scalar("scale")
		low := func() vec { return k.broadcast(float(float32(math.Inf(-1)))) }
		acc := make([]vec, len(m.masks))

		Label("row")
		for j := range acc {
			acc[j] = low()
		}
		m.row(func(j int) {
			z := m.scores(x, j, scale, a, b)
			k.store(z, m.at(x, j), 4)
			VMAXPS(k.present(z, low), acc[j], acc[j])
		})
		m.fold(acc, VMAXPS)
		most := acc[0]
		VMOVSS(most.AsX(), Mem{Base: top})

		for j := range acc {
			acc[j] = k.zero()
		}
		m.row(func(j int) {
			e := k.exp(k.sub(k.load(m.at(x, j), 4), most), false)
			k.store(e, m.at(x, j), 4)
			VADDPS(k.present(e, k.zero), acc[j], acc[j])
		})
		m.fold(acc, VADDPS)
		VMOVSS(acc[0].AsX(), Mem{Base: sum})
		by := k.div(k.broadcast(float(1)), acc[0])
		m.row(func(j int) { k.store(k.mul(k.load(m.at(x, j), 4), by), m.at(x, j), 4) })

		a.next()
		b.next()
		Load(Param("stride"), m.index)
		LEAQ(Mem{Base: x, Index: m.index, Scale: 4}, x)
		ADDQ(Imm(4), top)
		ADDQ(Imm(4), sum)
		DECQ(rows)
		JNZ(LabelRef("row"))
	})
	begin("softmaxGradRows", "(p, dp, lse, d, a, b []float32, stepA, stepB, cols, stride int, scale float32)", func(k *kernel) {
		m := k.matrix()
		p := Load(Param("p").Base(), GP64()).(reg.GPVirtual)
		dp := Load(Param("dp").Base(), GP64()).(reg.GPVirtual)
		lse, d := Load(Param("lse").Base(), GP64()), Load(Param("d").Base(), GP64())
		rows := Load(Param("lse").Len(), GP64()).(reg.GPVirtual)
		a, b := m.addend("a", "stepA"), m.addend("b", "stepB")
		scale := k.scalar("scale")
		shift, by := k.reg(), k.reg()

		Label("row")
		VBROADCASTSS(Mem{Base: lse}, shift)
		VBROADCASTSS(Mem{Base: d}, by)
		m.row(func(j int) {
			e := k.exp(k.sub(m.scores(p, j, scale, a, b), shift), false)
			k.store(e, m.at(p, j), 4)
			k.store(k.mul(k.sub(k.load(m.at(dp, j), 4), by), e), m.at(dp, j), 4)
		})
		a.next()
		b.next()
		Load(Param("stride"), m.index)
		LEAQ(Mem{Base: p, Index: m.index, Scale: 4}, p)
		LEAQ(Mem{Base: dp, Index: m.index, Scale: 4}, dp)
		ADDQ(Imm(4), lse)
		ADDQ(Imm(4), d)
		DECQ(rows)
		JNZ(LabelRef("row"))
	})
}
