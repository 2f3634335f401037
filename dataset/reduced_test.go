package dataset

import (
	"bytes"
	"flag"
	"fmt"
	"hash/crc32"
	"image"
	"image/jpeg"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReduceAsPillow compares the pixels of JPEG files that are made smaller while they are decoded
// with those of Pillow's draft mode.
func TestReduceAsPillow(t *testing.T) {
	table, err := os.ReadFile("testdata/reduced.txt")
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(string(table)), "\n")
	if len(rows) < 100 {
		t.Fatalf("testdata/reduced.txt has %d rows", len(rows))
	}
	for _, row := range rows {
		var name string
		var denominator, width, height int
		var crc uint32
		if _, err := fmt.Sscanf(row, "%s %d %d %d %x", &name, &denominator, &width, &height, &crc); err != nil {
			t.Fatalf("%q: %v", row, err)
		}
		data, err := os.ReadFile(filepath.Join("testdata", "decode", name))
		if err != nil {
			t.Fatal(err)
		}
		m, err := reduceJPEG(data, denominator)
		if err != nil {
			t.Errorf("%s, denominator %d: %v", name, denominator, err)
		} else if got := crc32.ChecksumIEEE(m.Pix); m.Width != width || m.Height != height || got != crc {
			t.Errorf("%s, denominator %d: %d×%d pixels with CRC-32 %08x, want %d×%d with %08x", name, denominator, m.Width, m.Height, got, width, height, crc)
		}
	}
}

// TestLoadReduced checks that a JPEG image which is decoded at a fraction of its size gives nearly
// the pixels of the whole image, for each kind of resize and each orientation. No denominator
// divides the size of the image.
func TestLoadReduced(t *testing.T) {
	const width, height = 801, 643
	picture := image.NewGray(image.Rect(0, 0, width, height))
	for i := range picture.Pix { // waves of 125 and 190 pixels, and a dark edge on the left
		x, y := float64(i%width), float64(i/width)
		v := 127 + 60*math.Sin(x/20) + 60*math.Cos(y/30+x/30)
		if x < 80 {
			v /= 4
		}
		picture.Pix[i] = uint8(v)
	}
	var file bytes.Buffer
	if err := jpeg.Encode(&file, picture, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	for o := range 8 {
		exif := fmt.Sprintf("\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00%c\x00\x00\x00\x00\x00\x00", 1+o)
		data := append(append(file.Bytes()[:2:2], exif...), file.Bytes()[2:]...)
		path := filepath.Join(t.TempDir(), "a.jpg")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		image, err := decodeImage(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			Transform
			size int // shorter side of the decoded image
		}{
			{Transform{Size: 26}, 81},
			{Transform{Size: 32}, 161},
			{Transform{Size: 96}, 322},
			{Transform{Size: 108}, 643},
			{Transform{Size: 32, Resize: "crop", ResizeTo: 36}, 161},
			{Transform{Size: 32, Resize: "direct-crop", ResizeTo: 100}, 322},
			{Transform{Size: 20, Augment: Augment{CropScale: [2]float64{0.25, 1}, CropRatio: [2]float64{0.75, 1.33}}}, 161},
		} {
			s := Sample{Path: path}
			reduced, _, _, err := s.readReduced(c.short())
			if err != nil || min(reduced.Width, reduced.Height) != c.size {
				t.Fatalf("%+v: %v, %d×%d pixels, want a shorter side of %d", c.Transform, err, reduced.Width, reduced.Height, c.size)
			}
			got, err := c.load(s, nil)
			if err != nil {
				t.Fatal(err)
			}
			want, err := c.resize(image, whole(image))
			if err != nil {
				t.Fatal(err)
			}
			if greatest, mean := compare(t, got, want); greatest > 4 || mean > 0.5 {
				t.Errorf("orientation %d, %+v: the pixels differ by up to %d levels from those of the whole image, %.3f on average", 1+o, c.Transform, greatest, mean)
			}
		}
	}
}

var photos = flag.String("photos", "", "folder of JPEG files for TestReducedPhotos")

// TestReducedPhotos logs how the pixels of the photos in a folder differ from those of the whole
// photos, at three sizes.
func TestReducedPhotos(t *testing.T) {
	if *photos == "" {
		t.Skip("needs a folder of JPEG files: give it with -photos")
	}
	files, err := filepath.Glob(filepath.Join(*photos, "*.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{96, 224, 384} {
		n, worst, sum := 0, 0, 0.0
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, part, err := decodeReduced(data, size)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			image, err := decodeImage(data)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if m.Width == image.Width {
				continue // not reduced
			}
			got, err := resizeFrame(m, part, size, size)
			if err != nil {
				t.Fatal(err)
			}
			want, err := resizeBicubic(image, size, size)
			if err != nil {
				t.Fatal(err)
			}
			greatest, mean := compare(t, got, want)
			n, worst, sum = n+1, max(worst, greatest), sum+mean
		}
		t.Logf("%d px: %d of %d photos reduced, differences of up to %d levels, %.2f on average", size, n, len(files), worst, sum/float64(max(n, 1)))
	}
}

// BenchmarkLargePhoto measures decoding a photo of twelve megapixels and resizing it to 224 pixels.
func BenchmarkLargePhoto(b *testing.B) {
	picture := image.NewYCbCr(image.Rect(0, 0, 4032, 3024), image.YCbCrSubsampleRatio420)
	for i := range picture.Y { // waves and noise: 2.4 MB
		x, y := float64(i%4032), float64(i/4032)
		picture.Y[i] = uint8(127 + 50*math.Sin(x/90) + 50*math.Cos(y/70+x/300) + float64(i*i>>7%13))
	}
	for i := range picture.Cb {
		picture.Cb[i], picture.Cr[i] = uint8(100+i%2016/60), uint8(160-i/2016/40)
	}
	var file bytes.Buffer
	if err := jpeg.Encode(&file, picture, &jpeg.Options{Quality: 92}); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		short int
	}{{"whole", 0}, {"reduced", 224}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(file.Len()))
			for b.Loop() {
				m, part, err := decodeReduced(file.Bytes(), c.short)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := resizeFrame(m, part, 224, 224); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
