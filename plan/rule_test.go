package plan

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/sensitivity"
)

// withConvolutions returns the tensors of a small network with a kernel of a convolution, a
// projection between blocks and scores of zero.
func withConvolutions(r *rand.Rand) []sensitivity.Tensor {
	tensors := append(vitShapes(3, 12),
		sensitivity.Tensor{Name: "stages.1.downsample.1.weight", Shape: []int{6, 3, 2, 2}, EntriesOnly: true},
		sensitivity.Tensor{Name: "stages.1.blocks.0.gamma", Shape: []int{12}})
	for i := range tensors {
		t := &tensors[i]
		size, _ := sizeOf(*t)
		t.Scores = make([]float32, size)
		for j := range t.Scores {
			if r.IntN(4) > 0 {
				t.Scores[j] = float32(r.IntN(40)) // equal scores too
			}
		}
	}
	return tensors
}

// TestPerNeuron compares the rule of GPS with a naive oracle: all weights, sorted by their rank in
// the row, then by score and position.
func TestPerNeuron(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	type weight struct {
		rank, tensor, position int
		score                  float32
	}
	for range 20 {
		tensors := withConvolutions(r)
		var weights []weight
		vectors, biases := []string{}, 0
		for i, s := range tensors {
			if len(s.Shape) == 1 {
				if !s.Norm {
					vectors, biases = append(vectors, s.Name), biases+len(s.Scores)
				}
				continue
			}
			length := len(s.Scores) / s.Shape[0]
			for row := range s.Shape[0] {
				scores := s.Scores[row*length : (row+1)*length]
				for j, v := range scores {
					rank := 0
					for k, other := range scores {
						if other > v || other == v && k < j {
							rank++
						}
					}
					if v > 0 {
						weights = append(weights, weight{rank, i, row*length + j, v})
					}
				}
			}
		}
		slices.SortFunc(weights, func(a, b weight) int {
			return cmp.Or(a.rank-b.rank, cmp.Compare(b.score, a.score), a.tensor-b.tensor, a.position-b.position)
		})
		for _, entries := range []int{0, 1, 100, 270, 600, len(weights), len(weights) + 50} {
			const classToken = 12
			scores := &sensitivity.Scores{Tensors: tensors, ClassToken: classToken}
			got, err := New(t.Context(), scores, classToken+biases+entries, Options{Only: Unstructured, Rule: PerNeuron}, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string][]int32{}
			for _, w := range weights[:min(entries, len(weights))] {
				name := tensors[w.tensor].Name
				want[name] = append(want[name], int32(w.position))
			}
			for _, positions := range want {
				slices.Sort(positions)
			}
			if !reflect.DeepEqual(got.Entries, want) || !slices.Equal(got.Vectors, vectors) {
				t.Fatalf("%d entries: the plan differs from the oracle: %+v", entries, got.Cost)
			}
			if c := (Cost{Vectors: biases, Unstructured: min(entries, len(weights)), ClassToken: classToken, Total: classToken + biases + min(entries, len(weights))}); got.Cost != c {
				t.Errorf("cost %+v, expected %+v", got.Cost, c)
			}
			if err := got.Validate(tensors, nil); err != nil {
				t.Error(err)
			}
		}
		_, err := New(t.Context(), &sensitivity.Scores{Tensors: tensors}, biases-1, Options{Only: Unstructured, Rule: PerNeuron}, nil)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("these are %d parameters", biases)) {
			t.Errorf("a budget below the biases: %v", err)
		}
	}
}

// TestPerNeuronOfViT checks the published setting, k weights for each neuron, on the shapes of a
// ViT: each row of each matrix has k entries, and the cost is that of a bias and of k weights for
// each neuron.
func TestPerNeuronOfViT(t *testing.T) {
	const dim, neurons, k = 32, 2 * (4*32 + 128 + 32), 2
	tensors := vit(2, dim)
	p, err := New(t.Context(), &sensitivity.Scores{Tensors: tensors, ClassToken: dim}, dim+(1+k)*neurons, Options{Only: Unstructured, Rule: PerNeuron}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Cost.Vectors != neurons || p.Cost.Unstructured != k*neurons {
		t.Errorf("cost %+v, expected %d biases and %d entries", p.Cost, neurons, k*neurons)
	}
	for _, s := range tensors {
		if len(s.Shape) == 1 {
			continue
		}
		rows := map[int32]int{}
		for _, e := range p.Entries[s.Name] {
			rows[e/int32(s.Shape[1])]++
		}
		if len(rows) != s.Shape[0] || slices.Max(slices.Collect(maps.Values(rows))) != k {
			t.Errorf("%s: %d of %d neurons have entries", s.Name, len(rows), s.Shape[0])
		}
	}
}

// TestRandomPlaces checks that random places leave all numbers of a plan as they are, follow from
// the seed, and give each matrix of the same shape the same chance.
func TestRandomPlaces(t *testing.T) {
	const depth, dim, seeds = 4, 16, 300
	scored := vit(depth, dim)
	scores := &sensitivity.Scores{Tensors: scored, ClassToken: dim}
	for _, module := range []string{"lora", "adapter"} {
		for only, budget := range map[string]int{"": 1200, Structured: 1800, Unstructured: 1200} {
			o := Options{Module: module, Only: only, Rank: 2}
			real, err := New(t.Context(), scores, budget, o, moduleParams[module])
			if err != nil {
				t.Fatal(err)
			}
			o.Rule = RandomPlaces
			chosen := map[string]int{}
			var first, second *Plan
			made, err := New(t.Context(), scores, budget, o, moduleParams[module])
			if err != nil {
				t.Fatal(err)
			}
			tensors, _, err := prepare(t.Context(), scores, o, moduleParams[module])
			if err != nil {
				t.Fatal(err)
			}
			for seed := range uint64(seeds) {
				p := *real
				p.Rule = RandomPlaces
				p.toRandomPlaces(tensors, seed)
				if seed == 0 && !reflect.DeepEqual(&p, made) {
					t.Errorf("%s, %q: New makes another plan of the same seed", module, only)
				}
				if p.Rule != RandomPlaces || p.Cost != real.Cost || p.Tau != real.Tau || len(p.Matrices) != len(real.Matrices) || len(p.Vectors) != len(real.Vectors) {
					t.Fatalf("%s, %q: %d matrices, %d vectors, cost %+v; expected %d, %d, %+v", module, only, len(p.Matrices), len(p.Vectors), p.Cost, len(real.Matrices), len(real.Vectors), real.Cost)
				}
				if a, b := inVectors(&p, scored), inVectors(real, scored); a != b {
					t.Fatalf("%s, %q: %d entries in vectors, expected %d", module, only, a, b)
				}
				count := moduleParams[module]
				if only == Unstructured {
					count = nil
				}
				if err := p.Validate(scored, count); err != nil {
					t.Fatal(err)
				}
				for _, name := range p.Matrices {
					chosen[name]++
				}
				first, second = second, &p
			}
			if reflect.DeepEqual(first, second) {
				t.Errorf("%s, %q: two seeds give the same places", module, only)
			}
			if data, err := second.encode(); err != nil {
				t.Error(err)
			} else if read, err := decode(data); err != nil || !reflect.DeepEqual(read, second) {
				t.Errorf("%s, %q: the plan file holds another plan, %v", module, only, err)
			}
			if only == Unstructured {
				continue
			}
			// Of the square matrices, n are chosen each time, so each is chosen in n/16 of all
			// cases.
			n := 0
			for _, name := range real.Matrices {
				if strings.Contains(name, "attn") {
					n++
				}
			}
			if n == 0 || n == 4*depth {
				t.Fatalf("%s, %q: %d of %d square matrices have a module; choose another budget", module, only, n, 4*depth)
			}
			for _, s := range scored {
				share := float64(chosen[s.Name]) / seeds
				if want := float64(n) / (4 * depth); len(s.Shape) > 1 && strings.Contains(s.Name, "attn") && (share < want-0.12 || share > want+0.12) {
					t.Errorf("%s, %q: %s is chosen in a share of %g, expected %g", module, only, s.Name, share, want)
				}
			}
		}
	}
}

// inVectors returns the number of entries of a plan in vectors.
func inVectors(p *Plan, tensors []sensitivity.Tensor) (n int) {
	for _, s := range tensors {
		if len(s.Shape) == 1 {
			n += len(p.Entries[s.Name])
		}
	}
	return n
}

// TestSample checks that sample draws every set of numbers, and each number equally often.
func TestSample(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	counts := make([]int, 7)
	const draws = 7000
	for range draws {
		s := sample(len(counts), 3, r)
		if len(s) != 3 || s[0] >= s[1] || s[1] >= s[2] {
			t.Fatalf("sample %v", s)
		}
		for _, i := range s {
			counts[i]++
		}
	}
	for i, n := range counts {
		if n < draws*3/7-200 || n > draws*3/7+200 {
			t.Errorf("number %d is drawn %d times, expected about %d", i, n, draws*3/7)
		}
	}
	if got := sample(5, 5, r); !slices.Equal(got, []int{0, 1, 2, 3, 4}) {
		t.Errorf("all of five: %v", got)
	}
}

// TestRuleErrors checks the errors for rules that do not fit the other options.
func TestRuleErrors(t *testing.T) {
	scores := &sensitivity.Scores{Tensors: vit(2, 8)}
	for want, o := range map[string]Options{
		`plan rule "luck" is unknown`:       {Module: "lora", Rule: "luck"},
		"has structured modules":            {Module: "lora", Rule: PerNeuron},
		"beta has no effect":                {Only: Unstructured, Rule: PerNeuron, Beta: 3},
		`contradicts compat mode "release"`: {Module: "lora", Rule: RandomPlaces, Compat: CompatRelease},
	} {
		if _, err := New(t.Context(), scores, 500, o, moduleParams["lora"]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}
