package spt_test

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// stretch is a structured module of a user's own: y·(1+γ). It is a method, and
// serves SPT, in every test here that goes over the methods.
var stretch = peft.Module{
	Name:  "stretch",
	Count: func(in, out, rank int) int { return out },
	Graph: func(s *peft.Site, x, y *Node) *Node {
		return Mul(y, OnePlus(ExpandLeftToRank(s.Param("gamma", peft.Zero, s.Out), y.Rank())))
	},
}

func init() {
	if err := peft.Register(stretch); err != nil {
		panic(err)
	}
}

// vitB is ViT-B/16 with a head for that many classes.
func vitB(classes int) backbone.Config {
	return backbone.Config{ImageSize: 224, NumClasses: classes, NumHeads: 12, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 768, Depth: 12, HiddenDim: 3072}}
}

// counted is how many parameters a method tunes on ViT-B/16, and of its head.
func counted(t *testing.T, m method.Method, classes int, o method.BaselineOptions) (tuned, head int) {
	t.Helper()
	c := vitB(classes)
	s, err := method.Baseline(c, m, o)
	if err != nil {
		t.Fatal(err)
	}
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return tuning.Counts.Tuned(), tuning.Counts.Head
}

// TestPublishedCounts: parameters tuned on ViT-B/16 with a head of 100 classes, in
// millions as the papers print them.
func TestPublishedCounts(t *testing.T) {
	rounded := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	cut := func(v float64) string { return fmt.Sprintf("%.2f", math.Floor(v*100)/100) }
	for _, c := range []struct {
		method method.Method
		sizes  method.Sizes
		want   string
		print  func(float64) string
	}{
		// Lian et al. 2022 (arXiv 2210.08823), table 3, CIFAR-100.
		{method.Full, method.Sizes{}, "85.88", rounded},
		{method.Linear, method.Sizes{}, "0.08", rounded},
		{method.BitFit, method.Sizes{}, "0.18", rounded},
		{method.VPTShallow, method.Sizes{}, "0.15", rounded},
		{method.VPTDeep, method.Sizes{}, "0.54", rounded},
		{method.SSF, method.Sizes{}, "0.28", rounded},
		// Chen et al. 2022 (arXiv 2205.13535), tables 1 and 2, CIFAR-100, where
		// digits are cut off: a linear probe has 0.07.
		{method.Linear, method.Sizes{}, "0.07", cut},
		{method.VPTDeep, method.Sizes{Prompts: 1}, "0.08", cut},
		{method.AdaptFormer, method.Sizes{Bottleneck: 1}, "0.10", cut},
		{method.AdaptFormer, method.Sizes{Bottleneck: 4}, "0.15", cut},
		{method.AdaptFormer, method.Sizes{}, "1.26", cut},
	} {
		tuned, head := counted(t, c.method, 100, method.BaselineOptions{Sizes: c.sizes})
		if got := c.print(float64(tuned+head) / 1e6); got != c.want {
			t.Errorf("%s %+v: %s million parameters, published %s", c.method, c.sizes, got, c.want)
		}
	}

	// Zhang et al. 2022 (NOAH, arXiv 2206.04673), without a head: LoRA of rank 8 on
	// q and v, an Adapter of width 8 in each block, BitFit.
	base := vitB(100)
	lora := peft.Selection{Module: "lora", Rank: 8}
	for i := range base.Blocks() {
		lora.Structured = append(lora.Structured, fmt.Sprintf("blocks.%d.attn.q.weight", i), fmt.Sprintf("blocks.%d.attn.v.weight", i))
	}
	tuning, err := peft.New(base, lora)
	if err != nil {
		t.Fatal(err)
	}
	if n := tuning.Counts.Structured; n != 294_912 { // 0.29 M
		t.Errorf("LoRA on q and v: %d", n)
	}
	adapter, err := peft.Lookup("adapter")
	if err != nil {
		t.Fatal(err)
	}
	if n := base.Blocks() * adapter.Count(768, 768, 8); n != 156_768 { // 0.16 M
		t.Errorf("an Adapter in each block: %d", n)
	}
	if n, _ := counted(t, method.BitFit, 100, method.BaselineOptions{}); n != 102_912 { // 0.10 M
		t.Errorf("BitFit: %d", n)
	}
}

// TestPublishedTotals: Jia et al. 2022 (VPT, arXiv 2203.12119), table 1: how many
// backbones it takes to keep what was tuned on five FGVC and nineteen VTAB tasks.
func TestPublishedTotals(t *testing.T) {
	classes := []int{200, 555, 102, 120, 196, 102, 100, 47, 102, 37, 2, 397, 10, 45, 10, 6, 4, 18, 9, 16, 16, 6, 8, 5}
	base := vitB(1)
	for chosen, want := range map[method.Method]string{method.Linear: "1.02", method.Partial1: "3.00", method.MLP3: "1.35", method.BitFit: "1.05", method.Full: "24.02"} {
		total := base.Size()
		if chosen == method.Full {
			total = 0 // each task has its own backbone
		}
		for _, n := range classes {
			tuned, head := counted(t, chosen, n, method.BaselineOptions{})
			total += tuned + head
		}
		if got := fmt.Sprintf("%.2f", float64(total)/float64(base.Size())); got != want {
			t.Errorf("%s: %s backbones, published %s", chosen, got, want)
		}
	}
}

// TestMethodNames: what each name says.
func TestMethodNames(t *testing.T) {
	for _, m := range method.Methods() {
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
	}
	for m, want := range map[method.Method][2]string{
		"lora": {"lora", ""}, "spt-adapter": {"adapter", ""}, "spt-lora-structured": {"lora", plan.Structured}, "spt-unstructured": {"", plan.Unstructured},
		"stretch": {"stretch", ""}, "spt-stretch": {"stretch", ""}, "spt-stretch-structured": {"stretch", plan.Structured},
		"ssf": {"", ""}, "partial-12": {"", ""}, "mlp-2": {"", ""},
	} {
		if err := m.Validate(); err != nil || m.Module() != want[0] || m.Only() != want[1] {
			t.Errorf("%s: module %q, only %q, %v", m, m.Module(), m.Only(), err)
		}
		if m.Scores() {
			if got := method.PlanMethod(&plan.Plan{Module: m.Module(), Only: m.Only()}); got != m {
				t.Errorf("the plan of %s is one of %s", m, got)
			}
		}
	}
	for _, m := range []method.Method{"", "spt-", "spt", "partial-0", "partial-", "partial-+1", "partial-01", "mlp-1", "mlp-x", "spt-ssf", "lora-structured", "spt-unstructured-structured", "structured"} {
		if m.Validate() == nil {
			t.Errorf("method %q passes", m)
		}
	}
}

// TestRecipes: recipes are valid, and SPT's is the paper's.
func TestRecipes(t *testing.T) {
	for _, m := range method.Methods() {
		r := method.Recipe(m)
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		if m.Scores() && r != train.VTAB() {
			t.Errorf("%s: %+v", m, r)
		}
	}
	if r := method.Recipe("partial-4"); r.LR != method.Recipe(method.Full).LR || r.LR == train.VTAB().LR {
		t.Errorf("partial-4: learning rate %g", r.LR)
	}
}

// TestSizes: sizes that are not a method's are refused; defaults are recorded.
func TestSizes(t *testing.T) {
	task := newTask(t, 9)
	o := options(method.VPTDeep)
	effective, err := task.Effective(o)
	if err != nil || effective.Prompts != 50 {
		t.Errorf("%+v, %v", effective.Sizes, err)
	}
	o.Prompts = 2
	if effective, err = task.Effective(o); err != nil || effective.Prompts != 2 {
		t.Errorf("%+v, %v", effective.Sizes, err)
	}
	for want, change := range map[string]func(*run.TuneOptions){
		"has no prompts":    func(o *run.TuneOptions) { o.Method = method.LoRA },
		"has no bottleneck": func(o *run.TuneOptions) { o.Prompts, o.Bottleneck = 0, 3 },
		"-1 tokens":         func(o *run.TuneOptions) { o.Prompts = -1 },
		"last 3 blocks":     func(o *run.TuneOptions) { o.Prompts, o.Method = 0, "partial-3" },
		"no bottleneck":     func(o *run.TuneOptions) { o.Prompts, o.Scale = 0, 2 },
	} {
		bad := o
		change(&bad)
		if _, err := task.Effective(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}

// TestEverythingTunedMoves: after a training, each tuned tensor of each method
// has moved, and the backbone's weights have not.
func TestEverythingTunedMoves(t *testing.T) {
	for _, m := range method.Methods() {
		if m.Scores() {
			continue
		}
		task := newTask(t, 0)
		before := task.Model().Fingerprint()
		s, err := method.Baseline(config, m, method.BaselineOptions{Rank: 1})
		if err != nil {
			t.Fatal(err)
		}
		trained, err := task.Train(t.Context(), s, spt.TrainOptions{Options: options(m).Train})
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		start := trained.Tuning.Init(options(m).Train.Seed, task.Model().Weights)
		for _, p := range trained.Tuning.Params {
			if reflect.DeepEqual(trained.Tuned[p.Name].Data, start[p.Name].Data) {
				t.Errorf("%s: %s has not moved", m, p.Name)
			}
		}
		if got := slices.Collect(maps.Keys(trained.Tuned)); len(got) != len(trained.Tuning.Params) {
			t.Errorf("%s: %d tensors come back, %d are tuned", m, len(got), len(trained.Tuning.Params))
		}
		if task.Model().Fingerprint() != before {
			t.Errorf("%s: the backbone's weights changed", m)
		}
	}
}

// TestCriteria: every criterion leads to a plan within the budget, and those
// without images look at none.
func TestCriteria(t *testing.T) {
	task := newTask(t, 0)
	for _, c := range sensitivity.Criteria() {
		images := 0
		scores, err := task.Score(t.Context(), sensitivity.Options{Batches: 2, BatchSize: 6, Criterion: c}, func(e progress.Event) { images = int(e.Done) })
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		if scores.Criterion != c || (images == 12) != c.Images() || scores.Images != images || scores.ClassToken != 16 {
			t.Errorf("%s: criterion %q, %d images, class token %d", c, scores.Criterion, images, scores.ClassToken)
		}
		for _, m := range []method.Method{method.SPTLoRA, method.SPTUnstructured, method.SPTLoRAStructured} {
			p, err := spt.Plan(t.Context(), config, scores, "500", run.PlanOptions{Module: m.Module(), Only: m.Only(), Rank: 1})
			if err != nil {
				t.Fatalf("%s, %s: %v", c, m, err)
			}
			if p.Cost.Total > 500 || p.Cost.Total < 16 || method.PlanMethod(p) != m {
				t.Errorf("%s, %s: cost %+v", c, m, p.Cost)
			}
		}
	}
	if _, err := task.Score(t.Context(), sensitivity.Options{Criterion: "luck"}, nil); err == nil || !strings.Contains(err.Error(), `criterion "luck" is unknown; known: gradient, per-sample`) {
		t.Errorf("unknown criterion: %v", err)
	}
}
