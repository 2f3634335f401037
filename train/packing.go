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

// packing describes how the tuned tensors are stored on a backend. The backend stores packs; a pack
// is one tensor that holds the values of one or more tuned tensors.
//
// On the CPU each tuned tensor is its own pack. On a device such as a GPU there are a few packs.
// Each is a vector that holds all tensors with the same weight decay and the same learning rate.
// With hundreds of small tensors, starting the operations and passing the tensors would take longer
// than the computation.
type packing struct {
	params []peft.Param
	// factors holds the factors of the learning rates of groups.
	factors map[peft.Group]float64
	// packs holds the positions in params of the tensors of each pack. The tensors of a pack have
	// equal peft.Param.Decays and equal factors.
	packs [][]int
	// separate means that each tensor is its own pack, in its own shape.
	separate bool
}

// pack returns the packing of params that suits the backend. factors holds the factors of the
// learning rates of groups.
func pack(be backend.Backend, params []peft.Param, factors map[peft.Group]float64) packing {
	return newPacking(params, factors, !backend.OnDevice(be))
}

func newPacking(params []peft.Param, factors map[peft.Group]float64, separate bool) packing {
	p := packing{params: params, factors: factors, separate: separate}
	if separate {
		for i := range params {
			p.packs = append(p.packs, []int{i})
		}
		return p
	}
	type kind struct {
		decays bool
		factor float64
	}
	at := map[kind]int{}
	for i, q := range params {
		k := kind{q.Decays, factorOf(factors, q.Group)}
		if _, ok := at[k]; !ok {
			at[k] = len(p.packs)
			p.packs = append(p.packs, nil)
		}
		p.packs[at[k]] = append(p.packs[at[k]], i)
	}
	return p
}

// decays reports whether weight decay applies to a pack.
func (p packing) decays(pack int) bool { return p.params[p.packs[pack][0]].Decays }

// factor returns the factor of the learning rate of a pack.
func (p packing) factor(pack int) float64 {
	return factorOf(p.factors, p.params[p.packs[pack][0]].Group)
}

// factorOf returns the factor of a group; 1 if there is none.
func factorOf(factors map[peft.Group]float64, group peft.Group) float64 {
	if f, ok := factors[group]; ok {
		return f
	}
	return 1
}

// shape returns the shape of a pack.
func (p packing) shape(pack int) []int {
	if p.separate {
		return p.params[pack].Shape
	}
	n := 0
	for _, i := range p.packs[pack] {
		n += p.params[i].Size()
	}
	return []int{n}
}

// place copies the values of all params to the backend and returns one tensor for each pack.
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
				return out, fmt.Errorf("copying the tuned tensors to the backend: %s has shape %v, expected %v", q.Name, v.Shape, q.Shape)
			}
			if p.separate {
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

// read copies the values of all params from the packs on the backend, by peft.Param.Name.
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

// unpack returns the nodes of the params, in their own shapes, for the nodes of the packs.
func (p packing) unpack(packs []*Node) []*Node {
	if p.separate {
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

// join returns the nodes of the packs for the nodes of the params, or for gradients of the same
// shapes. It is the inverse of unpack.
func (p packing) join(params []*Node) []*Node {
	if p.separate {
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
