package cpu

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/kernel/vector"
)

// register identifies a register of a loop. In this file, a scalar register with a negative number
// is an immediate. The function finish assigns the final numbers.
type register struct {
	full bool
	reg  int
}

// assembler builds the loop of a cluster.
type assembler struct {
	*loop
	*options
	k      *cluster
	known  map[*tensor]register
	inputs map[string]register
	// Reports whether a tensor of the cluster must exist in memory.
	outside func(t *tensor) bool
	// The nodes of the cluster.
	member map[*node]bool

	// The tensors of loop.in, loop.bound, loop.stores, loop.sums, and the random states that the
	// code reads.
	read                   []*tensor
	bounds, stored, summed []*tensor
	states                 []*tensor
}

// assemble builds the loop of k.
func (f *fusion) assemble(k *cluster) {
	a := &assembler{loop: &loop{total: k.total, cols: k.cols, blocks: 1}, options: f.options, k: k, known: map[*tensor]register{}, inputs: map[string]register{},
		outside: f.outside, member: map[*node]bool{}}
	for _, n := range k.nodes {
		a.member[n] = true
	}
	whole := k.cols != 0
	if a.cols == 0 {
		a.cols = k.total
		for _, n := range k.nodes {
			for _, e := range n.in {
				if e.t == nil || a.member[e.t.node] {
					continue
				}
				if r, _, _ := e.run(); r > 0 && e.size() == k.total && !e.constant() {
					a.cols = min(a.cols, r)
				}
			}
		}
	}
	a.chunk = a.cols
	if !whole {
		a.chunk = min(a.cols, a.tileElements)
	}
	a.rows = 1
	if a.chunk == a.cols {
		a.rows = max(1, min(a.tileElements/a.cols, a.total/a.cols))
	}
	for _, n := range k.nodes {
		a.emit(n)
	}
	a.finish()
	k.loop, k.reads, k.writes = a.loop, slices.Concat(a.read, a.states), slices.Concat(a.bounds, a.stored, a.summed)
}

func (a *assembler) newFull() int   { a.full++; return a.full - 1 }
func (a *assembler) newScalar() int { a.scalar++; return a.scalar - 1 }

// immediate returns a scalar register that holds a constant.
func (a *assembler) immediate(v float32) register {
	key := fmt.Sprint("imm", v)
	if o, ok := a.inputs[key]; ok {
		return o
	}
	o := register{reg: -1 - len(a.immediates)}
	a.immediates = append(a.immediates, v)
	a.inputs[key] = o
	return o
}

// fetch returns the register that holds the tensor of e, as a node on the level lv reads it. If
// there is no such register, fetch adds the input or the instructions that fill it.
func (a *assembler) fetch(e edge, lv level) register {
	n := e.t.node
	if a.member[n] {
		if o, ok := a.known[e.t]; ok {
			return o
		}
	}
	if v, ok := scalar(e); ok {
		return a.immediate(float32(v))
	}
	if n.source && !a.outside(e.t) && e.whole(e.t.n) && lv == levelFull {
		if o, ok := a.known[e.t]; ok {
			return o
		}
		a.emitAt(n, levelFull)
		return a.known[e.t]
	}
	if n.kind == kindRandom && e.t.index == 1 && e.whole(e.t.n) && e.t.n == a.total && e.t.dtype == dtypes.Uint32 && lv == levelFull {
		if o, ok := a.known[e.t]; ok {
			return o
		}
		o := register{full: true, reg: a.newFull()}
		a.code = append(a.code, instruction{form: formRandom, dst: o.reg, state: a.state(n.in[0].t)})
		a.known[e.t] = o
		return o
	}
	key := fmt.Sprint(lv == levelRow, e.t.id, e.layout.collapsed())
	if o, ok := a.inputs[key]; ok {
		return o
	}
	in := loopInput{slot: e.t.slot, dtype: e.t.dtype, l: e.collapsed(), elements: e.t.dtype.Size()}
	in.run, in.stride, _ = e.run()
	switch {
	case lv == levelRow, e.constant(), in.stride == 0 && in.run%a.cols == 0:
		// On the row level, an index selects a row.
		in.form = inputScalar
		in.reg = a.newScalar()
		if lv == levelRow {
			in.run = -1
		}
	case in.stride == 1 && in.run%a.cols == 0 && (a.rows == 1 || in.run == a.total):
		in.form, in.reg = inputRow, a.newFull()
	default:
		in.form, in.reg = inputAssemble, a.newFull()
		in.fixed = a.chunk == a.cols && in.run == a.cols && len(in.l.dims) == 2 && in.l.strides[0] == 0
	}
	a.in, a.read = append(a.in, in), append(a.read, e.t)
	o := register{full: in.form != inputScalar, reg: in.reg}
	a.inputs[key] = o
	return o
}

// state returns the slot of t, which is the state of a random generator, and records that the loop
// reads t.
func (a *assembler) state(t *tensor) *slot {
	a.states = append(a.states, t)
	return t.slot
}

// emit adds the instructions that compute n.
func (a *assembler) emit(n *node) { a.emitAt(n, a.levelIn(n, a.k.total, a.k.cols)) }

// emitAt adds the instructions that compute n on a level.
func (a *assembler) emitAt(n *node, lv level) {
	t := n.out[0]
	if n.kind == kindReduce {
		x := a.fetch(n.in[0], levelFull)
		if !x.full {
			x = a.spread(x)
		}
		if lv == levelSums {
			a.sums, a.summed = append(a.sums, loopResult{t.slot, t.dtype, x.reg}), append(a.summed, t)
			a.blocks = max(a.blocks, n.blocks())
			return
		}
		o := register{reg: a.newScalar()}
		a.code = append(a.code, instruction{form: formReduce, dst: o.reg, a: x.reg, reduce: reductions[n.op].fold})
		a.result(t, o)
		return
	}
	if n.op == opDropout {
		x := a.spread(a.fetch(n.in[0], lv))
		o := register{full: true, reg: a.newFull()}
		a.code = append(a.code, instruction{form: formDropout, dst: o.reg, a: x.reg, state: a.state(n.in[1].t.node.in[0].t), dropout: n.rec.attrs.(dropout)})
		a.result(t, o)
		return
	}
	var in [3]register
	anyFull := false
	for i, e := range n.in {
		if e.t == nil {
			continue
		}
		if n.op == compute.OpTypeFusedLayerNorm && i > 0 {
			in[i] = a.fetch(e, levelFull)
		} else {
			in[i] = a.fetch(e, lv)
		}
		anyFull = anyFull || in[i].full
	}
	ins := instruction{a: in[0].reg, b: in[1].reg, c: in[2].reg, aFull: in[0].full, bFull: in[1].full}
	switch {
	case n.op == compute.OpTypeFusedSoftmax:
		ins.form, ins.a = formSoftmax, a.spread(in[0]).reg
		anyFull = true
	case n.op == compute.OpTypeFusedLayerNorm:
		ins.form, ins.a, ins.eps = formLayerNorm, a.spread(in[0]).reg, float32(n.rec.attrs.(fusedLayerNormAttrs).epsilon)
		ins.b, ins.c = -1, -1
		if len(n.in) > 1 && n.in[1].t != nil {
			ins.b = a.spread(in[1]).reg
		}
		if len(n.in) > 2 && n.in[2].t != nil {
			ins.c = a.spread(in[2]).reg
		}
		anyFull = true
	case n.op == opLayerNormGrad:
		ins.form, ins.a, ins.b, ins.eps = formLayerNormGrad, a.spread(in[0]).reg, a.spread(in[1]).reg, n.rec.attrs.(layerNormGradAttrs).epsilon
		anyFull = true
	case n.op == opGELUGrad:
		ins.form, ins.vv, ins.a, ins.b = formVV, vector.GELUGrad, a.spread(in[0]).reg, a.spread(in[1]).reg
		anyFull = true
	case n.op == compute.OpTypeConvertDType:
		if !in[0].full { // a scalar register already holds a float32 number
			ins.form, ins.s = formS, func(x float32) float32 { return x }
		} else {
			ins.form, ins.convert = formConvert, conversions[n.in[0].t.dtype]
		}
	case n.op == compute.OpTypeWhere:
		ins.form, ins.cFull = formWhere, in[2].full
		if !anyFull {
			ins.form = formWhereSS
		}
	case n.op == compute.OpTypeFusedGelu:
		ins.form, ins.v, ins.s = formV, vector.GELU, gelu32
		if !n.rec.attrs.(fusedGeluAttrs).exact {
			ins.v, ins.s = vector.GELUTanh, geluTanh32
		}
		if !anyFull {
			ins.form = formS
		}
	default:
		a.tabled(&ins, n.op, in, anyFull)
	}
	o := register{full: anyFull}
	if anyFull {
		o.reg = a.newFull()
	} else {
		o.reg = a.newScalar()
	}
	ins.dst = o.reg
	a.code = append(a.code, ins)
	// A full node that is computed only from scalars still needs one value for each element in
	// memory.
	if !anyFull && lv == levelFull && a.outside(t) {
		o = a.spreadAs(o, t.dtype)
	}
	a.result(t, o)
}

// tabled completes the instruction of an operation that the tables of package vector contain.
func (a *assembler) tabled(ins *instruction, op compute.OpType, in [3]register, anyFull bool) {
	if f, ok := vector.Unaries[op]; ok {
		ins.form, ins.v, ins.s = formV, f.Slice, f.Number
		if !anyFull {
			ins.form = formS
		}
		return
	}
	if f, ok := vector.Binaries[op]; ok {
		switch {
		case in[0].full && in[1].full:
			ins.form, ins.vv = formVV, f.Slices
		case in[0].full:
			ins.form, ins.vs = formVS, f.Scalar
		case in[1].full:
			ins.form, ins.vs = formSV, f.From
		default:
			ins.form, ins.ss = formSS, f.Numbers
		}
		return
	}
	f := vector.Comparisons[op]
	switch {
	case in[0].full && in[1].full:
		ins.form, ins.cvv = formCompareVV, f.Slices
	case in[0].full:
		ins.form, ins.cvs = formCompareVS, f.Scalar
	case in[1].full:
		ins.form, ins.cvs = formCompareVS, f.From
		ins.a, ins.b = ins.b, ins.a
	default:
		ins.form, ins.css = formCompareSS, f.Numbers
	}
}

// spread returns a full register with the numbers of o. For a scalar register, it repeats the
// number of each row.
func (a *assembler) spread(o register) register { return a.spreadAs(o, dtypes.Float32) }

// spreadAs does the same as spread for numbers or booleans.
func (a *assembler) spreadAs(o register, t dtypes.DType) register {
	if o.full {
		return o
	}
	r := register{full: true, reg: a.newFull()}
	a.code = append(a.code, instruction{form: formSpread, dst: r.reg, a: o.reg, cFull: t == dtypes.Bool})
	return r
}

// result records that o holds t. If t must exist in memory, the loop writes o to the memory of t.
func (a *assembler) result(t *tensor, o register) {
	a.known[t] = o
	if !a.member[t.node] || !a.outside(t) {
		return
	}
	if o.full {
		a.bound, a.bounds = append(a.bound, loopResult{t.slot, t.dtype, o.reg}), append(a.bounds, t)
	} else {
		a.stores, a.stored = append(a.stores, loopResult{t.slot, t.dtype, o.reg}), append(a.stored, t)
	}
}

// finish assigns numbers to the immediates, assigns memory to the registers, and divides the loop
// into parts.
func (a *assembler) finish() {
	n := len(a.immediates)
	fix := func(r *int) {
		if *r < 0 {
			*r = -1 - *r
		} else {
			*r += n
		}
	}
	for i := range a.in {
		if a.in[i].form == inputScalar {
			a.in[i].reg += n
		}
	}
	for i := range a.stores {
		fix(&a.stores[i].reg)
	}
	for i := range a.code {
		for _, o := range a.code[i].operands() {
			if !o.full {
				fix(o.reg)
			}
		}
		if !a.code[i].writesFull() {
			fix(&a.code[i].dst)
		}
	}
	a.scalar += n
	a.share()
	a.parts = min(max(1, a.total/a.partElements), 64)
	if len(a.sums) > 0 {
		a.parts = min(a.parts, 16)
	}
}

// source is a register that an instruction reads.
type source struct {
	reg  *int
	full bool
}

// operands lists the registers that an instruction reads.
func (ins *instruction) operands() []source {
	switch ins.form {
	case formVV, formCompareVV, formLayerNormGrad:
		return []source{{&ins.a, true}, {&ins.b, true}}
	case formVS, formCompareVS:
		return []source{{&ins.a, true}, {&ins.b, false}}
	case formSV:
		return []source{{&ins.a, false}, {&ins.b, true}}
	case formSS, formCompareSS:
		return []source{{&ins.a, false}, {&ins.b, false}}
	case formV, formConvert, formReduce, formSoftmax, formDropout:
		return []source{{&ins.a, true}}
	case formS, formSpread:
		return []source{{&ins.a, false}}
	case formWhere:
		return []source{{&ins.a, ins.aFull}, {&ins.b, ins.bFull}, {&ins.c, ins.cFull}}
	case formWhereSS:
		return []source{{&ins.a, false}, {&ins.b, false}, {&ins.c, false}}
	case formLayerNorm:
		all := []source{{&ins.a, true}}
		for _, r := range []*int{&ins.b, &ins.c} {
			if *r >= 0 { // -1: the layer norm has no weight or no bias
				all = append(all, source{r, true})
			}
		}
		return all
	}
	return nil // formRandom
}

// reads lists the full registers that an instruction reads.
func (ins *instruction) reads() (out []int) {
	for _, o := range ins.operands() {
		if o.full {
			out = append(out, *o.reg)
		}
	}
	return out
}

// writesFull reports whether dst is a full register.
func (ins *instruction) writesFull() bool {
	switch ins.form {
	case formSS, formS, formCompareSS, formReduce, formWhereSS:
		return false
	}
	return true
}

// inPlace reports whether dst may use the memory of register r. This is possible if the elements
// have the same size and if each element is read before it is written.
func (ins *instruction) inPlace(r int) bool {
	switch ins.form {
	case formConvert, formCompareVV, formCompareVS, formWhere:
		return false
	case formLayerNorm:
		return r != ins.b && r != ins.c
	}
	return true
}

// share assigns scratch memory to full registers. After the last reader of a register, another
// register uses its memory. Registers in the memory of an input or a result have higher numbers
// than registers in scratch memory.
func (a *assembler) share() {
	fixed := map[int]bool{}
	var order []int
	for _, in := range a.in {
		if in.form == inputRow {
			fixed[in.reg] = true
			order = append(order, in.reg)
		}
	}
	for _, b := range a.bound {
		if !fixed[b.reg] {
			fixed[b.reg] = true
			order = append(order, b.reg)
		}
	}
	lastUse := map[int]int{}
	for i, ins := range a.code {
		for _, r := range ins.reads() {
			lastUse[r] = i
		}
		if ins.writesFull() {
			if _, ok := lastUse[ins.dst]; !ok {
				lastUse[ins.dst] = i
			}
		}
	}
	for _, s := range a.sums {
		lastUse[s.reg] = len(a.code)
	}
	for _, in := range a.in {
		if in.fixed { // the content stays from one tile to the next
			lastUse[in.reg] = len(a.code)
		}
	}
	slot := map[int]int{}
	var free []int
	slots := 0
	take := func(r int) {
		if fixed[r] {
			return
		}
		if n := len(free); n > 0 {
			slot[r] = free[n-1]
			free = free[:n-1]
			return
		}
		slot[r] = slots
		slots++
	}
	for _, in := range a.in {
		if in.form == inputAssemble {
			take(in.reg)
		}
	}
	for i := range a.code {
		ins := &a.code[i]
		done, late := map[int]bool{}, []int(nil)
		for _, r := range ins.reads() {
			if s, ok := slot[r]; ok && lastUse[r] == i && !done[r] {
				done[r] = true
				if ins.inPlace(r) {
					free = append(free, s)
				} else {
					late = append(late, s)
				}
			}
		}
		if ins.writesFull() {
			if _, ok := slot[ins.dst]; !ok {
				take(ins.dst)
			}
			if s, ok := slot[ins.dst]; ok && lastUse[ins.dst] == i {
				free = append(free, s)
			}
		}
		free = append(free, late...)
	}
	for i, r := range order {
		slot[r] = slots + i
	}
	a.scratch = slots
	a.full = slots + len(order)
	for i := range a.in {
		if a.in[i].form != inputScalar {
			a.in[i].reg = slot[a.in[i].reg]
		}
	}
	for i := range a.bound {
		a.bound[i].reg = slot[a.bound[i].reg]
	}
	for i := range a.sums {
		a.sums[i].reg = slot[a.sums[i].reg]
	}
	for i := range a.code {
		ins := &a.code[i]
		for _, o := range ins.operands() {
			if o.full {
				*o.reg = slot[*o.reg]
			}
		}
		if ins.writesFull() {
			ins.dst = slot[ins.dst]
		}
	}
}

// replaces reports whether result may use the memory of input. The loop must read input element by
// element, in the same order as it writes result, and must not read input after it writes result.
func (k *cluster) replaces(result, input *tensor) bool {
	l := k.loop
	if result.bytes() != input.bytes() || result.n != l.total {
		return false
	}
	reg := -1
	for _, b := range l.bound {
		if b.slot == result.slot {
			reg = b.reg
		}
	}
	if reg < 0 {
		return false
	}
	var regs []int
	for _, in := range l.in {
		if in.slot == input.slot {
			if in.form != inputRow || !in.l.whole(l.total) {
				return false
			}
			regs = append(regs, in.reg)
		}
	}
	written := -1
	for i, ins := range l.code {
		if ins.state == input.slot {
			return false
		}
		for _, r := range ins.reads() {
			if written >= 0 && slices.Contains(regs, r) {
				return false
			}
		}
		if ins.writesFull() && ins.dst == reg && written < 0 {
			written = i
			for _, r := range ins.reads() {
				if slices.Contains(regs, r) && !ins.inPlace(r) {
					return false
				}
			}
		}
	}
	for _, s := range l.sums {
		if slices.Contains(regs, s.reg) {
			return false
		}
	}
	return written >= 0
}
