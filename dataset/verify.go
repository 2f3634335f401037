package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/sptune/spt/progress"
)

// Verification is the result of [Dataset.Verify].
type Verification struct {
	// Images is the number of images, including unreadable and skipped images.
	Images int

	// Bytes is the total size of the images in bytes: the encoded size of an image in a file, and
	// the size of the pixels of an image in memory.
	Bytes int64

	// Smallest and Largest are the width and the height, in pixels, of the images with the fewest
	// and the most pixels. They are {0, 0} if no image can be read.
	Smallest, Largest [2]int

	// Sizes holds the width and the height of every image that can be read, in pixels, in the order
	// train, val, test.
	Sizes [][2]int

	// Modes counts the images by the kind of their pixels, such as "RGB", "grey" or "16-bit grey".
	// Images in memory, and files that do not state it, are not counted.
	Modes map[string]int

	// Splits counts the images of train, val and test.
	Splits []SplitCount

	// Unreadable lists the images of Dataset.Skipped and the images that Verify could not read.
	Unreadable []SkippedImage

	// Traits counts the images whose pixels may mean something else than the model expects.
	Traits Traits

	// Duplicates lists the groups of images with equal pixels, in the order of their first images.
	Duplicates []Duplicate

	// Near lists the groups of images that are nearly equal, such as resized, recompressed or
	// slightly changed copies, in the order of their first images. A group also holds the
	// duplicates of its images.
	Near []Duplicate

	// Divided lists the groups of the data set that are in several splits.
	Divided []DividedGroup

	// SHA256 identifies the contents of the data set. It is a hash, in hex, of the split, the
	// target and the content of every image, in order.
	SHA256 string
}

// SplitCount counts the images of a split.
type SplitCount struct {
	Name    string // "train", "val" or "test"
	Images  int    // number of images
	Bytes   int64  // total size of the images, as in Verification.Bytes
	Classes []int  // number of images of every class, indexed by class id; see ClassesOf
}

// Duplicate is a group of two or more images with the same or nearly the same pixels.
type Duplicate struct {
	// Copies lists the images, in the order train, val, test.
	Copies []Located

	// Near reports whether the pixels are nearly equal, and not equal.
	Near bool

	// Distance is, for nearly equal images, the largest number of bits in which the perceptual
	// hashes of two images that match differ, of 64.
	Distance int

	// SameBytes reports whether the encoded images are equal byte for byte too.
	SameBytes bool

	// Leaks reports whether the copies are in different splits. One split then evaluates a model on
	// an image of another split.
	Leaks bool

	// LeaksIntoTest reports whether some but not all copies are in the test split.
	LeaksIntoTest bool

	// Conflicts reports whether the copies have different targets.
	Conflicts bool
}

// Located is a sample and its split.
type Located struct {
	// Split is "train", "val" or "test".
	Split string

	Sample Sample

	// SHA256 is a hash, in hex, of the encoded image. For an image in memory, it is a hash of the
	// width and the pixels.
	SHA256 string

	// pixels is a hash of the pixels, or zero if they were not read. look is a perceptual hash.
	pixels [sha256.Size]byte
	look   look
}

// Verify reads and decodes every image and returns counts of the images and lists of problems:
// unreadable images, duplicate images, which have equal pixels under different names, nearly equal
// images, and groups in several splits. Verify returns no error for these problems, because many
// published data sets have them. It returns an error only if ctx is done.
//
// workers is the number of images that are read at the same time; zero means GOMAXPROCS. report
// receives an event of stage progress.Images after every image, and its calls do not overlap; nil
// means no progress. Neither changes the result.
func (d *Dataset) Verify(ctx context.Context, workers int, report progress.Func) (Verification, error) {
	var all []Located
	v := Verification{Unreadable: slices.Clone(d.Skipped), Splits: d.Counts(), Modes: map[string]int{}, Divided: d.DividedGroups()}
	for _, s := range d.splits() {
		for _, sample := range *s.samples {
			all = append(all, Located{Split: s.name, Sample: sample})
		}
	}
	found := make([]inspection, len(all))
	done := counter(len(all), progress.Images, report)
	err := parallel(ctx, len(all), workers, func(i int) {
		found[i] = inspect(all[i].Sample)
		done()
	})
	if err != nil {
		return Verification{}, fmt.Errorf("verifying data set %s: %w", d.Name, err)
	}
	v.Images = len(all) + len(d.Skipped)
	identity := sha256.New()
	for i, f := range found {
		l := &all[i]
		l.SHA256 = hex.EncodeToString(f.content[:])
		fmt.Fprintln(identity, l.Split, l.Sample.Target, l.SHA256)
		v.Bytes += f.bytes
		v.Splits[slices.IndexFunc(v.Splits, func(c SplitCount) bool { return c.Name == l.Split })].Bytes += f.bytes
		if f.err != nil {
			v.Unreadable = append(v.Unreadable, SkippedImage{l.Split, l.Sample.Path, l.Sample.Where, f.err})
			continue
		}
		area := func(size [2]int) int { return size[0] * size[1] }
		if v.Smallest == [2]int{} || area(f.size) < area(v.Smallest) {
			v.Smallest = f.size
		}
		if area(f.size) > area(v.Largest) {
			v.Largest = f.size
		}
		l.pixels, l.look = f.pixels, f.look
		v.Traits.merge(f.traits)
		v.Sizes = append(v.Sizes, f.size)
		if f.mode != "" {
			v.Modes[f.mode]++
		}
	}
	v.Duplicates = duplicates(all)
	if v.Near, err = nearDuplicates(ctx, all, workers); err != nil {
		return Verification{}, fmt.Errorf("verifying data set %s: %w", d.Name, err)
	}
	v.SHA256 = hex.EncodeToString(identity.Sum(nil))
	return v, nil
}

// Counts counts the images of the splits train, val and test. Their Bytes are zero.
func (d *Dataset) Counts() (counts []SplitCount) {
	for _, s := range d.splits() {
		counts = append(counts, SplitCount{Name: s.name, Images: len(*s.samples), Classes: countClasses(*s.samples, len(d.Classes))})
	}
	return counts
}

// inspection holds the results of inspect for one image.
type inspection struct {
	content [sha256.Size]byte // hash of the encoded image, or of the pixels of an image in memory
	pixels  [sha256.Size]byte // hash of the pixels
	bytes   int64             // size of the encoded image, or of the pixels of an image in memory
	size    [2]int            // width and height in pixels
	traits  Traits            // of this image
	look    look              // perceptual hash
	mode    string            // see modeOf
	err     error             // reason why the image cannot be read
}

// inspect reads and decodes one image.
func inspect(s Sample) (f inspection) {
	m, encoded, err := s.read()
	f.err = err
	if encoded != nil {
		f.content, f.bytes = sha256.Sum256(encoded), int64(len(encoded))
	}
	if err != nil {
		return f
	}
	f.pixels, f.size, f.look = pixelHash(m), [2]int{m.Width, m.Height}, thumbnailOf(m).hash()
	if encoded != nil {
		f.mode = modeOf(encoded)
	}
	if s.Image != nil {
		f.content, f.bytes = f.pixels, int64(len(m.Pix))
	} else {
		f.traits.add(encoded, m)
	}
	return f
}

// pixelHash returns a hash of the width and the pixels of an image. The width distinguishes 2×3
// from 3×2 pixels.
func pixelHash(m *RGB) [sha256.Size]byte {
	h := sha256.New()
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(m.Width)))
	h.Write(m.Pix)
	return [sha256.Size]byte(h.Sum(nil))
}
