package published_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan/published"
	"github.com/sptune/spt/sensitivity"
)

// fixture returns the path of a selection that PyTorch wrote.
func fixture(name string) string {
	return filepath.Join("..", "..", "internal", "fixtures", "testdata", "published", name)
}

// vit returns the configuration of a ViT with patches of 16 pixels and the given width.
func vit(width int) backbone.Config {
	return backbone.Config{ImageSize: 224, NumClasses: 100, NumHeads: width / 64, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: width, Depth: 12, HiddenDim: 4 * width}}
}

// TestImportPlanFitsBackbone checks that every published selection in the golden folder gives a
// plan for a ViT-B/16 of package backbone: the tensors have the same names and shapes, and training
// would tune as many parameters as the plan records.
func TestImportPlanFitsBackbone(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Path(t, "published_plans"), "*.pth"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no selections: %v", err)
	}
	c := vit(768)
	for _, path := range paths {
		p, tensors, err := published.Import(path, "", 0)
		if err != nil {
			t.Error(err)
			continue
		}
		if !reflect.DeepEqual(tensors, sensitivity.Tensors(c)) {
			t.Errorf("%s: the tensors differ from those of a ViT-B/16", path)
		}
		module, err := peft.Lookup(p.Module)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Validate(sensitivity.Tensors(c), module.Count); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		tokens, _ := c.ClassTokens()
		tuning, err := peft.New(c, peft.Selection{Module: p.Module, Rank: p.Rank, Structured: p.Matrices, Whole: append(tokens, p.Vectors...), Entries: p.Entries})
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
	path := fixture("lora.pth")
	p, tensors, err := published.LoadPlan(path)
	if err != nil || p.Module != "lora" || len(tensors) != 34 {
		t.Fatalf("%+v, %d tensors, %v", p, len(tensors), err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	if back, tensors, err := published.LoadPlan(file); err != nil || tensors != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("after saving: %+v, %v", back, err)
	}
	if _, _, err := published.Import(fixture("adapter.pth"), "", 0); err == nil || !strings.Contains(err.Error(), "structured_params is") {
		t.Errorf("with the wrong rank: %v", err)
	}
	if p, _, err := published.Import(fixture("adapter.pth"), "", 2); err != nil || p.Module != "adapter" {
		t.Errorf("with rank 2: %+v, %v", p, err)
	}
	if p, _, err := published.Import(fixture("bare.pth"), "adapter", 0); err != nil || p.Module != "adapter" {
		t.Errorf("without modules: %+v, %v", p, err)
	}
	if _, _, err := published.Import(path, "nothing", 0); err == nil || !strings.Contains(err.Error(), "is unknown") {
		t.Errorf("an unknown module: %v", err)
	}
	if _, _, err := published.LoadPlan(filepath.Join(t.TempDir(), "none")); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if _, _, err := published.LoadPlan("published_test.go"); err == nil {
		t.Errorf("a file that is no plan was accepted")
	}
}

func TestComparePlans(t *testing.T) {
	selection := fixture("bare.pth")
	p, tensors, err := published.LoadPlan(selection)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := p.Save(file); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{selection, file}, {file, selection}, {file, file}, {selection, selection}} {
		for _, of := range [][]sensitivity.Tensor{nil, tensors} {
			c, err := published.Compare(pair[0], pair[1], of)
			if err != nil || !c.Equal() || c.CostA != p.Cost || len(c.Rows) == 0 {
				t.Errorf("%v: %+v, %v", pair, c, err)
			} else if known := of != nil || pair != [2]string{file, file}; known != (c.Rows[0].CostA != nil) {
				t.Errorf("%v: rows have costs: %v", pair, !known)
			}
		}
	}
	if c, err := published.Compare(fixture("lora.pth"), file, nil); err != nil || c.Equal() || c.Matrices.OnlyA == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, pair := range [][2]string{{selection, file}, {file, selection}, {file, file}} {
		if _, err := published.Compare(pair[0], pair[1], sensitivity.Tensors(vit(192))); err == nil {
			t.Errorf("%v of a ViT-Ti: %v", pair, err)
		}
	}
}

func TestComparePlansOfOtherBackbones(t *testing.T) {
	large := golden.Path(t, "published_plans", "lora-cifar-0.4.pth")
	_, err := published.Compare(fixture("lora.pth"), large, nil)
	if err == nil || !strings.Contains(err.Error(), "different backbones") || !strings.Contains(err.Error(), "has shape [16] in the first, where the second has \"blocks.0.norm1.weight\" of shape [768]") {
		t.Errorf("%v", err)
	}
}
