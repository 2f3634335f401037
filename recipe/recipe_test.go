package recipe

import (
	"slices"
	"testing"

	"github.com/sptune/spt/method"
)

// TestTraining checks the rules for numbers of images from a few to very many.
func TestTraining(t *testing.T) {
	for _, c := range []struct{ images, batch, steps, epochs int }{
		{15, 8, 100, 100}, // 1 step in an epoch, at most 100 epochs
		{100, 8, 580, 48},
		{1000, 16, 1250, 20},
		{10_000, 64, 2693, 17},
		{50_000, 64, 4605, 5},
		{1_000_000, 64, 46_875, 3},
	} {
		batch := Batch(c.images)
		steps := Steps(c.images, batch)
		if batch != c.batch || steps != c.steps || steps/(max(1, c.images/batch)) != c.epochs {
			t.Errorf("%d images: mini-batches of %d, %d steps, %d epochs; expected %d, %d, %d", c.images, batch, steps, steps/max(1, c.images/batch), c.batch, c.steps, c.epochs)
		}
	}
}

// TestLearningRate checks that the learning rate falls with the steps, grows with the mini-batch,
// stays within its bounds and follows the method.
func TestLearningRate(t *testing.T) {
	lookup := func(m method.Method) method.Row {
		row, err := method.Lookup(m)
		if err != nil {
			t.Fatal(err)
		}
		return row
	}
	spt, ssf := lookup(method.SPTLoRA), lookup("ssf")
	for _, c := range []struct {
		steps, batch int
		want         float64
	}{{1000, 16, 0.003}, {100, 16, 0.003}, {500, 8, 0.0021}, {16_000, 16, 0.0015}, {300, 64, 0.005}} {
		if got := LearningRate(spt, c.steps, c.batch); got != c.want {
			t.Errorf("%g for %d steps of %d images, expected %g", got, c.steps, c.batch, c.want)
		}
	}
	for _, batch := range []int{8, 16, 64} {
		for steps := 10; steps < 100_000; steps *= 3 {
			rate := LearningRate(spt, steps, batch)
			if rate < 1e-3 || rate > 5e-3 || rate < LearningRate(spt, 3*steps, batch) || rate > LearningRate(spt, steps, 2*batch) {
				t.Errorf("%g for %d steps of %d images", rate, steps, batch)
			}
			if got := LearningRate(ssf, steps, batch); got < 4.7*rate || got > 5.3*rate {
				t.Errorf("SSF: %g, for SPT %g", got, rate)
			}
		}
	}
}

// TestBudget checks the budget of backbones of several sizes.
func TestBudget(t *testing.T) {
	for parameters, want := range map[int]string{300_000: "3%", 5_500_000: "0.1M", 21_700_000: "0.5%", 85_800_000: "0.5%"} {
		b := Budget(parameters)
		n, err := b.Parameters(parameters)
		if err != nil || b.String() != want || n > parameters*3/100 {
			t.Errorf("%d parameters: budget %s of %d parameters (%v), expected %s", parameters, b, n, err, want)
		}
	}
}

// TestSizes checks which image sizes are compared, and which is taken.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		native, side int
		want         []int
	}{
		{224, 500, []int{224}},
		{224, 0, []int{224}}, // no size could be read
		{224, 100, []int{224, 176, 128}},
		{224, 28, []int{224, 176, 128, 96}},
		{518, 300, []int{518, 384, 304}},
		{32, 10, []int{32}},
	} {
		if got := Sizes(c.native, c.side); !slices.Equal(got, c.want) {
			t.Errorf("native %d, side %d: %v, expected %v", c.native, c.side, got, c.want)
		}
	}
	sizes := []Size{{Pixels: 224, Accuracy: 0.84, Loss: 0.5}, {Pixels: 128, Accuracy: 0.77, Loss: 0.7}, {Pixels: 96, Accuracy: 0.63, Loss: 1.2}}
	if got := Smallest(sizes).Pixels; got != 128 {
		t.Errorf("chose %d px", got)
	}
	if got := Best(sizes).Pixels; got != 224 {
		t.Errorf("the best is %d px", got)
	}
	sizes[0].Loss, sizes[0].Accuracy = 2, 0.4 // enlarged images can be worse
	if got := Smallest(sizes).Pixels; got != 128 {
		t.Errorf("chose %d px", got)
	}
}
