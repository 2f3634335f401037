package evaluate_test

import (
	"fmt"
	"log"

	"github.com/sptune/spt/evaluate"
)

// Evaluate the logits of a classifier, and list the images whose label may be wrong.
func Example() {
	p := &evaluate.Predictions{Classes: []string{"cat", "dog", "fox"}}
	// one mini-batch: paths, targets, and a logit for each class of each image
	err := p.Add(
		[]string{"1.jpg", "2.jpg", "3.jpg", "4.jpg"},
		[]int32{0, 1, 2, 1},
		[]float32{
			4, 1, 0,
			0, 3, 1,
			0, 5, 1,
			1, 2, 0,
		})
	if err != nil {
		log.Fatal(err)
	}
	m, err := p.Metrics(1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("accuracy %.2f, 95 %% interval %.2f to %.2f\n", m.Top1, m.Interval.Low, m.Interval.High)
	for _, cell := range m.Confused(1) {
		fmt.Printf("%d image: %s predicted as %s\n", cell.Images, p.Classes[cell.Target], p.Classes[cell.Predicted])
	}
	for _, r := range evaluate.MostConfidentlyWrong(p.Ranked(5, 1), 1) {
		fmt.Printf("%s is %s with probability %.2f\n", r.Path, p.Classes[r.Top[0].Class], r.Confidence())
	}
	// Output:
	// accuracy 0.75, 95 % interval 0.30 to 0.95
	// 1 image: fox predicted as dog
	// 3.jpg is dog with probability 0.98
}

// Compare two classifiers on the same images.
func ExampleCompare() {
	first := &evaluate.Predictions{Classes: []string{"cat", "dog"}}
	second := &evaluate.Predictions{Classes: []string{"cat", "dog"}}
	for i := range 100 {
		path, target := []string{fmt.Sprintf("%d.jpg", i)}, []int32{0}
		right, wrong := []float32{1, 0}, []float32{0, 1}
		logits := [2][]float32{right, right}
		if i < 20 {
			logits[0] = wrong // the first classifier errs for 20 images
		}
		if i < 5 || i >= 97 {
			logits[1] = wrong // the second errs for five of them, and three others
		}
		if err := first.Add(path, target, logits[0]); err != nil {
			log.Fatal(err)
		}
		if err := second.Add(path, target, logits[1]); err != nil {
			log.Fatal(err)
		}
	}
	c, err := evaluate.Compare(first, second)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+.2f, 95 %% interval %+.2f to %+.2f, p = %.4f\n", c.Difference, c.Interval.Low, c.Interval.High, c.P)
	// Output:
	// +0.12, 95 % interval +0.03 to +0.20, p = 0.0075
}
