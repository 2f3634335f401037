package dataset

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"regexp"
	"slices"
	"unicode/utf8"
)

// metadata holds the parts of an image file that state its orientation or the meaning of its
// colours.
type metadata struct {
	exif []byte // a TIFF file with one directory
	xmp  []byte // XML
	icc  []byte // the first part of an ICC profile; only of a JPEG file
}

// metadataReaders maps the name of a format to the function that finds the metadata of a file.
var metadataReaders = map[string]func([]byte) metadata{
	"jpeg": jpegMetadata,
	"png":  pngMetadata,
	"webp": webpMetadata,
	"tiff": tiffMetadata,
}

// xmpOrientation matches the orientation in XMP, as an attribute or as an element.
var xmpOrientation = regexp.MustCompile(`tiff:Orientation(?:="|>)([0-9])`)

// orientation returns the orientation of an image file, 1 to 8, as EXIF defines it. EXIF comes
// before XMP.
//
// It reads damaged EXIF as Pillow does, wherever Pillow reads an orientation. For some damaged
// headers, Pillow refuses the file, although the pixels are sound. For these files, and for values
// that are not an orientation, the result is 1.
func orientation(formatName string, data []byte) int {
	read := metadataReaders[formatName]
	if read == nil {
		return 1
	}
	m := read(data)
	exif := bytes.TrimPrefix(bytes.TrimPrefix(m.exif, exifPrefix), exifPrefix)
	readTags := readEXIF
	if formatName == "tiff" {
		readTags = readDirectory
	}
	d, err := readTags(exif)
	if len(exif) > 0 && err == errBadHeader {
		return 1
	}
	if err == nil && d.has(tagOrientation) {
		return d.orientation()
	}
	if found := xmpOrientation.FindSubmatch(m.xmp); found != nil {
		return validOrientation(int(found[1][0] - '0'))
	}
	return 1
}

// orientation returns the value of the tag Orientation. Pillow accepts every kind of number, also
// fractions and floating point, but no bytes and no text.
func (d *directory) orientation() int {
	e := d.entries[tagOrientation]
	part := func(at int) uint32 { return d.order.Uint32(e.data[at:]) }
	v := 1.0
	switch e.kind {
	case 1, 7:
	case 5:
		v = float64(part(0)) / float64(part(4))
	case 10:
		v = float64(int32(part(0))) / float64(int32(part(4)))
	case 11:
		v = float64(math.Float32frombits(part(0)))
	case 12:
		v = math.Float64frombits(d.order.Uint64(e.data))
	default:
		v = float64(d.number(tagOrientation, 1))
	}
	if v != math.Trunc(v) { // also for a fraction 0/0
		return 1
	}
	return validOrientation(int(max(0, min(v, 9))))
}

// validOrientation returns v if it is an orientation, or else 1.
func validOrientation(v int) int {
	if v < 1 || v > 8 {
		return 1
	}
	return v
}

var (
	exifPrefix = []byte("Exif\x00\x00")
	xmpPrefix  = []byte("http://ns.adobe.com/xap/1.0/\x00")
)

// jpegMetadata reads the APP1 and APP2 segments of a JPEG file. EXIF that does not fit in one
// segment continues in the next one.
func jpegMetadata(data []byte) (m metadata) {
	for at := 2; at+4 <= len(data); {
		if data[at] != 0xff {
			at++
			continue
		}
		marker := data[at+1]
		switch {
		case marker == 0xda || marker == 0xd9:
			return m
		case marker == 0xff || marker == 0:
			at++
			continue
		case marker >= 0xd0 && marker <= 0xd8:
			at += 2
			continue
		}
		end := at + 2 + int(binary.BigEndian.Uint16(data[at+2:]))
		if end = max(end, at+4); end > len(data) {
			return m
		}
		if marker == 0xe1 {
			segment := data[at+4 : end]
			if rest, ok := bytes.CutPrefix(segment, exifPrefix); ok {
				m.exif = append(m.exif, rest...)
			} else if rest, ok := bytes.CutPrefix(segment, xmpPrefix); ok {
				m.xmp = rest
			}
		}
		if rest, ok := bytes.CutPrefix(data[at+4:end], iccPrefix); ok && marker == 0xe2 && m.icc == nil && len(rest) >= 2 {
			m.icc = rest[2:]
		}
		at = end
	}
	return m
}

// maxText limits the size of the compressed text of a PNG image after decompression. Pillow has the
// same limit for each chunk.
const maxText = 1 << 20

// pngKeys lists the keys of texts that may state an orientation.
var pngKeys = []string{"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}

// pngKind matches the name of a PNG chunk that Pillow does not take for damaged.
var pngKind = regexp.MustCompile(`^[0-9A-Za-z_]{4}$`)

// pngMetadata reads the EXIF and text chunks of a PNG file. ImageMagick writes EXIF as hexadecimal
// text under the key "Raw profile type exif".
func pngMetadata(data []byte) (m metadata) {
	var raw, foreign []byte // foreign is XMP that is not valid UTF-8
	inflated := 0
	inflate := func(text []byte) ([]byte, error) {
		if inflated == maxText {
			return nil, errors.New("too much text")
		}
		text, err := inflateText(text, maxText-inflated)
		inflated += len(text)
		return text, err
	}
	frames := uint32(0) // number of frames of an animation
	controlled := false // the image is the first frame of the animation
	pixels := false     // the pixels have begun
	for c := range pngChunks(data) {
		body := c.data
		// Pillow reads no chunk after a damaged name or after the first frame of an animation.
		if !pngKind.MatchString(c.kind) || c.kind == "fcTL" && pixels && (frames > 1 || frames == 1 && !controlled) {
			break
		}
		switch {
		case c.kind == "acTL" && !pixels && len(body) >= 8:
			if n := binary.BigEndian.Uint32(body); frames > 0 || n > 1<<31 { // not valid
				frames = 0
			} else {
				frames = n
			}
		case c.kind == "fcTL" && !pixels:
			controlled = true
		case c.kind == "IDAT":
			pixels = true
		case c.kind == "eXIf":
			m.exif = body
			continue
		}
		key, text, _ := bytes.Cut(body, []byte{0})
		if !slices.Contains(pngKeys, string(key)) {
			continue
		}
		var err error
		switch c.kind {
		default:
			continue
		case "tEXt":
		case "zTXt":
			if len(text) > 0 {
				text, err = inflate(text[1:])
			}
		case "iTXt": // compressed or not, method, language, translated key, text
			if len(text) < 2 {
				continue
			}
			compressed, method := text[0] != 0, text[1]
			parts := bytes.SplitN(text[2:], []byte{0}, 3)
			if len(parts) < 3 || compressed && method != 0 {
				continue
			}
			if text = parts[2]; compressed {
				if text, err = inflate(text); err != nil {
					continue
				}
			}
			if !utf8.Valid(text) || !utf8.Valid(parts[0]) || !utf8.Valid(parts[1]) {
				if string(key) == "XML:com.adobe.xmp" {
					foreign = text
				}
				continue
			}
		}
		if err != nil {
			text = nil // Pillow reads a damaged text as an empty one
		}
		switch string(key) {
		case "exif":
			m.exif = append([]byte{}, text...) // not nil, so that it replaces raw
		case "Raw profile type exif": // an empty line, the name, the size, and lines of digits
			raw = nil
			if lines := bytes.SplitN(text, []byte("\n"), 4); len(lines) == 4 {
				digits := bytes.Join(bytes.Fields(lines[3]), nil)
				if decoded, err := hex.DecodeString(string(digits)); err == nil {
					raw = decoded
				}
			}
		case "XML:com.adobe.xmp":
			m.xmp = text
			if c.kind == "iTXt" {
				foreign = text
			}
		case "xmp": // Pillow uses the same name for XMP that is not valid UTF-8
			foreign = nil
		}
	}
	if m.exif == nil {
		m.exif = raw
	}
	if len(m.xmp) == 0 {
		m.xmp = foreign
	}
	return m
}

// inflateText decompresses the text of a PNG chunk, which may be cut off, to at most limit bytes.
func inflateText(data []byte, limit int) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)))
	if err == io.ErrUnexpectedEOF {
		err = nil
	}
	return text, err
}

// webpMetadata reads the EXIF and XMP chunks of a WebP file, if the flags of the file declare them.
func webpMetadata(data []byte) (m metadata) {
	var flags byte
	for kind, body := range webpChunks(data) {
		switch {
		case kind == "VP8X" && len(body) > 0:
			flags = body[0]
		case kind == "EXIF" && m.exif == nil && flags&8 != 0:
			m.exif = body
		case kind == "XMP " && m.xmp == nil && flags&4 != 0:
			m.xmp = body
		}
	}
	return m
}

// tiffMetadata returns the file itself, whose first directory has the tags of EXIF.
func tiffMetadata(data []byte) metadata {
	m := metadata{exif: data}
	if d, err := readDirectory(data); err == nil {
		m.xmp = d.entries[tagXMP].data
	}
	return m
}

// orient returns a stored image in its upright orientation. The EXIF value is the position of the
// stored row 0 and column 0 in the upright image:
//
//	1  row 0 at the top, column 0 at the left
//	2  row 0 at the top, column 0 at the right
//	3  row 0 at the bottom, column 0 at the right
//	4  row 0 at the bottom, column 0 at the left
//	5  row 0 at the left, column 0 at the top
//	6  row 0 at the right, column 0 at the top
//	7  row 0 at the right, column 0 at the bottom
//	8  row 0 at the left, column 0 at the bottom
func orient(m *RGB, value int) *RGB {
	if value <= 1 || value > 8 {
		return m
	}
	w, h := m.Width, m.Height
	out := &RGB{Width: w, Height: h, Pix: make([]uint8, len(m.Pix))}
	if value >= 5 {
		out.Width, out.Height = h, w
	}
	i := 0
	for y := range h {
		for x := range w {
			var tx, ty int
			switch value {
			case 2:
				tx, ty = w-1-x, y
			case 3:
				tx, ty = w-1-x, h-1-y
			case 4:
				tx, ty = x, h-1-y
			case 5:
				tx, ty = y, x
			case 6:
				tx, ty = h-1-y, x
			case 7:
				tx, ty = h-1-y, w-1-x
			case 8:
				tx, ty = y, w-1-x
			}
			copy(out.Pix[3*(ty*out.Width+tx):][:3], m.Pix[i:i+3])
			i += 3
		}
	}
	return out
}
