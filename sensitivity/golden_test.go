package sensitivity_test

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/internal/golden/sptsmall"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/sensitivity"
)

// score runs stage 1 on the batches of the reference implementation.
func score(t *testing.T, s *sptsmall.Reference) *sensitivity.Scores {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := s.Model(t)
	scorer, err := sensitivity.NewScorer(be, m, objective.SingleLabel, m.Weights)
	if err != nil {
		t.Fatal(err)
	}
	defer scorer.Close()
	images, labels := s.Data(t)
	for b := range images {
		x, err := program.Tensor(be, images[b], s.BatchSize, s.ImageSize, s.ImageSize, 3)
		if err != nil {
			t.Fatal(err)
		}
		y, err := program.Tensor(be, labels[b], s.BatchSize)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := scorer.Add(t.Context(), x, y); err != nil {
			t.Fatal(err)
		}
	}
	scores, err := scorer.Scores()
	if err != nil {
		t.Fatal(err)
	}
	return scores
}

// TestGoldenSensitivity compares all scores with the scores of the reference implementation.
func TestGoldenSensitivity(t *testing.T) {
	s := sptsmall.Open(t)
	want := golden.Open(t, golden.Path(t, "spt_small", "sensitivity.npz"))
	got := score(t, s)
	for i, loss := range want.Float64("losses") {
		if math.Abs(got.Losses[i]-loss) > 1e-4*loss {
			t.Errorf("batch %d: loss %.6f, expected %.6f", i, got.Losses[i], loss)
		}
	}
	worst := 0.0
	for _, tensor := range got.Tensors {
		if strings.HasSuffix(tensor.Name, ".attn.k.bias") {
			// Softmax does not change if the same vector is added to all keys. The exact gradient
			// of a key bias is zero, so both implementations give rounding noise.
			reference := want.Float32(strings.Replace(tensor.Name, "k.bias", "q.bias", 1))
			if noise := slices.Max(tensor.Scores); noise > 1e-8*slices.Max(reference) {
				t.Errorf("%s: score %g, but the exact score is 0", tensor.Name, noise)
			}
			continue
		}
		var d, n float64
		for i, w := range want.Float32(tensor.Name) {
			d += math.Pow(float64(tensor.Scores[i])-float64(w), 2)
			n += float64(w) * float64(w)
		}
		r := math.Sqrt(d / n)
		worst = max(worst, r)
		if !(r <= 1e-4) {
			t.Errorf("%s: relative difference %.2g, expected at most 1e-4", tensor.Name, r)
		}
	}
	t.Logf("%d tensors: largest relative difference %.2g", len(got.Tensors), worst)
}

// TestSaveLoad checks that Load returns the saved scores bit for bit.
func TestSaveLoad(t *testing.T) {
	want := &sensitivity.Scores{
		Tensors: []sensitivity.Tensor{{Name: "norm.weight", Shape: []int{2}, Norm: true, Scores: []float32{0, 1e-30}}, {Name: "a.weight", Shape: []int{1, 3}, Scores: []float32{3, 2, 1}}},
		Losses:  []float64{2.5, 1.25}, Images: 64, Criterion: sensitivity.Taylor, Backbone: "abc",
	}
	path := filepath.Join(t.TempDir(), "scores.safetensors")
	if err := want.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := sensitivity.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Tensors) != 2 || got.Tensors[0].Name != "norm.weight" || !got.Tensors[0].Norm || got.Tensors[1].Norm ||
		got.Tensors[1].Scores[2] != 1 || got.Tensors[0].Scores[1] != 1e-30 || got.Images != 64 || got.Backbone != "abc" || got.Losses[1] != 1.25 {
		t.Errorf("read back %+v", got)
	}
}

// TestScorerWrongHead checks the error for a head of the wrong size. It also checks that NewScorer
// then leaves no memory allocated on the backend.
func TestScorerWrongHead(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 1, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 4, Depth: 1, HiddenDim: 8}}
	sd := checkpoint.StateDict{}
	for _, p := range c.Params() {
		sd[p.Name] = checkpoint.NewTensor(p.Shape...)
	}
	head := checkpoint.StateDict{"head.weight": checkpoint.NewTensor(2, 4), "head.bias": checkpoint.NewTensor(2)}
	m := backbone.NewModel(c, backbone.Preprocessing{}, sd)
	if _, err := m.On(be); err != nil { // the weights stay on the backend for the next stage
		t.Fatal(err)
	}
	held := func() int64 {
		memory, _ := cpu.MemoryOf(be) // only the CPU backend reports its memory
		return memory.Buffers
	}
	before := held()
	if _, err := sensitivity.NewScorer(be, m, objective.SingleLabel, head); err == nil {
		t.Error("a head of 2 classes was accepted for a backbone of 3 classes")
	}
	if after := held(); after != before {
		t.Errorf("NewScorer failed and left %d bytes allocated on the backend", after-before)
	}
}
