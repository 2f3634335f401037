package backbone_test

import (
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/nn"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/fixtures"
)

// TestFeatureMap compares the mean of the feature map with the pooled features, for every model
// that pools by the mean. The maps of these ConvNeXt models have one position.
func TestFeatureMap(t *testing.T) {
	fast, _ := backends(t)
	compared := map[string]int{}
	for _, f := range fixtures.Backbones(t) {
		if f.Naming != "timm" && f.Family == "vit" && f.Pooling != "token+avg" {
			continue // one checkpoint of each variant is enough
		}
		o := backbone.LoadOptions{ImageSize: f.ImageSize, NumClasses: 5}
		if f.Family == "vit" {
			o = options(f)
		}
		m, _, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Fatal(err)
		}
		var side, width int
		switch v := m.Config.Form.(type) {
		case backbone.ViT:
			side, width = m.Config.ImageSize/v.PatchSize, v.EmbedDim
		case backbone.Swin:
			side, width = (m.Config.ImageSize/v.PatchSize+1<<(len(v.Depths)-1)-1)>>(len(v.Depths)-1), m.Config.NumFeatures()
		case backbone.ConvNeXt:
			side, width = m.Config.ImageSize/v.PatchSize>>(len(v.Depths)-1), v.Dims[len(v.Dims)-1]
		}
		out := run(t, fast, m, normalised(t, f), func(w backbone.Layers, images *Node) []*Node {
			x := m.FeatureMap(w, images)
			if got, want := x.Shape().Dimensions, []int{2, side, side, width}; width > 0 && !slices.Equal(got, want) {
				t.Errorf("%s: the map has the shape %v, expected %v", f.Name, got, want)
			}
			return []*Node{ReduceMean(x, 1, 2), m.Features(w, images)}
		})
		mean, features := out[0], out[1]
		switch v := m.Config.Form.(type) {
		case backbone.ViT:
			if v.Pooling == "token+avg" { // the mean is the second half
				var second []float32
				for i := range 2 {
					second = append(second, features[(2*i+1)*width:(2*i+2)*width]...)
				}
				features = second
			} else if v.Pooling != "avg" || v.FCNorm {
				if d := difference(mean, features); v.Pooling == "" && d < 1e-3 {
					t.Errorf("%s: the mean of the map is the class token", f.Name)
				}
				continue
			}
		case backbone.ConvNeXt:
			if v.HiddenSize > 0 { // a layer follows after the pooling
				continue
			}
		}
		compared[f.Family]++
		if d := difference(mean, features); !(d <= 1e-5) {
			t.Errorf("%s: the mean of the map and the pooled features differ by %.2g", f.Name, d)
		}
	}
	if compared["vit"] < 2 || compared["swin"] < 2 || compared["convnext"] < 2 {
		t.Errorf("compared %v", compared)
	}
}

// lastBlock is a Layers that records the output of the last block.
type lastBlock struct {
	backbone.Layers
	out *Node
}

func (l *lastBlock) Branch(_ string, _ int, x, y *Node) *Node {
	l.out = Add(x, y)
	return y
}

// TestFeatureMapConvNeXt checks that every position of the map is normalised on its own, and that
// the pooled features are the normalised mean of the output of the last block.
func TestFeatureMapConvNeXt(t *testing.T) {
	fast, _ := backends(t)
	f := fixtures.Backbone(t, "convnext-v1-hf") // its final norm has a different eps
	m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{ImageSize: 120})
	if err != nil {
		t.Fatal(err)
	}
	images := make([]float32, 2*120*120*3)
	for i := range images {
		images[i] = float32(i*i%101)/50 - 1
	}
	out := run(t, fast, m, images, func(w backbone.Layers, images *Node) []*Node {
		l := &lastBlock{Layers: w}
		x := m.FeatureMap(l, images)
		if got := x.Shape().Dimensions; !slices.Equal(got, []int{2, 3, 3, m.Config.NumFeatures()}) {
			t.Errorf("the map has the shape %v", got)
		}
		norm := func(x *Node) *Node {
			return nn.LayerNorm(x, []int{x.Rank() - 1}, m.Config.Form.(backbone.ConvNeXt).FinalNormEps, w.Param("head.norm.weight"), w.Param("head.norm.bias"), nil)
		}
		return []*Node{x, norm(l.out), m.Features(w, images), norm(ReduceMean(l.out, 1, 2)), ReduceMean(x, 1, 2)}
	})
	if d := difference(out[0], out[1]); !(d <= 1e-5) {
		t.Errorf("the map differs by %.2g", d)
	}
	if d := difference(out[2], out[3]); !(d <= 1e-5) {
		t.Errorf("the pooled features differ by %.2g", d)
	}
	if d := difference(out[4], out[2]); d < 1e-4 {
		t.Error("the mean of the map is the pooled features: the test shows little")
	}
}
