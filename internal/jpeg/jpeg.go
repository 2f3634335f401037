// Package jpeg decodes JPEG files to the pixels of libjpeg-turbo, which Pillow uses. Published
// backbones were trained on such pixels.
//
// It differs from the standard package image/jpeg in three ways. The inverse DCT, the upsampling of
// chroma and the conversion of colours round as libjpeg-turbo does. All sampling factors that
// libjpeg-turbo supports are decoded, and arithmetic coding too. A damaged file is read as
// libjpeg-turbo reads it: a wrong or lost restart marker costs the pixels until the next one, and
// the end marker may be missing.
package jpeg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A scan of a few bytes can visit all blocks of an image, so the work of an image is limited. A
// visit of a block costs visitWork units and one unit for each coefficient of the scan; a decision
// of arithmetic coding costs one unit. A unit takes about a nanosecond, or four in arithmetic
// coding. The scans that libjpeg writes by default cost at most 240 units for each block, those of
// mozjpeg at most 350.
const (
	visitWork = 8
	blockWork = 400 // allowed for each block of the image
	byteWork  = 64  // allowed for each byte that has been read

	// SpareWork is allowed for each image in addition; see Options.Spare.
	SpareWork = 1 << 28
)

// maxMemory limits the bytes of coefficients, samples and pixels. Three channels in several scans
// take 12 bytes for each pixel, so the largest image that Pillow reads fits.
const maxMemory = 2 << 30

// Image is a decoded image.
type Image struct {
	// Width and Height are the size in pixels.
	Width, Height int

	// Channels is 1 for grey, 3 for RGB, or 4 for CMYK. The inks of CMYK are as stored in the file;
	// Adobe's programs store them inverted.
	Channels int

	// Pix holds the pixels, [Height, Width, Channels].
	Pix []uint8

	// Read is the number of bytes of the file that the decoder has read.
	Read int
}

// Options configures [Decode]. The zero value decodes a file as Pillow does.
type Options struct {
	// Tables is an abbreviated JPEG stream with tables, such as TIFF stores once for all its
	// strips. It may be nil.
	Tables []byte

	// Colours selects how stored channels become channels of the image.
	Colours Colours

	// Denominator makes the image smaller while it is decoded: 1, 2, 4 or 8. The width and the
	// height are divided by it and rounded up. The pixels are those of Pillow's draft mode. They
	// differ a little from a decoded image that is resized. Default: 1.
	Denominator int

	// Spare holds the units of work that are left for the images of one file, at first SpareWork.
	// Decode subtracts what an image needs beyond its size. Nil stands for SpareWork.
	Spare *int
}

// Colours selects how stored channels become channels of the image.
type Colours int

const (
	// AsMarked converts YCbCr to RGB and YCCK to CMYK if the markers of the file say so.
	AsMarked Colours = iota

	// AsYCbCr takes three channels for YCbCr, whatever the markers say.
	AsYCbCr

	// AsStored converts nothing.
	AsStored
)

// The markers that the decoder knows by name.
const (
	markSOF0 = 0xc0 // baseline
	markSOF2 = 0xc2 // progressive
	markDHT  = 0xc4
	markRST0 = 0xd0
	markSOI  = 0xd8
	markEOI  = 0xd9
	markSOS  = 0xda
	markDQT  = 0xdb
	markDRI  = 0xdd
	markDAC  = 0xcc
	markAPP0 = 0xe0
)

// zigzag maps the position of a coefficient in the file to its position in a block. Damaged data
// may run over the end of a block; the 16 last elements catch such coefficients.
var zigzag = [64 + 16]uint8{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
	63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
}

// block holds the coefficients of 8×8 samples, row by row.
type block [64]int16

// component is one channel of the file.
type component struct {
	id, h, v      int // identifier and sampling factors
	quantIndex    int
	quant         *[64]uint16 // in the order of block; nil until the first scan with the component
	edge          int         // samples along an edge of a block: 1, 2, 4 or 8
	width, height int         // size in samples
	wide, high    int         // size in blocks
	stride        int         // of blocks, and of samples when multiplied by edge; whole MCUs fit
	coefficients  []block     // [rows of whole MCUs, stride]; nil if blocks are not kept
	samples       []uint8     // [edge · rows of whole MCUs, edge · stride]

	// bits holds the lowest bit of each coefficient that a progressive file has sent so far, or -1.
	bits [64]int8

	dcTable, acTable int // of the current scan
	dc               int // the last DC value
	dcContext        int // of arithmetic coding
}

// decoder reads one file.
type decoder struct {
	data   []byte
	pos    int
	marker byte // a marker that has been read, but not processed; 0 if none

	denominator   int // see Options.Denominator
	width, height int // before the division by the denominator
	components    []component
	maxH, maxV    int
	progressive   bool
	arithmetic    bool
	multiple      bool // the image takes more than one scan

	jfif, adobe bool
	// the first three components are YCbCr, as the markers before the first scan say
	luminance      bool
	adobeTransform byte

	quant       [4]*[64]uint16
	huffman     [2][4]*huffmanTable // DC and AC
	dcL, dcU    [16]uint8           // conditioning of arithmetic coding
	acK         [16]uint8
	interval    int // of restarts, in MCUs; 0 for none
	scans       int
	blocks      int          // of all components
	work        int          // units so far
	spare       *int         // units that are left beyond those of the blocks and the bytes
	charged     int          // units that were taken from spare
	scan        []*component // of the current scan
	first, last int          // coefficients of the current scan
	high, low   uint         // bit positions of successive approximation

	restartsLeft int
	nextRestart  byte
	insufficient bool // the data of the current restart interval or scan has ended early
	skip         bool // insufficient at the start of the current MCU
	truncated    bool // the file ends within the data of a scan

	block     block // the current one, if blocks are not kept
	bits      bitReader
	endOfBand int // number of blocks that have no more coefficients in the current scan
	arith     arithmeticDecoder
}

// errTruncated is the error for a file that ends too early.
var errTruncated = io.ErrUnexpectedEOF

// Size returns the size of the image in data, in pixels. It reads the header only.
func Size(data []byte) (width, height int, err error) {
	d := newDecoder(data)
	for d.components == nil {
		m, err := d.readMarker()
		if err != nil {
			return 0, 0, err
		}
		if m == markSOS || m == markEOI {
			return 0, 0, errors.New("the file has no frame header")
		}
	}
	return d.width, d.height, nil
}

// Decode decodes a JPEG file. The caller limits the size of the image with [Size].
func Decode(data []byte, o Options) (*Image, error) {
	d := newDecoder(data)
	switch o.Denominator {
	case 0, 1:
	case 2, 4, 8:
		d.denominator = o.Denominator
	default:
		return nil, fmt.Errorf("the denominator of the size is %d: it must be 1, 2, 4 or 8", o.Denominator)
	}
	if d.spare = o.Spare; d.spare == nil {
		d.spare = new(int)
		*d.spare = SpareWork
	}
	if o.Tables != nil {
		t := newDecoder(o.Tables)
		for {
			m, err := t.readMarker()
			if err != nil {
				return nil, fmt.Errorf("reading the shared tables: %w", err)
			}
			if m == markSOS || t.components != nil {
				return nil, errors.New("the shared tables hold an image")
			}
			if m == markEOI {
				break
			}
		}
		d.quant, d.huffman, d.interval = t.quant, t.huffman, t.interval
	}
	if err := d.readImage(); err != nil {
		return nil, err
	}
	return d.convert(o.Colours)
}

// newDecoder returns a decoder with the default conditioning of arithmetic coding.
func newDecoder(data []byte) *decoder {
	d := &decoder{data: data, denominator: 1}
	for i := range d.acK {
		d.dcU[i], d.acK[i] = 1, 5
	}
	return d
}

// readImage reads the markers and scans of the file.
func (d *decoder) readImage() error {
	for {
		m, err := d.readMarker()
		if err != nil {
			return err
		}
		if m == markEOI {
			if d.scans == 0 {
				return errors.New("the file has no image data")
			}
			return d.finish()
		}
		if m != markSOS {
			continue
		}
		if d.scans++; d.scans == 1 {
			d.multiple = d.progressive || len(d.scan) < len(d.components)
			d.luminance = d.isLuminance()
			if err := d.allocate(); err != nil {
				return err
			}
		}
		if err := d.readScan(); err != nil {
			return err
		}
		if !d.multiple {
			return d.readTail()
		}
	}
}

// readTail reads the markers after the only scan. The file may end without an end marker.
func (d *decoder) readTail() error {
	for {
		m, err := d.readMarker()
		switch {
		case errors.Is(err, errTruncated) || m == markEOI:
			return nil
		case err != nil:
			return err
		case m == markSOS:
			return errors.New("a second scan follows a scan of all components")
		}
	}
}

// spend adds units to the work of the image. It returns an error if the work exceeds what the
// blocks of the image, the bytes read and the spare units allow.
func (d *decoder) spend(units int) error {
	d.work += units
	beyond := d.work - blockWork*d.blocks - byteWork*d.pos - d.charged
	if beyond <= 0 {
		return nil
	}
	if beyond > *d.spare {
		return fmt.Errorf("scan %d needs too much work: the %d bytes so far visit the %d blocks of the image too often; save the image again", d.scans, d.pos, d.blocks)
	}
	*d.spare -= beyond
	d.charged += beyond
	return nil
}

// allocate makes the planes of all components. It is called when the sampling factors are known and
// a scan begins.
func (d *decoder) allocate() error {
	across, down := ceil(d.width, 8*d.maxH), ceil(d.height, 8*d.maxV)
	size := ceil(d.width, d.denominator) * ceil(d.height, d.denominator) * len(d.components)
	for _, c := range d.components {
		n := across * c.h * down * c.v
		d.blocks += n
		size += c.edge * c.edge * n
		if d.multiple {
			size += 128 * n
		}
	}
	if size > maxMemory {
		return fmt.Errorf("%d×%d pixels of %d channels take %d bytes of memory, more than the limit of %d: make the image smaller", d.width, d.height, len(d.components), size, maxMemory)
	}
	for i := range d.components {
		c := &d.components[i]
		c.stride = across * c.h
		n := c.stride * down * c.v
		if d.multiple {
			c.coefficients = make([]block, n)
		}
		c.samples = make([]uint8, c.edge*c.edge*n)
	}
	return nil
}

// finish computes the samples of an image in several scans.
func (d *decoder) finish() error {
	if d.progressive && d.unrefined() {
		return errors.New("the last scans of the progressive image are missing")
	}
	var zero [64]uint16
	for i := range d.components {
		c := &d.components[i]
		quant := c.quant
		if quant == nil {
			quant = &zero
		}
		for j := range c.coefficients {
			c.inverse(&c.coefficients[j], quant, j%c.stride, j/c.stride)
		}
		c.coefficients = nil
	}
	return nil
}

// unrefined reports whether libjpeg-turbo would smooth the blocks of a progressive image, because
// some of the first ten coefficients have not been sent with all their bits.
func (d *decoder) unrefined() bool {
	useful := false
	for i := range d.components {
		c := &d.components[i]
		if c.quant == nil || c.bits[0] < 0 {
			return false
		}
		for _, at := range zigzag[:10] {
			if c.quant[at] == 0 {
				return false
			}
		}
		for _, low := range c.bits[1:10] {
			useful = useful || low != 0
		}
	}
	return useful
}

// readMarker reads the next marker and its segment. It returns the marker. For markSOS, the caller
// reads the data of the scan.
func (d *decoder) readMarker() (byte, error) {
	if d.pos == 0 {
		if len(d.data) < 2 {
			return 0, errTruncated
		}
		if d.data[0] != 0xff || d.data[1] != markSOI {
			return 0, errors.New("the file does not begin with the start marker")
		}
		d.pos = 2
	}
	if d.marker == 0 && !d.nextMarker() {
		return 0, errTruncated
	}
	m := d.marker
	d.marker = 0
	switch {
	case m == markEOI || m == 0x01 || m >= markRST0 && m <= markRST0+7:
		return m, nil
	case m == markSOI:
		return 0, errors.New("a second start marker")
	case m == 0xc3 || m == 0xcb:
		return 0, errors.New("lossless JPEG is not supported: convert the file to PNG")
	case m < markSOF0 || m >= 0xc5 && m <= 0xc8 || m >= 0xcd && m <= 0xcf || m == 0xde || m == 0xdf || m >= 0xf0 && m <= 0xfd:
		return 0, fmt.Errorf("marker 0x%02x is not supported", m)
	}
	if d.pos+2 > len(d.data) {
		return 0, errTruncated
	}
	size := int(binary.BigEndian.Uint16(d.data[d.pos:]))
	if m >= markAPP0 { // a segment that may be skipped
		size = max(size, 2)
	}
	if size < 2 {
		return 0, fmt.Errorf("marker 0x%02x has a length of %d bytes, want 2 or more", m, size)
	}
	if d.pos+size > len(d.data) {
		return 0, errTruncated
	}
	segment := d.data[d.pos+2 : d.pos+size]
	d.pos += size
	ok := true
	switch m {
	case 0xc0, 0xc1, 0xc2, 0xc9, 0xca:
		return m, d.frameHeader(m, segment)
	case markSOS:
		return m, d.scanHeader(segment)
	case markDHT:
		ok = d.huffmanTables(segment)
	case markDQT:
		var missing int
		missing, ok = d.quantTables(segment)
		if d.pos+missing > len(d.data) { // libjpeg reads beyond the segment
			return m, errTruncated
		}
	case markDAC:
		ok = d.conditioning(segment)
	case markDRI:
		if ok = len(segment) == 2; ok {
			d.interval = int(binary.BigEndian.Uint16(segment))
		}
	case markAPP0:
		d.jfif = d.jfif || len(segment) >= 14 && string(segment[:5]) == "JFIF\x00"
	case markAPP0 + 14:
		if len(segment) >= 12 && string(segment[:5]) == "Adobe" {
			d.adobe, d.adobeTransform = true, segment[11]
		}
	}
	if !ok {
		return m, fmt.Errorf("the segment of marker 0x%02x is damaged", m)
	}
	return m, nil
}

// nextMarker skips bytes up to the next marker and stores it. It returns false at the end of the
// file.
func (d *decoder) nextMarker() bool {
	for ; d.pos+1 < len(d.data); d.pos++ {
		if m := d.data[d.pos+1]; d.data[d.pos] == 0xff && m != 0 && m != 0xff {
			d.marker = m
			d.pos += 2
			return true
		}
	}
	return false
}

// frameHeader reads the segment of a SOF marker.
func (d *decoder) frameHeader(m byte, s []byte) error {
	if d.components != nil {
		return errors.New("a second frame header")
	}
	if len(s) < 6 || len(s) != 6+3*int(s[5]) {
		return errors.New("the frame header is damaged")
	}
	if s[0] != 8 {
		return fmt.Errorf("channels of %d bits are not supported, only 8", s[0])
	}
	d.height, d.width = int(binary.BigEndian.Uint16(s[1:])), int(binary.BigEndian.Uint16(s[3:]))
	if d.width == 0 || d.height == 0 || d.width > 65500 || d.height > 65500 {
		return fmt.Errorf("a size of %d×%d pixels is not supported, only 1 to 65500 each", d.width, d.height)
	}
	n := int(s[5])
	if n != 1 && n != 3 && n != 4 {
		return fmt.Errorf("%d channels are not supported, only 1, 3 or 4", n)
	}
	d.progressive = m == markSOF2 || m == 0xca
	d.arithmetic = m >= 0xc9
	components := make([]component, n)
	for i := range components {
		c := &components[i]
		f := s[6+3*i:]
		c.id, c.h, c.v, c.quantIndex = int(f[0]), int(f[1]>>4), int(f[1]&15), int(f[2])
		for k := range c.bits {
			c.bits[k] = -1
		}
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 {
			return fmt.Errorf("sampling factors %d×%d are not supported, only 1 to 4", c.h, c.v)
		}
		d.maxH, d.maxV = max(d.maxH, c.h), max(d.maxV, c.v)
	}
	for i := range components {
		c := &components[i]
		c.edge = d.edge(c)
		c.width, c.height = ceil(d.width*c.h*c.edge, 8*d.maxH), ceil(d.height*c.v*c.edge, 8*d.maxV)
		c.wide, c.high = ceil(d.width*c.h, 8*d.maxH), ceil(d.height*c.v, 8*d.maxV)
		if d.maxH%c.h != 0 || d.maxV%c.v != 0 {
			return fmt.Errorf("sampling factors %d×%d beside %d×%d are not supported, only whole ratios", c.h, c.v, d.maxH, d.maxV)
		}
	}
	d.components = components
	return nil
}

// edge returns the number of samples along an edge of a block of a component. Of a component with
// fewer samples than others, the transform keeps more where that saves the upsampling.
func (d *decoder) edge(c *component) int {
	least := 8 / d.denominator
	edge := least
	for edge < 8 && d.maxH*least%(2*edge*c.h) == 0 && d.maxV*least%(2*edge*c.v) == 0 {
		edge *= 2
	}
	return edge
}

// scanHeader reads the segment of an SOS marker.
func (d *decoder) scanHeader(s []byte) error {
	if d.components == nil {
		return errors.New("a scan precedes the frame header")
	}
	if len(s) < 1 || s[0] < 1 || s[0] > 4 || len(s) != 4+2*int(s[0]) {
		return errors.New("the scan header is damaged")
	}
	n := int(s[0])
	d.scan = d.scan[:0]
	for i := range n {
		id, tables := int(s[1+2*i]), s[2+2*i]
		var c *component
		for j := i; j < len(d.components); j++ { // a scan keeps the order of the frame header
			if d.components[j].id == id {
				c = &d.components[j]
				break
			}
		}
		if c == nil {
			return fmt.Errorf("a scan names component %d, which the frame header does not have in this order", id)
		}
		for _, other := range d.scan {
			if other == c {
				return fmt.Errorf("a scan names component %d twice", id)
			}
		}
		c.dcTable, c.acTable = int(tables>>4), int(tables&15)
		d.scan = append(d.scan, c)
	}
	s = s[1+2*n:]
	d.first, d.last, d.high, d.low = int(s[0]), int(s[1]), uint(s[2]>>4), uint(s[2]&15)
	if !d.progressive {
		d.first, d.last, d.high, d.low = 0, 63, 0, 0
		return nil
	}
	dc := d.first == 0
	if dc && d.last != 0 || d.first > d.last || d.last > 63 || !dc && n != 1 || d.high != 0 && d.low != d.high-1 || d.low > 13 {
		return fmt.Errorf("a scan of coefficients %d to %d with bits %d to %d is not allowed in a progressive image", d.first, d.last, d.high, d.low)
	}
	for _, c := range d.scan {
		for k := d.first; k <= d.last; k++ {
			c.bits[k] = int8(d.low)
		}
	}
	return nil
}

// quantTables reads the segment of a DQT marker. If the segment ends within a table, quantTables
// returns the number of missing bytes.
func (d *decoder) quantTables(s []byte) (missing int, ok bool) {
	for len(s) > 0 {
		index, wide := s[0]&15, int(s[0]>>4)
		size := 64
		if wide != 0 {
			size = 128
		}
		if s = s[1:]; index > 3 {
			return 0, false
		}
		if len(s) < size {
			return size - len(s), false
		}
		t := new([64]uint16)
		for k := range t {
			if wide != 0 {
				t[zigzag[k]] = binary.BigEndian.Uint16(s[2*k:])
			} else {
				t[zigzag[k]] = uint16(s[k])
			}
		}
		d.quant[index] = t
		s = s[size:]
	}
	return 0, true
}

// conditioning reads the segment of a DAC marker.
func (d *decoder) conditioning(s []byte) bool {
	for ; len(s) >= 2; s = s[2:] {
		switch index, value := s[0], s[1]; {
		case index < 16:
			if d.dcL[index], d.dcU[index] = value&15, value>>4; value&15 > value>>4 {
				return false
			}
		case index < 32:
			d.acK[index-16] = value
		default:
			return false
		}
	}
	return len(s) == 0
}

// readScan reads the entropy-coded data of one scan.
func (d *decoder) readScan() error {
	for _, c := range d.scan {
		if c.quant != nil {
			continue
		}
		if c.quantIndex > 3 || d.quant[c.quantIndex] == nil {
			return fmt.Errorf("quantisation table %d is missing", c.quantIndex)
		}
		c.quant = d.quant[c.quantIndex]
	}
	decode, err := d.scanDecoder()
	if err != nil {
		return err
	}
	d.nextRestart = 0
	d.resetEntropy()
	visit := visitWork + d.last - d.first + 1
	if len(d.scan) == 1 {
		c := d.scan[0]
		if err := d.spend(c.high * c.wide * visit); err != nil {
			return err
		}
		return d.eachMCU(c.high, c.wide, func(y, x int) { d.decodeBlock(decode, c, x, y) })
	}
	blocks := 0
	for _, c := range d.scan {
		blocks += c.h * c.v
	}
	if blocks > 10 {
		return fmt.Errorf("%d blocks are interleaved, want 10 or fewer", blocks)
	}
	rows, columns := ceil(d.height, 8*d.maxV), ceil(d.width, 8*d.maxH)
	if err := d.spend(rows * columns * blocks * visit); err != nil {
		return err
	}
	return d.eachMCU(rows, columns, func(y, x int) {
		for _, c := range d.scan {
			for v := range c.v {
				for h := range c.h {
					d.decodeBlock(decode, c, x*c.h+h, y*c.v+v)
				}
			}
		}
	})
}

// eachMCU calls decode for all MCUs of a scan and processes the restart markers between them.
func (d *decoder) eachMCU(rows, columns int, decode func(y, x int)) error {
	for y := range rows {
		for x := range columns {
			if d.interval > 0 {
				if d.restartsLeft == 0 {
					if err := d.restart(); err != nil {
						return err
					}
				}
				d.restartsLeft--
			}
			d.skip = d.insufficient
			decode(y, x)
			if d.truncated {
				return errTruncated
			}
			if d.arithmetic {
				if err := d.spend(d.arith.decisions); err != nil {
					return err
				}
				d.arith.decisions = 0
			}
		}
	}
	return nil
}

// decodeBlock decodes one block of a scan. If blocks are not kept, decodeBlock computes its
// samples.
func (d *decoder) decodeBlock(decode func(*component, *block), c *component, x, y int) {
	if c.coefficients != nil {
		decode(c, &c.coefficients[y*c.stride+x])
		return
	}
	d.block = block{}
	decode(c, &d.block)
	c.inverse(&d.block, c.quant, x, y)
}

// restart reads a restart marker and resets the entropy decoder. If another marker is found,
// restart continues as libjpeg does: it skips markers that are too old, and it leaves markers in
// place that come too early. In the latter case, no data is decoded until their turn.
func (d *decoder) restart() error {
	if d.marker == 0 && !d.nextMarker() {
		return errTruncated
	}
	want := d.nextRestart
	d.nextRestart = (want + 1) & 7
search:
	for {
		switch m := d.marker; {
		case m < markSOF0:
			if !d.nextMarker() {
				return errTruncated
			}
		case m < markRST0 || m > markRST0+7:
			break search
		default:
			switch (m - markRST0 - want) & 7 {
			case 1, 2:
				break search
			case 6, 7:
				if !d.nextMarker() {
					return errTruncated
				}
			default:
				d.marker = 0
				break search
			}
		}
	}
	d.resetEntropy()
	return nil
}

// resetEntropy prepares the entropy decoder for a scan or a restart interval.
func (d *decoder) resetEntropy() {
	d.restartsLeft = d.interval
	d.insufficient = d.marker != 0 && d.insufficient
	d.bits, d.endOfBand = bitReader{}, 0
	for _, c := range d.scan {
		c.dc, c.dcContext = 0, 0
	}
	d.arith.reset(d)
}

// ceil returns a ÷ b, rounded up.
func ceil(a, b int) int { return (a + b - 1) / b }
