// Package workers runs the parts of one operation on several CPU cores at the same time.
//
// An operation of the CPU backend, such as a matrix product, is divided into parts. [Run] runs the
// parts on the goroutines of a pool and gives each part scratch memory ([Scratch]).
//
// A program is one execution of a compiled graph. Several programs may run at the same time. The
// process has only one pool, so they share the cores instead of starting more threads. [Begin] and
// [End] reserve one core for each running program. [Count] returns the number of cores for an
// operation: the core of its program and all cores that are not reserved.
//
// No result may depend on the goroutine that runs a part, and the order of summation within a value
// must not depend on the number of parts. Then results have the same bits for any GOMAXPROCS.
package workers

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// programs is the number of running programs.
var programs atomic.Int64

// Begin tells the pool that a program starts. The caller must call [End] when the program ends.
func Begin() { programs.Add(1) }

// End tells the pool that a program that called [Begin] has ended.
func End() { programs.Add(-1) }

// Programs returns the number of running programs.
func Programs() int { return int(programs.Load()) }

// Count returns the number of parts of one operation that can run at the same time. It is
// GOMAXPROCS minus the number of other running programs, but at least 1.
func Count() int { return max(1, runtime.GOMAXPROCS(0)-max(0, Programs()-1)) }

// job is one call of Run.
type job struct {
	f     func(part int, s *Scratch)
	parts int64
	next  atomic.Int64  // the next part to run
	left  atomic.Int64  // number of parts that are not done
	done  chan struct{} // closed when all parts are done

	caught atomic.Pointer[any] // the first panic of a part
}

// work runs parts of j until every part is done or runs on another goroutine.
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

// one runs a part. If the part panics, one returns the value of the panic, otherwise nil.
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

// patience is the time for which an idle goroutine looks for work before it sleeps. The next
// operation usually starts within microseconds, but a sleeping thread on a virtual machine needs a
// hundred microseconds or more to wake.
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

// help is the function of a helper, which is a goroutine of the pool. It runs parts of jobs
// forever.
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

// spare holds scratch memory for goroutines that call Run. It is not a sync.Pool, because a garbage
// collection would empty the pool, and the next operations need these megabytes again.
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

// Run calls f(part, s) for each part from 0 to parts-1, in any order. The calls run on the calling
// goroutine and on goroutines of the pool. Run returns when all parts are done. s is scratch memory
// that only this part uses; it is released when f returns. If a part panics, Run panics with the
// same value after the other parts are done. f may call Run.
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
		default: // the queue is full, so the caller runs these parts
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

// Scratch is temporary memory of one goroutine. The memory is used again for the next part, so
// repeated work allocates nothing. The zero value is ready to use. A Scratch is not safe for
// concurrent use.
type Scratch struct {
	block []float32   // the current block
	used  int         // number of float32s of the block in use
	full  [][]float32 // blocks that were too small for the rest of the part, kept until Release(0)
}

// align is the alignment of scratch slices in float32s. It is the size of a cache line and of an
// AVX-512 register.
const align = 16

// Padded returns n rounded up to a multiple of align: rows of so many float32s in scratch memory
// all begin at a cache line.
func Padded(n int) int { return (n + align - 1) &^ (align - 1) }

// Float32s returns a slice of n float32s with undefined content, aligned to 64 bytes. The slice is
// valid until the part returns or calls [Scratch.Release].
func (s *Scratch) Float32s(n int) []float32 {
	padded := Padded(n)
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

// Mark returns a mark of the current state for [Scratch.Release].
func (s *Scratch) Mark() int { return len(s.full)<<40 | s.used }

// Release releases the memory that was taken after the call of [Scratch.Mark] that returned mark.
// Release(0) releases all memory. If a block was too small for a slice after the mark, the memory
// is used again only after Release(0).
func (s *Scratch) Release(mark int) {
	if mark>>40 == len(s.full) {
		s.used = mark & (1<<40 - 1)
	}
	if mark == 0 {
		s.full, s.used = s.full[:0], 0
	}
}

// Aligned allocates a slice of n float32s, aligned to 64 bytes. On Linux it asks for huge pages if
// the slice is large enough.
func Aligned(n int) []float32 {
	b := make([]float32, n+align)
	huge(b)
	off := (-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 63) / 4
	return b[off : int(off)+n : int(off)+n]
}
