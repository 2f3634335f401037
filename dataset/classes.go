package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Head describes the rows of the head of a classifier, one row for each class.
type Head struct {
	// Names holds the class name of each row. It is nil if the rows have no names.
	Names []string
	// Rows is the number of rows.
	Rows int
	// Subset allows rows whose class is not in the data set. Default: a data set must have the
	// class of every row.
	Subset bool
}

// MatchClasses returns the row of a head for each class of a data set. A class is its name; its
// position in a list means nothing.
//
// If the rows have names, each class is the row with the same name. If they have none, the names of
// the classes must be the integers from 0 to Rows-1, in any order, and each is the number of its
// row. Everything else is an error, because a guess could give wrong results.
func MatchClasses(classes []string, head Head) ([]int, error) {
	if head.Names == nil {
		return matchNumbers(classes, head.Rows)
	}
	byName := make(map[string]int, len(head.Names))
	twice := make(map[string]bool)
	for row, name := range head.Names {
		if _, ok := byName[name]; ok {
			twice[name] = true
		}
		byName[name] = row
	}
	rows, has := make([]int, len(classes)), make(map[string]bool, len(classes))
	var unknown, absent []string
	for i, name := range classes {
		row, ok := byName[name]
		if !ok {
			unknown = append(unknown, name)
		}
		if twice[name] {
			return nil, fmt.Errorf("several rows of the head are named %q, so the row of this class is unknown; give the rows different names", abbreviate(name))
		}
		rows[i], has[name] = row, true
	}
	for _, name := range head.Names {
		if !has[name] && !head.Subset {
			absent = append(absent, name)
		}
	}
	if unknown == nil && absent == nil {
		return rows, nil
	}
	var differences []string
	if unknown != nil {
		differences = append(differences, fmt.Sprintf("the head has no class %s", firstNames(unknown)))
	}
	if absent != nil {
		differences = append(differences, fmt.Sprintf("the data set has no class %s", firstNames(absent)))
	}
	return nil, fmt.Errorf("the classes of the data set are not those of the head: %s; give the data set of the head, or rename its classes", strings.Join(differences, ", and "))
}

// matchNumbers returns the row of each class for a head whose rows have no names.
func matchNumbers(classes []string, rows int) ([]int, error) {
	numbers := make([]int, len(classes))
	seen := make([]bool, rows)
	for i, name := range classes {
		n, err := strconv.ParseUint(name, 10, 31)
		if err != nil || n >= uint64(rows) || seen[n] {
			return nil, fmt.Errorf("the head has %d rows without names, so the classes of the data set must be the numbers of the rows, 0 to %d, but one of its %d classes is %q; give a config.json with id2label or label_names beside the checkpoint, or name the classes by their rows", rows, rows-1, len(classes), abbreviate(name))
		}
		numbers[i], seen[n] = int(n), true
	}
	if missing := slices.Index(seen, false); missing >= 0 {
		return nil, fmt.Errorf("the head has %d rows without names, but the data set has only %d classes and none is %d; give a data set with a class for each row, 0 to %d, or a config.json with id2label or label_names beside the checkpoint", rows, len(classes), missing, rows-1)
	}
	return numbers, nil
}

// firstNames returns up to five names, quoted, and the number of the others.
func firstNames(names []string) string {
	var quoted []string
	for _, name := range names[:min(5, len(names))] {
		quoted = append(quoted, fmt.Sprintf("%q", abbreviate(name)))
	}
	text := strings.Join(quoted, ", ")
	if more := len(names) - 5; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// MapTarget is a [Target] other than [Class] whose class ids can be replaced.
type MapTarget interface {
	Target
	// MapClasses returns the target with the class id rows[c] in place of each class id c.
	MapClasses(rows []int) Target
}

// ForHead returns a copy of the data set whose class ids are the rows of a head, as [MatchClasses]
// finds them. Classes holds the names of the rows. Evaluate a head on this copy, because the class
// ids of a data set depend on its layout.
func (d *Dataset) ForHead(head Head) (*Dataset, error) {
	rows, err := MatchClasses(d.Classes, head)
	if err != nil {
		return nil, fmt.Errorf("data set %s: %w", d.Name, err)
	}
	mapped := *d
	mapped.opened = nil
	if mapped.Classes = slices.Clone(head.Names); head.Names == nil {
		for row := range head.Rows {
			mapped.Classes = append(mapped.Classes, strconv.Itoa(row))
		}
	}
	for _, s := range mapped.splits() {
		*s.samples = slices.Clone(*s.samples)
		for i := range *s.samples {
			sample := &(*s.samples)[i]
			switch t := sample.Target.(type) {
			case Class:
				sample.Target = Class(rows[t])
			case MapTarget:
				sample.Target = t.MapClasses(rows)
			default:
				if !inOrder(rows) {
					return nil, fmt.Errorf("data set %s: %s: the classes of the data set have another order than the rows of the head, and the class ids of a %T cannot be replaced; give the classes the order of the rows, or implement dataset.MapTarget", d.Name, sample.Where, t)
				}
			}
		}
	}
	return &mapped, nil
}

// inOrder reports whether rows counts up from 0.
func inOrder(rows []int) bool {
	for i, row := range rows {
		if i != row {
			return false
		}
	}
	return true
}
