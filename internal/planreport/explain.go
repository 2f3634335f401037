// Package planreport prints a plan for people. [Explain] writes a table with the number of tuned
// parameters in each block and operation.
package planreport

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// Explain writes a table of the tuned parameters of the plan p to w. The table has a line for each
// block and a column for each operation; a star marks structured modules. Further columns split
// each line into entries, structured modules and whole vectors. The other arguments are as for
// [plan.Plan.Explain]. A plan that does not fit the tensors is an error.
func Explain(w io.Writer, p *plan.Plan, tensors []sensitivity.Tensor, count plan.Count) error {
	rows, err := p.Explain(tensors, count)
	if err != nil {
		return err
	}
	var blocks, operations []string
	// The columns of vectors come last, although a backbone has vectors between its matrices.
	vector := make(map[string]bool)
	for _, t := range tensors {
		block, operation := t.Place()
		if !slices.Contains(blocks, block) {
			blocks = append(blocks, block)
		}
		if !slices.Contains(operations, operation) {
			operations = append(operations, operation)
		}
		vector[operation] = vector[operation] || len(t.Shape) == 1
	}
	slices.SortStableFunc(operations, func(a, b string) int {
		switch {
		case vector[a] == vector[b]:
			return 0
		case vector[b]:
			return -1
		}
		return 1
	})

	cells := make(map[[2]string]plan.Row, len(rows))
	for _, row := range rows {
		cells[[2]string{row.Block, row.Operation}] = row
	}
	how := "exact"
	if p.Compat != "" {
		how = "compat " + p.Compat
	}
	var out bytes.Buffer
	if p.Rule != "" {
		how = "rule " + p.Rule
	}
	if p.Tau > 0 && p.Rule == "" { // an imported plan has no Tau
		how += fmt.Sprintf(": the %d largest scores", p.Tau)
	}
	what := fmt.Sprintf("%s, %s", p.Module, wording.Rank(p.Rank, p.Ranks))
	switch p.Only {
	case plan.Unstructured:
		what = "unstructured only"
	case plan.Structured:
		what += ", structured only"
	}
	fmt.Fprintf(&out, "%s, alpha %g, beta %g, %s\n", what, p.Alpha, p.Beta, how)
	fmt.Fprintf(&out, "%d parameters, head excluded, for a budget of %d\n\n", p.Cost.Total, p.Budget)

	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	header := append([]string{"block"}, operations...)
	header = append(header, "entries", "structured", "vectors")
	if p.Compat == plan.CompatRelease {
		header = append(header, "counted only")
	}
	fmt.Fprintln(table, strings.Join(header, "\t")+"\ttotal\tshare\t")
	line := func(name string, columns []string, sum plan.Row) {
		fmt.Fprintf(table, "%s\t", name)
		for _, c := range columns {
			fmt.Fprintf(table, "%s\t", c)
		}
		fmt.Fprintf(table, "%d\t%d\t%d\t", sum.Entries, sum.Structured, sum.Vectors)
		if p.Compat == plan.CompatRelease {
			fmt.Fprintf(table, "%d\t", sum.CountedOnly)
		}
		fmt.Fprintf(table, "%d\t%.1f%%\t\n", sum.Total, 100*float64(sum.Total)/float64(p.Budget))
	}
	totals := make([]plan.Row, len(operations))
	for _, block := range blocks {
		columns := make([]string, len(operations))
		var sum plan.Row
		for i, operation := range operations {
			cell, ok := cells[[2]string{block, operation}]
			if !ok {
				continue
			}
			columns[i] = starred(cell)
			add(&totals[i], cell)
			add(&sum, cell)
		}
		line(block, columns, sum)
	}
	columns := make([]string, len(operations))
	if p.Cost.ClassToken > 0 {
		line("class token", columns, plan.Row{Total: p.Cost.ClassToken})
	}
	sum := plan.Row{Total: p.Cost.ClassToken}
	for i, total := range totals {
		columns[i] = starred(total)
		add(&sum, total)
	}
	line("total", columns, sum)
	table.Flush()
	out.WriteString("\nA cell is a number of tuned parameters.")
	if p.Cost.Structured > 0 {
		fmt.Fprintf(&out, " A star marks a structured module: %s of %s.", p.Module, wording.Rank(p.Rank, p.Ranks))
	}
	out.WriteByte('\n')
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("writing the table of a plan: %w", err)
	}
	return nil
}

// starred returns the total of a row, with a star if it includes structured modules.
func starred(r plan.Row) string {
	if r.Structured > 0 {
		return fmt.Sprintf("%d*", r.Total)
	}
	return fmt.Sprint(r.Total)
}

// add adds the counts of b to the counts of a. It does not change the names and the share of a.
func add(a *plan.Row, b plan.Row) {
	a.Entries += b.Entries
	a.Structured += b.Structured
	a.Vectors += b.Vectors
	a.CountedOnly += b.CountedOnly
	a.Total += b.Total
}
