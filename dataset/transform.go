package dataset

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sptune/spt/internal/option"
)

// Transform defines how an image becomes Size × Size pixels.
type Transform struct {
	// Size is the width and height of the result, in pixels. It has no default: give 1 or more.
	Size int

	// Resize is the kind of resize. Default "": "direct".
	//
	//   - "direct" resizes to Size × Size and does not keep the shape.
	//   - "crop" resizes the shorter side to ResizeTo, keeps the shape, and crops Size × Size from
	//     the centre.
	//   - "direct-crop" resizes to ResizeTo × ResizeTo and crops Size × Size from the centre, as
	//     the reference release of SPT does for FGVC (build_transform in its lib/datasets.py).
	Resize string

	// ResizeTo is the shorter side after the resize, in pixels. It must be 0 with "direct". Default
	// 0: round(Size·256/224).
	ResizeTo int

	// RandomCrop takes the crop from a random place. It must be false with "direct". HorizontalFlip
	// mirrors half of the images, chosen at random. Both are for training. Default false.
	RandomCrop, HorizontalFlip bool
}

// maxSide bounds Size. A batch allocates Size² pixels for every image, so a mistyped size must not
// reach the allocation.
const maxSide = 4096

// Validate returns an error if a field is out of range or if fields contradict each other.
func (t Transform) Validate() error {
	switch {
	case t.Size < 1:
		return option.Errorf("image-size", "image transform: size %d is not positive", t.Size)
	case t.Size > maxSide:
		return option.Errorf("image-size", "image transform: size %d is above the limit of %d", t.Size, maxSide)
	case t.Resize != "" && t.Resize != "direct" && !t.crops():
		return option.Errorf("resize", "image transform: resize %q is not one of direct, crop, direct-crop", t.Resize)
	case !t.crops() && (t.RandomCrop || t.ResizeTo != 0):
		return option.Errorf("resize", "image transform: a random crop and ResizeTo need resize %q or %q", "crop", "direct-crop")
	case t.ResizeTo > 2*maxSide:
		return option.Errorf("resize-to", "image transform: ResizeTo %d is above the limit of %d", t.ResizeTo, 2*maxSide)
	case t.crops() && t.resizeTo() < t.Size:
		return option.Errorf("resize-to", "image transform: shorter side %d is below the crop of %d: images would not cover it", t.resizeTo(), t.Size)
	}
	return nil
}

// crops reports whether a crop follows the resize.
func (t Transform) crops() bool { return t.Resize == "crop" || t.Resize == "direct-crop" }

// resizeTo returns ResizeTo or its default.
func (t Transform) resizeTo() int {
	if t.ResizeTo != 0 {
		return t.ResizeTo
	}
	return int(math.Round(float64(t.Size) * 256 / 224))
}

// fixed returns the part of t that is the same in every pass. It gives squares of fixed.Size
// pixels, from which [Transform.Place] says what to crop and whether to mirror the crop. ok is
// false if no square holds everything that t may crop: a random crop from images that keep their
// shape.
func (t Transform) fixed() (fixed Transform, ok bool) {
	fixed = t
	fixed.RandomCrop, fixed.HorizontalFlip = false, false
	if !t.RandomCrop {
		return fixed, true
	}
	return Transform{Size: t.resizeTo()}, t.Resize == "direct-crop"
}

// Place returns the upper left corner, in pixels, of the crop of sample index in its square of
// [Loader.Fixed], and whether the crop is mirrored, in the pass of that seed and epoch.
func (t Transform) Place(seed uint64, epoch, index int) (x0, y0 int, flip bool) {
	fixed, _ := t.fixed()
	return t.place(fixed.Size, fixed.Size, seed, epoch, index)
}

// SamplePixels reads the image of a sample as evaluation does, without a random crop or flip. The
// result is [Size, Size, 3], red green blue.
func (t Transform) SamplePixels(s Sample) ([]uint8, error) {
	t.RandomCrop, t.HorizontalFlip = false, false
	if err := t.Validate(); err != nil {
		return nil, err
	}
	m, err := t.load(s, nil)
	if err != nil {
		return nil, err
	}
	pix := make([]uint8, 3*t.Size*t.Size)
	t.finish(pix, m, 0, 0, 0)
	return pix, nil
}

// load returns the image of a sample, resized but not yet cropped or flipped. The result is shared
// and must not be changed.
func (t Transform) load(s Sample, cache *Cache) (*RGB, error) {
	key := t.cacheKey(s)
	if m := cache.get(key); m != nil {
		return m, nil
	}
	m, _, err := s.read()
	if err != nil {
		return nil, err
	}
	resized, err := t.resize(m)
	if err != nil {
		return nil, &ImageError{s.Path, fmt.Errorf("%s: %w", s.name(), err)}
	}
	if resized != s.Image { // s.Image is in memory already
		cache.put(key, resized)
	}
	return resized, nil
}

// resize resizes an image to the size from which the crop is taken.
func (t Transform) resize(m *RGB) (*RGB, error) {
	switch t.Resize {
	case "", "direct":
		return resizeBicubic(m, t.Size, t.Size)
	case "direct-crop":
		return resizeBicubic(m, t.resizeTo(), t.resizeTo())
	}
	// torchvision's Resize truncates the longer side; it does not round it.
	short := t.resizeTo()
	w, h := short, short
	if m.Width <= m.Height {
		h = short * m.Height / m.Width
	} else {
		w = short * m.Width / m.Height
	}
	return resizeBicubic(m, w, h)
}

// place returns the upper left corner of the crop in an image of that width and height, and whether
// the crop is mirrored. seed, epoch and index decide on the random parts.
func (t Transform) place(width, height int, seed uint64, epoch, index int) (x0, y0 int, flip bool) {
	// torchvision's CenterCrop rounds halves to even.
	x0 = int(math.RoundToEven(float64(width-t.Size) / 2))
	y0 = int(math.RoundToEven(float64(height-t.Size) / 2))
	if t.RandomCrop || t.HorizontalFlip {
		rng := rand.New(rand.NewPCG(seed, uint64(epoch)<<32|uint64(uint32(index))))
		if t.RandomCrop {
			y0 = rng.IntN(height - t.Size + 1)
			x0 = rng.IntN(width - t.Size + 1)
		}
		flip = t.HorizontalFlip && rng.IntN(2) == 1
	}
	return x0, y0, flip
}

// finish crops and flips a resized image into dst [Size, Size, 3]. seed, epoch and index decide on
// the random parts.
func (t Transform) finish(dst []uint8, m *RGB, seed uint64, epoch, index int) {
	x0, y0, flip := t.place(m.Width, m.Height, seed, epoch, index)
	for y := range t.Size {
		src := m.Pix[3*((y0+y)*m.Width+x0):][:3*t.Size]
		row := dst[3*y*t.Size:][:3*t.Size]
		if !flip {
			copy(row, src)
			continue
		}
		for i := 0; i < len(row); i += 3 {
			j := len(row) - 3 - i
			row[i], row[i+1], row[i+2] = src[j], src[j+1], src[j+2]
		}
	}
}
