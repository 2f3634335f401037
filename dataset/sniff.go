package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// foreign lists the signatures of formats that are not supported, to name them in an error. "?"
// matches any byte. advice ends the error; "" stands for "convert it to JPEG or PNG".
var foreign = []struct{ name, magic, advice string }{
	{"a JPEG 2000 image", "\x00\x00\x00\x0cjP  \r\n\x87\n", ""},
	{"a JPEG 2000 image", "\xff\x4f\xff\x51", ""},
	{"a JPEG XL image", "\x00\x00\x00\x0cJXL \r\n\x87\n", ""},
	{"a JPEG XL image", "\xff\x0a", ""},
	{"a JPEG XR image", "II\xbc", ""},
	{"an ICO or CUR icon", "\x00\x00\x01\x00", ""},
	{"an ICO or CUR icon", "\x00\x00\x02\x00", ""},
	{"an Apple icon (ICNS)", "icns", ""},
	{"a Photoshop document (PSD)", "8BPS", ""},
	{"a DirectDraw surface (DDS)", "DDS ", ""},
	{"an OpenEXR image", "\x76\x2f\x31\x01", ""},
	{"a Radiance HDR image", "#?RADIANCE", ""},
	{"a FITS image", "SIMPLE  =", ""},
	{"a DICOM image", strings.Repeat("?", 128) + "DICM", ""},
	{"a QOI image", "qoif", ""},
	{"a GIMP image (XCF)", "gimp xcf", ""},
	{"an SGI image", "\x01\xda", ""},
	{"a DjVu document", "AT&TFORM", ""},
	{"a Sun raster image", "\x59\xa6\x6a\x95", ""},
	{"a PNG image that was changed as text", "\x89PNG", "copy it again in binary mode"},
	{"a bitmap in text form (PNM)", "P1", ""},
	{"a bitmap in text form (PNM)", "P2", ""},
	{"a bitmap in text form (PNM)", "P3", ""},
	{"a portable bitmap (PBM)", "P4", ""},
	{"a portable arbitrary map (PAM)", "P7", ""},
	{"raw data of a camera (ORF)", "IIRO", ""},
	{"raw data of a camera (ORF)", "IIRS", ""},
	{"raw data of a camera (ORF)", "MMOR", ""},
	{"raw data of a camera (RW2)", "IIU\x00", ""},
	{"raw data of a camera (RAF)", "FUJIFILMCCD-RAW", ""},
	{"raw data of a camera (MRW)", "\x00MRM", ""},
	{"raw data of a camera (X3F)", "FOVb", ""},
	{"a PDF document", "%PDF-", ""},
	{"a PostScript document", "%!PS", ""},
	{"a Git LFS pointer, not the image that it stands for", "version https://git-lfs", "run 'git lfs pull' to download the image"},
	{"an AppleDouble file with attributes, not an image", "\x00\x05\x16\x07", "delete it"},
	{"a zip archive", "PK\x03\x04", "unpack it"},
	{"compressed with gzip", "\x1f\x8b", "decompress it"},
	{"a RAR archive", "Rar!\x1a\x07", "unpack it"},
	{"a 7z archive", "7z\xbc\xaf\x27\x1c", "unpack it"},
	{"a NumPy array (.npy)", "\x93NUMPY", ""},
	{"a Matroska or WebM video", "\x1a\x45\xdf\xa3", "extract the frames as JPEG or PNG"},
	{"an AVI video", "RIFF????AVI ", "extract the frames as JPEG or PNG"},
	{"a video or a container of another kind (RIFF)", "RIFF", ""},
}

// convertISO says how to convert an AVIF or HEIC image without another loss.
const convertISO = "convert it to PNG, such as with ImageMagick: magick FILE FILE.png"

// brands lists the brands of ISO media files, to name the formats in an error. The first format
// that a file states is the one that counts.
var brands = []struct{ name, brands, advice string }{
	{"an AVIF image", "avif|avis", convertISO},
	{"an HEIC image", "heic|heix|heim|heis|hevc|hevx|hevm|hevs|mif1|msf1", convertISO},
	{"raw data of a camera (CR3)", "crx ", ""},
	{"a video", "isom|iso2|iso4|iso5|iso6|mp41|mp42|avc1|qt  |M4V |3gp4|3gp5|3gp6", "extract the frames as JPEG or PNG"},
}

// sniff returns the format of an image file. The first bytes of the file tell the format. The error
// names the format of a file that is not supported.
func sniff(data []byte) (format, error) {
	if len(data) == 0 {
		return format{}, errors.New("the file is empty")
	}
	for _, f := range formats {
		for _, magic := range f.magic {
			if matches(data, magic) {
				return f, nil
			}
		}
	}
	if name, advice := foreignFormat(data); name != "" {
		return format{}, &foreignError{name, advice}
	}
	return format{}, fmt.Errorf("the file begins with the bytes % x, which is none of JPEG, PNG, GIF, WebP, BMP, TIFF, binary PGM and PPM: convert it to one of these formats", data[:min(8, len(data))])
}

// foreignError is the error for a file of a format that is not supported.
type foreignError struct{ name, advice string }

func (e *foreignError) Error() string {
	advice := e.advice
	if advice == "" {
		advice = "convert it to JPEG or PNG"
	}
	return fmt.Sprintf("the file is %s, which spt does not read; %s", e.name, advice)
}

// foreignFormat returns the name of a format that is not supported, and what to do. The name is ""
// if the format is not known.
func foreignFormat(data []byte) (name, advice string) {
	if len(data) >= 16 && string(data[4:8]) == "ftyp" {
		size := min(int(binary.BigEndian.Uint32(data)), len(data), 256)
		for _, b := range brands {
			for at := 8; at+4 <= size; at += 4 { // the main brand, a version, and further brands
				if at != 12 && slices.Contains(strings.Split(b.brands, "|"), string(data[at:at+4])) {
					return b.name, b.advice
				}
			}
		}
		return "an ISO media file, such as a video", "extract the frames as JPEG or PNG"
	}
	for _, f := range foreign {
		if matches(data, f.magic) {
			return f.name, f.advice
		}
	}
	text := bytes.TrimPrefix(data[:min(len(data), 1024)], []byte("\xef\xbb\xbf"))
	text = bytes.ToLower(bytes.TrimLeft(text, " \t\r\n"))
	switch {
	case !bytes.HasPrefix(text, []byte("<")):
		return "", ""
	case bytes.Contains(text, []byte("<svg")):
		return "an SVG drawing", ""
	case bytes.HasPrefix(text, []byte("<?xml")):
		return "an XML document", "check the address from which it was downloaded"
	}
	return "a web page (HTML), such as the error page of a server", "check the address from which it was downloaded"
}

// matches reports whether data begins with magic.
func matches(data []byte, magic string) bool {
	if len(data) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && data[i] != magic[i] {
			return false
		}
	}
	return true
}
