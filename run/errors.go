package run

// OptionError reports an option, or several options together, that cannot work. Another value
// helps; other files do not.
type OptionError struct {
	Err error // the cause
	// Option is the name of the option in small letters with dashes, such as "rank" or "batch-size".
	// It is empty if several options are the cause, or none by itself.
	Option string
}

func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OptionError) Unwrap() error { return e.Err }

// InputError is something that was given and is broken, or does not match the
// rest: a checkpoint, an image, a list, a plan, scores or a delta. What this package opens
// and reads fails with one; the errors of dataset.Open and backbone.Load, called by
// themselves, are not wrapped in it.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }
