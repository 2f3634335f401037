package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"

	"github.com/klauspost/compress/zlib"
)

// pngSignature begins a PNG file.
const pngSignature = "\x89PNG\r\n\x1a\n"

// pngChunk is a chunk of a PNG file.
type pngChunk struct {
	kind  string
	data  []byte // ends early at the end of a truncated file
	whole bool   // the data and the checksum are in the file
	valid bool   // the checksum is right
}

// pngChunks yields the chunks of a PNG file up to the end chunk or the end of the file.
func pngChunks(file []byte) iter.Seq[pngChunk] {
	return func(yield func(pngChunk) bool) {
		for at := len(pngSignature); at+8 <= len(file); {
			size := uint64(binary.BigEndian.Uint32(file[at:]))
			body := file[at+8:]
			c := pngChunk{kind: string(file[at+4 : at+8])}
			if size+4 <= uint64(len(body)) {
				c.data, c.whole = body[:size], true
				c.valid = crc32.ChecksumIEEE(file[at+4:at+8+int(size)]) == binary.BigEndian.Uint32(body[size:])
			} else {
				c.data = body[:min(size, uint64(len(body)))]
			}
			if c.kind == "IEND" || !yield(c) || !c.whole {
				return
			}
			at += 12 + int(size)
		}
	}
}

// pngHeader is the IHDR chunk of a PNG file.
type pngHeader struct {
	width, height int
	depth         int // bits per channel
	colours       int // colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha
	channels      int
	interlaced    bool
}

// pngDepths lists the depths of each colour type, and pngChannels its number of channels.
var (
	pngDepths   = map[int][]int{0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
	pngChannels = map[int]int{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
)

// readPNG reads the chunks of a PNG file. It writes the compressed pixels to data, unless data is
// nil. As Pillow does, it requires right checksums of the chunks before the pixels only, and no end
// chunk.
func readPNG(file []byte, data *bytes.Buffer) (h pngHeader, palette []byte, err error) {
	pixels := false
	for c := range pngChunks(file) {
		if c.kind == "IDAT" {
			if h.channels == 0 {
				return h, nil, errors.New("the chunk IHDR is missing")
			}
			pixels = true
			if data != nil {
				data.Write(c.data)
			}
			continue
		}
		if pixels {
			break
		}
		if !c.whole {
			return h, nil, io.ErrUnexpectedEOF
		}
		if !c.valid {
			return h, nil, fmt.Errorf("the checksum of the chunk %q is wrong", c.kind)
		}
		switch c.kind {
		case "IHDR":
			if h, err = readPNGHeader(c.data); err != nil {
				return h, nil, err
			}
		case "PLTE":
			palette = c.data
		case "fcTL": // the number, width, height and place of the first frame of an animation
			want := binary.BigEndian.AppendUint32(nil, uint32(h.width))
			want = append(binary.BigEndian.AppendUint32(want, uint32(h.height)), make([]byte, 8)...)
			if len(c.data) < 20 || !bytes.Equal(c.data[4:20], want) {
				return h, nil, errors.New("the first frame of the animation is not as large as the image")
			}
		}
	}
	if h.channels == 0 || !pixels {
		return h, nil, io.ErrUnexpectedEOF
	}
	if h.colours == 3 && palette == nil {
		return h, nil, errors.New("the chunk PLTE is missing")
	}
	return h, palette, nil
}

// readPNGHeader reads the data of an IHDR chunk.
func readPNGHeader(b []byte) (h pngHeader, err error) {
	if len(b) < 13 {
		return h, fmt.Errorf("the chunk IHDR has %d bytes, want 13", len(b))
	}
	width, height := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if width > 1<<31-1 || height > 1<<31-1 {
		return h, fmt.Errorf("a size of %d×%d pixels is not allowed", width, height)
	}
	h = pngHeader{width: int(width), height: int(height), depth: int(b[8]), colours: int(b[9]), interlaced: b[12] != 0}
	for _, depth := range pngDepths[h.colours] {
		if h.depth == depth {
			h.channels = pngChannels[h.colours]
		}
	}
	if h.channels == 0 || b[11] != 0 {
		return h, fmt.Errorf("colour type %d with %d bits and filter method %d is not allowed", b[9], b[8], b[11])
	}
	return h, nil
}

// pngSize returns the size of a PNG image.
func pngSize(file []byte) (width, height int, err error) {
	h, _, err := readPNG(file, nil)
	return h.width, h.height, err
}

// pngPasses lists the passes of Adam7 interlacing: the first column and row, and their increments.
var pngPasses = [7][4]int{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}

// decodePNG decodes a PNG file. Alpha is dropped. Further data are ignored. If the compressed data
// end properly after an earlier row, the other pixels are zero.
func decodePNG(file []byte) (*RGB, error) {
	data := bytes.NewBuffer(make([]byte, 0, len(file)))
	h, palette, err := readPNG(file, data)
	if err != nil {
		return nil, err
	}
	z, err := zlib.NewReader(bytes.NewReader(data.Bytes()))
	if err != nil {
		return nil, err
	}
	m := newRGB(h.width, h.height)
	u := newUnpacker(h.depth, h.channels)
	u.setPalette(palette, h.colours == 3)
	// for pixels that the data do not reach
	for i := 0; u.first != [3]uint8{} && i < len(m.Pix); i++ {
		m.Pix[i] = u.first[i%3]
	}
	passes := pngPasses[:]
	if !h.interlaced {
		passes = [][4]int{{0, 0, 1, 1}}
	}
	row, last := make([]byte, 1+h.rowSize(h.width)), make([]byte, 1+h.rowSize(h.width))
	rows := 0
	for _, p := range passes {
		columns := (h.width - p[0] + p[2] - 1) / p[2]
		if columns <= 0 {
			continue
		}
		size := 1 + h.rowSize(columns)
		row, last = row[:size], last[:size]
		clear(last)
		for y := p[1]; y < h.height; y += p[3] {
			if n, err := io.ReadFull(z, row); err == io.EOF && rows > 0 && n == 0 {
				return m, nil
			} else if err != nil {
				return nil, err
			}
			if err := unfilter(row, last, (h.depth*h.channels+7)/8); err != nil {
				return nil, err
			}
			u.unpack(m.Pix[3*(y*h.width+p[0]):], row[1:], columns, p[2])
			row, last = last, row
			rows++
		}
		row, last = row[:cap(row)], last[:cap(last)]
	}
	// One more byte shows whether the data or their checksum are wrong. If there is such a byte,
	// zlib stops before the checksum, because Pillow has no room for the byte.
	if n, err := z.Read(row[:1]); n == 0 && err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	return m, nil
}

// rowSize returns the size of a row of pixels in bytes.
func (h pngHeader) rowSize(columns int) int { return (columns*h.depth*h.channels + 7) / 8 }

// unfilter undoes the filter of a row. The first byte of a row names its filter. last is the row
// above. pixel is the distance to the previous pixel in bytes.
func unfilter(row, last []byte, pixel int) error {
	filter := row[0]
	row, last = row[1:], last[1:]
	switch filter {
	case 0:
	case 1:
		for i := pixel; i < len(row); i++ {
			row[i] += row[i-pixel]
		}
	case 2:
		for i := range row {
			row[i] += last[i]
		}
	case 3:
		for i := range min(pixel, len(row)) {
			row[i] += last[i] / 2
		}
		for i := pixel; i < len(row); i++ {
			row[i] += byte((int(row[i-pixel]) + int(last[i])) / 2)
		}
	case 4:
		for i := range min(pixel, len(row)) {
			row[i] += last[i]
		}
		for i := pixel; i < len(row); i++ {
			row[i] += paeth(int(row[i-pixel]), int(last[i]), int(last[i-pixel]))
		}
	default:
		return fmt.Errorf("filter %d does not exist", filter)
	}
	return nil
}

// paeth returns the one of left, above and corner that is nearest to left + above - corner.
func paeth(left, above, corner int) byte {
	toLeft, toAbove := above-corner, left-corner
	toCorner := toLeft + toAbove
	toLeft, toAbove, toCorner = max(toLeft, -toLeft), max(toAbove, -toAbove), max(toCorner, -toCorner)
	switch {
	case toLeft <= toAbove && toLeft <= toCorner:
		return byte(left)
	case toAbove <= toCorner:
		return byte(above)
	}
	return byte(corner)
}
