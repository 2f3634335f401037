package demo

import (
	"math"
	"reflect"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/train"
)

// TestEmbeddedModel checks that the embedded backbone has the configuration of the recipe, and that
// it recognises new images of its pretraining classes far above chance (1/760).
func TestEmbeddedModel(t *testing.T) {
	m, err := embedded.Model(0)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m.Config, Config()) {
		t.Errorf("config %+v, expected %+v", m.Config, Config())
	}
	tuned, err := spt.Restore(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(mustBackend(t), m, objective.SingleLabel, tuned.Tuning, tuned.Tuned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	// The seed differs from the seed of the recipe, so the backbone was not trained on these
	// images.
	data, err := pretrainingData(t.Context(), 99, 0, 1, m.Config, false)
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Evaluate(t.Context(), data, 95, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f %% of %d fresh images, loss %.2f (chance %.2f)", 100*e.Accuracy, e.Images, e.Loss, math.Log(760))
	if e.Accuracy < 0.2 || e.Loss > 3 {
		t.Errorf("accuracy %.3f, loss %.2f: expected at least 0.2 and at most 3", e.Accuracy, e.Loss)
	}
}

// TestPretrainLearns checks that the loss falls in a run with one image of each class.
func TestPretrainLearns(t *testing.T) {
	o := PretrainRecipe()
	o.ImagesPerClass, o.ValPerClass = 1, 1
	o.Train = o.Train.WithEpochs(2)
	m, r, err := Pretrain(t.Context(), mustBackend(t), o, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !(r.Epochs[1].TrainLoss < r.Epochs[0].TrainLoss) {
		t.Errorf("the losses are %.4f and %.4f, expected the second to be lower", r.Epochs[0].TrainLoss, r.Epochs[1].TrainLoss)
	}
	if m.Weights["head.weight"].Shape[0] != 760 {
		t.Error("the head is not among the weights")
	}
}

func mustBackend(t *testing.T) backend.Backend {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	return be
}

// TestData checks the sizes of the splits and that labels are balanced.
func TestData(t *testing.T) {
	for _, name := range Tasks() {
		d, err := Data(name, 48, 16, 16, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Train) != 48 || len(d.Val) != 16 || len(d.Test) != 16 {
			t.Errorf("%s: %d/%d/%d images", name, len(d.Train), len(d.Val), len(d.Test))
		}
		counts := make([]int, len(d.Classes))
		for _, s := range d.Train {
			counts[s.Target.Stratum()]++
		}
		for class, n := range counts {
			if n != 48/len(d.Classes) {
				t.Errorf("%s: class %d has %d images", name, class, n)
			}
		}
	}
	if _, err := Data("nope", 1, 1, 1, 0); err == nil {
		t.Error("an unknown task was accepted")
	}
}
