package plan

import (
	"fmt"
	"slices"

	"github.com/sptune/spt/sensitivity"
)

// Row holds the parameters that a plan spends on one operation of one block.
type Row struct {
	// Block is the name of the block, such as "blocks.0", and Operation names the operation in it,
	// such as "q" or "fc1". They are the results of sensitivity.Tensor.Place.
	Block     string `json:"block"`
	Operation string `json:"operation"`
	// Entries is the number of entries that are tuned one by one.
	Entries int `json:"entries"`
	// Structured is the number of parameters of structured modules.
	Structured int `json:"structured"`
	// Vectors is the number of parameters of the vectors that are tuned whole.
	Vectors int `json:"vectors"`
	// CountedOnly is the number of entries in [Plan.CountedOnly].
	CountedOnly int `json:"counted_only,omitempty"`
	// Total is the sum of Entries, Structured, Vectors and CountedOnly.
	Total int `json:"total"`
	// Share is Total divided by the budget of the plan, from 0 to 1. With Compat it can exceed 1.
	Share float64 `json:"share"`
}

// add adds the counts of b to r. It changes neither the names nor Share.
func (r *Row) add(b Row) {
	r.Entries += b.Entries
	r.Structured += b.Structured
	r.Vectors += b.Vectors
	r.CountedOnly += b.CountedOnly
	r.Total += b.Total
}

// Explain returns the number of parameters that the plan spends on each operation of each block, in
// the order of the tensors. An operation on which the plan spends nothing also has a row. The rows
// and the class token add up to the cost of the plan. tensors and count are as for [Plan.Validate].
// Explain returns an error if Validate does.
func (p *Plan) Explain(tensors []sensitivity.Tensor, count Count) ([]Row, error) {
	if err := p.Validate(tensors, count); err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	whole := set(slices.Concat(p.Matrices, p.Vectors))
	var rows []Row
	place := make(map[[2]string]int)
	for _, t := range tensors {
		block, operation := t.Place()
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
				row.Structured = count(in, out, p.RankOf(t.Name))
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
