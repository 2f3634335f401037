package onnx

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/gomlx/compute"
)

// dim is the size of an axis: n, or n times the number of images.
type dim struct {
	n     int
	batch bool
}

// flow compares two recordings of the same program, with different numbers of images.
type flow struct {
	*program        // the second recording
	images   *op    // the parameter with the images
	needed   []bool // by op.id: an output depends on the operation
	// By op.id: the result depends neither on the images nor on their number.
	constant []bool
	dims     [][]dim // by op.id: shape of the result
	differs  []bool  // by op.id: a constant of the program that depends on the number of images
}

// newFlow compares two recordings. It returns an error if they do not have the same operations.
func newFlow(a, b *program) (*flow, error) {
	if len(a.ops) != len(b.ops) || len(a.params) != len(b.params) || len(a.outputs) != 1 || len(b.outputs) != 1 {
		return nil, fmt.Errorf("the program has %d operations and %d outputs for %d images, but %d and %d for %d images; its operations must not depend on the number of images, and it must have one output",
			len(a.ops), len(a.outputs), Batches[0], len(b.ops), len(b.outputs), Batches[1])
	}
	f := &flow{program: b, needed: make([]bool, len(b.ops)), constant: make([]bool, len(b.ops)), dims: make([][]dim, len(b.ops)), differs: make([]bool, len(b.ops))}
	for i, o := range b.ops {
		other := a.ops[i]
		if o.kind != other.kind || o.shape.Rank() != other.shape.Rank() || o.shape.DType != other.shape.DType || !slices.EqualFunc(o.in, other.in, func(x, y *op) bool { return (x == nil) == (y == nil) && (x == nil || x.id == y.id) }) {
			return nil, fmt.Errorf("operation %d of the program is %s for %d images, but %s for %d images; the operations must not depend on the number of images", i, other.kind, Batches[0], o.kind, Batches[1])
		}
		fixed := true
		for axis, n := range o.shape.Dimensions {
			d := dim{n: n}
			if m := other.shape.Dimensions[axis]; m != n {
				d = dim{n / Batches[1], true}
				if n != d.n*Batches[1] || m != d.n*Batches[0] {
					return nil, fmt.Errorf("axis %d of the operation %s has the size %d for %d images and %d for %d images; a size must be a multiple of the number of images, or not depend on it", axis, o.kind, m, Batches[0], n, Batches[1])
				}
				fixed = false
			}
			f.dims[i] = append(f.dims[i], d)
		}
		for _, in := range o.in {
			fixed = fixed && (in == nil || f.constant[in.id])
		}
		if o.kind == compute.OpTypeConstant && fixed && !reflect.DeepEqual(o.attrs, other.attrs) {
			f.differs[i], fixed = true, false
		}
		if o.kind == compute.OpTypeParameter && !fixed {
			if f.images != nil {
				return nil, fmt.Errorf("two inputs of the program depend on the number of images; expected one")
			}
			f.images = o
		}
		f.constant[i] = fixed
	}
	if f.images == nil {
		return nil, fmt.Errorf("no input of the program depends on the number of images; expected the images")
	}
	f.needed[b.outputs[0].id] = true
	for _, o := range slices.Backward(b.ops) {
		if f.needed[o.id] && !f.constant[o.id] {
			for _, in := range o.in {
				if in != nil {
					f.needed[in.id] = true
				}
			}
		}
	}
	return f, nil
}

// stored returns the operations whose results become constants of the model. Operations that only
// other constants read are not among them.
func (f *flow) stored() (out []*op) {
	for _, o := range f.ops {
		if f.needed[o.id] && f.constant[o.id] {
			out = append(out, o)
		}
	}
	return out
}
