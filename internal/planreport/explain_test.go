package planreport

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// smallTensors and smallPlan are a network and a plan for it, written by hand. LoRA of rank 1 tunes
// in+out parameters for a matrix.
var smallTensors = []sensitivity.Tensor{
	{Name: "blocks.0.norm1.weight", Shape: []int{3}, Norm: true},
	{Name: "blocks.0.norm1.bias", Shape: []int{3}, Norm: true},
	{Name: "blocks.0.attn.q.weight", Shape: []int{3, 3}},
	{Name: "blocks.0.attn.q.bias", Shape: []int{3}},
	{Name: "blocks.1.norm1.weight", Shape: []int{3}, Norm: true},
	{Name: "blocks.1.attn.q.weight", Shape: []int{3, 3}},
	{Name: "blocks.1.mlp.fc1.weight", Shape: []int{4, 3, 1, 1}},
	{Name: "norm.weight", Shape: []int{3}, Norm: true},
}

func smallPlan() *plan.Plan {
	return &plan.Plan{
		Compat: plan.CompatRelease, Module: "lora", Rank: 1, Alpha: 10, Beta: 5, Budget: 25, Tau: 13,
		Cost:        plan.Cost{Structured: 6 + 7, Vectors: 3 + 3, Unstructured: 4, CountedOnly: 2, ClassToken: 3, Total: 28},
		Matrices:    []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc1.weight"},
		Vectors:     []string{"blocks.0.norm1.bias", "norm.weight"},
		Entries:     map[string][]int32{"blocks.0.attn.q.bias": {1}, "blocks.1.attn.q.weight": {0, 4, 8}},
		CountedOnly: map[string][]int32{"blocks.0.norm1.weight": {2}, "blocks.1.norm1.weight": {0}},
	}
}

func loraParams(in, out, rank int) int { return rank * (in + out) }

const smallExplained = `lora, rank 1, alpha 10, beta 5, compat release: the 13 largest scores
28 parameters, head excluded, for a budget of 25

        block   q  fc1  norm  bias  entries  structured  vectors  counted only  total   share
     blocks.0  6*          4     1        1           6        3             1     11   44.0%
     blocks.1   3   7*     1              3           7        0             1     11   44.0%
         norm              3              0           0        3             0      3   12.0%
  class token                             0           0        0             0      3   12.0%
        total  9*   7*     8     1        4          13        6             2     28  112.0%

A cell is a number of tuned parameters. A star marks a structured module: lora of rank 1.
`

func TestExplain(t *testing.T) {
	var out bytes.Buffer
	if err := Explain(&out, smallPlan(), smallTensors, loraParams); err != nil {
		t.Fatal(err)
	}
	if out.String() != smallExplained {
		t.Errorf("explained as\n%s\nexpected\n%s", &out, smallExplained)
	}
	if err := Explain(failing{}, smallPlan(), smallTensors, loraParams); !errors.Is(err, errWrite) {
		t.Errorf("error %v, expected the error of the writer", err)
	}
	if err := Explain(&out, smallPlan(), smallTensors[1:], loraParams); err == nil {
		t.Error("a plan for other tensors gave no error")
	}
}

// TestExplainOnly checks that the table of a plan with only structured or only unstructured tuning
// says so.
func TestExplainOnly(t *testing.T) {
	whole := smallPlan()
	structured := &plan.Plan{Only: plan.Structured, Module: "lora", Rank: 1, Alpha: 10, Beta: 5, Budget: 20, Tau: 9,
		Cost: plan.Cost{Structured: 13, Vectors: 3, ClassToken: 3, Total: 19}, Matrices: whole.Matrices, Vectors: []string{"norm.weight"}}
	unstructured := &plan.Plan{Only: plan.Unstructured, Alpha: 10, Beta: 5, Budget: 20, Tau: 4,
		Cost: plan.Cost{Unstructured: 4, ClassToken: 3, Total: 7}, Entries: whole.Entries}
	for only, p := range map[string]*plan.Plan{plan.Structured: structured, plan.Unstructured: unstructured} {
		count := plan.Count(loraParams)
		if only == plan.Unstructured {
			count = nil
		}
		var table bytes.Buffer
		if err := Explain(&table, p, smallTensors, count); err != nil || !strings.Contains(table.String(), only+" only") {
			t.Errorf("%s: %v\n%s", only, err, table.String())
		}
	}
}

var errWrite = errors.New("no space")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errWrite }
