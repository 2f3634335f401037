package run

// OptionError reports an option, or several together, that cannot work. Another value helps; other
// files do not.
type OptionError struct {
	// Option is the name of the option in lower case with dashes, such as "rank" or "batch-size".
	// It is empty if several options are the cause, or none by itself.
	Option string
	Err    error // the cause
}

// Error returns the text of the cause.
func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OptionError) Unwrap() error { return e.Err }

// InputError reports an input that is missing, broken, or does not match the other inputs: a
// checkpoint, an image, a list, a plan, scores or a delta. Functions of this package, of package
// spt and of package inspect return it for the files that they read. dataset.Open and backbone.Load
// do not: their callers wrap what they return.
type InputError struct{ Err error }

// Error returns the text of the cause.
func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }
