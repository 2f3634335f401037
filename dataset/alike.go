package dataset

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// alikeClasses returns a note that names the classes whose names differ only by upper and lower
// case, by spaces or by the Unicode form. It returns "" if there are none. They stay separate
// classes.
func alikeClasses(classes []string) string {
	groups := make(map[string][]string)
	var order []string
	for _, name := range classes {
		key := norm.NFC.String(strings.ToLower(strings.Join(strings.Fields(name), " ")))
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], fmt.Sprintf("%+q", name))
	}
	var alike []string
	for _, key := range order {
		if len(groups[key]) > 1 {
			alike = append(alike, strings.Join(groups[key], " and "))
		}
	}
	if more := len(alike) - 10; more > 0 {
		alike = append(slices.Clip(alike[:10]), fmt.Sprintf("and %d more", more))
	}
	if alike == nil {
		return ""
	}
	return "class names differ only by case, spaces or Unicode form, and are separate classes: " + strings.Join(alike, ", ")
}
