package option

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
)

// Unknown returns the error for a value of an option that is not one of the known values. thing
// says what the value is, such as "method". The error proposes the known value that is spelled most
// like the unknown one, and lists all of them. The caller adds name, the name of the option, for
// [Errorf]; empty if the value is no option's.
func Unknown[T ~string](name, thing string, value T, known []T) error {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	hint := ";"
	if near := Nearest(string(value), names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return Errorf(name, "%s %q is unknown%s known: %s", thing, value, hint, strings.Join(names, ", "))
}

// Nearest returns the known value that is spelled most like value: the one with the fewest
// insertions, deletions and substitutions of characters, which may be at most a third of the
// characters of value, rounded up. If there is none, it returns the first known value that contains
// value or is contained in it. It returns "" if no known value is similar. Case does not matter.
func Nearest(value string, known []string) string {
	value = strings.ToLower(value)
	near, least := "", (utf8.RuneCountInString(value)+2)/3+1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(value, strings.ToLower(k)); d < least && d < utf8.RuneCountInString(k) {
			near, least = k, d
		}
	}
	if near != "" || len(value) < 3 {
		return near
	}
	for _, k := range known {
		if lower := strings.ToLower(k); strings.Contains(lower, value) || len(k) > 3 && strings.Contains(value, lower) {
			return k
		}
	}
	return ""
}
