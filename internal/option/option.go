// Package option adds the name of an option to an error. [Errorf] makes such an error and [Of]
// returns the name. Package spt copies the name into a run.OptionError, and the command line prints
// the flag of that name.
package option

import (
	"errors"
	"fmt"
)

// named is an error with the name of an option.
type named struct {
	name string
	error
}

// Unwrap returns the error without the name.
func (n named) Unwrap() error { return n.error }

// Errorf formats an error as fmt.Errorf does, and adds the name of an option, such as "rank" or
// "batch-size".
func Errorf(name, format string, args ...any) error { return named{name, fmt.Errorf(format, args...)} }

// Of returns the name of the option in err, or in an error that err wraps. It returns "" if there
// is no name.
func Of(err error) string {
	var n named
	errors.As(err, &n)
	return n.name
}
