package jpeg

import (
	"bytes"
	"errors"
	"image"
	stdjpeg "image/jpeg"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestDecodeAsPillow in package dataset compares the pixels with those of Pillow.

// encode returns an image with a gradient as a JPEG file.
func encode(tb testing.TB, width, height int) []byte {
	m := image.NewYCbCr(image.Rect(0, 0, width, height), image.YCbCrSubsampleRatio420)
	for i := range m.Y {
		m.Y[i] = uint8(i * i >> 6)
	}
	for i := range m.Cb {
		m.Cb[i], m.Cr[i] = uint8(3*i), uint8(7*i)
	}
	var b bytes.Buffer
	if err := stdjpeg.Encode(&b, m, nil); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// cutSegments returns a file without the segments of a marker.
func cutSegments(file []byte, marker byte) []byte {
	out := bytes.Clone(file[:2])
	for at := 2; ; {
		size := 2 + int(file[at+2])<<8 + int(file[at+3])
		if file[at+1] == markSOS {
			return append(out, file[at:]...)
		}
		if file[at+1] != marker {
			out = append(out, file[at:at+size]...)
		}
		at += size
	}
}

// TestStandardTables checks that a file without Huffman tables, as in a Motion JPEG, is read with
// those of the standard, which package image/jpeg writes.
func TestStandardTables(t *testing.T) {
	file := encode(t, 61, 45)
	want, err := Decode(file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(cutSegments(file, markDHT), Options{})
	if err != nil || !bytes.Equal(got.Pix, want.Pix) {
		t.Errorf("pixels differ, %v", err)
	}
	got, err = Decode(cutSegments(file, markDQT), Options{})
	if err == nil {
		t.Errorf("without quantisation tables: %v, want an error", got)
	}
}

// TestLateMarkers checks that a marker after the pixels does not change the colours.
func TestLateMarkers(t *testing.T) {
	file := encode(t, 61, 45)
	want, err := Decode(file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	late := append(bytes.Clone(file[:len(file)-2]), "\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00\xff\xd9"...)
	if got, err := Decode(late, Options{}); err != nil || !bytes.Equal(got.Pix, want.Pix) {
		t.Errorf("pixels differ, %v", err)
	}
	early := append(bytes.Clone(late[:2]), late[len(file)-2:len(late)-2]...)
	early = append(early, file[2:]...)
	if got, err := Decode(early, Options{}); err != nil || bytes.Equal(got.Pix, want.Pix) {
		t.Errorf("the same marker before the pixels has no effect, %v", err)
	}
}

// TestCut checks that a file is truncated wherever it is cut, but for the end marker.
func TestCut(t *testing.T) {
	file := encode(t, 61, 45)
	for n := range len(file) - 12 {
		if _, err := Decode(file[:n], Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d of %d bytes: error %v, want %v", n, len(file), err, io.ErrUnexpectedEOF)
		}
	}
	if _, err := Decode(file[:len(file)-2], Options{}); err != nil {
		t.Errorf("without end marker: %v", err)
	}
}

// progressive returns a progressive file of one channel without its end marker. Its scans cost a
// few bytes each, and each of them visits all blocks: at first the DC coefficient, and then the
// last bit of all AC coefficients again and again.
func progressive(width, height, scans int) []byte {
	file := append([]byte{0xff, markSOI, 0xff, markDQT, 0, 67, 0}, bytes.Repeat([]byte{1}, 64)...)
	file = append(file, 0xff, markSOF2, 0, 11, 8, byte(height>>8), byte(height), byte(width>>8), byte(width), 1, 1, 0x11, 0)
	// The only code of both tables is the bit 0: no difference of DC, and an end of band of 32,767
	// blocks.
	file = append(file, 0xff, markDHT, 0, 2+2*(17+1), 0x00, 1)
	file = append(append(file, make([]byte, 15)...), 0, 0x10, 1)
	file = append(append(file, make([]byte, 15)...), 0xe0)
	blocks := ceil(width, 8) * ceil(height, 8)
	for i := range scans {
		if i == 0 {
			file = append(file, 0xff, markSOS, 0, 8, 1, 1, 0, 0, 0, 0)
			file = append(file, make([]byte, ceil(blocks, 8))...)
			continue
		}
		// A code and 14 bits for each end of band.
		file = append(file, 0xff, markSOS, 0, 8, 1, 1, 0, 1, 63, 0x10)
		file = append(file, bytes.Repeat([]byte{0x7f, 0xfe}, ceil(blocks, 1<<14))...)
	}
	return file
}

// TestWork checks that the work of an image is limited, whatever the number of scans, and that an
// ordinary number of scans is allowed.
func TestWork(t *testing.T) {
	for _, c := range []struct {
		width, height, scans int
		want                 string
	}{
		{8, 8, 10_000, ""},
		{1000, 1000, 100, ""},
		{1000, 1000, 3_000, "needs too much work"},
		{8000, 8000, 6, ""},
		{8000, 8000, 1_000, "needs too much work"},
	} {
		file := append(progressive(c.width, c.height, c.scans), 0xff, markEOI)
		d := newDecoder(file)
		spare := SpareWork
		d.spare = &spare
		err := d.readImage()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d×%d pixels, %d scans in %d bytes: error %v, want %q", c.width, c.height, c.scans, len(file), err, c.want)
		}
		last := d.blocks * (visitWork + 63) // spend counts the scan that it refuses
		if limit := blockWork*d.blocks + byteWork*len(file) + SpareWork + last; d.work > limit {
			t.Errorf("%d×%d pixels, %d scans: %d units of work, want at most %d", c.width, c.height, c.scans, d.work, limit)
		}
	}
}

// TestArithmeticWork checks that the work of arithmetic coding is limited. Its data can decide
// thousands of coefficients in one byte.
func TestArithmeticWork(t *testing.T) {
	file := progressive(1000, 1000, 1)
	file[bytes.Index(file, []byte{0xff, markSOF2})+1] = 0xca
	for range 1000 {
		file = append(file, 0xff, markSOS, 0, 8, 1, 1, 0, 1, 63, 0x10, 0)
	}
	if _, err := Decode(append(file, 0xff, markEOI), Options{}); err == nil || !strings.Contains(err.Error(), "needs too much work") {
		t.Errorf("error %v, want one about too much work", err)
	}
}

// TestMemory checks that an image that takes too much memory is refused before the allocation.
func TestMemory(t *testing.T) {
	file := []byte{0xff, markSOI, 0xff, markSOF2, 0, 20, 8, 0x34, 0x40, 0x34, 0x40, 4, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 4, 0x11, 0}
	file = append(file, 0xff, markSOS, 0, 14, 4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 0, 0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Decode(file, Options{})
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "more than the limit of 2147483648") || after.TotalAlloc-before.TotalAlloc > 1<<20 {
		t.Errorf("error %v after %d bytes", err, after.TotalAlloc-before.TotalAlloc)
	}
}

// TestUpsampleFlat checks that a component of one value keeps it at every size and ratio, up to the
// last row and column.
func TestUpsampleFlat(t *testing.T) {
	for h := 1; h <= 4; h++ {
		for v := 1; v <= 4; v++ {
			for width := 1; width <= 9; width++ {
				for height := 1; height <= 5; height++ {
					d := &decoder{denominator: 1, width: width, height: height, maxH: h, maxV: v, components: make([]component, 1)}
					c := &d.components[0]
					c.h, c.v, c.edge, c.width, c.height = 1, 1, 8, ceil(width, h), ceil(height, v)
					if err := d.allocate(); err != nil {
						t.Fatal(err)
					}
					for y := range c.height {
						for x := range c.width {
							c.samples[y*8*c.stride+x] = 150
						}
					}
					u := newUpsampler(d, c)
					for y := range height {
						for x, got := range u.row(y)[:width] {
							if got != 150 {
								t.Fatalf("%d×%d pixels, ratio %d×%d: sample (%d, %d) is %d, want 150", width, height, h, v, x, y, got)
							}
						}
					}
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("../../dataset/testdata/decode/*.jpg")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(encode(f, 20, 20))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, h, err := Size(data)
		if err != nil || w*h > 1<<16 {
			return
		}
		if m, err := Decode(data, Options{}); err == nil && (m.Width != w || m.Height != h || len(m.Pix) != w*h*m.Channels) {
			t.Errorf("%d×%d×%d pixels in %d bytes, want %d×%d", m.Width, m.Height, m.Channels, len(m.Pix), w, h)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data := encode(b, 300, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(data, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMissingScans checks that a progressive image without its last scans is an error.
// libjpeg-turbo would smooth the blocks of such an image.
func TestMissingScans(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("..", "..", "dataset", "testdata", "decode", "420progressive.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	scans := 0
	for at := range file[:len(file)-2] {
		if file[at] != 0xff || file[at+1] != markSOS {
			continue
		}
		if scans++; scans == 1 {
			continue
		}
		cut := append(bytes.Clone(file[:at]), 0xff, markEOI)
		if _, err := Decode(cut, Options{}); err == nil || !strings.Contains(err.Error(), "the last scans of the progressive image are missing") {
			t.Errorf("without scan %d and later ones: error %v", scans, err)
		}
	}
	if scans < 5 {
		t.Errorf("the file has %d scans, want 5 or more", scans)
	}
	if _, err := Decode(file, Options{}); err != nil {
		t.Errorf("the whole file: %v", err)
	}
}
