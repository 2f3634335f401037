package spt_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// corner is an architecture that sees only the pixels of rows 0 to S/5 and columns 4S/5 to S. Its
// features are the mean colour of these pixels.
type corner struct {
	Channels int `json:"channels"`
}

func init() {
	features := func(_ corner, c backbone.Config, _ backbone.Layers, _ int, images *Node) *Node {
		s := c.ImageSize
		return ReduceMean(Slice(images, AxisRange(), AxisRange(0, s/5), AxisRange(s-s/5, s)), 1, 2)
	}
	if err := backbone.Register(backbone.Architecture[corner]{
		Name: "corner", Head: "head",
		Namings: []checkpoint.Naming{{Source: "corner", Marks: []string{"corner.*"}, Rules: checkpoint.Keeps("head.*")}},
		Configure: func(*backbone.Source) (backbone.Config, error) {
			return backbone.Config{}, errors.New("no checkpoints")
		},
		Validate:    func(corner, backbone.Config) error { return nil },
		Describe:    func(corner, backbone.Config) string { return "corner" },
		NumFeatures: func(f corner) int { return f.Channels },
		Blocks:      func(corner) int { return 0 },
		Tokens:      func(corner, backbone.Config) int { return 1 },
		Params:      func(corner, backbone.Config) []backbone.Param { return nil },
		Features:    features, FeatureMap: features,
	}); err != nil {
		panic(err)
	}
}

// classifierOf returns a classifier with the selection s. All tuned tensors have random values, so
// that the logits depend on each of them.
func classifierOf(t *testing.T, m *backbone.Model, s peft.Selection) (*spt.Classifier, *spt.Trained) {
	t.Helper()
	tuning, err := peft.New(m.Config, s)
	if err != nil {
		t.Fatal(err)
	}
	tuned := tuning.Init(1, peft.PaperScheme, m.Weights)
	r := rand.New(rand.NewPCG(3, 4))
	for _, p := range tuning.Params { // in a fixed order
		for i := range tuned[p.Name].Data {
			tuned[p.Name].Data[i] += float32(r.NormFloat64()) * 0.2
		}
	}
	return newClassifier(t, m, &spt.Trained{Objective: objective.SingleLabel, Tuning: tuning, Tuned: tuned})
}

func newClassifier(t *testing.T, m *backbone.Model, trained *spt.Trained) (*spt.Classifier, *spt.Trained) {
	t.Helper()
	c, err := spt.NewClassifier(nil, m, trained, nil, dataset.Transform{Size: m.Config.ImageSize})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, trained
}

// naive computes the Saliency of one image pixel by pixel, with one forward pass for each covered
// image.
func naive(t *testing.T, m *backbone.Model, trained *spt.Trained, pixels []uint8, class int) (out spt.Saliency) {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(be, m, trained.Objective, trained.Tuning, trained.Tuned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	size := m.Config.ImageSize
	score := func(pixels []uint8) float64 {
		x, err := program.Tensor(be, pixels, 1, size, size, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer program.Free(x)
		logits, err := p.Logits(t.Context(), x)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, v := range logits {
			sum += math.Exp(float64(v))
		}
		p := math.Exp(float64(logits[class])) / sum
		return math.Log(p / (1 - p))
	}
	var mean [3]float64
	for i, v := range pixels {
		mean[i%3] += float64(v) / float64(size*size)
	}
	cell := func(pixel int) int { return ((pixel+1)*10 - 1) / size }
	whole, largest := score(pixels), float32(0)
	for shift := range 2 {
		for sy := range 5 + shift {
			for sx := range 5 + shift {
				covered := slices.Clone(pixels)
				in := func(cell, square int) bool { return (cell+shift)/2 == square }
				for i := range covered {
					if in(cell(i/3/size), sy) && in(cell(i/3%size), sx) {
						covered[i] = uint8(math.Round(mean[i%3]))
					}
				}
				drop := whole - score(covered)
				for y := range 10 {
					for x := range 10 {
						if in(y, sy) && in(x, sx) && drop >= 1e-4 {
							out[y][x] += float32(drop)
							largest = max(largest, out[y][x])
						}
					}
				}
			}
		}
	}
	for y := range out {
		for x := range out[y] {
			out[y][x] /= largest
		}
	}
	return out
}

// noise returns the pixels of n random images with a random colour in each square of 5 px.
func noise(n, size int) []uint8 {
	r := rand.New(rand.NewPCG(5, 6))
	out := make([]uint8, 0, n*size*size*3)
	for range n {
		var squares [3 * 100 * 100]uint8
		for i := range squares {
			squares[i] = uint8(r.Uint32())
		}
		for y := range size {
			for x := range size {
				out = append(out, squares[3*(y/5*100+x/5):][:3]...)
			}
		}
	}
	return out
}

// TestExplain compares the maps with naive, for every family of backbones and every kind of tuned
// parameter. Sizes that 10 does not divide give cells of unequal sizes.
func TestExplain(t *testing.T) {
	vit := func(size int) *backbone.Model {
		c := config
		c.ImageSize = size
		return colours.Model(c)
	}
	load := func(fixture string) *backbone.Model {
		m, _, err := backbone.Load(fixtures.Backbone(t, fixture).Path(), backbone.LoadOptions{NumClasses: 3})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	swin, convnext := load("swin-padded-hf5"), load("convnext-v2-timm")
	for name, test := range map[string]struct {
		m *backbone.Model
		s func(c backbone.Config) peft.Selection
	}{
		"head":        {vit(32), func(backbone.Config) peft.Selection { return peft.Selection{} }},
		"ViT of 8 px": {vit(8), func(c backbone.Config) peft.Selection { return peft.Uniform(c, "lora", 2) }},
		"adapter":     {vit(40), func(c backbone.Config) peft.Selection { return peft.Uniform(c, "adapter", 2) }},
		"prompts": {vit(40), func(backbone.Config) peft.Selection {
			return peft.Selection{Prompts: &peft.Prompts{Tokens: 3, Deep: true}}
		}},
		"entries and MLP": {vit(24), func(backbone.Config) peft.Selection {
			return peft.Selection{Entries: map[string][]int32{"blocks.1.attn.v.weight": {0, 9, 63}}, MLPHead: 2}
		}},
		"Swin, LoRA":       {swin, func(c backbone.Config) peft.Selection { return peft.Uniform(c, "lora", 2) }},
		"ConvNeXt, SSF":    {convnext, func(backbone.Config) peft.Selection { return peft.Selection{SSF: true} }},
		"bf16 activations": {vit(32).In(backend.BF16, false), func(backbone.Config) peft.Selection { return peft.Selection{} }},
	} {
		t.Run(name, func(t *testing.T) {
			c, trained := classifierOf(t, test.m, test.s(test.m.Config))
			pixels := noise(2, test.m.Config.ImageSize)
			got, err := c.Explain(t.Context(), pixels, []int{2, 1})
			if err != nil {
				t.Fatal(err)
			}
			for i, class := range []int{2, 1} {
				want := naive(t, test.m, trained, pixels[i*len(pixels)/2:][:len(pixels)/2], class)
				worst, largest := 0.0, float32(0)
				for y := range want {
					for x := range want[y] {
						worst = max(worst, math.Abs(float64(got[i][y][x]-want[y][x])))
						largest = max(largest, got[i][y][x])
					}
				}
				if !(worst < 1e-3) || largest != 1 {
					t.Errorf("image %d: the map differs by %g from the naive map, its largest value is %g", i, worst, largest)
				}
			}

			again, err := c.Explain(t.Context(), pixels, []int{2, 1})
			if err != nil || !slices.Equal(again, got) {
				t.Errorf("a second call gave other maps: %v", err)
			}
			alone, err := c.Explain(t.Context(), pixels[len(pixels)/2:], []int{1})
			if err != nil || !slices.Equal(alone, got[1:]) {
				t.Errorf("an image without the other images gave another map: %v", err)
			}
		})
	}
}

// TestExplainCorner explains a classifier that sees only the cells in rows 0 and 1 and columns 8
// and 9. The values of all squares that do not overlap these cells must be exactly 0.
func TestExplainCorner(t *testing.T) {
	c := backbone.Config{ImageSize: 20, NumClasses: 3, LayerNormEps: 1e-6, Form: corner{3}}
	m := backbone.NewModel(c, backbone.Preprocessing{Std: [3]float32{1, 1, 1}}, checkpoint.StateDict{})
	tuning, err := peft.New(c, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	head := func(scale float32) *spt.Trained {
		tuned := tuning.Init(0, peft.PaperScheme, m.Weights)
		for _, p := range tuning.Params {
			for i := range tuned[p.Name].Data {
				tuned[p.Name].Data[i] = 0
				if len(p.Shape) == 2 && i%4 == 0 {
					tuned[p.Name].Data[i] = scale
				}
			}
		}
		return &spt.Trained{Objective: objective.SingleLabel, Tuning: tuning, Tuned: tuned}
	}
	// The corner is green, the other pixels are blue.
	pixels := make([]uint8, 20*20*3)
	for i := range 20 * 20 {
		if y, x := i/20, i%20; y < 4 && x >= 16 {
			pixels[3*i+1] = 255
		} else {
			pixels[3*i+2] = 255
		}
	}
	classifier, _ := newClassifier(t, m, head(4))
	maps, err := classifier.Explain(t.Context(), slices.Repeat(pixels, 2), []int{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	// The square of the first grid covers the corner. The squares of the second grid that overlap
	// the corner cover a quarter of it each.
	for y, row := range maps[0] {
		for x, v := range row {
			switch {
			case y < 2 && x >= 8:
				if math.Abs(float64(v)-1) > 1e-6 {
					t.Errorf("cell %d, %d of the corner: %g, expected 1", y, x, v)
				}
			case y < 3 && x >= 7:
				if v <= 0 || v > 0.5 {
					t.Errorf("cell %d, %d beside the corner: %g, expected a small positive value", y, x, v)
				}
			case v != 0:
				t.Errorf("cell %d, %d: %g, expected 0", y, x, v)
			}
		}
	}
	// Covering the green corner raises the probability of blue.
	if maps[1] != (spt.Saliency{}) {
		t.Errorf("the map of blue is %v, expected zeros", maps[1])
	}

	// The logits of a head of zeros do not depend on the image.
	classifier, _ = newClassifier(t, m, head(0))
	if maps, err = classifier.Explain(t.Context(), pixels, []int{1}); err != nil || maps[0] != (spt.Saliency{}) {
		t.Errorf("the map of a constant classifier is %v, %v; expected zeros", maps, err)
	}
	classifier, _ = newClassifier(t, m, head(float32(math.NaN())))
	if _, err = classifier.Explain(t.Context(), pixels, []int{1}); err == nil || !strings.Contains(err.Error(), "are not finite") {
		t.Errorf("logits that are not numbers: %v, expected an error", err)
	}
}

// TestExplainTrained trains a ViT on images of 5 × 5 coloured patches. The class is the brightest
// channel of one patch, and the other patches have random channels. The maps must show this patch.
func TestExplainTrained(t *testing.T) {
	const size, patch = 40, 8
	r := rand.New(rand.NewPCG(7, 8))
	samples := func(n int) (out []dataset.Sample) {
		for i := range n {
			pix := make([]uint8, size*size*3)
			var bright [25]int
			for p := range bright {
				bright[p] = r.IntN(3)
			}
			bright[1*5+3] = i % 3
			for k := range pix {
				y, x := k/3/size, k/3%size
				pix[k] = uint8(40 + r.IntN(60))
				if k%3 == bright[y/patch*5+x/patch] {
					pix[k] += 140
				}
			}
			out = append(out, dataset.Sample{Image: &dataset.RGB{Width: size, Height: size, Pix: pix}, Target: dataset.Class(i % 3)})
		}
		return out
	}
	c := backbone.Config{ImageSize: size, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: patch, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	data, err := dataset.New("patches", []string{"red", "green", "blue"}, samples(1200), samples(60), nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(c), data)
	if err != nil {
		t.Fatal(err)
	}
	trained, err := task.Train(t.Context(), peft.Full(c), spt.TrainOptions{Options: train.Options{Epochs: 20, BatchSize: 20, LR: 5e-3}})
	if err != nil {
		t.Fatal(err)
	}
	if last := trained.Epochs[len(trained.Epochs)-1]; last.ValAccuracy < 0.95 {
		t.Fatalf("the ViT has not learnt the task: %+v", last)
	}
	classifier, _ := newClassifier(t, task.Model(), trained)
	var pixels []uint8
	var classes []int
	for i, s := range samples(9) {
		pixels = append(pixels, s.Image.Pix...)
		classes = append(classes, i%3)
	}
	maps, err := classifier.Explain(t.Context(), pixels, classes)
	if err != nil {
		t.Fatal(err)
	}
	mean := 0.0
	for i, m := range maps {
		inside, all := 0.0, 0.0
		for y, row := range m {
			for x, v := range row {
				all += float64(v)
				// The patch has rows 2 and 3, columns 6 and 7. Squares overlap it by one cell.
				if y >= 1 && y < 5 && x >= 5 && x < 9 {
					inside += float64(v)
				}
			}
		}
		if share := inside / all; !(share > 0.32) {
			t.Errorf("image %d: a share of %g lies at the patch, which is 16 %% of the image; expected more than 32 %%", i, share)
		}
		mean += inside / all / float64(len(maps))
	}
	if !(mean > 0.8) {
		t.Errorf("a mean share of %g lies at the patch, expected more than 0.8", mean)
	}
}

// TestExplainErrors checks the errors for wrong arguments, a cancelled context, and an objective
// that does not classify whole images.
func TestExplainErrors(t *testing.T) {
	m := colours.Model(config)
	c, trained := classifierOf(t, m, peft.Selection{})
	pixels := noise(2, 16)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Explain(cancelled, pixels, []int{0, 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
	if maps, err := c.Explain(t.Context(), nil, nil); err != nil || len(maps) > 0 {
		t.Errorf("no images: %v, %v", maps, err)
	}
	perPatch := *trained
	perPatch.Objective = patches{objective.SingleLabel}
	dense, _ := newClassifier(t, m, &perPatch)
	for _, test := range []struct {
		c       *spt.Classifier
		pixels  []uint8
		classes []int
		want    string
	}{
		{c, pixels, []int{0, 3}, "image 2: class 3, expected 0 to 2"},
		{c, pixels, []int{-1, 0}, "image 1: class -1, expected 0 to 2"},
		{c, pixels, []int{0}, "found 1536 pixel values, expected 768"},
		{c, pixels[1:], []int{0, 1}, "found 1535 pixel values, expected 1536"},
		{dense, pixels, []int{0, 1}, "use a delta whose objective classifies whole images"},
	} {
		if _, err := test.c.Explain(t.Context(), test.pixels, test.classes); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("expected an error with %q, got %v", test.want, err)
		}
	}
}

// patches is an objective with logits for each patch.
type patches struct{ objective.Objective }

func (patches) Features(m *backbone.Model, l backbone.Layers, images *Node) *Node {
	return m.FeatureMap(l, images)
}
