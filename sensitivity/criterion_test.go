package sensitivity_test

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/sensitivity"
)

var config = backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}

// images returns a loader of n batches of three images.
func images(n int) *dataset.Loader {
	var samples []dataset.Sample
	for b := range n {
		samples = append(samples, colours.Samples(3, 8, b)...)
	}
	return dataset.NewLoader(samples, dataset.Transform{Size: 8}, nil, dataset.LoaderOptions{})
}

// scored returns the scores of n batches of three images.
func scored(t *testing.T, n int, o sensitivity.Options) *sensitivity.Scores {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(config)
	in := sensitivity.Input{Backend: be, Model: m, Objective: objective.SingleLabel, Head: m.Weights, Images: images(n)}
	o.BatchSize = 3
	s, err := sensitivity.Score(t.Context(), in, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCriteria checks the scores of each criterion against the weights and the other criteria.
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
				t.Fatalf("magnitude score of %s is %g, expected %g", tensor.Name, got, size)
			}
			// For one batch, |w·g| is |w| times the square root of g².
			want := size * math.Sqrt(float64(tensor.Scores[k]))
			if got := float64(taylor.Tensors[i].Scores[k]); !(math.Abs(got-want) <= 1e-6+1e-4*want) {
				t.Fatalf("Taylor score of %s is %g, expected %g", tensor.Name, got, want)
			}
			if two.Tensors[i].Scores[k] < taylor.Tensors[i].Scores[k] {
				t.Fatalf("the Taylor score of %s is smaller with a second batch", tensor.Name)
			}
			x := random.Tensors[i].Scores[k]
			if x != again.Tensors[i].Scores[k] || x < 0 || x >= 1 {
				t.Fatalf("random score of %s is %g, and %g with the same seed", tensor.Name, x, again.Tensors[i].Scores[k])
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

// TestScoreCompat checks that Score follows the option Compat. A branch of the last block is
// dropped or scaled, so the scores change with every seed.
func TestScoreCompat(t *testing.T) {
	without, with := scored(t, 2, sensitivity.Options{}), scored(t, 2, sensitivity.Options{Compat: sensitivity.CompatRelease})
	if without.Compat != "" || with.Compat != sensitivity.CompatRelease || slices.Equal(without.Losses, with.Losses) {
		t.Errorf("compat %q has losses %v, compat %q has %v", without.Compat, without.Losses, with.Compat, with.Losses)
	}
}

// TestFewBatches checks the errors for criteria that compare batches, with a single batch.
func TestFewBatches(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(config)
	in := sensitivity.Input{Backend: be, Model: m, Objective: objective.SingleLabel, Head: m.Weights, Images: images(1)}
	for _, c := range []sensitivity.Criterion{sensitivity.SplitHalf, sensitivity.SignalToNoise} {
		for _, o := range []sensitivity.Options{{Criterion: c}, {Criterion: c, Batches: 1, BatchSize: 1}} {
			if _, err := sensitivity.Score(t.Context(), in, o, nil); err == nil || !strings.Contains(err.Error(), "needs at least 2 of them") {
				t.Errorf("%s with one batch: %v", c, err)
			}
		}
	}
}

// TestCriterionInFile checks that a scores file holds its criterion. It also checks the errors for
// an unknown criterion and for an unknown version.
func TestCriterionInFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scores.safetensors")
	for _, c := range sensitivity.Criteria() {
		s := scored(t, 2, sensitivity.Options{Criterion: c})
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		if got, err := sensitivity.Load(path); err != nil || got.Criterion != c {
			t.Errorf("%s: read back %q, %v", c, got.Criterion, err)
		}
	}
	// file replaces the criterion in the metadata of the file and loads the changed file.
	file := func(criterion string) error {
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		metadata := f.Metadata()
		metadata["content"] = strings.Replace(metadata["content"], `"criterion":"random"`, criterion, 1)
		if err := checkpoint.Save(path+".changed", nil, metadata); err != nil {
			t.Fatal(err)
		}
		_, err = sensitivity.Load(path + ".changed")
		return err
	}
	for _, criterion := range []string{`"criterion":"luck"`, `"criterion":""`} {
		name := strings.TrimPrefix(criterion, `"criterion":`)
		if err := file(criterion); err == nil || !strings.Contains(err.Error(), "criterion "+name+" is unknown") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", criterion, err)
		}
	}
	// A file with another version is an error.
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	metadata := f.Metadata()
	metadata["version"] = "7"
	if err := checkpoint.Save(path+".changed", nil, metadata); err != nil {
		t.Fatal(err)
	}
	if _, err := sensitivity.Load(path + ".changed"); err == nil || !strings.Contains(err.Error(), "version 7") {
		t.Errorf("version 7: %v", err)
	}
}
