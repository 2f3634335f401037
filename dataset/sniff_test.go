package dataset

import (
	"os"
	"strings"
	"testing"
)

// TestForeignFormats checks that the error for a file of a format that is not supported names the
// format and says what to do.
func TestForeignFormats(t *testing.T) {
	avif, err := os.ReadFile("testdata/foreign/avif.jpg")
	if err != nil {
		t.Fatal(err)
	}
	media := func(brands string) string { return "\x00\x00\x00" + string(rune(8+len(brands))) + "ftyp" + brands }
	dng := "II\x2a\x00\x08\x00\x00\x00\x01\x00\x12\xc6\x01\x00\x04\x00\x00\x00\x01\x04\x00\x00\x00\x00\x00\x00"
	nef := "MM\x00\x2a\x00\x00\x00\x08\x00\x02\x00\xfe\x00\x04\x00\x00\x00\x01\x00\x00\x00\x01\x01\x4a\x00\x04\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x00"
	for _, c := range []struct{ name, data, want, advice string }{
		{"avif", string(avif), "an AVIF image", "convert it to PNG"},
		{"avif, compatible", media("mif1\x00\x00\x00\x00mif1avif"), "an AVIF image", "convert"},
		{"heic", media("heic\x00\x00\x00\x00mif1heic"), "an HEIC image", "convert"},
		{"cr3", media("crx \x00\x00\x00\x01crx isom"), "raw data of a camera (CR3)", "convert"},
		{"mp4", media("isom\x00\x00\x02\x00isomavc1"), "a video", "extract the frames"},
		{"jp2", "\x00\x00\x00\x0cjP  \r\n\x87\n\x00", "a JPEG 2000 image", "convert"},
		{"j2k", "\xff\x4f\xff\x51\x00", "a JPEG 2000 image", "convert"},
		{"ico", "\x00\x00\x01\x00\x01\x00", "an ICO or CUR icon", "convert"},
		{"svg", "<svg xmlns=''>", "an SVG drawing", "convert"},
		{"svg with declaration", "<?xml version='1.0'?>\n<svg>", "an SVG drawing", "convert"},
		{"psd", "8BPS\x00\x01", "a Photoshop document (PSD)", "convert"},
		{"pdf", "%PDF-1.4", "a PDF document", "convert"},
		{"html", "\n<!DOCTYPE html><html>404</html>", "a web page (HTML)", "address"},
		{"lfs", "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"},
		{"cr2", "II\x2a\x00\x10\x00\x00\x00CR\x02\x00\x00\x00\x00\x00\x00\x00", "raw data of a camera", "convert"},
		{"dng", dng, "raw data of a camera", "convert"},
		{"nef", nef, "raw data of a camera", "convert"},
		{"raf", "FUJIFILMCCD-RAW 0201", "raw data of a camera (RAF)", "convert"},
		{"png as text", "\x89PNG\n\x1a\n\x00", "a PNG image that was changed as text", "binary"},
		{"zip", "PK\x03\x04\x00", "a zip archive", "unpack"},
	} {
		_, err := decodeImage([]byte(c.data))
		if err == nil || !strings.Contains(err.Error(), "the file is "+c.want) || !strings.Contains(err.Error(), c.advice) {
			t.Errorf("%s: error %v, want one with %q and %q", c.name, err, c.want, c.advice)
		}
	}
}
