package bench

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
)

// Work is the arithmetic that one step on a batch cannot do without, in
// floating-point operations: two for each multiply-add of its matrix products and
// convolutions.
// The selection is what is tuned; score takes gradients of every scored weight
// whatever it says, forward none.
//
// Counted are the forward products, attention's among them; the gradients of
// inputs (as much again, for attention twice as much), only above what is
// tuned; and the gradients of tuned weights, where a single entry takes one
// multiply-add a token. Not counted is what is no product: norms, softmax, GELU,
// drops, the optimiser; nor what an implementation computes twice; nor, of the
// last block, what only tokens would read that nothing reads. Of the first block all
// tokens' input gradients are counted where the class token is tuned, though its own
// would do: 1 % of an SPT-LoRA step of a ViT-B, 0.9 % of a ViT-Ti's.
func Work(c backbone.Config, s peft.Selection, m Method, batch int) float64 {
	w := work{selection: s, backward: m != Forward, tuned: map[string]bool{}}
	switch m {
	case Forward:
	case Score:
		w.selection = peft.Selection{}
		for _, p := range c.Params() {
			w.tuned[p.Name] = p.Role == backbone.Scored
		}
	default:
		for _, name := range append([]string{c.Head() + ".weight", c.Head() + ".bias"}, s.Whole...) {
			w.tuned[name] = true
		}
	}

	switch form := c.Form.(type) {
	case backbone.Swin:
		w.swin(c, form)
	case backbone.ConvNeXt:
		w.convnext(c, form)
	case backbone.ViT:
		w.vit(c, form)
	}
	return 2 * w.multiplyAdds * float64(batch)
}

// vit counts a ViT.
func (w *work) vit(c backbone.Config, v backbone.ViT) {
	patches, n, d := (c.ImageSize/v.PatchSize)*(c.ImageSize/v.PatchSize), c.Tokens(), v.EmbedDim
	grad := w.linear("patch_embed.proj", patches, 3*v.PatchSize*v.PatchSize, d, false)
	grad = grad || w.reaches("cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre.weight", "norm_pre.bias")
	up := v.HiddenDim // what fc1 returns
	if v.SwiGLU {
		up *= 2
	}
	for i := range v.Depth {
		b := fmt.Sprintf("blocks.%d.", i)
		x := grad || w.reaches(b+"norm1.weight", b+"norm1.bias")
		m := n // tokens that are read after attention
		if i == v.Depth-1 {
			from, to := v.TokensRead(c)
			m = to - from
		}
		q := w.linear(b+"attn.q", m, d, d, x)
		k := w.linear(b+"attn.k", n, d, d, x)
		vv := w.linear(b+"attn.v", n, d, d, x)
		q = q || w.reaches(b+"attn.q_norm.weight", b+"attn.q_norm.bias")
		k = k || w.reaches(b+"attn.k_norm.weight", b+"attn.k_norm.bias")
		w.attention(m*n*d, q, k, vv, false)
		grad = w.linear(b+"attn.proj", m, d, d, q || k || vv) || grad || w.reaches(b+"ls1.gamma")
		x = grad || w.reaches(b+"norm2.weight", b+"norm2.bias")
		x = w.linear(b+"mlp.fc1", m, d, up, x)
		grad = w.linear(b+"mlp.fc2", m, v.HiddenDim, d, x) || grad || w.reaches(b+"ls2.gamma")
	}
	grad = grad || w.reaches("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias")
	w.linear("head", 1, c.NumFeatures(), c.NumClasses, grad)
}

// work counts the multiply-adds of one image.
type work struct {
	selection    peft.Selection
	tuned        map[string]bool // whole
	backward     bool
	multiplyAdds float64
}

func (w *work) add(n int) { w.multiplyAdds += float64(n) }

func (w *work) addIf(needed bool, n int) {
	if needed {
		w.add(n)
	}
}

// reaches reports whether a gradient has to come as far as one of the tensors.
func (w *work) reaches(names ...string) bool {
	return w.backward && slices.ContainsFunc(names, func(name string) bool {
		return w.tuned[name] || len(w.selection.Entries[name]) > 0
	})
}

// attention counts the products between q, k and v, whose scores take a number of
// multiply-adds. The flags say which of them, or whether a bias of the scores,
// needs a gradient.
func (w *work) attention(scores int, q, k, v, bias bool) {
	w.add(2 * scores) // q·kᵀ, and the probabilities times v
	w.addIf(v, scores)
	w.addIf(q || k || bias, scores) // the probabilities' gradient
	w.addIf(q, scores)
	w.addIf(k, scores)
}

// linear counts a linear layer with its module on a number of tokens. grad says
// whether its input needs a gradient; the result, whether its output does.
func (w *work) linear(name string, tokens, in, out int, grad bool) bool {
	weight := name + ".weight"
	product := tokens * in * out
	w.add(product)
	w.addIf(grad, product)
	w.addIf(w.tuned[weight], product)
	w.addIf(w.backward, tokens*len(w.selection.Entries[weight]))
	y := grad || w.reaches(weight) || w.reaches(name+".bias")
	if !slices.Contains(w.selection.Structured, weight) {
		return y
	}
	from, fromGrad := in, grad
	if w.selection.Module == "adapter" && !strings.HasSuffix(name, ".attn.proj") { // acts on the layer's output
		from, fromGrad = out, y
	}
	first, second := tokens*from*w.selection.Rank, tokens*w.selection.Rank*out
	w.add(first + second)
	w.addIf(w.backward, first+2*second) // both weights' gradients, and back through the second
	w.addIf(fromGrad, first)
	return w.backward || y
}
