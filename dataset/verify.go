package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
)

// VerifyOptions say how Dataset.Verify works. They change nothing in what it finds.
type VerifyOptions struct {
	Workers  int                   // images read at once; 0 means GOMAXPROCS
	Progress func(done, total int) // if not nil, called after every image, one call at a time
}

// Verification is what Dataset.Verify found.
type Verification struct {
	Images     int            // images read, the unreadable ones among them
	Bytes      int64          // their size: of files as stored, in memory as pixels
	Smallest   [2]int         // width and height of the image with the fewest pixels; 0, 0 if none can be read
	Largest    [2]int         // of the one with the most
	Splits     []SplitCount   // train, val and test
	Unreadable []SkippedImage // missing images, where the set was opened with SkipBadImages, and broken ones
	Duplicates []Duplicate    // in the order of their first image in train, val, test
	SHA256     string         // hexadecimal, over split, label and content of every image in order: the set's identity
}

// SplitCount is the size of a split.
type SplitCount struct {
	Name    string // "train", "val" or "test"
	Images  int
	Bytes   int64
	Classes []int // images of every class
}

// Duplicate is a group of images with the same pixels, at least two.
type Duplicate struct {
	Copies    []Located // in the order train, val, test
	SameBytes bool      // the files are the same, too
}

// Located is a sample and the split it is in.
type Located struct {
	Split  string // "train", "val" or "test"
	Sample Sample
	SHA256 string // hexadecimal, of the file; of an image in memory over its width and pixels
}

// Leaks reports whether the copies are in different splits: a model would be validated or tested on an image that it has
// seen.
func (d Duplicate) Leaks() bool {
	return slices.ContainsFunc(d.Copies, func(l Located) bool { return l.Split != d.Copies[0].Split })
}

// LeaksIntoTest reports whether some of the copies, but not all, are in the test split.
func (d Duplicate) LeaksIntoTest() bool {
	return d.Leaks() && slices.ContainsFunc(d.Copies, func(l Located) bool { return l.Split == "test" })
}

// Conflicts reports whether the copies have different labels.
func (d Duplicate) Conflicts() bool {
	return slices.ContainsFunc(d.Copies, func(l Located) bool { return l.Sample.class() != d.Copies[0].Sample.class() })
}

// Verify reads and decodes every image, counts, and finds those that cannot be read and those that are the same under
// different names: byte for byte, or in every pixel. None of that is an error here: many published sets have such images.
// The caller decides. It is an error if ctx is done.
func (d *Dataset) Verify(ctx context.Context, o VerifyOptions) (Verification, error) {
	var all []Located
	v := Verification{Unreadable: slices.Clone(d.Skipped)}
	for _, s := range d.splits() {
		count := SplitCount{Name: s.name, Images: len(*s.samples), Classes: make([]int, len(d.Classes))}
		for _, sample := range *s.samples {
			all = append(all, Located{Split: s.name, Sample: sample})
			count.Classes[sample.class()]++
		}
		v.Splits = append(v.Splits, count)
	}
	found := make([]inspection, len(all))
	var mu sync.Mutex
	done := 0
	err := parallel(ctx, len(all), o.Workers, func(i int) {
		found[i] = inspect(all[i].Sample)
		if o.Progress != nil {
			mu.Lock()
			defer mu.Unlock()
			done++
			o.Progress(done, len(all))
		}
	})
	if err != nil {
		return Verification{}, fmt.Errorf("verifying data set %s: %w", d.Name, err)
	}
	v.Images = len(all) + len(d.Skipped)
	identity := sha256.New()
	groups := make(map[[sha256.Size]byte][]int)
	var order [][sha256.Size]byte
	for i, f := range found {
		l := &all[i]
		l.SHA256 = hex.EncodeToString(f.content[:])
		fmt.Fprintln(identity, l.Split, l.Sample.class(), l.SHA256)
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
		if groups[f.pixels] == nil {
			order = append(order, f.pixels)
		}
		groups[f.pixels] = append(groups[f.pixels], i)
	}
	for _, key := range order {
		if len(groups[key]) < 2 {
			continue
		}
		g := Duplicate{SameBytes: true}
		for _, i := range groups[key] {
			g.Copies = append(g.Copies, all[i])
			g.SameBytes = g.SameBytes && all[i].SHA256 == g.Copies[0].SHA256
		}
		v.Duplicates = append(v.Duplicates, g)
	}
	v.SHA256 = hex.EncodeToString(identity.Sum(nil))
	return v, nil
}

// inspection is what one image turned out to be.
type inspection struct {
	content, pixels [sha256.Size]byte
	bytes           int64
	size            [2]int
	err             error
}

func inspect(s Sample) (f inspection) {
	if s.Image != nil {
		f.size, f.bytes = [2]int{s.Image.Width, s.Image.Height}, int64(len(s.Image.Pix))
		f.pixels = pixelHash(s.Image)
		f.content, f.err = f.pixels, s.Image.check()
		return f
	}
	data, err := s.encoded()
	if err != nil {
		f.err = err
		return f
	}
	f.content, f.bytes = sha256.Sum256(data), int64(len(data))
	m, err := s.decodeEncoded(data)
	if err != nil {
		f.err = err
		return f
	}
	f.pixels, f.size = pixelHash(m), [2]int{m.Width, m.Height}
	return f
}

// pixelHash is over the width, which tells 2×3 from 3×2, and the pixels.
func pixelHash(m *RGB) [sha256.Size]byte {
	h := sha256.New()
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(m.Width)))
	h.Write(m.Pix)
	return [sha256.Size]byte(h.Sum(nil))
}
