package train

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/peft"
)

// packing says how the tuned tensors are stored on a backend. On the processor each is a tensor of
// its own. On a device, starting hundreds of small operations and passing hundreds of small tensors
// takes longer than the computation. There one vector holds all tensors with weight decay, and a
// second one all others.
type packing struct {
	params []peft.Param
	// positions in params; the params of a pack all have weight decay or all have none
	packs [][]int
	apart bool // each param is a pack, in its own shape
}

// pack returns the packing of params on be.
func pack(be backend.Backend, params []peft.Param) packing {
	return newPacking(params, !backend.OnDevice(be))
}

func newPacking(params []peft.Param, apart bool) packing {
	p := packing{params: params, apart: apart}
	if apart {
		for i := range params {
			p.packs = append(p.packs, []int{i})
		}
		return p
	}
	for _, decays := range []bool{true, false} {
		var members []int
		for i, q := range params {
			if decayed(q) == decays {
				members = append(members, i)
			}
		}
		if members != nil {
			p.packs = append(p.packs, members)
		}
	}
	return p
}

// decayed reports whether weight decay applies to a tensor. It applies to tensors of two or more
// dimensions, so not to biases, norms and single entries.
func decayed(p peft.Param) bool { return len(p.Shape) >= 2 }

// decays reports whether weight decay applies to a pack.
func (p packing) decays(pack int) bool { return decayed(p.params[p.packs[pack][0]]) }

// shape returns the shape of a pack.
func (p packing) shape(pack int) []int {
	if p.apart {
		return p.params[pack].Shape
	}
	n := 0
	for _, i := range p.packs[pack] {
		n += p.params[i].Size()
	}
	return []int{n}
}

// place puts the values of all params on be, one tensor for each pack.
func (p packing) place(be backend.Backend, values checkpoint.StateDict) (out []*tensors.Tensor, err error) {
	defer func() {
		if err != nil {
			program.Free(out...)
			out = nil
		}
	}()
	for i, members := range p.packs {
		var data []float32
		for _, j := range members {
			q := p.params[j]
			v, ok := values[q.Name]
			if !ok || v.Size() != q.Size() {
				return out, fmt.Errorf("placing the tuned tensors on the backend: %s has shape %v, expected %v", q.Name, v.Shape, q.Shape)
			}
			if p.apart {
				data = v.Data
			} else {
				data = append(data, v.Data...)
			}
		}
		t, err := program.Tensor(be, data, p.shape(i)...)
		if err != nil {
			return out, err
		}
		out = append(out, t)
	}
	return out, nil
}

// read returns the values of all params from packs on a backend.
func (p packing) read(packs []*tensors.Tensor) (checkpoint.StateDict, error) {
	out := checkpoint.StateDict{}
	for i, members := range p.packs {
		data, err := program.Float32s(packs[i])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", p.params[members[0]].Name, err)
		}
		for _, j := range members {
			q := p.params[j]
			n := q.Size()
			out[q.Name] = checkpoint.Tensor{Shape: q.Shape, Data: data[:n:n]}
			data = data[n:]
		}
	}
	return out, nil
}

// unpack returns the params, in their shapes, from packs.
func (p packing) unpack(packs []*Node) []*Node {
	if p.apart {
		return packs
	}
	out := make([]*Node, len(p.params))
	for i, members := range p.packs {
		at := 0
		for _, j := range members {
			q := p.params[j]
			out[j] = Reshape(Slice(packs[i], AxisRange(at, at+q.Size())), q.Shape...)
			at += q.Size()
		}
	}
	return out
}

// join returns the packs of params, or of gradients of their shapes.
func (p packing) join(params []*Node) []*Node {
	if p.apart {
		return params
	}
	out := make([]*Node, len(p.packs))
	for i, members := range p.packs {
		var flat []*Node
		for _, j := range members {
			flat = append(flat, Reshape(params[j], p.params[j].Size()))
		}
		out[i] = Concatenate(flat, 0)
	}
	return out
}
