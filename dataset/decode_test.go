package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/tiff"
)

// compare returns the greatest and the mean difference between the pixels of two images, in levels
// from 0 to 255.
func compare(t *testing.T, got, want *RGB) (greatest int, mean float64) {
	t.Helper()
	if got.Width != want.Width || got.Height != want.Height || len(got.Pix) != len(want.Pix) {
		t.Fatalf("image of %d×%d pixels (%d bytes), want %d×%d (%d bytes)", got.Width, got.Height, len(got.Pix), want.Width, want.Height, len(want.Pix))
	}
	sum := 0
	for i, v := range got.Pix {
		d := int(v) - int(want.Pix[i])
		d = max(d, -d)
		greatest = max(greatest, d)
		sum += d
	}
	return greatest, float64(sum) / float64(len(got.Pix))
}

// decodeFile decodes an image file.
func decodeFile(path string) (*RGB, error) {
	m, _, err := Sample{Path: path}.read()
	return m, err
}

// readPNGFile reads a PNG file with package image/png.
func readPNGFile(t *testing.T, path string) *RGB {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	out := newRGB(m.Bounds().Dx(), m.Bounds().Dy())
	for i := range out.Width * out.Height {
		c := m.At(i%out.Width, i/out.Width)
		if n, ok := c.(color.NRGBA); ok { // alpha is dropped, not multiplied
			c = color.NRGBA{n.R, n.G, n.B, 255}
		}
		r, g, b, _ := c.RGBA()
		out.Pix[3*i], out.Pix[3*i+1], out.Pix[3*i+2] = uint8(r>>8), uint8(g>>8), uint8(b>>8)
	}
	return out
}

// TestDecodeAsPillow compares the pixels with those that Pillow reads from the same files
// (testdata/make.py): every format, every chroma subsampling, every orientation, and rare and
// damaged forms. The pixels are equal.
func TestDecodeAsPillow(t *testing.T) {
	expected, err := filepath.Glob("testdata/decode/*.*.png")
	if err != nil || len(expected) < 105 {
		t.Fatalf("found %d expected images in testdata/decode (%v)", len(expected), err)
	}
	for _, e := range expected {
		name := strings.TrimSuffix(e, ".png")
		t.Run(filepath.Base(name), func(t *testing.T) {
			want := readPNGFile(t, e)
			got, err := decodeFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if greatest, mean := compare(t, got, want); greatest > 0 {
				t.Errorf("off by up to %d levels, %.4f on average; want the same pixels", greatest, mean)
			}
		})
	}
}

// TestDecode16Bit checks that 16-bit channels keep their high byte, and that alpha is dropped.
func TestDecode16Bit(t *testing.T) {
	grey := image.NewGray16(image.Rect(0, 0, 2, 1))
	grey.SetGray16(0, 0, color.Gray16{0x12ff})
	grey.SetGray16(1, 0, color.Gray16{0xfe00})
	nrgba := image.NewNRGBA64(image.Rect(0, 0, 2, 1))
	nrgba.SetNRGBA64(0, 0, color.NRGBA64{0x1234, 0x56ff, 0x9a00, 0x0101})
	nrgba.SetNRGBA64(1, 0, color.NRGBA64{0xffff, 0x00ff, 0x80ff, 0xffff})
	for _, c := range []struct {
		name string
		m    image.Image
		want []uint8
	}{
		{"grey", grey, []uint8{0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe}},
		{"nrgba", nrgba, []uint8{0x12, 0x56, 0x9a, 0xff, 0x00, 0x80}},
	} {
		var asPNG, asTIFF bytes.Buffer
		if err := png.Encode(&asPNG, c.m); err != nil {
			t.Fatal(err)
		}
		if err := tiff.Encode(&asTIFF, c.m, nil); err != nil {
			t.Fatal(err)
		}
		for format, data := range map[string]*bytes.Buffer{"png": &asPNG, "tiff": &asTIFF} {
			got, err := decodeImage(data.Bytes())
			if err != nil {
				t.Fatalf("%s %s: %v", c.name, format, err)
			}
			if !bytes.Equal(got.Pix, c.want) {
				t.Errorf("%s %s: pixels % x, want % x", c.name, format, got.Pix, c.want)
			}
		}
	}
}

// TestDecodeGIFFrame checks that a first frame that is smaller than the screen is drawn at its
// place, on the first colour of the palette.
func TestDecodeGIFFrame(t *testing.T) {
	palette := color.Palette{color.RGBA{10, 20, 30, 255}, color.RGBA{200, 0, 0, 255}}
	frame := image.NewPaletted(image.Rect(2, 1, 3, 3), palette)
	frame.Pix = []uint8{1, 1}
	var data bytes.Buffer
	err := gif.EncodeAll(&data, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 4, Height: 3, ColorModel: palette}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeImage(data.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := newRGB(4, 3)
	for i := range want.Pix {
		want.Pix[i] = []uint8{10, 20, 30}[i%3]
	}
	for _, y := range []int{1, 2} {
		copy(want.Pix[3*(4*y+2):], []uint8{200, 0, 0})
	}
	if greatest, _ := compare(t, got, want); greatest != 0 {
		t.Errorf("pixels %v, want %v", got.Pix, want.Pix)
	}
}

func TestDecodePNM(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       []uint8
		fails      string
	}{
		{"grey with comment", "P5 # a comment 9\n2\t1\n#\n255\n\x07\xff", []uint8{7, 7, 7, 255, 255, 255}, ""},
		{"comment after the maximum", "P5\v2\f1 25#5\n5#\n\n\x07\xff", []uint8{7, 7, 7, 255, 255, 255}, ""},
		{"comment to a carriage return", "P5 #3\r2 1 255\n\x07\xff", []uint8{7, 7, 7, 255, 255, 255}, ""},
		{"no space", "P52 1 255\n\x07\xff", nil, "three positive numbers"},
		{"no space at the end", "P5 2 1 255a\x07\xff", nil, "three positive numbers"},
		{"scaled", "P5 3 1 3\n\x00\x01\x03", []uint8{0, 0, 0, 85, 85, 85, 255, 255, 255}, ""},
		{"half is rounded to even", "P5 2 1 6\n\x01\x03", []uint8{42, 42, 42, 128, 128, 128}, ""},
		{"16 bit", "P6 1 1 65535\n\x12\x34\xff\xff\x00\x01", []uint8{18, 255, 0}, ""},
		{"short", "P6 2 2 255\nabc", nil, "truncated"},
		{"no maximum", "P6 2 2 ", nil, "three positive numbers"},
		{"huge", "P6 999999999 999999999 255\n", nil, "more than the limit of 178956970 pixels"},
		{"maximum", "P5 1 1 70000\n\x00\x00", nil, "above 65535"},
	} {
		m, err := decodeImage([]byte(c.data))
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: error %v, want one with %q", c.name, err, c.fails)
			}
		} else if err != nil || !bytes.Equal(m.Pix, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.name, m, err, c.want)
		}
	}
}

// TestDecodeErrors checks that a broken file is an error that says what is wrong, without a panic
// and without a huge allocation.
func TestDecodeErrors(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata/decode", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	// A PNG whose header asks for 20000×20000 pixels.
	bomb := bytes.Clone(read("rgba.png"))
	binary.BigEndian.PutUint32(bomb[16:], 20000)
	binary.BigEndian.PutUint32(bomb[20:], 20000)
	binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
	// A WebP whose pixels begin with the byte 255, and an animated PNG with a frame below the first
	// row.
	high := bytes.Clone(read("lossy.webp"))
	high[20+10+uint24(high[20:])>>5] = 255
	frame := binary.BigEndian.AppendUint32([]byte("fcTL\x00\x00\x00\x00"), 8)
	frame = append(binary.BigEndian.AppendUint32(frame, 7), "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x0a\x00\x00"...)
	planes := func(tags ...int) []byte {
		return makeTIFF(false, repeated(make([]byte, 8), 4), append(tags, tagWidth, 8, tagHeight, 1, tagPlanar, 2)...)
	}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "the file is empty", nil},
		{"webp beyond the range", "begins with the byte 255", high},
		{"png with a small first frame", "not as large as the image", makePNG(8, 8, string(frame))},
		{"inverted planes", "uncompressed planes", planes(tagBits, 8, tagPhotometric, tiffWhiteIsZero)},
		{"reversed planes", "uncompressed planes", planes(tagBits, 1, tagPhotometric, tiffBlackIsZero, tagFillOrder, 2)},
		{"planes of 16 bits", "uncompressed planes", planes(tagBits, 16, tagPhotometric, tiffRGB, tagSamplesPerPixel, 3)},
		{"plane without a meaning", "ExtraSamples", planes(tagBits, 8, tagPhotometric, tiffRGB, tagSamplesPerPixel, 4, tagCompression, tiffDeflate)},
		{"text", "none of JPEG, PNG", []byte("no image")},
		{"truncated jpeg", "jpeg is truncated after 300 bytes", read("420.jpg")[:300]},
		{"truncated png", "truncated", read("rgba.png")[:200]},
		{"truncated webp", "truncated", read("lossless.webp")[:60]},
		{"bomb", "png of 20000×20000 pixels: more than the limit of 178956970 pixels", bomb},
		{"damaged png", "broken png", append(bytes.Clone(read("rgba.png")[:60]), make([]byte, 2000)...)},
	} {
		_, err := decodeImage(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	path := filepath.Join(t.TempDir(), "no.jpg")
	if _, err := decodeFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("missing file: error %v does not name it", err)
	}
	if err := os.WriteFile(path, read("420.jpg")[:300], 0o600); err != nil {
		t.Fatal(err)
	}
	var bad *ImageError
	if _, err := decodeFile(path); !errors.As(err, &bad) || bad.Path != path || !strings.Contains(err.Error(), path) {
		t.Errorf("broken file: error %v does not name it", err)
	}
	for _, special := range []string{os.DevNull, t.TempDir()} {
		if _, err := decodeFile(special); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: error %v, want that it is not a regular file", special, err)
		}
	}
}

// TestDecodeEveryCut cuts every fixture short and damages single bytes. Errors are fine, panics are
// not.
func TestDecodeEveryCut(t *testing.T) {
	files, err := filepath.Glob("testdata/decode/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for cut := 0; cut < len(data); cut += 1 + len(data)/25 {
			_, _ = decodeImage(data[:cut])
			damaged := bytes.Clone(data)
			damaged[cut] ^= 0x55
			if m, err := decodeImage(damaged); err == nil && m.check() != nil {
				t.Errorf("%s, byte %d damaged: %v", f, cut, m.check())
			}
		}
	}
}

// TestDivideAlpha checks that premultiplied alpha is divided out again, rounded down as in Pillow.
// A fully transparent pixel has no colour left.
func TestDivideAlpha(t *testing.T) {
	for _, c := range []struct {
		alpha uint8
		want  [3]uint8
	}{{128, [3]uint8{199, 99, 255}}, {255, [3]uint8{100, 50, 200}}, {0, [3]uint8{}}} {
		p := [3]uint8{100, 50, 200}
		if divideAlpha(p[:], c.alpha); p != c.want {
			t.Errorf("alpha %d: %v, want %v", c.alpha, p, c.want)
		}
	}
}

// TestDecodePanic checks that decodeImage returns an error if a decoder panics.
func TestDecodePanic(t *testing.T) {
	saved := formats
	defer func() { formats = saved }()
	formats = []format{{
		name: "trap", magic: []string{"trap"},
		size:   func([]byte) (width, height int, err error) { return 1, 1, nil },
		decode: func(data []byte) (*RGB, error) { return nil, fmt.Errorf("%c", data[100]) },
	}}
	_, err := decodeImage([]byte("trap"))
	if err == nil || !strings.Contains(err.Error(), "broken trap") || !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("error %v, want one that names the format and the panic", err)
	}
}

func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/decode/*")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Headers may ask for up to 178 million pixels, which would fill the memory of the fuzzer.
		if format, err := sniff(data); err == nil {
			if w, h, err := format.size(data); err == nil && w > 0 && h > 1<<20/w {
				return
			}
		}
		if m, err := decodeImage(data); err == nil && m.check() != nil {
			t.Error(m.check())
		}
	})
}

func BenchmarkDecodeJPEG(b *testing.B) {
	m := image.NewYCbCr(image.Rect(0, 0, 300, 200), image.YCbCrSubsampleRatio420)
	for i := range m.Y {
		m.Y[i] = uint8(i * i >> 6)
	}
	var data bytes.Buffer
	if err := jpeg.Encode(&data, m, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeImage(data.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}
