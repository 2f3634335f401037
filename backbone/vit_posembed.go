package backbone

import (
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/checkpoint"
)

// resizePosEmbed resizes a learned position embedding to another grid of patches. It resamples like
// timm's resample_abs_pos_embed for state dicts: bicubic, antialiased, with align_corners false.
//
// pos is [1, prefix+oldGrid[0]*oldGrid[1], D], and the result is [1, prefix+newGrid[0]*newGrid[1],
// D]. Grids are (rows, columns). The positions of the first prefix tokens (class token, registers)
// are copied unchanged. If the grids are equal, the result is a copy of pos. Shapes that do not fit
// each other are an error.
func resizePosEmbed(pos checkpoint.Tensor, prefix int, oldGrid, newGrid [2]int) (checkpoint.Tensor, error) {
	// The side length of a grid: 65536 pixels in patches of 16. It keeps all products below from
	// overflowing.
	const largest = 4096
	sides := []int{oldGrid[0], oldGrid[1], newGrid[0], newGrid[1]}
	if slices.Min(sides) < 1 || slices.Max(sides) > largest || prefix < 0 {
		return checkpoint.Tensor{}, fmt.Errorf("resizing the position embedding from grid %v to %v with %d prefix tokens: expected side lengths from 1 to %d and at least 0 prefix tokens", oldGrid, newGrid, prefix, largest)
	}
	if len(pos.Shape) != 3 || pos.Shape[0] != 1 || pos.Shape[2] < 1 || pos.Shape[1] != prefix+oldGrid[0]*oldGrid[1] || len(pos.Data) != pos.Size() {
		return checkpoint.Tensor{}, fmt.Errorf("resizing the position embedding: shape %v with %d values, expected [1, %d, D] for %d prefix tokens and grid %v; give the grid that the checkpoint was trained with",
			pos.Shape, len(pos.Data), prefix+oldGrid[0]*oldGrid[1], prefix, oldGrid)
	}
	dim := pos.Shape[2]
	if oldGrid == newGrid {
		return checkpoint.Tensor{Shape: slices.Clone(pos.Shape), Data: slices.Clone(pos.Data)}, nil
	}
	rows, cols := resampleWeights(oldGrid[0], newGrid[0]), resampleWeights(oldGrid[1], newGrid[1])

	// Resample the columns first and then the rows, as torch does. The intermediate sums are
	// float64, so only the final result is rounded to float32.
	grid := pos.Data[prefix*dim:]                        // [oldGrid[0], oldGrid[1], D]
	narrow := make([]float64, oldGrid[0]*newGrid[1]*dim) // [oldGrid[0], newGrid[1], D]
	out := checkpoint.NewTensor(1, prefix+newGrid[0]*newGrid[1], dim)
	copy(out.Data, pos.Data[:prefix*dim])
	for y := range oldGrid[0] {
		for x, taps := range cols {
			to := narrow[(y*newGrid[1]+x)*dim:][:dim]
			for i, w := range taps.weights {
				for d, v := range grid[(y*oldGrid[1]+taps.first+i)*dim:][:dim] {
					to[d] += w * float64(v)
				}
			}
		}
	}
	sum := make([]float64, newGrid[1]*dim) // one row of the result
	for y, taps := range rows {
		clear(sum)
		for i, w := range taps.weights {
			for d, v := range narrow[(taps.first+i)*len(sum):][:len(sum)] {
				sum[d] += w * v
			}
		}
		for d, v := range sum {
			out.Data[prefix*dim+y*len(sum)+d] = float32(v)
		}
	}
	return out, nil
}

// taps holds the weights of the inputs of one output position. weights[i] belongs to the input
// first+i. The weights sum to 1.
type taps struct {
	first   int
	weights []float64
}

// resampleWeights returns the taps of each of out positions over in positions. It follows torch's
// antialiased F.interpolate, which works like Pillow: the bicubic kernel is centred on
// (i+0.5)·in/out, and stretched by in/out if in > out.
func resampleWeights(in, out int) []taps {
	scale := float64(in) / float64(out)
	stretch := max(scale, 1)
	list := make([]taps, out)
	for i := range list {
		center := (float64(i) + 0.5) * scale
		first := max(int(center-2*stretch+0.5), 0)
		last := min(int(center+2*stretch+0.5), in)
		t := taps{first: first, weights: make([]float64, last-first)}
		total := 0.0
		for j := range t.weights {
			t.weights[j] = bicubic((float64(first+j) - center + 0.5) / stretch)
			total += t.weights[j]
		}
		for j := range t.weights {
			t.weights[j] /= total
		}
		list[i] = t
	}
	return list
}

// bicubic computes Keys' cubic convolution kernel with a = -0.5. torch uses this value with
// antialiasing, and -0.75 without antialiasing.
func bicubic(x float64) float64 {
	const a = -0.5
	switch x = math.Abs(x); {
	case x < 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x < 2:
		return ((x-5)*x+8)*x*a - 4*a
	}
	return 0
}
