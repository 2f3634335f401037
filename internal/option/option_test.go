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

func TestNearest(t *testing.T) {
	known := []string{"spt-lora", "spt-adapter", "lora", "adapter", "vpt-deep", "linear", "full", "oxford_flowers102"}
	for value, want := range map[string]string{
		"lroa": "lora", "spt-lor": "spt-lora", "Spt-LoRA": "spt-lora", "adaptr": "adapter", "sptadapter": "spt-adapter",
		"vpt": "vpt-deep", "flowers": "oxford_flowers102", "linearprobe": "linear", "zzz": "", "": "", "xy": "",
	} {
		if got := option.Nearest(value, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", value, got, want)
		}
	}
	err := option.Unknown("method", "method", "lroa", known[2:4])
	if want := `method "lroa" is unknown; did you mean "lora"? known: lora, adapter`; err.Error() != want || option.Of(err) != "method" {
		t.Errorf("the error is %q about %q, want %q about method", err, option.Of(err), want)
	}
}
