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
	extra         int // kind of the first sample after the colours: 1 is premultiplied alpha
	compression   int
	predictor     int
	reversed      bool // the lowest bit of a byte comes first
	planar        bool // each sample has its own segments
	tables        []byte

	segmentWidth, segmentHeight int // of strips or tiles
	offsets, counts             numbers
	skipped                     int // number of offsets before the first one that counts
	unpacker                    *unpacker

	planes []tiffPlane // one, or one for each sample
	input  int         // number of compressed bytes that have been read
	spare  int         // see jpeg.Options
}

// tiffPlane is one sample of the pixels, or all of them, with decoders that are used for all
// segments.
type tiffPlane struct {
	data *bytes.Reader // of the current segment
	zlib io.ReadCloser
	zstd *zstd.Decoder
	row  []byte
}

// maxTIFFInput limits the compressed bytes that are read, because many strips or tiles can have the
// same place in the file. Some programs write equal tiles once.
func maxTIFFInput(file int) int { return 16<<20 + 4*file }

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
	if v := d.numbers(tagPhotometric); v.size == 1 { // Pillow ignores several values
		t.photometric = v.at(0)
	}
	t.predictor = d.number(tagPredictor, 1)
	t.planar = d.number(tagPlanar, 1) == 2
	t.tables = d.entries[tagJPEGTables].data
	t.extra = d.number(tagExtraSamples, 0)
	t.samples = d.number(tagSamplesPerPixel, 1)
	t.bits = d.number(tagBits, 1)
	all := d.numbers(tagBits)
	for i := range min(all.size, t.samples) {
		if b := all.at(i); b != t.bits {
			return nil, fmt.Errorf("samples of %d and %d bits are not supported, only of one size", t.bits, b)
		}
	}
	all = d.numbers(tagSampleFormat)
	for i := range all.size {
		if f := all.at(i); f != 1 && !(f == 2 && t.bits == 8 && t.samples == 1) {
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
	if err := t.findColours(); err != nil {
		return nil, err
	}
	return t, t.checkPlanes()
}

// checkPlanes returns an error for an image in planes from which Pillow reads other pixels than the
// file holds. Pillow ignores the depth, the fill order and the inversion of uncompressed planes,
// and does not know which of the compressed planes is alpha if the tag ExtraSamples is missing.
func (t *tiffImage) checkPlanes() error {
	grey := t.bits == 1 && t.photometric == tiffBlackIsZero
	switch {
	case !t.planar:
	case t.compression == tiffRaw && (t.reversed || t.photometric == tiffWhiteIsZero || t.bits != 8 && !grey):
		return errors.New("uncompressed planes are supported only for 8 bits in the usual order where 0 is black: save the image with compression, or without planes")
	case t.compression != tiffRaw && t.samples > t.unpacker.colours && !t.has(tagExtraSamples):
		return errors.New("the tag ExtraSamples, which states the meaning of a plane, is missing: save the image again")
	}
	return nil
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
		if t.segmentWidth <= 0 || t.segmentHeight <= 0 {
			return fmt.Errorf("tiles of %d×%d pixels are not supported", t.segmentWidth, t.segmentHeight)
		}
	}
	t.counts = t.numbers(countTag)
	across, down := t.grid()
	if width, height := across*t.segmentWidth, down*t.segmentHeight; width > maxEdge || height > maxEdge || width*height > 2*maxPixels {
		return fmt.Errorf("tiles of %d×%d pixels are not supported for an image of %d×%d, because together they have %d×%d pixels", t.segmentWidth, t.segmentHeight, t.width, t.height, width, height)
	}
	need := across * down
	if need == 1 && t.compression == tiffRaw && t.offsets.size > 1 && !t.planar {
		t.skipped = t.offsets.size - 1 // Pillow takes the last one
	}
	if t.planar {
		need *= t.samples
	}
	if t.offsets.size-t.skipped < need {
		return fmt.Errorf("the file has %d strips or tiles, want %d", t.offsets.size-t.skipped, need)
	}
	return nil
}

// grid returns the number of strips or tiles across and down the image.
func (t *tiffImage) grid() (across, down int) {
	return (t.width + t.segmentWidth - 1) / t.segmentWidth, (t.height + t.segmentHeight - 1) / t.segmentHeight
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
	alpha := t.extra == 1
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
		if table.size < 3*n {
			return fmt.Errorf("the colour map has %d values, want %d", table.size, 3*n)
		}
		palette := make([]byte, 3*n)
		for i := range palette {
			palette[i] = uint8(table.at(i%3*n+i/3) >> 8)
		}
		u.setPalette(palette, true)
	}
	t.unpacker = u
	return nil
}

// decodeTIFF decodes the first image of a TIFF file row by row, so that it needs little memory
// beside the result.
func decodeTIFF(file []byte) (*RGB, error) {
	t, err := readTIFF(file)
	if err != nil {
		return nil, err
	}
	m := newRGB(t.width, t.height)
	planes, samples := 1, t.samples // samples per plane
	if t.planar {
		planes, samples = t.samples, 1
	}
	t.planes, t.spare = make([]tiffPlane, planes), jpeg.SpareWork
	defer func() {
		for _, p := range t.planes {
			if p.zstd != nil {
				p.zstd.Close()
			}
		}
	}()
	across, down := t.grid()
	joined := make([]byte, t.rowSize(t.samples))
	for i := range across * down {
		x, y := i%across*t.segmentWidth, i/across*t.segmentHeight
		rows := t.segmentHeight
		if t.segmentWidth == t.width { // the last strip may be shorter
			rows = min(rows, t.height-y)
		}
		readers := make([]io.Reader, planes)
		for s := range readers {
			if readers[s], err = t.segment(&t.planes[s], s*across*down+i, rows, samples); err != nil {
				return nil, err
			}
		}
		for r := range rows {
			for s, from := range readers {
				row := t.planes[s].row
				if _, err := io.ReadFull(from, row); err != nil {
					return nil, err
				}
				if err := t.undoPredictor(row, samples); err != nil {
					return nil, err
				}
				if planes == 1 {
					joined = row
					break
				}
				size := t.bits / 8
				for p := range t.segmentWidth {
					copy(joined[(p*planes+s)*size:][:size], row[p*size:])
				}
			}
			if y+r < t.height {
				t.unpacker.unpack(m.Pix[3*((y+r)*t.width+x):], joined, min(t.segmentWidth, t.width-x), 1)
			}
		}
		for s := range readers {
			if err := t.finish(&t.planes[s]); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// rowSize returns the size of a row of a segment in bytes.
func (t *tiffImage) rowSize(samples int) int { return (t.segmentWidth*samples*t.bits + 7) / 8 }

// segment returns a reader of the samples of strip or tile i, which has a number of rows, and of
// samples per pixel.
func (t *tiffImage) segment(p *tiffPlane, i, rows, samples int) (io.Reader, error) {
	if p.row == nil {
		p.row = make([]byte, t.rowSize(samples))
	}
	at := t.offsets.at(t.skipped + i)
	if at < 0 || at > len(t.file) {
		return nil, io.ErrUnexpectedEOF
	}
	data := t.file[at:]
	if t.compression == tiffRaw {
		data = data[:min(rows*len(p.row), len(data))]
	} else if i < t.counts.size && t.counts.at(i) > 0 && t.counts.at(i) < len(data) {
		data = data[:t.counts.at(i)]
	}
	if t.compression == tiffJPEG {
		p.data = bytes.NewReader(nil)
		return t.jpegSegment(data, rows, samples)
	}
	if t.reversed {
		data = bytes.Clone(data)
		for j, b := range data {
			data[j] = bits.Reverse8(b)
		}
		if err := t.spend(len(data)); err != nil {
			return nil, err
		}
	}
	p.data = bytes.NewReader(data)
	switch t.compression {
	case tiffRaw:
		return p.data, nil
	case tiffGroup3, tiffGroup4:
		if t.bits != 1 || samples != 1 {
			return nil, fmt.Errorf("fax compression of %d samples of %d bits is not supported, only of one bit", samples, t.bits)
		}
		format := ccitt.Group3
		if t.compression == tiffGroup4 {
			format = ccitt.Group4
		}
		// libtiff reads white as 0, whatever the photometric interpretation says.
		return ccitt.NewReader(p.data, ccitt.MSB, format, t.segmentWidth, rows, &ccitt.Options{Invert: true}), nil
	case tiffLZW:
		return lzw.NewReader(p.data, lzw.MSB, 8), nil
	case tiffDeflate, tiffOldDeflate:
		if p.zlib != nil {
			return p.zlib, p.zlib.(zlib.Resetter).Reset(p.data, nil)
		}
		var err error
		p.zlib, err = zlib.NewReader(p.data)
		return p.zlib, err
	case tiffZstd:
		if p.zstd != nil {
			return p.zstd, p.zstd.Reset(p.data)
		}
		var err error
		p.zstd, err = zstd.NewReader(p.data, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxTIFFWindow), zstd.WithDecoderLowmem(true))
		return p.zstd, err
	case tiffPackBits:
		return &packBits{data: p.data}, nil
	}
	return nil, fmt.Errorf("compression %d is not supported, only none, fax, LZW, JPEG, deflate, PackBits and Zstandard", t.compression)
}

// finish checks the end of a segment whose rows have been read.
func (t *tiffImage) finish(p *tiffPlane) error {
	if t.compression == tiffDeflate || t.compression == tiffOldDeflate {
		// One more byte shows whether the data or their checksum are wrong.
		if _, err := p.zlib.Read(make([]byte, 1)); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
	}
	if t.compression == tiffRaw {
		return nil // the pixels limit the data
	}
	return t.spend(int(p.data.Size()) - p.data.Len())
}

// spend adds bytes to the input. It returns an error if there are too many.
func (t *tiffImage) spend(bytes int) error {
	if t.input += bytes; t.input > maxTIFFInput(len(t.file)) {
		return fmt.Errorf("the strips or tiles have %d bytes, but the file has only %d: they overlap; save the image again", t.input, len(t.file))
	}
	return nil
}

// jpegSegment returns a reader of a strip or tile that is a JPEG stream, whose tables may be stored
// apart.
func (t *tiffImage) jpegSegment(data []byte, rows, samples int) (io.Reader, error) {
	width, height, err := jpeg.Size(data)
	if err != nil {
		return nil, err
	}
	if t.bits != 8 || width != t.segmentWidth || height < rows || height > t.segmentHeight {
		return nil, fmt.Errorf("a JPEG stream of %d×%d pixels does not fit a strip or tile of %d×%d pixels of %d bits", width, height, t.segmentWidth, rows, t.bits)
	}
	o := jpeg.Options{Tables: t.tables, Colours: jpeg.AsStored, Spare: &t.spare}
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
	return bytes.NewReader(m.Pix), t.spend(m.Read + len(t.tables))
}

// undoPredictor adds up the samples of a row that are stored as differences, and brings 16-bit
// samples into big-endian order.
func (t *tiffImage) undoPredictor(row []byte, samples int) error {
	predicted := false
	switch t.compression {
	case tiffLZW, tiffDeflate, tiffOldDeflate, tiffZstd:
		predicted = t.predictor != 1
	}
	if predicted && (t.predictor != 2 || t.bits < 8) {
		return fmt.Errorf("predictor %d for samples of %d bits is not supported", t.predictor, t.bits)
	}
	if t.bits == 16 && t.order == binary.LittleEndian {
		for i := 0; i+1 < len(row); i += 2 {
			row[i], row[i+1] = row[i+1], row[i]
		}
	}
	switch {
	case !predicted:
	case t.bits == 8:
		for i := samples; i < len(row); i++ {
			row[i] += row[i-samples]
		}
	default:
		for i := 2 * samples; i+1 < len(row); i += 2 {
			sum := binary.BigEndian.Uint16(row[i:]) + binary.BigEndian.Uint16(row[i-2*samples:])
			binary.BigEndian.PutUint16(row[i:], sum)
		}
	}
	return nil
}

// packBits is a reader that decompresses PackBits.
type packBits struct {
	data    *bytes.Reader
	literal int // bytes to copy
	repeat  int // times to repeat value
	value   byte
}

func (p *packBits) Read(dst []byte) (n int, err error) {
	for n < len(dst) {
		switch {
		case p.literal > 0:
			k, err := p.data.Read(dst[n:min(n+p.literal, len(dst))])
			if err != nil {
				return n, err
			}
			p.literal -= k
			n += k
		case p.repeat > 0:
			dst[n] = p.value
			n++
			p.repeat--
		default:
			c, err := p.data.ReadByte()
			if err != nil {
				return n, err
			}
			switch c := int8(c); {
			case c >= 0:
				p.literal = int(c) + 1
			case c != -128:
				if p.value, err = p.data.ReadByte(); err != nil {
					return n, err
				}
				p.repeat = 1 - int(c)
			}
		}
	}
	return n, nil
}
