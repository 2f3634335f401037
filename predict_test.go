package spt_test

import (
	"errors"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/run"
)

// TestTemperature compares the probabilities of a Classifier with the softmax of the logits,
// divided by the temperature. The order of the classes must be the order of the logits, also where
// probabilities are equal because float64 cannot hold their difference.
func TestTemperature(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := config
	c.NumClasses = 5
	m := colours.Model(c)
	trained, err := spt.Restore(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	classifier, err := spt.NewClassifier(be, m, trained, nil, dataset.Transform{Size: c.ImageSize, Resize: "direct"})
	if err != nil {
		t.Fatal(err)
	}
	defer classifier.Close()
	var files []string
	var logits [][]float64
	for i := range 40 { // more than a mini-batch
		pixels := colours.Pixels(i, c.ImageSize, 5*i)
		files = append(files, writePNG(t, pixels, c.ImageSize))
		var row []float64
		for _, v := range logitsOf(t, be, m, nil, pixels) {
			row = append(row, float64(v))
		}
		logits = append(logits, row)
	}
	for _, temperature := range []float64{0, 1, 0.6, 3.5, 1e-4, 1e17} {
		classifier.Temperature = temperature
		if temperature == 0 {
			temperature = 1
		}
		n := 0
		for p, err := range classifier.Predict(t.Context(), files, 4) {
			if err = errors.Join(err, p.Err); err != nil {
				t.Fatal(err)
			}
			row := logits[n]
			order := []int{0, 1, 2, 3, 4}
			slices.SortFunc(order, func(a, b int) int {
				if row[a] > row[b] {
					return -1
				}
				return 1
			})
			if p.Path != files[n] || len(p.Top) != 4 {
				t.Fatalf("image %d is %+v", n, p)
			}
			for rank, got := range p.Top {
				// 1 / Σ exp((z - z[class]) / temperature)
				sum := 0.0
				for _, v := range row {
					sum += math.Exp((v - row[got.Index]) / temperature)
				}
				if want := 1 / sum; got.Index != order[rank] || math.Abs(got.Probability-want) > 1e-5*want/min(temperature, 1) {
					t.Errorf("temperature %v, image %d, rank %d: class %d with probability %v, want %d with %v", temperature, n, rank, got.Index, got.Probability, order[rank], want)
				}
			}
			n++
		}
		if n != len(files) {
			t.Errorf("%d predictions for %d images", n, len(files))
		}
	}
	// Of two classifiers that differ in RejectBelow only the field Unknown differs.
	for _, temperature := range []float64{1, 0.6} {
		classifier.Temperature, classifier.RejectBelow = temperature, 0
		var all []spt.Prediction
		for p, err := range classifier.Predict(t.Context(), files, 2) {
			if err != nil || p.Unknown {
				t.Fatalf("prediction %+v without rejection, error %v", p, err)
			}
			all = append(all, p)
		}
		// the probability of an image itself does not reject it, and the next number does
		limit := all[7].Top[0].Probability
		for _, below := range []float64{limit, math.Nextafter(limit, 1), 0.999} {
			classifier.RejectBelow = below
			i := 0
			for p, err := range classifier.Predict(t.Context(), files, 2) {
				want := all[i]
				want.Unknown = want.Top[0].Probability < below
				if err != nil || !reflect.DeepEqual(p, want) {
					t.Errorf("rejection below %v: %+v, want %+v (%v)", below, p, want, err)
				}
				i++
			}
		}
	}
	for _, bad := range []struct {
		temperature, reject float64
		topK                int
		want                string
	}{{-1, 0, 1, "temperature -1"}, {math.NaN(), 0, 1, "temperature NaN"}, {math.Inf(1), 0, 1, "temperature +Inf"}, {1, 0, 0, "top-k 0"},
		{1, 1, 1, "probability 1"}, {1, -0.5, 1, "probability -0.5"}, {1, math.NaN(), 1, "probability NaN"}} {
		classifier.Temperature, classifier.RejectBelow = bad.temperature, bad.reject
		n := 0
		for _, err := range classifier.Predict(t.Context(), files, bad.topK) {
			n++
			if option := (*run.OptionError)(nil); !errors.As(err, &option) || option.Option == "" || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		if n != 1 {
			t.Errorf("%+v: %d predictions", bad, n)
		}
	}
}

// TestPredictNotFinite checks that a backbone with broken weights gives an error, not a class.
func TestPredictNotFinite(t *testing.T) {
	m := colours.Model(config)
	m.Weights["head.bias"].Data[1] = float32(math.NaN())
	trained, err := spt.Restore(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	classifier, err := spt.NewClassifier(nil, m, trained, []string{"red", "green", "blue"}, dataset.Transform{Size: config.ImageSize, Resize: "direct"})
	if err != nil {
		t.Fatal(err)
	}
	defer classifier.Close()
	file := writePNG(t, colours.Pixels(0, config.ImageSize, 0), config.ImageSize)
	for p, err := range classifier.Predict(t.Context(), []string{file}, 1) {
		if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "logit NaN for class green") {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

// writePNG writes an image with the pixels [size, size, 3] to a new file, and returns its path.
func writePNG(t *testing.T, pixels []uint8, size int) string {
	t.Helper()
	m := image.NewNRGBA(image.Rect(0, 0, size, size))
	for i := range size * size {
		copy(m.Pix[4*i:], pixels[3*i:3*i+3])
		m.Pix[4*i+3] = 255
	}
	path := filepath.Join(t.TempDir(), "image.png")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(png.Encode(f, m), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
