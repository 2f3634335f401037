package dataset

import (
	"math"
	"math/rand/v2"
	"slices"
)

// mix mixes each image of a mini-batch with the image before it, and the first image with the last
// one, as MixUp and CutMix of torchvision's transforms v2. It sets Others and Shares. The images
// have size × size pixels.
func (a Augment) mix(b *Batch, size int, rng *rand.Rand) {
	alpha, cut := a.Mixup, false
	if a.CutMix > 0 && (a.Mixup == 0 || rng.IntN(2) == 1) {
		alpha, cut = a.CutMix, true
	}
	share := beta(alpha, rng)
	if cut {
		x, y := rng.IntN(size), rng.IntN(size)
		b.paste(cutBox(share, size, x, y), size)
	} else {
		b.average(share)
	}
}

// others sets Others, and Shares to one share.
func (b *Batch) others(share float32) {
	b.Others = append([]Target{b.Targets[b.N-1]}, b.Targets[:b.N-1]...)
	b.Shares = slices.Repeat([]float32{share}, b.N)
}

// average replaces each image by share·image + (1-share)·other, rounded.
func (b *Batch) average(share float64) {
	const one = 1 << 16
	own := uint32(math.Round(share * one)) // of the pixels and of the targets
	b.others(float32(own) / one)
	b.backwards(func(image, other []uint8) {
		for i, v := range other {
			image[i] = uint8((own*uint32(image[i]) + (one-own)*uint32(v) + one/2) >> 16)
		}
	})
}

// paste replaces a rectangle of each image by that of the other image.
func (b *Batch) paste(r box, size int) {
	b.others(float32(1 - float64(r.w*r.h)/float64(size*size)))
	b.backwards(func(image, other []uint8) {
		for y := r.y; y < r.y+r.h; y++ {
			first := 3 * (y*size + r.x)
			copy(image[first:first+3*r.w], other[first:])
		}
	})
}

// backwards calls do with each image and the image before it, from the last image to the first,
// whose other image is the last one. do changes image in place.
func (b *Batch) backwards(do func(image, other []uint8)) {
	n := len(b.Pixels) / b.N
	last := slices.Clone(b.Pixels[(b.N-1)*n:])
	for i := b.N - 1; i > 0; i-- {
		do(b.Pixels[i*n:(i+1)*n], b.Pixels[(i-1)*n:i*n])
	}
	do(b.Pixels[:n], last)
}

// cutBox returns the rectangle around (x, y) whose area is 1-share of an image, clipped to the
// image.
func cutBox(share float64, size, x, y int) box {
	half := int(math.Sqrt(1-share) / 2 * float64(size))
	x1, y1 := max(x-half, 0), max(y-half, 0)
	return box{x1, y1, min(x+half, size) - x1, min(y+half, size) - y1}
}

// beta draws a number from the distribution Beta(alpha, alpha).
func beta(alpha float64, rng *rand.Rand) float64 {
	// The logarithms keep a small alpha from making both numbers zero.
	return 1 / (1 + math.Exp(logGamma(alpha, rng)-logGamma(alpha, rng)))
}

// logGamma draws the logarithm of a number from the distribution Gamma(shape, 1) (Marsaglia and
// Tsang 2000).
func logGamma(shape float64, rng *rand.Rand) float64 {
	if shape < 1 {
		return logGamma(shape+1, rng) + math.Log(1-rng.Float64())/shape
	}
	d := shape - 1./3
	for {
		x := rng.NormFloat64()
		v := 1 + x/math.Sqrt(9*d)
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-rng.Float64()) < x*x/2+d*(1-v+math.Log(v)) {
			return math.Log(d * v)
		}
	}
}
