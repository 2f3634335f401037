package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// size returns the configuration of one of Sizes.
func size(t *testing.T, name string, classes int) backbone.Config {
	t.Helper()
	c, err := Config(name, classes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustWork(t *testing.T, c backbone.Config, s peft.Selection, m Method, batch int) float64 {
	t.Helper()
	flop, err := work(c, s, m, batch)
	if err != nil {
		t.Fatal(err)
	}
	return flop
}

// TestWorkForward compares the forward pass with published numbers for 224 px and 1000 classes.
// DeiT (Touvron et al. 2021) reports 1.3, 4.6 and 17.6 billion multiply-adds (GMACs) for tiny,
// small and base. These numbers include tokens of the last block that are never read.
func TestWorkForward(t *testing.T) {
	for name, want := range map[string]string{"tiny": "1.3", "small": "4.6", "base": "17.6"} {
		c := size(t, name, 1000)
		vit := c.Form.(backbone.ViT)
		unread := 196 * (2*vit.EmbedDim*vit.EmbedDim + 2*vit.EmbedDim*vit.HiddenDim + 2*197*vit.EmbedDim)
		got := mustWork(t, c, peft.Selection{}, Forward, 1)/2e9 + float64(unread)/1e9
		if text := fmt.Sprintf("%.1f", got); text != want {
			t.Errorf("%s: %s GMACs, published are %s", name, text, want)
		}
	}
	// The multiply-adds of a ViT-B are 196·768·768 for the patch embedding and 768·1000 for the
	// head. A block has 4·197·768² for q, k, v and proj, 2·197·768·3072 for the MLP, and 2·197²·768
	// for attention. In the last block, everything except k and v is computed for one token only.
	const want = 196*768*768 + 11*(4*197*768*768+2*197*768*3072+2*197*197*768) +
		(2*197+2)*768*768 + 2*768*3072 + 2*197*768 + 768*1000
	if got := mustWork(t, size(t, "base", 1000), peft.Selection{}, Forward, 3); got != 3*2*want {
		t.Errorf("base, three images: %.0f, want %d", got, 3*2*want)
	}
}

// TestWorkByHand compares work with sums over the shapes of a ViT-Ti, in multiply-adds for one
// image.
func TestWorkByHand(t *testing.T) {
	c := size(t, "tiny", 10)
	const (
		n, d, h = 197, 192, 768
		patch   = 196 * 768 * d
		// q, k, v, proj, fc1, fc2; in the last block for one token
		layers    = 11*(4*n*d*d+2*n*d*h) + (2*n+2)*d*d + 2*d*h
		attention = 11*2*n*n*d + 2*n*d
		head      = d * 10
		forward   = patch + layers + attention + head
		// parameters of LoRA at rank 1, times tokens
		lora = 11*(4*2*d+2*(d+h))*n + (2*n+2)*2*d + 2*(d+h)
		// matrices of Adapter at rank 1, times tokens
		adapter = 11*(5*2*d+2*h)*n + (2*n+2)*2*d + 2*d + 2*h
	)
	for _, test := range []struct {
		name   string
		s      peft.Selection
		method Method
		want   int
	}{
		{"linear", peft.Selection{}, Method(method.Linear), forward + head},
		{"full", peft.Full(c), Method(method.Full), forward + patch + 2*layers + 2*attention + 2*head},
		{"score", peft.Selection{}, score, forward + 2*layers + 2*attention + head},
		{"class token", peft.Selection{Whole: []string{"cls_token"}}, Method(method.SPTLoRA), forward + layers + 2*attention + 2*head},
		// Block 0 needs no gradient of its input. So q, k and v each have one product less, and
		// each of their modules has one product less.
		{"lora", peft.Uniform(c, "lora", 8), Method(method.LoRA), forward + layers + 2*attention + 2*head + 3*8*lora - 3*n*d*d - 3*n*d*8},
		{"adapter", peft.Uniform(c, "adapter", 8), Method(method.Adapter), forward + layers + 2*attention + 2*head + 3*8*adapter - 3*n*d*d - 3*n*d*8},
		{"lowest block", peft.Selection{Whole: []string{"blocks.11.mlp.fc1.bias"}}, Method(method.SPTLoRA), forward + d*h + 2*head},
		{"entries", peft.Selection{Entries: map[string][]int32{"blocks.11.mlp.fc2.weight": {1, 5, 9}}}, Method(method.SPTLoRA), forward + 3 + 2*head},
	} {
		if got := mustWork(t, c, test.s, test.method, 1); got != 2*float64(test.want) {
			t.Errorf("%s: %.0f, want %d", test.name, got, 2*test.want)
		}
	}
}

// TestWorkForwardSwin compares the forward pass of Swin-T with the paper (Liu et al. 2021): 4.5
// billion multiply-adds at 224 px with 1000 classes.
func TestWorkForwardSwin(t *testing.T) {
	if got := fmt.Sprintf("%.1f", mustWork(t, size(t, "swin-tiny", 1000), peft.Selection{}, Forward, 1)/2e9); got != "4.5" {
		t.Errorf("%s GMACs, published are 4.5", got)
	}
	// number of parameters of the timm model, without the head
	if got := size(t, "swin-tiny", 1000); got.Size() != 28_288_354-769_000 {
		t.Errorf("%d parameters", got.Size())
	}
}

// inside counts along one axis of a map. It returns the number of pairs of a position and a tap of
// a kernel of width 7 for which the tap lies inside the map.
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

// TestWorkForwardConvNeXt compares the forward pass of ConvNeXt-T with the paper: 4.5 billion
// multiply-adds at 224 px with 1000 classes. The number in the paper includes products with
// padding.
func TestWorkForwardConvNeXt(t *testing.T) {
	c := size(t, "convnext-tiny", 1000)
	got := mustWork(t, c, peft.Selection{}, Forward, 1) / 2e9
	form, zeros := c.Form.(backbone.ConvNeXt), 0.0
	for i, side := range []int{56, 28, 14, 7} {
		zeros += float64(form.Depths[i]*form.Dims[i]*(49*side*side-inside(side)*inside(side))) / 1e9
	}
	if text := fmt.Sprintf("%.1f", got+zeros); text != "4.5" || zeros < 0.01 {
		t.Errorf("%s GMACs, of which %.3f are products with padding; published are 4.5", text, zeros)
	}
	if n := c.Size() + c.NumFeatures()*1000 + 1000; n != 28_589_128 { // timm's convnext_tiny
		t.Errorf("%d parameters", n)
	}
}

// TestWorkEntriesConvNeXt checks that a tuned entry of a kernel counts one multiply-add for each
// position at which its tap lies inside the map.
func TestWorkEntriesConvNeXt(t *testing.T) {
	c := size(t, "convnext-tiny", 10)
	work := func(name string, entries ...int32) float64 {
		slices.Sort(entries)
		return mustWork(t, c, peft.Selection{Entries: map[string][]int32{name: entries}}, Method(method.SPTLoRA), 1)
	}
	const kernel = "stages.3.blocks.2.conv_dw.weight" // its map is 7×7
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

// gated is a structured module with three matrices. It also computes the product of two of the
// matrices, which does not depend on the images.
var gated = peft.Module{
	Name:  "bench-gated",
	Count: func(in, out, rank int) int { return rank * (2*in + out) },
	Graph: func(s *peft.Site, x, y *Node) *Node {
		a := s.Param("a", peft.KaimingUniform, s.Rank, s.In)
		b := s.Param("b", peft.KaimingUniform, s.Rank, s.In)
		c := s.Param("c", peft.Zero, s.Out, s.Rank)
		h := Mul(backbone.Linear(x, a, nil), backbone.GELU(backbone.Linear(x, b, nil)))
		h = Add(backbone.Linear(h, c, nil), backbone.Linear(x, Dot(c, b).Product(), nil))
		return Add(y, h)
	},
}

// TestWorkModule checks that work counts a structured module that the program registers itself.
func TestWorkModule(t *testing.T) {
	if err := peft.Register(gated); err != nil {
		t.Fatal(err)
	}
	c := size(t, "tiny", 10)
	const n, d, h, rank, batch = 197, 192, 768, 4, 3
	s := peft.Selection{Module: gated.Name, Rank: rank, Structured: []string{"blocks.10.mlp.fc1.weight"}}
	// less needs the same gradients of the backbone, but has no module.
	less := peft.Selection{Whole: []string{"blocks.10.mlp.fc1.bias"}}
	// First a, b and c: their inputs need a gradient, except x. Then the product of c and b, with
	// both gradients. Then the product of x with that product, with the gradient of the matrix.
	want := batch*(2*2*n*d*rank+3*n*rank*h) + 3*h*rank*d + batch*2*n*d*h
	got := mustWork(t, c, s, Method(method.SPT(gated.Name)), batch) - mustWork(t, c, less, Method(method.SPTLoRA), batch)
	if got != 2*float64(want) {
		t.Errorf("the module takes %.0f, want %d", got, 2*want)
	}
}

// TestWorkMethods checks that work counts every method of [Methods].
func TestWorkMethods(t *testing.T) {
	c := size(t, "tiny", 10)
	vit := c.Form.(backbone.ViT)
	vit.Depth = 2
	c.Form = vit
	forward := mustWork(t, c, peft.Selection{}, Forward, 1)
	for _, m := range Methods() {
		var budget plan.Budget
		if m.Scores() {
			budget = plan.MustParseBudget("20k")
		}
		s, err := Select(t.Context(), c, m, budget)
		if err != nil {
			t.Errorf("%s: %v", m, err)
			continue
		}
		if got := mustWork(t, c, s, m, 1); m == Forward && got != forward || m != Forward && got <= forward {
			t.Errorf("%s: %.0f, the forward pass takes %.0f", m, got, forward)
		}
	}
}

// TestWorkRefused checks the errors for configurations and selections that cannot be counted.
func TestWorkRefused(t *testing.T) {
	c := size(t, "tiny", 10)
	c.Form = nil
	if _, err := work(c, peft.Selection{}, Forward, 1); err == nil || !strings.Contains(err.Error(), "no form") {
		t.Errorf("a configuration without a form: %v", err)
	}
	if _, err := products(c, 1); err == nil || !strings.Contains(err.Error(), "no form") {
		t.Errorf("products of a configuration without a form: %v", err)
	}
	c = size(t, "tiny", 10)
	if _, err := work(c, peft.Selection{Whole: []string{"blocks.99.x"}}, Method(method.SPTLoRA), 1); err == nil {
		t.Error("work counted a tensor that the backbone does not have")
	}
}

func TestProducts(t *testing.T) {
	for _, test := range []struct {
		size, want string
	}{
		{"tiny", "patch_embed.proj 392 768 192; attn.q, k, v, proj 394 192 192; mlp.fc1 394 192 768; mlp.fc2 394 768 192"},
		{"swin-tiny", "patch_embed.proj 6272 48 96; layers.0.attn.q, k, v, proj 6272 96 96; layers.0.mlp.fc1 6272 96 384; layers.0.mlp.fc2 6272 384 96; layers.1.downsample.reduction 1568 384 192"},
		{"convnext-tiny", "stem.0 6272 48 96; stages.0.mlp.fc1 6272 96 384; stages.0.mlp.fc2 6272 384 96; stages.1.downsample.1 1568 384 192; stages.1.mlp.fc1 1568 192 768"},
	} {
		list, err := products(size(t, test.size, 10), 2)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, g := range list {
			names = append(names, fmt.Sprint(g.Name, " ", g.M, " ", g.K, " ", g.N))
		}
		if got := strings.Join(names, "; "); got != test.want && !strings.HasPrefix(got, test.want+"; layers.1") && !strings.HasPrefix(got, test.want+"; stages.1") {
			t.Errorf("%s: %s", test.size, got)
		}
	}
}

// BenchmarkWork measures the time to count a step of a ViT-B.
func BenchmarkWork(b *testing.B) {
	c, err := Config("base", 100)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := work(c, peft.Uniform(c, "lora", 8), Method(method.LoRA), 8); err != nil {
			b.Fatal(err)
		}
	}
}
