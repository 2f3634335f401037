package gemm

import "unsafe"

// isa is the instruction set of a micro-kernel.
type isa int

const (
	portable isa = iota
	neon
	avx2
	avx512
)

// kernel describes a micro-kernel: it multiplies a strip of A, up to mr rows,
// with a panel of B, up to nr columns, holding the mr × nr sums in registers.
type kernel struct {
	isa     isa
	name    string
	mr, nr  int
	lanes   int  // float32s in a register; a packed strip is this wide, a packed panel nr wide
	dotRows int  // rows that dots takes at once; it also takes one
	strided bool // run takes any lda and step, so A need not be packed
}

// active is the best kernel of this machine. Tests replace it.
var active = &available[len(available)-1]

// Kernel names the micro-kernel in use and its tile: "avx512 14x32",
// "avx2 6x16", "neon 8x12" or "portable".
func Kernel() string { return active.name }

// tile is the argument of a micro-kernel: it computes, for mr rows and n
// columns, dst = alpha·a·b + gamma·src + bias + residual in this order, where a·b
// stands for the sum of the products of the tile and those that next leads to.
// Row strides are in bytes.
type tile struct {
	a     unsafe.Pointer // element (i,p) is lda·i + step·p bytes on; packed strips have lda 4, dots has step 4
	lda   int
	step  int
	b     unsafe.Pointer // panel: k rows of nr, ldb apart; 8 rows of k for dots
	ldb   int
	ahead int // bytes from b to what is fetched into the cache
	// fetch is what else is fetched, in A or beyond its end: a cache line a
	// step, fetchStep bytes apart.
	fetch     uintptr
	fetchStep int
	k         int
	mr, n     int
	next      *tile // one more product: its a, b and k, with their strides and fetch, and what it fetches of dst, count; nil: none
	dst       unsafe.Pointer
	ldd       int
	last      uintptr        // dst's last row, for fetching
	src       unsafe.Pointer // nil: nothing is added
	lds       int
	residual  unsafe.Pointer // nil: nothing is added
	ldr       int
	bias      unsafe.Pointer // nil: nothing is added
	alpha     float32
	gamma     float32
}

// at is the address of element i of s.
func at(s []float32, i int) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), i*4)
}
