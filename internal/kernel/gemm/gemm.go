// Package gemm multiplies float32 matrices on the processor.
//
// A product is a [Call]: C = Alpha·A·B + Beta·C with an epilogue (bias, GELU,
// residual) that is applied while a tile of C is still in cache. Operands are
// strided [View]s, so transposition costs nothing; a right-hand side that is
// used again and again, a weight, is brought into the kernel's layout once by
// [Pack].
//
// The parts, in the order in which data meets them: run.go cuts C into parts
// for the worker pool; block.go walks one part in cache-sized blocks;
// pack.go copies panels of B, and strips of A that a kernel cannot read in
// place, into contiguous memory; a micro-kernel (kernel*.go, portable.go, the
// assembly that asm/ generates) multiplies one strip with one panel in
// registers; epilogue.go finishes rows.
// narrow.go takes the products with a handful of columns, which are bound by
// memory and would only suffer from packing. The scheme is that of Goto and
// van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS
// 34 (3), 2008.
//
// Every element of C is summed over k in the same order whatever the number of
// threads: K is cut into blocks by the shape of the product alone, a block is
// summed from its first to its last product with fused multiply-adds, and the
// sums of the blocks are added up from first to last. (A narrow product is
// summed in as many lanes as a register has.) Results therefore have the same
// bits for any GOMAXPROCS. They may differ in the last bits between kernels,
// and between a packed and an unpacked operand.
package gemm

//go:generate go run ./asm -out gemm_amd64.s -stubs gemm_amd64.go

// View is a strided matrix: element (i,j) is Data[i*Row+j*Col]. Strides are
// counted in float32s and are not negative. Views with Row or Col equal to 1
// are fast; others work.
type View struct {
	Data     []float32
	Row, Col int
}

// T returns the transpose of v, which shares its memory.
func (v View) T() View { return View{v.Data, v.Col, v.Row} }

// from returns the part of v that starts at element (i,j).
func (v View) from(i, j int) View { return View{v.Data[i*v.Row+j*v.Col:], v.Row, v.Col} }

// Term is one more product of a [Call].
type Term struct {
	K      int     // 1 to MaxTermDepth
	A      View    // M × K
	B      View    // K × N, ignored when Packed is set
	Packed *Packed // K × N, or nil
}

const (
	MaxTerms     = 2              // most terms of a [Call]
	MaxTermDepth = kMax           // greatest K of a [Term]
	MinTermSize  = narrowCols + 1 // least M and N of a [Call] with terms: smaller products have kernels of their own
)

// Call is one product C = Alpha·A·B + Beta·C with its epilogue. C must not
// overlap any input. NaN and infinities spread as IEEE 754 says: zeros are not
// skipped. With K = 0 the product is zero.
//
// A slice too short for its shape makes Run and Serial panic with an index out
// of range before anything is written.
type Call struct {
	M, N, K int
	A       View      // M × K
	B       View      // K × N, ignored when Packed is set
	Packed  *Packed   // K × N, or nil
	C       []float32 // M × N, row-major
	LDC     int       // float32s from row to row of C

	// Terms are added to A·B in registers, before Alpha, so that C is written
	// once for all of them.
	Terms []Term

	Alpha float32
	Beta  float32 // 0: C is not read, so NaN in it does not spread

	// The epilogue, applied once to the whole sum, in this order.
	Bias     []float32 // nil or N: added to every row
	PreAct   []float32 // nil or M × N, row-major: receives the value before the activation
	LDP      int       // float32s from row to row of PreAct
	GELU     bool      // exact GELU, x·Φ(x)
	Residual []float32 // nil or M × N, row-major: added last
	LDR      int       // float32s from row to row of Residual
}

// check touches the last element of every operand. The kernels do not check
// bounds; after this they cannot leave their slices.
func (c *Call) check() {
	if c.K > 0 {
		last(c.A, c.M, c.K)
		if c.Packed == nil {
			last(c.B, c.K, c.N)
		} else if c.Packed.k != c.K || c.Packed.n != c.N {
			panic("gemm: packed operand has another shape than the call")
		}
	}
	if n := len(c.Terms); n > MaxTerms || n > 0 && min(c.M, c.N) < MinTermSize {
		panic("gemm: too many terms, or too small a product for them")
	}
	for i := range c.Terms {
		t := &c.Terms[i]
		if t.K < 1 || t.K > MaxTermDepth {
			panic("gemm: no depth for a term")
		}
		last(t.A, c.M, t.K)
		if t.Packed == nil {
			last(t.B, t.K, c.N)
		} else if t.Packed.k != t.K || t.Packed.n != c.N {
			panic("gemm: packed operand has another shape than the term")
		}
	}
	last(View{c.C, c.LDC, 1}, c.M, c.N)
	if c.Bias != nil {
		_ = c.Bias[c.N-1]
	}
	if c.PreAct != nil {
		last(View{c.PreAct, c.LDP, 1}, c.M, c.N)
	}
	if c.Residual != nil {
		last(View{c.Residual, c.LDR, 1}, c.M, c.N)
	}
}

func last(v View, rows, cols int) { _ = v.Data[(rows-1)*v.Row+(cols-1)*v.Col] }
