// Package workers runs the parts of one operation on many processors at once.
//
// There is one pool in the process, so several programs that run side by side
// share the processors instead of multiplying threads: each keeps one to itself
// ([Begin]), and its operations get help from those that are left. An operation is cut
// into parts by its shapes alone, never by the number of processors, and no
// part depends on which goroutine runs it: the same parts give the same bits
// for any GOMAXPROCS.
package workers

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// programs are in progress.
var programs atomic.Int64

// Begin says that the caller starts to run a program, operation after operation;
// End, that it is done.
func Begin() { programs.Add(1) }

// End says that a program that [Begin] announced is done.
func End() { programs.Add(-1) }

// Programs is how many programs are in progress.
func Programs() int { return int(programs.Load()) }

// Count is the number of parts of one operation that can run at once: GOMAXPROCS
// less the processors of other programs in progress, but at least 1.
func Count() int { return max(1, runtime.GOMAXPROCS(0)-max(0, Programs()-1)) }

// job is one Run in progress.
type job struct {
	f     func(part int, s *Scratch)
	parts int64
	next  atomic.Int64 // the next part to take
	left  atomic.Int64 // parts not yet done
	done  chan struct{}

	caught atomic.Pointer[any] // the first panic of a part
}

// work takes parts until none is left.
func (j *job) work(s *Scratch) {
	for {
		part := j.next.Add(1) - 1
		if part >= j.parts {
			return
		}
		if r := one(j.f, int(part), s); r != nil {
			kept := r // on the heap only if there was a panic
			j.caught.CompareAndSwap(nil, &kept)
		}
		if j.left.Add(-1) == 0 {
			close(j.done)
		}
	}
}

// one runs a part and returns what it panics with.
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
	helpers int                      // goroutines started so far
	queue   = make(chan *job, 1<<10) // one entry for each helper a job asks for
)

// patience is how long a goroutine with nothing to do looks for work before it
// sleeps. Operations follow one another within microseconds, while a sleeping
// thread wakes after a hundred of them or more on a virtual machine.
const patience = 200 * time.Microsecond

// watch calls ready until it returns true, for patience at most.
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

// help is the life of one pool goroutine.
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

// spare holds the scratch memory of goroutines that called Run. A sync.Pool
// would lose it, megabytes that steady work needs again, at a garbage collection.
var spare struct {
	sync.Mutex
	free []*Scratch
}

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

func giveScratch(s *Scratch) {
	s.Release(0) // a part that panicked may have kept some
	spare.Lock()
	defer spare.Unlock()
	spare.free = append(spare.free, s)
}

// Run calls f(part, s) for part = 0 … parts-1 on the pool's goroutines and the
// caller's, in any order, and returns when all are done. s is scratch memory of
// the goroutine that runs the part. A panic in a part is raised again in the
// caller once the other parts are done. f may call Run itself.
func Run(parts int, f func(part int, s *Scratch)) {
	if parts <= 0 {
		return
	}
	s := takeScratch()
	defer giveScratch(s)
	want := min(Count(), parts) - 1 // helpers
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
		default: // the pool is swamped: the caller does the work
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

// Scratch is memory of one goroutine, kept from part to part so that steady
// work allocates nothing. It is not safe for concurrent use.
type Scratch struct {
	block []float32   // the current block
	used  int         // float32s of it in use
	full  [][]float32 // blocks outgrown within this part, kept until Release(0)
}

// align is the alignment of all scratch slices in float32s: one cache line,
// one AVX-512 register.
const align = 16

// Float32s returns n float32s, 64-byte aligned, with undefined content, that
// stay valid until the part returns or Release gives them back.
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

// Mark returns the state that Release goes back to.
func (s *Scratch) Mark() int { return len(s.full)<<40 | s.used }

// Release gives back what was taken since mark. When a block was outgrown in
// between, its memory is reused only once everything is released.
func (s *Scratch) Release(mark int) {
	if mark>>40 == len(s.full) {
		s.used = mark & (1<<40 - 1)
	}
	if mark == 0 {
		s.full, s.used = s.full[:0], 0
	}
}

// Aligned allocates n float32s on a 64-byte boundary, in huge pages where it is
// large enough for some.
func Aligned(n int) []float32 {
	b := make([]float32, n+align)
	huge(b)
	off := (-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 63) / 4
	return b[off : int(off)+n : int(off)+n]
}
