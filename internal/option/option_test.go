package option_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/sptune/spt/internal/option"
)

func TestOf(t *testing.T) {
	err := fmt.Errorf("planning: %w", option.Errorf("rank", "rank %d: %w", 9, io.EOF))
	if option.Of(err) != "rank" || err.Error() != "planning: rank 9: EOF" || !errors.Is(err, io.EOF) {
		t.Errorf("%v is about %q", err, option.Of(err))
	}
	if name := option.Of(io.EOF); name != "" {
		t.Errorf("an error without a name is about %q", name)
	}
}
