// Package option lets an error carry the name of the option that it is about. run.OptionError
// passes the name on, and the command line names the flag.
package option

import (
	"errors"
	"fmt"
)

// named is an error about an option.
type named struct {
	name string
	error
}

// Unwrap returns the error without the name.
func (n named) Unwrap() error { return n.error }

// Errorf returns the error of fmt.Errorf for the option of that name, such as "rank" or
// "batch-size".
func Errorf(name, format string, args ...any) error { return named{name, fmt.Errorf(format, args...)} }

// Of returns the name of the option that an error is about; empty: none by itself.
func Of(err error) string {
	var n named
	errors.As(err, &n)
	return n.name
}
