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
	Logits  []float32 // [N, C], row-major
}

// stored has the fields of Predictions and of LabelPredictions. Targets holds the same number of
// values for each image.
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

// Len returns the number of images.
func (p *Predictions) Len() int { return len(p.Paths) }

// Add adds images: their paths, their targets and their logits [len(paths), C], row-major. Numbers
// of values that do not fit, a target outside of the classes and a logit that is not finite are
// errors. Add adds no image if it returns an error.
func (p *Predictions) Add(paths []string, targets []int32, logits []float32) error {
	return (*stored)(p).add(paths, targets, logits, func(s *stored) error { return (*Predictions)(s).check() })
}

// check returns an error if the fields of p do not fit together.
func (p *Predictions) check() error {
	if err := (*stored)(p).check(1); err != nil {
		return err
	}
	for i, target := range p.Targets {
		if target != Unknown && (target < 0 || int(target) >= len(p.Classes)) {
			return fmt.Errorf("image %s has target %d, expected 0 to %d, or %d if the target is unknown", p.Paths[i], target, len(p.Classes)-1, Unknown)
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

// row returns the logits of image i.
func (p *Predictions) row(i int) []float32 {
	n := len(p.Classes)
	return p.Logits[i*n : (i+1)*n]
}

// Predicted returns the class with the largest logit for image i. Among equal logits it returns the
// first class, as the accuracy of package objective does.
func (p *Predictions) Predicted(i int) int {
	row, best := p.row(i), 0
	for c, v := range row {
		if v > row[best] {
			best = c
		}
	}
	return best
}

// Probabilities returns the probability of each class for image i: the softmax of the logits,
// divided by the temperature. It computes in float64 and does not overflow. temperature must be
// above 0; 1 keeps the probabilities of the model. The result is in dst if dst has the capacity for
// all classes.
func (p *Predictions) Probabilities(i int, temperature float64, dst []float64) []float64 {
	row := p.row(i)
	dst = slices.Grow(dst[:0], len(row))[:len(row)]
	largest, sum := float64(row[p.Predicted(i)]), 0.0
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
