package plan

import (
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/sensitivity"
)

// TestNew checks that New returns the plan of exact or, with Compat, the plan of Release for the
// budget. It also checks the errors for wrong options.
func TestNew(t *testing.T) {
	scores := &sensitivity.Scores{Tensors: vit(1, 96), ClassToken: 96}
	o := Options{Module: "lora"}
	want, err := exact(t.Context(), scores, 200_000, o, loraParams)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := New(t.Context(), scores, 200_000, o, loraParams); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, another plan: %v", err, !reflect.DeepEqual(got, want))
	}
	o.Compat = CompatRelease
	plans, err := Release(t.Context(), scores, releaseScale, o, loraParams)
	if err != nil {
		t.Fatal(err)
	}
	for i, budget := range ReleaseBudgets() {
		if got, err := New(t.Context(), scores, budget, o, loraParams); err != nil || got.Budget != budget || !reflect.DeepEqual(got, plans[i]) {
			t.Errorf("budget %d: %v, another plan: %v", budget, err, !reflect.DeepEqual(got, plans[i]))
		}
	}
	for want, c := range map[string]struct {
		budget int
		o      Options
	}{
		"rank 97: expected 1 to 96":          {200_000, Options{Module: "lora", Rank: 97}},
		"the class token alone has 96":       {90, Options{Module: "lora"}},
		"the budget is 0":                    {0, Options{Module: "lora"}},
		"makes plans for [1000000 ":          {300_000, Options{Module: "lora", Compat: CompatRelease}},
		`compat mode "python" is unknown`:    {200_000, Options{Module: "lora", Compat: "python"}},
		"no plans of structured tuning only": {200_000, Options{Module: "lora", Compat: CompatRelease, Only: Structured}},
		`only is "both", expected`:           {200_000, Options{Module: "lora", Only: "both"}},
		"no structured module is named":      {200_000, Options{}},
	} {
		if _, err := New(t.Context(), scores, c.budget, c.o, loraParams); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	if _, err := New(t.Context(), &sensitivity.Scores{}, 100, Options{Module: "lora"}, loraParams); err == nil || !strings.Contains(err.Error(), "no scored tensors") {
		t.Errorf("without tensors: %v", err)
	}
}
