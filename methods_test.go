package spt_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
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
		for _, m := range []method.Method{method.SPTLoRA, "spt-unstructured", "spt-lora-structured"} {
			p, err := spt.Plan(t.Context(), config, scores, plan.MustParseBudget("500"), plan.Options{Module: lookup(t, m).Module, Only: lookup(t, m).Only, Rank: 1})
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
