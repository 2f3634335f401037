package gemm

import "github.com/sptune/spt/internal/workers"

// kMax is the largest depth of a block of K.
const kMax = 768

// kBlocks cuts K into blocks of equal depth. The depth is at most most, and the last block may be
// shorter. The blocks determine the order of summation.
func kBlocks(k, most int) (depth, blocks int) {
	blocks = max(1, (k+most-1)/most)
	return (k + blocks - 1) / blocks, blocks
}

// Packed holds a right-hand operand [k,n] in the layout of the kernel in use. kBlocks cuts its rows
// into blocks. A block holds panels of nr columns, and a panel is stored row by row. Products only
// read it. While no product runs, the owner may change single elements through [Packed.Index] and
// [Packed.Data], or through [Packed.SetBF16] in an operand from [PackBF16].
type Packed struct {
	data []float32
	k, n int
	nr   int
	bf16 bool // from PackBF16
}

// PackedLen returns the number of float32s that [Pack] needs for an operand [k,n].
func PackedLen(k, n int) int {
	nr := active.nr
	return k * ((n + nr - 1) / nr * nr)
}

// Pack copies b, [k,n], into dst with all workers. dst must have at least [PackedLen](k, n)
// elements and should be aligned to 64 bytes. The result refers to dst.
func Pack(dst []float32, b View, k, n int) *Packed {
	kn := active
	p := &Packed{data: dst[:PackedLen(k, n)], k: k, n: n, nr: kn.nr}
	if k == 0 || n == 0 {
		return p
	}
	last(b, k, n)
	depth, blocks := kBlocks(k, kMax)
	// A part is 16 panels, about 100 KB. It is contiguous in dst, and its rows are contiguous in b.
	const group = 16
	groups := ((n+kn.nr-1)/kn.nr + group - 1) / group
	workers.Run(blocks*groups, func(part int, _ *workers.Scratch) {
		k0, j0 := part/groups*depth, part%groups*group*kn.nr
		k1, j1 := min(k0+depth, k), min(j0+group*kn.nr, n)
		kn.packPanels(dst[p.Index(k0, j0):], b.from(k0, j0), k1-k0, j1-j0)
	})
	return p
}

// Index returns the position in [Packed.Data] of element (i,j) of the operand.
func (p *Packed) Index(i, j int) int {
	depth, _ := kBlocks(p.k, kMax)
	k0 := i / depth * depth
	rows := min(depth, p.k-k0)
	padded := (p.n + p.nr - 1) / p.nr * p.nr
	return k0*padded + j/p.nr*p.nr*rows + (i-k0)*p.nr + j%p.nr
}

// Data returns the packed elements, in the memory that was given to [Pack].
func (p *Packed) Data() []float32 { return p.data }

// packPanels copies b, [k,n], into panels of nr columns. The kernels ignore the padding columns of
// the last panel, so packPanels need not write them.
func (kn *kernel) packPanels(dst []float32, b View, k, n int) {
	if b.Row == 1 {
		for j := 0; j < n; j += kn.nr {
			kn.pack(dst[j*k:], kn.nr, b.Data[j*b.Col:], b.Col, b.Row, min(kn.nr, n-j), k)
		}
		return
	}
	// Rows are contiguous. Copy some rows at a time to all panels, so that memory is read along the
	// rows and few pages are in use at the same time.
	const rows = 8
	for p := 0; p < k; p += rows {
		r := min(rows, k-p)
		for j := 0; j < n; j += kn.nr {
			kn.pack(dst[j*k+p*kn.nr:], kn.nr, b.Data[p*b.Row+j*b.Col:], b.Col, b.Row, min(kn.nr, n-j), r)
		}
	}
}
