package run

import (
	"context"
	"errors"

	"github.com/sptune/spt/dataset"
)

// OptionError reports an option, or a combination of options, that cannot work. The user must
// change the option; changing files does not help.
type OptionError struct {
	// Option is the name of the option in lower case with dashes, such as "rank" or "batch-size".
	// It is empty if the cause is a combination of options, or unknown.
	Option string
	// Err is the cause.
	Err error
}

// Error returns the text of the cause.
func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OptionError) Unwrap() error { return e.Err }

// InputError reports an input that is missing, broken, or does not match the other inputs: a
// checkpoint, an image, a list, a plan, scores or a delta. Functions of this package, of package
// spt and of package inspect return it for the files that they read. dataset.Open and backbone.Load
// return plain errors, which their callers wrap.
type InputError struct{ Err error }

// Error returns the text of the cause.
func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// The exit codes of the command line for errors.
const (
	ExitFailed      = 1
	ExitUsage       = 2   // an [OptionError]
	ExitInput       = 3   // an [InputError] or a [dataset.ImageError]
	ExitInterrupted = 130 // an interrupt: 128 + SIGINT, as in shells
)

// ExitCode returns the exit code for an error of a run with the context ctx. A run that ended with
// ExitUsage or ExitInput would end in the same way again.
func ExitCode(ctx context.Context, err error) int {
	var option *OptionError
	var input *InputError
	var image *dataset.ImageError
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return ExitInterrupted
	case errors.As(err, &option):
		return ExitUsage
	case errors.As(err, &input), errors.As(err, &image):
		return ExitInput
	}
	return ExitFailed
}
