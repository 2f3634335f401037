package cpu

import "slices"

// layout maps an index space to the elements of a tensor in memory. The index (i0, i1, …) selects
// the element offset + i0·strides[0] + i1·strides[1] + …. Reshape, transpose, slice and broadcast
// change only the layout. They do not move data.
type layout struct {
	dims, strides []int
	offset        int
}

// rowMajor returns the layout of a complete tensor in row-major order.
func rowMajor(dims []int) layout {
	l := layout{dims: slices.Clone(dims), strides: make([]int, len(dims))}
	step := 1
	for i := len(dims) - 1; i >= 0; i-- {
		l.strides[i] = step
		step *= dims[i]
	}
	return l
}

// size returns the number of indices.
func (l layout) size() int {
	n := 1
	for _, d := range l.dims {
		n *= d
	}
	return n
}

// collapsed merges neighbouring axes that one stride can describe, and removes axes of size 1. The
// result of a layout with one index has no axes.
func (l layout) collapsed() layout {
	c := layout{offset: l.offset}
	for i, d := range l.dims {
		if d == 1 {
			continue
		}
		if n := len(c.dims); n > 0 && c.strides[n-1] == d*l.strides[i] {
			c.dims[n-1] *= d
			c.strides[n-1] = l.strides[i]
			continue
		}
		c.dims = append(c.dims, d)
		c.strides = append(c.strides, l.strides[i])
	}
	return c
}

// contiguous reports whether the elements are contiguous in memory, in row-major order.
func (l layout) contiguous() bool {
	c := l.collapsed()
	return len(c.dims) == 0 || len(c.dims) == 1 && c.strides[0] == 1
}

// whole reports whether l selects all n elements of a tensor, in order.
func (l layout) whole(n int) bool { return l.offset == 0 && l.contiguous() && l.size() == n }

// constant reports whether all indices select the same element.
func (l layout) constant() bool {
	for i, d := range l.dims {
		if d != 1 && l.strides[i] != 0 {
			return false
		}
	}
	return true
}

// reshaped returns l with the dimensions dims, which have the same number of elements. ok is false
// if no strides can describe the result.
func (l layout) reshaped(dims []int) (r layout, ok bool) {
	r = layout{dims: slices.Clone(dims), strides: make([]int, len(dims)), offset: l.offset}
	if l.size() == 0 {
		return rowMajor(dims), true
	}
	c := l.collapsed()
	axis, left := len(c.dims)-1, 1 // left is the part of the old axis that no new axis contains yet
	step := 0
	if axis >= 0 {
		left, step = c.dims[axis], c.strides[axis]
	}
	for i := len(dims) - 1; i >= 0; i-- {
		d := dims[i]
		if d == 1 {
			continue
		}
		if left == 1 {
			axis--
			left, step = c.dims[axis], c.strides[axis]
		}
		if left%d != 0 {
			return r, false
		}
		r.strides[i] = step
		step *= d
		left /= d
	}
	return r, true
}

// transposed returns l with permuted axes: new axis i is old axis perm[i].
func (l layout) transposed(perm []int) layout {
	r := layout{offset: l.offset}
	for _, p := range perm {
		r.dims = append(r.dims, l.dims[p])
		r.strides = append(r.strides, l.strides[p])
	}
	return r
}

// sliced returns the part starts:limits:steps of each axis. If steps is empty, every step is 1.
func (l layout) sliced(starts, limits, steps []int) layout {
	r := layout{dims: slices.Clone(l.dims), strides: slices.Clone(l.strides), offset: l.offset}
	for i := range r.dims {
		step := 1
		if len(steps) > 0 {
			step = steps[i]
		}
		r.dims[i] = (limits[i] - starts[i] + step - 1) / step
		r.offset += starts[i] * l.strides[i]
		r.strides[i] = l.strides[i] * step
	}
	return r
}

// broadcast returns l broadcast to the dimensions dims. Axis i of l becomes axis axes[i]. Axes that
// l does not have, and axes of size 1 that grow, get the stride 0.
func (l layout) broadcast(dims, axes []int) layout {
	r := layout{dims: slices.Clone(dims), strides: make([]int, len(dims)), offset: l.offset}
	for i, a := range axes {
		if l.dims[i] == dims[a] {
			r.strides[a] = l.strides[i]
		}
	}
	return r
}

// broadcastTo returns l broadcast to dims, as the operands of element-wise operations need it. l is
// a scalar or has the same rank as dims.
func (l layout) broadcastTo(dims []int) layout {
	if len(l.dims) == 0 {
		return l.broadcast(dims, nil)
	}
	axes := make([]int, len(dims))
	for i := range axes {
		axes[i] = i
	}
	return l.broadcast(dims, axes)
}

// group merges some axes, in the given order, to one axis and returns its size and stride. ok is
// false if one stride cannot describe these axes.
func (l layout) group(axes []int) (size, stride int, ok bool) {
	g := layout{}
	for _, a := range axes {
		g.dims = append(g.dims, l.dims[a])
		g.strides = append(g.strides, l.strides[a])
	}
	g = g.collapsed()
	switch len(g.dims) {
	case 0:
		return 1, 0, true
	case 1:
		return g.dims[0], g.strides[0], true
	}
	return 0, 0, false
}

// offsets returns the offsets of all indices of some axes, in row-major order.
func (l layout) offsets(axes []int) []int {
	out := []int{0}
	for _, a := range axes {
		var next []int
		for _, o := range out {
			for i := range l.dims[a] {
				next = append(next, o+i*l.strides[a])
			}
		}
		out = next
	}
	return out
}

// run returns the length and the stride of the innermost axis of the collapsed layout. Over this
// length, row-major order has one stride. ok reports whether the stride is 0 or 1.
func (l layout) run() (length, stride int, ok bool) {
	c := l.collapsed()
	n := len(c.dims)
	if n == 0 {
		return l.size(), 0, true
	}
	return c.dims[n-1], c.strides[n-1], c.strides[n-1] == 0 || c.strides[n-1] == 1
}

// at returns the offset of the element with the row-major index e. l must be collapsed.
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
