package backbone_test

import (
	"math"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
)

// featuresIn returns the features of n images in the precision of m. It also checks the types of
// the placed weights.
func featuresIn(t *testing.T, be backend.Backend, m *backbone.Model, pixels []uint8, n int) []float32 {
	t.Helper()
	placed, err := m.On(be)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var args []any
	for _, p := range m.Config.Params() {
		if w, ok := placed[p.Name]; ok {
			names, args = append(names, p.Name), append(args, w)
			want := dtypes.Float32
			if len(p.Shape) > 1 {
				want = m.Precision.DType(be)
			}
			if w.DType() != want {
				t.Errorf("%s is placed as %s, want %s", p.Name, w.DType(), want)
			}
		}
	}
	compiled, err := program.New(be, "features", func(_ *Graph, in []*Node) []*Node {
		byName := map[string]*Node{}
		for i, name := range names {
			byName[name] = in[i]
		}
		return []*Node{m.Features(backbone.Untuned(byName), in[len(names)])}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	size := m.Config.ImageSize
	images, err := program.Tensor(be, pixels, n, size, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(images)
	out, err := compiled.Run(t.Context(), append(args, images)...)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(out...)
	return values(t, out[0])
}

func values(t *testing.T, x *tensors.Tensor) []float32 {
	t.Helper()
	v, err := program.Float32s(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestBFloat16 checks that every architecture computes nearly the same in bfloat16 as in float32,
// and that its matrices take half of the memory. bfloat16 has a mantissa of eight bits.
func TestBFloat16(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vit-cls-timm", "vit-dinov2swiglu-timm", "swin-even-timm", "swin-padded-timm", "convnext-v1-timm", "convnext-v2-timm"} {
		f := fixtures.Backbone(t, name)
		m, _, err := backbone.Load(f.Path(), options(f))
		if err != nil {
			t.Fatal(err)
		}
		pixels := slices.Concat(colours.Pixels(0, m.Config.ImageSize, 1), colours.Pixels(1, m.Config.ImageSize, 1))
		want := featuresIn(t, be, m, pixels, 2)
		got := featuresIn(t, be, m.In(backend.BF16, false), pixels, 2)
		var difference, size float64
		for i := range want {
			difference += math.Pow(float64(got[i]-want[i]), 2)
			size += math.Pow(float64(want[i]), 2)
		}
		relative := math.Sqrt(difference / size)
		if !(relative > 0) || relative > 3e-2 {
			t.Errorf("%s: relative difference %g, expected above 0 and at most 0.03", name, relative)
		}
		t.Logf("%s: relative difference %.2g", name, relative)
	}
}
