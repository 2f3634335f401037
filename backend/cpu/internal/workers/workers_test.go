package workers

import (
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"
)

// TestRun: every part runs once, from any number of callers and from within a
// part, on any number of processors.
func TestRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 5} {
		runtime.GOMAXPROCS(procs)
		for _, parts := range []int{0, 1, 2, 3, 100} {
			ran := make([]atomic.Int32, parts)
			nested := atomic.Int32{}
			Run(parts, func(part int, s *Scratch) {
				ran[part].Add(1)
				mine := s.Float32s(16)
				mine[0] = float32(part)
				Run(2, func(_ int, other *Scratch) {
					nested.Add(1)
					other.Float32s(16)[0] = -1
				})
				if mine[0] != float32(part) {
					t.Error("a nested part wrote to this part's scratch memory")
				}
			})
			for i := range ran {
				if n := ran[i].Load(); n != 1 {
					t.Errorf("%d processors: part %d of %d ran %d times", procs, i, parts, n)
				}
			}
			if n := nested.Load(); n != int32(2*parts) {
				t.Errorf("%d processors, %d parts: %d nested parts ran", procs, parts, n)
			}
		}
	}
}

// TestPanic: a panic reaches the caller once the other parts are done, and the
// pool goes on.
func TestPanic(t *testing.T) {
	ran := atomic.Int32{}
	caught := func() (r any) {
		defer func() { r = recover() }()
		Run(50, func(part int, _ *Scratch) {
			if part == 7 {
				panic("seven")
			}
			ran.Add(1)
		})
		return nil
	}()
	if caught != "seven" || ran.Load() != 49 && runtime.GOMAXPROCS(0) > 1 {
		t.Errorf("caught %v after %d parts", caught, ran.Load())
	}
	Run(3, func(int, *Scratch) { ran.Add(-1) })
}

// TestScratch: slices are aligned and disjoint, released memory is used again,
// and growing keeps what was handed out.
func TestScratch(t *testing.T) {
	s := new(Scratch)
	seen := map[*float32]bool{}
	var all [][]float32
	for _, n := range []int{1, 15, 16, 17, 1000, 1 << 17, 3} {
		v := s.Float32s(n)
		if len(v) != n || uintptr(unsafe.Pointer(unsafe.SliceData(v)))%64 != 0 {
			t.Errorf("%d float32s: length %d, address %p", n, len(v), unsafe.SliceData(v))
		}
		for i := range v {
			v[i] = float32(len(all))
			if seen[&v[i]] {
				t.Fatal("two slices overlap")
			}
			seen[&v[i]] = true
		}
		all = append(all, v)
	}
	for i, v := range all {
		for _, x := range v {
			if x != float32(i) {
				t.Fatalf("slice %d was written to", i)
			}
		}
	}
	s.Release(0)
	s.Float32s(100)
	mark := s.Mark()
	a := s.Float32s(10)
	s.Release(mark)
	if b := s.Float32s(10); &a[0] != &b[0] {
		t.Error("released memory is not used again")
	}
}
