package run_test

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/run"
)

// TestOpenOtherSplits checks that a run whose splits were made by another rule is refused, even if
// the numbers of images are equal.
func TestOpenOtherSplits(t *testing.T) {
	root := t.TempDir()
	for i := range 24 {
		m := image.NewGray(image.Rect(0, 0, 1, 1))
		m.Pix[0] = uint8(i)
		var data bytes.Buffer
		if err := png.Encode(&data, m); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(root, []string{"cat", "dog"}[i%2])
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.png", i)), data.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := run.DataConfig{Path: root}
	d, err := c.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Record(d)
	if _, err := c.Open(t.Context(), nil); err != nil {
		t.Errorf("the same splits: %v", err)
	}
	c.Split = "stratified 0.8/0.1/0.1 seed 0" // the text of an earlier rule
	var bad *run.InputError
	if _, err := c.Open(t.Context(), nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "now stratified by class 0.8/0.1/0.1 seed 0, in the run stratified 0.8/0.1/0.1 seed 0") {
		t.Errorf("other splits: error %v", err)
	}
}
