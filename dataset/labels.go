package dataset

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// labelled is a sample whose label has not been converted to a class id yet.
type labelled struct {
	Sample
	label string // text from the list
	// list holds the labels of an image with any number of labels, for which several is true.
	list    []string
	several bool
	// missing says why there is no label. It is nil if there is a label.
	missing error
}

// labels returns the texts of all labels.
func (l *labelled) labels() []string {
	if l.several {
		return l.list
	}
	return []string{l.label}
}

// withheld reports whether the list states no label, or the label -1, which means that the labels
// of a split are withheld.
func (l *labelled) withheld() bool {
	return l.missing != nil || l.several && len(l.list) == 0 || !l.several && l.label == "-1"
}

// assignClasses converts the labels of three splits to class ids.
//
// If names is not nil, it holds the class names. The labels are then indices into names if ids is
// true or if some label is not a class name; otherwise they are class names. If names is nil, ids
// has no effect, and the classes are the labels of the training split, or of all splits if there is
// no training split. See [sortedLabels] for their order.
func assignClasses(names []string, ids bool, splits [3][]labelled) (g contents, err error) {
	g.classes = names
	byName := make(map[string]int)
	if names == nil {
		ids = false
		distinct := make(map[string]bool)
		for i, split := range splits {
			if i > 0 && splits[0] != nil {
				break
			}
			for _, s := range split {
				for _, label := range s.labels() {
					distinct[label] = true
				}
			}
		}
		if g.classes, err = sortedLabels(distinct); err != nil {
			return contents{}, err
		}
		if len(g.classes) == 0 {
			return contents{}, errors.New("no image has a label: a data set needs images with labels")
		}
		if note := nearIntegers(g.classes); note != "" {
			g.notes = append(g.notes, note)
		}
		g.notes = append(g.notes, suspectLabels(g.classes, splits)...)
		if note := joinedLabels(g.classes); note != "" {
			g.notes = append(g.notes, note)
		}
	}
	for i, name := range g.classes {
		byName[name] = i
	}
	if names != nil && !ids {
		for _, s := range slices.Concat(splits[0], splits[1], splits[2]) {
			for _, label := range s.labels() {
				if _, ok := byName[label]; !ok {
					ids = true
				}
			}
		}
	}
	for i, out := range []*[]Sample{&g.train, &g.val, &g.test} {
		if splits[i] != nil {
			*out = make([]Sample, 0, len(splits[i]))
		}
		for _, s := range splits[i] {
			var found Labels
			for _, label := range s.labels() {
				class, err := classOf(label, byName, ids, len(g.classes))
				if err != nil {
					return contents{}, fmt.Errorf("%s: %w", s.Where, err)
				}
				found = append(found, class)
			}
			if slices.Sort(found); s.several {
				s.Target = found
			} else {
				s.Target = Class(found[0])
			}
			*out = append(*out, s.Sample)
		}
	}
	if names != nil && ids {
		g.noteFromOne()
	}
	return g, nil
}

// classOf returns the class id of a label. ids is as in assignClasses.
func classOf(text string, byName map[string]int, ids bool, classes int) (int, error) {
	label, ok := byName[text]
	if ids {
		if label, ok = integerLabel(text); !ok {
			return 0, fmt.Errorf("label %q is neither a class name nor an integer without leading zeros", abbreviate(text))
		}
		ok = label >= 0 && label < classes
	}
	switch {
	case !ok && text == "-1":
		return 0, errors.New("label -1 means that the labels of this split are withheld: move the file of the split out of the folder")
	case !ok && ids:
		return 0, fmt.Errorf("label %d is out of range: there are class names for the labels 0 to %d only", label, classes-1)
	case !ok:
		return 0, fmt.Errorf("the training split has no class %q: add training images of the class or remove this image", abbreviate(text))
	}
	return label, nil
}

// noteFromOne adds a note if no image has the class id 0. The labels may then begin at 1, which
// makes a class without images and shifts all class names.
func (g *contents) noteFromOne() {
	least, places := -1, ""
	for _, samples := range [][]Sample{g.train, g.val, g.test} {
		for _, s := range samples {
			for _, id := range ClassesOf(s.Target) {
				if least < 0 || id < least {
					least, places = id, s.Where
				}
			}
		}
	}
	if least > 0 {
		g.fromOne = fmt.Sprintf("the smallest label is %d (%s), so class 0 has no images: labels begin at 0; if these begin at 1, subtract 1 from each", least, places)
		g.notes = append(g.notes, g.fromOne)
	}
}

// dropUnlabelled removes a validation or test split whose images all have no label, or the label -1
// that means the same, and returns a note about it. It returns an error if only some images of a
// split have no label, or if a training image has none.
func dropUnlabelled(splits *[3][]labelled) (notes []string, err error) {
	for i, rows := range splits {
		if i > 0 && unlabelled(rows) {
			list := rows[0].Where[:max(strings.LastIndex(rows[0].Where, " row "), strings.LastIndex(rows[0].Where, ":"))]
			notes = append(notes, fmt.Sprintf("%s has no %s labels: its %s for prediction", list, splitWords[i], countAre(len(rows))))
			splits[i] = nil
			continue
		}
		for _, r := range rows {
			if r.missing != nil {
				return nil, fmt.Errorf("%s: %w", r.Where, r.missing)
			}
		}
	}
	return notes, nil
}

// unlabelled reports whether there are rows and none of them has a label.
func unlabelled(rows []labelled) bool {
	return len(rows) > 0 && !slices.ContainsFunc(rows, func(r labelled) bool { return !r.withheld() })
}

// sortedLabels returns the labels as sorted class names. If all labels are integers in decimal
// digits without leading zeros, they are class ids and are sorted by value. Otherwise all labels
// are names and are sorted as strings, as the names of class folders: 01 and 1 are two classes.
func sortedLabels(labels map[string]bool) ([]string, error) {
	if len(labels) > maxLabel+1 {
		return nil, fmt.Errorf("there are %d different labels, more than the limit of %d", len(labels), maxLabel+1)
	}
	var numbers []int
	for s := range labels {
		n, ok := integerLabel(s)
		if !ok {
			return slices.Sorted(maps.Keys(labels)), nil
		}
		if n < 0 {
			return nil, fmt.Errorf("label %d is negative, which means that the labels of these images are withheld: remove the images from the list", n)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var out []string
	for _, n := range numbers {
		out = append(out, strconv.Itoa(n))
	}
	return out, nil
}

// integerLabel returns the value of a label that is an integer in decimal digits. It returns false
// for other spellings, such as 01 or +1, and for names.
func integerLabel(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && strconv.Itoa(n) == s
}

// nearIntegers returns a note if two classes have the same value as integers, such as 01 and 1.
// Otherwise it returns "".
func nearIntegers(classes []string) string {
	first := make(map[int]string)
	for _, c := range classes {
		n, err := strconv.Atoi(c)
		if err != nil {
			continue
		}
		if other, ok := first[n]; ok {
			return fmt.Sprintf("the labels %q and %q are two classes: labels with leading zeros are names", abbreviate(other), abbreviate(c))
		}
		first[n] = c
	}
	return ""
}

// joinedLabels returns a note if the name of a class is a list of other classes, such as "cat|dog".
// Otherwise it returns "".
func joinedLabels(classes []string) string {
	known := make(map[string]bool)
	for _, c := range classes {
		known[c] = true
	}
	for _, c := range classes {
		for _, delimiter := range []string{"|", ";", ","} {
			parts := strings.Split(c, delimiter)
			if len(parts) > 1 && !slices.ContainsFunc(parts, func(p string) bool { return !known[strings.TrimSpace(p)] }) {
				return fmt.Sprintf("the class %q looks like a list of other classes: if it is, set the delimiter of labels to %q", abbreviate(c), delimiter)
			}
		}
	}
	return ""
}

// checkClassName returns an error if a class name is too long or not UTF-8. Results hold the names
// in JSON, which would change such a name. where and remedy are parts of the error: the place of
// the name and what the user can do.
func checkClassName(where, name, remedy string) error {
	if len(name) > maxLabelBytes {
		return fmt.Errorf("%s has a label of %d bytes: the limit is %d", where, len(name), maxLabelBytes)
	}
	if utf8.ValidString(name) {
		return nil
	}
	return fmt.Errorf("%s: the class name %q is not UTF-8: %s", where, abbreviate(name), remedy)
}

// splitNames maps the names of splits, as in the names of files and folders, to an index: 0 for
// train, 1 for val, 2 for test. The names are those of the datasets library of Hugging Face.
var splitNames = map[string]int{
	"train": 0, "training": 0,
	"val": 1, "valid": 1, "validation": 1, "dev": 1,
	"test": 2, "testing": 2, "eval": 2, "evaluation": 2,
}
