package dataset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// labelled is a sample whose label is still the text of a list.
type labelled struct {
	Sample
	label string
}

// assignClasses turns the labels of three splits into class ids.
//
// If names is not nil, it names the classes. The labels are then indices into names if ids is true
// or if some label is not a name; otherwise they are names. If names is nil, the classes are the
// labels of the training split, sorted by value if all of them are integers and as strings
// otherwise.
func assignClasses(names []string, ids bool, splits [3][]labelled) (g given, err error) {
	g.classes = names
	byName := make(map[string]int)
	if names == nil {
		ids = false
		distinct := make(map[string]bool)
		for _, s := range splits[0] {
			distinct[s.label] = true
		}
		if g.classes, err = sortedLabels(distinct); err != nil {
			return given{}, err
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
					return given{}, fmt.Errorf("%s: label %q is neither the name of a class nor an integer", s.Where, abbreviate(s.label))
				}
				ok = label >= 0 && label < len(g.classes)
			}
			switch {
			case !ok && s.label == "-1":
				return given{}, fmt.Errorf("%s: label -1 means that the label is withheld: leave this split out by moving its file away", s.Where)
			case !ok && ids:
				return given{}, fmt.Errorf("%s: label %d is out of range: there are names for %d classes, 0 to %d", s.Where, label, len(g.classes), len(g.classes)-1)
			case !ok:
				return given{}, fmt.Errorf("%s: the training images have no class %q", s.Where, abbreviate(s.label))
			}
			s.Target = Class(label)
			*out = append(*out, s.Sample)
		}
	}
	return g, nil
}

// sortedLabels returns the names of the classes that the labels make.
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
			return nil, fmt.Errorf("label %d is negative, which means that labels are withheld: leave these images out", n)
		}
		numbers[n] = true
	}
	var out []string
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		out = append(out, strconv.Itoa(n))
	}
	return out, nil
}

// canonicalLabel writes an integer as sortedLabels does, so that 07 and 7 are one class.
func canonicalLabel(s string) string {
	if n, err := strconv.Atoi(s); err == nil {
		return strconv.Itoa(n)
	}
	return s
}

// checkClassName returns an error if a class name is not UTF-8. Results keep the names in JSON,
// which would change such a name. remedy says what the user can do.
func checkClassName(where, name, remedy string) error {
	if utf8.ValidString(name) {
		return nil
	}
	return fmt.Errorf("%s: the class name %q is not UTF-8: %s", where, abbreviate(name), remedy)
}

// splitNames maps the names of splits in files and folders to 0 for train, 1 for val, 2 for test.
var splitNames = map[string]int{"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
