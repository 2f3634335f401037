package spt_test

import (
	"math"
	"slices"
	"testing"

	"github.com/sptune/spt"
)

// TestOverlay checks the colours: their lightness increases with the value, their ends are the ends
// of the colour map, and the values between the centres of the cells are interpolated.
func TestOverlay(t *testing.T) {
	var ramp spt.Saliency
	for y := range ramp {
		for x := range ramp[y] {
			ramp[y][x] = float32(x) / 9
		}
	}
	const size = 50
	for _, grey := range []uint8{0, 128, 255} {
		pixels := slices.Repeat([]uint8{grey}, size*size*3)
		got := ramp.Overlay(pixels)
		if got.Bounds().Dx() != size || got.Bounds().Dy() != size {
			t.Fatalf("the overlay has %v, expected %d × %d px", got.Bounds(), size, size)
		}
		last := -1.0
		for x := range size {
			p := got.RGBAAt(x, 20)
			v := min(max((float64(x)+0.5)/5-0.5, 0), 9) / 9
			for i, c := range []uint8{p.R, p.G, p.B} {
				low, high := []float64{0, 32, 76}[i], []float64{255, 234, 70}[i]
				if want := 0.45*float64(grey) + 0.55*(low+v*(high-low)); math.Abs(float64(c)-want) > 0.51 {
					t.Errorf("grey %d, column %d, channel %d: %d, expected %.1f", grey, x, i, c, want)
				}
			}
			light := 0.2126*float64(p.R) + 0.7152*float64(p.G) + 0.0722*float64(p.B)
			if light < last {
				t.Errorf("grey %d: column %d is darker than the column before", grey, x)
			}
			last = light
		}
	}
	// Rows and columns are not exchanged.
	var one spt.Saliency
	one[2][7] = 1
	got := one.Overlay(make([]uint8, size*size*3))
	if in, out := got.RGBAAt(37, 12), got.RGBAAt(12, 37); in.R <= out.R {
		t.Errorf("the pixel of the cell is %v, its mirror image is %v", in, out)
	}
	// The image stays visible.
	pixels := make([]uint8, size*size*3)
	copy(pixels[3*(20*size+20):], []uint8{255, 255, 255})
	if got := new(spt.Saliency).Overlay(pixels); got.RGBAAt(20, 20).R < got.RGBAAt(21, 20).R+100 {
		t.Error("a white pixel is not brighter than a black pixel")
	}
	if got := new(spt.Saliency).Overlay(nil); !got.Bounds().Empty() {
		t.Errorf("an overlay without pixels has %v", got.Bounds())
	}
}
