package report

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"maps"
	"slices"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/report/chart"
)

// Verified is a data set and what its verification found.
type Verified struct {
	dataset      *dataset.Dataset
	verification *dataset.Verification
	classes      []classPictures
	groups       []duplicatePictures
}

// classPictures holds pictures of a class.
type classPictures struct {
	class    int
	pictures []Picture
}

// duplicatePictures holds pictures of a group of equal or nearly equal images.
type duplicatePictures struct {
	dataset.Duplicate
	pictures []Picture
}

const (
	// classImages is the largest number of pictures of one class.
	classImages = 6
	// allImages is the largest number of pictures of all classes together.
	allImages = 240
	// shownGroups is the largest number of groups of equal or nearly equal images with pictures.
	shownGroups = 30
	// groupImages is the largest number of pictures of one group.
	groupImages = 4
)

// NewVerified describes a data set that was verified. It reads a few images of each class, and the
// images that are equal or nearly equal to others: groups across splits first, as SortDuplicates
// orders them. An error is that of ctx.
func NewVerified(ctx context.Context, d *dataset.Dataset, v *dataset.Verification) (*Verified, error) {
	out := &Verified{dataset: d, verification: v}
	broken := make(map[string]bool)
	for _, s := range v.Unreadable {
		broken[s.Path] = true
	}
	byClass := make(map[int][]dataset.Sample)
	for _, s := range slices.Concat(d.Train, d.Val, d.Test) {
		if c := s.Target.Stratum(); c >= 0 && !broken[s.Path] {
			byClass[c] = append(byClass[c], s)
		}
	}
	shown := slices.Sorted(maps.Keys(byClass))
	if len(shown) > allImages {
		shown = shown[:allImages]
	}
	for _, class := range shown {
		all := byClass[class]
		n := min(len(all), classImages, max(1, allImages/len(shown)))
		c := classPictures{class: class}
		for i := range n {
			c.pictures = append(c.pictures, readable(all[i*len(all)/n]))
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out.classes = append(out.classes, c)
	}
	for _, g := range SortDuplicates(slices.Concat(v.Duplicates, v.Near)) {
		if len(out.groups) == shownGroups {
			break
		}
		p := duplicatePictures{Duplicate: g}
		for _, l := range g.Copies[:min(groupImages, len(g.Copies))] {
			p.pictures = append(p.pictures, readable(l.Sample))
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out.groups = append(out.groups, p)
	}
	return out, nil
}

// readable returns the picture of an image, or one that says that the image cannot be read.
func readable(s dataset.Sample) Picture {
	p, err := newPicture(s)
	if err != nil {
		p.Missing = "cannot be read"
	}
	return p
}

// SortDuplicates sorts groups of equal and nearly equal images by how much they harm: groups that
// put a test image into another split first, then other groups across splits, then groups whose
// labels differ.
func SortDuplicates(groups []dataset.Duplicate) []dataset.Duplicate {
	rank := func(g dataset.Duplicate) int {
		switch {
		case g.LeaksIntoTest:
			return 0
		case g.Leaks:
			return 1
		case g.Conflicts:
			return 2
		}
		return 3
	}
	return slices.SortedStableFunc(slices.Values(groups), func(a, b dataset.Duplicate) int { return cmp.Compare(rank(a), rank(b)) })
}

// DescribeDuplicate says in words what a group of equal or nearly equal images is.
func DescribeDuplicate(g dataset.Duplicate) string {
	text := "same pixels"
	switch {
	case g.Near:
		text = fmt.Sprintf("nearly equal, %d of 64 bits differ", g.Distance)
	case g.SameBytes:
		text = "same bytes"
	}
	if g.Leaks {
		text += ", across splits"
	}
	if g.Conflicts {
		text += ", labels differ"
	}
	return text
}

// verifiedView is the section on a verified data set.
type verifiedView struct {
	Facts   []factView
	Charts  []template.HTML
	Lists   []listView
	Groups  []groupView
	Note    string
	Classes []groupView
	More    string
}

// view turns the verification into the values of the template.
func (d *Verified) view() *verifiedView {
	set, v := d.dataset, d.verification
	width, height, aspect := v.Ranges()
	out := &verifiedView{}
	fact := func(name, format string, args ...any) {
		out.Facts = append(out.Facts, factView{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	fact("images", "%s", wording.Thousands(v.Images))
	fact("classes", "%s", wording.Thousands(len(set.Classes)))
	for _, s := range v.Splits {
		fact(cmp.Or(splitName(s.Name), s.Name), "%s", wording.Thousands(s.Images))
	}
	fact("size of the files", "%s", wording.Bytes(v.Bytes))
	if len(v.Sizes) > 0 {
		fact("width", "%g to %g px, median %g", width.Least, width.Most, width.Median)
		fact("height", "%g to %g px, median %g", height.Least, height.Most, height.Median)
		fact("width / height", "%.2f to %.2f, median %.2f", aspect.Least, aspect.Most, aspect.Median)
	}
	fact("pixels", "%s", Modes(v))
	fact("cannot be read", "%s", wording.Thousands(len(v.Unreadable)))
	fact("groups of equal images", "%s", wording.Thousands(len(v.Duplicates)))
	fact("groups of nearly equal images", "%s", wording.Thousands(len(v.Near)))
	fact("splits", "%s", set.Split)
	out.Charts = append(out.Charts, classChart(set, v.Splits).SVG())
	if len(v.Sizes) > 0 {
		var sides, aspects []float64
		for _, s := range v.Sizes {
			sides = append(sides, float64(min(s[0], s[1])))
			aspects = append(aspects, float64(s[0])/float64(s[1]))
		}
		out.Charts = append(out.Charts,
			histogram("Shorter sides", "Pixels", sides, []float64{32, 48, 64, 96, 128, 192, 224, 256, 384, 512, 768, 1024, 1536, 2048, 4096}).SVG(),
			histogram("Aspect ratios", "Width / height", aspects, []float64{0.33, 0.5, 0.67, 0.75, 0.9, 1, 1.1, 1.33, 1.5, 2, 3}).SVG())
	}
	list := func(title, text string, items []string) { out.Lists = addList(out.Lists, title, text, items) }
	var broken, divided []string
	for _, s := range v.Unreadable {
		broken = append(broken, fmt.Sprintf("%s (%s, %s): %v", s.Path, s.Split, s.Where, s.Err))
	}
	list("Images that cannot be read", "", broken)
	for _, g := range v.Divided {
		divided = append(divided, fmt.Sprintf("%s: %d train, %d val, %d test", g.Group, g.Images[0], g.Images[1], g.Images[2]))
	}
	list("Groups in several splits", "A test on images of a group that was trained on is too easy.", divided)
	list("Notes", "", set.Notes)
	for _, g := range d.groups {
		view := groupView{Title: DescribeDuplicate(g.Duplicate)}
		for i, p := range g.pictures {
			l := g.Copies[i]
			view.Images = append(view.Images, imageView{Picture: p, Predicted: jsonfile.Text(set.TargetName(l.Sample.Target)), Others: l.Split, Path: jsonfile.Text(set.NameOf(l.Sample))})
		}
		if more := len(g.Copies) - len(g.pictures); more > 0 {
			view.Text = fmt.Sprintf("and %d more", more)
		}
		out.Groups = append(out.Groups, view)
	}
	if more := len(v.Duplicates) + len(v.Near) - len(d.groups); more > 0 {
		out.Note = fmt.Sprintf("And %s more, which spt data verify --json lists.", wording.Count(more, "group"))
	}
	for _, c := range d.classes {
		view := groupView{Title: jsonfile.Text(set.Classes[c.class])}
		for i, s := range v.Splits {
			if i > 0 {
				view.Text += ", "
			}
			view.Text += fmt.Sprintf("%d %s", s.Classes[c.class], s.Name)
		}
		for _, p := range c.pictures {
			view.Images = append(view.Images, imageView{Picture: p})
		}
		out.Classes = append(out.Classes, view)
	}
	if more := len(set.Classes) - len(d.classes); more > 0 {
		out.More = fmt.Sprintf("%s more have no picture here.", wording.Count(more, "class"))
	}
	return out
}

// Modes returns the kinds of pixels of the images in words, the most frequent first.
func Modes(v *dataset.Verification) string {
	kinds := slices.SortedFunc(maps.Keys(v.Modes), func(a, b string) int {
		return cmp.Or(cmp.Compare(v.Modes[b], v.Modes[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, k := range kinds {
		parts = append(parts, fmt.Sprintf("%s %s", wording.Thousands(v.Modes[k]), k))
	}
	if parts == nil {
		return "unknown"
	}
	return wording.Join(parts, "and")
}

// histogram returns a chart of the numbers of values between edges, which are in ascending order.
func histogram(title, label string, values, edges []float64) chart.Bar {
	counts := make([]int, len(edges)+1)
	for _, v := range values {
		at, exact := slices.BinarySearch(edges, v)
		if exact {
			at++
		}
		counts[at]++
	}
	c := chart.Bar{Title: title, XLabel: "Images", YLabel: label}
	first, last := slices.IndexFunc(counts, func(n int) bool { return n > 0 }), len(counts)-1
	for last > first && counts[last] == 0 {
		last--
	}
	for i := first; i <= last; i++ {
		name := ""
		switch {
		case i == 0:
			name = fmt.Sprintf("below %g", edges[0])
		case i == len(edges):
			name = fmt.Sprintf("%g and more", edges[i-1])
		default:
			name = fmt.Sprintf("%g to %g", edges[i-1], edges[i])
		}
		c.Bars = append(c.Bars, chart.BarValue{Label: name, Value: float64(counts[i])})
	}
	return c
}
