package peft

import (
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/graph"
)

// EntryGradient says how the gradient of the single entries of a matrix is computed. All ways give
// the same values up to rounding. The zero value is StripGradient on a device, and WholeGradient on
// the CPU, where spt's own backend turns it into one dot product over the tokens for each entry.
type EntryGradient int

const (
	autoGradient EntryGradient = iota
	// WholeGradient takes the entries from the gradient of the whole matrix.
	WholeGradient
	// StripGradient computes only the rows of the gradient that hold entries, or only the columns,
	// whichever are fewer. The entries that SPT chooses share few of them: 2 to 4 % in the
	// selections that the authors published for a ViT-B.
	StripGradient
)

// strip is a part of the gradient [out, in] of a matrix that holds all entries.
type strip struct {
	columns bool    // of columns; else of rows
	lines   []int32 // the rows or columns, filled up to a multiple of stripAlign
	picks   []int32 // where each entry lies in [len(lines), in], or in [len(lines), out]
}

// stripAlign is the number of which the sides of matrix products in half precision should be
// multiples.
const stripAlign = 8

// stripOf returns the smaller strip of a [out, in] matrix with these entries. ok is false if the
// strip is not much smaller than the matrix.
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
// by strip on be.
func (l *layers) strip(tensor string, be backend.Backend) (s strip, ok bool) {
	entries, shape := l.Selection.Entries[tensor], l.shapes[tensor]
	way := l.EntryGradient
	if way == autoGradient && backend.OnDevice(be) {
		way = StripGradient
	}
	// not Swin's table of positions
	linear := len(shape) == 2 && strings.HasSuffix(tensor, ".weight")
	if way != StripGradient || len(entries) == 0 || !linear {
		return s, false
	}
	return stripOf(entries, shape[0], shape[1])
}

// gradient returns the gradient of the entries, float32 [nnz], for the input x [..., in] of a
// linear layer and the gradient dy [..., out] of its output.
func (s strip) gradient(x, dy *Node) *Node {
	some, all := dy, x // whose product over the tokens is made of some lines
	if s.columns {
		some, all = x, dy
	}
	flat := func(x *Node) *Node { return Reshape(x, x.Shape().Size()/x.Shape().Dim(-1), x.Shape().Dim(-1)) }
	g := x.Graph()
	// A product with ones at [line, place] takes lines out of all. It is several times as fast as
	// gathering distant lines on a device.
	n := len(s.lines)
	shape := shapes.Make(dtypes.Int32, some.Shape().Dim(-1), n)
	ones := ConvertDType(Equal(Iota(g, shape, 0), ExpandDims(Const(g, s.lines), 0)), x.DType())
	lines := graph.Product(flat(some), []int{1}, nil, ones, []int{0}, nil) // [tokens, lines]
	product := graph.Product(lines, []int{0}, nil, flat(all), []int{0}, nil)
	// Neighbours in the product are not neighbours among the entries, so the order of picks does
	// not matter.
	picked := Gather(Reshape(product, product.Shape().Size()), ExpandDims(Const(g, s.picks), -1))
	return ConvertDType(picked, dtypes.Float32)
}

// withEntries returns y, the output [..., out] of a linear layer for x [..., in], and computes the
// gradient of values by strip. The layer itself must not differentiate the values.
func (s strip) withEntries(x, y, values *Node) *Node {
	return graph.WithGradients(func() *Node { return Identity(y) }, y, []*Node{y, values},
		func(dy *Node) *Node { return dy },
		func(dy *Node) *Node { return s.gradient(x, dy) })
}
