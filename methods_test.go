package spt_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
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

// someMethods returns all methods, but of the families with a structured module all methods only
// for LoRA and stretch, and spt-NAME for the other modules. The families treat all modules alike.
func someMethods(t *testing.T) []method.Method {
	return slices.DeleteFunc(method.Methods(), func(m method.Method) bool {
		row := lookup(t, m)
		family := strings.Contains(row.Name, "NAME") && row.Module != ""
		return family && row.Module != "lora" && row.Module != "stretch" && m != method.SPT(row.Module)
	})
}

// TestSizes checks that Effective fills in default sizes, and refuses sizes that the method does
// not read.
func TestSizes(t *testing.T) {
	task := newTask(t, 9)
	o := options("vpt-deep")
	effective, err := task.Effective(o)
	if err != nil || effective.Prompts != 50 {
		t.Errorf("%+v, %v", effective.Options, err)
	}
	o.Prompts = 2
	if effective, err = task.Effective(o); err != nil || effective.Prompts != 2 {
		t.Errorf("%+v, %v", effective.Options, err)
	}
	for want, change := range map[string]func(*run.TuneOptions){
		"takes no prompts":    func(o *run.TuneOptions) { o.Method = method.LoRA },
		"takes no bottleneck": func(o *run.TuneOptions) { o.Prompts, o.Bottleneck = 0, 3 },
		"-1 tokens":           func(o *run.TuneOptions) { o.Prompts = -1 },
		"last 3 blocks":       func(o *run.TuneOptions) { o.Prompts, o.Method = 0, "partial-3" },
		"takes no scale":      func(o *run.TuneOptions) { o.Prompts, o.Scale = 0, 2 },
	} {
		bad := o
		change(&bad)
		if _, err := task.Effective(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}

// TestEverythingTunedMoves checks that a training by any method changes each tuned tensor and does
// not change the weights of the backbone.
func TestEverythingTunedMoves(t *testing.T) {
	for _, m := range method.Methods() {
		row := lookup(t, m)
		if row.Scores {
			continue
		}
		task := newTask(t, 0)
		before := task.Model().Fingerprint()
		s, err := row.Select(config, options(m).Options)
		if err != nil {
			t.Fatal(err)
		}
		trained, err := task.Train(t.Context(), s, spt.TrainOptions{Options: options(m).Train})
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		start := trained.Tuning.Init(options(m).Train.Seed, peft.PaperScheme, task.Model().Weights)
		for _, p := range trained.Tuning.Params {
			if reflect.DeepEqual(trained.Tuned[p.Name].Data, start[p.Name].Data) {
				t.Errorf("%s: training did not change %s", m, p.Name)
			}
		}
		if got := slices.Collect(maps.Keys(trained.Tuned)); len(got) != len(trained.Tuning.Params) {
			t.Errorf("%s: the result holds %d tensors, expected the %d tuned tensors", m, len(got), len(trained.Tuning.Params))
		}
		if task.Model().Fingerprint() != before {
			t.Errorf("%s: training changed the weights of the backbone", m)
		}
	}
}

// TestCriteria checks that every criterion leads to a plan within the budget, and that criteria
// without images read no images.
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
		methods, rule := []method.Method{method.SPTLoRA, "spt-lora-structured", "spt-unstructured"}, ""
		if c.Signed() { // only one rule reads signs, and it needs modules
			methods, rule = methods[:2], plan.Gain
		}
		for _, m := range methods {
			p, err := spt.Plan(t.Context(), config, scores, plan.MustParseBudget("500"), plan.Options{Module: lookup(t, m).Module, Only: lookup(t, m).Only, Rule: rule, Rank: 1})
			if err != nil {
				t.Fatalf("%s, %s: %v", c, m, err)
			}
			if p.Cost.Total > 500 || p.Cost.Total < 16 || method.Of(p) != m {
				t.Errorf("%s, %s: cost %+v", c, m, p.Cost)
			}
		}
	}
	if _, err := task.Score(t.Context(), sensitivity.Options{Criterion: "luck"}, nil); err == nil || !strings.Contains(err.Error(), `criterion "luck" is unknown; known: gradient, per-sample`) {
		t.Errorf("unknown criterion: %v", err)
	}
}

// TestOptionsActOrAreRefused changes one training option at a time. Exactly the methods that take
// the option give another result, so that no method accepts an option that does nothing.
func TestOptionsActOrAreRefused(t *testing.T) {
	task := newTask(t, 0)
	scores, err := task.Score(t.Context(), sensitivity.Options{Criterion: sensitivity.Random}, nil)
	if err != nil {
		t.Fatal(err)
	}
	base := train.Options{Epochs: 2, BatchSize: 12, LR: 1e-2, WeightDecay: 1e-2, WarmupEpochs: 1, WarmupLR: 1e-3, MinLR: 1e-3,
		DropPath: 0.4, Dropout: 0.4, ModuleDropPath: 0.4, Seed: 3}
	changes := map[string]func(*train.Options){
		"epochs":               func(o *train.Options) { o.Epochs = 3 },
		"batch-size":           func(o *train.Options) { o.BatchSize = 9 },
		"learning-rate":        func(o *train.Options) { o.LR = 2e-2 },
		"head-learning-rate":   func(o *train.Options) { o.HeadLR = 2e-2 },
		"weight-decay":         func(o *train.Options) { o.WeightDecay = 0 },
		"warmup-epochs":        func(o *train.Options) { o.WarmupEpochs = 0 },
		"warmup-learning-rate": func(o *train.Options) { o.WarmupLR = 1e-4 },
		"min-learning-rate":    func(o *train.Options) { o.MinLR = 0 },
		"drop-path":            func(o *train.Options) { o.DropPath = 0 },
		"dropout":              func(o *train.Options) { o.Dropout = 0 },
		"module-drop-path":     func(o *train.Options) { o.ModuleDropPath = 0 },
		"init":                 func(o *train.Options) { o.Init = peft.ReleaseScheme },
		"seed":                 func(o *train.Options) { o.Seed = 4 },
	}
	for _, m := range someMethods(t) {
		row := lookup(t, m)
		var s peft.Selection
		if row.Scores {
			p, err := spt.Plan(t.Context(), config, scores, plan.MustParseBudget("12%"), plan.Options{Module: row.Module, Only: row.Only, Rank: 1})
			if err != nil {
				t.Fatal(err)
			}
			if row.Module != "" && len(p.Matrices) < 3 {
				t.Fatalf("%s: the plan has modules on %v only; give a larger budget", m, p.Matrices)
			}
			s = spt.Select(config, p)
		} else if s, err = row.Select(config, options(m).Options); err != nil {
			t.Fatal(err)
		}
		result := func(o train.Options) checkpoint.StateDict {
			trained, err := task.Train(t.Context(), s, spt.TrainOptions{Options: o})
			if err != nil {
				t.Fatalf("%s: %v", m, err)
			}
			return trained.Tuned
		}
		before := result(base)
		for name, change := range changes {
			o := base
			change(&o)
			// The rate of a head alone is the learning rate, so linear and mlp-K take no second
			// one.
			if name == "head-learning-rate" && !row.Takes(name) {
				continue
			}
			if acts := !reflect.DeepEqual(result(o), before); acts != row.Takes(name) {
				t.Errorf("%s takes the option %s: %t, but the option changes the result: %t", m, name, row.Takes(name), acts)
			}
		}
	}
	// Options that are not set by default are refused by the library too.
	for want, change := range map[string]func(*run.TuneOptions){
		"ssf takes no init":                      func(o *run.TuneOptions) { o.Method, o.Train.Init = "ssf", peft.ReleaseScheme },
		"stretch takes no init":                  func(o *run.TuneOptions) { o.Method, o.Train.Init = "stretch", peft.ReleaseScheme },
		"linear takes no head learning rate":     func(o *run.TuneOptions) { o.Method, o.Train.HeadLR = "linear", 1e-2 },
		"lora takes no compat":                   func(o *run.TuneOptions) { o.Method, o.Train.Compat = "lora", train.CompatRelease },
		"several learning rates need validation": func(o *run.TuneOptions) { o.LRs = []float64{1e-3, 1e-2}; o.NoValidation = true },
		"learning rate 20: expected above 0":     func(o *run.TuneOptions) { o.LRs = []float64{1e-3, 20} },
		`"paper" contradict compat mode "release"`: func(o *run.TuneOptions) {
			o.Method, o.Train.Init, o.Plan.Compat = "spt-lora", "paper", "release"
			o.Budgets = nil
		},
	} {
		o := run.TuneOptions{Method: method.LoRA, Train: base}
		change(&o)
		if _, err := task.Effective(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}
