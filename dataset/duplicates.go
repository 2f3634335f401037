package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// duplicates returns the groups of images with equal pixels, in the order of their first images.
// all is in the order train, val, test. Images whose pixels were not read are left out.
func duplicates(all []Located) (found []Duplicate) {
	groups := make(map[[sha256.Size]byte][]Located)
	var order [][sha256.Size]byte
	for _, l := range all {
		if l.pixels == [sha256.Size]byte{} {
			continue
		}
		if groups[l.pixels] == nil {
			order = append(order, l.pixels)
		}
		groups[l.pixels] = append(groups[l.pixels], l)
	}
	for _, key := range order {
		copies := groups[key]
		if len(copies) < 2 {
			continue
		}
		found = append(found, newDuplicate(copies))
	}
	return found
}

// newDuplicate returns the group of copies, which are in the order of the splits.
func newDuplicate(copies []Located) Duplicate {
	g := Duplicate{Copies: copies, SameBytes: true}
	for _, l := range copies {
		g.SameBytes = g.SameBytes && l.SHA256 == copies[0].SHA256
		g.Leaks = g.Leaks || l.Split != copies[0].Split
		g.Conflicts = g.Conflicts || l.Sample.Target.String() != copies[0].Sample.Target.String()
	}
	// The test split is the last split.
	g.LeaksIntoTest = g.Leaks && copies[len(copies)-1].Split == "test"
	return g
}

// Copies returns the groups of images that are equal byte for byte. Unlike [Dataset.Verify], it
// decodes no image and reads only files whose size another file has too. So it does not find images
// with equal pixels in different files. It does not compare the rows of parquet files, and skips
// files that cannot be read. workers is the number of files that are read at the same time; zero
// means GOMAXPROCS. An error is the error of ctx.
func (d *Dataset) Copies(ctx context.Context, workers int) ([]Duplicate, error) {
	var all []Located
	sizes := map[int64]int{}
	size := func(s Sample) int64 { // negative: not compared
		if s.Image != nil {
			return -1
		}
		return s.source().size()
	}
	var bytes []int64
	for _, split := range d.splits() {
		for _, s := range *split.samples {
			n := size(s)
			all, bytes = append(all, Located{Split: split.name, Sample: s}), append(bytes, n)
			sizes[n]++
		}
	}
	err := parallel(ctx, len(all), workers, func(i int) {
		l := &all[i]
		switch {
		case l.Sample.Image != nil:
			l.pixels = pixelHash(l.Sample.Image)
		case bytes[i] >= 0 && sizes[bytes[i]] > 1:
			if encoded, err := l.Sample.source().encoded(); err == nil {
				l.pixels = sha256.Sum256(encoded) // equal files have equal pixels
			}
		}
		l.SHA256 = hex.EncodeToString(l.pixels[:])
	})
	if err != nil {
		return nil, fmt.Errorf("comparing the images of data set %s: %w", d.Name, err)
	}
	return duplicates(all), nil
}

// NameOf returns the name of an image for people and for files about the data set: its path below
// Root, with slashes. The path of an image outside Root begins with "..". The name of an image in
// memory is empty.
func (d *Dataset) NameOf(s Sample) string {
	if s.Path == "" {
		return ""
	}
	return relative(d.Root, s.Path)
}
