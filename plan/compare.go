package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/sensitivity"
)

// Overlap counts the members of two sets, A and B.
type Overlap struct {
	// Both is the number of members of both sets.
	Both int `json:"both"`
	// OnlyA is the number of members of A that are not in B.
	OnlyA int `json:"only_a"`
	// OnlyB is the number of members of B that are not in A.
	OnlyB int `json:"only_b"`
}

// Jaccard returns the size of the intersection divided by the size of the union. It is 1 for two
// empty sets.
func (o Overlap) Jaccard() float64 {
	if o == (Overlap{}) {
		return 1
	}
	return float64(o.Both) / float64(o.Both+o.OnlyA+o.OnlyB)
}

// MarshalJSON returns the fields as a JSON object, and adds the value of Jaccard as "jaccard".
func (o Overlap) MarshalJSON() ([]byte, error) {
	type fields Overlap
	return json.Marshal(struct {
		fields
		Jaccard float64 `json:"jaccard"`
	}{fields(o), o.Jaccard()})
}

// Equal reports whether the two sets are equal.
func (o Overlap) Equal() bool { return o.OnlyA == 0 && o.OnlyB == 0 }

func (o *Overlap) add(p Overlap) {
	o.Both += p.Both
	o.OnlyA += p.OnlyA
	o.OnlyB += p.OnlyB
}

// Selected compares the parameters that plan A and plan B tune, separately for each way of tuning.
type Selected struct {
	// Matrices compares the matrices with a structured module.
	Matrices Overlap `json:"matrices"`
	// Vectors compares the vectors that are tuned whole.
	Vectors Overlap `json:"vectors"`
	// Entries compares the entries that are tuned one by one.
	Entries Overlap `json:"entries"`
	// CountedOnly compares the entries in [Plan.CountedOnly].
	CountedOnly Overlap `json:"counted_only"`
}

// Equal reports whether both plans tune the same parameters in the same way. It ignores whether the
// modules of the plans differ in kind or rank.
func (s Selected) Equal() bool {
	return s.Matrices.Equal() && s.Vectors.Equal() && s.Entries.Equal() && s.CountedOnly.Equal()
}

// ComparedRow compares two plans on one operation of one block.
type ComparedRow struct {
	// Block and Operation are as in [Row].
	Block     string `json:"block"`
	Operation string `json:"operation"`
	Selected
	// CostA and CostB are the numbers of parameters that the two plans spend on the operation. They
	// are nil if the tensors of the backbone are not known.
	CostA *int `json:"cost_a,omitempty"`
	CostB *int `json:"cost_b,omitempty"`
}

// Comparison compares plan A with plan B. [Compare] returns it.
type Comparison struct {
	// Selected compares the two plans over all tensors.
	Selected
	// CostA and CostB are the costs of the two plans.
	CostA Cost `json:"cost_a"`
	CostB Cost `json:"cost_b"`
	// Rows holds one row for each operation of a block in which at least one plan selects a
	// parameter. The rows are in the order of the tensors. If the tensors are not known, they are
	// in the order of the tensors' names.
	Rows []ComparedRow `json:"rows"`
}

// Compare compares two plans for the same backbone. tensors are the scored tensors of the backbone,
// as for [Plan.Validate]. If they are nil, Compare uses only the names in the plans, and rows have
// no cost. countA and countB return the parameter counts of the modules of a and b. They may be nil
// if tensors is nil.
//
// Compare returns an error if a plan does not fit the tensors. Without tensors it returns an error
// if the class tokens of the plans differ in size, because then the plans are for different
// backbones.
func Compare(a, b *Plan, tensors []sensitivity.Tensor, countA, countB Count) (*Comparison, error) {
	c := &Comparison{CostA: a.Cost, CostB: b.Cost, Rows: []ComparedRow{}}
	var costs [2]map[[2]string]int
	if tensors == nil {
		if a.Cost.ClassToken != b.Cost.ClassToken && a.FromBlock == 0 && b.FromBlock == 0 {
			return nil, fmt.Errorf("comparing plans: the class token has %d parameters in the first plan and %d in the second, so they are for different backbones; give plans for the same backbone", a.Cost.ClassToken, b.Cost.ClassToken)
		}
		tensors = byName(a, b)
	} else {
		for i, side := range []struct {
			name  string
			plan  *Plan
			count Count
		}{{"first", a, countA}, {"second", b, countB}} {
			rows, err := side.plan.Explain(tensors, side.count)
			if err != nil {
				return nil, fmt.Errorf("comparing plans: the %s plan does not fit the backbone: %w", side.name, err)
			}
			costs[i] = make(map[[2]string]int)
			for _, r := range rows {
				costs[i][[2]string{r.Block, r.Operation}] = r.Total
			}
		}
	}

	sets := make([]struct{ matrices, vectors map[string]bool }, 2)
	for i, p := range []*Plan{a, b} {
		sets[i].matrices, sets[i].vectors = set(p.Matrices), set(p.Vectors)
	}
	place := make(map[[2]string]int)
	for _, t := range tensors {
		s := Selected{
			Matrices:    member(sets[0].matrices[t.Name], sets[1].matrices[t.Name]),
			Vectors:     member(sets[0].vectors[t.Name], sets[1].vectors[t.Name]),
			Entries:     overlap(a.Entries[t.Name], b.Entries[t.Name]),
			CountedOnly: overlap(a.CountedOnly[t.Name], b.CountedOnly[t.Name]),
		}
		if s == (Selected{}) {
			continue
		}
		block, operation := t.Place()
		key := [2]string{block, operation}
		i, ok := place[key]
		if !ok {
			i = len(c.Rows)
			place[key] = i
			row := ComparedRow{Block: block, Operation: operation}
			if costs[0] != nil {
				x, y := costs[0][key], costs[1][key]
				row.CostA, row.CostB = &x, &y
			}
			c.Rows = append(c.Rows, row)
		}
		for _, to := range []*Selected{&c.Selected, &c.Rows[i].Selected} {
			to.Matrices.add(s.Matrices)
			to.Vectors.add(s.Vectors)
			to.Entries.add(s.Entries)
			to.CountedOnly.add(s.CountedOnly)
		}
	}
	return c, nil
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

func member(a, b bool) Overlap {
	switch {
	case a && b:
		return Overlap{Both: 1}
	case a:
		return Overlap{OnlyA: 1}
	case b:
		return Overlap{OnlyB: 1}
	}
	return Overlap{}
}

// overlap compares two ascending lists of positions.
func overlap(a, b []int32) (o Overlap) {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			o.Both++
			i, j = i+1, j+1
		case a[i] < b[j]:
			i++
		default:
			j++
		}
	}
	o.OnlyA, o.OnlyB = len(a)-o.Both, len(b)-o.Both
	return o
}

// byName returns the tensors that two plans name, in the order of [natural]. It derives from the
// names the two properties that sensitivity.Tensor.Place reads: whether a tensor belongs to a norm,
// and whether it is a vector. The shapes have the right number of dimensions only for vectors that
// are tuned whole.
func byName(a, b *Plan) []sensitivity.Tensor {
	vectors := set(slices.Concat(a.Vectors, b.Vectors))
	names := set(slices.Concat(a.Matrices, b.Matrices))
	for _, m := range []map[string][]int32{a.Entries, b.Entries, a.CountedOnly, b.CountedOnly} {
		for name := range m {
			names[name] = true
		}
	}
	maps.Copy(names, vectors)
	var out []sensitivity.Tensor
	for _, name := range slices.SortedFunc(maps.Keys(names), natural) {
		module := name[:max(0, strings.LastIndexByte(name, '.'))]
		t := sensitivity.Tensor{Name: name, Shape: []int{1, 1}, Norm: strings.Contains(module[strings.LastIndexByte(module, '.')+1:], "norm")}
		if vectors[name] {
			t.Shape = t.Shape[:1]
		}
		out = append(out, t)
	}
	return out
}

// natural compares two names part by part, and compares numbers by value: "blocks.2" comes before
// "blocks.10".
func natural(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, errA := strconv.Atoi(x[i])
		n, errB := strconv.Atoi(y[i])
		c := strings.Compare(x[i], y[i])
		if errA == nil && errB == nil {
			c = cmp.Or(cmp.Compare(m, n), c)
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}
