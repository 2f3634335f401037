package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The tags of TIFF directories that this package reads.
const (
	tagSubfileType     = 254
	tagWidth           = 256
	tagHeight          = 257
	tagBits            = 258
	tagCompression     = 259
	tagPhotometric     = 262
	tagFillOrder       = 266
	tagStripOffsets    = 273
	tagOrientation     = 274
	tagSamplesPerPixel = 277
	tagRowsPerStrip    = 278
	tagStripCounts     = 279
	tagPlanar          = 284
	tagPredictor       = 317
	tagColorMap        = 320
	tagTileWidth       = 322
	tagTileHeight      = 323
	tagTileOffsets     = 324
	tagTileCounts      = 325
	tagSubIFDs         = 330
	tagExtraSamples    = 338
	tagSampleFormat    = 339
	tagJPEGTables      = 347
	tagXMP             = 700
	tagICCProfile      = 34675
	tagDNGVersion      = 50706
)

// directory is the first directory of a TIFF or BigTIFF file. EXIF has the same format.
type directory struct {
	order   binary.ByteOrder
	entries map[uint16]directoryEntry
}

// directoryEntry is the value of a tag.
type directoryEntry struct {
	kind uint16
	data []byte // the elements, in the byte order of the file
}

// elementSizes maps a kind of TIFF value to the size of an element in bytes.
var elementSizes = map[uint16]uint64{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}

// errBadHeader is the error for data that do not begin as a TIFF file does.
var errBadHeader = errors.New("the header is not that of a TIFF file")

// readDirectory reads the header and the first directory of a TIFF or BigTIFF file.
func readDirectory(data []byte) (*directory, error) {
	switch {
	case matches(data, "II\x2a\x00") || matches(data, "MM\x00\x2a"):
		return readDirectoryForm(data, false)
	case matches(data, "II\x2b\x00") || matches(data, "MM\x00\x2b"):
		return readDirectoryForm(data, true)
	}
	return nil, errBadHeader
}

// readEXIF reads the directory of EXIF. Like Pillow, it accepts a version in the wrong byte order,
// and it takes the header of a big-endian BigTIFF file for that of a TIFF file. A header that
// Pillow does not accept is errBadHeader.
func readEXIF(data []byte) (*directory, error) {
	if len(data) >= 8 {
		switch string(data[:4]) {
		case "II\x2a\x00", "II\x00\x2a", "MM\x00\x2a", "MM\x2a\x00", "MM\x00\x2b":
			return readDirectoryForm(data, false)
		}
	}
	return nil, errBadHeader
}

// readDirectoryForm reads the directory of a TIFF file, or of a BigTIFF file if big is true. Like
// Pillow, it skips entries without a value, and it reads no further after an entry whose value does
// not lie in the file. If a tag occurs twice, the first entry counts.
func readDirectoryForm(data []byte, big bool) (*directory, error) {
	d := &directory{entries: map[uint16]directoryEntry{}, order: binary.LittleEndian}
	if data[0] == 'M' {
		d.order = binary.BigEndian
	}
	header, entrySize, inline := 8, uint64(12), uint64(4)
	if big {
		header, entrySize, inline = 16, 20, 8
	}
	if len(data) < header {
		return nil, errors.New("the header is too short")
	}
	at := uint64(d.order.Uint32(data[4:]))
	if big {
		at = d.order.Uint64(data[8:])
	}
	size := uint64(len(data))
	if at > size || size-at < inline {
		return nil, fmt.Errorf("the directory lies at byte %d, after the end of the file", at)
	}
	n := uint64(d.order.Uint16(data[at:]))
	at += 2
	if big {
		n = d.order.Uint64(data[at-2:])
		at += 6
	}
	// bytes of values outside the directory; Pillow skips values beyond the size of the file
	total := uint64(0)
	for ; n > 0 && size-at >= entrySize; n-- {
		e := data[at : at+entrySize]
		at += entrySize
		tag, kind := d.order.Uint16(e), d.order.Uint16(e[2:])
		count, value := uint64(d.order.Uint32(e[4:])), e[8:]
		if big {
			count, value = d.order.Uint64(e[4:]), e[12:]
		}
		unit := elementSizes[kind]
		if d.has(tag) || unit == 0 || count == 0 {
			continue
		}
		if bytes := min(count, size+1) * unit; bytes <= inline {
			value = value[:bytes]
		} else {
			offset := uint64(d.order.Uint32(value))
			if big {
				offset = d.order.Uint64(value)
			}
			if offset > math.MaxInt64 {
				continue
			}
			if total += bytes; total > size {
				continue
			}
			if offset > size || size-offset < bytes {
				break
			}
			value = data[offset : offset+bytes]
		}
		d.entries[tag] = directoryEntry{kind, value}
	}
	return d, nil
}

// has reports whether the directory has a tag.
func (d *directory) has(tag uint16) bool {
	_, ok := d.entries[tag]
	return ok
}

// numbers is the list of the integers of a tag. It reads them from the file, because a hostile file
// can have as many of them as it has bytes.
type numbers struct {
	order binary.ByteOrder
	kind  uint16
	data  []byte
	size  int // number of integers
}

// numbers returns the integers of a tag. The list is empty if the tag is missing or not an integer.
func (d *directory) numbers(tag uint16) numbers {
	e := d.entries[tag]
	n := numbers{d.order, e.kind, e.data, 0}
	switch e.kind {
	case 1, 3, 4, 6, 7, 8, 9, 13, 16:
		n.size = len(e.data) / int(elementSizes[e.kind])
	}
	return n
}

// at returns integer i. Integers beyond int32 become -1.
func (n numbers) at(i int) int {
	var v int64
	switch n.kind {
	case 1, 7:
		v = int64(n.data[i])
	case 3:
		v = int64(n.order.Uint16(n.data[2*i:]))
	case 4, 13:
		v = int64(n.order.Uint32(n.data[4*i:]))
	case 16:
		v = int64(n.order.Uint64(n.data[8*i:]))
	case 6:
		v = int64(int8(n.data[i]))
	case 8:
		v = int64(int16(n.order.Uint16(n.data[2*i:])))
	case 9:
		v = int64(int32(n.order.Uint32(n.data[4*i:])))
	}
	if v < 0 || v > 1<<31-1 {
		return -1
	}
	return int(v)
}

// number returns the first integer of a tag, or otherwise if there is none.
func (d *directory) number(tag uint16, otherwise int) int {
	if v := d.numbers(tag); v.size > 0 {
		return v.at(0)
	}
	return otherwise
}
