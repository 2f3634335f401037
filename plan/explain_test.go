package plan

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/sptune/spt/sensitivity"
)

const smallExplained = `lora, rank 1, alpha 10, beta 5, compat release: the 13 largest scores
28 parameters, head excluded, for a budget of 25

        block   q  fc1  norm  bias  entries  structured  vectors  counted only  total   share
     blocks.0  6*          4     1        1           6        3             1     11   44.0%
     blocks.1   3   7*     1              3           7        0             1     11   44.0%
         norm              3              0           0        3             0      3   12.0%
  class token                             0           0        0             0      3   12.0%
        total  9*   7*     8     1        4          13        6             2     28  112.0%

* with a structured module: lora of rank 1
`

func TestExplain(t *testing.T) {
	var out bytes.Buffer
	if err := smallPlan().Explain(&out, smallTensors, loraParams); err != nil {
		t.Fatal(err)
	}
	if out.String() != smallExplained {
		t.Errorf("explained as\n%s\nexpected\n%s", &out, smallExplained)
	}
	rows, err := smallPlan().ExplainRows(smallTensors, loraParams)
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

	if err := smallPlan().Explain(failing{}, smallTensors, loraParams); !errors.Is(err, errWrite) {
		t.Errorf("error %v, expected the writer's", err)
	}
	if err := smallPlan().Explain(&out, smallTensors[1:], loraParams); err == nil {
		t.Error("explained a plan for other tensors")
	}
}

var errWrite = errors.New("no space")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errWrite }

// The rows and the class token add up to the cost, part by part.
func TestExplainRowsAddUp(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 6))
		scored, o := randomScored(r), randomOptions(r)
		o.Budget = 5 + r.IntN(200)
		p, err := o.exact(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := p.ExplainRows(scored, o.ModuleParams)
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

func TestLocate(t *testing.T) {
	for _, c := range []struct {
		tensor           sensitivity.Tensor
		block, operation string
	}{
		{sensitivity.Tensor{Name: "blocks.11.mlp.fc2.weight", Shape: []int{2, 2}}, "blocks.11", "fc2"},
		{sensitivity.Tensor{Name: "blocks.11.mlp.fc2.bias", Shape: []int{2}}, "blocks.11", "bias"},
		{sensitivity.Tensor{Name: "blocks.0.norm2.bias", Shape: []int{2}, Norm: true}, "blocks.0", "norm"},
		{sensitivity.Tensor{Name: "blocks.0.ls1.gamma", Shape: []int{2}}, "blocks.0", "gamma"},
		{sensitivity.Tensor{Name: "norm.weight", Shape: []int{2}, Norm: true}, "norm", "norm"},
		{sensitivity.Tensor{Name: "layers.1.blocks.3.attn.relative_position_bias_table", Shape: []int{9, 2}}, "layers.1.blocks.3", "relative_position_bias_table"},
		{sensitivity.Tensor{Name: "layers.1.downsample.reduction.weight", Shape: []int{2, 4}}, "layers.1.downsample", "reduction"},
		{sensitivity.Tensor{Name: "stages.2.blocks.26.conv_dw.weight", Shape: []int{4, 1, 7, 7}}, "stages.2.blocks.26", "conv_dw"},
		{sensitivity.Tensor{Name: "stages.2.blocks.26.gamma", Shape: []int{4}}, "stages.2.blocks.26", "gamma"},
		{sensitivity.Tensor{Name: "weight", Shape: []int{2, 2}}, "weight", "weight"},
	} {
		if block, operation := locate(c.tensor); block != c.block || operation != c.operation {
			t.Errorf("%s: block %q, operation %q, expected %q and %q", c.tensor.Name, block, operation, c.block, c.operation)
		}
	}
}
