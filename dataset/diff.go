package dataset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/progress"
)

// ChangeKind says how an image of one data set differs from the image of another.
type ChangeKind string

// The kinds of changes.
const (
	ImageNew     ChangeKind = "new"     // the image is in the second data set only
	ImageGone    ChangeKind = "gone"    // the image is in the first data set only
	ImageChanged ChangeKind = "changed" // the same path, with other content
	ImageMoved   ChangeKind = "moved"   // the same content, at another path
	// ImageRelabelled is the same path and content, with another class or in another split.
	ImageRelabelled ChangeKind = "relabelled"
)

// ChangeKinds returns the kinds of changes.
func ChangeKinds() []ChangeKind {
	return []ChangeKind{ImageNew, ImageGone, ImageChanged, ImageMoved, ImageRelabelled}
}

// Change is an image that differs between two data sets.
type Change struct {
	Kind ChangeKind `json:"kind"`
	// Before and After are the places of the image in the two data sets. One of them is nil for a
	// new image and for one that is gone.
	Before *ImagePlace `json:"before,omitempty"`
	After  *ImagePlace `json:"after,omitempty"`
}

// ImagePlace is the place of an image in a data set.
type ImagePlace struct {
	Path  string `json:"path"` // relative to the folder of the data set, with slashes
	Split string `json:"split"`
	Class string `json:"class"`
}

// ClassRename is a class whose images are in a class of another name.
type ClassRename struct {
	Before string `json:"before"`
	After  string `json:"after"`
	Images int    `json:"images"` // number of images of the class that are in both data sets
}

// PartDifference counts the images of a class in a split, and those that differ.
type PartDifference struct {
	Split  string `json:"split"`
	Class  string `json:"class"`
	Before int    `json:"before"` // number of images in the first data set
	After  int    `json:"after"`  // number of images in the second data set
	// Changes counts the changes by kind. Images that came to the part or left it are counted in
	// the part where they are in the second data set, and those that are gone where they were.
	Changes map[ChangeKind]int `json:"changes,omitempty"`
}

// Difference is how two data sets differ. It is empty if they have the same images.
type Difference struct {
	// Same is the number of images that do not differ.
	Same int `json:"same"`
	// Changes lists the images that differ, by kind, then by path.
	Changes []Change `json:"changes"`
	// NewClasses and GoneClasses list the classes that are in one data set only, without those in
	// Renamed. Renamed lists the classes of which more than half of the images have the same
	// content as images of a class that is new.
	NewClasses  []string      `json:"new_classes"`
	GoneClasses []string      `json:"gone_classes"`
	Renamed     []ClassRename `json:"renamed_classes"`
	// Parts counts the images of every class in every split, in the order of the splits, then of
	// the class names.
	Parts []PartDifference `json:"parts"`
	// Unreadable lists the images that could not be read. They count as different from all others.
	Unreadable []SkippedImage `json:"-"`
}

// Count returns the number of changes of a kind.
func (d *Difference) Count(kind ChangeKind) (n int) {
	for _, c := range d.Changes {
		if c.Kind == kind {
			n++
		}
	}
	return n
}

// Empty reports whether the data sets have the same images and classes.
func (d *Difference) Empty() bool {
	return len(d.Changes)+len(d.NewClasses)+len(d.GoneClasses)+len(d.Renamed) == 0
}

// diffImage is an image of one of two data sets.
type diffImage struct {
	place   ImagePlace
	sample  Sample
	size    int64             // of the encoded image in bytes; -1 if it is not known
	content [sha256.Size]byte // hash of the encoded image; zero if it was not read
	matched bool
}

// Diff compares the images of two data sets, d and then other. Images with the same path below the
// folders of the data sets are the same image. Of the others, images with equal bytes were moved.
// The images of parquet files, and images in memory, have no names: those with equal bytes are the
// same image, and all others are new or gone.
//
// Diff does not decode images. It reads those whose size does not already tell that they differ,
// and keeps a hash of each. workers and report are as for [Dataset.Verify]. An error is that of
// ctx.
func (d *Dataset) Diff(ctx context.Context, other *Dataset, workers int, report progress.Func) (*Difference, error) {
	before, after := d.diffImages(), other.diffImages()
	named := !d.unnamed() && !other.unnamed()
	out := &Difference{Changes: []Change{}, NewClasses: []string{}, GoneClasses: []string{}, Renamed: []ClassRename{}}

	byPath := make(map[string]*diffImage)
	if named {
		for i := range before {
			byPath[before[i].place.Path] = &before[i]
		}
	}
	pairs := make(map[*diffImage]*diffImage) // the image of before for one of after
	sizes := make(map[int64][2]int)          // numbers of images without a pair
	for i := range after {
		if b := byPath[after[i].place.Path]; b != nil {
			pairs[&after[i]], b.matched, after[i].matched = b, true, true
		}
	}
	for side, list := range [][]diffImage{before, after} {
		for i := range list {
			if !list[i].matched {
				n := sizes[list[i].size]
				n[side]++
				sizes[list[i].size] = n
			}
		}
	}
	var read []*diffImage
	need := func(m *diffImage, others int) {
		if others > 0 || m.size < 0 || sizes[-1] != [2]int{} {
			read = append(read, m)
		}
	}
	for i := range before {
		if !before[i].matched {
			need(&before[i], sizes[before[i].size][1])
		}
	}
	for i := range after {
		m := &after[i]
		switch b := pairs[m]; {
		case b == nil:
			need(m, sizes[m.size][0])
		case b.size == m.size:
			read = append(read, b, m)
		}
	}
	failed := make([]error, len(read))
	done := counter(len(read), progress.Images, report)
	err := parallel(ctx, len(read), workers, func(i int) {
		read[i].content, failed[i] = contentOf(read[i].sample)
		done()
	})
	if err != nil {
		return nil, fmt.Errorf("comparing the data sets %s and %s: %w", d.Name, other.Name, err)
	}
	for i, err := range failed {
		if err != nil {
			out.Unreadable = append(out.Unreadable, SkippedImage{read[i].place.Split, read[i].sample.Path, read[i].sample.Where, err})
		}
	}

	byContent := make(map[[sha256.Size]byte][]*diffImage)
	for i := range before {
		if b := &before[i]; !b.matched && b.content != [sha256.Size]byte{} {
			byContent[b.content] = append(byContent[b.content], b)
		}
	}
	moved := make(map[string]map[string]int) // images by class before and class after
	for i := range after {
		m := &after[i]
		b, kind := pairs[m], ImageChanged
		if b == nil {
			kind = ImageMoved
			if found := byContent[m.content]; len(found) > 0 {
				b, byContent[m.content] = found[0], found[1:]
				b.matched, m.matched = true, true
			}
		}
		if b == nil {
			out.Changes = append(out.Changes, Change{Kind: ImageNew, After: &m.place})
			continue
		}
		same := b.size == m.size && b.content == m.content && b.content != [sha256.Size]byte{}
		if same {
			if moved[b.place.Class] == nil {
				moved[b.place.Class] = make(map[string]int)
			}
			moved[b.place.Class][m.place.Class]++
		}
		switch {
		case kind == ImageMoved && named:
		case kind == ImageChanged && !same:
		case b.place.Class != m.place.Class || b.place.Split != m.place.Split:
			kind = ImageRelabelled
		default:
			out.Same++
			continue
		}
		out.Changes = append(out.Changes, Change{Kind: kind, Before: &b.place, After: &m.place})
	}
	for i := range before {
		if !before[i].matched {
			out.Changes = append(out.Changes, Change{Kind: ImageGone, Before: &before[i].place})
		}
	}
	kinds := ChangeKinds()
	slices.SortStableFunc(out.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.where().Path, b.where().Path))
	})
	out.compareClasses(d.Classes, other.Classes, before, moved)
	out.countParts(d, other)
	return out, nil
}

// where returns the place of the change: where the image is now or, if it is gone, where it was.
func (c Change) where() *ImagePlace {
	if c.After != nil {
		return c.After
	}
	return c.Before
}

// compareClasses fills in the classes that are new, gone or renamed. moved counts the images with
// equal content by their classes before and after.
func (d *Difference) compareClasses(before, after []string, images []diffImage, moved map[string]map[string]int) {
	total := make(map[string]int)
	for _, m := range images {
		total[m.place.Class]++
	}
	taken := make(map[string]bool)
	for _, class := range before {
		if slices.Contains(after, class) {
			continue
		}
		to, most := "", 0
		for _, name := range slices.Sorted(maps.Keys(moved[class])) {
			if n := moved[class][name]; n > most && !slices.Contains(before, name) && !taken[name] {
				to, most = name, n
			}
		}
		if 2*most > total[class] {
			taken[to] = true
			d.Renamed = append(d.Renamed, ClassRename{class, to, most})
		} else {
			d.GoneClasses = append(d.GoneClasses, class)
		}
	}
	for _, class := range after {
		if !slices.Contains(before, class) && !taken[class] {
			d.NewClasses = append(d.NewClasses, class)
		}
	}
}

// countParts fills in the numbers of images of each class in each split.
func (d *Difference) countParts(a, b *Dataset) {
	type part struct{ split, class string }
	parts := make(map[part]*PartDifference)
	at := func(split, class string) *PartDifference {
		p := part{split, class}
		if parts[p] == nil {
			parts[p] = &PartDifference{Split: split, Class: class}
		}
		return parts[p]
	}
	for _, split := range a.splits() {
		for _, s := range *split.samples {
			at(split.name, a.TargetName(s.Target)).Before++
		}
	}
	for _, split := range b.splits() {
		for _, s := range *split.samples {
			at(split.name, b.TargetName(s.Target)).After++
		}
	}
	for _, c := range d.Changes {
		p := at(c.where().Split, c.where().Class)
		if p.Changes == nil {
			p.Changes = make(map[ChangeKind]int)
		}
		p.Changes[c.Kind]++
	}
	for _, split := range splitWords {
		var names []string
		for p := range parts {
			if p.split == split {
				names = append(names, p.class)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			d.Parts = append(d.Parts, *parts[part{split, name}])
		}
	}
}

// unnamed reports whether the images have no names of their own.
func (d *Dataset) unnamed() bool {
	i := slices.IndexFunc(layouts(), func(l layout) bool { return l.name == d.Layout })
	return i < 0 || layouts()[i].unnamed
}

// diffImages returns the images of all splits.
func (d *Dataset) diffImages() (all []diffImage) {
	folder := d.Root
	if info, err := os.Stat(folder); err == nil && !info.IsDir() {
		folder = filepath.Dir(folder)
	}
	for _, split := range d.splits() {
		for _, s := range *split.samples {
			m := diffImage{sample: s, size: -1, place: ImagePlace{Split: split.name, Class: d.TargetName(s.Target)}}
			if s.Path != "" {
				m.place.Path = relative(folder, s.Path)
			}
			if s.stored == nil && s.Image == nil {
				if info, err := os.Stat(s.Path); err == nil {
					m.size = info.Size()
				}
			}
			all = append(all, m)
		}
	}
	return all
}

// contentOf returns a hash of the encoded image or, for an image in memory, of its pixels.
func contentOf(s Sample) (hash [sha256.Size]byte, err error) {
	if s.Image != nil {
		return pixelHash(s.Image), s.Image.check()
	}
	encoded, err := s.source().encoded()
	if err != nil {
		return hash, err
	}
	return sha256.Sum256(encoded), nil
}
