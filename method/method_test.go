package method_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// stretch is a structured module that a user could write: y·(1+γ). The tests that loop over all
// methods include the methods stretch, spt-stretch and spt-stretch-structured.
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

// vitB returns the configuration of ViT-B/16 with a head for classes classes.
func vitB(classes int) backbone.Config {
	return backbone.Config{ImageSize: 224, NumClasses: classes, NumHeads: 12, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 768, Depth: 12, HiddenDim: 3072}}
}

// counted returns the number of parameters that a method tunes on ViT-B/16 without the head, and
// the number of parameters of the head.
func counted(t *testing.T, m method.Method, classes int, o method.Options) (tuned, head int) {
	t.Helper()
	c := vitB(classes)
	row, err := method.Lookup(m)
	if err != nil {
		t.Fatal(err)
	}
	s, err := row.Select(c, o)
	if err != nil {
		t.Fatal(err)
	}
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return tuning.Counts.Tuned(), tuning.Counts.Head
}

// TestPublishedCounts compares the numbers of tuned parameters with those that papers print, in
// millions, for ViT-B/16 with a head of 100 classes.
func TestPublishedCounts(t *testing.T) {
	rounded := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	cut := func(v float64) string { return fmt.Sprintf("%.2f", math.Floor(v*100)/100) }
	for _, c := range []struct {
		method  method.Method
		options method.Options
		want    string
		print   func(float64) string
	}{
		// Lian et al. 2022 (arXiv 2210.08823), table 3, CIFAR-100.
		{method.Full, method.Options{}, "85.88", rounded},
		{method.Linear, method.Options{}, "0.08", rounded},
		{"bitfit", method.Options{}, "0.18", rounded},
		{"vpt-shallow", method.Options{}, "0.15", rounded},
		{"vpt-deep", method.Options{}, "0.54", rounded},
		{"ssf", method.Options{}, "0.28", rounded},
		// Chen et al. 2022 (arXiv 2205.13535), tables 1 and 2, CIFAR-100. These tables cut digits
		// off instead of rounding: 0.07 for linear.
		{method.Linear, method.Options{}, "0.07", cut},
		{"vpt-deep", method.Options{Prompts: 1}, "0.08", cut},
		{"adaptformer", method.Options{Bottleneck: 1}, "0.10", cut},
		{"adaptformer", method.Options{Bottleneck: 4}, "0.15", cut},
		{"adaptformer", method.Options{}, "1.26", cut},
	} {
		tuned, head := counted(t, c.method, 100, c.options)
		if got := c.print(float64(tuned+head) / 1e6); got != c.want {
			t.Errorf("%s %+v: %s million parameters, published %s", c.method, c.options, got, c.want)
		}
	}

	// Zhang et al. 2022 (NOAH, arXiv 2206.04673), without a head: LoRA of rank 8 on q and v, an
	// Adapter of width 8 in each block, BitFit.
	base := vitB(100)
	// 0.29 M
	if n, _ := counted(t, method.LoRA, 100, method.Options{Rank: 8, TargetModules: []string{"q", "attn.v"}}); n != 294_912 {
		t.Errorf("LoRA on q and v: %d", n)
	}
	adapter, err := peft.Lookup("adapter")
	if err != nil {
		t.Fatal(err)
	}
	if n := base.Blocks() * adapter.Count(768, 768, 8); n != 156_768 { // 0.16 M
		t.Errorf("an Adapter in each block: %d", n)
	}
	if n, _ := counted(t, "bitfit", 100, method.Options{}); n != 102_912 { // 0.10 M
		t.Errorf("BitFit: %d", n)
	}

	// The formulas of the papers: two bypasses of eight channels in each block for Convpass; U, V
	// and S of FacT-TT at rank 16; biases, norms and the factors of two branches of DiffFit.
	for m, want := range map[method.Method]int{"convpass": 12 * 2 * ((768*8 + 8) + (9*8*8 + 8) + (8*768 + 768)), "fact-tt": 2*16*768 + 12*12*16*16, "difffit": 102_912 + 25*768 + 12*2*768} {
		if n, _ := counted(t, m, 100, method.Options{}); n != want {
			t.Errorf("%s: %d, expected %d", m, n, want)
		}
	}

	// Steitz and Roth 2024, Adapter+ of width 8 on VTAB-1k: 0.20 million with a head of the mean
	// size of the 19 tasks, which have 940 classes together.
	tuned, _ := counted(t, "adapter-plus", 1, method.Options{})
	if got := rounded((float64(tuned) + 769*940./19) / 1e6); got != "0.20" {
		t.Errorf("Adapter+: %s million parameters", got)
	}
}

// TestPublishedTotals compares with table 1 of Jia et al. 2022 (VPT, arXiv 2203.12119): the
// parameters stored for five FGVC and nineteen VTAB tasks together, in multiples of the backbone.
func TestPublishedTotals(t *testing.T) {
	classes := []int{200, 555, 102, 120, 196, 102, 100, 47, 102, 37, 2, 397, 10, 45, 10, 6, 4, 18, 9, 16, 16, 6, 8, 5}
	base := vitB(1)
	for chosen, want := range map[method.Method]string{method.Linear: "1.02", "partial-1": "3.00", "mlp-3": "1.35", "bitfit": "1.05", method.Full: "24.02"} {
		total := base.Size()
		if chosen == method.Full {
			total = 0 // each task has its own backbone
		}
		for _, n := range classes {
			tuned, head := counted(t, chosen, n, method.Options{})
			total += tuned + head
		}
		if got := fmt.Sprintf("%.2f", float64(total)/float64(base.Size())); got != want {
			t.Errorf("%s: %s backbones, published %s", chosen, got, want)
		}
	}
}

// TestMethodNames checks the module and the kind of tuning that Lookup reads from names.
func TestMethodNames(t *testing.T) {
	for _, m := range method.Methods() {
		if row, err := method.Lookup(m); err != nil || row.Method != m {
			t.Errorf("%s: %+v, %v", m, row, err)
		}
	}
	for m, want := range map[method.Method][2]string{
		"lora": {"lora", ""}, "spt-adapter": {"adapter", ""}, "spt-lora-structured": {"lora", plan.Structured}, "spt-unstructured": {"", plan.Unstructured},
		"stretch": {"stretch", ""}, "spt-stretch": {"stretch", ""}, "spt-stretch-structured": {"stretch", plan.Structured},
		"adaptformer": {"", ""}, "spt-adaptformer": {"adaptformer", ""}, "adapter-plus": {"", ""}, "fact-tt": {"", ""}, "spt-adapter-plus-structured": {"adapter-plus", plan.Structured},
		"ssf": {"", ""}, "partial-12": {"", ""}, "mlp-2": {"", ""},
	} {
		row, err := method.Lookup(m)
		if err != nil || row.Module != want[0] || row.Only != want[1] {
			t.Errorf("%s: module %q, only %q, %v", m, row.Module, row.Only, err)
		}
		if row.Scores {
			if got := method.Of(&plan.Plan{Module: row.Module, Only: row.Only}); got != m {
				t.Errorf("the plan of method %s is taken for a plan of method %s", m, got)
			}
		}
	}
	for _, m := range []method.Method{"", "spt-", "spt", "partial-0", "partial-", "partial-+1", "partial-01", "mlp-1", "mlp-x", "spt-ssf", "lora-structured", "spt-unstructured-structured", "structured"} {
		if _, err := method.Lookup(m); err == nil {
			t.Errorf("method %q was accepted", m)
		}
	}
}

// TestRecipes checks that every recipe is valid, and that the recipe of SPT is the recipe of the
// paper.
func TestRecipes(t *testing.T) {
	for _, m := range method.Methods() {
		row, err := method.Lookup(m)
		if err != nil {
			t.Fatal(err)
		}
		r := row.TrainOptions()
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		if row.Scores && !reflect.DeepEqual(r, train.VTAB()) {
			t.Errorf("%s: %+v", m, r)
		}
	}
	full, err := method.Lookup(method.Full)
	if err != nil {
		t.Fatal(err)
	}
	partial, err := method.Lookup("partial-4")
	if err != nil {
		t.Fatal(err)
	}
	if r := partial.TrainOptions(); r.LR != full.TrainOptions().LR || r.LR == train.VTAB().LR {
		t.Errorf("partial-4: learning rate %g", r.LR)
	}
}

// TestRegisterRefuses checks that a module cannot be registered if two methods would have the same
// name.
func TestRegisterRefuses(t *testing.T) {
	for _, name := range []string{"lora", "full", "linear", "partial-3", "partial-x", "mlp-2", "ssf", "unstructured", "spt-x", "x-structured", "spt-unstructured"} {
		m := stretch
		m.Name = name
		if err := peft.Register(m); err == nil || !strings.Contains(err.Error(), "choose another name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOptions checks that every method accepts the options that it reads and no others.
func TestOptions(t *testing.T) {
	c := vitB(10)
	for _, m := range method.Methods() {
		row, err := method.Lookup(m)
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range map[string]method.Options{
			"rank": {Rank: 2}, "budget": {Budget: plan.MustParseBudget("0.6M")}, "prompts": {Prompts: 3}, "bottleneck": {Bottleneck: 3}, "scale": {Scale: 0.5}, "from-block": {FromBlock: 7},
		} {
			err := row.Check(o)
			if (err == nil) != row.Takes(name) || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("method %s takes no %s", m, strings.ReplaceAll(name, "-", " "))) {
				t.Errorf("%s with a %s: %v", m, name, err)
			}
			if row.Scores {
				continue
			}
			s, errSelect := row.Select(c, o)
			if (errSelect == nil) != (err == nil) {
				t.Errorf("%s with a %s: %v", m, name, errSelect)
			}
			if err == nil && s.Module != row.Module {
				t.Errorf("%s: module %q", m, s.Module)
			}
			if err == nil && name == "from-block" {
				onlyFrom(t, m, c, s, 7)
			}
		}
		if !row.Takes("lr") {
			t.Errorf("%s takes no learning rate", m)
		}
	}
	lora, err := method.Lookup(method.LoRA)
	if err != nil {
		t.Fatal(err)
	}
	if err := lora.Check(method.Options{Rank: 2, Budget: plan.MustParseBudget("1M")}); err == nil || !strings.Contains(err.Error(), "both set the size") {
		t.Errorf("rank and budget: %v", err)
	}
	if s, err := lora.Select(c, method.Options{}); err != nil || s.Rank != 8 {
		t.Errorf("rank %d, %v", s.Rank, err)
	}
	spt, err := method.Lookup(method.SPTLoRA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spt.Select(c, method.Options{}); err == nil || !strings.Contains(err.Error(), "through a plan") {
		t.Errorf("%v", err)
	}
}

// onlyFrom checks that a selection tunes nothing before a block, and that it tunes every later
// block.
func onlyFrom(t *testing.T, m method.Method, c backbone.Config, s peft.Selection, block int) {
	t.Helper()
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatalf("%s: %v", m, err)
	}
	blocks := map[string]bool{}
	for _, p := range tuning.Params {
		b := backbone.Block(p.Name)
		blocks[b] = true
		early := b != "" && !slices.ContainsFunc(c.ParamsFrom(block), func(q backbone.Param) bool { return backbone.Block(q.Name) == b })
		if early || strings.HasPrefix(p.Name, "patch_embed") || strings.HasSuffix(p.Name, "_token") || p.Name == "pos_embed" {
			t.Errorf("%s from block %d tunes %s", m, block, p.Name)
		}
		if p.Name == "deep_prompt_embeddings" {
			blocks[fmt.Sprint(p.Shape)] = true
		}
	}
	for b := block; b < c.Blocks(); b++ {
		if !blocks[fmt.Sprintf("blocks.%d", b)] && !blocks[fmt.Sprint([]int{c.Blocks() - block - 1, 50, 768})] {
			t.Errorf("%s from block %d does not tune block %d", m, block, b)
		}
	}
}

// TestCatalogue checks that every row has a name, a summary and methods that Lookup finds, and that
// Merges agrees with peft.Tuning.Mergeable.
func TestCatalogue(t *testing.T) {
	c := vitB(10)
	for _, r := range method.Catalogue() {
		if r.Name == "" || r.Summary == "" {
			t.Errorf("%+v", r)
		}
		found := false
		for _, m := range method.Methods() {
			row, err := method.Lookup(m)
			if err != nil {
				t.Errorf("%s: %v", m, err)
			}
			if row.Name != r.Name {
				continue
			}
			found = true
			if row.Scores {
				continue
			}
			s, err := row.Select(c, method.Options{})
			if err != nil {
				t.Fatal(err)
			}
			tuning, err := peft.New(c, s)
			if err != nil {
				t.Fatal(err)
			}
			if (tuning.Mergeable() == nil) != row.Merges() {
				t.Errorf("%s: merges %v, but %v", m, row.Merges(), tuning.Mergeable())
			}
		}
		if !found {
			t.Errorf("row %q has no method", r.Name)
		}
	}
	for m, want := range map[method.Method]bool{"spt-lora": true, "spt-adapter": false, "spt-unstructured": true} {
		if row, err := method.Lookup(m); err != nil || row.Merges() != want {
			t.Errorf("%s: merges %v, %v", m, row.Merges(), err)
		}
	}
}

// TestDocumentation checks that docs/method.md mentions every row of the catalogue and its paper.
func TestDocumentation(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "docs", "method.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	arXiv := regexp.MustCompile(`[0-9]{4}\.[0-9]{5}`)
	for _, r := range method.Catalogue() {
		if !strings.Contains(text, "`"+r.Name+"`") {
			t.Errorf("docs/method.md does not mention `%s`", r.Name)
		}
		for _, number := range arXiv.FindAllString(r.Paper, -1) {
			if !strings.Contains(text, number) {
				t.Errorf("docs/method.md does not mention arXiv %s, the paper of %s", number, r.Name)
			}
		}
	}
}
