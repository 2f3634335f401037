package cpu

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend/cpu/internal/kernel/vector"
	"github.com/sptune/spt/backend/cpu/internal/workers"
)

// loop is a cluster ready to run. It walks total elements in rows of cols; each
// turn takes a few short rows, or a chunk of a long one, through all
// instructions while they are in the first-level cache.
//
// Registers hold the elements of a turn (full) or one number for each of its
// rows (scalar): an input that is constant along a row, or a row that was
// reduced.
type loop struct {
	total, cols, chunk int
	rows               int // of a turn, more than 1 only where chunk is cols
	parts              int
	in                 []loopInput
	code               []instruction
	stores             []loopStore // scalar results, one for each row
	sums               []loopSum
	immediates         []float32 // the first scalar registers
	full, scalar       int       // numbers of registers
	scratch            int       // full registers that need memory of their own
	bound              []loopBinding
}

// loopInput fills a register from memory.
type loopInput struct {
	t        *tensor
	l        layout // collapsed
	run      int    // elements over which the innermost stride holds
	stride   int    // 0 or 1, along a run
	reg      int
	form     inputForm
	elements int  // bytes of an element
	fixed    bool // assembled alike for every turn
}

type inputForm int

const (
	inputRow      inputForm = iota // contiguous along the turn: the register is the memory
	inputAssemble                  // pieced together
	inputScalar                    // one number for each row
)

// loopBinding is a full register that is the memory of a result.
type loopBinding struct {
	t   *tensor
	reg int
}

// loopStore writes a scalar register to one element for each row.
type loopStore struct {
	t   *tensor
	reg int
}

// loopSum adds rows up to one row of cols elements.
type loopSum struct {
	t   *tensor
	reg int
}

type form int

const (
	formVV form = iota // full, full → full
	formVS
	formSV
	formSS // scalar, scalar → scalar
	formV
	formS
	formCompareVV
	formCompareVS
	formCompareSS
	formWhere
	formWhereSS // scalar mask, scalar branches
	formConvert
	formReduce
	formSoftmax
	formLayerNorm
	formRandom
	formDropout
	formSpread // scalar → full
)

// instruction reads registers a, b, c and writes dst.
type instruction struct {
	form              form
	dst, a, b, c      int
	aFull, bFull, cOK bool
	vv                func(dst, a, b []float32)
	vs                func(dst, a []float32, s float32)
	sv                func(dst []float32, s float32, a []float32)
	ss                func(a, b float32) float32
	v                 func(dst, a []float32)
	s                 func(a float32) float32
	cvv               func(dst []bool, a, b []float32)
	cvs               func(dst []bool, a []float32, s float32)
	css               func(a, b float32) bool
	reduce            func(a []float32) float32
	convert           func(dst []float32, src unsafe.Pointer)
	eps               float32
	state             *tensor // random bits: where the state lies
	dropout           dropout
}

// operand is a register.
type operand struct {
	full bool
	reg  int
}

// assembler builds the loop of a cluster.
type assembler struct {
	*loop
	k      *cluster
	known  map[*tensor]operand
	inputs map[string]operand
	extern func(t *tensor) bool // whether something outside the cluster reads t
	of     func(n *node) bool   // whether n belongs to the cluster
}

// turnElements is about how many elements a turn takes: a handful of registers
// of that size share the first-level cache, and the cost of dispatching an
// instruction is small against running it.
const turnElements = 2048

// assemble builds k's loop. outside reports the results that exist in memory.
func assemble(k *cluster, outside func(t *tensor) bool) *loop {
	member := map[*node]bool{}
	for _, n := range k.nodes {
		member[n] = true
	}
	a := &assembler{loop: &loop{total: k.total, cols: k.cols}, k: k, known: map[*tensor]operand{}, inputs: map[string]operand{},
		extern: outside, of: func(n *node) bool { return member[n] }}
	whole := k.cols != 0
	if a.cols == 0 {
		a.cols = k.total
		for _, n := range k.nodes {
			for _, e := range n.in {
				if e.t == nil || member[e.t.node] {
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
		a.chunk = min(a.cols, turnElements)
	}
	a.rows = 1
	if a.chunk == a.cols {
		a.rows = max(1, min(turnElements/a.cols, a.total/a.cols))
	}
	for _, n := range k.nodes {
		a.emit(n)
	}
	a.finish()
	return a.loop
}

func (a *assembler) newFull() int   { a.full++; return a.full - 1 }
func (a *assembler) newScalar() int { a.scalar++; return a.scalar - 1 }

// immediate is a scalar register with a constant.
func (a *assembler) immediate(v float32) operand {
	key := fmt.Sprint("imm", v)
	if o, ok := a.inputs[key]; ok {
		return o
	}
	// Registers of immediates are numbered after all is emitted; see finish.
	o := operand{reg: -1 - len(a.immediates)}
	a.immediates = append(a.immediates, v)
	a.inputs[key] = o
	return o
}

// read brings what an edge of a node on the given level reads to a register.
func (a *assembler) read(e edge, lv level) operand {
	n := e.t.node
	if a.of(n) {
		if o, ok := a.known[e.t]; ok {
			return o
		}
	}
	if n.kind == kindConstant && e.t.n == 1 && e.t.dtype == dtypes.Float32 {
		return a.immediate(view[float32](n.rec.data.(*buffer).data, 0, 1)[0])
	}
	if n.source && !a.extern(e.t) && e.whole(e.t.n) && lv == levelFull {
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
		o := operand{full: true, reg: a.newFull()}
		a.code = append(a.code, instruction{form: formRandom, dst: o.reg, state: n.in[0].t})
		a.known[e.t] = o
		return o
	}
	key := fmt.Sprint(lv == levelRow, e.t.id, e.layout.collapsed())
	if o, ok := a.inputs[key]; ok {
		return o
	}
	in := loopInput{t: e.t, l: e.collapsed(), elements: e.t.dtype.Size()}
	in.run, in.stride, _ = e.run()
	switch {
	case lv == levelRow, e.constant(), in.stride == 0 && in.run%a.cols == 0:
		// On a row's own level the index space is that of the rows.
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
	a.in = append(a.in, in)
	o := operand{full: in.form != inputScalar, reg: in.reg}
	a.inputs[key] = o
	return o
}

func (a *assembler) emit(n *node) { a.emitAt(n, levelIn(n, a.k.total, a.k.cols)) }

// emitAt adds the instructions of n.
func (a *assembler) emitAt(n *node, lv level) {
	t := n.out[0]
	if n.kind == kindReduce {
		x := a.read(n.in[0], levelFull)
		if !x.full {
			x = a.spread(x)
		}
		if lv == levelSums {
			a.sums = append(a.sums, loopSum{t, x.reg})
			return
		}
		o := operand{reg: a.newScalar()}
		a.code = append(a.code, instruction{form: formReduce, dst: o.reg, a: x.reg, reduce: reductions[n.op]})
		a.result(t, o)
		return
	}
	if n.op == opDropout {
		x := a.spread(a.read(n.in[0], lv))
		o := operand{full: true, reg: a.newFull()}
		a.code = append(a.code, instruction{form: formDropout, dst: o.reg, a: x.reg, state: n.in[1].t.node.in[0].t, dropout: n.rec.data.(dropout)})
		a.result(t, o)
		return
	}
	var in [3]operand
	anyFull := false
	for i, e := range n.in {
		if e.t == nil {
			continue
		}
		if n.op == compute.OpTypeFusedLayerNorm && i > 0 {
			in[i] = a.read(e, levelFull)
		} else {
			in[i] = a.read(e, lv)
		}
		anyFull = anyFull || in[i].full
	}
	ins := instruction{a: in[0].reg, b: in[1].reg, c: in[2].reg, aFull: in[0].full, bFull: in[1].full}
	switch {
	case n.op == compute.OpTypeFusedSoftmax:
		ins.form, ins.a = formSoftmax, a.spread(in[0]).reg
		anyFull = true
	case n.op == compute.OpTypeFusedLayerNorm:
		ins.form, ins.a, ins.eps = formLayerNorm, a.spread(in[0]).reg, float32(n.rec.attrs[1].(float64))
		ins.b, ins.c = -1, -1
		if len(n.in) > 1 && n.in[1].t != nil {
			ins.b = a.spread(in[1]).reg
		}
		if len(n.in) > 2 && n.in[2].t != nil {
			ins.c = a.spread(in[2]).reg
		}
		anyFull = true
	case n.op == opGELUGrad:
		ins.form, ins.vv, ins.a, ins.b = formVV, vector.GELUGrad, a.spread(in[0]).reg, a.spread(in[1]).reg
		anyFull = true
	case n.op == compute.OpTypeConvertDType:
		if !in[0].full { // scalars are numbers already
			ins.form, ins.s = formS, func(x float32) float32 { return x }
		} else {
			ins.form, ins.convert = formConvert, conversions[n.in[0].t.dtype]
		}
	case n.op == compute.OpTypeWhere:
		ins.form, ins.cOK = formWhere, in[2].full
		if !anyFull {
			ins.form = formWhereSS
		}
	case n.op == compute.OpTypeFusedGelu:
		f := unary{vector.GELU, gelu32}
		if !n.rec.attrs[0].(bool) {
			f = unary{vector.GELUTanh, geluTanh32}
		}
		ins.form, ins.v, ins.s = formV, f.v, f.s
		if !anyFull {
			ins.form = formS
		}
	default:
		if f, ok := unaries[n.op]; ok {
			ins.form, ins.v, ins.s = formV, f.v, f.s
			if !anyFull {
				ins.form = formS
			}
			break
		}
		if f, ok := binaries[n.op]; ok {
			ins.vv, ins.vs, ins.sv, ins.ss = f.vv, f.vs, f.sv, f.ss
			switch {
			case in[0].full && in[1].full:
				ins.form = formVV
			case in[0].full:
				ins.form = formVS
			case in[1].full:
				ins.form = formSV
			default:
				ins.form = formSS
			}
			break
		}
		f := comparisons[n.op]
		switch {
		case in[0].full && in[1].full:
			ins.form, ins.cvv = formCompareVV, f.vv
		case in[0].full:
			ins.form, ins.cvs = formCompareVS, f.vs
		case in[1].full: // s < v is v > s
			ins.form, ins.cvs = formCompareVS, f.swapped
			ins.a, ins.b = ins.b, ins.a
		default:
			ins.form, ins.css = formCompareSS, f.ss
		}
	}
	o := operand{full: anyFull}
	if anyFull {
		o.reg = a.newFull()
	} else {
		o.reg = a.newScalar()
	}
	ins.dst = o.reg
	a.code = append(a.code, ins)
	// A full node of scalars alone still has one value for each element.
	if !anyFull && lv == levelFull && a.extern(t) {
		o = a.spreadAs(o, t.dtype)
	}
	a.result(t, o)
}

// spread makes a full register of any.
func (a *assembler) spread(o operand) operand { return a.spreadAs(o, dtypes.Float32) }

func (a *assembler) spreadAs(o operand, t dtypes.DType) operand {
	if o.full {
		return o
	}
	r := operand{full: true, reg: a.newFull()}
	a.code = append(a.code, instruction{form: formSpread, dst: r.reg, a: o.reg, cOK: t == dtypes.Bool})
	return r
}

// result records where t is, and that it goes to memory if it is read outside.
func (a *assembler) result(t *tensor, o operand) {
	a.known[t] = o
	if !a.of(t.node) || !a.extern(t) {
		return
	}
	if o.full {
		a.bound = append(a.bound, loopBinding{t, o.reg})
	} else {
		a.stores = append(a.stores, loopStore{t, o.reg})
	}
}

// finish numbers the immediates, lets registers share memory by lifetime, and
// cuts the loop into parts.
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
		ins := &a.code[i]
		switch ins.form {
		case formVS, formCompareVS:
			fix(&ins.b)
		case formSV:
			fix(&ins.a)
		case formSS, formCompareSS:
			fix(&ins.a)
			fix(&ins.b)
			fix(&ins.dst)
		case formS:
			fix(&ins.a)
			fix(&ins.dst)
		case formSpread:
			fix(&ins.a)
		case formReduce:
			fix(&ins.dst)
		case formWhereSS:
			fix(&ins.a)
			fix(&ins.b)
			fix(&ins.c)
			fix(&ins.dst)
		case formWhere:
			if !ins.aFull {
				fix(&ins.a)
			}
			if !ins.bFull {
				fix(&ins.b)
			}
			if !ins.cOK {
				fix(&ins.c)
			}
		}
	}
	a.scalar += n
	a.share()
	size := 1 << 14
	a.parts = min(max(1, a.total/size), 64)
	if len(a.sums) > 0 {
		a.parts = min(a.parts, 16)
	}
}

// reads lists the full registers that an instruction reads.
func (ins *instruction) reads() []int {
	switch ins.form {
	case formVV, formCompareVV:
		return []int{ins.a, ins.b}
	case formVS, formCompareVS, formV, formConvert, formReduce, formSoftmax, formDropout:
		return []int{ins.a}
	case formSV:
		return []int{ins.b}
	case formLayerNorm:
		r := []int{ins.a}
		if ins.b >= 0 {
			r = append(r, ins.b)
		}
		if ins.c >= 0 {
			r = append(r, ins.c)
		}
		return r
	case formWhere:
		var r []int
		if ins.aFull {
			r = append(r, ins.a)
		}
		if ins.bFull {
			r = append(r, ins.b)
		}
		if ins.cOK {
			r = append(r, ins.c)
		}
		return r
	}
	return nil
}

// writesFull reports whether dst is a full register.
func (ins *instruction) writesFull() bool {
	switch ins.form {
	case formSS, formS, formCompareSS, formReduce, formWhereSS:
		return false
	}
	return true
}

// inPlace reports whether dst may lie in the memory of register r: the elements
// have one size, and each is read before it is written.
func (ins *instruction) inPlace(r int) bool {
	switch ins.form {
	case formConvert, formCompareVV, formCompareVS, formWhere:
		return false
	case formLayerNorm:
		return r != ins.b && r != ins.c
	}
	return true
}

// share gives full registers slots of scratch memory; a slot is used again
// after its last reader. Registers that are inputs or results in memory keep
// numbers of their own, after the slots.
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
		if in.fixed { // kept from turn to turn
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
		switch ins.form {
		case formVV, formCompareVV:
			ins.a, ins.b = slot[ins.a], slot[ins.b]
		case formVS, formCompareVS, formV, formConvert, formReduce, formSoftmax, formDropout:
			ins.a = slot[ins.a]
		case formSV:
			ins.b = slot[ins.b]
		case formLayerNorm:
			ins.a = slot[ins.a]
			if ins.b >= 0 {
				ins.b = slot[ins.b]
			}
			if ins.c >= 0 {
				ins.c = slot[ins.c]
			}
		case formWhere:
			if ins.aFull {
				ins.a = slot[ins.a]
			}
			if ins.bFull {
				ins.b = slot[ins.b]
			}
			if ins.cOK {
				ins.c = slot[ins.c]
			}
		}
		if ins.writesFull() {
			ins.dst = slot[ins.dst]
		}
	}
}

// reads lists the tensors that the loop reads from memory.
func (l *loop) reads() (out []*tensor) {
	add := func(t *tensor) {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	for _, in := range l.in {
		add(in.t)
	}
	for _, ins := range l.code {
		if ins.state != nil {
			add(ins.state)
		}
	}
	return out
}

// writes lists the tensors that the loop writes.
func (l *loop) writes() (out []*tensor) {
	for _, b := range l.bound {
		out = append(out, b.t)
	}
	for _, s := range l.stores {
		out = append(out, s.t)
	}
	for _, s := range l.sums {
		out = append(out, s.t)
	}
	return out
}

// replaces reports whether result may lie in the memory of input: the loop
// reads input element by element, in step with result, and not after result is
// written.
func (l *loop) replaces(result, input *tensor) bool {
	if result.bytes() != input.bytes() || result.n != l.total {
		return false
	}
	reg := -1
	for _, b := range l.bound {
		if b.t == result {
			reg = b.reg
		}
	}
	if reg < 0 {
		return false
	}
	var regs []int
	for _, in := range l.in {
		if in.t == input {
			if in.form != inputRow || !in.l.whole(l.total) {
				return false
			}
			regs = append(regs, in.reg)
		}
	}
	written := -1
	for i, ins := range l.code {
		if ins.state == input {
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

// turns is the state of one goroutine that runs parts of a loop.
type turns struct {
	reg  []unsafe.Pointer
	s    []float32 // scalar register r of row i is s[r*stride+i]
	n    int       // elements of this turn
	rows int       // of this turn
	cols int       // n / rows
	// stride is the number of rows of a whole turn.
	stride int
}

func (m *turns) f(r int) []float32 { return unsafe.Slice((*float32)(m.reg[r]), m.n) }
func (m *turns) bools(r int) []bool {
	return unsafe.Slice((*bool)(m.reg[r]), m.n)
}

// row is row i of a full register.
func (m *turns) row(r, i int) []float32 {
	return unsafe.Slice((*float32)(unsafe.Add(m.reg[r], 4*i*m.cols)), m.cols)
}

func (m *turns) boolRow(r, i int) []bool {
	return unsafe.Slice((*bool)(unsafe.Add(m.reg[r], i*m.cols)), m.cols)
}

// scalars is a scalar register: one number for each row.
func (m *turns) scalars(r int) []float32 { return m.s[r*m.stride:][:m.rows] }

// at is the offset of element e of a collapsed layout.
func (l *layout) at(e int) int {
	off := l.offset
	for i := len(l.dims) - 1; i >= 0; i-- {
		d := l.dims[i]
		if i == 0 {
			off += e * l.strides[0]
			break
		}
		q := e / d
		off += (e - q*d) * l.strides[i]
		e = q
	}
	return off
}

// run executes the loop on the memory of mem.
func (l *loop) run(mem func(t *tensor) []byte) {
	chunks := (l.cols + l.chunk - 1) / l.chunk // of a row
	rows := l.total / l.cols
	units := (rows + l.rows - 1) / l.rows * chunks
	parts := min(l.parts, units)
	var partial []float32
	width := 0 // of all sums
	for _, s := range l.sums {
		width += s.t.n
	}
	if width > 0 {
		partial = make([]float32, parts*width)
	}
	workers.Run(parts, func(part int, scratch *workers.Scratch) {
		m := &turns{reg: make([]unsafe.Pointer, l.full), s: make([]float32, l.scalar*l.rows), stride: l.rows}
		for i, v := range l.immediates {
			vector.Fill(m.s[i*l.rows:(i+1)*l.rows], v)
		}
		for i := range l.scratch {
			m.reg[i] = unsafe.Pointer(unsafe.SliceData(scratch.Float32s(l.chunk * l.rows)))
		}
		base := make([]unsafe.Pointer, len(l.in)+len(l.bound))
		for i, in := range l.in {
			base[i] = unsafe.Pointer(unsafe.SliceData(mem(in.t)))
		}
		for i, b := range l.bound {
			base[len(l.in)+i] = unsafe.Pointer(unsafe.SliceData(mem(b.t)))
		}
		first := true
		for u := part * units / parts; u < (part+1)*units/parts; u++ {
			row, c0 := u*l.rows, 0
			if chunks > 1 {
				row, c0 = u/chunks, u%chunks*l.chunk
			}
			e0 := row*l.cols + c0
			m.rows, m.cols = min(l.rows, rows-row), min(l.chunk, l.cols-c0)
			m.n = m.rows * m.cols
			for i := range l.in {
				in := &l.in[i]
				switch in.form {
				case inputRow:
					m.reg[in.reg] = unsafe.Add(base[i], in.l.at(e0)*in.elements)
				case inputScalar:
					for r, s := 0, m.scalars(in.reg); r < m.rows; r++ {
						at := e0 + r*l.cols
						if in.run < 0 {
							at = row + r
						}
						s[r] = number(in.t.dtype, unsafe.Add(base[i], in.l.at(at)*in.elements))
					}
				default:
					if !in.fixed || first {
						in.assemble(m, base[i], e0)
					}
				}
			}
			first = false
			for i, b := range l.bound {
				m.reg[b.reg] = unsafe.Add(base[len(l.in)+i], e0*b.t.dtype.Size())
			}
			l.turn(m, e0, mem, scratch)
			for _, s := range l.stores {
				for r, v := range m.scalars(s.reg) {
					put(s.t.dtype, mem(s.t), row+r, v)
				}
			}
			at := part * width
			for _, s := range l.sums {
				vector.AddRows(partial[at+c0:at+c0+m.cols], m.f(s.reg), m.rows, m.cols, m.cols)
				at += s.t.n
			}
		}
	})
	at := 0
	for _, s := range l.sums {
		out := view[float32](mem(s.t), 0, s.t.n)
		copy(out, partial[at:at+s.t.n])
		for p := 1; p < parts; p++ {
			vector.Add(out, out, partial[p*width+at:p*width+at+s.t.n])
		}
		at += s.t.n
	}
}

// number reads one element as float32.
func number(t dtypes.DType, p unsafe.Pointer) float32 {
	switch t {
	case dtypes.Float32:
		return *(*float32)(p)
	case dtypes.Bool, dtypes.Uint8:
		return float32(*(*uint8)(p))
	case dtypes.Int32:
		return float32(*(*int32)(p))
	case dtypes.Float16, dtypes.BFloat16:
		var v [1]float32
		conversions[t](v[:], p)
		return v[0]
	default: // Uint32, the last of conversions
		return float32(*(*uint32)(p))
	}
}

// put writes one element: float32, or bool from 0 and 1.
func put(t dtypes.DType, data []byte, at int, v float32) {
	if t == dtypes.Bool {
		data[at] = byte(v)
		return
	}
	view[float32](data, at, 1)[0] = v
}

// assemble pieces a register together from runs shorter than the turn.
func (in *loopInput) assemble(m *turns, base unsafe.Pointer, e0 int) {
	for done := 0; done < m.n; {
		e := e0 + done
		n := min(in.run-e%in.run, m.n-done)
		src := unsafe.Add(base, in.l.at(e)*in.elements)
		dst := unsafe.Add(m.reg[in.reg], done*in.elements)
		switch {
		case in.stride == 1:
			copy(unsafe.Slice((*byte)(dst), n*in.elements), unsafe.Slice((*byte)(src), n*in.elements))
		case in.elements == 4:
			v, d := *(*uint32)(src), unsafe.Slice((*uint32)(dst), n)
			for i := range d {
				d[i] = v
			}
		case in.elements == 2:
			v, d := *(*uint16)(src), unsafe.Slice((*uint16)(dst), n)
			for i := range d {
				d[i] = v
			}
		default:
			v, d := *(*byte)(src), unsafe.Slice((*byte)(dst), n)
			for i := range d {
				d[i] = v
			}
		}
		done += n
	}
}

// turn runs all instructions on the rows, or the chunk, of one turn.
func (l *loop) turn(m *turns, e0 int, mem func(t *tensor) []byte, scratch *workers.Scratch) {
	for i := range l.code {
		ins := &l.code[i]
		switch ins.form {
		case formVV:
			ins.vv(m.f(ins.dst), m.f(ins.a), m.f(ins.b))
		case formVS:
			if ins.b < len(l.immediates) {
				ins.vs(m.f(ins.dst), m.f(ins.a), l.immediates[ins.b])
				continue
			}
			for r, s := range m.scalars(ins.b) {
				ins.vs(m.row(ins.dst, r), m.row(ins.a, r), s)
			}
		case formSV:
			if ins.a < len(l.immediates) {
				ins.sv(m.f(ins.dst), l.immediates[ins.a], m.f(ins.b))
				continue
			}
			for r, s := range m.scalars(ins.a) {
				ins.sv(m.row(ins.dst, r), s, m.row(ins.b, r))
			}
		case formSS:
			dst, b := m.scalars(ins.dst), m.scalars(ins.b)
			for r, a := range m.scalars(ins.a) {
				dst[r] = ins.ss(a, b[r])
			}
		case formV:
			ins.v(m.f(ins.dst), m.f(ins.a))
		case formS:
			dst := m.scalars(ins.dst)
			for r, a := range m.scalars(ins.a) {
				dst[r] = ins.s(a)
			}
		case formCompareVV:
			ins.cvv(m.bools(ins.dst), m.f(ins.a), m.f(ins.b))
		case formCompareVS:
			for r, s := range m.scalars(ins.b) {
				ins.cvs(m.boolRow(ins.dst, r), m.row(ins.a, r), s)
			}
		case formCompareSS:
			dst, b := m.scalars(ins.dst), m.scalars(ins.b)
			for r, a := range m.scalars(ins.a) {
				dst[r] = 0
				if ins.css(a, b[r]) {
					dst[r] = 1
				}
			}
		case formWhere:
			for r := range m.rows {
				m.where(ins, r)
			}
		case formWhereSS:
			dst, b, c := m.scalars(ins.dst), m.scalars(ins.b), m.scalars(ins.c)
			for r, a := range m.scalars(ins.a) {
				dst[r] = c[r]
				if a != 0 {
					dst[r] = b[r]
				}
			}
		case formConvert:
			ins.convert(m.f(ins.dst), m.reg[ins.a])
		case formReduce:
			for r, dst := 0, m.scalars(ins.dst); r < m.rows; r++ {
				dst[r] = ins.reduce(m.row(ins.a, r))
			}
		case formSoftmax:
			for r := range m.rows {
				vector.SoftmaxRow(m.row(ins.dst, r), m.row(ins.a, r), 1)
			}
		case formLayerNorm:
			for r := range m.rows {
				var gamma, beta []float32
				if ins.b >= 0 {
					gamma = m.row(ins.b, r)
				}
				if ins.c >= 0 {
					beta = m.row(ins.c, r)
				}
				vector.LayerNormRow(m.row(ins.dst, r), m.row(ins.a, r), gamma, beta, ins.eps)
			}
		case formRandom:
			state := view[uint64](mem(ins.state), 0, 3)
			randomBits(unsafe.Slice((*uint32)(m.reg[ins.dst]), m.n), state, e0, scratch)
		case formDropout:
			drop(m.f(ins.dst), m.f(ins.a), ins.dropout, view[uint64](mem(ins.state), 0, 3), e0, scratch)
		case formSpread:
			for r, s := range m.scalars(ins.a) {
				if !ins.cOK {
					vector.Fill(m.row(ins.dst, r), s)
					continue
				}
				for j, d := 0, m.boolRow(ins.dst, r); j < len(d); j++ {
					d[j] = s != 0
				}
			}
		}
	}
}

// where selects within row r.
func (m *turns) where(ins *instruction, r int) {
	dst := m.row(ins.dst, r)
	if !ins.aFull {
		from, full := ins.c, ins.cOK
		if m.scalars(ins.a)[r] != 0 {
			from, full = ins.b, ins.bFull
		}
		if full {
			copy(dst, m.row(from, r))
		} else {
			vector.Fill(dst, m.scalars(from)[r])
		}
		return
	}
	mask := m.boolRow(ins.a, r)
	switch {
	case ins.bFull && ins.cOK:
		vector.Where(dst, mask, m.row(ins.b, r), m.row(ins.c, r))
	case ins.bFull:
		vector.WhereElseScalar(dst, mask, m.row(ins.b, r), m.scalars(ins.c)[r])
	case ins.cOK:
		vector.WhereThenScalar(dst, mask, m.scalars(ins.b)[r], m.row(ins.c, r))
	default:
		vector.WhereScalars(dst, mask, m.scalars(ins.b)[r], m.scalars(ins.c)[r])
	}
}
