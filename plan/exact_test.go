package plan

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sptune/spt/sensitivity"
)

// ranked is one score with its position, for the naive oracles.
type ranked struct {
	score         float32
	tensor, index int
}

// rankAll sorts every score: largest first, then by tensor, then by index.
func rankAll(scored []sensitivity.Tensor) []ranked {
	size := 0
	for _, s := range scored {
		size += len(s.Scores)
	}
	all := make([]ranked, 0, size)
	for i, s := range scored {
		for j, v := range s.Scores {
			all = append(all, ranked{v, i, j})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return cmp.Or(a.tensor-b.tensor, a.index-b.index)
	})
	return all
}

// naiveSensitive counts the largest scores of all in each tensor. Scores of zero do not count.
func naiveSensitive(scored []sensitivity.Tensor, all []ranked, largest int) map[string]int {
	counts := map[string]int{}
	for _, r := range all[:min(largest, len(all))] {
		if r.score > 0 {
			counts[scored[r.tensor].Name]++
		}
	}
	return counts
}

// naiveRelease applies the rule of the published code to the first tau scores of all.
func naiveRelease(scored []sensitivity.Tensor, all []ranked, tau int, o inputs) *Plan {
	taken := make([][]int32, len(scored))
	for _, r := range all[:tau] {
		taken[r.tensor] = append(taken[r.tensor], int32(r.index))
	}
	p := o.emptyPlan()
	p.Compat, p.CountedOnly, p.Tau = CompatRelease, map[string][]int32{}, tau
	p.Sensitive = naiveSensitive(scored, all, o.Budget)
	for i, s := range scored {
		c := len(taken[i])
		params, converts := o.naiveConversion(s, c)
		slices.Sort(taken[i])
		switch {
		case c == 0:
		case converts && len(s.Shape) == 1:
			p.Vectors = append(p.Vectors, s.Name)
			p.Cost.Vectors += params
		case converts:
			p.Matrices = append(p.Matrices, s.Name)
			p.Cost.Structured += params
		case s.Norm:
			p.CountedOnly[s.Name] = taken[i]
			p.Cost.CountedOnly += c
		default:
			p.Entries[s.Name] = taken[i]
			p.Cost.Unstructured += c
		}
	}
	p.Cost.Total = p.Cost.sum()
	return p
}

// emptyPlan returns a plan that selects nothing.
func (o inputs) emptyPlan() *Plan {
	p := &Plan{
		Only: o.Only, Module: o.Module, Rank: o.Rank, Alpha: o.Alpha, Beta: o.Beta,
		Budget: o.Budget, Cost: Cost{ClassToken: o.ClassToken},
		Matrices: []string{}, Vectors: []string{}, Entries: map[string][]int32{},
	}
	if o.Only == Unstructured {
		p.Module, p.Rank = "", 0
	}
	return p
}

// naiveConversion reports whether c selected scores reach the threshold of a tensor, and what the
// converted tensor costs.
func (o inputs) naiveConversion(s sensitivity.Tensor, c int) (params int, converts bool) {
	switch {
	case len(s.Shape) == 1:
		return len(s.Scores), float64(c) >= float64(len(s.Scores))/o.Beta
	case s.EntriesOnly || o.Only == Unstructured:
		return 0, false
	}
	params = o.ModuleParams(len(s.Scores)/s.Shape[0], s.Shape[0], o.Rank)
	return params, float64(c) >= float64(params)/o.Alpha
}

// hardCases counts the hard cases of the rule that naiveExact met.
type hardCases struct {
	capped       int // tensors whose conversion did not fit
	cappedMore   int // entries of these tensors after the first that did not fit
	cappedVector int // capped tensors that are vectors
	later        int // conversions after the first cap
	cheaper      int // conversions that lowered the cost
	zeros        int // scores of zero that were reached with parameters left
	below        int // plans that cost less than the budget
}

// naiveExact applies the rule of New to one score after another.
func naiveExact(scored []sensitivity.Tensor, all []ranked, o inputs, met *hardCases) *Plan {
	p := o.emptyPlan()
	p.Sensitive = naiveSensitive(scored, all, o.Budget)
	entry := 1 // cost of an entry
	if o.Only == Structured {
		entry = 0
	}
	cost := o.ClassToken
	entries := make([][]int32, len(scored))
	converted, capped := make([]bool, len(scored)), make([]bool, len(scored))
	for place, r := range all {
		if cost == o.Budget {
			break
		}
		if r.score == 0 {
			met.zeros++
			break
		}
		i := r.tensor
		if converted[i] {
			continue
		}
		paid := entry * len(entries[i])
		params, reaches := o.naiveConversion(scored[i], len(entries[i])+1)
		if reaches && !capped[i] {
			if cost-paid+params <= o.Budget {
				converted[i] = true
				cost += params - paid
				p.Tau = place + 1
				if slices.Contains(capped, true) {
					met.later++
				}
				if params < paid {
					met.cheaper++
				}
				continue
			}
			capped[i] = true
			met.capped++
			if len(scored[i].Shape) == 1 {
				met.cappedVector++
			}
		} else if capped[i] && entry > 0 {
			met.cappedMore++
		}
		entries[i] = append(entries[i], int32(r.index))
		if entry > 0 {
			cost++
			p.Tau = place + 1
		}
	}
	if cost < o.Budget {
		met.below++
	}
	for i, s := range scored {
		params, _ := o.naiveConversion(s, 0)
		switch {
		case converted[i] && len(s.Shape) == 1:
			p.Vectors = append(p.Vectors, s.Name)
			p.Cost.Vectors += params
		case converted[i]:
			p.Matrices = append(p.Matrices, s.Name)
			p.Cost.Structured += params
		case len(entries[i]) > 0 && entry > 0:
			p.Entries[s.Name] = slices.Sorted(slices.Values(entries[i]))
			p.Cost.Unstructured += len(entries[i])
		}
	}
	p.Cost.Total = p.Cost.sum()
	return p
}

// randomScored returns the scored tensors of a small random network. Some tensors are empty or all
// zero, and many scores are equal.
func randomScored(r *rand.Rand) []sensitivity.Tensor {
	var scored []sensitivity.Tensor
	for i := range 2 + r.IntN(7) {
		s := sensitivity.Tensor{Name: fmt.Sprintf("blocks.%d.t", i)}
		switch r.IntN(4) {
		case 0:
			s.Shape = []int{r.IntN(30)}
			s.Norm = r.IntN(2) == 0
		case 1:
			s.Shape = []int{1 + r.IntN(5), 1 + r.IntN(4), 1 + r.IntN(3)}
		default:
			s.Shape = []int{1 + r.IntN(12), 1 + r.IntN(12)}
		}
		size, _ := sizeOf(s)
		levels := 1 + r.IntN(200)
		scale := float32(math.Exp(3 * r.NormFloat64()))
		if r.IntN(6) == 0 {
			scale = 0
		}
		s.Scores = make([]float32, size)
		for j := range s.Scores {
			s.Scores[j] = scale * float32(r.IntN(levels)) / 8
			if r.IntN(3) == 0 {
				s.Scores[j] = float32(r.IntN(3)) // equal to scores of other tensors
			}
		}
		scored = append(scored, s)
	}
	return scored
}

func randomOptions(r *rand.Rand) inputs {
	o := inputs{
		Module:     []string{"lora", "adapter"}[r.IntN(2)],
		Rank:       1 + r.IntN(3),
		Alpha:      []float64{10, 3, 1, 2.5, 0.7, 0.2}[r.IntN(6)],
		Beta:       []float64{5, 1, 1.5, 0.5}[r.IntN(4)],
		ClassToken: r.IntN(5),
	}
	o.ModuleParams = moduleParams[o.Module]
	return o
}

// TestExactAgainstNaive compares exact with naiveExact on small random networks.
func TestExactAgainstNaive(t *testing.T) {
	var met hardCases
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		scored, o := randomScored(r), randomOptions(r)
		switch seed % 4 {
		case 0: // small modules that replace many entries free parameters
			o.Rank, o.Alpha, o.Beta = 1, 0.7, 5
		case 1:
			o.Only = Unstructured
		case 2:
			o.Only = Structured
		}
		all := rankAll(scored)
		o.Budget = 1 + o.ClassToken + r.IntN(1+len(all))
		want := naiveExact(scored, all, o, &met)
		got, err := o.exact(t.Context(), scored)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d, %+v:\ngot  %+v\nwant %+v", seed, o, got, want)
		}
		if err := got.Validate(scored, o.ModuleParams); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got.Cost.Total > o.Budget {
			t.Fatalf("seed %d: %d parameters for a budget of %d", seed, got.Cost.Total, o.Budget)
		}
		// If entries are allowed, the plan spends the budget or takes all positive scores.
		if got.Cost.Total < o.Budget && o.Only != Structured {
			for _, s := range scored {
				positive := 0
				for _, v := range s.Scores {
					if v > 0 {
						positive++
					}
				}
				if !slices.Contains(slices.Concat(got.Vectors, got.Matrices), s.Name) && len(got.Entries[s.Name]) != positive {
					t.Fatalf("seed %d: the plan spends %d of %d parameters, and takes %d of %d positive scores of %s", seed, got.Cost.Total, o.Budget, len(got.Entries[s.Name]), positive, s.Name)
				}
			}
		}
	}
	for i, v := range reflect.ValueOf(met).Fields() {
		if v.Int() == 0 {
			t.Errorf("the random networks have no case of %q", i.Name)
		}
	}
	t.Logf("%+v", met)
}

// TestReleaseAgainstEveryTau compares Release with an oracle that makes the plan of every τ of the
// published code.
func TestReleaseAgainstEveryTau(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		scored, o := randomScored(r), randomOptions(r)
		all := rankAll(scored)
		// A large scale puts the last values of τ beyond the number of scores.
		scale := float64(1+len(all)) * (0.1 + 2*r.Float64())

		want := make([]*Plan, len(releaseTargets))
		for k := 1; k <= 79; k++ {
			tau := int(math.Ceil(float64(k) * 0.02 * scale))
			if tau > len(all) {
				break
			}
			for i, target := range releaseTargets {
				o.Budget = max(1, int(math.Round(target*scale)))
				p := naiveRelease(scored, all, tau, o)
				gap := func(p *Plan) float64 { return math.Abs(float64(p.Cost.Total) - target*scale) }
				if want[i] == nil || gap(p) <= gap(want[i]) {
					want[i] = p
				}
			}
		}
		o.Scale = scale
		got, err := o.release(t.Context(), scored)
		if want[0] == nil {
			if err == nil {
				t.Fatalf("seed %d: no τ is possible, and no error", seed)
			}
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range want {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("seed %d, scale %v, target %v:\ngot  %+v\nwant %+v", seed, scale, releaseTargets[i], got[i], want[i])
			}
			if err := got[i].Validate(scored, o.ModuleParams); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// TestReleaseTaus checks the values of τ at the published scale against math.ceil(k * 0.02 * 1e6)
// in Python. Four of them are one above a multiple of 20,000.
func TestReleaseTaus(t *testing.T) {
	above := map[int]int{35: 1, 41: 1, 57: 1, 70: 1}
	taus := releaseTaus(1e6, 85_000_000)
	if len(taus) != 79 {
		t.Fatalf("%d values of tau, expected 79", len(taus))
	}
	for i, tau := range taus {
		if k := i + 1; tau != 20_000*k+above[k] {
			t.Errorf("k %d: tau %d, expected %d", k, tau, 20_000*k+above[k])
		}
	}
	if taus := releaseTaus(1e6, 59_999); len(taus) != 2 {
		t.Errorf("%d values of tau for 59,999 scores, expected 2", len(taus))
	}
}

// vit returns random log-normal scores for the tensors of a ViT. Each tensor has another scale.
func vit(depth, dim int) []sensitivity.Tensor {
	scored := vitShapes(depth, dim)
	r := rand.New(rand.NewPCG(uint64(depth), uint64(dim)))
	for i := range scored {
		s := &scored[i]
		size, _ := sizeOf(*s)
		s.Scores = make([]float32, size)
		scale := 2 * r.NormFloat64()
		for j := range s.Scores {
			s.Scores[j] = float32(1e-6 * math.Exp(scale+2*r.NormFloat64()))
		}
	}
	return scored
}

// vitShapes returns the tensors of the blocks and the final norm of a ViT, without scores.
func vitShapes(depth, dim int) []sensitivity.Tensor {
	var scored []sensitivity.Tensor
	add := func(name string, norm bool, shape ...int) {
		scored = append(scored, sensitivity.Tensor{Name: name, Shape: shape, Norm: norm})
	}
	for b := range depth {
		module := func(name string, in, out int) {
			add(fmt.Sprintf("blocks.%d.%s.weight", b, name), false, out, in)
			add(fmt.Sprintf("blocks.%d.%s.bias", b, name), false, out)
		}
		norm := func(name string) {
			add(fmt.Sprintf("blocks.%d.%s.weight", b, name), true, dim)
			add(fmt.Sprintf("blocks.%d.%s.bias", b, name), true, dim)
		}
		norm("norm1")
		for _, name := range []string{"attn.q", "attn.k", "attn.v", "attn.proj"} {
			module(name, dim, dim)
		}
		norm("norm2")
		module("mlp.fc1", dim, 4*dim)
		module("mlp.fc2", 4*dim, dim)
	}
	add("norm.weight", true, dim)
	add("norm.bias", true, dim)
	return scored
}

// TestExactViT checks exact with the default rank at the size of a ViT-Ti/16 and of a ViT-B/16, for
// budgets from 20,000 parameters to 10 % of the backbone. Plans spend the budget, whatever it is.
// For the ViT-Ti, exact is also compared with naiveExact.
func TestExactViT(t *testing.T) {
	for _, c := range []struct {
		name     string
		dim      int
		backbone int
		scored   func() []sensitivity.Tensor
		budgets  []string
	}{
		{"ViT-Ti", 192, 5_524_416, func() []sensitivity.Tensor { return vit(12, 192) }, []string{"20k", "0.5%", "50k", "1%", "0.1M", "113472", "113473", "0.2M", "5%", "0.4M", "10%"}},
		{"ViT-B", 768, 85_798_656, vitBase, []string{"0.5%", "10%"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.dim > 192 {
				t.Skip("needs time for 85 million scores: run without -short")
			}
			scored := c.scored()
			only := []string{""}
			var all []ranked
			if c.dim == 192 {
				only = append(only, Structured)
				all = rankAll(scored)
			}
			for module, params := range moduleParams {
				for _, text := range c.budgets {
					budget, err := resolved(text, c.backbone)
					if err != nil {
						t.Fatal(err)
					}
					for _, only := range only {
						o := inputs{Budget: budget, Only: only, Module: module, ModuleParams: params, ClassToken: c.dim}
						p, err := o.exact(t.Context(), scored)
						if err != nil {
							t.Fatal(err)
						}
						if err := p.Validate(scored, params); err != nil {
							t.Error(err)
						}
						if cost := p.Cost.Total; cost > budget || cost < budget && only == "" {
							t.Errorf("%s %s: %d parameters for a budget of %d", module, only, cost, budget)
						}
						if all != nil {
							o.Rank, o.Alpha, o.Beta = p.Rank, p.Alpha, p.Beta
							if !reflect.DeepEqual(p, naiveExact(scored, all, o, new(hardCases))) {
								t.Errorf("%s %s, budget %d: the plan differs from the plan of naiveExact", module, only, budget)
							}
						}
						t.Logf("%-7s %-10s budget %7d: rank %2d, %2d modules, %3d vectors, %6d entries, %d left, tau %8d", module, only, budget, p.Rank, len(p.Matrices), len(p.Vectors), p.Cost.Unstructured, budget-p.Cost.Total, p.Tau)
					}
				}
			}
		})
	}
}

// TestExactGolden checks exact on the sensitivities of the reference implementation. If the budget
// is the cost of a plan of Release, every conversion of this plan fits. So exact returns the same
// plan, but tunes the entries that Release only counts.
func TestExactGolden(t *testing.T) {
	folder := goldenFolder(t)
	meta := readMeta(t, folder)
	scored := readSensitivity(t, folder, meta.Depth)
	for module := range meta.Plans {
		o := releaseOptions(meta, module)
		plans, err := o.release(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range plans {
			o.Budget = want.Cost.Total
			got, err := o.exact(t.Context(), scored)
			if err != nil {
				t.Fatal(err)
			}
			if got.Tau > want.Tau {
				t.Errorf("%s, budget %d: tau %d, expected at most %d", module, o.Budget, got.Tau, want.Tau)
			}
			maps.Copy(want.Entries, want.CountedOnly)
			want.Cost.Unstructured += want.Cost.CountedOnly
			want.Cost.CountedOnly, want.CountedOnly = 0, nil
			want.Compat, want.Budget, want.Tau, want.Sensitive = "", o.Budget, got.Tau, got.Sensitive
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s, budget %d: the plan differs from the plan of the release:\ngot  %+v\nwant %+v", module, o.Budget, got.Cost, want.Cost)
			}
		}
	}
}

// TestExactInvariance checks that a plan does not depend on the number of processors. If all scores
// differ, it does not depend on the scale of the scores or on the order of the tensors either.
func TestExactInvariance(t *testing.T) {
	scored := vit(3, 48)
	distinct := map[float32]bool{}
	for _, s := range scored {
		for i, v := range s.Scores {
			for distinct[v] {
				v = math.Nextafter32(v, 1)
			}
			distinct[v] = true
			s.Scores[i] = v
		}
	}
	o := inputs{Budget: 3000, Module: "lora", ModuleParams: loraParams, Rank: 4, ClassToken: 48}
	encoded := func(scored []sensitivity.Tensor) []byte {
		p, err := o.exact(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(p.Matrices)
		slices.Sort(p.Vectors)
		data, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want := encoded(scored)

	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, procs := range []int{1, 2, 5} {
		runtime.GOMAXPROCS(procs)
		if !bytes.Equal(encoded(scored), want) {
			t.Errorf("the plan differs with %d processors", procs)
		}
	}
	changed := slices.Clone(scored)
	rand.New(rand.NewPCG(3, 3)).Shuffle(len(changed), func(i, j int) { changed[i], changed[j] = changed[j], changed[i] })
	for i, s := range changed {
		changed[i].Scores = make([]float32, len(s.Scores))
		for j, v := range s.Scores {
			changed[i].Scores[j] = v * 1024
		}
	}
	if !bytes.Equal(encoded(changed), want) {
		t.Error("the plan differs with the tensors in another order and the scores on another scale")
	}
}

// TestExactRefuses checks the errors for wrong scores, tensors and options.
func TestExactRefuses(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	good := func() []sensitivity.Tensor {
		return []sensitivity.Tensor{
			{Name: "a.weight", Shape: []int{2, 3}, Scores: []float32{1, 2, 3, 4, 5, 6}},
			{Name: "a.bias", Shape: []int{2}, Scores: []float32{0, 0}},
		}
	}
	for name, c := range map[string]struct {
		change func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor
		want   []string
	}{
		"nan":            {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { s[0].Scores[4] = nan; return s }, []string{`"a.weight"`, "flat index 4", "NaN"}},
		"infinite":       {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { s[1].Scores[1] = inf; return s }, []string{`"a.bias"`, "flat index 1", "+Inf"}},
		"negative":       {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { s[0].Scores[0] = -1e-30; return s }, []string{`"a.weight"`, "flat index 0", "-1e-30"}},
		"shape":          {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { s[0].Shape = []int{2, 4}; return s }, []string{`"a.weight"`, "[2 4]", "6 scores, expected 8"}},
		"negative shape": {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { s[0].Shape = []int{-2, -3}; return s }, []string{`"a.weight"`, "[-2 -3]"}},
		"huge shape": {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor {
			s[0].Shape = []int{1 << 30, 1 << 30, 1 << 4}
			return s
		}, []string{`"a.weight"`, "can index"}},
		"scalar":      {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { s[0].Shape = nil; return s }, []string{`"a.weight"`, "no dimensions"}},
		"twice":       {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { return append(s, s[0]) }, []string{`"a.weight"`, "twice"}},
		"none":        {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { return nil }, []string{"no scored tensors"}},
		"budget":      {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.Budget = 0; return s }, []string{"budget is 0"}},
		"least":       {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.Budget = 6; return s }, []string{"budget is 6", "the class token alone has 7"}},
		"class token": {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.ClassToken = -1; return s }, []string{"class token has -1"}},
		"module":      {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.Module = ""; return s }, []string{"no structured module"}},
		"no params":   {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.ModuleParams = nil; return s }, []string{"no function counts the parameters"}},
		"zero params": {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor {
			o.ModuleParams = func(int, int, int) int { return 0 }
			return s
		}, []string{`"lora"`, "0 parameters", `"a.weight"`, "in 3, out 2"}},
		"rank":  {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.Rank = -1; return s }, []string{"rank is -1"}},
		"alpha": {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.Alpha = math.NaN(); return s }, []string{"alpha and beta are NaN and 5"}},
		"beta":  {func(s []sensitivity.Tensor, o *inputs) []sensitivity.Tensor { o.Beta = math.Inf(1); return s }, []string{"alpha and beta are 10 and +Inf"}},
	} {
		o := inputs{Budget: 9, Module: "lora", ModuleParams: loraParams, ClassToken: 7}
		scored := c.change(good(), &o)
		p, err := o.exact(t.Context(), scored)
		if err == nil {
			t.Errorf("%s: no error, plan %+v", name, p)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q does not contain %q", name, err, want)
			}
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := inputs{Budget: 9, Module: "lora", ModuleParams: loraParams}
	if _, err := o.exact(ctx, good()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	if _, err := o.release(t.Context(), good()); err == nil || !strings.Contains(err.Error(), "lower the scale") {
		t.Errorf("release with too large a scale: error %v", err)
	}
	o.Scale = -1
	if _, err := o.release(t.Context(), good()); err == nil || !strings.Contains(err.Error(), "scale is -1") {
		t.Errorf("release with a negative scale: error %v", err)
	}
}

// TestExactZero checks that scores of zero are never taken, whatever their sign. They count neither
// as entries nor towards a threshold.
func TestExactZero(t *testing.T) {
	scored := []sensitivity.Tensor{
		{Name: "w", Shape: []int{2, 2}, Scores: []float32{0, float32(math.Copysign(0, -1)), 0, 1}},
		// needs two scores
		{Name: "b", Shape: []int{10}, Scores: []float32{0, 2, 0, 0, 0, 0, 0, 0, 0, 0}},
	}
	p, err := inputs{Budget: 14, Module: "lora", ModuleParams: loraParams, Alpha: 2}.exact(t.Context(), scored)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string][]int32{"w": {3}, "b": {1}}; !reflect.DeepEqual(p.Entries, want) || p.Cost.Total != 2 || p.Tau != 2 {
		t.Errorf("entries %v, cost %d, tau %d, expected %v, 2 and 2", p.Entries, p.Cost.Total, p.Tau, want)
	}
}

// TestExactExample checks the example in docs/method.md: the module of B does not fit.
func TestExactExample(t *testing.T) {
	scored := []sensitivity.Tensor{
		{Name: "A", Shape: []int{20, 20}, Scores: make([]float32, 400)},
		{Name: "B", Shape: []int{20, 20}, Scores: make([]float32, 400)},
		{Name: "v", Shape: []int{10}, Scores: make([]float32, 10)},
	}
	for i := range scored[1].Scores {
		scored[1].Scores[i] = 1
	}
	for i, tensor := range []int{0, 0, 2, 1, 0, 0, 2, 1, 1, 1} {
		scored[tensor].Scores[i] = float32(20 - i)
	}
	p, err := inputs{Budget: 90, Module: "lora", ModuleParams: loraParams, Rank: 1, ClassToken: 10}.exact(t.Context(), scored)
	if err != nil {
		t.Fatal(err)
	}
	want := Cost{Structured: 40, Vectors: 10, Unstructured: 30, ClassToken: 10, Total: 90}
	if p.Cost != want || !slices.Equal(p.Matrices, []string{"A"}) || len(p.Entries["B"]) != 30 || p.Tau != 36 {
		t.Errorf("cost %+v, modules on %v, %d entries of B, tau %d", p.Cost, p.Matrices, len(p.Entries["B"]), p.Tau)
	}
}

// TestExactFreed checks that a tensor that cannot convert takes entries for parameters that a later
// conversion frees.
func TestExactFreed(t *testing.T) {
	scored := []sensitivity.Tensor{
		// converts at ⌈24/0.7⌉ = 35
		{Name: "w", Shape: []int{12, 12}, Scores: make([]float32, 144)},
		{Name: "b", Shape: []int{20}, Scores: make([]float32, 20)}, // converts at 4
	}
	for i := range scored[0].Scores[:35] {
		scored[0].Scores[i] = 3
	}
	scored[0].Scores[34] = 2
	for i := range scored[1].Scores {
		scored[1].Scores[i] = 1
	}
	for i := range scored[1].Scores[:5] {
		scored[1].Scores[i] = 3
	}
	// 34 entries of w and 3 of b cost 37. The whole b would cost 54, so b is capped and has 5
	// entries before w converts. Then the cost is 24 + 5, and 11 more entries of b fit.
	p, err := inputs{Budget: 40, Module: "lora", ModuleParams: loraParams, Rank: 1, Alpha: 0.7}.exact(t.Context(), scored)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Matrices) != 1 || len(p.Entries["b"]) != 16 || p.Cost.Total != 40 || p.Tau != 51 {
		t.Errorf("%d matrices, %d entries of b, cost %d, tau %d, expected 1, 16, 40 and 51", len(p.Matrices), len(p.Entries["b"]), p.Cost.Total, p.Tau)
	}
}

// vitBase returns the 85.1 million scores of the blocks and the final norm of a ViT-B/16.
var vitBase = sync.OnceValue(func() []sensitivity.Tensor { return vit(12, 768) })

func BenchmarkExactViTBase(b *testing.B) {
	scored := vitBase()
	for module, params := range moduleParams {
		b.Run(module, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := (inputs{Budget: 400_000, Module: module, ModuleParams: params, ClassToken: 768}).exact(b.Context(), scored); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReleaseViTBase(b *testing.B) {
	scored := vitBase()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (inputs{Module: "lora", ModuleParams: loraParams, ClassToken: 768}).release(b.Context(), scored); err != nil {
			b.Fatal(err)
		}
	}
}
