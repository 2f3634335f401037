package gemm

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"unsafe"

	"github.com/sptune/spt/internal/workers"
)

// guarded copies x to the end of a page. The next page is not readable, so a kernel that reads
// beyond the slice crashes.
func guarded(t *testing.T, x []float32) []float32 {
	t.Helper()
	page := syscall.Getpagesize()
	size := (4*len(x) + page - 1) / page * page
	m, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(m) })
	if err := syscall.Mprotect(m[size:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	y := unsafe.Slice((*float32)(unsafe.Pointer(&m[size-4*len(x)])), len(x))
	copy(y, x)
	return y
}

func TestBounds(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(21, 22))
		for _, d := range [][3]int{{14, 32, 16}, {15, 33, 17}, {3, 45, 100}, {8, 33, 70}, {30, 5, 70}, {33, 3, 65}, {1, 1, 1}} {
			for _, a := range layouts {
				for _, b := range layouts {
					c := call(r, d[0], d[1], d[2], a, b, options{1, 1, true, true, false, true, false})
					want := c.clone()
					naive(want)
					for _, x := range []*[]float32{&c.A.Data, &c.B.Data, &c.C, &c.Bias, &c.PreAct, &c.Residual} {
						*x = guarded(t, *x)
					}
					packed := Pack(guarded(t, make([]float32, PackedLen(c.K, c.N))), c.B, c.K, c.N)
					before := c.clone()
					c.Serial(new(workers.Scratch))
					compare(t, "guarded", c, want)
					copy(c.C, before.C)
					c.Packed = packed
					c.Run()
					compare(t, "guarded and packed", c, want)
				}
			}
		}
	})
}
