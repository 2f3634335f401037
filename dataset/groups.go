package dataset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/progress"
)

// grouped reports whether the options make groups of images.
func (o OpenOptions) grouped() bool {
	return o.GroupColumn != "" || o.GroupPattern != "" || o.GroupDuplicates
}

// by returns in words what the splits of Open respect. several reports whether images have several
// labels. Dataset.Split holds the text.
func (o OpenOptions) by(several bool) string {
	by := []string{"class"}
	if several {
		by = []string{"labels"}
	}
	if o.GroupColumn != "" {
		by = append(by, fmt.Sprintf("groups of column %q", abbreviate(o.GroupColumn)))
	}
	if o.GroupPattern != "" {
		by = append(by, fmt.Sprintf("groups of pattern %q", abbreviate(o.GroupPattern)))
	}
	if o.GroupDuplicates {
		by = append(by, "duplicates")
	}
	if len(by) == 1 {
		return by[0]
	}
	return strings.Join(by[:len(by)-1], ", ") + " and " + by[len(by)-1]
}

// groupPattern returns the compiled GroupPattern, or nil without one.
func (o OpenOptions) groupPattern() (*regexp.Regexp, error) {
	switch {
	case o.GroupPattern == "":
		return nil, nil
	case o.GroupColumn != "":
		return nil, option.Errorf("group-pattern", "a column and a pattern both name the groups of the images: give one of them")
	}
	pattern, err := regexp.Compile(o.GroupPattern)
	if err != nil {
		return nil, option.Errorf("group-pattern", "the pattern of groups is no regular expression: %w", err)
	}
	if pattern.NumSubexp() == 0 {
		return nil, option.Errorf("group-pattern", "the pattern of groups %q captures nothing: put parentheses around the part of the path that names the group, as in %q", o.GroupPattern, `/([^/_]+)_[^/]*$`)
	}
	return pattern, nil
}

// groupColumn returns the index of the column of groups, and -1 if name is "".
func groupColumn(header []string, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	return findColumn(header, "groups", name, nil)
}

// maxGroupBytes limits the name of a group.
const maxGroupBytes = 1 << 10

// checkGroup returns an error if a text cannot be the name of a group.
func checkGroup(name string) error {
	switch {
	case len(name) > maxGroupBytes:
		return fmt.Errorf("the name of the group %q has %d bytes: the limit is %d", abbreviate(name), len(name), maxGroupBytes)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name of the group %q is not UTF-8: write the groups as UTF-8", abbreviate(name))
	}
	return nil
}

// setGroups sets the groups of all images, as the options of d say, and adds a note with their
// numbers. folder is the folder of the data set; pattern is the compiled GroupPattern or nil.
// report is as in OpenOptions.
func (d *Dataset) setGroups(ctx context.Context, folder string, pattern *regexp.Regexp, report progress.Func) error {
	if !d.Options.grouped() {
		return nil
	}
	images, first := 0, ""
	names := make(map[string]string) // the images of a group share one string
	for _, split := range d.splits() {
		for i := range *split.samples {
			s := &(*split.samples)[i]
			images++
			if pattern != nil {
				path := relative(folder, s.Path)
				first = cmp.Or(first, path)
				s.Group = ""
				if m := pattern.FindStringSubmatch(path); m != nil {
					s.Group = m[1]
				}
			}
			if s.Group == "" {
				continue
			}
			if err := checkGroup(s.Group); err != nil {
				return fmt.Errorf("%s: %w", s.Where, err)
			}
			if _, ok := names[s.Group]; !ok {
				names[s.Group] = strings.Clone(s.Group) // not a part of a long path
			}
			s.Group = names[s.Group]
		}
	}
	switch {
	case pattern != nil && len(names) == 0:
		return option.Errorf("group-pattern", "the pattern of groups %q names a group in no path of an image, such as %q: it must match the path below the folder of the data set", d.Options.GroupPattern, abbreviate(first))
	case d.Options.GroupColumn != "" && len(names) == 0:
		return option.Errorf("group-column", "the column of groups %q is empty for all images: name another column", abbreviate(d.Options.GroupColumn))
	case len(names) > 0:
		alone := 0
		for _, split := range d.splits() {
			for _, s := range *split.samples {
				if s.Group == "" {
					alone++
				}
			}
		}
		note := fmt.Sprintf("%d groups of %s", len(names), countImages(images-alone, ""))
		if alone > 0 {
			note += fmt.Sprintf("; %s in no group, and each is a group of its own", countAre(alone))
		}
		d.Notes = append(d.Notes, note)
	}
	if d.Options.GroupDuplicates {
		return d.uniteDuplicates(ctx, report)
	}
	return nil
}

// uniteDuplicates makes equal and nearly equal images one group. It unites the groups that hold
// them.
func (d *Dataset) uniteDuplicates(ctx context.Context, report progress.Func) error {
	var all []*Sample
	var samples []Sample
	for _, split := range d.splits() {
		samples = append(samples, *split.samples...)
		for i := range *split.samples {
			all = append(all, &(*split.samples)[i])
		}
	}
	cache := loadHashes(d.Root)
	known, missing := cache.find(samples)
	done := counter(len(missing), progress.Hashes, report)
	err := parallel(ctx, len(missing), 0, func(n int) {
		i := missing[n]
		// the other images are found when they are used
		if m, _, err := samples[i].read(); err == nil {
			known[i].look, known[i].pixels = thumbnailOf(m).hash(), pixelHash(m)
		}
		done()
	})
	if err != nil {
		return err
	}
	looks, before := make([]look, len(all)), &compared{pairs: cache.pairs}
	for i, h := range known {
		looks[i], before.pixels = h.look, append(before.pixels, h.pixels)
	}
	sets, matched := newUnion(len(all)), make([]bool, len(all))
	unite := func(a, b int) {
		sets.unite(a, b)
		matched[a], matched[b] = true, true
	}
	equal := make(map[[sha256.Size]byte]int)
	for i, p := range before.pixels {
		switch other, ok := equal[p]; {
		case p == [sha256.Size]byte{}:
		case ok:
			unite(other, i)
			looks[i] = 0 // the other image stands for it
		default:
			equal[p] = i
		}
	}
	pairs, err := nearPairs(ctx, samples, looks, before, 0, report)
	if err != nil {
		return err
	}
	if len(missing) > 0 || before.grown {
		if err := cache.save(samples, known); err != nil {
			d.Notes = append(d.Notes, err.Error()+"; the next run decodes the images again")
		}
	}
	for _, p := range pairs {
		unite(p.a, p.b)
	}
	first := make(map[string]int) // image of each group
	for i, s := range all {
		if s.Group == "" {
			continue
		}
		if other, ok := first[s.Group]; ok {
			sets.unite(other, i)
		} else {
			first[s.Group] = i
		}
	}
	for _, members := range sets.sets() {
		if len(members) < 2 {
			continue
		}
		named, own := "", ""
		for _, i := range members {
			if g := all[i].Group; g != "" && (named == "" || g < named) {
				named = g
			}
			if path := d.NameOf(*all[i]); own == "" || path < own {
				own = path
			}
		}
		name := cmp.Or(named, "duplicates of "+own)
		for _, i := range members {
			all[i].Group = name
		}
	}
	n := 0
	for _, m := range matched {
		if m {
			n++
		}
	}
	d.Notes = append(d.Notes, fmt.Sprintf("%s equal or nearly equal to another image, and in one group with it", countAre(n)))
	return nil
}

// union is a union-find structure over the numbers 0 … n-1.
type union []int

func newUnion(n int) union {
	u := make(union, n)
	for i := range u {
		u[i] = i
	}
	return u
}

// find returns the smallest member of the set of i.
func (u union) find(i int) int {
	for u[i] != i {
		u[i] = u[u[i]]
		i = u[i]
	}
	return i
}

// unite makes the sets of a and b one set.
func (u union) unite(a, b int) {
	a, b = u.find(a), u.find(b)
	u[max(a, b)] = min(a, b)
}

// sets returns the sets, in the order of their smallest members.
func (u union) sets() [][]int {
	members := make(map[int][]int)
	var order []int
	for i := range u {
		root := u.find(i)
		if root == i {
			order = append(order, i)
		}
		members[root] = append(members[root], i)
	}
	out := make([][]int, len(order))
	for n, root := range order {
		out[n] = members[root]
	}
	return out
}

// DividedGroup is a group of images that are in several splits.
type DividedGroup struct {
	Group  string
	Images [3]int // number of images in train, val and test
}

// DividedGroups returns the groups with images in several splits, sorted by name. A split then
// evaluates a model on images of a group that it was trained on. Only splits that the data set has
// itself divide groups.
func (d *Dataset) DividedGroups() (out []DividedGroup) {
	counts := make(map[string][3]int)
	for i, split := range d.splits() {
		for _, s := range *split.samples {
			if s.Group != "" {
				n := counts[s.Group]
				n[i]++
				counts[s.Group] = n
			}
		}
	}
	for _, g := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[g]; max(n[0], n[1], n[2]) < n[0]+n[1]+n[2] {
			out = append(out, DividedGroup{g, n})
		}
	}
	return out
}

// dividedNote returns a note that warns of groups in several splits. It returns "" if there are
// none.
func (d *Dataset) dividedNote() string {
	divided := d.DividedGroups()
	if divided == nil {
		return ""
	}
	var named []string
	var images [3]int
	for i, g := range divided {
		for split, n := range g.Images {
			images[split] += n
		}
		if i < 5 {
			named = append(named, fmt.Sprintf("%q (%s)", abbreviate(g.Group), countSplits(g.Images)))
		}
	}
	text := strings.Join(named, ", ")
	if more := len(divided) - len(named); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	verb := "groups are"
	if len(divided) == 1 {
		verb = "group is"
	}
	return fmt.Sprintf("%d %s in several of the splits that the data set has, with %s: %s; results on these splits are too good, and they are kept as they are: to make splits of whole groups, move the images into one split", len(divided), verb, countSplits(images), text)
}

// countSplits returns the numbers of images of train, val and test in words, without zeros.
func countSplits(n [3]int) string {
	var parts []string
	for i, word := range splitWords {
		if n[i] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[i], word))
		}
	}
	return strings.Join(parts, ", ")
}

// noteEmpty adds a note if a split that Open makes got no image, because every group is too large
// or holds the only training images of a class.
func (d *Dataset) noteEmpty(val, test bool) {
	for _, s := range []struct {
		empty bool
		name  string
	}{{val, "validation"}, {test, "test"}} {
		if s.empty {
			d.Notes = append(d.Notes, fmt.Sprintf("the %s split is empty: no group could leave the training images without taking the last images of a class", s.name))
		}
	}
}
