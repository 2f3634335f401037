package train_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/train"
)

// mixed returns a selection of modules, whole vectors and single entries from a block on.
func mixed(c backbone.Config, block int) (s peft.Selection) {
	s = peft.Selection{Module: "lora", Rank: 2, Entries: map[string][]int32{}, FromBlock: block}
	for i, p := range c.ParamsFrom(block) {
		switch {
		case p.Role != backbone.Scored:
		case p.Matrix() && i%3 > 0:
			s.Structured = append(s.Structured, p.Name)
		case len(p.Shape) > 1:
			s.Entries[p.Name] = []int32{0, 3, int32(p.Size() - 1)}
		default:
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}

// TestTokensAgree trains the same selections on images and on the float32 tokens that enter a
// block, for every variant of the backbones in the fixtures and every method that can begin with a
// block. The trainings must agree almost to the bit. No drop-path acts before the block, so dropout
// and the drop-path of modules drop the same values in both.
func TestTokensAgree(t *testing.T) {
	const n = 16
	steps := train.StepOptions{WeightDecay: 1e-2, Rates: peft.Rates{Dropout: 0.1, ModuleDropPath: 0.2}}
	agree := func(t *testing.T, m *backbone.Model, s peft.Selection) {
		t.Helper()
		be, _, err := backend.Open("cpu", 1)
		if err != nil {
			t.Fatal(err)
		}
		tuning, err := peft.New(m.Config, s)
		if err != nil {
			t.Fatal(err)
		}
		tuned := tuning.Init(1, peft.ReleaseScheme, m.Weights)
		side := m.Config.ImageSize
		pixels, classes := colours.Noise(n, side)
		images, err := program.Tensor(be, pixels, n, side, side, 3)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := program.Tensor(be, classes, n)
		if err != nil {
			t.Fatal(err)
		}
		p, err := train.NewPredictor(be, m, objective.SingleLabel, tuning, tuned)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		values, err := p.Tokens(t.Context(), images)
		if err != nil {
			t.Fatal(err)
		}
		count, width, err := m.Config.HiddenSize(s.FromBlock)
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := program.Tensor(be, values, n, count, width)
		if err != nil {
			t.Fatal(err)
		}
		var out [2]checkpoint.StateDict
		for i, x := range []*tensors.Tensor{images, tokens} {
			st, err := train.NewStepper(be, m, objective.SingleLabel, tuning, tuned, steps)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			for range 3 {
				if _, _, err := st.Step(t.Context(), x, labels, 1e-2, 3); err != nil {
					t.Fatal(err)
				}
			}
			if out[i], err = st.Tuned(); err != nil {
				t.Fatal(err)
			}
		}
		moved, apart := 0.0, 0.0
		for name, want := range out[0] {
			for i, v := range want.Data {
				moved = max(moved, math.Abs(float64(v-tuned[name].Data[i])))
				apart = max(apart, math.Abs(float64(v-out[1][name].Data[i])))
			}
		}
		if !(moved > 1e-3) || !(apart <= 1e-5*moved) {
			t.Errorf("from block %d: the trainings moved a value by %g and differ by %g", s.FromBlock, moved, apart)
		}
	}
	for _, f := range fixtures.Backbones(t) {
		if f.Naming != "timm" && f.Naming != "hf5" || f.Naming == "hf5" && f.Pooling != "token+avg" {
			continue // one checkpoint of each variant is enough
		}
		t.Run(f.Name, func(t *testing.T) {
			o := backbone.LoadOptions{ImageSize: f.ImageSize, NumClasses: 3}
			if f.Family == "vit" {
				o.NumHeads = f.NumHeads[0]
			}
			m, _, err := backbone.Load(f.Path(), o)
			if err != nil {
				t.Fatal(err)
			}
			agree(t, m, mixed(m.Config, m.Config.Blocks()-1))
		})
	}
	for _, name := range []method.Method{"lora", "adapter", "adaptformer", "vpt-deep", "ssf", "bitfit", "difffit", "adapter-plus", "fact-tt", "convpass"} {
		t.Run(string(name), func(t *testing.T) {
			row, err := method.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := row.Select(config, method.Options{FromBlock: 1, Prompts: promptsOf(name)})
			if err != nil {
				t.Fatal(err)
			}
			agree(t, colours.Model(config), s)
		})
	}
	// 65 tokens of an image: 16 images are two micro-batches
	t.Run("micro-batches", func(t *testing.T) {
		c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
			Form: backbone.ViT{PatchSize: 1, EmbedDim: 8, Depth: 3, HiddenDim: 16}}
		agree(t, colours.Model(c), mixed(c, 1))
	})
}

// promptsOf returns a small number of prompts for a method that has prompts.
func promptsOf(m method.Method) int {
	if strings.HasPrefix(string(m), "vpt") {
		return 2
	}
	return 0
}

// fromBlock returns a Run that begins with block 1.
func fromBlock(t *testing.T) *train.Run {
	r := newRun(t, mixed(config, 1))
	all := images(33, false)
	r.Train, r.Val = all.Part(0, 24), all.Part(24, 9)
	return r
}

// TestFromBlock checks a whole training from a block on. It must give almost the same result as on
// images, because only the rounding of the tokens to float16 differs, and the same bits if it is
// stopped and resumed.
func TestFromBlock(t *testing.T) {
	r := fromBlock(t)
	r.Options.DropPath = 0
	got, err := r.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := r.Tuning.Selection
	s.FromBlock = 0 // the same parameters, trained on images
	whole, err := peft.New(config, s)
	if err != nil {
		t.Fatal(err)
	}
	start := whole.Init(r.Options.Seed, peft.PaperScheme, r.Model.Weights)
	r.Tuning = whole
	want, err := r.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var moved, apart float64
	for name, w := range want.Tuned {
		for i, v := range w.Data {
			moved += math.Pow(float64(v-start[name].Data[i]), 2)
			apart += math.Pow(float64(v-got.Tuned[name].Data[i]), 2)
		}
	}
	t.Logf("relative difference %.2g; validation losses %g and %g", math.Sqrt(apart/moved), got.Epochs[3].ValLoss, want.Epochs[3].ValLoss)
	if d := math.Sqrt(apart / moved); !(d < 0.02) || d == 0 {
		t.Errorf("trainings on tokens and on images differ by %g of the change", d)
	}
	for i, w := range want.Epochs {
		if g := got.Epochs[i]; math.Abs(g.ValLoss-w.ValLoss) > 1e-2*w.ValLoss {
			t.Errorf("epoch %+v, expected %+v", g, w)
		}
	}

	uninterrupted, err := fromBlock(t).Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, stop := range []int{1, 5} {
		r := fromBlock(t)
		r.Checkpoint = filepath.Join(t.TempDir(), "training.safetensors")
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		r.Progress = func(e progress.Event) {
			if e.Stage == progress.Train {
				if steps++; steps == stop {
					cancel()
				}
			}
		}
		if _, err := r.Do(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		resumed := fromBlock(t)
		resumed.Checkpoint = r.Checkpoint
		again, err := resumed.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "resumed", again.Tuned, uninterrupted.Tuned)
		other := fromBlock(t)
		other.Tuning, other.Checkpoint = whole, r.Checkpoint
		if _, err := other.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "other options") {
			t.Errorf("resumed from the images instead of the block: %v", err)
		}
	}
}

// TestFromBlockRefused checks the errors of trainings that cannot keep tokens.
func TestFromBlockRefused(t *testing.T) {
	r := fromBlock(t)
	r.Train = images(24, true)
	if _, err := r.Do(t.Context()); err == nil || option.Of(err) != "from-block" || !strings.Contains(err.Error(), "turn augmentation off") {
		t.Errorf("with random flips: %v", err)
	}
	large := colours.Model(config)
	for i := range large.Weights["blocks.0.mlp.fc2.weight"].Data {
		large.Weights["blocks.0.mlp.fc2.weight"].Data[i] *= 1e6
	}
	r = fromBlock(t)
	r.Model = large
	if _, err := r.Do(t.Context()); err == nil || option.Of(err) != "from-block" || !strings.Contains(err.Error(), "float16") {
		t.Errorf("with tokens beyond float16: %v", err)
	}
	if err := train.CheckMemory(config, 1, 1000); err != nil {
		t.Error(err)
	}
	const many = 1 << 40
	if err := train.CheckMemory(config, 1, many); err == nil || option.Of(err) != "from-block" || !strings.Contains(err.Error(), "need 87960.9 GB of memory (5 tokens of 8 numbers, 2 bytes each)") {
		t.Errorf("tokens of %d images: %v", int64(many), err)
	}
	if err := train.CheckMemory(config, 3, 1); err == nil || option.Of(err) != "from-block" {
		t.Errorf("block 3 of 3: %v", err)
	}
	var s peft.Selection
	s.FromBlock, s.Whole = 1, []string{"blocks.0.norm1.bias"}
	if _, err := peft.New(config, s); err == nil || !slices.Contains(strings.Fields(err.Error()), "blocks.0.norm1.bias") {
		t.Errorf("a tensor before the block: %v", err)
	}
}
