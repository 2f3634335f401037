package dataset

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxShown is the number of bytes of a text from a file that a message shows.
const maxShown = 80

// abbreviate shortens a text from a damaged file for an error message.
func abbreviate(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

// visible replaces the characters of a text that are not printable, such as control characters,
// line breaks and marks of the direction of writing, by escapes of Go. They could change what a
// terminal shows.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// visibleError is an error with a visible text.
type visibleError struct {
	text string
	err  error
}

func (e visibleError) Error() string { return e.text }
func (e visibleError) Unwrap() error { return e.err }

// clean returns err with a visible text. It keeps the line breaks of errorLines. Names of files and
// folders can hold any characters.
func clean(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	before, lines, after := text, "", ""
	if all := (errorLines)(nil); errors.As(err, &all) {
		lines = all.Error()
		before, after, _ = strings.Cut(text, lines)
	}
	if shown := visible(before) + lines + visible(after); shown != text {
		return visibleError{shown, err}
	}
	return err
}

// errorLines is a list of errors, whose text has one line for each.
type errorLines []error

func (e errorLines) Error() string {
	var lines []string
	for _, err := range e {
		lines = append(lines, visible(err.Error()))
	}
	return strings.Join(lines, "\n")
}

func (e errorLines) Unwrap() []error { return e }

// contextReader is a reader that ends when ctx is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
