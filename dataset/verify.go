package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
)

// Verification is what Dataset.Verify found.
type Verification struct {
	Images     int         // images read
	Bytes      int64       // their size: of files as stored, in memory as pixels
	Duplicates []Duplicate // in the order of their first image in train, val, test
}

// Duplicate is a group of images with the same bytes, at least two.
type Duplicate struct {
	Copies []Located // in the order train, val, test
}

// Located is a sample and the split it is in.
type Located struct {
	Split  string // "train", "val" or "test"
	Sample Sample
}

// Leaks reports whether the copies are in different splits: a model would be tested on an image that it has seen.
func (d Duplicate) Leaks() bool {
	return slices.ContainsFunc(d.Copies, func(l Located) bool { return l.Split != d.Copies[0].Split })
}

// Conflicts reports whether the copies have different labels.
func (d Duplicate) Conflicts() bool {
	return slices.ContainsFunc(d.Copies, func(l Located) bool { return l.Sample.Label != d.Copies[0].Sample.Label })
}

// Verify reads every image and finds those that are the same byte for byte under different names. That is no error: many
// published sets have such images. The caller decides with Duplicate.Leaks and Duplicate.Conflicts. It is an error if a
// file cannot be read or ctx is done.
func (d *Dataset) Verify(ctx context.Context) (Verification, error) {
	var all []Located
	for _, s := range d.splits() {
		for _, sample := range *s.samples {
			all = append(all, Located{s.name, sample})
		}
	}
	type digest struct {
		sum [sha256.Size]byte
		err error
	}
	digests := make([]digest, len(all))
	var size atomic.Int64
	err := parallel(ctx, len(all), 0, func(i int) {
		sum, n, err := contentHash(all[i].Sample)
		digests[i] = digest{sum, err}
		size.Add(n)
	})
	if err != nil {
		return Verification{}, fmt.Errorf("verifying data set %s: %w", d.Name, err)
	}
	v := Verification{Images: len(all), Bytes: size.Load()}
	groups := make(map[[sha256.Size]byte][]Located)
	var order [][sha256.Size]byte
	var failed []error
	for i, g := range digests {
		if g.err != nil {
			failed = append(failed, fmt.Errorf("verifying data set %s: %s: %w", d.Name, all[i].Sample.Where, g.err))
			continue
		}
		if groups[g.sum] == nil {
			order = append(order, g.sum)
		}
		groups[g.sum] = append(groups[g.sum], all[i])
	}
	if failed != nil {
		return Verification{}, errors.Join(failed...)
	}
	for _, sum := range order {
		if len(groups[sum]) > 1 {
			v.Duplicates = append(v.Duplicates, Duplicate{groups[sum]})
		}
	}
	return v, nil
}

// contentHash returns the SHA-256 of a sample's file, or of the size and pixels of an image in memory.
func contentHash(s Sample) (sum [sha256.Size]byte, size int64, err error) {
	h := sha256.New()
	if s.Image != nil {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(s.Image.Width))) // the width tells 2×3 from 3×2
		h.Write(s.Image.Pix)
		return [sha256.Size]byte(h.Sum(nil)), int64(len(s.Image.Pix)), nil
	}
	if _, err := findFile(s.Path); err != nil {
		return sum, 0, err
	}
	f, err := os.Open(s.Path)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	size, err = io.Copy(h, f)
	if err != nil {
		return sum, 0, fmt.Errorf("reading %s: %w", s.Path, err)
	}
	return [sha256.Size]byte(h.Sum(nil)), size, nil
}
