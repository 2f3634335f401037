package dataset

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sptune/spt/internal/option"
)

// Augment configures the augmentation of training images beyond the random crop and the horizontal
// flip of [Transform]. The zero value does nothing. The parts are applied in the order of the
// fields. The sampling and the pixels are those of torchvision 0.29 with images of Pillow.
//
// All random numbers of an image depend only on the seed, the epoch and the index of the sample.
// The random numbers of Mixup and CutMix depend only on the seed, the epoch and the first sample of
// the mini-batch.
type Augment struct {
	// CropScale is the smallest and the largest share of the area of an image that a random resized
	// crop covers, above 0 and at most 1. The crop is taken from the whole image and resized to
	// Size × Size, in place of Transform.Resize and Transform.RandomCrop. Zero: no random resized
	// crop.
	CropScale [2]float64 `json:"crop_scale,omitzero"`
	// CropRatio is the smallest and the largest width of the crop, divided by its height. Default:
	// 3/4 and 4/3.
	CropRatio [2]float64 `json:"crop_ratio,omitzero"`

	// VerticalFlip turns a random half of the images upside down. Default: false.
	VerticalFlip bool `json:"vertical_flip,omitempty"`

	// Brightness, Contrast and Saturation change the colours of an image by a random factor from
	// max(0, 1-x) to 1+x, and Hue turns its hues by a random share from -x to x of the circle, at
	// most 0.5. The four changes have a random order. Default: 0, no change.
	Brightness float64 `json:"brightness,omitzero"`
	Contrast   float64 `json:"contrast,omitzero"`
	Saturation float64 `json:"saturation,omitzero"`
	Hue        float64 `json:"hue,omitzero"`

	// RandAugment is the number of random operations on an image (Cubuk et al. 2019, arXiv
	// 1909.13719), at most 14. Default: 0, none.
	RandAugment int `json:"rand_augment,omitzero"`
	// Magnitude is the strength of the operations of RandAugment, from 1 to 30. Default: 9.
	Magnitude int `json:"rand_augment_magnitude,omitzero"`

	// Erasing is the probability with which a random rectangle of an image is filled with Fill
	// (Zhong et al. 2017, arXiv 1708.04896). The rectangle covers 2 to 33 % of the image. Default:
	// 0.
	Erasing float64 `json:"random_erasing,omitzero"`

	// Mixup is the parameter α of Mixup (Zhang et al. 2018, arXiv 1710.09412): each image of a
	// mini-batch is averaged with another one. The weights of both are drawn from Beta(α, α), once
	// for each mini-batch. Default: 0, no Mixup.
	Mixup float64 `json:"mixup,omitzero"`
	// CutMix is the parameter α of CutMix (Yun et al. 2019, arXiv 1905.04899): each image of a
	// mini-batch gets a rectangle of another one, whose area is drawn from Beta(α, α). If Mixup is
	// set too, each mini-batch takes one of the two at random. Default: 0, no CutMix.
	CutMix float64 `json:"cutmix,omitzero"`

	// Fill is the colour that Erasing and the operations of RandAugment that move an image put
	// where the image has no pixels. The mean of the normalisation becomes zero in the input of a
	// backbone. Default: black.
	Fill [3]uint8 `json:"-"`
}

// maxAlpha limits Mixup and CutMix. A larger α always gives equal weights.
const maxAlpha = 1000

// Validate returns an error if a field is out of range or has no effect.
func (a Augment) Validate() error {
	inside := func(r [2]float64, max float64) bool { return r[0] > 0 && r[0] <= r[1] && r[1] <= max }
	switch {
	case a.CropScale != [2]float64{} && !inside(a.CropScale, 1):
		return option.Errorf("crop-scale", "random resized crop of %g to %g of the area: expected two shares above 0 and at most 1, the smaller one first", a.CropScale[0], a.CropScale[1])
	case a.CropRatio != [2]float64{} && !inside(a.CropRatio, 100):
		return option.Errorf("crop-ratio", "aspect ratios %g to %g of a random resized crop: expected two numbers above 0 and at most 100, the smaller one first", a.CropRatio[0], a.CropRatio[1])
	case a.CropRatio != [2]float64{} && !a.crops():
		return option.Errorf("crop-ratio", "aspect ratios of a random resized crop have no effect without the share of the area that it covers; give both")
	case a.RandAugment < 0 || a.RandAugment > len(operations):
		return option.Errorf("rand-augment", "RandAugment with %d operations: expected 0 to %d", a.RandAugment, len(operations))
	case a.Magnitude < 0 || a.Magnitude > maxMagnitude:
		return option.Errorf("rand-augment-magnitude", "magnitude %d of RandAugment: expected 1 to %d, or 0 for %d", a.Magnitude, maxMagnitude, defaultMagnitude)
	case a.Magnitude != 0 && a.RandAugment == 0:
		return option.Errorf("rand-augment-magnitude", "the magnitude of RandAugment has no effect without a number of operations; give both")
	}
	for _, f := range []struct {
		option, name string
		value, max   float64
	}{
		{"colour-jitter", "change of brightness", a.Brightness, 10}, {"colour-jitter", "change of contrast", a.Contrast, 10},
		{"colour-jitter", "change of saturation", a.Saturation, 10}, {"colour-jitter", "change of hue", a.Hue, 0.5},
		{"random-erasing", "probability of random erasing", a.Erasing, 1}, {"mixup", "alpha of Mixup", a.Mixup, maxAlpha}, {"cutmix", "alpha of CutMix", a.CutMix, maxAlpha},
	} {
		if !(f.value >= 0 && f.value <= f.max) {
			return option.Errorf(f.option, "%s %g: expected 0 to %g", f.name, f.value, f.max)
		}
	}
	return nil
}

// WithDefaults returns a with the defaults of CropRatio and Magnitude filled in, if they have an
// effect.
func (a Augment) WithDefaults() Augment {
	if a.crops() && a.CropRatio == [2]float64{} {
		a.CropRatio = [2]float64{3. / 4, 4. / 3}
	}
	if a.RandAugment > 0 && a.Magnitude == 0 {
		a.Magnitude = defaultMagnitude
	}
	return a
}

// crops reports whether a crops images at random.
func (a Augment) crops() bool { return a.CropScale != [2]float64{} }

// Mixes reports whether a loader mixes the images of a mini-batch. It then sets Others and Shares
// of each [Batch].
func (a Augment) Mixes() bool { return a.Mixup > 0 || a.CutMix > 0 }

// The streams of random numbers of augmentation. They differ from the stream of Transform.place, so
// that augmentation does not change which images are flipped.
const (
	imageStream = 0x61_75_67_6d_65_6e_74_00
	mixStream   = 0x6d_69_78_75_70_00_00_00
)

// stream returns the random numbers of one stream for a sample in an epoch.
func stream(name, seed uint64, epoch, index int) *rand.Rand {
	return rand.New(rand.NewPCG(seed^name, uint64(epoch)<<32|uint64(uint32(index))))
}

// augment crops, flips and changes an image that load has returned, and writes the result to dst,
// which is [Size, Size, 3]. seed, epoch and index determine the random numbers.
func (t Transform) augment(dst []uint8, m *RGB, seed uint64, epoch, index int) error {
	a, rng := t.Augment.WithDefaults(), stream(imageStream, seed, epoch, index)
	if a.crops() {
		resized, err := resizeBox(m, randomCrop(m.Width, m.Height, a.CropScale, a.CropRatio, rng), t.Size)
		if err != nil {
			return fmt.Errorf("random resized crop: %w", err)
		}
		_, _, flip := t.place(t.Size, t.Size, seed, epoch, index)
		cut(dst, resized, 0, 0, t.Size, flip)
	} else {
		x0, y0, flip := t.place(m.Width, m.Height, seed, epoch, index)
		cut(dst, m, x0, y0, t.Size, flip)
	}
	out := &RGB{t.Size, t.Size, dst}
	if a.VerticalFlip && rng.IntN(2) == 1 {
		flipRows(out)
	}
	a.jitter(out, rng)
	for range a.RandAugment {
		o := operations[rng.IntN(len(operations))]
		o.apply(out, a.Magnitude, o.signed && rng.IntN(2) == 1, a.Fill)
	}
	if a.Erasing > 0 && rng.Float64() < a.Erasing {
		if b, ok := randomErasing(out.Width, out.Height, rng); ok {
			erase(out, b, a.Fill)
		}
	}
	return nil
}

// jitter changes the colours of m by random factors, in a random order.
func (a Augment) jitter(m *RGB, rng *rand.Rand) {
	if a.Brightness == 0 && a.Contrast == 0 && a.Saturation == 0 && a.Hue == 0 {
		return
	}
	order := rng.Perm(4)
	var factors [4]float64
	for i, x := range []float64{a.Brightness, a.Contrast, a.Saturation} {
		low := max(0, 1-x)
		factors[i] = low + (1+x-low)*rng.Float64()
	}
	factors[3] = (2*rng.Float64() - 1) * a.Hue
	for _, i := range order {
		adjustments[i](m, factors[i])
	}
}

// adjustments holds the changes of Augment.Brightness, Contrast, Saturation and Hue.
var adjustments = [4]func(*RGB, float64){brighten, contrast, saturate, turnHue}

// flipRows turns an image upside down.
func flipRows(m *RGB) {
	n := 3 * m.Width
	row := make([]uint8, n)
	for y := range m.Height / 2 {
		top, bottom := m.Pix[y*n:][:n], m.Pix[(m.Height-1-y)*n:][:n]
		copy(row, top)
		copy(top, bottom)
		copy(bottom, row)
	}
}

// box is a rectangle of pixels: its upper left corner, its width and its height.
type box struct{ x, y, w, h int }

// drawSize returns the width and height of a rectangle, in pixels. Its area is a random share of
// area, uniform in scale. Its width divided by its height lies in ratio, with a uniform logarithm.
func drawSize(area int, scale, ratio [2]float64, rng *rand.Rand) (w, h int) {
	target := float64(area) * (scale[0] + (scale[1]-scale[0])*rng.Float64())
	low, high := math.Log(ratio[0]), math.Log(ratio[1])
	aspect := math.Exp(low + (high-low)*rng.Float64())
	return int(math.RoundToEven(math.Sqrt(target * aspect))), int(math.RoundToEven(math.Sqrt(target / aspect)))
}

// attempts is the number of rectangles that are drawn until one fits into the image.
const attempts = 10

// randomCrop draws a rectangle in an image of the given size, as RandomResizedCrop.get_params of
// torchvision. If none of ten rectangles fits, it returns the largest rectangle in the centre whose
// aspect ratio lies in ratio.
func randomCrop(width, height int, scale, ratio [2]float64, rng *rand.Rand) box {
	for range attempts {
		w, h := drawSize(width*height, scale, ratio, rng)
		if 0 < w && w <= width && 0 < h && h <= height {
			y := rng.IntN(height - h + 1)
			return box{rng.IntN(width - w + 1), y, w, h}
		}
	}
	w, h := width, height
	switch shape := float64(width) / float64(height); {
	case shape < ratio[0]:
		h = int(math.RoundToEven(float64(w) / ratio[0]))
	case shape > ratio[1]:
		w = int(math.RoundToEven(float64(h) * ratio[1]))
	}
	// The product of an image of one pixel and a ratio may round to zero.
	w, h = max(w, 1), max(h, 1)
	return box{(width - w) / 2, (height - h) / 2, w, h}
}

// resizeBox returns a rectangle of m, resized to size × size.
func resizeBox(m *RGB, b box, size int) (*RGB, error) {
	if b == (box{0, 0, m.Width, m.Height}) {
		return resizeBicubic(m, size, size)
	}
	part := newRGB(b.w, b.h)
	for y := range b.h {
		copy(part.Pix[3*y*b.w:][:3*b.w], m.Pix[3*((b.y+y)*m.Width+b.x):])
	}
	return resizeBicubic(part, size, size)
}

// randomErasing draws a rectangle in an image of the given size, as RandomErasing.get_params of
// torchvision. ok is false if none of ten rectangles fits.
func randomErasing(width, height int, rng *rand.Rand) (b box, ok bool) {
	for range attempts {
		// torchvision divides the height by the width here.
		h, w := drawSize(width*height, [2]float64{0.02, 0.33}, [2]float64{0.3, 3.3}, rng)
		if h < height && w < width {
			y := rng.IntN(height - h + 1)
			return box{rng.IntN(width - w + 1), y, w, h}, true
		}
	}
	return box{}, false
}

// erase fills a rectangle of m with a colour.
func erase(m *RGB, b box, fill [3]uint8) {
	for y := b.y; y < b.y+b.h; y++ {
		row := m.Pix[3*(y*m.Width+b.x):][:3*b.w]
		for i := 0; i < len(row); i += 3 {
			copy(row[i:], fill[:])
		}
	}
}
