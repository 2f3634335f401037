package bench

import (
	"errors"
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/notimplemented"
)

// tally is the Go backend of GoMLX, extended with a record of the matrix products and convolutions
// in the graphs that are built on it. It provides no fused operations, so GoMLX builds each fused
// operation from basic operations.
type tally struct {
	compute.Backend
	products     map[compute.Value]product
	permutations map[compute.Value][]int // for each transpose: the input axis of each output axis
}

func newTally() (*tally, error) {
	be, err := gobackend.New("ops_sequential")
	if err != nil {
		return nil, err
	}
	return &tally{Backend: be, products: map[compute.Value]product{}, permutations: map[compute.Value][]int{}}, nil
}

// product holds the dimensions and the multiply-adds of a matrix product or a convolution.
type product struct {
	// dims holds the dimensions of the result.
	dims []int
	// each is the number of multiply-adds for one value of the result. For a convolution it is the
	// number for one value and one tap of the kernel.
	each float64
	// taps holds a list for each axis of the result. For a spatial axis of a convolution, the list
	// has the number of kernel taps that meet a value of the input, for each position along the
	// axis. The other taps meet padding, which needs no arithmetic. For other axes the list is nil.
	taps [][]int
}

// total returns the number of multiply-adds of the whole result.
func (p product) total() float64 {
	n := p.each
	for axis, dim := range p.dims {
		if p.taps[axis] == nil {
			n *= float64(dim)
			continue
		}
		met := 0
		for _, taps := range p.taps[axis] {
			met += taps
		}
		n *= float64(met)
	}
	return n
}

// at returns the number of multiply-adds of the value at a row-major position in the result.
func (p product) at(position int) float64 {
	n := p.each
	for axis, i := range indices(position, p.dims) {
		if p.taps[axis] != nil {
			n *= float64(p.taps[axis][i])
		}
	}
	return n
}

// indices returns the index along each axis that belongs to a row-major position.
func indices(position int, dims []int) []int {
	out := make([]int, len(dims))
	for axis := len(dims) - 1; axis >= 0; axis-- {
		out[axis] = position % dims[axis]
		position /= dims[axis]
	}
	return out
}

// transposed takes a position in the output of a transpose. It returns the position of the same
// value in the input. Both positions are row-major.
func transposed(position int, output, input, permutation []int) int {
	at := make([]int, len(input))
	for axis, i := range indices(position, output) {
		at[permutation[axis]] = i
	}
	position = 0
	for axis, i := range at {
		position = position*input[axis] + i
	}
	return position
}

// Builder returns a builder that records into t.
func (t *tally) Builder(name string) compute.Builder { return tallyBuilder{t.Backend.Builder(name), t} }

// tallyBuilder builds a graph and records its products in tally.
type tallyBuilder struct {
	compute.Builder
	tally *tally
}

// Main returns the only function of the graph.
func (b tallyBuilder) Main() compute.Function {
	none := notimplemented.Function{ErrFn: func(compute.OpType) error { return compute.ErrNotImplemented }}
	return tallyFunction{operations{b.Builder.Main()}, none, b.tally}
}

var errFunctions = errors.New("counting the operations of a graph: the graph has functions, loops or branches, which cannot be counted; build it without them")

// NewFunction returns an error, because the number of calls of a function is not known.
func (tallyBuilder) NewFunction(string) (compute.Function, error) { return nil, errFunctions }

// operations embeds the operations of the Go backend. It is embedded in tallyFunction beside
// FusedOps. Because its methods lie one level deeper, the methods of FusedOps with the same names
// replace them.
type operations struct{ compute.Function }

// tallyFunction records matrix products, convolutions and transposes.
type tallyFunction struct {
	operations
	compute.FusedOps // all return compute.ErrNotImplemented
	tally            *tally
}

// Closure returns an error, as NewFunction does.
func (tallyFunction) Closure() (compute.Function, error) { return nil, errFunctions }

// Transpose records the permutation.
func (f tallyFunction) Transpose(x compute.Value, permutation ...int) (compute.Value, error) {
	y, err := f.operations.Transpose(x, permutation...)
	if err == nil {
		f.tally.permutations[y] = permutation
	}
	return y, err
}

// DotGeneral records a matrix product.
func (f tallyFunction) DotGeneral(lhs compute.Value, lhsContracting, lhsBatch []int, rhs compute.Value, rhsContracting, rhsBatch []int, config compute.DotGeneralConfig) (compute.Value, error) {
	y, err := f.operations.DotGeneral(lhs, lhsContracting, lhsBatch, rhs, rhsContracting, rhsBatch, config)
	if err != nil {
		return nil, err
	}
	shape, err := f.Shape(lhs)
	if err != nil {
		return nil, err
	}
	each := 1
	for _, axis := range lhsContracting {
		each *= shape.Dim(axis)
	}
	return y, f.record(y, each, nil)
}

// ConvGeneral records a convolution.
func (f tallyFunction) ConvGeneral(input, kernel compute.Value, axes compute.ConvolveAxesConfig, strides []int, paddings [][2]int, inputDilations, kernelDilations []int, channelGroups, batchGroups int) (compute.Value, error) {
	y, err := f.operations.ConvGeneral(input, kernel, axes, strides, paddings, inputDilations, kernelDilations, channelGroups, batchGroups)
	if err != nil {
		return nil, err
	}
	x, err := f.Shape(input)
	if err != nil {
		return nil, err
	}
	w, err := f.Shape(kernel)
	if err != nil {
		return nil, err
	}
	out, err := f.Shape(y)
	if err != nil {
		return nil, err
	}
	// of returns the value for an axis in a list. A nil list means that all values are 1.
	of := func(list []int, axis int) int {
		if list == nil {
			return 1
		}
		return list[axis]
	}
	taps := make([][]int, out.Rank())
	for i, axis := range axes.OutputSpatial {
		side, before := x.Dim(axes.InputSpatial[i]), 0
		if paddings != nil {
			before = paddings[i][0]
		}
		taps[axis] = make([]int, out.Dim(axis))
		for position := range taps[axis] {
			for tap := range w.Dim(axes.KernelSpatial[i]) {
				// Dilation of the input puts zeros between its values.
				at, apart := position*of(strides, i)+tap*of(kernelDilations, i)-before, of(inputDilations, i)
				if at >= 0 && at%apart == 0 && at/apart < side {
					taps[axis][position]++
				}
			}
		}
	}
	return y, f.record(y, w.Dim(axes.KernelInputChannels), taps)
}

// record stores the product whose result is y. each and taps are as in [product]; taps is nil for a
// matrix product.
func (f tallyFunction) record(y compute.Value, each int, taps [][]int) error {
	shape, err := f.Shape(y)
	if err != nil {
		return fmt.Errorf("counting the operations of a graph: %w", err)
	}
	if taps == nil {
		taps = make([][]int, shape.Rank())
	}
	f.tally.products[y] = product{dims: shape.Dimensions, each: float64(each), taps: taps}
	return nil
}
