package plan

import (
	"math"
	"testing"

	"github.com/sptune/spt/sensitivity"
)

// TestReach compares the reach of plans with sums by hand.
func TestReach(t *testing.T) {
	tensors := []sensitivity.Tensor{
		{Name: "m", Shape: []int{2, 2}, Scores: []float32{1, 2, 3, 4}},
		{Name: "n", Shape: []int{2, 2}, Scores: []float32{0, 5, 0, 1}},
		{Name: "v", Shape: []int{2}, Scores: []float32{3, 1}},
	}
	squared := &sensitivity.Scores{Criterion: sensitivity.SquaredGradient, Tensors: tensors}
	signed := &sensitivity.Scores{Criterion: sensitivity.SummedGradient, Tensors: tensors}
	none := &sensitivity.Scores{Criterion: sensitivity.SquaredGradient, Tensors: []sensitivity.Tensor{{Name: "m", Shape: []int{1, 1}, Scores: []float32{0}}}}
	for name, c := range map[string]struct {
		plan   Plan
		scores *sensitivity.Scores
		want   float64
	}{
		"empty":            {Plan{}, squared, 0},
		"matrix":           {Plan{Matrices: []string{"m"}}, squared, 10. / 20},
		"all kinds":        {Plan{Matrices: []string{"m"}, Vectors: []string{"v"}, Entries: map[string][]int32{"n": {0, 1}}}, squared, 19. / 20},
		"signed":           {Plan{Matrices: []string{"m"}, Entries: map[string][]int32{"n": {1}}}, signed, 55. / 66},
		"no sensitivity":   {Plan{Matrices: []string{"m"}}, none, 0},
		"everything":       {Plan{Matrices: []string{"m", "n"}, Vectors: []string{"v"}}, squared, 1},
		"counted only":     {Plan{Vectors: []string{"v"}, CountedOnly: map[string][]int32{"n": {1}}}, squared, 4. / 20},
		"two entries of n": {Plan{Entries: map[string][]int32{"n": {1, 3}}}, squared, 6. / 20},
	} {
		got, err := c.plan.Reach(c.scores)
		if err != nil || math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: reach %v, %v, want %v", name, got, err, c.want)
		}
	}
	for name, p := range map[string]Plan{
		"unknown matrix": {Matrices: []string{"x"}},
		"unknown tensor": {Entries: map[string][]int32{"x": {0}}},
		"entry outside":  {Entries: map[string][]int32{"v": {2}}},
	} {
		if _, err := p.Reach(squared); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
