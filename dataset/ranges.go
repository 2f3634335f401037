package dataset

import "slices"

// Range is the range of a property of the images.
type Range struct {
	Least float64 `json:"least"`
	// of an even number of images, the larger of the two middle values
	Median float64 `json:"median"`
	Most   float64 `json:"most"`
}

// rangeOf returns the range of values. It returns zeros without values.
func rangeOf(values []float64) Range {
	if len(values) == 0 {
		return Range{}
	}
	slices.Sort(values)
	return Range{values[0], values[len(values)/2], values[len(values)-1]}
}

// Ranges returns the ranges of the widths and the heights, in pixels, and of the aspect ratios,
// which are widths divided by heights, of all images that can be read.
func (v *Verification) Ranges() (width, height, aspect Range) {
	var widths, heights, aspects []float64
	for _, s := range v.Sizes {
		w, h := float64(s[0]), float64(s[1])
		widths, heights, aspects = append(widths, w), append(heights, h), append(aspects, w/h)
	}
	return rangeOf(widths), rangeOf(heights), rangeOf(aspects)
}
