package train

import (
	"slices"
	"testing"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// TestLoadMixed checks that the targets and shares of mixed images reach the backend, and that a
// mini-batch without mixing has none.
func TestLoadMixed(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	data := Images(dataset.NewLoader(colours.Samples(2, 8, 0), dataset.Transform{Size: 8}, nil, dataset.LoaderOptions{}), objective.SingleLabel, longConfig)
	b := &dataset.Batch{Pixels: make([]uint8, 2*8*8*3), Targets: []dataset.Target{dataset.Class(2), dataset.Class(0)}, N: 2}
	plain, err := data.load(be, b, 2)
	if err != nil || plain.mixed() != nil {
		t.Fatalf("without mixing: %v, %v", plain.mixed(), err)
	}
	b.Others, b.Shares = []dataset.Target{dataset.Class(1), dataset.Class(2)}, []float32{0.25, 1}
	mixed, err := data.load(be, b, 2)
	if err != nil || len(mixed.mixed()) != 2 {
		t.Fatalf("with mixing: %v, %v", mixed.mixed(), err)
	}
	shares, err := program.Float32s(mixed.shares)
	if err != nil || !slices.Equal(shares, b.Shares) || !slices.Equal(mixed.host, []int32{2, 0}) {
		t.Errorf("shares %v, targets %v, %v", shares, mixed.host, err)
	}
	if got := mixed.others.Value(); !slices.Equal(got.([]int32), []int32{1, 2}) {
		t.Errorf("the other targets are %v", got)
	}
	b.Others[0] = dataset.Target(nil)
	if _, err := data.load(be, b, 2); err == nil {
		t.Error("an image without another target was loaded")
	}
}
