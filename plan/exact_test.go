package plan

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
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

// naivePlan applies the rule of the package comment directly to the first tau scores of all.
func naivePlan(scored []sensitivity.Tensor, all []ranked, tau int, o inputs, compat string) *Plan {
	taken := make([][]int32, len(scored))
	for _, r := range all[:tau] {
		taken[r.tensor] = append(taken[r.tensor], int32(r.index))
	}
	p := &Plan{
		Compat: compat, Only: o.Only, Module: o.Module, Rank: o.Rank, Alpha: o.Alpha, Beta: o.Beta,
		Budget: o.Budget, Tau: tau,
		Matrices: []string{}, Vectors: []string{}, Entries: map[string][]int32{},
	}
	if compat != "" {
		p.CountedOnly = map[string][]int32{}
	}
	if o.Only == Unstructured {
		p.Module, p.Rank = "", 0
	}
	total := o.ClassToken
	for i, s := range scored {
		c := len(taken[i])
		if c == 0 {
			continue
		}
		if len(s.Shape) == 1 {
			if float64(c) >= float64(len(s.Scores))/o.Beta {
				p.Vectors = append(p.Vectors, s.Name)
				p.Cost.Vectors += len(s.Scores)
				total += len(s.Scores)
				continue
			}
		} else if o.Only != Unstructured {
			params := o.ModuleParams(len(s.Scores)/s.Shape[0], s.Shape[0], o.Rank)
			if float64(c) >= float64(params)/o.Alpha {
				p.Matrices = append(p.Matrices, s.Name)
				p.Cost.Structured += params
				total += params
				continue
			}
		}
		if o.Only == Structured {
			continue
		}
		slices.Sort(taken[i])
		total += c
		if s.Norm && compat != "" {
			p.CountedOnly[s.Name] = taken[i]
			p.Cost.CountedOnly += c
		} else {
			p.Entries[s.Name] = taken[i]
			p.Cost.Unstructured += c
		}
	}
	p.Cost.ClassToken = o.ClassToken
	p.Cost.Total = total
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

// TestExactAgainstEveryTau compares exact with an oracle that makes the plan of every τ.
func TestExactAgainstEveryTau(t *testing.T) {
	falls, below, ties := 0, 0, 0
	for seed := range uint64(800) {
		r := rand.New(rand.NewPCG(seed, 1))
		scored, o := randomScored(r), randomOptions(r)
		o.Only = []string{"", Unstructured, Structured}[seed%3]
		all := rankAll(scored)
		o.Budget = 1 + o.ClassToken + r.IntN(1+len(all))

		var want *Plan
		before := 0
		for tau := range len(all) + 1 {
			p := naivePlan(scored, all, tau, o, "")
			if p.Cost.Total < before {
				falls++
			}
			before = p.Cost.Total
			if p.Cost.Total > o.Budget {
				continue
			}
			if want == nil || p.Cost.Total >= want.Cost.Total {
				if want != nil && p.Cost.Total == want.Cost.Total && !reflect.DeepEqual(p.Entries, want.Entries) {
					ties++
				}
				want = p
			}
		}
		if want.Cost.Total < o.Budget {
			below++
		}

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
	}
	// The random cases must include the hard cases of the search.
	if falls == 0 || below == 0 || ties == 0 {
		t.Errorf("%d falls of cost(τ), %d plans below the budget, %d distinct plans of equal cost: expected some of each", falls, below, ties)
	}
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
				p := naivePlan(scored, all, tau, o, CompatRelease)
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

// TestExactViTTiny checks exact at the size of a ViT-Ti/16: none of the 5.3 million values of τ
// gives a greater cost within the budget. One loop over the sorted scores serves all budgets.
func TestExactViTTiny(t *testing.T) {
	const dim, backbone = 192, 5_524_416
	scored := vit(12, dim)
	all := rankAll(scored)
	var budgets []int
	for _, s := range []string{"0.02M", "0.05M", "0.1M", "0.2M", "0.4M", "0.6M", "1.5M", "0.1%", "0.5%", "1%", "5%"} {
		b, err := resolved(s, backbone)
		if err != nil {
			t.Fatal(err)
		}
		budgets = append(budgets, b)
	}
	for module, params := range moduleParams {
		best, bestTau := make([]int, len(budgets)), make([]int, len(budgets))
		taken := make([]int, len(scored))
		cost, greatest := dim, 0
		for tau := 0; ; tau++ {
			for i, budget := range budgets {
				if cost <= budget && cost >= best[i] {
					best[i], bestTau[i] = cost, tau
				}
			}
			greatest = max(greatest, cost)
			if tau == len(all) {
				break
			}
			i := all[tau].tensor
			s := scored[i]
			price := func(c int) int {
				if len(s.Shape) == 1 {
					if c*5 >= len(s.Scores) {
						return len(s.Scores)
					}
				} else if p := params(s.Shape[1], s.Shape[0], 8); c*10 >= p {
					return p
				}
				return c
			}
			cost += price(taken[i]+1) - price(taken[i])
			taken[i]++
		}
		for i, budget := range budgets {
			p, err := inputs{Budget: budget, Module: module, ModuleParams: params, Rank: 8, ClassToken: dim}.exact(t.Context(), scored)
			if err != nil {
				t.Fatal(err)
			}
			if p.Cost.Total != best[i] || p.Tau != bestTau[i] {
				t.Errorf("%s, budget %d: cost %d at tau %d, the best is %d at %d", module, budget, p.Cost.Total, p.Tau, best[i], bestTau[i])
			}
			if err := p.Validate(scored, params); err != nil {
				t.Error(err)
			}
			t.Logf("%-7s budget %7d (everything costs %d): cost %7d, short by %3d, tau %7d, entries %6d", module, budget, greatest, p.Cost.Total, budget-p.Cost.Total, p.Tau, p.Cost.Unstructured)
		}
	}
}

// TestExactGolden checks exact on the sensitivities of the reference implementation.
func TestExactGolden(t *testing.T) {
	folder := goldenFolder(t)
	meta := readMeta(t, folder)
	scored := readSensitivity(t, folder, meta.Depth)
	all := rankAll(scored)
	for module := range meta.Plans {
		o := releaseOptions(meta, module)
		plans, err := releaseOptions(meta, module).release(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		for _, release := range plans {
			// The budget is the cost of the plan of Release. Then exact must return a plan of the
			// same cost with the same tensors.
			o.Budget = release.Cost.Total
			p, err := o.exact(t.Context(), scored)
			if err != nil {
				t.Fatal(err)
			}
			if p.Cost.Total != release.Cost.Total || !slices.Equal(p.Matrices, release.Matrices) || !slices.Equal(p.Vectors, release.Vectors) {
				t.Errorf("%s, budget %d: cost %d, %d matrices, %d vectors; the release has %d and %d", module, o.Budget, p.Cost.Total, len(p.Matrices), len(p.Vectors), len(release.Matrices), len(release.Vectors))
			}
			if want := naivePlan(scored, all, p.Tau, o, ""); !reflect.DeepEqual(p, want) {
				t.Errorf("%s, budget %d: the plan differs from the plan of its tau %d", module, o.Budget, p.Tau)
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

// TestExactNegativeZero checks that negative zero counts as zero: zeros are taken in the order of
// their positions, whatever their sign.
func TestExactNegativeZero(t *testing.T) {
	scored := []sensitivity.Tensor{{Name: "w", Shape: []int{2, 2}, Scores: []float32{0, float32(math.Copysign(0, -1)), 0, 1}}}
	p, err := inputs{Budget: 3, Module: "lora", ModuleParams: loraParams, Alpha: 1}.exact(t.Context(), scored)
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{0, 1, 3}; !slices.Equal(p.Entries["w"], want) {
		t.Errorf("entries %v, expected %v", p.Entries["w"], want)
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
