package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// missingWords lists texts, in lower case, that programs such as pandas, R and SQL write for a
// missing value.
var missingWords = []string{"nan", "na", "n/a", "<na>", "none", "null", "nil", "#n/a", "-nan"}

// suspectLabels returns notes about labels that rather come from a damaged column than from a
// person: words for a missing value, decimal fractions, and numbers beside text. classes are the
// labels as names, and rows name the place of one of them. The labels stay classes.
func suspectLabels(classes []string, rows [3][]labelled) (notes []string) {
	place := func(label string) string {
		for _, split := range rows {
			if i := slices.IndexFunc(split, func(r labelled) bool { return slices.Contains(r.labels(), label) }); i >= 0 {
				return split[i].Where
			}
		}
		return "a list"
	}
	var missing, fractions, numbers, words []string
	for _, c := range classes {
		_, err := strconv.ParseFloat(c, 64)
		_, integer := integerLabel(c)
		switch {
		case slices.Contains(missingWords, strings.ToLower(c)):
			missing = append(missing, c)
		case err == nil && !integer && strings.Contains(c, "."):
			fractions = append(fractions, c)
		case err == nil:
			numbers = append(numbers, c)
		default:
			words = append(words, c)
		}
	}
	for _, c := range missing {
		notes = append(notes, fmt.Sprintf("%s: the label %q, which often stands for a missing value, is a class of its own: if it is none, remove these rows", place(c), c))
	}
	if len(fractions) > 0 {
		notes = append(notes, fmt.Sprintf("%s: the label %q is a number with a decimal point, and each such number is a class: name another column if these are measurements", place(fractions[0]), abbreviate(fractions[0])))
	}
	if numbers = append(numbers, fractions...); len(numbers) > 0 && len(words) > 0 {
		notes = append(notes, fmt.Sprintf("the labels are numbers, such as %q (%s), and words, such as %q (%s): check that the column holds labels of one kind", abbreviate(numbers[0]), place(numbers[0]), abbreviate(words[0]), place(words[0])))
	}
	return notes
}
