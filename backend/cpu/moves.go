package cpu

import (
	"slices"
	"unsafe"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// bounds returns the range of a slice along an axis of n elements, with both bounds between 0 and
// n. Like the Go backend of GoMLX, it counts negative numbers from the end and removes the part
// outside the axis.
func bounds(n, start, limit int) (from, to int) {
	if start < 0 {
		start += n
	}
	if limit < 0 {
		limit += n
	}
	return min(max(start, 0), n), min(max(limit, 0), n)
}

// copyParallel copies src to dst. It uses several processors if src is long.
func copyParallel(dst, src []byte) {
	const block = 1 << 18
	parts := (len(src) + block - 1) / block
	if parts < 2 {
		copy(dst, src)
		return
	}
	workers.Run(parts, func(part int, _ *workers.Scratch) {
		copy(dst[part*block:], src[part*block:min((part+1)*block, len(src))])
	})
}

// copyStrided copies elements from the layout from of src to the layout to of dst. Both layouts
// have the same dimensions. size is the size of an element in bytes.
func copyStrided(dst []byte, to layout, src []byte, from layout, size int) {
	if to.size() == 0 {
		return
	}
	// Merge the axes that both layouts can merge.
	dims, ts, fs := []int(nil), []int(nil), []int(nil)
	for i, d := range to.dims {
		if d == 1 {
			continue
		}
		if n := len(dims); n > 0 && ts[n-1] == d*to.strides[i] && fs[n-1] == d*from.strides[i] {
			dims[n-1] *= d
			ts[n-1], fs[n-1] = to.strides[i], from.strides[i]
			continue
		}
		dims, ts, fs = append(dims, d), append(ts, to.strides[i]), append(fs, from.strides[i])
	}
	if len(dims) == 0 {
		dims, ts, fs = []int{1}, []int{1}, []int{1}
	}
	n := len(dims)
	if n == 1 && ts[0] == 1 && fs[0] == 1 {
		copyParallel(dst[to.offset*size:(to.offset+dims[0])*size], src[from.offset*size:(from.offset+dims[0])*size])
		return
	}
	// Elements may be copied in any order. If the contiguous axis of the source is not the
	// contiguous axis of the destination, make these two axes the last axes. Their plane is then a
	// transposition.
	if i := slices.Index(fs, 1); i >= 0 && i < n-2 && ts[n-1] == 1 {
		for _, list := range []*[]int{&dims, &ts, &fs} {
			v := (*list)[i]
			*list = slices.Insert(slices.Delete(*list, i, i+1), n-2, v)
		}
	}
	// A part copies some of the outermost indices. The last two axes are a plane.
	inner := 2
	if n < 2 || ts[n-1] == 1 && fs[n-1] == 1 {
		inner = 1
	}
	outer := dims[:n-inner]
	rows := 1
	for _, d := range outer {
		rows *= d
	}
	plane := layout{dims: outer}
	t, f := plane, plane
	t.strides, t.offset = ts[:n-inner], to.offset
	f.strides, f.offset = fs[:n-inner], from.offset
	work := 1
	for _, d := range dims[n-inner:] {
		work *= d
	}
	parts := min(rows, max(1, rows*work>>14))
	workers.Run(parts, func(part int, _ *workers.Scratch) {
		for r := part * rows / parts; r < (part+1)*rows/parts; r++ {
			at, of := t.offset, f.offset
			if len(outer) > 0 {
				at, of = t.at(r), f.at(r)
			}
			if inner == 1 {
				line(dst, at, ts[n-1], src, of, fs[n-1], dims[n-1], size)
				continue
			}
			if size == 4 && ts[n-1] == 1 && fs[n-2] == 1 && fs[n-1] > 1 {
				d, s := view[float32](dst, 0, len(dst)/4)[at:], view[float32](src, 0, len(src)/4)[of:]
				vector.Transpose(d, ts[n-2], s, fs[n-1], dims[n-1], dims[n-2])
				continue
			}
			for i := range dims[n-2] {
				line(dst, at+i*ts[n-2], ts[n-1], src, of+i*fs[n-2], fs[n-1], dims[n-1], size)
			}
		}
	})
}

// line copies n elements with the stride fs in src to the stride ts in dst, starting at the
// elements of and at.
func line(dst []byte, at, ts int, src []byte, of, fs, n, size int) {
	if ts == 1 && fs == 1 {
		copy(dst[at*size:(at+n)*size], src[of*size:(of+n)*size])
		return
	}
	switch size {
	case 1:
		lineOf[uint8](dst, at, ts, src, of, fs, n)
	case 2:
		lineOf[uint16](dst, at, ts, src, of, fs, n)
	case 4:
		lineOf[uint32](dst, at, ts, src, of, fs, n)
	case 8:
		lineOf[uint64](dst, at, ts, src, of, fs, n)
	default:
		for i := range n {
			copy(dst[(at+i*ts)*size:][:size], src[(of+i*fs)*size:][:size])
		}
	}
}

// lineOf does the same as line for elements of the type T.
func lineOf[T any](dst []byte, at, ts int, src []byte, of, fs, n int) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	d, s := view[T](dst, 0, len(dst)/size)[at:], view[T](src, 0, len(src)/size)[of:]
	if fs == 0 {
		v := s[0]
		if ts == 1 {
			for i := range d[:n] {
				d[i] = v
			}
			return
		}
		for i := range n {
			d[i*ts] = v
		}
		return
	}
	for i := range n {
		d[i*ts] = s[i*fs]
	}
}

// copyKernel copies a strided tensor to contiguous memory.
type copyKernel struct {
	from   operand
	to     *slot
	size   int  // size of an element in bytes
	packed bool // elements are smaller than a byte; kernels read such tensors only completely
}

func newCopyKernel(n *node) *copyKernel {
	t := n.out[0]
	k := &copyKernel{from: n.in[0].operand(), to: t.slot, packed: t.dtype.IsPacked()}
	if !k.packed {
		k.size = t.dtype.Size()
	}
	return k
}

func (k *copyKernel) run(x *execution) error {
	if k.packed {
		copyParallel(x.mem(k.to), x.mem(k.from.slot))
		return nil
	}
	copyStrided(x.mem(k.to), rowMajor(k.from.dims), x.mem(k.from.slot), k.from.layout, k.size)
	return nil
}

// concatKernel concatenates tensors.
type concatKernel struct {
	from []operand
	at   []layout // layout of each tensor in the result
	to   *slot
	size int // size of an element in bytes
}

func newConcatKernel(n *node) *concatKernel {
	t, axis := n.out[0], n.axes[0]
	k := &concatKernel{to: t.slot, size: t.dtype.Size()}
	whole := rowMajor(n.dims)
	for _, e := range n.in {
		k.from = append(k.from, e.operand())
		k.at = append(k.at, layout{dims: e.dims, strides: whole.strides, offset: whole.offset})
		whole.offset += e.dims[axis] * whole.strides[axis]
	}
	return k
}

func (k *concatKernel) run(x *execution) error {
	for i, from := range k.from {
		copyStrided(x.mem(k.to), k.at[i], x.mem(from.slot), from.layout, k.size)
	}
	return nil
}

// padKernel copies a tensor into a larger, filled tensor.
type padKernel struct {
	from, fill operand
	whole, at  layout // layouts of the result, and of the tensor in the result
	to         *slot
	size       int // size of an element in bytes
}

func newPadKernel(n *node) *padKernel {
	t := n.out[0]
	k := &padKernel{from: n.in[0].operand(), fill: n.in[1].operand(), whole: rowMajor(n.dims), at: rowMajor(n.dims), to: t.slot, size: t.dtype.Size()}
	k.fill.layout = k.fill.broadcastTo(n.dims)
	k.at.dims = k.from.dims
	for i, a := range n.rec.attrs.(padAttrs).axesConfig {
		k.at.offset += max(0, a.Start) * k.at.strides[i]
		k.at.strides[i] *= a.Interior + 1
	}
	return k
}

func (k *padKernel) run(x *execution) error {
	copyStrided(x.mem(k.to), k.whole, x.mem(k.fill.slot), k.fill.layout, k.size)
	copyStrided(x.mem(k.to), k.at, x.mem(k.from.slot), k.from.layout, k.size)
	return nil
}

// reduceBlock is the number of elements in one partial result. It also defines the order of sums,
// so another value changes the last bits of results.
const reduceBlock = 4096

// reduceKernel reduces neighbouring axes. The tensor has outer × reduced × inner elements.
type reduceKernel struct {
	from                  operand
	to                    *slot
	outer, reduced, inner int
	reduction
}

func newReduceKernel(n *node) *reduceKernel {
	k := &reduceKernel{from: n.in[0].operand(), to: n.out[0].slot, outer: 1, reduced: 1, inner: 1, reduction: reductions[n.op]}
	for i, d := range k.from.dims {
		switch {
		case i < n.axes[0]:
			k.outer *= d
		case i > n.axes[len(n.axes)-1]:
			k.inner *= d
		default:
			k.reduced *= d
		}
	}
	return k
}

func (k *reduceKernel) run(x *execution) error {
	outer, reduced, inner := k.outer, k.reduced, k.inner
	in := x.float32s(k.from.slot)[k.from.offset:][:outer*reduced*inner]
	out := x.float32s(k.to)
	if inner == 1 {
		blocks := (reduced + reduceBlock - 1) / reduceBlock
		partial := make([]float32, outer*blocks)
		parts := min(outer*blocks, 64)
		workers.Run(parts, func(part int, _ *workers.Scratch) {
			for i := part * len(partial) / parts; i < (part+1)*len(partial)/parts; i++ {
				from := i % blocks * reduceBlock
				partial[i] = k.fold(in[i/blocks*reduced:][from:min(from+reduceBlock, reduced)])
			}
		})
		for i := range out {
			out[i] = partial[i*blocks]
			for _, p := range partial[i*blocks+1 : (i+1)*blocks] {
				out[i] = k.merge.Numbers(out[i], p)
			}
		}
		return nil
	}
	// Rows of inner elements are merged in order. The columns are divided into parts for several
	// processors.
	cuts := min(max(1, inner/256), 16)
	workers.Run(outer*cuts, func(part int, _ *workers.Scratch) {
		o, cut := part/cuts, part%cuts
		lo, hi := cut*inner/cuts, (cut+1)*inner/cuts
		dst := out[o*inner+lo : o*inner+hi]
		copy(dst, in[o*reduced*inner+lo:])
		for r := 1; r < reduced; r++ {
			k.merge.Slices(dst, dst, in[(o*reduced+r)*inner+lo:][:hi-lo])
		}
	})
	return nil
}

// randomKernel draws random bits and computes the next state of the generator.
type randomKernel struct {
	state operand
	next  *slot
	bits  *slot // nil: every reader computes the bits itself
	words int   // number of 32-bit words that are drawn
}

func newRandomKernel(n *node) *randomKernel {
	k := &randomKernel{state: n.in[0].operand(), next: n.out[0].slot, words: (n.out[1].bytes() + 3) / 4}
	if n.out[1].used {
		k.bits = n.out[1].slot
	}
	return k
}

func (k *randomKernel) run(x *execution) error {
	// The new state may use the memory of the old state.
	from := [3]uint64(view[uint64](x.mem(k.state.slot), k.state.offset, 3))
	nextState(view[uint64](x.mem(k.next), 0, 3), from[:], k.words)
	if k.bits == nil {
		return nil
	}
	data := x.mem(k.bits)
	const block = 1 << 14 // words, a multiple of 4
	parts := (k.words + block - 1) / block
	workers.Run(parts, func(part int, s *workers.Scratch) {
		lo, hi := part*block, min((part+1)*block, k.words)
		if hi*4 <= len(data) {
			randomBits(view[uint32](data, lo, hi-lo), from[:], lo, s)
			return
		}
		last := make([]uint32, hi-lo)
		randomBits(last, from[:], lo, s)
		copy(data[lo*4:], view[byte](unsafe.Slice((*byte)(unsafe.Pointer(&last[0])), 4*len(last)), 0, len(data)-lo*4))
	})
	return nil
}
