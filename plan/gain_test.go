package plan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/sptune/spt/sensitivity"
)

func loraCount(in, out, rank int) int { return rank * (in + out) }

// signed returns scores of the summed gradient for some tensors, with random values.
func signed(seed uint64) *sensitivity.Scores {
	r := rand.New(rand.NewPCG(seed, 0))
	s := &sensitivity.Scores{Criterion: sensitivity.SummedGradient, ClassToken: 2}
	for i, shape := range [][]int{{6, 4}, {4}, {5, 5}, {3}, {4, 8}, {2, 3}} {
		t := sensitivity.Tensor{Name: fmt.Sprintf("blocks.%d.weight", i), Shape: shape, EntriesOnly: i == 5, Scores: make([]float32, 1)}
		for _, d := range shape {
			t.Scores = make([]float32, len(t.Scores)*d)
		}
		strength := math.Exp(r.NormFloat64())
		for j := range t.Scores {
			t.Scores[j] = float32(strength * r.NormFloat64())
		}
		s.Tensors = append(s.Tensors, t)
	}
	return s
}

// choice is one way to tune a tensor.
type choice struct {
	gain float64
	cost int
}

// choices returns all ways to tune a tensor, from the definition of the rule: nothing, the whole
// vector, a module of each rank, or each number of the largest entries.
func choices(t sensitivity.Tensor, entries bool) []choice {
	out := []choice{{}}
	var squares []float64
	for _, g := range t.Scores {
		squares = append(squares, float64(g)*float64(g))
	}
	slices.Sort(squares)
	slices.Reverse(squares)
	sums := []float64{0}
	for _, v := range squares {
		sums = append(sums, sums[len(sums)-1]+v)
	}
	if len(t.Shape) == 1 {
		return append(out, choice{sums[len(squares)], len(squares)})
	}
	if !t.EntriesOnly {
		g := mat.NewDense(t.Shape[0], t.Shape[1], nil)
		for i, v := range t.Scores {
			g.Set(i/t.Shape[1], i%t.Shape[1], float64(v))
		}
		var svd mat.SVD
		svd.Factorize(g, mat.SVDNone)
		sum := 0.0
		for i, v := range svd.Values(nil)[:4] { // the shortest side of all matrices
			sum += v * v
			out = append(out, choice{sum, loraCount(t.Shape[1], t.Shape[0], i+1)})
		}
	}
	for n := 1; entries && n < len(sums); n++ {
		out = append(out, choice{sums[n], n})
	}
	return out
}

// taken returns the gain and the cost of what a plan takes of a tensor.
func takenOf(p *Plan, t sensitivity.Tensor) choice {
	all := choices(t, true)
	switch {
	case slices.Contains(p.Vectors, t.Name):
		return all[1]
	case slices.Contains(p.Matrices, t.Name):
		return all[p.Ranks[t.Name]]
	}
	c := choice{cost: len(p.Entries[t.Name])}
	for _, i := range p.Entries[t.Name] {
		c.gain += float64(t.Scores[i]) * float64(t.Scores[i])
	}
	return c
}

// TestGain compares plans with the definition: no plan of the same cost or less that one price for
// all tensors gives has a larger gain, and the rest of the budget is spent.
func TestGain(t *testing.T) {
	for seed := range uint64(15) {
		for _, only := range []string{"", Structured} {
			s := signed(seed)
			budget := 3 + int(seed*8)%120
			p, err := New(t.Context(), s, budget, Options{Module: "lora", Only: only, Rule: Gain}, loraCount)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Validate(s.Tensors, loraCount); err != nil {
				t.Fatal(err)
			}
			var got choice
			for _, tensor := range s.Tensors {
				c := takenOf(p, tensor)
				got.gain, got.cost = got.gain+c.gain, got.cost+c.cost
			}
			if got.cost+2 != p.Cost.Total {
				t.Errorf("seed %d: the plan says it costs %d, its parts %d", seed, p.Cost.Total, got.cost+2)
			}
			best := 0.0 // of the plans that a price gives
			for _, price := range prices(s, only == "") {
				var sum choice
				for _, tensor := range s.Tensors {
					c := slices.MaxFunc(choices(tensor, only == ""), func(a, b choice) int {
						x, y := a.gain-price*float64(a.cost), b.gain-price*float64(b.cost)
						switch {
						case x < y-1e-12:
							return -1
						case x > y+1e-12:
							return 1
						}
						return b.cost - a.cost // the cheaper one
					})
					sum.gain, sum.cost = sum.gain+c.gain, sum.cost+c.cost
				}
				if sum.cost+2 <= budget {
					best = max(best, sum.gain)
				}
			}
			if got.gain < best*(1-1e-5) {
				t.Errorf("seed %d, budget %d, only %q: the gain is %v, that of one price %v", seed, budget, only, got.gain, best)
			}
			if only == "" && budget-2 <= 40 && p.Cost.Total != budget && len(p.Entries) > 0 {
				t.Errorf("seed %d: cost %d of the budget %d, although entries are left", seed, p.Cost.Total, budget)
			}
			if p.Cost.Total > budget {
				t.Errorf("seed %d: cost %d is above the budget %d", seed, p.Cost.Total, budget)
			}
		}
	}
}

// prices returns the prices at which the choice of some tensor may change: the slopes between its
// choices.
func prices(s *sensitivity.Scores, entries bool) (out []float64) {
	for _, tensor := range s.Tensors {
		all := choices(tensor, entries)
		for _, a := range all {
			for _, b := range all {
				if a.cost > b.cost {
					out = append(out, (a.gain-b.gain)/float64(a.cost-b.cost))
				}
			}
		}
	}
	return out
}

// TestGainFindsPlanted plants what each kind of tuning is for: a matrix of rank two, a vector, and
// a single large entry.
func TestGainFindsPlanted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := &sensitivity.Scores{Criterion: sensitivity.SummedGradient}
	add := func(name string, shape ...int) []float32 {
		n := 1
		for _, d := range shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(1e-3 * r.NormFloat64())
		}
		s.Tensors = append(s.Tensors, sensitivity.Tensor{Name: name, Shape: shape, Scores: values})
		return values
	}
	low, vector, single := add("low.weight", 30, 20), add("vector.bias", 10), add("single.weight", 30, 20)
	add("noise.weight", 30, 20)
	for range 2 {
		u, v := unit(r, 30), unit(r, 20)
		for i := range low {
			low[i] += float32(10 * u[i/20] * v[i%20])
		}
	}
	for i := range vector {
		vector[i] = 1
	}
	single[77] = -8
	p, err := New(t.Context(), s, 2*50+10+1, Options{Module: "lora", Rule: Gain}, loraCount)
	if err != nil {
		t.Fatal(err)
	}
	if p.Ranks["low.weight"] != 2 || len(p.Matrices) != 1 || !slices.Equal(p.Vectors, []string{"vector.bias"}) || !slices.Equal(p.Entries["single.weight"], []int32{77}) || len(p.Entries) != 1 {
		t.Errorf("ranks %v, vectors %v, entries %v", p.Ranks, p.Vectors, p.Entries)
	}
}

// TestGainRandomPlaces checks that the control of Gain has the same ranks on as many matrices of
// each size, as many vectors and entries, and the same cost, at places that follow from the seed.
func TestGainRandomPlaces(t *testing.T) {
	scores := &sensitivity.Scores{Tensors: vitShapes(4, 16), ClassToken: 16, Criterion: sensitivity.SummedGradient}
	r := rand.New(rand.NewPCG(5, 6))
	for i := range scores.Tensors { // two strong directions and noise, so modules gain most
		t := &scores.Tensors[i]
		size, _ := sizeOf(*t)
		t.Scores = make([]float32, size)
		for range 2 {
			strength := math.Exp(r.NormFloat64())
			u, v := unit(r, t.Shape[0]), unit(r, size/t.Shape[0])
			for j := range t.Scores {
				t.Scores[j] += float32(strength*u[j/len(v)]*v[j%len(v)] + 0.001*r.NormFloat64())
			}
		}
	}
	numbers := func(p *Plan) (all []string) { // without the places
		for _, s := range scores.Tensors {
			if rank, ok := p.Ranks[s.Name]; ok {
				all = append(all, fmt.Sprintf("rank %d, %d values", rank, len(s.Scores)))
			}
			if slices.Contains(p.Vectors, s.Name) {
				all = append(all, fmt.Sprintf("vector of %d", len(s.Scores)))
			}
			for range p.Entries[s.Name] {
				all = append(all, fmt.Sprintf("entry of a tensor of %d dimensions", len(s.Shape)))
			}
		}
		slices.Sort(all)
		return all
	}
	for only, budget := range map[string]int{"": 1000, Structured: 1000} {
		o := Options{Module: "lora", Only: only, Rule: Gain}
		real, err := New(t.Context(), scores, budget, o, loraCount)
		if err != nil {
			t.Fatal(err)
		}
		different := map[int]bool{}
		for _, r := range real.Ranks {
			different[r] = true
		}
		if len(different) < 2 || len(real.Matrices) > 20 {
			t.Fatalf("%q: the plan has the ranks %v; choose another budget", only, real.Ranks)
		}
		o.Rule = GainRandomPlaces
		var plans []*Plan
		for seed := range uint64(3) {
			o.Seed = seed
			p, err := New(t.Context(), scores, budget, o, loraCount)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Validate(scores.Tensors, loraCount); err != nil {
				t.Fatal(err)
			}
			if a, b := numbers(p), numbers(real); p.Cost != real.Cost || !slices.Equal(a, b) {
				t.Errorf("%q, seed %d: cost %+v, %v; expected %+v, %v", only, seed, p.Cost, a, real.Cost, b)
			}
			plans = append(plans, p)
		}
		if reflect.DeepEqual(plans[0].Ranks, real.Ranks) || reflect.DeepEqual(plans[0].Ranks, plans[1].Ranks) {
			t.Errorf("%q: the ranks are where Gain or another seed puts them", only)
		}
		o.Seed = 0
		if again, err := New(t.Context(), scores, budget, o, loraCount); err != nil || !reflect.DeepEqual(again, plans[0]) {
			t.Errorf("%q: the same seed gives another plan, %v", only, err)
		}
	}
}

// TestGainRefuses gives scores and modules that the rule cannot read.
func TestGainRefuses(t *testing.T) {
	s := signed(1)
	for want, o := range map[string]Options{
		"module lora":   {Module: "adapter", Rule: Gain},
		"criterion sum": {Module: "lora"}, // the rule of the paper
		`rule "gain-random-places" knows the gain of the module lora only`: {Module: "adapter", Rule: GainRandomPlaces},
		"compat": {Module: "lora", Rule: Gain, Compat: CompatRelease},
	} {
		if _, err := New(t.Context(), s, 30, o, loraCount); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", o, err, want)
		}
	}
	s.Criterion = sensitivity.SquaredGradient
	if _, err := New(t.Context(), s, 30, Options{Module: "lora", Rule: Gain}, loraCount); err == nil || !strings.Contains(err.Error(), "criterion sum") {
		t.Errorf("scores without signs: %v", err)
	}
}
