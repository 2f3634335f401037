package spt

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"
)

// saliencySide is the number of rows and of columns of a [Saliency].
const saliencySide = 10

// Saliency shows on which parts of an image the probability of a class depends. It divides the
// image into 10 rows of 10 cells, the upper row first and the left cell of a row first. A value is
// from 0, where the probability does not depend on the cell, to 1, the largest value of the image.
type Saliency [saliencySide][saliencySide]float32

// leastDrop is the smallest fall of the log-odds that counts. Smaller differences may be rounding
// errors of the logits.
const leastDrop = 1e-4

// Explain returns the Saliency of each image for a class. pixels is [n, Size, Size, 3], as
// dataset.Transform.SamplePixels returns the pixels of one image. classes holds a row of the head
// for each image, such as the Index of a [Probability].
//
// Explain covers square parts of an image with the mean colour of the image, one part at a time
// (occlusion; Zeiler and Fergus 2014, arXiv 1311.2901). The value of a part is the fall of the
// log-odds log(p/(1−p)) of the class, where p is its probability, and 0 if p does not fall. The
// squares have a fifth of the side length of the image. They form two grids, and the second grid is
// shifted by half a square. A cell has the mean value of the two squares that cover it. The values
// are divided by their maximum. If no square lowers the log-odds by at least 0.0001, all values are
// 0.
//
// The method needs only predictions, so it is the same for every backbone, tuning method and
// objective that classifies whole images. It predicts 62 images for each image.
func (c *Classifier) Explain(ctx context.Context, pixels []uint8, classes []int) ([]Saliency, error) {
	size := c.Transform.Size * c.Transform.Size * 3
	if len(pixels) != len(classes)*size {
		return nil, fmt.Errorf("explaining %d images of %d px: found %d pixel values, expected %d: three for each pixel, and one class for each image", len(classes), c.Transform.Size, len(pixels), len(classes)*size)
	}
	for i, class := range classes {
		if class < 0 || class >= len(c.Classes) {
			return nil, fmt.Errorf("explaining image %d: class %d, expected 0 to %d, the classes of the head", i+1, class, len(c.Classes)-1)
		}
	}
	out := make([]Saliency, len(classes))
	for i, class := range classes {
		if err := c.explain(ctx, pixels[i*size:(i+1)*size], class, &out[i]); err != nil {
			return nil, fmt.Errorf("explaining image %d: %w", i+1, err)
		}
	}
	return out, nil
}

// explain computes the Saliency of one image.
func (c *Classifier) explain(ctx context.Context, pixels []uint8, class int, out *Saliency) error {
	parts := occlusions()
	images := slices.Repeat(pixels, 1+len(parts)) // the image itself is the first
	mean := meanColour(pixels)
	for i, part := range parts {
		cover(images[(1+i)*len(pixels):][:len(pixels)], c.Transform.Size, part, mean)
	}
	const batchSize = 31 // half of the 62 images, so that one compiled program serves both batches
	var scores []float64 // log-odds of the class
	for batch := range slices.Chunk(images, batchSize*len(pixels)) {
		logits, err := c.logits(ctx, batch, len(batch)/len(pixels))
		if err != nil {
			return err
		}
		for row := range slices.Chunk(logits, len(c.Classes)) {
			score := float64(row[class]) // the log-odds of a sigmoid
			if !c.SeveralLabels {
				score = logOdds(row, class)
			}
			if math.IsNaN(score) || math.IsInf(score, 0) {
				return fmt.Errorf("the logits of the image or of a covered copy are not finite: %v; check the weights of the backbone and of the delta", row)
			}
			scores = append(scores, score)
		}
	}
	largest := float32(0)
	for i, part := range parts {
		drop := scores[0] - scores[1+i]
		if drop < leastDrop {
			continue
		}
		for y := part.Min.Y; y < part.Max.Y; y++ {
			for x := part.Min.X; x < part.Max.X; x++ {
				out[y][x] += float32(drop)
				largest = max(largest, out[y][x])
			}
		}
	}
	if largest == 0 {
		return nil
	}
	for y := range out {
		for x := range out[y] {
			out[y][x] /= largest
		}
	}
	return nil
}

// occlusions returns the squares that Explain covers, in cells of a Saliency. The squares of the
// first grid and the squares of the second grid each cover every cell once.
func occlusions() (out []image.Rectangle) {
	all := image.Rect(0, 0, saliencySide, saliencySide)
	for _, first := range []int{0, -1} {
		for y := first; y < saliencySide; y += 2 {
			for x := first; x < saliencySide; x += 2 {
				out = append(out, image.Rect(x, y, x+2, y+2).Intersect(all))
			}
		}
	}
	return out
}

// cover fills the part of the image pixels [size, size, 3] with a colour. part is in cells of a
// Saliency.
func cover(pixels []uint8, size int, part image.Rectangle, colour [3]uint8) {
	at := func(cell int) int { return cell * size / saliencySide }
	for y := at(part.Min.Y); y < at(part.Max.Y); y++ {
		for x := at(part.Min.X); x < at(part.Max.X); x++ {
			copy(pixels[(y*size+x)*3:], colour[:])
		}
	}
}

// meanColour returns the mean of each channel of pixels [..., 3].
func meanColour(pixels []uint8) (mean [3]uint8) {
	var sum [3]int
	for i, v := range pixels {
		sum[i%3] += int(v)
	}
	n := len(pixels) / 3
	for i := range mean {
		mean[i] = uint8((sum[i] + n/2) / n)
	}
	return mean
}

// logOdds returns log(p/(1−p)) for the softmax p of logits at class: the logit of the class minus
// log Σ exp of the other logits. For a single class, whose probability is always 1, it returns 0.
func logOdds(logits []float32, class int) float64 {
	largest := math.Inf(-1)
	for i, v := range logits {
		if i != class {
			largest = max(largest, float64(v))
		}
	}
	if len(logits) == 1 {
		return 0
	}
	sum := 0.0
	for i, v := range logits {
		if i != class {
			sum += math.Exp(float64(v) - largest)
		}
	}
	return float64(logits[class]) - largest - math.Log(sum)
}
