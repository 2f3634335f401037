package gemm

import "github.com/sptune/spt/internal/workers"

// kMax is the largest depth of a block of K.
const kMax = 768

// kBlocks cuts K into blocks of equal depth, which is not above most. The last block may be
// shorter. The blocks decide the order of summation.
func kBlocks(k, most int) (depth, blocks int) {
	blocks = max(1, (k+most-1)/most)
	return (k + blocks - 1) / blocks, blocks
}

// Packed is a right-hand operand [k,n] in the layout of the kernel in use: blocks of rows as
// kBlocks cuts them, panels of nr columns in a block, row after row in a panel. It does not change
// after Pack, except single entries that its owner changes through Index and Data while no product
// runs.
type Packed struct {
	data []float32
	k, n int
	nr   int
}

// PackedLen returns the number of float32s of a packed operand [k,n].
func PackedLen(k, n int) int {
	nr := active.nr
	return k * ((n + nr - 1) / nr * nr)
}

// Pack copies b, [k,n], into dst with all workers. dst has at least PackedLen(k, n) elements and
// should be aligned to 64 bytes. The result uses dst.
func Pack(dst []float32, b View, k, n int) *Packed {
	kn := active
	p := &Packed{dst[:PackedLen(k, n)], k, n, kn.nr}
	if k == 0 || n == 0 {
		return p
	}
	last(b, k, n)
	depth, blocks := kBlocks(k, kMax)
	// 16 panels make a part: some 100 KB, contiguous in memory on both sides.
	const group = 16
	groups := ((n+kn.nr-1)/kn.nr + group - 1) / group
	workers.Run(blocks*groups, func(part int, _ *workers.Scratch) {
		k0, j0 := part/groups*depth, part%groups*group*kn.nr
		k1, j1 := min(k0+depth, k), min(j0+group*kn.nr, n)
		kn.packPanels(dst[p.Index(k0, j0):], b.from(k0, j0), k1-k0, j1-j0)
	})
	return p
}

// Index returns the position of element (i,j) of the operand in Data.
func (p *Packed) Index(i, j int) int {
	depth, _ := kBlocks(p.k, kMax)
	k0 := i / depth * depth
	rows := min(depth, p.k-k0)
	padded := (p.n + p.nr - 1) / p.nr * p.nr
	return k0*padded + j/p.nr*p.nr*rows + (i-k0)*p.nr + j%p.nr
}

// Data returns the memory given to Pack.
func (p *Packed) Data() []float32 { return p.data }

// packPanels copies b, [k,n], into panels of nr columns. It does not write columns of padding.
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
