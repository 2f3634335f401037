package bench

import (
	"fmt"

	"github.com/sptune/spt/backbone"
)

// kernelSide is that of a ConvNeXt's depth-wise kernels.
const kernelSide = 7

// convnext counts a ConvNeXt. Where a kernel reaches over the edge of its map it
// meets zeros, which take no arithmetic.
func (w *work) convnext(c backbone.Config, v backbone.ConvNeXt) {
	side := c.ImageSize / v.PatchSize
	grad := w.linear("stem.0", side*side, 3*v.PatchSize*v.PatchSize, v.EmbedDim, false)
	grad = w.reachesAny("stem.1") || grad
	for i, depth := range v.Depths {
		d, stage := v.Dims[i], fmt.Sprintf("stages.%d.", i)
		if i > 0 {
			side /= 2
			grad = w.reachesAny(stage+"downsample.0") || grad
			grad = w.linear(stage+"downsample.1", side*side, 4*v.Dims[i-1], d, grad)
		}
		for j := range depth {
			b := fmt.Sprintf("%sblocks.%d.", stage, j)
			x := w.depthwise(b+"conv_dw", side, d, grad)
			x = w.reachesAny(b+"norm") || x
			x = w.linear(b+"mlp.fc1", side*side, d, 4*d, x)
			x = w.reachesAny(b+"mlp.grn") || x
			x = w.linear(b+"mlp.fc2", side*side, 4*d, d, x)
			grad = w.reaches(b+"gamma") || x || grad
		}
	}
	grad = w.reachesAny("head.norm") || grad
	w.linear("head.fc", 1, c.NumFeatures(), c.NumClasses, grad)
}

// reachesAny is reaches for a weight or a bias.
func (w *work) reachesAny(name string) bool {
	return w.reaches(name+".weight") || w.reaches(name+".bias")
}

// depthwise is linear for a depth-wise convolution of a map.
func (w *work) depthwise(name string, side, channels int, grad bool) bool {
	weight := name + ".weight"
	// met is how many positions along one axis the tap meets.
	met := func(tap int) int { return max(0, side-max(tap-kernelSide/2, kernelSide/2-tap)) }
	all := 0
	for tap := range kernelSide {
		all += met(tap)
	}
	product := all * all * channels
	w.add(product)
	w.addIf(grad, product)
	w.addIf(w.tuned[weight], product)
	if w.backward {
		for _, e := range w.selection.Entries[weight] {
			tap := int(e) % (kernelSide * kernelSide)
			w.add(met(tap/kernelSide) * met(tap%kernelSide))
		}
	}
	return w.reachesAny(name) || grad
}

// convnextProducts is [products] of a ConvNeXt.
func convnextProducts(c backbone.Config, v backbone.ConvNeXt, batch int) (list []GEMM) {
	side := c.ImageSize / v.PatchSize
	for i, d := range v.Dims {
		tokens, name := batch*(side>>i)*(side>>i), fmt.Sprintf("stages.%d ", i)
		if i > 0 {
			list = append(list, GEMM{Name: name + "downsample.1", M: tokens, K: 4 * v.Dims[i-1], N: d})
		}
		list = append(list, GEMM{Name: name + "mlp.fc1", M: tokens, K: d, N: 4 * d}, GEMM{Name: name + "mlp.fc2", M: tokens, K: 4 * d, N: d})
	}
	return list
}
