package sensitivity

import (
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/drop"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/internal/seeded"
	"github.com/sptune/spt/objective"
)

// vit returns a ViT for images of 8 px with one token for each pixel. The CPU scores it in
// micro-batches of 31 images.
func vit(depth int) backbone.Config {
	return backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 1, EmbedDim: 8, Depth: depth, HiddenDim: 16}}
}

// batch holds the images and the classes of a batch.
type batch struct {
	pixels  []uint8
	classes []int32
}

// batches cuts random images into batches of the given sizes.
func batches(sizes ...int) (out []batch) {
	n := 0
	for _, size := range sizes {
		n += size
	}
	pixels, classes := colours.Noise(n, 8)
	for _, size := range sizes {
		out = append(out, batch{pixels[:size*8*8*3], classes[:size]})
		pixels, classes = pixels[size*8*8*3:], classes[size:]
	}
	return out
}

// sum returns the scores of the batches.
func sum(t *testing.T, m *backbone.Model, o Options, batches ...batch) *Scores {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newScorer(be, m, objective.SingleLabel, m.Weights, o.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, b := range batches {
		images, err := program.Tensor(be, b.pixels, len(b.classes), 8, 8, 3)
		if err != nil {
			t.Fatal(err)
		}
		targets, err := program.Tensor(be, b.classes, len(b.classes))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Add(t.Context(), images, targets); err != nil {
			t.Fatal(err)
		}
		program.Free(images, targets)
	}
	scores, err := s.Scores()
	if err != nil {
		t.Fatal(err)
	}
	return scores
}

// difference returns the largest difference of two scores, as a share of the largest score of the
// tensor. Key biases are left out: softmax does not change with them, so they are rounding noise.
func difference(a, b *Scores) (largest float64) {
	for i, x := range a.Tensors {
		if strings.HasSuffix(x.Name, "attn.k.bias") {
			continue
		}
		for k, v := range x.Scores {
			largest = max(largest, math.Abs(float64(v-b.Tensors[i].Scores[k]))/float64(slices.Max(x.Scores)))
		}
	}
	return largest
}

// TestSmallerBatch compares the scores of three batches, the last of which has half the images,
// with a sum of the scores of each batch. Batches of 66 and 33 images are split into micro-batches.
func TestSmallerBatch(t *testing.T) {
	// The first block has no drop-path, so with a single block only the factors differ.
	m := colours.Model(vit(1))
	for _, sizes := range [][]int{{4, 4, 2}, {66, 66, 33}} {
		for _, by := range []Criterion{SquaredGradient, Taylor} {
			for compat, factors := range map[string][]float32{"": {1, 1, 0.5}, CompatRelease: {1, 1, 1}} {
				o := Options{Criterion: by, Compat: compat}
				got, want := sum(t, m, o, batches(sizes...)...), newScores(m, by)
				for b, x := range batches(sizes...) {
					for i, one := range sum(t, m, o, x).Tensors {
						if b == 0 {
							want.Tensors[i].Scores = make([]float32, len(one.Scores))
						}
						for k, v := range one.Scores {
							want.Tensors[i].Scores[k] += factors[b] * v
						}
					}
				}
				if d := difference(want, got); !(d <= 1e-6) {
					t.Errorf("%s, compat %q, batches of %v: the relative difference is %g", by, compat, sizes, d)
				}
				if got.Compat != compat {
					t.Errorf("the scores have compat %q, expected %q", got.Compat, compat)
				}
			}
		}
	}
}

// TestReleaseDropPath compares the scores of single images with an explicit computation. If
// drop-path multiplies a branch by f, the network is that with the last layer of the branch
// multiplied by f. The gradient of the weights of this layer is then f times theirs.
func TestReleaseDropPath(t *testing.T) {
	const depth, images, seed = 3, 24, 7
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	masks, err := program.New(be, "masks", func(g *Graph, in []*Node) (out []*Node) {
		m := drop.New(in[0])
		for block := range depth {
			for range 2 { // attention, then MLP
				out = append(out, Reshape(m.Images(Ones(g, shapes.Make(dtypes.Float32, 1, 1, 1)), 0.05*float64(block))))
			}
		}
		return out
	})
	if err != nil {
		t.Fatal(err)
	}
	defer masks.Close()
	all := batches(slices.Repeat([]int{1}, images)...)
	got, want, dropped := sum(t, colours.Model(vit(depth)), Options{Compat: CompatRelease, Seed: seed}, all...), newScores(colours.Model(vit(depth)), SquaredGradient), 0
	for b, image := range all {
		r := seeded.Rand(seed, fmt.Sprintf("batch %d", b))
		state, err := program.Tensor(be, []uint64{r.Uint64(), r.Uint64(), r.Uint64()}, 3)
		if err != nil {
			t.Fatal(err)
		}
		out, err := masks.Run(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		m, factors := colours.Model(vit(depth)), map[string]float32{}
		for i, x := range out {
			f, err := program.Number(x)
			if err != nil {
				t.Fatal(err)
			}
			if f == 0 {
				dropped++
			}
			for _, parameter := range []string{"weight", "bias"} {
				name := fmt.Sprintf("blocks.%d.%s.%s", i/2, []string{"attn.proj", "mlp.fc2"}[i%2], parameter)
				factors[name] = float32(f)
				for k := range m.Weights[name].Data {
					m.Weights[name].Data[k] *= float32(f)
				}
			}
		}
		for i, x := range sum(t, m, Options{}, image).Tensors {
			f, ok := factors[x.Name]
			if !ok {
				f = 1
			}
			if b == 0 {
				want.Tensors[i].Scores = make([]float32, len(x.Scores))
			}
			for k, v := range x.Scores {
				want.Tensors[i].Scores[k] += f * f * v
			}
		}
	}
	if dropped == 0 || dropped == 4*images {
		t.Fatalf("%d of %d branches are dropped; choose another seed", dropped, 4*images)
	}
	if d := difference(want, got); !(d <= 1e-4) {
		t.Errorf("the relative difference is %g, with %d dropped branches", d, dropped)
	}
}

// TestReleaseMasks checks what the masks of drop-path depend on.
func TestReleaseMasks(t *testing.T) {
	m, half := colours.Model(vit(3)), batches(31)[0]
	whole := batch{slices.Concat(half.pixels, half.pixels), slices.Concat(half.classes, half.classes)}
	release := func(seed uint64, threads int, batches ...batch) *Scores {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
		return sum(t, m, Options{Compat: CompatRelease, Seed: seed}, batches...)
	}
	same := func(a, b *Scores) bool {
		return slices.EqualFunc(a.Tensors, b.Tensors, func(a, b Tensor) bool { return slices.Equal(a.Scores, b.Scores) })
	}
	want := release(1, 1, whole, half)
	if !same(want, release(1, 4, whole, half)) {
		t.Error("the scores depend on the number of threads")
	}
	const least = 1e-3 // a difference beyond rounding
	for name, other := range map[string]*Scores{"without compat": sum(t, m, Options{Seed: 1}, whole, half), "with another seed": release(2, 1, whole, half)} {
		if d := difference(want, other); d < least {
			t.Errorf("the scores %s are the same; the relative difference is %g", name, d)
		}
	}
	// The two micro-batches of whole are equal. With equal masks, their mean gradient would be that
	// of half.
	if d := difference(release(1, 1, half), release(1, 1, whole)); d < least {
		t.Errorf("two micro-batches have the same masks; the relative difference is %g", d)
	}
	// With equal masks, two equal batches would have twice the scores of one.
	one, two := release(1, 1, half), release(1, 1, half, half)
	for _, x := range one.Tensors {
		for k := range x.Scores {
			x.Scores[k] *= 2
		}
	}
	if d := difference(one, two); d < least {
		t.Errorf("two batches have the same masks; the relative difference is %g", d)
	}
	// The first block has no drop-path.
	m = colours.Model(vit(1))
	if !same(release(1, 1, whole), sum(t, m, Options{}, whole)) {
		t.Error("branches of the first block are dropped")
	}
}

// TestCompatInFile checks that a scores file holds its compat mode, and the error for an unknown
// one.
func TestCompatInFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scores.safetensors")
	for _, compat := range []string{"", CompatRelease, "relase"} {
		if err := (&Scores{Criterion: Taylor, Compat: compat}).Save(path); err != nil {
			t.Fatal(err)
		}
		s, err := Load(path)
		if compat == "relase" {
			if err == nil || !strings.Contains(err.Error(), `compat mode "relase" is unknown; did you mean "release"?`) || !strings.Contains(err.Error(), path) {
				t.Errorf("an unknown compat mode: error %v", err)
			}
			continue
		}
		if err != nil || s.Compat != compat {
			t.Fatalf("compat %q: read back %+v, error %v", compat, s, err)
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if content := f.Metadata()["content"]; strings.Contains(content, "compat") != (compat != "") {
			t.Errorf("compat %q: the metadata is %s", compat, content)
		}
	}
}

// TestCompatOption checks the errors for compat modes that are unknown or have no effect.
func TestCompatOption(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Compat: CompatRelease, Criterion: PerSample}, ""},
		{Options{Compat: "paper"}, `compat mode "paper" is unknown`},
		{Options{Compat: CompatRelease, Criterion: Magnitude}, "criterion magnitude reads no images, so compat mode release has no effect on it; leave one of them out"},
		{Options{Compat: CompatRelease, Criterion: Random}, "criterion random reads no images"},
	} {
		err := c.o.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || option.Of(err) != "compat") {
			t.Errorf("%+v: error %v", c.o, err)
		}
	}
}
