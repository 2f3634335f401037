package cpu

import (
	"sync"
	"unsafe"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// loop is the kernel of a cluster. It processes total elements in rows of cols elements, one tile
// at a time. A tile is a few short rows, or a chunk of a long row. All instructions run on a tile
// while it is in the first-level cache.
//
// A full register holds the elements of a tile. A scalar register holds one number for each row of
// a tile: an input that is constant along a row, or a reduced row.
type loop struct {
	// Number of elements, elements of a row, and elements of a chunk.
	total, cols, chunk int
	// Number of rows of a tile. It is more than 1 only if chunk is equal to cols.
	rows int
	// Number of parts of the loop. Different processors can run different parts.
	parts int
	// Number of blocks of rows that sums add up separately. A part lies within one block.
	blocks int
	in     []loopInput
	code   []instruction
	// Full registers that use the memory of a result.
	bound []loopResult
	// Scalar registers that are stored, one element for each row.
	stores []loopResult
	// Full registers whose rows are added up to one row of cols elements, or to one row for each
	// block.
	sums []loopResult
	// Contents of the first scalar registers.
	immediates []float32
	// Numbers of full registers and of scalar registers.
	full, scalar int
	// Number of full registers that need scratch memory.
	scratch int
}

// loopInput fills a register from memory.
type loopInput struct {
	slot     *slot
	dtype    dtypes.DType
	l        layout // collapsed
	run      int    // number of elements over which the innermost stride holds
	stride   int    // 0 or 1, along a run
	reg      int
	form     inputForm
	elements int  // size of an element, in bytes
	fixed    bool // the content is the same in every tile
}

// inputForm selects how a register is filled.
type inputForm int

const (
	inputRow      inputForm = iota // the register uses the memory of the input, which is contiguous
	inputAssemble                  // the elements are copied from several places in memory
	inputScalar                    // one number for each row
)

// loopResult is a register that the loop writes to memory.
type loopResult struct {
	slot  *slot
	dtype dtypes.DType
	reg   int
}

// form selects the operation of an instruction. It also defines which registers are full.
type form int

const (
	formVV form = iota // full, full → full
	formVS             // full, scalar → full
	formSV             // scalar, full → full
	formSS             // scalar, scalar → scalar
	formV              // full → full
	formS              // scalar → scalar
	formCompareVV
	formCompareVS
	formCompareSS
	formWhere
	formWhereSS // scalar mask, scalar branches
	formConvert
	formReduce
	formSoftmax
	formLayerNorm
	formLayerNormGrad
	formRandom
	formDropout
	formSpread // scalar → full
)

// instruction reads the registers a, b and c and writes the register dst. Its form defines which
// registers are full and which function it calls.
type instruction struct {
	form         form
	dst, a, b, c int
	// For formWhere, they report whether the mask and the branches are full. For formSpread, cFull
	// reports that dst holds booleans.
	aFull, bFull, cFull bool
	vv                  func(dst, a, b []float32)
	// For formVS and, with swapped operands, for formSV.
	vs      func(dst, a []float32, s float32)
	ss      func(a, b float32) float32
	v       func(dst, a []float32)
	s       func(a float32) float32
	cvv     func(dst []bool, a, b []float32)
	cvs     func(dst []bool, a []float32, s float32)
	css     func(a, b float32) bool
	reduce  func(a []float32) float32
	convert func(dst []float32, src unsafe.Pointer)
	eps     float32
	// The state of the random generator, for formRandom and formDropout.
	state   *slot
	dropout dropout
}

// tileState is the state of one goroutine that runs parts of a loop.
type tileState struct {
	reg    []unsafe.Pointer
	base   []unsafe.Pointer // memory of the inputs, then of the results
	s      []float32        // scalar register r of row i is s[r*stride+i]
	n      int              // number of elements of the current tile
	rows   int              // number of rows of the current tile
	cols   int              // n / rows
	stride int              // number of rows of a complete tile
}

var (
	spareTiles = sync.Pool{New: func() any { return new(tileState) }}
	spareSums  = sync.Pool{New: func() any { return new([]float32) }}
)

// sized returns s with n elements of undefined content.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// f returns a full register.
func (m *tileState) f(r int) []float32 { return unsafe.Slice((*float32)(m.reg[r]), m.n) }

// bools returns a full register of booleans.
func (m *tileState) bools(r int) []bool {
	return unsafe.Slice((*bool)(m.reg[r]), m.n)
}

// row returns row i of a full register.
func (m *tileState) row(r, i int) []float32 {
	return unsafe.Slice((*float32)(unsafe.Add(m.reg[r], 4*i*m.cols)), m.cols)
}

// boolRow returns row i of a full register of booleans.
func (m *tileState) boolRow(r, i int) []bool {
	return unsafe.Slice((*bool)(unsafe.Add(m.reg[r], i*m.cols)), m.cols)
}

// scalars returns a scalar register: one number for each row.
func (m *tileState) scalars(r int) []float32 { return m.s[r*m.stride:][:m.rows] }

func (l *loop) run(x *execution) error {
	chunks := (l.cols + l.chunk - 1) / l.chunk // chunks of a row
	rows := l.total / l.cols / l.blocks        // rows of a block
	units := (rows + l.rows - 1) / l.rows * chunks
	split := min(max(1, l.parts/l.blocks), units) // number of parts of a block
	parts := l.blocks * split
	var partial []float32
	width := len(l.sums) * l.cols
	if width > 0 {
		spare := spareSums.Get().(*[]float32)
		defer spareSums.Put(spare)
		*spare = sized(*spare, parts*width)
		partial = *spare
		clear(partial)
	}
	workers.Run(parts, func(part int, scratch *workers.Scratch) {
		m := spareTiles.Get().(*tileState)
		defer spareTiles.Put(m)
		m.reg, m.base, m.s, m.stride = sized(m.reg, l.full), sized(m.base, len(l.in)+len(l.bound)), sized(m.s, l.scalar*l.rows), l.rows
		defer clear(m.reg) // do not keep the memory of buffers alive
		defer clear(m.base)
		base := m.base
		for i, v := range l.immediates {
			vector.Fill(m.s[i*l.rows:(i+1)*l.rows], v)
		}
		for i := range l.scratch {
			m.reg[i] = unsafe.Pointer(unsafe.SliceData(scratch.Float32s(l.chunk * l.rows)))
		}
		for i, in := range l.in {
			base[i] = unsafe.Pointer(unsafe.SliceData(x.mem(in.slot)))
		}
		for i, b := range l.bound {
			base[len(l.in)+i] = unsafe.Pointer(unsafe.SliceData(x.mem(b.slot)))
		}
		first := true
		block, share := part/split, part%split
		for u := share * units / split; u < (share+1)*units/split; u++ {
			row, c0 := u*l.rows, 0
			if chunks > 1 {
				row, c0 = u/chunks, u%chunks*l.chunk
			}
			m.rows, m.cols = min(l.rows, rows-row), min(l.chunk, l.cols-c0)
			row += block * rows
			e0 := row*l.cols + c0
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
						s[r] = number(in.dtype, unsafe.Add(base[i], in.l.at(at)*in.elements))
					}
				default:
					if !in.fixed || first {
						in.assemble(m, base[i], e0)
					}
				}
			}
			first = false
			for i, b := range l.bound {
				m.reg[b.reg] = unsafe.Add(base[len(l.in)+i], e0*b.dtype.Size())
			}
			l.runTile(m, e0, x, scratch)
			for _, s := range l.stores {
				for r, v := range m.scalars(s.reg) {
					put(s.dtype, x.mem(s.slot), row+r, v)
				}
			}
			at := part * width
			for _, s := range l.sums {
				vector.AddRows(partial[at+c0:at+c0+m.cols], m.f(s.reg), m.rows, m.cols, m.cols)
				at += l.cols
			}
		}
	})
	for i, s := range l.sums {
		out := x.float32s(s.slot)
		each := parts * l.cols / len(out) // number of parts of a row of the result
		for p := range parts {
			row, add := out[p/each*l.cols:][:l.cols], partial[p*width+i*l.cols:]
			if p%each == 0 {
				copy(row, add)
			} else {
				vector.Add(row, row, add)
			}
		}
	}
	return nil
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
	default: // Uint32 is the only other type in conversions
		return float32(*(*uint32)(p))
	}
}

// put writes one element: a float32 number, or a bool from 0 or 1.
func put(t dtypes.DType, data []byte, at int, v float32) {
	if t == dtypes.Bool {
		data[at] = byte(v)
		return
	}
	view[float32](data, at, 1)[0] = v
}

// assemble fills a register from runs that are shorter than the tile.
func (in *loopInput) assemble(m *tileState, base unsafe.Pointer, e0 int) {
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

// runTile runs all instructions on one tile, which starts at element e0.
func (l *loop) runTile(m *tileState, e0 int, x *execution, scratch *workers.Scratch) {
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
				ins.vs(m.f(ins.dst), m.f(ins.b), l.immediates[ins.a])
				continue
			}
			for r, s := range m.scalars(ins.a) {
				ins.vs(m.row(ins.dst, r), m.row(ins.b, r), s)
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
		case formLayerNormGrad:
			for r := range m.rows {
				in := m.row(ins.b, r)
				mean, rstd := vector.Moments(in, ins.eps)
				vector.LayerNormGradRow(m.row(ins.dst, r), m.row(ins.a, r), in, mean, rstd)
			}
		case formRandom:
			state := view[uint64](x.mem(ins.state), 0, 3)
			randomBits(unsafe.Slice((*uint32)(m.reg[ins.dst]), m.n), state, e0, scratch)
		case formDropout:
			drop(m.f(ins.dst), m.f(ins.a), ins.dropout, view[uint64](x.mem(ins.state), 0, 3), e0, scratch)
		case formSpread:
			for r, s := range m.scalars(ins.a) {
				if !ins.cFull {
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

// where runs formWhere on row r.
func (m *tileState) where(ins *instruction, r int) {
	dst := m.row(ins.dst, r)
	if !ins.aFull {
		from, full := ins.c, ins.cFull
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
	case ins.bFull && ins.cFull:
		vector.Where(dst, mask, m.row(ins.b, r), m.row(ins.c, r))
	case ins.bFull:
		vector.WhereElseScalar(dst, mask, m.row(ins.b, r), m.scalars(ins.c)[r])
	case ins.cFull:
		vector.WhereThenScalar(dst, mask, m.row(ins.c, r), m.scalars(ins.b)[r])
	default:
		vector.WhereScalars(dst, mask, m.scalars(ins.b)[r], m.scalars(ins.c)[r])
	}
}
