package bench

import (
	"fmt"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
)

// inside is how many pairs of a position and a tap of a 7-wide kernel there are
// along one axis of a map, of those that lie on the map.
func inside(side int) (n int) {
	for position := range side {
		for tap := -3; tap <= 3; tap++ {
			if position+tap >= 0 && position+tap < side {
				n++
			}
		}
	}
	return n
}

// depthwiseWork is a depth-wise 7×7 convolution of a map [B, H, H, C], or either
// of its gradients.
func depthwiseWork(dims []int) float64 {
	return 2 * float64(dims[0]*dims[3]*inside(dims[1])*inside(dims[1]))
}

// The forward pass has the multiply-adds that the paper gives for ConvNeXt-T at
// 224 px with 1000 classes, 4.5 G, which count what meets zeros beyond the edges
// too.
func TestWorkConvNeXtForward(t *testing.T) {
	c := size(t, "convnext-tiny", 1000)
	got := Work(c, peft.Linear(), Forward, 1) / 2e9
	form, zeros := c.Form.(backbone.ConvNeXt), 0.0
	for i, side := range []int{56, 28, 14, 7} {
		zeros += float64(form.Depths[i]*form.Dims[i]*(49*side*side-inside(side)*inside(side))) / 1e9
	}
	if text := fmt.Sprintf("%.1f", got+zeros); text != "4.5" || zeros < 0.01 {
		t.Errorf("%s GMACs and %.3f of zeros among them, published are 4.5", text, zeros)
	}
	if n := c.Size() + c.NumFeatures()*1000 + 1000; n != 28_589_128 { // timm's convnext_tiny
		t.Errorf("%d parameters", n)
	}
}

// Work is what the products and convolutions of the graph come to that autodiff
// builds, after what nothing asks for is left out.
func TestWorkConvNeXtIsTheGraphs(t *testing.T) {
	c := backbone.Config{ImageSize: 44, NumClasses: 5, LayerNormEps: 1e-6,
		Form: backbone.ConvNeXt{PatchSize: 4, EmbedDim: 4, Depths: []int{1, 2, 1}, Dims: []int{4, 6, 10}}}
	v2 := c
	form := c.Form.(backbone.ConvNeXt)
	form.ResponseNorm = true
	v2.Form = form
	plan := peft.Selection{Module: "lora", Rank: 2, Structured: []string{"stages.1.blocks.0.mlp.fc2.weight"}, Whole: []string{"stages.1.blocks.0.norm.bias"}}
	whole := func(names ...string) peft.Selection { return peft.Selection{Whole: names} }
	for name, test := range map[string]struct {
		c backbone.Config
		s peft.Selection
		m Method
	}{
		"forward":       {c, peft.Linear(), Forward},
		"linear":        {c, peft.Linear(), Method(method.Linear)},
		"full":          {c, peft.Full(c), Method(method.Full)},
		"score":         {c, peft.Linear(), Score},
		"lora":          {c, peft.Uniform(c, "lora", 3), Method(method.LoRA)},
		"adapter":       {c, peft.Uniform(c, "adapter", 3), Method(method.Adapter)},
		"plan":          {c, plan, Method(method.SPTLoRA)},
		"kernel":        {c, whole("stages.1.blocks.1.conv_dw.weight"), Method(method.SPTLoRA)},
		"down-sampling": {c, whole("stages.1.downsample.1.weight"), Method(method.SPTLoRA)},
		"norm":          {c, whole("stages.2.downsample.0.weight"), Method(method.SPTLoRA)},
		"gamma":         {c, whole("stages.1.blocks.0.gamma"), Method(method.SPTLoRA)},
		"last norm":     {c, whole("head.norm.weight"), Method(method.SPTLoRA)},
		"V2":            {v2, peft.Full(v2), Method(method.Full)},
		"V2's norm":     {v2, whole("stages.1.blocks.0.mlp.grn.weight"), Method(method.SPTLoRA)},
	} {
		if got, want := Work(test.c, test.s, test.m, 2), graphWork(t, test.c, test.s, test.m, 2); got != want {
			t.Errorf("%s: %.0f, the graph has %.0f", name, got, want)
		}
	}
}

// A tuned entry of a kernel takes a multiply-add for each position at which its
// tap lies on the map.
func TestWorkConvNeXtEntries(t *testing.T) {
	c := size(t, "convnext-tiny", 10)
	work := func(name string, entries ...int32) float64 {
		return Work(c, peft.Selection{Entries: map[string][]int32{name: entries}}, Method(method.SPTLoRA), 1)
	}
	const kernel = "stages.3.blocks.2.conv_dw.weight" // of a map of 7×7
	for entry, want := range map[int32]float64{24: 49, 0: 16, 49 + 6: 16, 3: 28, 21: 28, 48: 16} {
		if got := (work(kernel, 22, entry) - work(kernel, 22)) / 2; got != want {
			t.Errorf("entry %d of a depth-wise kernel: %g, expected %g", entry, got, want)
		}
	}
	const down = "stages.3.downsample.1.weight"
	if got := (work(down, 1, 2, 3) - work(down, 3)) / 2; got != 2*49 {
		t.Errorf("two entries of a down-sampling kernel: %g, expected 98", got)
	}
}
