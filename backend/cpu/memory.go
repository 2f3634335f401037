package cpu

import (
	"slices"
	"sync"
	"unsafe"

	"github.com/gomlx/compute"

	"github.com/sptune/spt/internal/kernel/gemm"
)

// arenaAlign is the alignment of a tensor in the arena, in bytes. No two tensors share a cache
// line.
const arenaAlign = 64

// plan assigns memory to every tensor and returns the size of the arena in bytes. Two tensors may
// share memory in the arena only if their lifetimes do not overlap.
func plan(tasks []task, outputs []*tensor) (arenaBytes int) {
	first, last := map[*tensor]int{}, map[*tensor]int{}
	for i, s := range tasks {
		for _, t := range s.writes {
			first[t] = i
			last[t] = max(last[t], i)
			t.used = true
		}
		for _, t := range s.reads {
			last[t] = max(last[t], i)
			t.used = true
		}
	}
	for _, t := range outputs {
		t.slot.where, t.slot.index, t.used = inOutput, t.output, true
	}
	// A result of a loop or a scatter takes over the memory of an input that no later task reads.
	taken := map[*tensor]bool{}
	root := func(t *tensor) *tensor {
		for t.alias != nil {
			t = t.alias
		}
		return t
	}
	end := map[*tensor]int{} // the last task that uses the memory of a tensor without an alias
	for t, l := range last {
		end[t] = l
	}
	for i, s := range tasks {
		for _, t := range s.writes {
			for _, in := range s.reads {
				if !replaceable(s.node, t, in) || last[in] != i || taken[in] || t.alias != nil || t.slot.donor != nil {
					continue
				}
				r := root(in)
				switch {
				case t.slot.where == inOutput && r.slot.where == inInput && r == in:
					t.slot.donor = in.slot
					taken[in] = true
				case t.slot.where == inArena && r.slot.where == inArena:
					t.alias = in
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
		if t.slot.where == inArena && t.used && t.alias == nil {
			size := (t.bytes() + arenaAlign - 1) &^ (arenaAlign - 1)
			list = append(list, interval{t: t, from: from, to: end[t], size: size})
		}
	}
	// Place the tensors from the largest to the smallest. Each tensor gets the lowest offset that
	// is free during its whole lifetime.
	slices.SortFunc(list, func(a, b interval) int {
		if a.size != b.size {
			return b.size - a.size
		}
		return a.t.id - b.t.id
	})
	var placed []interval // sorted by base
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
		v.t.slot.offset = at
		arenaBytes = max(arenaBytes, at+v.size)
		i, _ := slices.BinarySearchFunc(placed, v, func(a, b interval) int { return a.base - b.base })
		placed = slices.Insert(placed, i, v)
	}
	for _, s := range tasks {
		for _, t := range s.writes {
			if t.alias != nil {
				t.slot.offset = root(t).slot.offset
			}
		}
	}
	return arenaBytes
}

// replaceable reports whether n may write its result to the memory of its input.
func replaceable(n *node, result, input *tensor) bool {
	switch {
	case n.loop != nil:
		return n.loop.replaces(result, input)
	case n.kind == kindScatter:
		return input == n.in[0].t && input != n.in[1].t && input != n.in[2].t && result.n == input.n
	}
	return false
}

// arenas keeps the memory of intermediate results from one run to the next. All programs of a
// backend share the arenas. The number of arenas is the largest number that was in use at the same
// time.
type arenas struct {
	mu    sync.Mutex
	free  [][]byte
	inUse int

	most  int // largest number of arenas in use at the same time
	bytes int // total size of the arenas
	peak  int // largest total size so far, in bytes
}

// take returns an arena of at least n bytes, or nil if n is 0.
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
	// The largest free arena is too small. Replace it instead of keeping both.
	if len(a.free) > 0 {
		a.bytes -= len(a.free[0])
		a.free = slices.Delete(a.free, 0, 1)
	}
	a.bytes += n
	a.peak = max(a.peak, a.bytes)
	return alignedBytes(n)
}

// give returns an arena, so that another run can take it.
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

// drop releases the arenas that are not in use.
func (a *arenas) drop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.free {
		a.bytes -= len(m)
	}
	a.free = nil
}

// peakBytes returns the largest total size of the arenas so far.
func (a *arenas) peakBytes() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(a.peak)
}

// released keeps the memory of finalized buffers, grouped by size. Training creates tensors of the
// same sizes in every step, so it can use the memory again. The garbage collector frees memory that
// is not used again.
type released struct{ bySize sync.Map } // int → *sync.Pool of *byte

// leastReleased is the size of the smallest memory that released keeps, in bytes.
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

// give keeps the memory m. The caller must not use m any more.
func (r *released) give(m []byte) {
	if len(m) < leastReleased {
		return
	}
	pool, _ := r.bySize.LoadOrStore(len(m), new(sync.Pool))
	pool.(*sync.Pool).Put(unsafe.SliceData(m))
}

// Memory holds the sizes of the memory that a backend uses, in bytes.
type Memory struct {
	Arena   int64 // largest size so far of the memory for intermediate results
	Buffers int64 // current size of all tensors
	Packed  int64 // current size of the weights that are packed for the matrix kernel
}

// MemoryOf returns the memory that a backend of this package uses. It does not count the memory of
// finalized tensors, which new tensors take over or the garbage collector frees. For a backend of
// another package, ok is false.
func MemoryOf(be compute.Backend) (m Memory, ok bool) {
	b, ok := be.(*backend)
	if !ok {
		return Memory{}, false
	}
	return b.memory(), true
}

// memory returns the memory that the backend uses, see MemoryOf.
func (b *backend) memory() Memory {
	return Memory{Arena: b.arenas.peakBytes(), Buffers: b.buffers.Load(), Packed: b.packed.Load()}
}

// Footprint is the memory that a compiled program needs beside its inputs, in bytes.
type Footprint struct {
	Arena   int64 // intermediate results of one run
	Outputs int64 // results of one run, without those that take over the memory of donated inputs
	// Packed is the size of the packed copies of inputs and constants that later runs use again.
	Packed int64
}

// FootprintOf returns the footprint of a program that a backend of this package compiled. For
// another program, ok is false.
func FootprintOf(program compute.Executable) (f Footprint, ok bool) {
	x, ok := program.(*executable)
	if !ok {
		return f, false
	}
	f.Arena = int64(x.arenaBytes)
	for i, s := range x.outputs {
		if s.donor == nil {
			f.Outputs += int64(x.results[i].ByteSize())
		}
	}
	type source struct {
		*slot
		packLayout
	}
	seen := map[source]bool{}
	for _, s := range x.steps {
		p, isProduct := s.kernel.(*product)
		if !isProduct || p.batch > 1 {
			continue
		}
		for _, t := range p.terms {
			from := source{t.b, t.packing}
			if kept := t.b.where == inInput || t.b.where == inConstant; !kept || !t.packs && t.patch == nil || seen[from] {
				continue
			}
			seen[from] = true
			f.Packed += 4 * int64(gemm.PackedLen(t.packing.k, t.packing.n))
		}
	}
	return f, true
}
