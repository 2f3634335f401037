package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/image/ccitt"
	"golang.org/x/image/tiff/lzw"

	"github.com/sptune/spt/internal/jpeg"
)

// The compressions of TIFF that this package reads.
const (
	tiffRaw        = 1
	tiffGroup3     = 3
	tiffGroup4     = 4
	tiffLZW        = 5
	tiffJPEG       = 7
	tiffDeflate    = 8
	tiffPackBits   = 32773
	tiffOldDeflate = 32946
	tiffZstd       = 50000
)

// The photometric interpretations of TIFF that this package reads.
const (
	tiffWhiteIsZero = 0
	tiffBlackIsZero = 1
	tiffRGB         = 2
	tiffPalette     = 3
	tiffCMYK        = 5
	tiffYCbCr       = 6
)

// maxTIFFWindow limits the memory of the Zstandard decoder in bytes, as libtiff does.
const maxTIFFWindow = 1 << 27

// tiffImage is the first image of a TIFF file.
type tiffImage struct {
	*directory
	file          []byte
	width, height int
	bits          int // per sample
	samples       int // stored per pixel
	photometric   int
	extra         []int // kinds of the samples after the colours: 1 is premultiplied alpha
	compression   int
	predictor     int
	reversed      bool // the lowest bit of a byte comes first
	planar        bool // each sample has its own segments
	tables        []byte

	segmentWidth, segmentHeight int // of strips or tiles
	offsets, counts             []int
	unpacker                    *unpacker
}

// tiffSize returns the size of a TIFF image.
func tiffSize(file []byte) (width, height int, err error) {
	t, err := readTIFF(file)
	if err != nil {
		return 0, 0, err
	}
	return t.width, t.height, nil
}

// readTIFF reads the first directory of a TIFF or BigTIFF file. It supports the forms that Pillow
// supports and that have a meaning in 8-bit RGB.
func readTIFF(file []byte) (*tiffImage, error) {
	raw := &foreignError{name: "raw data of a camera (such as DNG, NEF, ARW or CR2)"}
	if matches(file, "????????CR") {
		return nil, raw
	}
	d, err := readDirectory(file)
	if err != nil {
		return nil, err
	}
	if d.has(tagDNGVersion) || d.number(tagSubfileType, 0)&1 != 0 && d.has(tagSubIFDs) {
		return nil, raw
	}
	t := &tiffImage{directory: d, file: file}
	t.width, t.height = d.number(tagWidth, 0), d.number(tagHeight, 0)
	if t.width <= 0 || t.height <= 0 {
		return nil, fmt.Errorf("the size is %d×%d pixels: width and height must be 1 or more", t.width, t.height)
	}
	t.compression = d.number(tagCompression, tiffRaw)
	if v := d.numbers(tagPhotometric); len(v) == 1 { // Pillow ignores several values
		t.photometric = v[0]
	}
	t.predictor = d.number(tagPredictor, 1)
	t.planar = d.number(tagPlanar, 1) == 2
	t.tables = d.entries[tagJPEGTables].data
	t.extra = d.numbers(tagExtraSamples)
	t.samples = d.number(tagSamplesPerPixel, 1)
	t.bits = d.number(tagBits, 1)
	for i, b := range d.numbers(tagBits) {
		if b != t.bits && i < t.samples {
			return nil, fmt.Errorf("samples of %d and %d bits are not supported, only of one size", t.bits, b)
		}
	}
	for _, f := range d.numbers(tagSampleFormat) {
		if f != 1 && !(f == 2 && t.bits == 8 && t.samples == 1) {
			return nil, fmt.Errorf("sample format %d with %d bits is not supported, only unsigned integers", f, t.bits)
		}
	}
	switch order := d.number(tagFillOrder, 1); order {
	case 1:
	case 2:
		t.reversed = true
	default:
		return nil, fmt.Errorf("fill order %d does not exist", order)
	}
	if err := t.findSegments(); err != nil {
		return nil, err
	}
	return t, t.findColours()
}

// findSegments reads the places of the strips or tiles.
func (t *tiffImage) findSegments() error {
	countTag := uint16(tagStripCounts)
	if t.has(tagStripOffsets) {
		t.offsets = t.numbers(tagStripOffsets)
		t.segmentWidth = t.width
		t.segmentHeight = t.number(tagRowsPerStrip, t.height)
		if t.segmentHeight <= 0 || t.segmentHeight > t.height { // 2³² - 1 means one strip
			t.segmentHeight = t.height
		}
	} else {
		t.offsets, countTag = t.numbers(tagTileOffsets), tagTileCounts
		t.segmentWidth, t.segmentHeight = t.number(tagTileWidth, 0), t.number(tagTileHeight, 0)
		if t.segmentWidth <= 0 || t.segmentHeight <= 0 || t.segmentWidth > maxPixels/t.segmentHeight {
			return fmt.Errorf("tiles of %d×%d pixels are not supported", t.segmentWidth, t.segmentHeight)
		}
	}
	t.counts = t.numbers(countTag)
	need := ((t.width + t.segmentWidth - 1) / t.segmentWidth) * ((t.height + t.segmentHeight - 1) / t.segmentHeight)
	if need == 1 && t.compression == tiffRaw && len(t.offsets) > 1 && !t.planar {
		t.offsets = t.offsets[len(t.offsets)-1:] // Pillow takes the last one
	}
	if t.planar {
		need *= t.samples
	}
	if len(t.offsets) < need {
		return fmt.Errorf("the file has %d strips or tiles, want %d", len(t.offsets), need)
	}
	return nil
}

// findColours checks that the meaning of the samples is supported, and makes the unpacker.
func (t *tiffImage) findColours() error {
	colours := 1
	switch t.photometric {
	case tiffRGB, tiffYCbCr:
		colours = 3
	case tiffCMYK:
		colours = 4
	case tiffWhiteIsZero, tiffBlackIsZero, tiffPalette:
	default:
		return fmt.Errorf("photometric interpretation %d is not supported, only grey, RGB, palette, CMYK, and YCbCr in JPEG compression", t.photometric)
	}
	if t.photometric == tiffYCbCr && (t.compression != tiffJPEG || t.planar) {
		return fmt.Errorf("YCbCr in compression %d is not supported, only JPEG", t.compression)
	}
	supported := t.bits == 8 || t.bits == 16 && t.photometric != tiffPalette || colours == 1 && t.samples == 1 && (t.bits == 1 || t.bits == 2 || t.bits == 4)
	if !supported || t.samples < colours || t.samples > 6 {
		return fmt.Errorf("%d samples of %d bits with photometric interpretation %d are not supported", t.samples, t.bits, t.photometric)
	}
	alpha := len(t.extra) > 0 && t.extra[0] == 1
	if alpha && colours != 3 {
		return errors.New("premultiplied alpha is supported for RGB only")
	}
	u := newUnpacker(t.bits, t.samples)
	u.colours = colours
	u.premultiplied = alpha && t.samples > 3
	switch t.photometric {
	case tiffWhiteIsZero:
		u.invert()
	case tiffPalette:
		table := t.numbers(tagColorMap)
		n := 1 << t.bits
		if len(table) < 3*n {
			return fmt.Errorf("the colour map has %d values, want %d", len(table), 3*n)
		}
		palette := make([]byte, 3*n)
		for i := range palette {
			palette[i] = uint8(table[i%3*n+i/3] >> 8)
		}
		u.setPalette(palette, true)
	}
	t.unpacker = u
	return nil
}

// decodeTIFF decodes the first image of a TIFF file.
func decodeTIFF(file []byte) (*RGB, error) {
	t, err := readTIFF(file)
	if err != nil {
		return nil, err
	}
	m := newRGB(t.width, t.height)
	across := (t.width + t.segmentWidth - 1) / t.segmentWidth
	down := (t.height + t.segmentHeight - 1) / t.segmentHeight
	for i := range across * down {
		x, y := i%across*t.segmentWidth, i/across*t.segmentHeight
		rows := t.segmentHeight
		if t.segmentWidth == t.width { // the last strip may be shorter
			rows = min(rows, t.height-y)
		}
		data, err := t.segment(i, across*down, rows)
		if err != nil {
			return nil, err
		}
		stride := t.rowSize(t.samples)
		columns := min(t.segmentWidth, t.width-x)
		for r := range min(rows, t.height-y) {
			t.unpacker.unpack(m.Pix[3*((y+r)*t.width+x):], data[r*stride:], columns, 1)
		}
	}
	return m, nil
}

// rowSize returns the size of a row of a segment in bytes.
func (t *tiffImage) rowSize(samples int) int { return (t.segmentWidth*samples*t.bits + 7) / 8 }

// segment returns the samples of strip or tile i of n, 16-bit ones in big-endian order. If each
// sample has its own segments, segment joins them.
func (t *tiffImage) segment(i, n, rows int) ([]byte, error) {
	if !t.planar || t.samples == 1 {
		return t.decodeSegment(i, rows, t.samples)
	}
	size := t.bits / 8
	out := make([]byte, rows*t.rowSize(t.samples))
	for s := range t.samples {
		plane, err := t.decodeSegment(s*n+i, rows, 1)
		if err != nil {
			return nil, err
		}
		for p := range rows * t.segmentWidth {
			copy(out[(p*t.samples+s)*size:][:size], plane[p*size:])
		}
	}
	return out, nil
}

// decodeSegment decompresses a strip or tile of rows with a number of samples per pixel.
func (t *tiffImage) decodeSegment(i, rows, samples int) ([]byte, error) {
	size := rows * t.rowSize(samples)
	at := t.offsets[i]
	if at < 0 || at > len(t.file) {
		return nil, io.ErrUnexpectedEOF
	}
	data := t.file[at:]
	if t.compression == tiffRaw {
		if len(data) < size {
			return nil, io.ErrUnexpectedEOF
		}
		data = data[:size]
	} else if i < len(t.counts) && t.counts[i] > 0 && t.counts[i] < len(data) {
		data = data[:t.counts[i]]
	}
	if t.reversed && t.compression != tiffJPEG {
		data = bytes.Clone(data)
		for j, b := range data {
			data[j] = bits.Reverse8(b)
		}
	}
	var r io.Reader
	switch t.compression {
	case tiffRaw:
		r = bytes.NewReader(data)
	case tiffGroup3, tiffGroup4:
		if t.bits != 1 || samples != 1 {
			return nil, fmt.Errorf("fax compression of %d samples of %d bits is not supported, only of one bit", samples, t.bits)
		}
		format := ccitt.Group3
		if t.compression == tiffGroup4 {
			format = ccitt.Group4
		}
		// libtiff reads white as 0, whatever the photometric interpretation says.
		r = ccitt.NewReader(bytes.NewReader(data), ccitt.MSB, format, t.segmentWidth, rows, &ccitt.Options{Invert: true})
	case tiffLZW:
		r = lzw.NewReader(bytes.NewReader(data), lzw.MSB, 8)
	case tiffDeflate, tiffOldDeflate:
		z, err := zlib.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		r = z
	case tiffZstd:
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxTIFFWindow))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	case tiffPackBits:
		r = &packBits{data: data}
	case tiffJPEG:
		return t.decodeJPEGSegment(data, rows, samples)
	default:
		return nil, fmt.Errorf("compression %d is not supported, only none, fax, LZW, JPEG, deflate, PackBits and Zstandard", t.compression)
	}
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	if t.compression == tiffDeflate || t.compression == tiffOldDeflate {
		// One more byte shows whether the data or their checksum are wrong.
		if _, err := r.Read(make([]byte, 1)); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, err
		}
	}
	return out, t.undoPredictor(out, samples)
}

// decodeJPEGSegment decodes a strip or tile that is a JPEG stream, whose tables may be stored
// apart.
func (t *tiffImage) decodeJPEGSegment(data []byte, rows, samples int) ([]byte, error) {
	width, height, err := jpeg.Size(data)
	if err != nil {
		return nil, err
	}
	if t.bits != 8 || width != t.segmentWidth || height < rows || height > t.segmentHeight {
		return nil, fmt.Errorf("a JPEG stream of %d×%d pixels does not fit a strip or tile of %d×%d pixels of %d bits", width, height, t.segmentWidth, rows, t.bits)
	}
	o := jpeg.Options{Tables: t.tables, Colours: jpeg.AsStored}
	if t.photometric == tiffYCbCr {
		o.Colours = jpeg.AsYCbCr
	}
	m, err := jpeg.Decode(data, o)
	if err != nil {
		return nil, err
	}
	if m.Channels != samples {
		return nil, fmt.Errorf("a JPEG stream has %d channels, want %d", m.Channels, samples)
	}
	return m.Pix, nil
}

// undoPredictor adds up samples that are stored as differences, and brings 16-bit samples into
// big-endian order.
func (t *tiffImage) undoPredictor(data []byte, samples int) error {
	predicted := false
	switch t.compression {
	case tiffLZW, tiffDeflate, tiffOldDeflate, tiffZstd:
		predicted = t.predictor != 1
	}
	if predicted && (t.predictor != 2 || t.bits < 8) {
		return fmt.Errorf("predictor %d for samples of %d bits is not supported", t.predictor, t.bits)
	}
	if t.bits == 16 && t.order == binary.LittleEndian {
		for i := 0; i+1 < len(data); i += 2 {
			data[i], data[i+1] = data[i+1], data[i]
		}
	}
	if !predicted {
		return nil
	}
	stride := t.rowSize(samples)
	for ; len(data) >= stride; data = data[stride:] {
		row := data[:stride]
		if t.bits == 8 {
			for i := samples; i < stride; i++ {
				row[i] += row[i-samples]
			}
			continue
		}
		for i := 2 * samples; i+1 < stride; i += 2 {
			sum := binary.BigEndian.Uint16(row[i:]) + binary.BigEndian.Uint16(row[i-2*samples:])
			binary.BigEndian.PutUint16(row[i:], sum)
		}
	}
	return nil
}

// packBits is a reader that decompresses PackBits.
type packBits struct {
	data    []byte
	literal int // bytes to copy
	repeat  int // bytes to repeat
}

func (p *packBits) Read(dst []byte) (n int, err error) {
	for n < len(dst) {
		switch {
		case len(p.data) == 0:
			if n > 0 {
				return n, nil
			}
			return 0, io.EOF
		case p.literal > 0:
			k := copy(dst[n:], p.data[:min(p.literal, len(p.data))])
			p.data = p.data[k:]
			p.literal -= k
			n += k
		case p.repeat > 0:
			dst[n] = p.data[0]
			n++
			if p.repeat--; p.repeat == 0 {
				p.data = p.data[1:]
			}
		default:
			switch c := int8(p.data[0]); {
			case c >= 0:
				p.literal = int(c) + 1
			case c != -128:
				p.repeat = 1 - int(c)
			}
			p.data = p.data[1:]
		}
	}
	return n, nil
}
