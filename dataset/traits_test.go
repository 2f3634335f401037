package dataset

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestTraits checks the traits of images that Pillow made with 16 bits and with ICC profiles
// (testdata/make.py). The descriptions are those that LittleCMS gives its profiles.
func TestTraits(t *testing.T) {
	lab := map[string]int{"Lab identity built-in": 1}
	for name, want := range map[string]Traits{
		"rgb.jpg": {}, "srgb.png": {}, "deflate.tif": {}, "grey.pgm": {}, "lossy.webp": {},
		"grey16.png": {Deep: 1}, "rgba16.png": {Deep: 1}, "rgb16be.tif": {Deep: 1}, "dim16.png": {Deep: 1, Dim: 1},
		"icc.jpg": {Profiles: lab}, "icc_cmyk.jpg": {Profiles: lab}, "icc.png": {Profiles: lab}, "icc.webp": {Profiles: lab}, "icc.tif": {Profiles: lab},
	} {
		f := inspect(Sample{Path: filepath.Join("testdata/decode", name)})
		if f.err != nil || !reflect.DeepEqual(f.traits, want) {
			t.Errorf("%s: traits %+v, want %+v (%v)", name, f.traits, want, f.err)
		}
	}
	d := &Dataset{Classes: []string{"a", "b"}}
	for _, name := range []string{"dim16.png", "grey16.png", "icc.jpg", "icc.tif", "rgb.jpg"} {
		d.Train = append(d.Train, Sample{Path: filepath.Join("testdata/decode", name), Target: Class(0)})
	}
	v, err := d.Verify(t.Context(), 2, nil)
	if want := (Traits{2, 1, map[string]int{"Lab identity built-in": 2}}); err != nil || !reflect.DeepEqual(v.Traits, want) {
		t.Errorf("traits %+v, want %+v (%v)", v.Traits, want, err)
	}
}

// TestICCDescription checks the description in profiles of version 2, and that every cut and every
// damaged byte of both versions neither panics nor gives a long text.
func TestICCDescription(t *testing.T) {
	version2 := strings.Repeat("\x00", 128) + "\x00\x00\x00\x01desc\x00\x00\x00\x90\x00\x00\x00\x1c" +
		"desc\x00\x00\x00\x00\x00\x00\x00\x0bDisplay P3\x00\x00\x00\x00\x00\x00"
	if got := iccDescription([]byte(version2)); got != "Display P3" {
		t.Errorf("description %q, want Display P3", got)
	}
	file, err := os.ReadFile("testdata/decode/icc.webp")
	if err != nil {
		t.Fatal(err)
	}
	for _, icc := range [][]byte{[]byte(version2), iccProfile("webp", file)} {
		if iccDescription(icc) == "" {
			t.Error("no description")
		}
		for i := range icc {
			iccDescription(icc[:i])
			for _, b := range []byte{0, 0x80, 0xff} {
				damaged := append([]byte{}, icc...)
				damaged[i] = b
				if got := iccDescription(damaged); len(got) > maxShown+len("…") {
					t.Fatalf("byte %d: description of %d bytes", i, len(got))
				}
			}
		}
	}
}
