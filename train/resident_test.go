package train

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/objective"
)

// TestResident checks that the device selects, crops and flips stored images exactly as the loader
// does, bit for bit. It checks several epochs and all kinds of crops. Only the last batch is filled
// up.
func TestResident(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := backbone.Config{ImageSize: 8, NumClasses: 3}
	var samples []dataset.Sample
	for i := range 7 {
		m := &dataset.RGB{Width: 9 + i, Height: 12 - i}
		for j := range 3 * m.Width * m.Height {
			m.Pix = append(m.Pix, uint8(37*i+11*j+j*j))
		}
		samples = append(samples, dataset.Sample{Image: m, Target: dataset.Class(i % 3), Where: fmt.Sprint(i)})
	}
	for _, transform := range []dataset.Transform{
		{Size: 8},
		{Size: 8, Resize: "crop", ResizeTo: 10},
		{Size: 8, HorizontalFlip: true},
		{Size: 8, Resize: "direct-crop", ResizeTo: 11},
		{Size: 8, Resize: "direct-crop", ResizeTo: 11, RandomCrop: true},
		{Size: 8, Resize: "direct-crop", ResizeTo: 11, RandomCrop: true, HorizontalFlip: true},
	} {
		for _, o := range []objective.Objective{objective.SingleLabel, grid{objective.SingleLabel}} {
			d := Images(dataset.NewLoader(samples, transform, nil, dataset.LoaderOptions{}), o, c)
			r, err := d.store(t.Context(), be)
			if err != nil || r == nil {
				t.Fatalf("%+v: stored %v, error %v", transform, r, err)
			}
			for epoch := range 3 {
				order := dataset.Shuffle(len(samples), 5, epoch)
				var want []batch
				for b, err := range d.batches(t.Context(), be, order, 3, true, 5, epoch) {
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, b)
				}
				n := 0
				r.batches(t.Context(), d, order, 3, 5, epoch, func(got batch, err error) bool {
					if err != nil {
						t.Fatal(err)
					}
					w := want[n]
					if n++; !slices.Equal(got.host, w.host) {
						t.Errorf("%+v: targets %v, want %v", transform, got.host, w.host)
					}
					on, err := tensors.CopyFlatData[int32](got.targets)
					if err != nil || !slices.Equal(on[:len(w.host)], w.host) || got.targets.Rank() != w.targets.Rank() {
						t.Errorf("%+v: targets %v of shape %s on the device, %v; want %v", transform, on, got.targets.Shape(), err, w.host)
					}
					if got.images.Shape().Dim(0) != 3 || got.targets.Shape().Dim(0) != 3 {
						t.Errorf("a batch has shape %s, expected 3 images", got.images.Shape())
					}
					pixels, expected := bytesOf(t, got.images), bytesOf(t, w.images)
					if !slices.Equal(pixels[:len(expected)], expected) {
						t.Fatalf("%+v, epoch %d: pixels differ", transform, epoch)
					}
					return true
				})
				if n != len(want) {
					t.Errorf("%d batches, want %d", n, len(want))
				}
			}
		}
	}
	any := dataset.Transform{Size: 8, Resize: "crop", ResizeTo: 10, RandomCrop: true}
	if r, err := Images(dataset.NewLoader(samples, any, nil, dataset.LoaderOptions{}), objective.SingleLabel, c).store(t.Context(), be); r != nil || err != nil {
		t.Errorf("images of different shapes: stored %v, error %v; expected nil and no error", r, err)
	}
}

// grid is an objective with targets of shape [2, 3]. The first cell is the class id that it learns.
type grid struct{ objective.Objective }

func (grid) Name() string                      { return "grid" }
func (grid) TargetShape(backbone.Config) []int { return []int{2, 3} }

func (grid) Encode(target dataset.Target, dst []int32) error {
	for i := range dst {
		dst[i] = int32(target.Stratum() + i)
	}
	return nil
}

func (g grid) Loss(logits, targets *graph.Node) *graph.Node {
	return g.Objective.Loss(logits, g.classes(targets))
}

func (g grid) Correct(logits, targets *graph.Node) *graph.Node {
	return g.Objective.Correct(logits, g.classes(targets))
}

// classes returns the first cell of each target.
func (grid) classes(targets *graph.Node) *graph.Node {
	return graph.Reshape(graph.Slice(targets, graph.AxisRange(), graph.AxisElem(0), graph.AxisElem(0)), targets.Shape().Dim(0))
}

func bytesOf(t *testing.T, x *tensors.Tensor) []uint8 {
	t.Helper()
	v, err := tensors.CopyFlatData[uint8](x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
