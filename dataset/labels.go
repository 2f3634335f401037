package dataset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// labelled is a sample whose label has not been converted to a class id yet.
type labelled struct {
	Sample
	label string // text from the list
}

// assignClasses converts the labels of three splits to class ids.
//
// If names is not nil, it holds the class names. The labels are then indices into names if ids is
// true or if some label is not a class name; otherwise they are class names. If names is nil, ids
// has no effect, and the classes are the labels of the training split. They are sorted by value if
// all of them are integers, and as strings otherwise.
func assignClasses(names []string, ids bool, splits [3][]labelled) (g contents, err error) {
	g.classes = names
	byName := make(map[string]int)
	if names == nil {
		ids = false
		distinct := make(map[string]bool)
		for _, s := range splits[0] {
			distinct[s.label] = true
		}
		if g.classes, err = sortedLabels(distinct); err != nil {
			return contents{}, err
		}
	}
	for i, name := range g.classes {
		byName[name] = i
	}
	if names != nil && !ids {
		for _, s := range slices.Concat(splits[0], splits[1], splits[2]) {
			if _, ok := byName[s.label]; !ok {
				ids = true
			}
		}
	}
	for i, out := range []*[]Sample{&g.train, &g.val, &g.test} {
		if splits[i] != nil {
			*out = make([]Sample, 0, len(splits[i]))
		}
		for _, s := range splits[i] {
			label, ok := byName[s.label]
			if !ok {
				label, ok = byName[canonicalLabel(s.label)]
			}
			if ids {
				if label, err = strconv.Atoi(s.label); err != nil {
					return contents{}, fmt.Errorf("%s: label %q is neither a class name nor an integer", s.Where, abbreviate(s.label))
				}
				ok = label >= 0 && label < len(g.classes)
			}
			switch {
			case !ok && s.label == "-1":
				return contents{}, fmt.Errorf("%s: label -1 means that the labels of this split are withheld: move the file of the split out of the folder", s.Where)
			case !ok && ids:
				return contents{}, fmt.Errorf("%s: label %d is out of range: there are class names for the labels 0 to %d only", s.Where, label, len(g.classes)-1)
			case !ok:
				return contents{}, fmt.Errorf("%s: the training split has no class %q: add training images of the class or remove this image", s.Where, abbreviate(s.label))
			}
			s.Target = Class(label)
			*out = append(*out, s.Sample)
		}
	}
	return g, nil
}

// sortedLabels returns the labels as sorted class names. Labels that are equal as integers, such as
// 07 and 7, are one class.
func sortedLabels(labels map[string]bool) ([]string, error) {
	if len(labels) > maxLabel+1 {
		return nil, fmt.Errorf("there are %d different labels, more than the limit of %d", len(labels), maxLabel+1)
	}
	numbers := make(map[int]bool)
	for s := range labels {
		n, err := strconv.Atoi(s)
		if err != nil {
			return slices.Sorted(maps.Keys(labels)), nil
		}
		if n < 0 {
			return nil, fmt.Errorf("label %d is negative, which means that the labels of these images are withheld: remove the images from the list", n)
		}
		numbers[n] = true
	}
	var out []string
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		out = append(out, strconv.Itoa(n))
	}
	return out, nil
}

// canonicalLabel returns the class name that sortedLabels makes of a label, so that 07 and 7 are
// one class.
func canonicalLabel(s string) string {
	if n, err := strconv.Atoi(s); err == nil {
		return strconv.Itoa(n)
	}
	return s
}

// checkClassName returns an error if a class name is not UTF-8. Results hold the names in JSON,
// which would change such a name. where and remedy are parts of the error: the place of the name
// and what the user can do.
func checkClassName(where, name, remedy string) error {
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
