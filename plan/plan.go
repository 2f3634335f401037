// Package plan decides which parameters of a backbone are tuned. It is stage 2 of Sensitivity-aware
// visual Parameter-efficient Tuning (SPT; He et al., ICCV 2023, arXiv 2303.08566, section 3.2).
//
// The input is a sensitivity score for every weight, from package sensitivity, and a parameter
// budget. The output is a [Plan], which lists the tuned parameters.
//
// The method takes the largest scores of the whole network. Let c be the number of these scores
// that lie in one tensor.
//
//   - A vector is tuned whole if c ≥ len/β.
//   - The weight matrix of a linear layer in a block gets a structured module (LoRA,
//     Adapter) if c ≥ P/α, where P is the parameter count of the module.
//   - Otherwise the c entries are tuned one by one.
//
// A tensor at its threshold, len/β or P/α, is tuned entry by entry too if the budget does not allow
// the whole vector or the module; see [New].
//
// The cost of a plan is the number of parameters in these parts and in the class token, which is
// always tuned. The head is always tuned too, but it never counts.
//
// For ablations, a plan can use no modules ([Unstructured]) or no single entries ([Structured]).
// A plan can follow another rule, which is one of [Rules].
//
// Start with [New], which makes a plan from scores. [ParseBudget] parses a budget such as "0.4M" or
// "0.5%". [Plan.Save] and [LoadFile] write and read a plan as a JSON file. [Plan.Validate] checks a
// plan against the tensors of a backbone. [Plan.Explain] lists the parameters that the plan spends
// on each operation of each block, and [Compare] compares two plans. [Release] reproduces the plans
// of the paper's published code.
package plan

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/sensitivity"
)

// header holds the kind and the version of the plan files that this package writes and reads.
var header = jsonfile.Header{Kind: jsonfile.Plan, Version: 1}

// Plan lists the parameters to tune. A tensor is in at most one of Matrices, Vectors, Entries and
// CountedOnly. A scored tensor in none of them stays frozen. The head and the class token are not
// scored; the head is always tuned, and so is the class token unless FromBlock is set.
type Plan struct {
	// Compat is [CompatRelease] if the plan follows the paper's published code. Otherwise it is
	// empty.
	Compat string `json:"compat,omitempty"`
	// FromBlock is the first block of which the plan selects parameters. It is 0 if the plan
	// selects from all blocks.
	FromBlock int `json:"from_block,omitempty"`
	// Only is [Unstructured] or [Structured] if the plan uses only one half of the method.
	// Otherwise it is empty.
	Only string `json:"only,omitempty"`
	// Rule is one of [Rules]. It is empty if the plan follows SPT's rule.
	Rule string `json:"rule,omitempty"`
	// Module is the registered name of the structured module, such as "lora". It is empty if Only
	// is [Unstructured].
	Module string `json:"module"`
	// Rank is the rank of the structured modules, or the largest of Ranks. It is 0 if Module is
	// empty, and with the rules of [ByGain] also if there is no module.
	Rank int `json:"rank"`
	// Ranks maps the name of each of Matrices to the rank of its module, with the rules of
	// [ByGain]. Otherwise it is empty, and all modules have the rank Rank.
	Ranks map[string]int `json:"ranks,omitempty"`
	// Alpha is α in the rule for matrices; see the package comment.
	Alpha float64 `json:"alpha"`
	// Beta is β in the rule for vectors; see the package comment.
	Beta float64 `json:"beta"`
	// Budget is the number of parameters that the plan may spend, without the head.
	Budget int `json:"budget"`
	// Tau is τ, the rank, from 1, of the last score that changed the plan. It is 0 if no score did.
	// With Compat it is the number of largest scores that were taken. With [RandomPlaces] it is
	// that of the plan before its places were exchanged. It is 0 with [PerNeuron] and the rules of
	// [ByGain], and in a plan that was imported from a published selection, because the selection
	// does not record τ.
	Tau int `json:"tau"`
	// Cost counts the parameters that the plan spends.
	Cost Cost `json:"cost"`
	// Matrices names the matrices that get a structured module, in the order of the backbone's
	// tensors.
	Matrices []string `json:"matrices"`
	// Vectors names the vectors that are tuned whole, in the order of the backbone's tensors.
	Vectors []string `json:"vectors"`
	// Entries maps the name of a tensor to the entries that are tuned one by one. An entry is given
	// by its flat, row-major position in the tensor. The positions are ascending.
	Entries map[string][]int32 `json:"entries"`
	// CountedOnly holds entries that count in the cost but are not tuned, in the form of Entries.
	// The published code treats single entries of LayerNorm vectors in this way. Without Compat it
	// is empty.
	CountedOnly map[string][]int32 `json:"counted_only,omitempty"`
	// Sensitive counts how many of the Budget largest scores are in each tensor. It says where the
	// network is sensitive, whatever the plan does with the tensor. Tensors without any are left
	// out, as are scores of zero. It is empty in a plan that was imported from a published
	// selection, and in a plan of an earlier version of spt.
	Sensitive map[string]int `json:"sensitive,omitempty"`
}

// document is the JSON object of a plan file.
type document struct {
	jsonfile.Header
	*fields
}

// fields is a Plan without its methods.
type fields Plan

// MarshalJSON returns the fields of the plan as a JSON object, with "kind" and "version" first.
func (p Plan) MarshalJSON() ([]byte, error) {
	return json.Marshal(document{header, (*fields)(&p)})
}

// Cost counts the parameters of a plan, by the way in which they are tuned. It does not include the
// head.
type Cost struct {
	// Structured is the number of parameters of all structured modules.
	Structured int `json:"structured"`
	// Vectors is the number of parameters of the vectors that are tuned whole.
	Vectors int `json:"vectors"`
	// Unstructured is the number of entries that are tuned one by one.
	Unstructured int `json:"unstructured"`
	// CountedOnly is the number of entries in [Plan.CountedOnly].
	CountedOnly int `json:"counted_only,omitempty"`
	// ClassToken is the number of parameters of the class token.
	ClassToken int `json:"class_token"`
	// Total is the sum of the other fields.
	Total int `json:"total"`
}

// sum returns the sum of all fields except Total.
func (c Cost) sum() int {
	return c.Structured + c.Vectors + c.Unstructured + c.CountedOnly + c.ClassToken
}

// Validate returns an error if the plan does not fit a backbone with the given scored tensors. It
// does not read their scores. The error names the tensor or the number that is wrong. Validate
// checks these conditions:
//   - Every name in the plan is the name of a tensor of the right kind, from block FromBlock on.
//   - Every position lies inside its tensor, and positions are ascending and unique.
//   - The recorded cost is correct, and within the budget unless Compat is set.
//
// count returns the number of parameters of the plan's module. It may be nil if Only is
// [Unstructured].
func (p *Plan) Validate(tensors []sensitivity.Tensor, count Count) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("validating plan: %w", err)
	}
	if count == nil && p.Only != Unstructured {
		return fmt.Errorf("validating plan: no function counts the parameters of module %q; pass one", p.Module)
	}
	if p.FromBlock > 0 {
		if tensors = sensitivity.From(tensors, p.FromBlock); len(tensors) == 0 {
			return fmt.Errorf("validating plan: it begins with block %d, but the backbone has fewer blocks; give the backbone that the plan was made for", p.FromBlock)
		}
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
		return fmt.Errorf("validating plan: tau is %d, but the backbone has only %d scored parameters; give the backbone that the plan was made for", p.Tau, scores)
	}
	find := func(list, name string) (sensitivity.Tensor, error) {
		t, ok := byName[name]
		if !ok {
			return t, fmt.Errorf("validating plan: %s names %q, which is not among the %d scored tensors of the backbone; give the backbone that the plan was made for", list, name, len(tensors))
		}
		return t, nil
	}

	for name, n := range p.Sensitive {
		t, err := find("sensitive", name)
		if err != nil {
			return err
		}
		if size, _ := sizeOf(t); n > size {
			return fmt.Errorf("validating plan: sensitive counts %d scores in %q, which has only %d parameters", n, name, size)
		}
	}
	structured, vectors := 0, 0
	for _, name := range p.Matrices {
		t, err := find("matrices", name)
		if err != nil {
			return err
		}
		if len(t.Shape) < 2 || t.EntriesOnly {
			return fmt.Errorf("validating plan: matrices names %q of shape %v, expected the weight of a linear layer in a block", name, t.Shape)
		}
		in, out := inOut(t)
		structured += count(in, out, p.RankOf(name))
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
				return fmt.Errorf("validating plan: %s of %q: position %d is out of range, the tensor has shape %v and %d parameters", list.name, name, last, t.Shape, size)
			}
			if list.name == "counted_only" && !t.Norm {
				return fmt.Errorf("validating plan: counted_only names %q, which is not a LayerNorm vector", name)
			}
		}
	}
	if p.Cost.Structured != structured {
		return fmt.Errorf("validating plan: cost.structured is %d, but %s modules of rank %d on the %d matrices have %d parameters", p.Cost.Structured, p.Module, p.Rank, len(p.Matrices), structured)
	}
	if p.Cost.Vectors != vectors {
		return fmt.Errorf("validating plan: cost.vectors is %d, but the %d vectors have %d parameters", p.Cost.Vectors, len(p.Vectors), vectors)
	}
	return nil
}

// entryList is one of the two maps of entries in a plan, with its name in the plan file.
type entryList struct {
	name    string
	entries map[string][]int32
}

func (p *Plan) lists() []entryList {
	return []entryList{{"entries", p.Entries}, {"counted_only", p.CountedOnly}}
}

// check returns an error if the parts of the plan contradict each other. It needs no tensors.
func (p *Plan) check() error {
	// most is far above the size of any backbone, and small enough that adding the parts of a cost
	// cannot overflow an int.
	const most = 1 << 48

	if err := validateRule(p.Rule, p.Only, p.Module, p.Compat); err != nil {
		return err
	}
	switch {
	case p.Compat != "" && p.Compat != CompatRelease:
		return fmt.Errorf("compat is %q, expected %q or nothing", p.Compat, CompatRelease)
	case p.Only != "" && p.Only != Unstructured && p.Only != Structured:
		return fmt.Errorf("only is %q, expected %q, %q or nothing", p.Only, Unstructured, Structured)
	case p.FromBlock < 0:
		return fmt.Errorf("from_block is %d, expected 0 or more", p.FromBlock)
	case p.FromBlock > 0 && p.Compat != "":
		return fmt.Errorf("from_block is %d and compat is %q, expected at most one of them", p.FromBlock, p.Compat)
	case p.FromBlock > 0 && p.Cost.ClassToken != 0:
		return fmt.Errorf("from_block is %d and cost.class_token is %d, expected 0, because the class token enters the first block", p.FromBlock, p.Cost.ClassToken)
	case p.Only != "" && p.Compat != "":
		return fmt.Errorf("only is %q and compat is %q, expected at most one of them", p.Only, p.Compat)
	case p.Only == Unstructured && (p.Module != "" || p.Rank != 0 || len(p.Matrices) > 0):
		return fmt.Errorf("module is %q, rank is %d and matrices has %d names, expected none of them if only is %q", p.Module, p.Rank, len(p.Matrices), p.Only)
	case p.Only == Structured && len(p.Entries) > 0:
		return fmt.Errorf("entries has %d tensors, expected none if only is %q", len(p.Entries), p.Only)
	case p.Only != Unstructured && p.Module == "":
		return fmt.Errorf("module is empty, expected the name of a structured module such as %q", "lora")
	case p.Only != Unstructured && !ByGain(p.Rule) && p.Rank < 1:
		return fmt.Errorf("rank is %d, expected 1 or more", p.Rank)
	case !ByGain(p.Rule) && len(p.Ranks) > 0:
		return fmt.Errorf("ranks has %d matrices, expected none unless rule is %q", len(p.Ranks), Gain)
	case (p.Rule == PerNeuron || ByGain(p.Rule)) && p.Tau != 0:
		return fmt.Errorf("tau is %d and rule is %q, expected tau 0, because the rule has no order of all scores", p.Tau, p.Rule)
	case !positive(p.Alpha) || !positive(p.Beta):
		return fmt.Errorf("alpha and beta are %v and %v, expected positive numbers", p.Alpha, p.Beta)
	case p.Budget < 1 || p.Budget > most:
		return fmt.Errorf("budget is %d, expected a positive number of parameters", p.Budget)
	case p.Tau < 0:
		return fmt.Errorf("tau is %d, expected 0 or more", p.Tau)
	case p.Compat != CompatRelease && len(p.CountedOnly) > 0:
		return fmt.Errorf("counted_only has %d tensors, expected none unless compat is %q", len(p.CountedOnly), CompatRelease)
	}

	if ByGain(p.Rule) {
		if err := p.checkRanks(); err != nil {
			return err
		}
	}
	sensitive := 0
	for name, n := range p.Sensitive {
		if n < 1 || n > p.Budget {
			return fmt.Errorf("sensitive counts %d scores in %q, expected 1 to the budget, which is %d", n, name, p.Budget)
		}
		sensitive += n
	}
	if sensitive > p.Budget {
		return fmt.Errorf("sensitive counts %d scores in all, expected at most the budget, which is %d", sensitive, p.Budget)
	}

	seen := make(map[string]string)
	place := func(list, name string) error {
		if before, ok := seen[name]; ok {
			return fmt.Errorf("tensor %q is in %s and again in %s, expected it in one list only", name, before, list)
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
				return fmt.Errorf("%s of %q is empty; leave the tensor out", list.name, name)
			}
			before := int32(-1)
			for i, index := range indexes {
				if index <= before {
					return fmt.Errorf("%s of %q: number %d of the list is position %d, expected a position above %d; positions are ascending, unique and not negative", list.name, name, i+1, index, before)
				}
				before = index
			}
			counts[l] += len(indexes)
		}
	}

	for _, n := range []int{p.Cost.Structured, p.Cost.Vectors, p.Cost.Unstructured, p.Cost.CountedOnly, p.Cost.ClassToken} {
		if n < 0 || n > most {
			return fmt.Errorf("cost holds %d, expected a number of parameters from 0 to %d", n, most)
		}
	}
	switch {
	case p.Cost.Unstructured != counts[0]:
		return fmt.Errorf("cost.unstructured is %d, but entries holds %d positions", p.Cost.Unstructured, counts[0])
	case p.Cost.CountedOnly != counts[1]:
		return fmt.Errorf("cost.counted_only is %d, but counted_only holds %d positions", p.Cost.CountedOnly, counts[1])
	case p.Cost.Total != p.Cost.sum():
		return fmt.Errorf("cost.total is %d, but the parts of the cost add up to %d", p.Cost.Total, p.Cost.sum())
	case p.Compat == "" && p.Cost.Total > p.Budget:
		return fmt.Errorf("cost.total is %d, above the budget of %d parameters", p.Cost.Total, p.Budget)
	}
	return nil
}

// RankOf returns the rank of the module on a matrix of the plan.
func (p *Plan) RankOf(matrix string) int {
	if r, ok := p.Ranks[matrix]; ok {
		return r
	}
	return p.Rank
}

// checkRanks returns an error unless Ranks holds a rank for each of Matrices, and Rank is the
// largest.
func (p *Plan) checkRanks() error {
	largest := 0
	for _, name := range p.Matrices {
		r := p.Ranks[name]
		if r < 1 {
			return fmt.Errorf("ranks holds %d for %q, expected a rank of 1 or more for each of matrices", r, name)
		}
		largest = max(largest, r)
	}
	if len(p.Ranks) != len(p.Matrices) || p.Rank != largest {
		return fmt.Errorf("rank is %d and ranks has %d matrices, expected the largest rank, %d, and the %d names of matrices", p.Rank, len(p.Ranks), largest, len(p.Matrices))
	}
	return nil
}

// sizeOf returns the number of parameters of a tensor. It returns an error if a position in the
// tensor does not fit an int32.
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
			return 0, fmt.Errorf("tensor %q has shape %v, which is more than the %d parameters that a plan can index", t.Name, t.Shape, math.MaxInt32)
		}
	}
	return size, nil
}

// inOut returns the sides of a tensor with two or more dimensions, seen as a matrix [out, in]. It
// flattens the dimensions after the first one.
func inOut(t sensitivity.Tensor) (in, out int) {
	in = 1
	for _, d := range t.Shape[1:] {
		in *= d
	}
	return in, t.Shape[0]
}
