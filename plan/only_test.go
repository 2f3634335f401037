package plan

import (
	"strings"
	"testing"
)

// TestOnly checks Unstructured and Structured plans on the shapes of a ViT-Ti: their cost, their
// plan files, and the errors for plans that contradict Only.
func TestOnly(t *testing.T) {
	scored := vit(12, 192)
	o := inputs{Budget: 200_000, Module: "lora", ModuleParams: moduleParams["lora"], ClassToken: 192}
	for only, spends := range map[string]func(Cost) bool{
		Unstructured: func(c Cost) bool { return c.Structured == 0 && c.Unstructured > 0 && c.Total == o.Budget },
		Structured:   func(c Cost) bool { return c.Structured > 0 && c.Unstructured == 0 && c.Total <= o.Budget },
	} {
		o.Only = only
		p, err := o.exact(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		if !spends(p.Cost) {
			t.Errorf("%s: cost %+v", only, p.Cost)
		}
		count := o.ModuleParams
		if only == Unstructured {
			count = nil
		}
		if err := p.Validate(scored, count); err != nil {
			t.Errorf("%s: %v", only, err)
		}
		data, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(data)
		if err != nil || again.Only != only {
			t.Errorf("%s: read back as %q, %v", only, again.Only, err)
		}
		if rows, err := p.Explain(scored, count); err != nil || len(rows) == 0 {
			t.Errorf("%s: %v, %v", only, rows, err)
		}
		for want, bad := range map[string]func(*Plan){
			`only is "both"`: func(p *Plan) { p.Only = "both" },
			"expected at most one of them": func(p *Plan) {
				p.Compat = CompatRelease
			},
		} {
			q := *p
			bad(&q)
			if err := q.check(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: expected an error with %q, got %v", only, want, err)
			}
		}
		q := *p
		q.Only = Structured
		if only == Structured {
			q.Only = Unstructured
		}
		if q.check() == nil {
			t.Errorf("check accepts a plan made with only %q as one with only %q", only, q.Only)
		}
		if _, err := o.release(t.Context(), scored); err == nil || !strings.Contains(err.Error(), only) {
			t.Errorf("%s in compat mode: %v", only, err)
		}
	}
	o.Only = "both"
	if _, err := o.exact(t.Context(), scored); err == nil || !strings.Contains(err.Error(), `"both"`) {
		t.Errorf("unknown kind: %v", err)
	}
}
