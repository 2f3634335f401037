package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/plan/published"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// comparePlans prints how two plans differ. It prints costs, which are numbers of parameters, if
// the shapes of the tensors are known: from the backbone or from a published selection. If scores,
// a file, is not empty, it prints the reach of both plans in these scores.
func (a *app) comparePlans(ctx context.Context, first, second string, model run.ModelConfig, scores string) error {
	var tensors []sensitivity.Tensor
	if model.Path != "" {
		m, _, err := a.openModel(ctx, model, 1) // the head does not matter
		if err != nil {
			return err
		}
		tensors = sensitivity.Tensors(m.Config)
	}
	c, err := published.Compare(first, second, tensors)
	if err != nil {
		return &run.InputError{Err: err}
	}
	var reach *[2]float64
	if scores != "" {
		if reach, err = reaches(ctx, scores, first, second); err != nil {
			return err
		}
	}
	if a.json {
		return a.writeJSON(struct {
			A string `json:"a"`
			B string `json:"b"`
			*plan.Comparison
			Reach *[2]float64 `json:"reach,omitempty"` // of A and of B
		}{first, second, c, reach})
	}
	var f facts
	f.add("A", "%s", printable(first))
	f.add("B", "%s", printable(second))
	kinds := []struct {
		name    string
		overlap plan.Overlap
		a, b    int // parameters
	}{
		{"matrices with a module", c.Matrices, c.CostA.Structured, c.CostB.Structured},
		{"whole vectors", c.Vectors, c.CostA.Vectors, c.CostB.Vectors},
		{"single entries", c.Entries, c.CostA.Unstructured, c.CostB.Unstructured},
		{"entries, counted only", c.CountedOnly, c.CostA.CountedOnly, c.CostB.CountedOnly},
	}
	text := f.String() + "\n" + table(func(w io.Writer) {
		fmt.Fprintln(w, "kind\tin both\tonly A\tonly B\tJaccard\tcost A\tcost B")
		for _, k := range kinds {
			o := k.overlap
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.3f\t%d\t%d\n", k.name, o.Both, o.OnlyA, o.OnlyB, o.Jaccard(), k.a, k.b)
		}
		fmt.Fprintf(w, "class token\t\t\t\t\t%d\t%d\n", c.CostA.ClassToken, c.CostB.ClassToken)
		fmt.Fprintf(w, "total\t\t\t\t\t%d\t%d\n", c.CostA.Total, c.CostB.Total)
		if reach != nil {
			fmt.Fprintf(w, "reach\t\t\t\t\t%s\t%s\n", wording.Percent(reach[0]), wording.Percent(reach[1]))
		}
	})
	return a.write(text + "\n" + differences(c.Rows))
}

// reaches returns the reach of the plans in two files in the scores of a third file.
func reaches(ctx context.Context, scores, first, second string) (*[2]float64, error) {
	s, err := loadScores(ctx, scores)
	if err != nil {
		return nil, err
	}
	var reach [2]float64
	for i, path := range []string{first, second} {
		p, _, err := published.LoadPlan(path)
		if err == nil {
			reach[i], err = p.Reach(s)
		}
		if err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("computing the reach of %s in %s: %w", path, scores, err)}
		}
	}
	return &reach, nil
}

// differences returns a table with a line for each operation in which two plans differ. For each
// kind of selection, a line has three numbers: selected in both plans, in A only, in B only.
func differences(rows []plan.ComparedRow) string {
	differ := slices.DeleteFunc(slices.Clone(rows), func(r plan.ComparedRow) bool { return r.Equal() })
	if len(differ) == 0 {
		return "The plans do not differ.\n"
	}
	three := func(o plan.Overlap) string {
		if o == (plan.Overlap{}) {
			return "-"
		}
		return fmt.Sprintf("%d/%d/%d", o.Both, o.OnlyA, o.OnlyB)
	}
	known := differ[0].CostA != nil // the shapes of the tensors are known
	text := "Operations in which the plans differ. Three numbers count the selections in both plans, only in A, and only in B:\n" + table(func(w io.Writer) {
		fmt.Fprint(w, "block\toperation\tmatrices\tvectors\tentries\tJaccard\tcounted only")
		if known {
			fmt.Fprint(w, "\tcost A\tcost B")
		}
		fmt.Fprintln(w)
		for _, r := range differ {
			jaccard := "-"
			if r.Entries != (plan.Overlap{}) {
				jaccard = fmt.Sprintf("%.3f", r.Entries.Jaccard())
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s", printable(r.Block), printable(r.Operation), three(r.Matrices), three(r.Vectors), three(r.Entries), jaccard, three(r.CountedOnly))
			if known {
				fmt.Fprintf(w, "\t%d\t%d", *r.CostA, *r.CostB)
			}
			fmt.Fprintln(w)
		}
	})
	if same := len(rows) - len(differ); same > 0 {
		text += fmt.Sprintf("On %s the plans do not differ.\n", wording.Plural(same, "operation"))
	}
	return text
}
