package dataset

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sptune/spt/internal/option"
)

// Transform configures how an image is resized, cropped and flipped to Size × Size pixels.
type Transform struct {
	// Size is the width and the height of the result, in pixels: 1 to 4096. It has no default.
	Size int

	// Resize is the kind of resize. Default: "direct".
	//
	//   - "direct" resizes to Size × Size and does not keep the aspect ratio.
	//   - "crop" resizes the shorter side to ResizeTo, keeps the aspect ratio, and crops
	//     Size × Size from the centre.
	//   - "direct-crop" resizes to ResizeTo × ResizeTo and crops Size × Size from the centre, as
	//     the reference release of SPT does for FGVC (build_transform in its lib/datasets.py).
	Resize string

	// ResizeTo is the length of the shorter side after the resize, in pixels: Size to 8192. It must
	// be 0 with "direct". Zero means round(Size·256/224).
	ResizeTo int

	// RandomCrop takes the crop from a random position instead of the centre. It is for training
	// and must be false with "direct".
	RandomCrop bool

	// HorizontalFlip mirrors each image with a probability of 1/2. It is for training.
	HorizontalFlip bool

	// Augment is the other augmentation, for training. Default: none.
	Augment Augment

	// TestFlip makes an evaluation predict each image and its mirror image, and average their
	// logits. A loader does not read it.
	TestFlip bool
}

// maxSide limits Size, so that a mistyped size does not allocate huge mini-batches of Size² pixels
// for every image.
const maxSide = 4096

// Validate returns an error if a field is out of range or if fields contradict each other.
func (t Transform) Validate() error {
	switch {
	case t.Size < 1:
		return option.Errorf("image-size", "image transform: size %d is not positive; give 1 or more pixels", t.Size)
	case t.Size > maxSide:
		return option.Errorf("image-size", "image transform: size %d is above the limit of %d pixels", t.Size, maxSide)
	case t.Resize != "" && t.Resize != "direct" && !t.crops():
		return option.Unknown("resize", "resize", t.Resize, []string{"direct", "crop", "direct-crop"})
	case !t.crops() && (t.RandomCrop || t.ResizeTo != 0):
		return option.Errorf("resize", "image transform: a random crop and a size of the shorter side need resize %q or %q", "crop", "direct-crop")
	case t.ResizeTo > 2*maxSide:
		return option.Errorf("resize-to", "image transform: shorter side %d is above the limit of %d pixels", t.ResizeTo, 2*maxSide)
	case t.crops() && t.resizeTo() < t.Size:
		return option.Errorf("resize-to", "image transform: shorter side %d is below the crop size of %d pixels; give the crop size or more", t.resizeTo(), t.Size)
	case t.RandomCrop && t.Augment.crops():
		return option.Errorf("random-crop", "image transform: a random crop and a random resized crop exclude each other; leave one of them out")
	}
	return t.Augment.Validate()
}

// WithDefaults returns t with the defaults of Resize and ResizeTo filled in.
func (t Transform) WithDefaults() Transform {
	t.Resize = cmp.Or(t.Resize, "direct")
	if t.crops() {
		t.ResizeTo = t.resizeTo()
	}
	return t
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

// fixed returns t without its random part. The results of fixed are squares of fixed.Size pixels;
// see [Loader.Fixed]. ok is false for a random crop with Resize "crop". The images then keep their
// aspect ratio, and no square contains every possible crop. ok is also false with an Augment, whose
// random part is more than a crop and a flip.
func (t Transform) fixed() (fixed Transform, ok bool) {
	ok = t.Augment == Augment{}
	fixed = t
	fixed.RandomCrop, fixed.HorizontalFlip, fixed.Augment = false, false, Augment{}
	if !t.RandomCrop {
		return fixed, ok
	}
	return Transform{Size: t.resizeTo()}, ok && t.Resize == "direct-crop"
}

// Place returns the random part of t for one sample in one pass. x0 and y0 are the upper left
// corner of the crop, in pixels, in the square that [Loader.Fixed] yields. flip reports whether the
// crop is mirrored. The result depends on seed, epoch and the index of the sample, as in
// [Loader.Batches].
func (t Transform) Place(seed uint64, epoch, index int) (x0, y0 int, flip bool) {
	fixed, _ := t.fixed()
	return t.place(fixed.Size, fixed.Size, seed, epoch, index)
}

// SamplePixels loads the image of a sample as in evaluation, without augmentation. The result is
// [Size, Size, 3] with the channels red, green and blue. The error is an *[ImageError] if the image
// is missing or broken.
func (t Transform) SamplePixels(s Sample) ([]uint8, error) {
	t.RandomCrop, t.HorizontalFlip, t.Augment = false, false, Augment{}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	m, err := t.load(s, nil)
	if err != nil {
		return nil, err
	}
	pix := make([]uint8, 3*t.Size*t.Size)
	return pix, t.finish(pix, m, 0, 0, 0)
}

// load returns the image of a sample after the resize, before crop and flip. For a random resized
// crop it returns the image that the crop is taken from. Callers must not change the result,
// because cache may hold it.
func (t Transform) load(s Sample, cache *Cache) (*RGB, error) {
	key := t.cacheKey(s)
	if m := cache.get(key); m != nil {
		return m, nil
	}
	m, part, _, err := s.readReduced(t.short())
	if err != nil {
		return nil, err
	}
	resized, err := t.resize(m, part)
	if err != nil {
		return nil, &ImageError{s.Path, fmt.Errorf("%s: %w", s.name(), err)}
	}
	if resized != s.Image { // s.Image is already in memory
		cache.put(key, resized)
	}
	return resized, nil
}

// short returns the length of the shorter side of an image after the resize, in pixels.
func (t Transform) short() int {
	switch {
	case t.Augment.crops():
		return t.cropSource()
	case t.crops():
		return t.resizeTo()
	}
	return t.Size
}

// resize returns an image after the resize, before the crop. The frame is the part of m that shows
// the image.
func (t Transform) resize(m *RGB, part frame) (*RGB, error) {
	short := t.short()
	if t.Augment.crops() {
		if min(m.Width, m.Height) > short {
			return resizeShort(m, part, short)
		}
		return m, m.check()
	}
	switch t.Resize {
	case "", "direct", "direct-crop":
		return resizeFrame(m, part, short, short)
	}
	return resizeShort(m, part, short)
}

// cropSource returns the longest shorter side, in pixels, of the images that a random resized crop
// is taken from. Larger images are reduced to it once, so that the cache holds more of them and a
// crop costs less. The smallest square crop then still has about Size pixels a side, but a crop of
// less than a quarter of the area is enlarged, so that the memory of an image is limited.
func (t Transform) cropSource() int {
	return int(math.Ceil(float64(t.Size) * min(2, 1/math.Sqrt(t.Augment.CropScale[0]))))
}

// resizeShort returns the image in a frame of m with a shorter side of the given length, in pixels.
// It keeps the aspect ratio.
func resizeShort(m *RGB, part frame, short int) (*RGB, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("resizing: %w", err)
	}
	// The length of the longer side is truncated, not rounded, as in torchvision's Resize.
	w, h := short, short
	if part.width() <= part.height() {
		h = int(float64(short) * part.height() / part.width())
	} else {
		w = int(float64(short) * part.width() / part.height())
	}
	return resizeFrame(m, part, w, h)
}

// place returns the upper left corner of the crop in an image of the given width and height, and
// whether the crop is mirrored. seed, epoch and index determine the random numbers.
func (t Transform) place(width, height int, seed uint64, epoch, index int) (x0, y0 int, flip bool) {
	// Halves are rounded to even, as in torchvision's CenterCrop.
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

// finish crops, flips and augments an image of load and writes the result to dst, which is
// [Size, Size, 3]. seed, epoch and index determine the random numbers.
func (t Transform) finish(dst []uint8, m *RGB, seed uint64, epoch, index int) error {
	if t.Augment != (Augment{}) {
		return t.augment(dst, m, seed, epoch, index)
	}
	x0, y0, flip := t.place(m.Width, m.Height, seed, epoch, index)
	cut(dst, m, x0, y0, t.Size, flip)
	return nil
}

// cut writes the square of m at (x0, y0) to dst, which is [size, size, 3]. It is mirrored if flip
// is true.
func cut(dst []uint8, m *RGB, x0, y0, size int, flip bool) {
	for y := range size {
		src := m.Pix[3*((y0+y)*m.Width+x0):][:3*size]
		row := dst[3*y*size:][:3*size]
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
