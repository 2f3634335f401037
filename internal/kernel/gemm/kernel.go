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

// kernel describes a micro-kernel. It multiplies a strip of A with up to mr rows by a panel of B
// with up to nr columns and holds the mr × nr sums in registers.
type kernel struct {
	isa    isa
	name   string
	mr, nr int
	// number of float32s in a register, which is the width of a packed strip; a packed panel has
	// the width nr
	lanes   int
	dotRows int  // number of rows that dots computes at once; it can also compute one
	strided bool // run accepts any lda and step, so A need not be packed
}

// active is the best kernel of this machine. Tests change it.
var active = &available[len(available)-1]

// Kernel returns the name of the micro-kernel in use with the size of its tile: "avx512 14x32",
// "avx2 6x16", "neon 8x12" or "portable".
func Kernel() string { return active.name }

// tile is the argument of a micro-kernel. For mr rows and n columns the kernel computes dst =
// alpha·a·b + gamma·src + bias + residual, in this order. a·b is the sum of the products of this
// tile and of the tiles after it in the list next. Row strides are in bytes.
type tile struct {
	// element (i,p) is at lda·i + step·p bytes; packed strips have lda 4, dots has step 4
	a    unsafe.Pointer
	lda  int
	step int
	// panel: k rows of nr elements, ldb bytes apart; for dots, 8 rows of k elements
	b     unsafe.Pointer
	ldb   int
	ahead int // bytes from b to the memory that is prefetched
	// fetch is other memory that is prefetched, in A or after its end: one cache line per step,
	// fetchStep bytes apart.
	fetch     uintptr
	fetchStep int
	k         int
	mr, n     int
	// one more product, of which a, b, k, their strides and the prefetched memory are used; nil:
	// none
	next     *tile
	dst      unsafe.Pointer
	ldd      int
	last     uintptr        // last row of dst, for prefetching
	src      unsafe.Pointer // nil: nothing is added
	lds      int
	residual unsafe.Pointer // nil: nothing is added
	ldr      int
	bias     unsafe.Pointer // nil: nothing is added
	alpha    float32
	gamma    float32
}

// at returns the address of element i of s.
func at(s []float32, i int) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), i*4)
}
