package peft

import (
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/graph"
)

// EntryGradient selects how the gradient of the single entries of a matrix is computed. The results
// are equal up to rounding. The zero value selects the faster way: StripGradient on a device such
// as a GPU, and WholeGradient on the CPU.
type EntryGradient int

const (
	autoGradient EntryGradient = iota
	// WholeGradient gathers the entries from the gradient of the whole matrix. The CPU backend of
	// spt does not compute this whole gradient; it computes one dot product over the tokens for
	// each entry.
	WholeGradient
	// StripGradient computes only the rows of the gradient that hold entries, or only the columns,
	// whichever need fewer values. The entries that SPT selects lie in few of them. In the
	// published selections for a ViT-B it is 2 to 4 %.
	StripGradient
)

// strip describes some rows, or some columns, of the gradient [out, in] of a matrix. Together they
// hold all tuned entries of the matrix.
type strip struct {
	// columns is true if the strip has columns, and false if it has rows.
	columns bool
	// lines holds the positions of the rows or columns, filled up to a multiple of stripAlign.
	lines []int32
	// picks holds the flat position of each entry in [len(lines), in] for rows, or in
	// [len(lines), out] for columns.
	picks []int32
}

// stripAlign is the alignment of the sides of matrix products. Products in half precision are fast
// if the sides are multiples of it.
const stripAlign = 8

// stripOf returns the strip of rows or the strip of columns for the entries of a matrix [out, in],
// whichever has fewer values. ok is false if it has more than half of the values of the matrix.
func stripOf(entries []int32, out, in int) (s strip, ok bool) {
	of := func(columns bool) strip {
		s := strip{columns: columns}
		at := map[int32]int32{}
		for _, e := range entries {
			line, across, width := e/int32(in), e%int32(in), int32(in)
			if columns {
				line, across, width = across, line, int32(out)
			}
			n, seen := at[line]
			if !seen {
				n = int32(len(s.lines))
				at[line], s.lines = n, append(s.lines, line)
			}
			s.picks = append(s.picks, n*width+across)
		}
		for len(s.lines)%stripAlign != 0 {
			s.lines = append(s.lines, s.lines[0])
		}
		return s
	}
	size := func(s strip) int {
		if s.columns {
			return len(s.lines) * out
		}
		return len(s.lines) * in
	}
	s = of(false)
	if c := of(true); size(c) < size(s) {
		s = c
	}
	return s, size(s) <= out*in/2
}

// strip returns the strip of a tensor. ok is false if the gradient of its entries is not computed
// by a strip on the backend.
func (l *layers) strip(tensor string, be backend.Backend) (s strip, ok bool) {
	entries, shape := l.Selection.Entries[tensor], l.shapes[tensor]
	gradient := l.EntryGradient
	if gradient == autoGradient && backend.OnDevice(be) {
		gradient = StripGradient
	}
	// The relative position table of Swin has two dimensions too, but it is no linear layer.
	linear := len(shape) == 2 && strings.HasSuffix(tensor, ".weight")
	if gradient != StripGradient || len(entries) == 0 || !linear {
		return s, false
	}
	return stripOf(entries, shape[0], shape[1])
}

// gradient returns the gradient of the entries, float32 [nnz], where nnz is the number of entries.
// x [..., in] is the input of the linear layer, and dy [..., out] is the gradient of its output.
func (s strip) gradient(x, dy *Node) *Node {
	// The strip is the product, over the tokens, of some columns of one matrix and the other
	// matrix.
	some, all := dy, x
	if s.columns {
		some, all = x, dy
	}
	flat := func(x *Node) *Node { return Reshape(x, x.Shape().Size()/x.Shape().Dim(-1), x.Shape().Dim(-1)) }
	g := x.Graph()
	// A product with a one-hot matrix selects the columns. On a device this is several times as
	// fast as gathering distant columns.
	n := len(s.lines)
	shape := shapes.Make(dtypes.Int32, some.Shape().Dim(-1), n)
	ones := ConvertDType(Equal(Iota(g, shape, 0), ExpandDims(Const(g, s.lines), 0)), x.DType())
	lines := graph.Product(flat(some), []int{1}, nil, ones, []int{0}, nil) // [tokens, lines]
	product := graph.Product(lines, []int{0}, nil, flat(all), []int{0}, nil)
	// Entries that are neighbours are not neighbours in the product. So picks need not be sorted.
	picked := Gather(Reshape(product, product.Shape().Size()), ExpandDims(Const(g, s.picks), -1))
	return ConvertDType(picked, dtypes.Float32)
}

// withEntries returns y, the output [..., out] of a linear layer with the input x [..., in]. In the
// backward pass it computes the gradient of values, the tuned entries, by strip. The caller must
// have applied StopGradient to the values inside the layer.
func (s strip) withEntries(x, y, values *Node) *Node {
	return graph.WithGradients(func() *Node { return Identity(y) }, y, []*Node{y, values},
		func(dy *Node) *Node { return dy },
		func(dy *Node) *Node { return s.gradient(x, dy) })
}
