package spt

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/probe"
	"github.com/sptune/spt/recipe"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// TestWithin checks what the recipe auto chooses for time limits from ample to too short, on a
// backbone that takes a second for each image.
func TestWithin(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	const images, val, test = 36, 9, 12
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(images, 16, 0), colours.Samples(val, 16, 7), colours.Samples(test, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	row, err := method.Lookup(method.SPTLoRA)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []struct {
		seconds float64
		probe   bool
		method  method.Method // "" if the time is too short
		least   int           // steps
		most    int
	}{
		{1e6, true, method.SPTLoRA, recipe.LeastSteps + 1, math.MaxInt},
		{700, true, method.SPTLoRA, recipe.LeastSteps, 25},
		{100, true, method.Linear, 0, 0},
		{65, true, method.Linear, 0, 0}, // scoring alone would take longer
		{40, true, "", 0, 0},
		{400, false, method.SPTLoRA, 1, recipe.LeastSteps - 1},
		{20, false, "", 0, 0},
	} {
		task, err := New(colours.Model(c), data)
		if err != nil {
			t.Fatal(err)
		}
		task.forward = time.Second
		o := run.RecipeOptions(row, run.RecipeAuto)
		o.TimeLimit, o.Probe, o.Began = limit.seconds, limit.probe, time.Now()
		var choices Choices
		at, err := task.chooseWithin(t.Context(), task, false, &o, &choices, nil)
		if limit.method == "" {
			var short *run.OptionError
			if !errors.As(err, &short) || short.Option != "time" {
				t.Errorf("%g s: error %v", limit.seconds, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%g s: %v", limit.seconds, err)
			continue
		}
		if o.Method != limit.method || choices.Steps < limit.least || choices.Steps > limit.most || (choices.Tuning != "") != (o.Method != row.Method) {
			t.Errorf("%g s, probe %t: method %s, %d steps, instead of %q", limit.seconds, limit.probe, o.Method, choices.Steps, choices.Tuning)
		}
		if total := choices.Expected.Total().Seconds(); total > limit.seconds {
			t.Errorf("%g s: %g s expected", limit.seconds, total)
		}
		if _, err := at.Effective(o); err != nil {
			t.Errorf("%g s: %v", limit.seconds, err)
		}
	}
}

// TestLimitImages checks that a time limit that is too short for one pass over all images limits
// their number, and that an ample one does not.
func TestLimitImages(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(3000, 16, 0), colours.Samples(900, 16, 7), colours.Samples(1500, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []struct {
		seconds          float64
		train, val, test int
	}{
		{100_000, 3000, 900, 1500},
		{10_000, 2499, 900, 1500}, // half of the time that is left, a second for each image
		{7000, 1264, 900, 1264},
		{100, 1000, 900, 1000}, // not fewer
	} {
		task, err := New(colours.Model(c), data)
		if err != nil {
			t.Fatal(err)
		}
		task.forward = time.Second
		at, err := task.limitImages(t.Context(), &run.TuneOptions{TimeLimit: limit.seconds, Began: time.Now()}, usualShare, usualImages)
		if err != nil {
			t.Fatal(err)
		}
		if d := at.Data(); len(d.Train) != limit.train || len(d.Val) != limit.val || len(d.Test) != limit.test {
			t.Errorf("%g s: %d training, %d validation and %d test images, expected %d, %d, %d", limit.seconds, len(d.Train), len(d.Val), len(d.Test), limit.train, limit.val, limit.test)
		}
	}
}

// TestLastImages checks that a run with too little time for a thousand images probes fewer.
func TestLastImages(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(3000, 16, 0), colours.Samples(900, 16, 7), colours.Samples(1500, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	task, err := New(colours.Model(c), data)
	if err != nil {
		t.Fatal(err)
	}
	row, err := method.Lookup(method.SPTLoRA)
	if err != nil {
		t.Fatal(err)
	}
	task.forward = time.Second
	config := run.Config{Tune: run.RecipeOptions(row, run.RecipeAuto)}
	config.Tune.TimeLimit = 1000
	at, choices, err := task.Prepare(t.Context(), &config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(at.Data().Train); n != choices.MaxImages || n != config.Data.MaxImages || n < 200 || n > 1000/3 {
		t.Errorf("%d training images, limits %d and %d", n, choices.MaxImages, config.Data.MaxImages)
	}
	if config.Tune.Method != method.Linear || choices.Tuning != row.Method {
		t.Errorf("method %s instead of %s", config.Tune.Method, choices.Tuning)
	}
	config.Tune.TimeLimit, config.Data.MaxImages = 100, 0
	if _, _, err := task.Prepare(t.Context(), &config, nil); !tooShort(err) {
		t.Errorf("100 s: error %v", err)
	}
}

// TestFeaturesUntil checks that the features of all validation images and of a part of the training
// images are computed if the time is over, and that they are those of the images.
func TestFeaturesUntil(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(600, 16, 0), colours.Samples(90, 16, 7), nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := New(colours.Model(c), data)
	if err != nil {
		t.Fatal(err)
	}
	in, val, err := task.features(t.Context(), time.Time{}, nil)
	if err != nil || in.Len() != 600 || val.Len() != 90 {
		t.Fatalf("%d training and %d validation images (%v)", in.Len(), val.Len(), err)
	}
	task.forward = time.Hour
	part, same, err := task.features(t.Context(), time.Now(), nil)
	if err != nil || part.Len() != featureChunk {
		t.Fatalf("%d training images, expected %d (%v)", part.Len(), featureChunk, err)
	}
	if !slices.Equal(same.Labels, val.Labels) || !within(same.Values, val.Values) {
		t.Error("other validation images")
	}
	counts := make([]int, 3)
	for i, label := range part.Labels {
		counts[label]++
		row := part.Values[i*part.Width : (i+1)*part.Width]
		found := false
		for k := range in.Labels {
			found = found || in.Labels[k] == label && within(in.Values[k*in.Width:(k+1)*in.Width], row)
		}
		if !found {
			t.Fatalf("row %d is not that of a training image", i)
		}
	}
	if slices.Min(counts) < featureChunk/5 {
		t.Errorf("%v images of the classes: the order is not random", counts)
	}
}

// TestTestWithin checks that a test whose time is over covers the images before, in random order.
func TestTestWithin(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	samples := colours.Samples(300, 16, 7)
	slices.SortFunc(samples, func(a, b dataset.Sample) int { return a.Target.Stratum() - b.Target.Stratum() })
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(60, 16, 0), nil, samples)
	if err != nil {
		t.Fatal(err)
	}
	task, err := New(colours.Model(c), data)
	if err != nil {
		t.Fatal(err)
	}
	fitted, err := task.probe(t.Context(), run.Folder(t.TempDir()), train.Options{}, time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	whole, _, err := task.Evaluate(t.Context(), fitted.trained, "test", samples, nil)
	if err != nil {
		t.Fatal(err)
	}
	task.forward = time.Hour
	for deadline, want := range map[time.Time]int{time.Now(): 64, time.Now().Add(time.Hour): 300} {
		r := &runner{Task: task, deadline: deadline}
		e, predictions, err := r.test(t.Context(), fitted.trained, nil)
		if err != nil {
			t.Fatal(err)
		}
		if e.Images != want || predictions.Single.Len() != want {
			t.Errorf("tested %d images, predicted %d, expected %d", e.Images, predictions.Single.Len(), want)
		}
		if want == 300 && e.Accuracy != whole.Accuracy {
			t.Errorf("accuracy %v, expected %v", e.Accuracy, whole.Accuracy)
		}
		for class, count := range e.Classes {
			if count.Images < want/5 {
				t.Errorf("%d of %d images of class %d: the order is not random", count.Images, want, class)
			}
		}
	}
}

// TestFitProbe checks that a probe has the class weights of the training, and the metrics of the
// objective on held-out images.
func TestFitProbe(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	for _, kind := range []struct {
		samples func(n, size, salt int) []dataset.Sample
		problem probe.Problem
		weights func(counts []int) []float64
	}{
		{colours.Samples, probe.OneLabel, train.BalancedWeights},
		{colours.Labelled, probe.SeveralLabels, func(counts []int) []float64 { return train.PositiveWeights(counts, 41) }},
	} {
		data, err := dataset.New("colours", []string{"red", "green", "blue"}, kind.samples(41, 16, 0), kind.samples(30, 16, 7), nil)
		if err != nil {
			t.Fatal(err)
		}
		task, err := New(colours.Model(c), data)
		if err != nil {
			t.Fatal(err)
		}
		in, val, err := task.features(t.Context(), time.Time{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []train.Options{{}, {ClassWeights: train.AutoWeights}} {
			p, e, err := task.fitProbe(t.Context(), in, val, o)
			if err != nil {
				t.Fatal(err)
			}
			want := probe.Options{Problem: kind.problem, Classes: 3}
			if o.ClassWeights != "" {
				want.ClassWeights = kind.weights(data.ClassCounts())
			}
			same, err := probe.Fit(t.Context(), in, val, want)
			if err != nil {
				t.Fatal(err)
			}
			if p.TrainLoss != same.TrainLoss {
				t.Errorf("%T, weights %q: training loss %g, expected %g", kind.problem, o.ClassWeights, p.TrainLoss, same.TrainLoss)
			}
			if o.ClassWeights == "" && math.Abs(e.Loss-p.ValLoss) > 1e-6 {
				t.Errorf("%T: the objective has the loss %g, the probe %g", kind.problem, e.Loss, p.ValLoss)
			}
		}
	}
}

// within reports whether the values are equal within rounding.
func within(a, b []float32) bool {
	for i := range a {
		if math.Abs(float64(a[i]-b[i])) > 1e-4 {
			return false
		}
	}
	return len(a) == len(b)
}
