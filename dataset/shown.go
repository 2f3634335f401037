package dataset

import (
	"context"
	"io"
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
