package backbone

import (
	"fmt"
	"math"
	"sort"

	"github.com/sptune/spt/checkpoint"
)

// positionTable is the name of the table of relative-position biases, [(2·size−1)², heads], for
// windows of size × size tokens. Attention adds a bias to the score of two tokens. The distance
// between the tokens in rows and columns selects the row of the table, rows first.
const positionTable = "relative_position_bias_table"

// positionIndex returns, for each head, query and key of a window, the index of the bias in the
// flat table: [heads·size⁴, 1].
func positionIndex(size, heads int) [][]int32 {
	tokens := size * size
	index := make([][]int32, 0, heads*tokens*tokens)
	for h := range heads {
		for q := range tokens {
			for k := range tokens {
				row, column := q/size-k/size+size-1, q%size-k%size+size-1
				index = append(index, []int32{int32((row*(2*size-1)+column)*heads + h)})
			}
		}
	}
	return index
}

// tableWindow returns the side length, in tokens, of the windows that a table of the given shape is
// for. name is the name of the tensor.
func tableWindow(name string, shape []int) (int, error) {
	side := int(math.Round(math.Sqrt(float64(shape[0]))))
	if side*side != shape[0] || side%2 == 0 {
		return 0, fmt.Errorf("tensor %q has shape %v, expected (2·size−1)² rows for windows of size × size tokens: the square of an odd number", name, shape)
	}
	return (side + 1) / 2, nil
}

// resizeTable resizes a table from windows of size from to windows of size to, like timm's
// resize_rel_pos_bias_table. It interpolates linearly between the distances that tableDistances
// returns. Beyond the longest distance, it repeats the last value.
func resizeTable(table checkpoint.Tensor, from, to int) checkpoint.Tensor {
	heads, old, side := table.Shape[1], 2*from-1, 2*to-1
	at := tableDistances(from, to)
	type share struct {
		left, right int
		weight      float64 // weight of right; left has 1 − weight
	}
	shares := make([]share, side)
	for i := range shares {
		d := float64(i - (to - 1))
		switch r := sort.SearchFloat64s(at, d); {
		case r == 0:
		case r == old:
			shares[i] = share{old - 1, old - 1, 0}
		default:
			shares[i] = share{r - 1, r, (d - at[r-1]) / (at[r] - at[r-1])}
		}
	}
	out := checkpoint.NewTensor(side*side, heads)
	value := func(row, column, h int) float64 { return float64(table.Data[(row*old+column)*heads+h]) }
	for i, y := range shares {
		for j, x := range shares {
			for h := range heads {
				top := (1-x.weight)*value(y.left, x.left, h) + x.weight*value(y.left, x.right, h)
				bottom := (1-x.weight)*value(y.right, x.left, h) + x.weight*value(y.right, x.right, h)
				out.Data[(i*side+j)*heads+h] = float32((1-y.weight)*top + y.weight*bottom)
			}
		}
	}
	return out
}

// tableDistances returns the distances that the rows of a table for windows of size from stand for
// in windows of size to, in tokens: 0, ±1, ±(1+q), ±(1+q+q²), …. The steps grow geometrically, so
// that short distances keep their values. q is the number between 1.01 and 1.5 that makes the
// longest distances equal.
func tableDistances(from, to int) []float64 {
	left, right, q := 1.01, 1.5, 0.0
	for right-left > 1e-6 {
		q = (left + right) / 2
		if (1-math.Pow(q, float64(from-1)))/(1-q) > float64(to-1) {
			right = q
		} else {
			left = q
		}
	}
	at := make([]float64, 2*from-1)
	for i, step, distance := 1, 1.0, 1.0; i < from; i++ {
		at[from-1-i], at[from-1+i] = -distance, distance
		step *= q
		distance += step
	}
	return at
}
