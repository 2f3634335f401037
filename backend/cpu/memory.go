package cpu

import (
	"slices"
	"sync"
	"unsafe"
)

// where says which memory a tensor lies in.
type where int

const (
	inArena where = iota
	inInput       // the buffer of a parameter
	inConstant
	inOutput // a buffer of its own that the caller gets
)

// place is where a tensor lies.
type place struct {
	where  where
	used   bool    // false: nothing reads it from memory, it has none
	offset int     // in the arena, bytes
	index  int     // of the parameter or the output
	donor  *tensor // output: the input whose memory it takes if that was donated
	alias  *tensor // the tensor whose memory it takes over; nil: none
}

// arenaAlign keeps every tensor on cache lines of its own.
const arenaAlign = 64

// step is one node in its final order, with what it reads and writes in memory.
type step struct {
	node   *node
	reads  []*tensor
	writes []*tensor
}

// plan gives every tensor its place: in the arena by lifetime, so that two
// tensors share memory only if none is needed while the other is.
func plan(steps []step, outputs []*tensor) (arenaBytes int) {
	first, last := map[*tensor]int{}, map[*tensor]int{}
	for i, s := range steps {
		for _, t := range s.writes {
			first[t] = i
			last[t] = max(last[t], i)
			t.place.used = true
		}
		for _, t := range s.reads {
			last[t] = max(last[t], i)
			t.place.used = true
		}
	}
	for _, t := range outputs {
		t.place = place{where: inOutput, used: true, index: t.output}
	}
	// A loop's result takes the place of an input that is not read again.
	taken := map[*tensor]bool{}
	root := func(t *tensor) *tensor {
		for t.place.alias != nil {
			t = t.place.alias
		}
		return t
	}
	end := map[*tensor]int{} // last use of the memory of a root
	for t, l := range last {
		end[t] = l
	}
	for i, s := range steps {
		for _, t := range s.writes {
			for _, in := range s.reads {
				if !replaceable(s.node, t, in) || last[in] != i || taken[in] || t.place.alias != nil || t.place.donor != nil {
					continue
				}
				r := root(in)
				switch {
				case t.place.where == inOutput && r.place.where == inInput && r == in:
					t.place.donor = in
					taken[in] = true
				case t.place.where == inArena && r.place.where == inArena:
					t.place.alias = in
					taken[in] = true
					end[r] = max(end[r], last[t])
				}
			}
		}
	}
	type interval struct {
		t          *tensor
		from, to   int
		size, base int
	}
	var list []interval
	for t, from := range first {
		if t.place.where == inArena && t.place.used && t.place.alias == nil {
			size := (t.bytes() + arenaAlign - 1) &^ (arenaAlign - 1)
			list = append(list, interval{t: t, from: from, to: end[t], size: size})
		}
	}
	// Largest first, each at the lowest place that is free all its life.
	slices.SortFunc(list, func(a, b interval) int {
		if a.size != b.size {
			return b.size - a.size
		}
		return a.t.id - b.t.id
	})
	var placed []interval // by base
	for _, v := range list {
		at := 0
		for _, p := range placed {
			if p.to < v.from || v.to < p.from {
				continue
			}
			if p.base >= at+v.size {
				break
			}
			at = max(at, p.base+p.size)
		}
		v.base = at
		v.t.place.offset = at
		arenaBytes = max(arenaBytes, at+v.size)
		i, _ := slices.BinarySearchFunc(placed, v, func(a, b interval) int { return a.base - b.base })
		placed = slices.Insert(placed, i, v)
	}
	for _, s := range steps {
		for _, t := range s.writes {
			if t.place.alias != nil {
				t.place.offset = root(t).place.offset
			}
		}
	}
	return arenaBytes
}

// replaceable reports whether a step may write result over input.
func replaceable(n *node, result, input *tensor) bool {
	switch {
	case n.loop != nil:
		return n.loop.loop.replaces(result, input)
	case n.kind == kindScatter:
		return input == n.in[0].t && input != n.in[1].t && input != n.in[2].t && result.n == input.n
	}
	return false
}

// arenas keeps the memory of intermediate results from run to run. All programs of a
// backend share them: there are as many as were needed at once.
type arenas struct {
	mu    sync.Mutex
	free  [][]byte
	inUse int

	most  int // in use at once
	bytes int // of all that there are
	peak  int // of bytes
}

// take returns an arena of at least n bytes; none for a program that needs none.
func (a *arenas) take(n int) []byte {
	if n == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inUse++
	a.most = max(a.most, a.inUse)
	best := -1
	for i, m := range a.free {
		if len(m) >= n && (best < 0 || len(m) < len(a.free[best])) {
			best = i
		}
	}
	if best >= 0 {
		m := a.free[best]
		a.free = slices.Delete(a.free, best, best+1)
		return m
	}
	// The largest free one is too small: replace it rather than keep both.
	if len(a.free) > 0 {
		a.bytes -= len(a.free[0])
		a.free = slices.Delete(a.free, 0, 1)
	}
	a.bytes += n
	a.peak = max(a.peak, a.bytes)
	return alignedBytes(n)
}

// give returns an arena.
func (a *arenas) give(m []byte) {
	if m == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inUse--
	a.free = append(a.free, m)
	slices.SortFunc(a.free, func(x, y []byte) int { return len(y) - len(x) })
	for len(a.free) > a.most-a.inUse {
		last := len(a.free) - 1
		a.bytes -= len(a.free[last])
		a.free = slices.Delete(a.free, last, last+1)
	}
}

func (a *arenas) drop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.free {
		a.bytes -= len(m)
	}
	a.free = nil
}

// peakBytes is the most that there was at once.
func (a *arenas) peakBytes() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(a.peak)
}

// released is the memory of finalized buffers, by size: training makes tensors of
// the same sizes in every step. The garbage collector takes what is left over.
type released struct{ bySize sync.Map } // int → *sync.Pool of *byte

// leastReleased is the size from which on memory is kept, in bytes.
const leastReleased = 4 << 10

// take returns n bytes of undefined content.
func (r *released) take(n int) []byte {
	if pool, ok := r.bySize.Load(n); ok {
		if p, ok := pool.(*sync.Pool).Get().(*byte); ok {
			return unsafe.Slice(p, n)
		}
	}
	return alignedBytes(n)
}

// give keeps m, which nobody uses any more.
func (r *released) give(m []byte) {
	if len(m) < leastReleased {
		return
	}
	pool, _ := r.bySize.LoadOrStore(len(m), new(sync.Pool))
	pool.(*sync.Pool).Put(unsafe.SliceData(m))
}
