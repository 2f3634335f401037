package sensitivity_test

import (
	"iter"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/sensitivity"
)

var config = backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}

// batches are n batches of three images.
func batches(n int) iter.Seq2[*dataset.Batch, error] {
	return func(yield func(*dataset.Batch, error) bool) {
		for b := range n {
			batch := &dataset.Batch{N: 3}
			for i := range 3 {
				batch.Pixels = append(batch.Pixels, colours.Pixels(i, 8, b)...)
				batch.Targets = append(batch.Targets, dataset.Class(i))
			}
			if !yield(batch, nil) {
				return
			}
		}
	}
}

func scored(t *testing.T, n int, o sensitivity.Options) *sensitivity.Scores {
	t.Helper()
	be, err := backend.New()
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(config)
	s, err := sensitivity.Score(t.Context(), be, m, m.Weights, batches(n), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCriteria derives each criterion from the others, value by value.
func TestCriteria(t *testing.T) {
	m := colours.Model(config)
	one := scored(t, 1, sensitivity.Options{})
	taylor := scored(t, 1, sensitivity.Options{Criterion: sensitivity.Taylor})
	two := scored(t, 2, sensitivity.Options{Criterion: sensitivity.Taylor})
	magnitude := scored(t, 0, sensitivity.Options{Criterion: sensitivity.Magnitude})
	random, again, other := scored(t, 0, sensitivity.Options{Criterion: sensitivity.Random, Seed: 1}), scored(t, 0, sensitivity.Options{Criterion: sensitivity.Random, Seed: 1}), scored(t, 0, sensitivity.Options{Criterion: sensitivity.Random, Seed: 2})
	sum, n, differ := 0.0, 0, 0
	for i, tensor := range one.Tensors {
		for _, s := range []*sensitivity.Scores{taylor, two, magnitude, random} {
			if x := s.Tensors[i]; x.Name != tensor.Name || x.Norm != tensor.Norm || len(x.Scores) != len(tensor.Scores) {
				t.Fatalf("%s: tensor %d is %s, expected %s", s.Criterion, i, x.Name, tensor.Name)
			}
		}
		for k, w := range m.Weights[tensor.Name].Data {
			size := math.Abs(float64(w))
			if got := float64(magnitude.Tensors[i].Scores[k]); got != size {
				t.Fatalf("magnitude of %s: %g, expected %g", tensor.Name, got, size)
			}
			// Of one batch, |w·g| is |w| times the root of g².
			want := size * math.Sqrt(float64(tensor.Scores[k]))
			if got := float64(taylor.Tensors[i].Scores[k]); !(math.Abs(got-want) <= 1e-6+1e-4*want) {
				t.Fatalf("taylor of %s: %g, expected %g", tensor.Name, got, want)
			}
			if two.Tensors[i].Scores[k] < taylor.Tensors[i].Scores[k] {
				t.Fatalf("taylor of %s falls with a second batch", tensor.Name)
			}
			x := random.Tensors[i].Scores[k]
			if x != again.Tensors[i].Scores[k] || x < 0 || x >= 1 {
				t.Fatalf("random of %s: %g, and %g with the same seed", tensor.Name, x, again.Tensors[i].Scores[k])
			}
			if x != other.Tensors[i].Scores[k] {
				differ++
			}
			sum, n = sum+float64(x), n+1
		}
	}
	if mean := sum / float64(n); math.Abs(mean-0.5) > 0.02 || differ < n*9/10 {
		t.Errorf("random: mean %g, %d of %d values differ with another seed", mean, differ, n)
	}
	if len(magnitude.Losses) != 0 || magnitude.Images != 0 || magnitude.ClassToken != 8 || magnitude.Backbone != m.Fingerprint() {
		t.Errorf("magnitude: %d losses, %d images, class token %d", len(magnitude.Losses), magnitude.Images, magnitude.ClassToken)
	}
}

// TestCriterionInFile: the file says by what it was scored, older ones in their own way.
func TestCriterionInFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scores.safetensors")
	for _, c := range sensitivity.Criteria() {
		s := scored(t, 1, sensitivity.Options{Criterion: c})
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		if got, err := sensitivity.Load(path); err != nil || got.Criterion != c {
			t.Errorf("%s: read back %q, %v", c, got.Criterion, err)
		}
	}
	file := func(metadata string) (*sensitivity.Scores, error) {
		if err := checkpoint.Save(path, []checkpoint.Entry{{Name: "a.weight", DType: "F32", Shape: []int{1, 2}, Data: []float32{1, 2}}},
			map[string]string{sensitivity.MetadataKey: metadata}); err != nil {
			t.Fatal(err)
		}
		return sensitivity.Load(path)
	}
	for metadata, want := range map[string]sensitivity.Criterion{
		`{"version":2,"per_sample":true,"order":["a.weight"]}`:  sensitivity.PerSample,
		`{"version":2,"per_sample":false,"order":["a.weight"]}`: sensitivity.SquaredGradient,
	} {
		if s, err := file(metadata); err != nil || s.Criterion != want {
			t.Errorf("%s: %+v, %v", metadata, s, err)
		}
	}
	if _, err := file(`{"version":2,"criterion":"luck","order":["a.weight"]}`); err == nil || !strings.Contains(err.Error(), `"luck"`) || !strings.Contains(err.Error(), path) {
		t.Errorf("unknown criterion: %v", err)
	}
}
