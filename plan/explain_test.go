package plan

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestExplain(t *testing.T) {
	rows, err := smallPlan().Explain(smallTensors, loraParams)
	if err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{Block: "blocks.0", Operation: "norm", Vectors: 3, CountedOnly: 1, Total: 4, Share: 4. / 25},
		{Block: "blocks.0", Operation: "q", Structured: 6, Total: 6, Share: 6. / 25},
		{Block: "blocks.0", Operation: "bias", Entries: 1, Total: 1, Share: 1. / 25},
		{Block: "blocks.1", Operation: "norm", CountedOnly: 1, Total: 1, Share: 1. / 25},
		{Block: "blocks.1", Operation: "q", Entries: 3, Total: 3, Share: 3. / 25},
		{Block: "blocks.1", Operation: "fc1", Structured: 7, Total: 7, Share: 7. / 25},
		{Block: "norm", Operation: "norm", Vectors: 3, Total: 3, Share: 3. / 25},
	}
	if !reflect.DeepEqual(rows, want) {
		t.Errorf("rows\n%+v\nexpected\n%+v", rows, want)
	}

	if _, err := smallPlan().Explain(smallTensors[1:], loraParams); err == nil {
		t.Error("Explain accepted a plan for other tensors")
	}
}

// TestExplainAddsUp checks that the rows and the class token add up to the cost of the plan, in
// each of its parts.
func TestExplainAddsUp(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 6))
		scored, o := randomScored(r), randomOptions(r)
		o.Budget = 5 + r.IntN(200)
		p, err := o.exact(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := p.Explain(scored, o.ModuleParams)
		if err != nil {
			t.Fatal(err)
		}
		var sum Row
		share := float64(o.ClassToken) / float64(o.Budget)
		for _, row := range rows {
			sum.add(row)
			share += row.Share
		}
		got := Cost{sum.Structured, sum.Vectors, sum.Entries, sum.CountedOnly, o.ClassToken, sum.Total + o.ClassToken}
		if got != p.Cost {
			t.Fatalf("seed %d: the rows add up to %+v, the cost is %+v", seed, got, p.Cost)
		}
		if want := float64(p.Cost.Total) / float64(o.Budget); math.Abs(share-want) > 1e-9 {
			t.Fatalf("seed %d: shares add up to %v, expected %v", seed, share, want)
		}
	}
}
