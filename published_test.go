package spt_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/inspect"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

func publishedFixture(name string) string {
	return filepath.Join("internal", "fixtures", "testdata", "published", name)
}

// Every published selection is a plan for our ViT-B/16: its tensors have the same names and shapes, and what training
// would tune counts as many parameters as the file says.
func TestImportPlanFitsBackbone(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Path(t, "published_plans"), "*.pth"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no selections: %v", err)
	}
	c, err := bench.Config("base", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		p, tensors, err := spt.ImportPlan(path, "", 0)
		if err != nil {
			t.Error(err)
			continue
		}
		if !reflect.DeepEqual(tensors, spt.Tensors(c)) {
			t.Errorf("%s: the tensors are not those of a ViT-B/16", path)
		}
		module, err := peft.Lookup(p.Module)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Validate(spt.Tensors(c), module.Count); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		tuning, err := peft.New(c, spt.Select(c, p))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if got, want := tuning.Counts.Tuned(), p.Cost.Total-p.Cost.CountedOnly; got != want {
			t.Errorf("%s: training tunes %d parameters, the plan has %d", path, got, want)
		}
	}
}

func TestLoadPlan(t *testing.T) {
	path := publishedFixture("lora.pth")
	p, tensors, err := spt.LoadPlan(path)
	if err != nil || p.Module != "lora" || len(tensors) != 34 {
		t.Fatalf("%+v, %d tensors, %v", p, len(tensors), err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	if back, tensors, err := spt.LoadPlan(file); err != nil || tensors != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("after saving: %+v, %v", back, err)
	}
	in, err := inspect.Open(t.Context(), path, nil)
	if err != nil || in.Kind != "published selection" || !reflect.DeepEqual(in.Plan, p) {
		t.Errorf("inspected: %+v, %v", in, err)
	}

	var input *run.InputError
	var option *run.OptionError
	if _, _, err := spt.ImportPlan(publishedFixture("adapter.pth"), "", 0); !errors.As(err, &input) || !strings.Contains(err.Error(), "structured_params is") {
		t.Errorf("of another rank: %v", err)
	}
	if p, _, err := spt.ImportPlan(publishedFixture("adapter.pth"), "", 2); err != nil || p.Module != "adapter" {
		t.Errorf("of rank 2: %+v, %v", p, err)
	}
	if p, _, err := spt.ImportPlan(publishedFixture("bare.pth"), "adapter", 0); err != nil || p.Module != "adapter" {
		t.Errorf("without modules: %+v, %v", p, err)
	}
	if _, _, err := spt.ImportPlan(path, "nothing", 0); !errors.As(err, &option) {
		t.Errorf("an unknown module: %v", err)
	}
	if _, _, err := spt.LoadPlan(filepath.Join(t.TempDir(), "none")); !errors.As(err, &input) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, _, err := spt.LoadPlan("published_test.go"); !errors.As(err, &input) {
		t.Errorf("no plan: %v", err)
	}
}

func TestComparePlans(t *testing.T) {
	selection := publishedFixture("bare.pth")
	p, tensors, err := spt.LoadPlan(selection)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{selection, file}, {file, selection}, {file, file}, {selection, selection}} {
		for _, of := range [][]plan.Scored{nil, tensors} {
			c, err := spt.ComparePlans(pair[0], pair[1], of)
			if err != nil || !c.Equal() || c.CostA != p.Cost || len(c.Rows) == 0 {
				t.Errorf("%v: %+v, %v", pair, c, err)
			} else if known := of != nil || pair != [2]string{file, file}; known != (c.Rows[0].CostA != nil) {
				t.Errorf("%v: costs are known: %v", pair, !known)
			}
		}
	}
	if c, err := spt.ComparePlans(publishedFixture("lora.pth"), file, nil); err != nil || c.Equal() || c.Matrices.OnlyA == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	big, err := bench.Config("tiny", 1)
	if err != nil {
		t.Fatal(err)
	}
	var input *run.InputError
	for _, pair := range [][2]string{{selection, file}, {file, selection}, {file, file}} {
		if _, err := spt.ComparePlans(pair[0], pair[1], spt.Tensors(big)); !errors.As(err, &input) {
			t.Errorf("%v of a ViT-Ti: %v", pair, err)
		}
	}
}

func TestComparePlansOfOtherBackbones(t *testing.T) {
	large := golden.Path(t, "published_plans", "lora-cifar-0.4.pth")
	_, err := spt.ComparePlans(publishedFixture("lora.pth"), large, nil)
	var input *run.InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), "different backbones") || !strings.Contains(err.Error(), "[16] in the one is \"blocks.0.norm1.weight\" [768] in the other") {
		t.Errorf("%v", err)
	}
}
