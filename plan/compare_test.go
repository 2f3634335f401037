package plan

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// otherPlan returns a plan that differs from smallPlan. It tunes entries of a q matrix on which
// smallPlan has a module. Of another q matrix, two of three entries are the same in both plans.
func otherPlan() *Plan {
	return &Plan{
		Module: "adapter", Rank: 1, Alpha: 10, Beta: 5, Budget: 40, Tau: 9,
		Cost:     Cost{Structured: 13, Vectors: 6, Unstructured: 6, ClassToken: 3, Total: 28},
		Matrices: []string{"blocks.1.mlp.fc1.weight"},
		Vectors:  []string{"blocks.0.attn.q.bias", "norm.weight"},
		Entries:  map[string][]int32{"blocks.0.attn.q.weight": {2, 3}, "blocks.0.norm1.weight": {2}, "blocks.1.attn.q.weight": {4, 7, 8}},
	}
}

func TestCompare(t *testing.T) {
	number := func(n int) *int { return &n }
	total := Selected{Matrices: Overlap{1, 1, 0}, Vectors: Overlap{1, 1, 1}, Entries: Overlap{2, 2, 4}, CountedOnly: Overlap{0, 2, 0}}
	rows := []ComparedRow{
		{"blocks.0", "norm", Selected{Vectors: Overlap{0, 1, 0}, Entries: Overlap{0, 0, 1}, CountedOnly: Overlap{0, 1, 0}}, number(4), number(1)},
		{"blocks.0", "q", Selected{Matrices: Overlap{0, 1, 0}, Entries: Overlap{0, 0, 2}}, number(6), number(2)},
		{"blocks.0", "bias", Selected{Vectors: Overlap{0, 0, 1}, Entries: Overlap{0, 1, 0}}, number(1), number(3)},
		{"blocks.1", "norm", Selected{CountedOnly: Overlap{0, 1, 0}}, number(1), number(0)},
		{"blocks.1", "q", Selected{Entries: Overlap{2, 1, 1}}, number(3), number(3)},
		{"blocks.1", "fc1", Selected{Matrices: Overlap{1, 0, 0}}, number(7), number(13)},
		{"norm", "norm", Selected{Vectors: Overlap{1, 0, 0}}, number(3), number(3)},
	}
	rows[6].Block, rows[6].Operation = smallTensors[7].Place()
	a, b := smallPlan(), otherPlan()
	got, err := Compare(a, b, smallTensors, loraParams, adapterParams)
	if err != nil {
		t.Fatal(err)
	}
	if got.Selected != total || got.CostA != a.Cost || got.CostB != b.Cost || !reflect.DeepEqual(got.Rows, rows) {
		t.Errorf("the comparison is %+v, want %+v and %+v", got, total, rows)
	}

	// Compared by name, the sets are the same. There are no costs, and rows are in the order of
	// names.
	got, err = Compare(a, b, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	byKey := func(x, y ComparedRow) int { return strings.Compare(x.Block+" "+x.Operation, y.Block+" "+y.Operation) }
	for i := range rows {
		rows[i].CostA, rows[i].CostB = nil, nil
	}
	slices.SortFunc(rows, byKey)
	slices.SortFunc(got.Rows, byKey)
	if got.Selected != total || !reflect.DeepEqual(got.Rows, rows) {
		t.Errorf("by name the comparison is %+v, want %+v and %+v", got, total, rows)
	}

	same, err := Compare(a, a, smallTensors, loraParams, loraParams)
	if err != nil || !same.Equal() || same.Entries != (Overlap{4, 0, 0}) || same.CountedOnly.Jaccard() != 1 {
		t.Errorf("comparing a plan with itself: %+v, %v", same, err)
	}

	b.Cost.ClassToken, b.Cost.Total = 5, 30
	if _, err := Compare(a, b, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "3 parameters in the first plan and 5 in the second, so they are for different backbones") {
		t.Errorf("plans with class tokens of different sizes: %v", err)
	}
	b = otherPlan()
	b.Vectors[0] = "blocks.2.attn.q.bias"
	if _, err := Compare(a, b, smallTensors, loraParams, adapterParams); err == nil || !strings.Contains(err.Error(), "the second plan does not fit the backbone") || !strings.Contains(err.Error(), "blocks.2.attn.q.bias") {
		t.Errorf("a plan for another backbone: %v", err)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b    []int32
		want    Overlap
		jaccard float64
	}{
		{nil, nil, Overlap{}, 1},
		{[]int32{1}, nil, Overlap{0, 1, 0}, 0},
		{[]int32{1, 5, 9}, []int32{0, 5, 9, 10}, Overlap{2, 1, 2}, 0.4},
		{[]int32{1, 2}, []int32{3, 4, 5}, Overlap{0, 2, 3}, 0},
	} {
		if got := overlap(c.a, c.b); got != c.want || got.Jaccard() != c.jaccard {
			t.Errorf("%v and %v: %+v, %v", c.a, c.b, got, got.Jaccard())
		}
	}
	data, err := json.Marshal(ComparedRow{Block: "norm", Operation: "bias", Selected: Selected{Entries: Overlap{1, 1, 2}}})
	if err != nil || !strings.Contains(string(data), `"entries":{"both":1,"only_a":1,"only_b":2,"jaccard":0.25}`) || strings.Contains(string(data), "cost") {
		t.Errorf("as JSON: %s, %v", data, err)
	}
}

func TestNatural(t *testing.T) {
	names := []string{"norm.weight", "blocks.10.a", "blocks.2.b", "blocks.2", "blocks.2.a"}
	slices.SortFunc(names, natural)
	if want := []string{"blocks.2", "blocks.2.a", "blocks.2.b", "blocks.10.a", "norm.weight"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}
