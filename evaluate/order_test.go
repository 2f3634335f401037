package evaluate

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// confusion returns metrics with the cells, in which each class has images images.
func confusion(classes, images int, cells []Cell) *Metrics {
	m := &Metrics{Classes: make([]Class, classes), Confusion: merge(cells)}
	for c := range m.Classes {
		m.Classes[c].Support = images
	}
	return m
}

// TestOrder checks that the order finds structures that a permutation of the classes has hidden.
func TestOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{2, 3, 10, 64, 257} {
		names := r.Perm(n) // class id at each place of the structure
		place := make([]int, n)
		for at, c := range names {
			place[c] = at
		}
		// A chain: each class is confused with the classes beside it.
		var cells []Cell
		for i := range n - 1 {
			cells = append(cells, Cell{names[i], names[i+1], 5}, Cell{names[i+1], names[i], 5})
		}
		order := Order(confusion(n, 50, cells))
		for i := range n - 1 {
			if d := place[order[i]] - place[order[i+1]]; d != 1 && d != -1 {
				t.Errorf("chain of %d classes: places %d and %d are neighbours in the order", n, place[order[i]], place[order[i+1]])
				break
			}
		}
		// Blocks: classes are confused at random with the classes of their block.
		cells = nil
		for i := range n {
			for range 12 {
				if j := i/8*8 + r.IntN(8); j < n && j != i {
					cells = append(cells, Cell{names[i], names[j], 1 + r.IntN(3)})
				}
			}
		}
		order = Order(confusion(n, 50, cells))
		var blocks []int
		for _, c := range order {
			blocks = append(blocks, place[c]/8)
		}
		if found := len(slices.Compact(blocks)); found != (n+7)/8 {
			t.Errorf("%d classes in blocks of 8: the order has %d runs of a block", n, found)
		}
	}
}

// TestOrderComplete checks that the order holds each class once, that it is the same in each call,
// and that classes without confusions keep their order.
func TestOrderComplete(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for n := range 40 {
		var cells []Cell
		for range n * r.IntN(4) {
			cells = append(cells, Cell{r.IntN(n), r.IntN(n), 1 + r.IntN(2)})
		}
		m := confusion(n, 7, cells)
		order := Order(m)
		for range 3 {
			if !slices.Equal(Order(m), order) {
				t.Fatalf("two calls differ for %v", cells)
			}
		}
		slices.Sort(order)
		for i, c := range order {
			if i != c || len(order) != n {
				t.Fatalf("the order of %d classes has %v", n, order)
			}
		}
	}
	if got := Order(confusion(4, 1, []Cell{{0, 3, 1}, {1, 1, 1}})); !slices.Equal(got, []int{0, 3, 1, 2}) {
		t.Errorf("the order is %v", got)
	}
}

// TestOrderShortens checks that the order of noisy confusions makes the mean distance from the
// diagonal nearly as short as the order in which they were drawn.
func TestOrderShortens(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	const n = 200
	names := r.Perm(n)
	var cells []Cell
	for range 20 * n {
		i := r.IntN(n)
		j := i + int(r.NormFloat64()*4)
		if r.IntN(20) == 0 {
			j = r.IntN(n)
		}
		if j >= 0 && j < n && j != i {
			cells = append(cells, Cell{names[i], names[j], 1})
		}
	}
	m := confusion(n, 30, cells)
	distance := func(order []int) float64 {
		place := make([]int, n)
		for at, c := range order {
			place[c] = at
		}
		sum, images := 0, 0
		for _, c := range m.Confusion {
			d := place[c.Target] - place[c.Predicted]
			sum, images = sum+max(d, -d)*c.Images, images+c.Images
		}
		return float64(sum) / float64(images)
	}
	sorted := make([]int, n)
	for i := range sorted {
		sorted[i] = i
	}
	drawn, unordered, got := distance(names), distance(sorted), distance(Order(m))
	if got > 1.5*drawn || got > unordered/4 {
		t.Errorf("the mean distance is %.1f; as drawn %.1f, by class id %.1f", got, drawn, unordered)
	}
	t.Logf("the mean distance is %.1f; as drawn %.1f, by class id %.1f", got, drawn, unordered)
}

func BenchmarkOrder(b *testing.B) {
	r := rand.New(rand.NewPCG(9, 10))
	const n = 1000
	var cells []Cell
	for range 30 * n {
		cells = append(cells, Cell{r.IntN(n), r.IntN(n), 1})
	}
	m := confusion(n, 50, cells)
	for b.Loop() {
		Order(m)
	}
}
