// Package evaluate holds the predictions of a split and computes metrics from them, for images with
// one label each and for images with any number of labels.
//
// For images with several labels, [LabelPredictions] returns [LabelMetrics] and a threshold for
// each label. For images with one label, begin with [Predictions]. Its method Metrics returns the
// [Metrics], Temperature calibrates the probabilities, Write writes all probabilities to a table,
// and Ranked keeps the most probable classes of each image. [SaveRanked] and [LoadRanked] store
// ranked predictions in a run folder. [Compare] compares two classifiers on the same images.
package evaluate

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sptune/spt/internal/option"
)

// Unknown is the target of an image without a label.
const Unknown = -1

// Predictions holds the logits and the targets of images. Set Classes, then call Add.
type Predictions struct {
	Classes []string  // names of the classes, in the order of the rows of the head
	Paths   []string  // path of each image
	Targets []int32   // class id of each image, or Unknown
	Logits  []float32 // [N, C], row-major; nil with Keep
	// Keep bounds the memory for many images of many classes: Add keeps only this number of the
	// largest logits of an image, and that of its target. All other classes get one logit that
	// keeps the sum of their probabilities. So all metrics at the temperature 1 are exact.
	// Temperature, and what is computed at another temperature, are approximate. Set it before Add,
	// to 5 or more. Default: 0, which keeps all logits.
	Keep int

	kept []keptRow // with Keep
}

// stored has the fields that Predictions and LabelPredictions share. Targets holds the same number
// of values for each image.
type stored struct {
	Classes []string
	Paths   []string
	Targets []int32
	Logits  []float32
}

// add adds images. check returns an error for added images that do not fit.
func (s *stored) add(paths []string, targets []int32, logits []float32, check func(*stored) error) error {
	if err := check(&stored{s.Classes, paths, targets, logits}); err != nil {
		return fmt.Errorf("adding predictions: %w", err)
	}
	s.Paths = append(s.Paths, paths...)
	s.Targets = append(s.Targets, targets...)
	s.Logits = append(s.Logits, logits...)
	return nil
}

// check returns an error if the fields do not fit together, or if a logit is not finite. each is
// the number of targets of an image.
func (s *stored) check(each int) error {
	classes, images := len(s.Classes), len(s.Paths)
	switch {
	case classes == 0:
		return fmt.Errorf("found no classes; set the names of the classes first")
	case len(s.Targets) != images*each || len(s.Logits) != images*classes:
		return fmt.Errorf("found %d targets and %d logits for %d images, expected %d and %d: %d and %d for each image", len(s.Targets), len(s.Logits), images, images*each, images*classes, each, classes)
	}
	for i, v := range s.Logits {
		if v-v != 0 {
			return fmt.Errorf("image %s has logit %v for class %s, expected a finite number; check whether the training has diverged", s.Paths[i/classes], v, s.Classes[i%classes])
		}
	}
	return nil
}

// keptRow holds the logits of an image of which only the largest are kept.
type keptRow struct {
	classes []int32   // of the kept logits
	logits  []float32 // in the order of classes
	rest    float32   // logit of all other classes
	above   int       // number of classes that rank above the target; see rankOf
}

// KeptLogits is a value for Predictions.Keep, and MaxLogits the number of logits of all images from
// which it is worth it: 256 MiB.
const (
	KeptLogits = 64
	MaxLogits  = 1 << 26
)

// Len returns the number of images.
func (p *Predictions) Len() int { return len(p.Paths) }

// Add adds images: their paths, their targets and their logits [len(paths), C], row-major. Numbers
// of values that do not fit, a target outside of the classes and a logit that is not finite are
// errors. Add adds no image if it returns an error.
func (p *Predictions) Add(paths []string, targets []int32, logits []float32) error {
	added := stored{p.Classes, paths, targets, logits}
	if err := added.checkSingle(); err != nil {
		return fmt.Errorf("adding predictions: %w", err)
	}
	p.Paths = append(p.Paths, paths...)
	p.Targets = append(p.Targets, targets...)
	if p.Keep == 0 {
		p.Logits = append(p.Logits, logits...)
		return nil
	}
	for i := range targets {
		row := logits[i*len(p.Classes) : (i+1)*len(p.Classes)]
		p.kept = append(p.kept, keptOf(row, int(targets[i]), p.Keep))
	}
	return nil
}

// keptOf returns the n largest logits of a row and that of the target, which may be Unknown. Among
// equal logits it keeps the first.
func keptOf(row []float32, target, n int) keptRow {
	top := largest(row, n, nil)
	if target != Unknown && !slices.Contains(top, target) {
		top = append(top, target)
	}
	k := keptRow{classes: make([]int32, len(top)), logits: make([]float32, len(top)), rest: row[top[0]]}
	if target != Unknown {
		k.above = rankOf(row, target)
	}
	for i, c := range top {
		k.classes[i], k.logits[i] = int32(c), row[c]
	}
	if len(top) == len(row) {
		return k
	}
	var others [][]float32 // the parts of the row between the classes that are kept
	from := 0
	for _, c := range slices.Sorted(slices.Values(top)) {
		others = append(others, row[from:c])
		from = c + 1
	}
	others = append(others, row[from:])
	most, sum := float32(math.Inf(-1)), 0.0
	for _, part := range others {
		for _, v := range part {
			most = max(most, v)
		}
	}
	for _, part := range others {
		for _, v := range part {
			sum += math.Exp(float64(v - most))
		}
	}
	k.rest = float32(min(float64(most), float64(most)+math.Log(sum/float64(len(row)-len(top)))))
	return k
}

// rankOf returns the number of classes that rank above a class: those with a larger logit and, as
// in top_k_accuracy_score of scikit-learn, later classes with an equal one.
func rankOf(row []float32, class int) (above int) {
	for c, v := range row {
		if v > row[class] || v == row[class] && c > class {
			above++
		}
	}
	return above
}

// largest returns the classes of the n largest logits of a row, largest first, and fewer if there
// are fewer classes. Among equal logits, the first class comes first. The result is in dst if dst
// has the capacity.
func largest(row []float32, n int, dst []int) []int {
	top := dst[:0]
	for c, v := range row {
		if len(top) == n && v <= row[top[n-1]] {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, v, func(other int, v float32) int {
			if row[other] >= v {
				return -1
			}
			return 1
		})
		top = slices.Insert(top[:min(len(top), n-1)], min(at, n-1), c)
	}
	return top
}

// check returns an error if the fields of p do not fit together.
func (p *Predictions) check() error {
	s := &stored{p.Classes, p.Paths, p.Targets, p.Logits}
	if p.Keep == 0 {
		return s.checkSingle()
	}
	if len(p.kept) != len(p.Targets) || len(p.Paths) != len(p.Targets) {
		return fmt.Errorf("found %d paths, %d targets and the logits of %d images, expected one of each for every image: add images with Add", len(p.Paths), len(p.Targets), len(p.kept))
	}
	return s.checkTargets()
}

// checkSingle is check for images with one label each.
func (s *stored) checkSingle() error {
	if err := s.check(1); err != nil {
		return err
	}
	return s.checkTargets()
}

// checkTargets returns an error for the first image whose target is no class.
func (s *stored) checkTargets() error {
	for i, target := range s.Targets {
		if target != Unknown && (target < 0 || int(target) >= len(s.Classes)) {
			return fmt.Errorf("image %s has target %d, expected 0 to %d, or %d if the target is unknown", s.Paths[i], target, len(s.Classes)-1, Unknown)
		}
	}
	return nil
}

// checkKnown returns an error if p is empty or if a target is unknown.
func (p *Predictions) checkKnown() error {
	if err := p.check(); err != nil {
		return err
	}
	if p.Len() == 0 {
		return fmt.Errorf("found no images, expected at least one")
	}
	if i := slices.Index(p.Targets, Unknown); i >= 0 {
		return fmt.Errorf("image %s has no target; leave out images without a label", p.Paths[i])
	}
	return nil
}

// checkTemperature returns an error if probabilities cannot be computed with the temperature.
func checkTemperature(temperature float64) error {
	if !(temperature > 0) || math.IsInf(temperature, 1) {
		return option.Errorf("temperature", "temperature %v: expected a finite number above 0; 1 keeps the probabilities of the model", temperature)
	}
	return nil
}

// row returns the logits of image i. They may be in dst if it has the capacity for all classes; the
// caller must not change them.
func (p *Predictions) row(i int, dst []float32) []float32 {
	n := len(p.Classes)
	if p.Keep == 0 {
		return p.Logits[i*n : (i+1)*n]
	}
	k := p.kept[i]
	row := slices.Grow(dst[:0], n)[:n]
	for c := range row {
		row[c] = k.rest
	}
	for at, c := range k.classes {
		row[c] = k.logits[at]
	}
	return row
}

// Predicted returns the class with the largest logit for image i. Among equal logits it returns the
// first class, as the accuracy of package objective does.
func (p *Predictions) Predicted(i int) int {
	if p.Keep > 0 {
		return int(p.kept[i].classes[0])
	}
	return predicted(p.row(i, nil))
}

// predicted returns the first class with the largest logit.
func predicted(row []float32) int {
	best := 0
	for c, v := range row {
		if v > row[best] {
			best = c
		}
	}
	return best
}

// Losses returns the loss of each image, in nats: the negative logarithm of the probability of its
// target. Metrics.LogLoss is their mean. An image without a target is an error.
func (p *Predictions) Losses() ([]float64, error) {
	if err := p.checkKnown(); err != nil {
		return nil, fmt.Errorf("computing the losses: %w", err)
	}
	losses := make([]float64, p.Len())
	for i, s := range p.scores(1) {
		losses[i] = s.loss()
	}
	return losses, nil
}

// Probabilities returns the probability of each class for image i: the softmax of the logits,
// divided by the temperature. It computes in float64 and does not overflow. temperature must be
// above 0; 1 keeps the probabilities of the model. The result is in dst if dst has the capacity for
// all classes.
func (p *Predictions) Probabilities(i int, temperature float64, dst []float64) []float64 {
	return probabilities(p.row(i, nil), temperature, dst)
}

// probabilities is Probabilities for a row of logits.
func probabilities(row []float32, temperature float64, dst []float64) []float64 {
	dst = slices.Grow(dst[:0], len(row))[:len(row)]
	largest, sum := float64(row[predicted(row)]), 0.0
	for c, v := range row {
		dst[c] = math.Exp((float64(v) - largest) / temperature)
		sum += dst[c]
	}
	for c := range dst {
		dst[c] /= sum
	}
	return dst
}

// blockImages is the number of images that a goroutine processes at a time. Sums over blocks do not
// depend on the number of goroutines.
const blockImages = 512

// blocks returns the number of blocks of n images.
func blocks(n int) int { return (n + blockImages - 1) / blockImages }

// forBlocks calls f for each block of n images, in parallel. Image from is the first image of the
// block, and image to follows the last.
func forBlocks(n int, f func(block, from, to int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), blocks(n)) {
		group.Go(func() {
			for {
				block := int(next.Add(1)) - 1
				if block >= blocks(n) {
					return
				}
				f(block, block*blockImages, min(n, (block+1)*blockImages))
			}
		})
	}
	group.Wait()
}
