package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/report/chart"
)

// shownItems is the largest number of items of a list on the page.
const shownItems = 20

// addList adds a list to lists, with at most shownItems items. It adds none without items.
func addList(lists []listView, title, text string, items []string) []listView {
	if len(items) == 0 {
		return lists
	}
	l := listView{Title: title, Text: text}
	for _, item := range items[:min(shownItems, len(items))] {
		l.Items = append(l.Items, jsonfile.Text(item))
	}
	if more := len(items) - shownItems; more > 0 {
		l.Items = append(l.Items, fmt.Sprintf("and %d more", more))
	}
	return append(lists, l)
}

// view turns the description of the data set into the values of the template.
func (d *Data) view() *dataView {
	set := d.Dataset
	v := &dataView{Samples: d.Samples}
	for i := range v.Samples {
		v.Samples[i].Class = jsonfile.Text(v.Samples[i].Class)
	}
	counts := set.Counts()
	total := 0
	var sizes []string
	for _, c := range counts {
		total += c.Images
		sizes = append(sizes, fmt.Sprintf("%s %s", wording.Thousands(c.Images), cmp.Or(splitName(c.Name), c.Name)))
	}
	v.Sentences = append(v.Sentences, fmt.Sprintf("Data set %s in the layout %s: %s in %d classes, %s. Splits: %s.", set.Name, set.Layout, wording.Count(total, "image"), len(set.Classes), wording.Join(sizes, "and"), set.Split))
	v.Charts = append(v.Charts, classChart(set, counts).SVG())
	list := func(title, text string, items []string) { v.Lists = addList(v.Lists, title, text, items) }
	var skipped []string
	for _, s := range set.Skipped {
		skipped = append(skipped, fmt.Sprintf("%s (%s): %v", s.Path, s.Where, s.Err))
	}
	list("Skipped images", "These images are missing or broken.", skipped)
	var ignored []string
	for _, extension := range slices.Sorted(maps.Keys(set.Ignored)) {
		ignored = append(ignored, fmt.Sprintf("%s: %d", cmp.Or(extension, "no extension"), set.Ignored[extension]))
	}
	list("Other files", "These files in the class folders are not images.", ignored)
	notes := set.Notes
	if set.Stray > 0 {
		notes = append(slices.Clone(notes), wording.Count(set.Stray, "image")+" outside the class folders")
	}
	list("Notes", "", notes)
	var copies []string
	leaks := 0
	for _, g := range d.Copies {
		text := ""
		for i, l := range g.Copies {
			if i > 0 {
				text += " = "
			}
			text += set.NameOf(l.Sample)
		}
		if g.LeaksIntoTest {
			leaks++
			text += " (a test image is also in another split)"
		}
		if g.Conflicts {
			text += " (with different labels)"
		}
		copies = append(copies, text)
	}
	note := "These image files are equal byte for byte."
	if leaks > 0 {
		note += fmt.Sprintf(" %d of these groups put a test image into another split, so the test is too easy.", leaks)
	}
	list("Duplicates", note, copies)
	if len(d.Copies) == 0 {
		v.Sentences = append(v.Sentences, "No two image files are equal byte for byte. spt data verify also compares pixels.")
	}
	return v
}

// classChart returns the chart of the images per class and split.
func classChart(d *dataset.Dataset, counts []dataset.SplitCount) chart.Bar {
	c := chart.Bar{Title: "Images of each class", XLabel: "Images", YLabel: "Class", Stacked: true}
	total := make([]int, len(d.Classes))
	for _, s := range counts {
		for class, n := range s.Classes {
			total[class] += n
		}
	}
	order := make([]int, len(d.Classes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(total[b], total[a]) })
	for group, s := range counts {
		c.Groups = append(c.Groups, cmp.Or(splitName(s.Name), s.Name))
		for _, class := range order {
			if s.Images > 0 {
				c.Bars = append(c.Bars, chart.BarValue{Label: d.Classes[class], Value: float64(s.Classes[class]), Group: group})
			}
		}
	}
	return c
}
