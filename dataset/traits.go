package dataset

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
)

// Traits counts properties of images that change what their pixels mean.
type Traits struct {
	// Deep is the number of images with 16 bits per channel. Their pixels are the high bytes.
	Deep int

	// Dim is the number of those images whose values all lie in the lowest quarter of the range of
	// 16 bits, as in depth maps and in medical images of 12 bits. They are nearly black.
	Dim int

	// Profiles counts the images with an ICC profile other than sRGB, by the description of the
	// profile. The description is "" if the profile states none. Profiles are not applied.
	Profiles map[string]int
}

// dimLevel is the lowest level of 8 bits that an image must reach to be no dim one.
const dimLevel = 64

// add counts an image. m holds the pixels of the encoded image.
func (t *Traits) add(encoded []byte, m *RGB) {
	f, err := sniff(encoded)
	if err != nil {
		return
	}
	if f.deep != nil && f.deep(encoded) {
		t.Deep++
		if slices.Max(m.Pix) < dimLevel {
			t.Dim++
		}
	}
	if icc := iccProfile(f.name, encoded); len(icc) > 0 {
		if name := iccDescription(icc); !strings.Contains(strings.ToLower(name), "srgb") {
			t.merge(Traits{Profiles: map[string]int{name: 1}})
		}
	}
}

// merge adds the counts of other images.
func (t *Traits) merge(other Traits) {
	t.Deep += other.Deep
	t.Dim += other.Dim
	for name, n := range other.Profiles {
		if t.Profiles == nil {
			t.Profiles = map[string]int{}
		}
		t.Profiles[name] += n
	}
}

// deepPNG reports whether a PNG file has 16 bits per channel.
func deepPNG(file []byte) bool {
	h, _, err := readPNG(file, nil)
	return err == nil && h.depth == 16
}

// deepTIFF reports whether a TIFF file has 16 bits per channel.
func deepTIFF(file []byte) bool {
	t, err := readTIFF(file)
	return err == nil && t.bits == 16
}

// iccPrefix begins the segments of a JPEG file that hold an ICC profile. Two bytes follow: the
// number of the segment, and the number of segments.
var iccPrefix = []byte("ICC_PROFILE\x00")

// maxProfile limits the size of an ICC profile in a PNG file after decompression.
const maxProfile = 4 << 20

// iccProfile returns the ICC profile of an image file, or the first part of the profile of a JPEG
// file, which has the description. It returns nil if the file has none.
func iccProfile(formatName string, file []byte) []byte {
	switch formatName {
	case "jpeg":
		return jpegMetadata(file).icc
	case "png":
		for c := range pngChunks(file) {
			if c.kind == "IDAT" {
				return nil
			}
			if c.kind != "iCCP" {
				continue
			}
			if _, text, ok := bytes.Cut(c.data, []byte{0}); ok && len(text) > 0 {
				icc, _ := inflateText(text[1:], maxProfile)
				return icc
			}
		}
	case "webp":
		for kind, body := range webpChunks(file) {
			if kind == "ICCP" {
				return body
			}
		}
	case "tiff":
		if d, err := readDirectory(file); err == nil {
			return d.entries[tagICCProfile].data
		}
	}
	return nil
}

// iccDescription returns the description of an ICC profile, or "" if it has none. See ICC.1:2022,
// 7.3 and 10.15, and ICC.1:2001, 6.5.17.
func iccDescription(icc []byte) string {
	const header, entry = 128, 12
	if len(icc) < header+4 {
		return ""
	}
	tags := icc[header+4:]
	for range binary.BigEndian.Uint32(icc[header:]) {
		if len(tags) < entry {
			return ""
		}
		at, size := uint64(binary.BigEndian.Uint32(tags[4:])), uint64(binary.BigEndian.Uint32(tags[8:]))
		if string(tags[:4]) != "desc" {
			tags = tags[entry:]
			continue
		}
		if at+size > uint64(len(icc)) || size < 12 {
			return ""
		}
		return iccText(icc[at : at+size])
	}
	return ""
}

// iccText returns the text of an element of at least 12 bytes: ASCII in profiles of version 2, and
// the first of several translations in UTF-16 in those of version 4.
func iccText(e []byte) string {
	switch n := uint64(binary.BigEndian.Uint32(e[8:])); string(e[:4]) {
	case "desc":
		text := e[12:]
		text, _, _ = bytes.Cut(text[:min(n, uint64(len(text)))], []byte{0})
		return abbreviate(strings.ToValidUTF8(string(text), ""))
	case "mluc":
		if len(e) < 28 {
			return ""
		}
		size, at := uint64(binary.BigEndian.Uint32(e[20:])), uint64(binary.BigEndian.Uint32(e[24:]))
		if at+size > uint64(len(e)) {
			return ""
		}
		var units []uint16
		for b := range slices.Chunk(e[at:at+size], 2) {
			if len(b) == 2 && (b[0] != 0 || b[1] != 0) {
				units = append(units, binary.BigEndian.Uint16(b))
			}
		}
		return abbreviate(string(utf16.Decode(units)))
	}
	return ""
}
