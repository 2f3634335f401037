package dataset

import (
	"hash/crc32"
	"testing"
)

// pattern returns the image that testdata/make.py computes by the same formula. No two rows are
// equal, and every level occurs.
func pattern(w, h int) *RGB {
	m := newRGB(w, h)
	for i := range m.Pix {
		n := uint64(i)
		m.Pix[i] = uint8((n*n*7+n*13)>>3 ^ n>>7)
	}
	return m
}

// TestResizeAsPillow compares the pixels, bit for bit, with the result of Pillow 13.0.0 in two
// steps: width first, then height (testdata/make.py).
func TestResizeAsPillow(t *testing.T) {
	for _, c := range []struct {
		w, h, newW, newH int
		crc              uint32
	}{
		{300, 200, 224, 224, 0xa63a26dc},
		{28, 28, 224, 224, 0xb0ec40f3},
		{224, 224, 224, 224, 0x426e2c53},
		{224, 100, 224, 224, 0xfef73711},
		{1, 1, 5, 4, 0xac265cb7},
		{5, 3, 1, 1, 0x3d8a90b4},
		{640, 480, 32, 48, 0x27881fdf},
		{37, 41, 38, 40, 0xbb0c2a91},
		{17, 500, 256, 31, 0xe2874aff},
		{1000, 3, 7, 300, 0x172faf3e},
		{384, 256, 256, 384, 0x6f4236c4},
	} {
		got, err := resizeBicubic(pattern(c.w, c.h), c.newW, c.newH)
		if err != nil {
			t.Fatal(err)
		}
		if got.Width != c.newW || got.Height != c.newH || crc32.ChecksumIEEE(got.Pix) != c.crc {
			t.Errorf("%d×%d to %d×%d: got %d×%d with CRC-32 %08x, want %08x", c.w, c.h, c.newW, c.newH, got.Width, got.Height, crc32.ChecksumIEEE(got.Pix), c.crc)
		}
	}
}

// TestResizeSymmetries checks that a resize does not change the colour of an image with one colour.
// It also checks that mirroring before and after the resize gives the same image, except for
// rounding.
func TestResizeSymmetries(t *testing.T) {
	m := pattern(23, 19)
	resize := func(m *RGB, w, h int) *RGB {
		t.Helper()
		out, err := resizeBicubic(m, w, h)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, size := range [][2]int{{10, 31}, {47, 8}, {22, 20}, {23, 40}} {
		w, h := size[0], size[1]
		flat := newRGB(23, 19)
		for i := range flat.Pix {
			flat.Pix[i] = 201
		}
		for i, v := range resize(flat, w, h).Pix {
			if v != 201 {
				t.Fatalf("to %v: sample %d of a flat picture is %d, want 201", size, i, v)
			}
		}
		for _, mirror := range []int{2, 3, 4} {
			if d, _ := compare(t, resize(orient(m, mirror), w, h), orient(resize(m, w, h), mirror)); d > 1 {
				t.Errorf("to %v: mirroring (orientation %d) before and after differ by %d levels", size, mirror, d)
			}
		}
	}
}

func TestResizeErrors(t *testing.T) {
	for name, c := range map[string]struct {
		m    *RGB
		w, h int
	}{
		"no width":     {pattern(2, 2), 0, 2},
		"negative":     {pattern(2, 2), 2, -1},
		"too narrow":   {&RGB{Width: 1, Height: 8 << 20, Pix: make([]uint8, 24<<20)}, 224, 224},
		"too large":    {pattern(2, 2), 1 << 20, 1 << 20},
		"no area":      {&RGB{}, 2, 2},
		"short pixels": {&RGB{Width: 2, Height: 2, Pix: make([]uint8, 11)}, 3, 3},
	} {
		if _, err := resizeBicubic(c.m, c.w, c.h); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkResizeBicubic(b *testing.B) {
	m := pattern(300, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := resizeBicubic(m, 224, 224); err != nil {
			b.Fatal(err)
		}
	}
}
