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

// kernel describes a micro-kernel. A micro-kernel multiplies a strip of A by a panel of B and holds
// the mr × nr sums in registers.
type kernel struct {
	isa isa
	// name is the result of [Kernel].
	name string
	// mr and nr are the largest numbers of rows and columns of a tile. nr is also the width of a
	// packed panel.
	mr, nr int
	// lanes is the width of a packed strip in float32s. For AVX2 and AVX-512 it is also the number
	// of float32s in a register.
	lanes int
	// dotRows is the number of rows that dots computes at the same time. dots can also compute one
	// row.
	dotRows int
	// strided says that run accepts any lda and step, so A need not be packed.
	strided bool
}

// active is the kernel in use: the fastest kernel of this processor. Tests change it.
var active = &available[len(available)-1]

// Kernel returns the name of the micro-kernel in use and the size of its tile, rows × columns. It
// is "avx512 14x32", "avx2 6x16", "neon 8x12" or "portable".
func Kernel() string { return active.name }

// tile is the argument of a micro-kernel. For mr rows and n columns the kernel computes dst =
// alpha·a·b + gamma·src + bias + residual, in this order. a·b is the sum of the products of this
// tile and of the tiles that follow it in the list next. All strides are in bytes.
type tile struct {
	// a is the strip. Element (i,p) is at byte lda·i + step·p. A packed strip has lda 4. For dots,
	// step is always 4.
	a    unsafe.Pointer
	lda  int
	step int
	// b is the panel: k rows of nr elements, ldb bytes apart. For dots, it is 8 columns of k
	// elements.
	b   unsafe.Pointer
	ldb int
	// ahead is the distance from the current row of b to the memory that is prefetched.
	ahead int
	// fetch is the address of other memory that is prefetched, in A or after its end. Each step
	// prefetches one cache line and advances by fetchStep bytes.
	fetch     uintptr
	fetchStep int
	// k is the number of steps.
	k int
	// mr and n are the numbers of rows and columns.
	mr, n int
	// next is an additional product with the same rows and columns. The kernel reads its a, b and
	// k, their strides and the fields of the prefetch. Nil: there is none.
	next *tile
	// dst is the destination, and ldd its row stride.
	dst unsafe.Pointer
	ldd int
	// last is the address of the last row of dst. The prefetch uses it.
	last uintptr
	// src is multiplied by gamma and added, and lds is its row stride. Nil: nothing is added.
	src unsafe.Pointer
	lds int
	// residual is added, and ldr is its row stride. Nil: nothing is added.
	residual unsafe.Pointer
	ldr      int
	// bias has n elements and is added to every row. Nil: nothing is added.
	bias  unsafe.Pointer
	alpha float32
	gamma float32
}

// at returns the address of element i of s.
func at(s []float32, i int) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), i*4)
}
