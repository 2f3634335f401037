package tracking

import (
	"bytes"
	"image/png"
	"testing"

	"github.com/sptune/spt/evaluate"
)

// TestMatrix checks the drawing: the size, the colours of a few cells, and hostile matrices.
func TestMatrix(t *testing.T) {
	classes := []string{"cat", "dog", "bird of a very long name"}
	encoded, err := drawMatrix(classes, []evaluate.Cell{{Target: 0, Predicted: 0, Images: 3}, {Target: 0, Predicted: 2, Images: 1}, {Target: 1, Predicted: 1, Images: 5}})
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := png.Decode(bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	const side = 48
	dark, white := [3]uint32{8, 48, 107}, [3]uint32{255, 255, 255}
	for _, c := range []struct {
		row, column int
		want        [3]uint32
	}{{1, 1, dark}, {1, 0, white}, {2, 2, white}, {0, 0, [3]uint32{70, 100, 144}}, {0, 2, [3]uint32{193, 203, 218}}} {
		// the cells end at the lower right corner
		corner := drawn.Bounds().Max
		for _, offset := range []int{0, side - 1} {
			r, g, b, _ := drawn.At(corner.X-(3-c.column)*side+offset, corner.Y-(3-c.row)*side+offset).RGBA()
			if got := [3]uint32{r >> 8, g >> 8, b >> 8}; got != c.want {
				t.Errorf("cell %d, %d is %v, want %v", c.row, c.column, got, c.want)
			}
		}
	}
	for n, want := range map[int]int{1000: 1000, maxClasses: maxClasses} {
		encoded, err := drawMatrix(make([]string, n), []evaluate.Cell{{Target: n - 1, Predicted: 0, Images: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if c, err := png.DecodeConfig(bytes.NewReader(encoded)); err != nil || c.Width != want || c.Height != want {
			t.Errorf("%d classes: %v, %v", n, c, err)
		}
	}
	for _, n := range []int{0, maxClasses + 1} {
		if encoded, err := drawMatrix(make([]string, n), nil); encoded != nil || err != nil {
			t.Errorf("%d classes: %d bytes, %v", n, len(encoded), err)
		}
	}
	for _, bad := range []evaluate.Cell{{Target: 0, Predicted: 3, Images: 1}, {Target: 3, Predicted: 0, Images: 1}, {Target: -1, Predicted: 0, Images: 1},
		{Target: 0, Predicted: -1, Images: 1}, {Target: 0, Predicted: 0, Images: -1}} {
		if _, err := drawMatrix(classes, []evaluate.Cell{bad}); err == nil {
			t.Errorf("a matrix with the cell %v is drawn", bad)
		}
	}
}
