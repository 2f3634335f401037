package workers

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
)

// TestRun checks that every part runs once, for any number of processors.
func TestRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 5} {
		runtime.GOMAXPROCS(procs)
		for _, parts := range []int{0, 1, 2, 3, 100} {
			ran := make([]atomic.Int32, parts)
			Run(parts, func(part int, _ *Scratch) { ran[part].Add(1) })
			for i := range ran {
				if n := ran[i].Load(); n != 1 {
					t.Errorf("%d processors: part %d of %d ran %d times", procs, i, parts, n)
				}
			}
		}
	}
}

// TestRunOnHelpers checks that more than one goroutine runs parts if there is more than one
// processor.
func TestRunOnHelpers(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	// Neither part returns before the other has begun.
	var begun sync.WaitGroup
	begun.Add(2)
	Run(2, func(int, *Scratch) {
		begun.Done()
		begun.Wait()
	})
}

// TestRunNested checks that parts may call Run, and that many goroutines may call Run at the same
// time.
func TestRunNested(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 4} {
		runtime.GOMAXPROCS(procs)
		var wg sync.WaitGroup
		var innermost atomic.Int64
		for range 8 {
			wg.Go(func() {
				Run(5, func(_ int, outer *Scratch) {
					mine := outer.Float32s(100)
					for i := range mine {
						mine[i] = 1
					}
					Run(6, func(_ int, inner *Scratch) {
						theirs := inner.Float32s(100)
						for i := range theirs {
							theirs[i] = 2
						}
						Run(7, func(int, *Scratch) { innermost.Add(1) })
					})
					for _, v := range mine {
						if v != 1 {
							t.Error("a nested part wrote over the outer part's scratch memory")
							return
						}
					}
				})
			})
		}
		wg.Wait()
		if n := innermost.Load(); n != 8*5*6*7 {
			t.Errorf("GOMAXPROCS %d: %d innermost parts ran, expected %d", procs, n, 8*5*6*7)
		}
	}
}

// caught runs f and returns the value of its panic, or nil.
func caught(f func()) (r any) {
	defer func() { r = recover() }()
	f()
	return nil
}

// TestRunPanics checks that Run panics with the value of a part that panicked, on any goroutine,
// after the other parts are done. The pool must still work afterwards.
func TestRunPanics(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 4} {
		runtime.GOMAXPROCS(procs)
		for bad := range 9 {
			var done atomic.Int32
			want := fmt.Sprint("part ", bad)
			got := caught(func() {
				Run(9, func(part int, s *Scratch) {
					s.Float32s(1000)
					if part == bad {
						panic(want)
					}
					done.Add(1)
				})
			})
			if got != want {
				t.Errorf("GOMAXPROCS %d: Run panicked with %v, expected %q", procs, got, want)
			}
			if done.Load() != 8 {
				t.Errorf("GOMAXPROCS %d: %d other parts were done when Run panicked, expected 8", procs, done.Load())
			}
		}
		if got := caught(func() { Run(4, func(int, *Scratch) { panic("all") }) }); got != "all" {
			t.Errorf("GOMAXPROCS %d: Run panicked with %v, expected \"all\"", procs, got)
		}
		nested := caught(func() {
			Run(3, func(int, *Scratch) {
				Run(3, func(part int, _ *Scratch) {
					if part == 2 {
						panic("inner")
					}
				})
			})
		})
		if nested != "inner" {
			t.Errorf("GOMAXPROCS %d: the nested Run panicked with %v, expected \"inner\"", procs, nested)
		}
		var n atomic.Int32
		Run(50, func(int, *Scratch) { n.Add(1) })
		if n.Load() != 50 {
			t.Errorf("GOMAXPROCS %d: after the panics, %d of 50 parts ran", procs, n.Load())
		}
	}
}

// TestRunPanicsRelease checks that the scratch memory of a part is released if the part panics.
func TestRunPanicsRelease(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var first, again uintptr
	got := caught(func() {
		Run(3, func(_ int, s *Scratch) {
			first, _ = span(s.Float32s(100))
			panic("alone")
		})
	})
	if got != "alone" {
		t.Errorf("Run panicked with %v, expected \"alone\"", got)
	}
	Run(1, func(_ int, s *Scratch) { again, _ = span(s.Float32s(100)) })
	if again != first {
		t.Error("the scratch memory of the part was not released")
	}
}

// span returns the first address of a slice and the address after its end.
func span(s []float32) (from, to uintptr) {
	from = uintptr(unsafe.Pointer(unsafe.SliceData(s)))
	return from, from + 4*uintptr(cap(s))
}

// TestScratch checks that slices are aligned and disjoint, and that they stay valid when the
// scratch memory grows.
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
}

// TestScratchRoom checks that append cannot grow a slice into the next slice.
func TestScratchRoom(t *testing.T) {
	var s Scratch
	for _, n := range []int{0, 1, 16, 17, 1 << 17} {
		if p := s.Float32s(n); cap(p) != n {
			t.Errorf("a slice of %d float32s has the capacity %d", n, cap(p))
		}
	}
}

// TestScratchRelease checks that memory taken after a mark is used again, and that memory taken
// before the mark is not.
func TestScratchRelease(t *testing.T) {
	var s Scratch
	kept := s.Float32s(20)
	for i := range kept {
		kept[i] = 7
	}
	mark := s.Mark()
	first, _ := span(s.Float32s(500))
	s.Float32s(40)
	s.Release(mark)
	if again, _ := span(s.Float32s(500)); again != first {
		t.Error("released memory is not used again")
	}
	s.Release(mark)
	// Take more than the block holds. The kept slice is in the old block.
	s.Float32s(1 << 17)
	s.Release(mark)
	for range 3 {
		p := s.Float32s(1 << 16)
		for i := range p {
			p[i] = 1
		}
	}
	for _, v := range kept {
		if v != 7 {
			t.Fatal("memory taken before the mark was used again")
		}
	}
	s.Release(0)
	whole := s.Mark()
	if whole != 0 {
		t.Errorf("the mark is %d after everything was released", whole)
	}
	big, _ := span(s.Float32s(1 << 17))
	s.Release(0)
	if again, _ := span(s.Float32s(1 << 17)); again != big {
		t.Error("a block is not kept after everything was released")
	}
}

// TestScratchSteady checks that repeated parts with the same memory needs allocate nothing after
// the first part, even if the first block is too small.
func TestScratchSteady(t *testing.T) {
	var s Scratch
	if n := testing.AllocsPerRun(20, func() {
		mark := s.Mark()
		for _, n := range []int{100, 1 << 16, 1 << 15, 3} {
			s.Float32s(n)
		}
		s.Release(mark)
	}); n != 0 {
		t.Errorf("%g allocations for each part", n)
	}
}

// TestAligned checks the alignment, the length and the capacity.
func TestAligned(t *testing.T) {
	for n := range 70 {
		p := Aligned(n)
		if from, _ := span(p); len(p) != n || cap(p) != n || from%64 != 0 {
			t.Fatalf("%d float32s: length %d, capacity %d, address %#x", n, len(p), cap(p), from)
		}
	}
}

// TestPrograms checks that each program reserves a processor and can use the processors that are
// not reserved.
func TestPrograms(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for i, want := range []int{4, 3, 2, 1, 1} {
		Begin()
		defer End()
		if n := Count(); n != want {
			t.Errorf("%d programs: %d parts at once, expected %d", i+1, n, want)
		}
	}
	var running, most atomic.Int32
	Run(8, func(int, *Scratch) {
		most.Store(max(most.Load(), running.Add(1)))
		runtime.Gosched()
		running.Add(-1)
	})
	if most.Load() != 1 {
		t.Errorf("%d parts ran at the same time although every processor was reserved, expected 1", most.Load())
	}
}
