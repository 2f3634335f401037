package bench

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/peft"
)

// work returns the least arithmetic that one step on a mini-batch needs, in floating-point
// operations. It counts two operations for each multiply-add of a matrix product or a convolution.
// s is the selection of tuned parameters. The method [score] ignores s and takes the gradients of
// all scored weights. The method [Forward] takes no gradients.
//
// work builds the graph of the step, with the gradients of GoMLX. It adds up the products on which
// the logits and the gradients of the tuned tensors depend. So it works for any backbone, module
// and method. Some products count only in part:
//
//   - If single entries of a weight are tuned, the graph computes the gradient of the whole
//     weight. Only the multiply-adds of the tuned entries count: one for each token in a linear
//     layer.
//   - A tap of a convolution kernel that meets padding counts no multiply-add.
//   - Other operations (norms, softmax, activations, dropout, the optimizer) do not count.
//     Values that an implementation computes a second time do not count either.
//
// In two cases work counts more than is needed. In the first block of a ViT, the graph computes the
// gradient of the input for all tokens, even if only the class token needs it. This is 1 % of an
// SPT-LoRA step of a ViT-B. The tokens with which a Swin pads its maps count like other tokens.
func work(c backbone.Config, s peft.Selection, m Method, batch int) (flop float64, err error) {
	if m == score {
		s = peft.Selection{}
	}
	err = withGraph(c, s, batch, func(t *tally, in peft.Inputs, logits *Node) {
		counted := count{tally: t, seen: map[compute.Value]bool{}}
		counted.whole(logits)
		// run last, because a product that is needed as a whole must count as a whole
		var picked []func()
		if tensors := wantedBy(c, s, m, in); len(tensors) > 0 {
			nodes := make([]*Node, len(tensors))
			for i, w := range tensors {
				nodes[i] = w.node
			}
			// The gradient of any scalar function of the logits needs the same products as the
			// gradient of the loss.
			for i, gradient := range Gradient(ReduceAllSum(logits), nodes...) {
				if entries := tensors[i].entries; entries == nil {
					counted.whole(gradient)
				} else {
					picked = append(picked, func() { counted.entries(gradient, entries) })
				}
			}
		}
		for _, f := range picked {
			f()
		}
		flop = 2 * counted.multiplyAdds
	})
	return flop, err
}

// withGraph builds the forward pass of a mini-batch on a tally and calls use. Tensors with single
// tuned entries are frozen parameters of the graph.
func withGraph(c backbone.Config, s peft.Selection, batch int, use func(t *tally, in peft.Inputs, logits *Node)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("counting the operations of a step: %w", err)
		}
	}()
	if err := c.Validate(); err != nil {
		return err
	}
	tuning, err := peft.New(c, s)
	if err != nil {
		return err
	}
	t, err := newTally()
	if err != nil {
		return err
	}
	defer t.Finalize()
	g := NewGraph(t, "work")
	defer g.Finalize()
	return program.Caught(func() {
		parameter := func(name string, shape ...int) *Node {
			return Parameter(g, name, shapes.Make(dtypes.Float32, shape...))
		}
		in := peft.Inputs{Frozen: map[string]*Node{}, Tuned: map[string]*Node{}}
		sparse := map[string]bool{}
		for name := range s.Entries {
			sparse[peft.SparseValues(name)] = true
		}
		for _, p := range tuning.Params {
			if !sparse[p.Name] {
				in.Tuned[p.Name] = parameter(p.Name, p.Shape...)
			}
		}
		for _, p := range c.Params() {
			if in.Tuned[p.Name] == nil {
				in.Frozen[p.Name] = parameter(p.Name, p.Shape...)
			}
		}
		images := parameter("images", batch, c.ImageSize, c.ImageSize, 3)
		layers := tuning.Layers(in)
		use(t, in, c.Classify(layers, c.Features(layers, 0, images)))
	})
}

// wanted is a tensor whose gradient a step needs.
type wanted struct {
	node    *Node
	entries []int32 // positions of the tuned entries; nil means that the whole tensor is tuned
}

// wantedBy returns the tensors whose gradients a step needs.
func wantedBy(c backbone.Config, s peft.Selection, m Method, in peft.Inputs) (out []wanted) {
	if m == Forward {
		return nil
	}
	if m == score {
		for _, p := range c.Params() {
			if p.Role == backbone.Scored {
				out = append(out, wanted{node: in.Frozen[p.Name]})
			}
		}
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(in.Tuned)) {
		out = append(out, wanted{node: in.Tuned[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Entries)) {
		w := wanted{node: in.Frozen[name]}
		if w.node.Rank() > 1 { // no product computes the gradient of a vector
			w.entries = s.Entries[name]
		}
		out = append(out, w)
	}
	return out
}

// count adds up the multiply-adds of the products on which nodes depend. It counts each product
// once.
type count struct {
	tally        *tally
	seen         map[compute.Value]bool
	multiplyAdds float64
}

// value returns the backend value of n. Nodes of the same operation on the same inputs have the
// same value.
func value(n *Node) compute.Value { return InternalBackendOutputs(n)[0] }

// whole counts all products on which n depends.
func (c *count) whole(n *Node) {
	v := value(n)
	if c.seen[v] {
		return
	}
	c.seen[v] = true
	for _, i := range n.Inputs() {
		c.whole(i)
	}
	if p, ok := c.tally.products[v]; ok {
		c.multiplyAdds += p.total()
	}
}

// entries counts the products on which the values at the given row-major positions of n depend. It
// follows the positions through reshapes and transposes to the product that computes the values,
// and counts only these values of it. If another operation computes the values, entries counts n as
// a whole.
func (c *count) entries(n *Node, positions []int32) {
	at := make([]int, len(positions))
	for i, p := range positions {
		at[i] = int(p)
	}
	for !c.seen[value(n)] {
		p, isProduct := c.tally.products[value(n)]
		switch {
		case isProduct:
			c.seen[value(n)] = true
			for _, i := range n.Inputs() {
				c.whole(i)
			}
			for _, position := range at {
				c.multiplyAdds += p.at(position)
			}
		case n.Type() == NodeTypeReshape:
			n = n.Inputs()[0]
		case n.Type() == NodeTypeTranspose:
			input, permutation := n.Inputs()[0], c.tally.permutations[value(n)]
			for i := range at {
				at[i] = transposed(at[i], n.Shape().Dimensions, input.Shape().Dimensions, permutation)
			}
			n = input
		default:
			c.whole(n)
		}
	}
}

// block matches the part of a canonical layer name that names the block.
var block = regexp.MustCompile(`\bblocks\.[0-9]+\.`)

// products returns the shapes of the matrix products with weights in the forward pass of a
// mini-batch, without the head. A layer that occurs in all blocks of a stage is listed once, with
// the greatest number of rows in any block. Layers of the same shape are listed as one. In the
// backward pass, the products for the gradients of inputs have the same shapes with K and N
// exchanged.
func products(c backbone.Config, batch int) (list []gemm, err error) {
	err = withGraph(c, peft.Selection{}, batch, func(t *tally, _ peft.Inputs, logits *Node) {
		seen := map[*Node]bool{}
		var layers []gemm
		var visit func(n *Node)
		visit = func(n *Node) {
			if seen[n] {
				return
			}
			seen[n] = true
			for _, i := range n.Inputs() {
				visit(i)
			}
			p, ok := t.products[value(n)]
			if !ok || n.Type() != NodeTypeDotGeneral {
				return
			}
			weight := n.Inputs()[1]
			for weight.Type() == NodeTypeReshape || weight.Type() == NodeTypeTranspose {
				weight = weight.Inputs()[0]
			}
			if weight.Type() != NodeTypeParameter {
				return // a product in attention, without weights
			}
			layer := strings.TrimSuffix(weight.GetParameterName(), ".weight")
			if layer == c.Head() {
				return
			}
			layer = block.ReplaceAllString(layer, "")
			k := int(p.each)
			width := weight.Shape().Size() / k
			rows := n.Shape().Size() / width
			if i := slices.IndexFunc(layers, func(l gemm) bool { return l.Name == layer && l.K == k && l.N == width }); i >= 0 {
				layers[i].M = max(layers[i].M, rows)
				return
			}
			layers = append(layers, gemm{Name: layer, M: rows, K: k, N: width})
		}
		visit(logits)
		list = mergeSameShapes(layers)
	})
	return list, err
}

// mergeSameShapes merges layers of the same shape into one, with a name such as "attn.q, k, v".
func mergeSameShapes(layers []gemm) (out []gemm) {
	for _, l := range layers {
		i := slices.IndexFunc(out, func(o gemm) bool { return o.M == l.M && o.K == l.K && o.N == l.N })
		if i < 0 {
			out = append(out, l)
			continue
		}
		// Leave out the prefix that the name shares with the first name.
		first, _, _ := strings.Cut(out[i].Name, ", ")
		out[i].Name += ", " + strings.TrimPrefix(l.Name, first[:strings.LastIndex(first, ".")+1])
	}
	return out
}
