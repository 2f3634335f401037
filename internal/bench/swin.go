package bench

import (
	"fmt"

	"github.com/sptune/spt/backbone"
)

// swinTiny is Swin-T, as timm's swin_tiny_patch4_window7_224.
func swinTiny(classes int) backbone.Config {
	return backbone.Config{ImageSize: 224, NumClasses: classes, LayerNormEps: 1e-5,
		Form: backbone.Swin{PatchSize: 4, EmbedDim: 96, HiddenDim: 4 * 96, Depths: []int{2, 2, 6, 2}, StageHeads: []int{3, 6, 12, 24}, WindowSize: 7}}
}

// swin counts a Swin Transformer. Padding takes part in attention only: what
// other tokens gather from it.
func (w *work) swin(c backbone.Config, f backbone.Swin) {
	d, side := f.EmbedDim, c.ImageSize/f.PatchSize
	grad := w.linear("patch_embed.proj", side*side, 3*f.PatchSize*f.PatchSize, d, false)
	grad = grad || w.reaches("patch_embed.norm.weight") || w.reaches("patch_embed.norm.bias")
	for i, depth := range f.Depths {
		layer := fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			side, d = (side+1)/2, 2*d
			grad = grad || w.reaches(layer+"downsample.norm.weight") || w.reaches(layer+"downsample.norm.bias")
			grad = w.linear(layer+"downsample.reduction", side*side, 2*d, d, grad)
		}
		n, window, hidden := side*side, min(f.WindowSize, side), f.HiddenDim<<i
		for j := range depth {
			b := fmt.Sprintf("%sblocks.%d.", layer, j)
			x := grad || w.reaches(b+"norm1.weight") || w.reaches(b+"norm1.bias")
			q := w.linear(b+"attn.q", n, d, d, x)
			k := w.linear(b+"attn.k", n, d, d, x)
			v := w.linear(b+"attn.v", n, d, d, x)
			table := w.reaches(b + "attn.relative_position_bias_table")
			w.attention(n*window*window*d, q, k, v, table)
			grad = w.linear(b+"attn.proj", n, d, d, q || k || v || table) || grad
			x = grad || w.reaches(b+"norm2.weight") || w.reaches(b+"norm2.bias")
			x = w.linear(b+"mlp.fc1", n, d, hidden, x)
			grad = w.linear(b+"mlp.fc2", n, hidden, d, x) || grad
		}
	}
	grad = grad || w.reaches("norm.weight") || w.reaches("norm.bias")
	w.linear(c.Head(), 1, d, c.NumClasses, grad)
}

// swinProducts are those of each stage.
func swinProducts(c backbone.Config, f backbone.Swin, batch int) []GEMM {
	side, d, h := c.ImageSize/f.PatchSize, f.EmbedDim, f.HiddenDim
	out := []GEMM{{Name: "patch_embed.proj", M: batch * side * side, K: 3 * f.PatchSize * f.PatchSize, N: d}}
	for i := range f.Depths {
		layer := fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			side, d, h = (side+1)/2, 2*d, 2*h
			out = append(out, GEMM{Name: layer + "reduction", M: batch * side * side, K: 2 * d, N: d})
		}
		tokens := batch * side * side
		out = append(out,
			GEMM{Name: layer + "q, k, v, proj", M: tokens, K: d, N: d},
			GEMM{Name: layer + "fc1", M: tokens, K: d, N: h},
			GEMM{Name: layer + "fc2", M: tokens, K: h, N: d})
	}
	return out
}
