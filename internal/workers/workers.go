// Package workers runs the parts of one operation on many processors at the same time.
//
// The process has one pool, so several programs share the processors instead of multiplying
// threads. Each program keeps one processor ([Begin]). Its operations also use the processors that
// no program keeps. The shapes of an operation alone decide its parts, never the number of
// processors, and no part depends on the goroutine that runs it. So results have the same bits for
// any GOMAXPROCS.
package workers

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// programs is the number of programs in progress.
var programs atomic.Int64

// Begin tells the pool that the caller starts to run a program.
func Begin() { programs.Add(1) }

// End tells the pool that a program that called [Begin] has ended.
func End() { programs.Add(-1) }

// Programs returns the number of programs in progress.
func Programs() int { return int(programs.Load()) }

// Count returns how many parts of one operation can run at the same time: GOMAXPROCS without the
// processors of other programs in progress, but at least 1.
func Count() int { return max(1, runtime.GOMAXPROCS(0)-max(0, Programs()-1)) }

// job is one call of Run.
type job struct {
	f     func(part int, s *Scratch)
	parts int64
	next  atomic.Int64 // the next part to take
	left  atomic.Int64 // number of parts that are not done
	done  chan struct{}

	caught atomic.Pointer[any] // the first panic of a part
}

// work runs parts until all are taken.
func (j *job) work(s *Scratch) {
	for {
		part := j.next.Add(1) - 1
		if part >= j.parts {
			return
		}
		if r := one(j.f, int(part), s); r != nil {
			kept := r // allocated only after a panic
			j.caught.CompareAndSwap(nil, &kept)
		}
		if j.left.Add(-1) == 0 {
			close(j.done)
		}
	}
}

// one runs a part and returns the value of its panic, or nil.
func one(f func(part int, s *Scratch), part int, s *Scratch) (caught any) {
	mark := s.Mark()
	defer func() {
		s.Release(mark)
		caught = recover()
	}()
	f(part, s)
	return nil
}

var (
	grow    sync.Mutex
	helpers int                      // number of goroutines of the pool
	queue   = make(chan *job, 1<<10) // one entry for each helper that a job asks for
)

// patience is how long an idle goroutine looks for work before it sleeps. Operations follow one
// another within microseconds, but a sleeping thread needs a hundred microseconds or more to wake
// on a virtual machine.
const patience = 200 * time.Microsecond

// watch calls ready until it returns true, but no longer than patience. It reports whether ready
// returned true.
func watch(ready func() bool) bool {
	start := time.Now()
	for i := 1; ; i++ {
		if ready() {
			return true
		}
		if i%64 == 0 {
			if time.Since(start) > patience {
				return false
			}
			runtime.Gosched()
		}
	}
}

// help is a goroutine of the pool.
func help() {
	s := new(Scratch)
	var j *job
	next := func() bool {
		select {
		case j = <-queue:
			return true
		default:
			return false
		}
	}
	for {
		if !watch(next) {
			j = <-queue
		}
		j.work(s)
		j = nil
	}
}

// spare holds the scratch memory of goroutines that called Run. A sync.Pool would lose it at a
// garbage collection, but the next operations need these megabytes again.
var spare struct {
	sync.Mutex
	free []*Scratch
}

// takeScratch returns scratch memory from spare.
func takeScratch() *Scratch {
	spare.Lock()
	defer spare.Unlock()
	n := len(spare.free)
	if n == 0 {
		return new(Scratch)
	}
	s := spare.free[n-1]
	spare.free = spare.free[:n-1]
	return s
}

// giveScratch puts scratch memory into spare.
func giveScratch(s *Scratch) {
	s.Release(0) // a part that panicked may not have released its memory
	spare.Lock()
	defer spare.Unlock()
	spare.free = append(spare.free, s)
}

// Run calls f(part, s) for part = 0 … parts-1, in any order, on the goroutines of the pool and of
// the caller. It returns when all parts are done. s is scratch memory of the goroutine that runs
// the part. If a part panics, Run panics with the same value when the other parts are done. f may
// call Run.
func Run(parts int, f func(part int, s *Scratch)) {
	if parts <= 0 {
		return
	}
	s := takeScratch()
	defer giveScratch(s)
	want := min(Count(), parts) - 1 // number of helpers
	if want == 0 {
		var first any
		for part := range parts {
			if r := one(f, part, s); first == nil {
				first = r
			}
		}
		if first != nil {
			panic(first)
		}
		return
	}
	ensure(want)
	j := &job{f: f, parts: int64(parts), done: make(chan struct{})}
	j.left.Store(int64(parts))
	for range want {
		select {
		case queue <- j:
		default: // the queue is full: the caller does the work
		}
	}
	j.work(s)
	if !watch(func() bool { return j.left.Load() == 0 }) {
		<-j.done
	}
	if p := j.caught.Load(); p != nil {
		panic(*p)
	}
}

// ensure starts helpers until there are n.
func ensure(n int) {
	grow.Lock()
	defer grow.Unlock()
	for ; helpers < n; helpers++ {
		go help()
	}
}

// Scratch is memory of one goroutine. It is kept from part to part, so that repeated work allocates
// nothing. It is not safe for concurrent use.
type Scratch struct {
	block []float32   // the current block
	used  int         // number of float32s of the block in use
	full  [][]float32 // blocks that became too small within this part, kept until Release(0)
}

// align is the alignment of all scratch slices in float32s: one cache line, which is one AVX-512
// register.
const align = 16

// Float32s returns n float32s with undefined content, aligned to 64 bytes. They are valid until the
// part returns or calls Release.
func (s *Scratch) Float32s(n int) []float32 {
	padded := (n + align - 1) &^ (align - 1)
	if s.used+padded > len(s.block) {
		if s.used > 0 {
			s.full = append(s.full, s.block)
		}
		s.block = Aligned(max(padded, 2*len(s.block), 1<<16))
		s.used = 0
	}
	p := s.block[s.used : s.used+n : s.used+n]
	s.used += padded
	return p
}

// Mark returns the current state for Release.
func (s *Scratch) Mark() int { return len(s.full)<<40 | s.used }

// Release releases the memory taken since mark. If a block became too small in between, its memory
// is used again only after Release(0).
func (s *Scratch) Release(mark int) {
	if mark>>40 == len(s.full) {
		s.used = mark & (1<<40 - 1)
	}
	if mark == 0 {
		s.full, s.used = s.full[:0], 0
	}
}

// Aligned allocates n float32s, aligned to 64 bytes. Large memory is in huge pages.
func Aligned(n int) []float32 {
	b := make([]float32, n+align)
	huge(b)
	off := (-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 63) / 4
	return b[off : int(off)+n : int(off)+n]
}
