package backbone

import (
	"fmt"
	"math"
	"sort"

	"github.com/sptune/spt/checkpoint"
)

// positionTable names the table that holds what is added to the scores of two tokens of a window of
// size × size, by their distance: [(2·size−1)², heads], distances in rows first.
const positionTable = "relative_position_bias_table"

// positionIndex lists the positions in the flat table for each head, query and key,
// [heads·size⁴, 1].
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

// tableWindow returns the size of the windows that a table is for.
func tableWindow(name string, shape []int) (int, error) {
	side := int(math.Round(math.Sqrt(float64(shape[0]))))
	if side*side != shape[0] || side%2 == 0 {
		return 0, fmt.Errorf("tensor %q has shape %v, expected the square of an odd number of rows: (2·size−1)² for windows of size × size", name, shape)
	}
	return (side + 1) / 2, nil
}

// resizeTable makes a table for windows of another size, as timm does when it loads one
// (resize_rel_pos_bias_table). It interpolates linearly between distances. The distances of the old
// table are taken to grow geometrically, so that short ones keep their values; beyond the longest
// distance its value holds.
func resizeTable(table checkpoint.Tensor, from, to int) checkpoint.Tensor {
	heads, old, side := table.Shape[1], 2*from-1, 2*to-1
	at := tableDistances(from, to)
	type share struct {
		left, right int
		weight      float64 // of right
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

// tableDistances returns the distances of the rows of a table for windows of size from, in tokens
// of windows of size to: 0, ±1, ±(1+q), ±(1+q+q²), …, where q, between 1.01 and 1.5, makes the
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
