package plan

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/sensitivity"
)

// Row holds what a plan spends on one operation of one block, in parameters.
type Row struct {
	// Block is the name of the block: "blocks.0" or "layers.1.blocks.3". Outside blocks it is the
	// name of the parent module, or of the module itself if it has no parent ("norm").
	Block string `json:"block"`
	// Operation is the last part of the name of a matrix ("q", "proj", "fc1"). All vectors of
	// LayerNorms are under "norm", other vectors under the last part of their name ("bias",
	// "gamma").
	Operation string `json:"operation"`
	// Entries is the number of entries tuned one by one.
	Entries int `json:"entries"`
	// Structured is the parameter count of structured modules.
	Structured int `json:"structured"`
	// Vectors is the number of parameters in vectors tuned whole.
	Vectors int `json:"vectors"`
	// CountedOnly is the number of entries in [Plan.CountedOnly].
	CountedOnly int `json:"counted_only,omitempty"`
	// Total is the sum of the four above.
	Total int `json:"total"`
	// Share is Total over the plan's budget.
	Share float64 `json:"share"`
}

// add adds the counts of b. It changes neither names nor share.
func (r *Row) add(b Row) {
	r.Entries += b.Entries
	r.Structured += b.Structured
	r.Vectors += b.Vectors
	r.CountedOnly += b.CountedOnly
	r.Total += b.Total
}

// locate returns the block and the operation of a tensor; see [Row].
func locate(t sensitivity.Tensor) (block, operation string) {
	module, parameter := "", t.Name
	if dot := strings.LastIndexByte(t.Name, '.'); dot >= 0 {
		module, parameter = t.Name[:dot], t.Name[dot+1:]
	}
	own := module[strings.LastIndexByte(module, '.')+1:]
	switch {
	case t.Norm:
		operation = "norm"
	case len(t.Shape) > 1 && parameter == "weight" && own != "":
		operation = own
	default:
		operation = parameter
	}
	if block := backbone.Block(t.Name); block != "" {
		return block, operation
	}
	if parent := strings.TrimSuffix(module, "."+own); parent != module {
		return parent, operation
	}
	return cmp.Or(module, t.Name), operation
}

// ExplainRows returns what the plan spends on each operation of each block, in the order of the
// tensors. It has a row also for an operation on which the plan spends nothing. Together with the
// class token the rows add up to the cost of the plan. tensors and count are as for
// [Plan.Validate], and the plan must be valid for them.
func (p *Plan) ExplainRows(tensors []sensitivity.Tensor, count Count) ([]Row, error) {
	if err := p.Validate(tensors, count); err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	whole := make(map[string]bool, len(p.Matrices)+len(p.Vectors))
	for _, name := range slices.Concat(p.Matrices, p.Vectors) {
		whole[name] = true
	}
	var rows []Row
	place := make(map[[2]string]int)
	for _, t := range tensors {
		block, operation := locate(t)
		i, ok := place[[2]string{block, operation}]
		if !ok {
			i = len(rows)
			place[[2]string{block, operation}] = i
			rows = append(rows, Row{Block: block, Operation: operation})
		}
		row := Row{Entries: len(p.Entries[t.Name]), CountedOnly: len(p.CountedOnly[t.Name])}
		if whole[t.Name] {
			if len(t.Shape) > 1 {
				in, out := inOut(t)
				row.Structured = count(in, out, p.Rank)
			} else {
				row.Vectors = t.Shape[0]
			}
		}
		row.Total = row.Entries + row.CountedOnly + row.Structured + row.Vectors
		rows[i].add(row)
	}
	for i := range rows {
		rows[i].Share = float64(rows[i].Total) / float64(p.Budget)
	}
	return rows, nil
}

// Explain writes where the budget goes as a table: a line for each block, a column for each
// operation, a star for structured modules, and the division of each line into entries, structured
// modules and whole vectors. The arguments are as for [Plan.ExplainRows].
func (p *Plan) Explain(w io.Writer, tensors []sensitivity.Tensor, count Count) error {
	rows, err := p.ExplainRows(tensors, count)
	if err != nil {
		return err
	}
	var blocks, operations []string
	// Vectors lie between the matrices in a backbone; their columns come last.
	vector := make(map[string]bool)
	for _, t := range tensors {
		block, operation := locate(t)
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

	cells := make(map[[2]string]Row, len(rows))
	for _, row := range rows {
		cells[[2]string{row.Block, row.Operation}] = row
	}
	how := "exact"
	if p.Compat != "" {
		how = "compat " + p.Compat
	}
	var out bytes.Buffer
	if p.Tau > 0 { // an imported plan does not say it
		how += fmt.Sprintf(": the %d largest scores", p.Tau)
	}
	what := fmt.Sprintf("%s, rank %d", p.Module, p.Rank)
	switch p.Only {
	case Unstructured:
		what = "unstructured only"
	case Structured:
		what += ", structured only"
	}
	fmt.Fprintf(&out, "%s, alpha %g, beta %g, %s\n", what, p.Alpha, p.Beta, how)
	fmt.Fprintf(&out, "%d parameters, head excluded, for a budget of %d\n\n", p.Cost.Total, p.Budget)

	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	header := append([]string{"block"}, operations...)
	header = append(header, "entries", "structured", "vectors")
	if p.Compat == CompatRelease {
		header = append(header, "counted only")
	}
	fmt.Fprintln(table, strings.Join(header, "\t")+"\ttotal\tshare\t")
	line := func(name string, columns []string, sum Row) {
		fmt.Fprintf(table, "%s\t", name)
		for _, c := range columns {
			fmt.Fprintf(table, "%s\t", c)
		}
		fmt.Fprintf(table, "%d\t%d\t%d\t", sum.Entries, sum.Structured, sum.Vectors)
		if p.Compat == CompatRelease {
			fmt.Fprintf(table, "%d\t", sum.CountedOnly)
		}
		fmt.Fprintf(table, "%d\t%.1f%%\t\n", sum.Total, 100*float64(sum.Total)/float64(p.Budget))
	}
	totals := make([]Row, len(operations))
	for _, block := range blocks {
		columns := make([]string, len(operations))
		var sum Row
		for i, operation := range operations {
			cell, ok := cells[[2]string{block, operation}]
			if !ok {
				continue
			}
			columns[i] = starred(cell)
			totals[i].add(cell)
			sum.add(cell)
		}
		line(block, columns, sum)
	}
	columns := make([]string, len(operations))
	if p.Cost.ClassToken > 0 {
		line("class token", columns, Row{Total: p.Cost.ClassToken})
	}
	sum := Row{Total: p.Cost.ClassToken}
	for i, total := range totals {
		columns[i] = starred(total)
		sum.add(total)
	}
	line("total", columns, sum)
	table.Flush()
	if p.Cost.Structured > 0 {
		fmt.Fprintf(&out, "\n* with a structured module: %s of rank %d\n", p.Module, p.Rank)
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("explaining plan: %w", err)
	}
	return nil
}

// starred returns the total of a row, with a star if it includes structured modules.
func starred(r Row) string {
	if r.Structured > 0 {
		return fmt.Sprintf("%d*", r.Total)
	}
	return fmt.Sprint(r.Total)
}
