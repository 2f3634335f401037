// Package plan is stage 2 of Sensitivity-aware visual Parameter-efficient Tuning (He et al., ICCV
// 2023, arXiv 2303.08566, section 3.2): from the sensitivity of every weight and a parameter budget
// to a [Plan], which says what is tuned.
//
// The τ largest scores of the whole network are taken. With c of them in one tensor,
//
//   - a vector is tuned whole if c ≥ len/β;
//   - the matrix of a block's linear layer gets a structured module (LoRA,
//     Adapter) if c ≥ P/α, where P is the module's parameter count;
//   - otherwise its c entries are tuned one by one.
//
// The cost of a plan is the sum of these parts and the class token; the head never counts.
//
// For comparison, a plan can do without modules or without single entries: see [Unstructured] and
// [Structured].
//
// [ParseBudget] parses a budget as people write it. [New] makes a plan from the scores of package
// sensitivity. [Plan.Save] and [LoadFile] write and read plans as JSON. [Plan.Validate] checks a
// plan against the tensors of a backbone, and [Plan.Explain] reports where the budget goes.
package plan

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/sensitivity"
)

// header begins every plan file that this package writes and reads.
var header = jsonfile.Header{Kind: jsonfile.Plan, Version: 1}

// Plan says which parameters are tuned. A tensor appears in one of Matrices, Vectors, Entries and
// CountedOnly, or nowhere if it stays frozen.
type Plan struct {
	// Compat is empty, or [CompatRelease] for a plan as the paper's published code makes it.
	Compat string `json:"compat,omitempty"`
	// Only is empty, [Unstructured] or [Structured].
	Only string `json:"only,omitempty"`
	// Module is the registered name of the structured module, such as "lora"; empty with Only
	// [Unstructured].
	Module string `json:"module"`
	// Rank is the rank of the structured modules; 0 without a module.
	Rank int `json:"rank"`
	// Alpha is α of the package comment.
	Alpha float64 `json:"alpha"`
	// Beta is β of the package comment.
	Beta float64 `json:"beta"`
	// Budget is the number of parameters asked for, head excluded.
	Budget int `json:"budget"`
	// Tau is τ: the number of largest scores that were taken. Without Compat it is the greatest τ
	// that leads to this plan. It is 0 in a plan from a published selection, which does not record
	// it.
	Tau int `json:"tau"`
	// Cost is what the plan spends.
	Cost Cost `json:"cost"`
	// Matrices names the matrices with a structured module, in tensor order.
	Matrices []string `json:"matrices"`
	// Vectors names the vectors tuned whole, in tensor order.
	Vectors []string `json:"vectors"`
	// Entries maps a tensor's name to the entries tuned one by one: their flat, row-major positions
	// in the tensor, ascending.
	Entries map[string][]int32 `json:"entries"`
	// CountedOnly holds entries that the cost includes and that are not tuned: with Compat, the
	// single entries of LayerNorm vectors.
	CountedOnly map[string][]int32 `json:"counted_only,omitempty"`
}

// document is the JSON object of a plan.
type document struct {
	jsonfile.Header
	*fields
}

// fields is a Plan without its methods.
type fields Plan

// MarshalJSON adds "kind" and "version" to the fields.
func (p Plan) MarshalJSON() ([]byte, error) {
	return json.Marshal(document{header, (*fields)(&p)})
}

// Cost counts the parameters of a plan. The head is not among them.
type Cost struct {
	// Structured is the sum of P over the matrices with a structured module.
	Structured int `json:"structured"`
	// Vectors is the sum of the lengths of the vectors tuned whole.
	Vectors int `json:"vectors"`
	// Unstructured is the number of entries tuned one by one.
	Unstructured int `json:"unstructured"`
	// CountedOnly is the number of entries in [Plan.CountedOnly].
	CountedOnly int `json:"counted_only,omitempty"`
	// ClassToken is the number of parameters of the class token.
	ClassToken int `json:"class_token"`
	// Total is the sum of the others.
	Total int `json:"total"`
}

// sum returns the sum of the parts.
func (c Cost) sum() int {
	return c.Structured + c.Vectors + c.Unstructured + c.CountedOnly + c.ClassToken
}

// Validate reports whether the plan fits the scored tensors of a backbone, whose scores are not
// read: every name exists and is of the right kind, every position is in range, lists are sorted
// and free of duplicates, the recorded cost is the cost computed with count, and it is within the
// budget (a plan with Compat may exceed it). count counts the parameters of the plan's module; it
// may be nil for a plan without modules. The error names the tensor or the number that is wrong.
func (p *Plan) Validate(tensors []sensitivity.Tensor, count Count) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("validating plan: %w", err)
	}
	if count == nil && p.Only != Unstructured {
		return fmt.Errorf("validating plan: there is no parameter count for module %q; pass one", p.Module)
	}
	byName := make(map[string]sensitivity.Tensor, len(tensors))
	scores := 0
	for _, t := range tensors {
		size, err := sizeOf(t)
		if err != nil {
			return fmt.Errorf("validating plan: %w", err)
		}
		byName[t.Name] = t
		scores += size
	}
	if p.Tau > scores {
		return fmt.Errorf("validating plan: tau is %d, but the tensors have only %d parameters: was it made for another backbone?", p.Tau, scores)
	}
	find := func(list, name string) (sensitivity.Tensor, error) {
		t, ok := byName[name]
		if !ok {
			return t, fmt.Errorf("validating plan: %s names %q, which is not among the %d tensors: was it made for another backbone?", list, name, len(tensors))
		}
		return t, nil
	}

	structured, vectors := 0, 0
	for _, name := range p.Matrices {
		t, err := find("matrices", name)
		if err != nil {
			return err
		}
		if len(t.Shape) < 2 || t.EntriesOnly {
			return fmt.Errorf("validating plan: matrices names %q of shape %v, expected the weight of a block's linear layer", name, t.Shape)
		}
		in, out := inOut(t)
		structured += count(in, out, p.Rank)
	}
	for _, name := range p.Vectors {
		t, err := find("vectors", name)
		if err != nil {
			return err
		}
		if len(t.Shape) != 1 {
			return fmt.Errorf("validating plan: vectors names %q of shape %v, expected one dimension", name, t.Shape)
		}
		vectors += t.Shape[0]
	}
	for _, list := range p.lists() {
		for name, indexes := range list.entries {
			t, err := find(list.name, name)
			if err != nil {
				return err
			}
			size, _ := sizeOf(t)
			if last := int(indexes[len(indexes)-1]); last >= size {
				return fmt.Errorf("validating plan: %s of %q: index %d is out of range, the tensor has shape %v and %d parameters", list.name, name, last, t.Shape, size)
			}
			if list.name == "counted_only" && !t.Norm {
				return fmt.Errorf("validating plan: counted_only names %q, which is not a LayerNorm vector", name)
			}
		}
	}
	if p.Cost.Structured != structured {
		return fmt.Errorf("validating plan: cost.structured is %d, but %s of rank %d on the %d matrices comes to %d", p.Cost.Structured, p.Module, p.Rank, len(p.Matrices), structured)
	}
	if p.Cost.Vectors != vectors {
		return fmt.Errorf("validating plan: cost.vectors is %d, but the %d vectors have %d parameters", p.Cost.Vectors, len(p.Vectors), vectors)
	}
	return nil
}

// entryList is one of the two maps of entries of a plan, with its name in the file.
type entryList struct {
	name    string
	entries map[string][]int32
}

func (p *Plan) lists() []entryList {
	return []entryList{{"entries", p.Entries}, {"counted_only", p.CountedOnly}}
}

// check reports whether the plan agrees with itself, without the tensors.
func (p *Plan) check() error {
	// Far above any backbone, and far enough below the greatest int that the parts of a cost can be
	// added.
	const most = 1 << 48

	switch {
	case p.Compat != "" && p.Compat != CompatRelease:
		return fmt.Errorf("compat is %q, expected %q or nothing", p.Compat, CompatRelease)
	case p.Only != "" && p.Only != Unstructured && p.Only != Structured:
		return fmt.Errorf("only is %q, expected %q, %q or nothing", p.Only, Unstructured, Structured)
	case p.Only != "" && p.Compat != "":
		return fmt.Errorf("only is %q and compat %q, expected one of them", p.Only, p.Compat)
	case p.Only == Unstructured && (p.Module != "" || p.Rank != 0 || len(p.Matrices) > 0):
		return fmt.Errorf("module is %q, rank %d, and there are %d matrices, expected none of them in a plan with only %q", p.Module, p.Rank, len(p.Matrices), p.Only)
	case p.Only == Structured && len(p.Entries) > 0:
		return fmt.Errorf("entries has %d tensors, expected none in a plan with only %q", len(p.Entries), p.Only)
	case p.Only != Unstructured && p.Module == "":
		return fmt.Errorf("module is empty, expected the name of a structured module such as %q", "lora")
	case p.Only != Unstructured && p.Rank < 1:
		return fmt.Errorf("rank is %d, expected 1 or more", p.Rank)
	case !positive(p.Alpha) || !positive(p.Beta):
		return fmt.Errorf("alpha and beta are %v and %v, expected positive numbers", p.Alpha, p.Beta)
	case p.Budget < 1 || p.Budget > most:
		return fmt.Errorf("budget is %d, expected a positive number of parameters", p.Budget)
	case p.Tau < 0:
		return fmt.Errorf("tau is %d, expected 0 or more", p.Tau)
	case p.Compat != CompatRelease && len(p.CountedOnly) > 0:
		return fmt.Errorf("counted_only has %d tensors, expected none unless compat is %q", len(p.CountedOnly), CompatRelease)
	}

	seen := make(map[string]string)
	place := func(list, name string) error {
		if before, ok := seen[name]; ok {
			return fmt.Errorf("tensor %q is in %s and again in %s, expected it once", name, before, list)
		}
		seen[name] = list
		return nil
	}
	for _, name := range p.Matrices {
		if err := place("matrices", name); err != nil {
			return err
		}
	}
	for _, name := range p.Vectors {
		if err := place("vectors", name); err != nil {
			return err
		}
	}
	var counts [2]int
	for l, list := range p.lists() {
		for name, indexes := range list.entries {
			if err := place(list.name, name); err != nil {
				return err
			}
			if len(indexes) == 0 {
				return fmt.Errorf("%s of %q is empty: leave the tensor out", list.name, name)
			}
			before := int32(-1)
			for i, index := range indexes {
				if index <= before {
					return fmt.Errorf("%s of %q: index %d at position %d, expected one greater than %d: indexes are not negative, ascending and unique", list.name, name, index, i, before)
				}
				before = index
			}
			counts[l] += len(indexes)
		}
	}

	for _, n := range []int{p.Cost.Structured, p.Cost.Vectors, p.Cost.Unstructured, p.Cost.CountedOnly, p.Cost.ClassToken} {
		if n < 0 || n > most {
			return fmt.Errorf("cost holds %d, expected a number of parameters", n)
		}
	}
	switch {
	case p.Cost.Unstructured != counts[0]:
		return fmt.Errorf("cost.unstructured is %d, but entries holds %d indexes", p.Cost.Unstructured, counts[0])
	case p.Cost.CountedOnly != counts[1]:
		return fmt.Errorf("cost.counted_only is %d, but counted_only holds %d indexes", p.Cost.CountedOnly, counts[1])
	case p.Cost.Total != p.Cost.sum():
		return fmt.Errorf("cost.total is %d, but its parts come to %d", p.Cost.Total, p.Cost.sum())
	case p.Compat == "" && p.Cost.Total > p.Budget:
		return fmt.Errorf("cost.total is %d, above the budget of %d", p.Cost.Total, p.Budget)
	}
	return nil
}

// sizeOf returns the number of parameters of a tensor. It fails on shapes whose positions an int32
// does not hold.
func sizeOf(t sensitivity.Tensor) (int, error) {
	if len(t.Shape) == 0 {
		return 0, fmt.Errorf("tensor %q has no dimensions, expected a vector [len] or a matrix [out, in]", t.Name)
	}
	size := 1
	for _, d := range t.Shape {
		if d < 0 || d > math.MaxInt32 {
			return 0, fmt.Errorf("tensor %q has shape %v, expected dimensions from 0 to %d", t.Name, t.Shape, math.MaxInt32)
		}
		size *= d
		if size > math.MaxInt32 {
			return 0, fmt.Errorf("tensor %q has shape %v, more than the %d parameters that a plan can index", t.Name, t.Shape, math.MaxInt32)
		}
	}
	return size, nil
}

// inOut returns the sides of a tensor of two or more dimensions as a matrix [out, in]: the
// dimensions after the first are flattened.
func inOut(t sensitivity.Tensor) (in, out int) {
	in = 1
	for _, d := range t.Shape[1:] {
		in *= d
	}
	return in, t.Shape[0]
}
