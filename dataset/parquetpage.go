package dataset

import (
	"bytes"
	"compress/gzip"
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	parquet "github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// parquetPage describes the location and the format of a page. Its numbers have been checked
// against the size of the file.
type parquetPage struct {
	// first is the first row of a data page in the file, and rows is the number of its rows. For a
	// dictionary page, rows is the number of values.
	first, rows int

	// at is the offset in the file of the bytes after the page header.
	at int64

	// compressed is the size of the page in the file, and uncompressed its size after
	// decompression, in bytes without the header.
	compressed, uncompressed int

	codec parquet.CompressionCodec

	// encoding is the encoding of the values of a data page. A dictionary page has the encoding
	// PLAIN, the zero value.
	encoding parquet.Encoding

	// dictionary is the page whose values the indices of this page refer to. Nil means that this
	// page holds the values themselves.
	dictionary *parquetPage

	// levels is the size in bytes of the definition levels, which lie uncompressed before the
	// values. It is -1 if the definition levels are compressed together with the values and begin
	// with their length.
	levels int

	// repetition is the size in bytes of the repetition levels of a column of lists, which lie
	// before the definition levels. It is 0 if they begin with their length, as levels -1 says.
	repetition int

	// locate computes located and err on the first call of value. located holds the locations of
	// the values of an uncompressed page.
	locate  sync.Once
	located []span
	err     error
}

// span is the location of a value in the file.
type span struct {
	at   int64 // offset in the file
	size int   // bytes; -1 for a row without a value
}

// pageEntries holds the content of a data page.
type pageEntries struct {
	values             [][]byte // see parquetPage.values
	repetition, levels []byte   // encoded repetition levels of lists, and definition levels
}

// values reads a page and returns the value of each row. The value is nil for a row without a
// value. The values of byte arrays do not include their length.
func (p *parquetPage) values(f io.ReaderAt, c parquetColumn, dictionary [][]byte) ([][]byte, error) {
	entries, err := p.read(f, c, dictionary)
	return entries.values, err
}

// read reads a page.
func (p *parquetPage) read(f io.ReaderAt, c parquetColumn, dictionary [][]byte) (entries pageEntries, err error) {
	raw := make([]byte, p.compressed)
	if _, err := f.ReadAt(raw, p.at); err != nil {
		return entries, err
	}
	var levels []byte
	size := p.uncompressed
	if p.levels >= 0 {
		entries.repetition, levels, raw = raw[:p.repetition], raw[p.repetition:p.repetition+p.levels], raw[p.repetition+p.levels:]
		size -= p.repetition + p.levels
	}
	data, err := decompress(p.codec, raw, size)
	if err != nil {
		return entries, fmt.Errorf("decompressing the page at offset %d: %w", p.at, err)
	}
	if p.levels < 0 && c.list {
		if entries.repetition, data, err = lengthPrefixed(data); err != nil {
			return entries, fmt.Errorf("the repetition levels of the page at offset %d are broken: %w", p.at, err)
		}
	}
	if p.levels < 0 && c.maxLevel > 0 {
		if levels, data, err = lengthPrefixed(data); err != nil {
			return entries, fmt.Errorf("the definition levels of the page at offset %d are broken: %w", p.at, err)
		}
	}
	entries.levels = levels
	entries.values, err = p.decode(data, levels, c, dictionary)
	return entries, err
}

// decode returns the values of the page, whose encoding is data.
func (p *parquetPage) decode(data, levels []byte, c parquetColumn, dictionary [][]byte) ([][]byte, error) {
	there, err := p.present(levels, c)
	if err != nil {
		return nil, err
	}
	var present []int // rows that have a value
	for i := range p.rows {
		if there == nil || there[i] {
			present = append(present, i)
		}
	}
	all := make([][]byte, p.rows)
	if p.dictionary != nil && len(present) > 0 {
		if len(data) == 0 {
			return nil, fmt.Errorf("the page at offset %d has no dictionary indices", p.at)
		}
		indices, err := runLengths(data[1:], uint(data[0]), len(present))
		if err != nil {
			return nil, fmt.Errorf("the dictionary indices of the page at offset %d are broken: %w", p.at, err)
		}
		for i, row := range present {
			if int64(indices[i]) >= int64(len(dictionary)) {
				return nil, fmt.Errorf("the page at offset %d refers to value %d of a dictionary with %d values", p.at, indices[i], len(dictionary))
			}
			all[row] = dictionary[indices[i]]
		}
		return all, nil
	}
	if p.encoding != parquet.Plain && p.dictionary == nil {
		values, err := encodedValues(data, p.encoding, c.kind, len(present))
		if err != nil {
			return nil, fmt.Errorf("the values of the page at offset %d: %w", p.at, err)
		}
		for i, row := range present {
			all[row] = values[i]
		}
		return all, nil
	}
	for _, row := range present {
		if all[row], data, err = plain(data, c.kind); err != nil {
			return nil, fmt.Errorf("row %d, in the page at offset %d: %w", p.first+row, p.at, err)
		}
	}
	return all, nil
}

// present reports for each row whether it has a value. It returns nil if all rows have a value.
func (p *parquetPage) present(levels []byte, c parquetColumn) ([]bool, error) {
	if c.maxLevel == 0 {
		return nil, nil
	}
	decoded, err := runLengths(levels, uint(bits.Len(uint(c.maxLevel))), p.rows)
	if err != nil {
		return nil, fmt.Errorf("the definition levels of the page at offset %d are broken: %w", p.at, err)
	}
	there := make([]bool, p.rows)
	for i, level := range decoded {
		there[i] = level == uint32(c.maxLevel)
	}
	return there, nil
}

// value reads one value of an uncompressed page of byte arrays. It does not read the other values.
// The first call finds the locations of all values. row is relative to the page.
func (p *parquetPage) value(f io.ReaderAt, c parquetColumn, row int) ([]byte, error) {
	p.locate.Do(func() { p.located, p.err = p.spans(f, c) })
	if p.err != nil {
		return nil, p.err
	}
	s := p.located[row]
	if s.size < 0 {
		return nil, nil
	}
	data := make([]byte, s.size)
	_, err := f.ReadAt(data, s.at)
	return data, err
}

// spans returns the locations of the values. It reads only their lengths.
func (p *parquetPage) spans(f io.ReaderAt, c parquetColumn) ([]span, error) {
	at, end := p.at, p.at+int64(p.compressed)
	number := func() (int64, error) {
		var b [4]byte
		if end-at < 4 {
			return 0, fmt.Errorf("the page at offset %d: %w", p.at, io.ErrUnexpectedEOF)
		}
		if _, err := f.ReadAt(b[:], at); err != nil {
			return 0, err
		}
		at += 4
		n := int64(binary.LittleEndian.Uint32(b[:]))
		if n > end-at {
			return 0, fmt.Errorf("the page at offset %d: a value of %d bytes at offset %d exceeds the page, which ends at offset %d", p.at, n, at-4, end)
		}
		return n, nil
	}
	length := int64(max(p.levels, 0))
	if p.levels < 0 && c.maxLevel > 0 {
		var err error
		if length, err = number(); err != nil {
			return nil, err
		}
	}
	levels := make([]byte, length)
	if _, err := f.ReadAt(levels, at); err != nil {
		return nil, err
	}
	at += length
	there, err := p.present(levels, c)
	if err != nil {
		return nil, err
	}
	spans := make([]span, p.rows)
	for i := range spans {
		if there != nil && !there[i] {
			spans[i].size = -1
			continue
		}
		n, err := number()
		if err != nil {
			return nil, err
		}
		spans[i] = span{at, int(n)}
		at += n
	}
	return spans, nil
}

// plain splits data, in the encoding PLAIN, into the first value and the remaining bytes.
func plain(data []byte, kind parquet.Type) (value, rest []byte, err error) {
	width := 8
	switch kind {
	case parquet.ByteArray:
		return lengthPrefixed(data)
	case parquet.Int32:
		width = 4
	case parquet.Int64:
	default:
		return nil, nil, fmt.Errorf("values of type %v are not supported", kind)
	}
	if len(data) < width {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return data[:width:width], data[width:], nil
}

// lengthPrefixed splits data into a value, which follows its length, and the remaining bytes.
func lengthPrefixed(data []byte) (value, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	n, data := uint64(binary.LittleEndian.Uint32(data)), data[4:]
	if n > uint64(len(data)) {
		return nil, nil, fmt.Errorf("a value claims %d bytes, but only %d bytes follow", n, len(data))
	}
	return data[:n:n], data[n:], nil
}

// runLengths decodes n numbers of width bits in the hybrid encoding of parquet: runs of equal
// numbers, and groups of eight bit-packed numbers.
func runLengths(data []byte, width uint, n int) ([]uint32, error) {
	if width > 32 {
		return nil, fmt.Errorf("numbers of %d bits, expected 32 at most", width)
	}
	out := make([]uint32, 0, n)
	for len(out) < n {
		head, used := binary.Uvarint(data)
		if used <= 0 {
			return nil, io.ErrUnexpectedEOF
		}
		data = data[used:]
		left := uint64(n - len(out))
		if head&1 == 0 { // a run of equal numbers
			length := int(width+7) / 8
			if len(data) < length {
				return nil, io.ErrUnexpectedEOF
			}
			var v uint32
			for i := range length {
				v |= uint32(data[i]) << (8 * i)
			}
			data = data[length:]
			if head>>1 == 0 {
				return nil, errors.New("an empty run")
			}
			for range min(head>>1, left) {
				out = append(out, v)
			}
			continue
		}
		// The last group may hold more numbers than n, but it must have all its bytes.
		groups := head >> 1
		if groups == 0 {
			return nil, errors.New("an empty run")
		}
		if width > 0 && groups > uint64(len(data))/uint64(width) {
			return nil, io.ErrUnexpectedEOF
		}
		var buffer uint64
		var filled uint
		next := 0
		for range min(8*min(groups, left), left) {
			for filled < width {
				buffer |= uint64(data[next]) << filled
				next, filled = next+1, filled+8
			}
			out = append(out, uint32(buffer&(1<<width-1)))
			buffer, filled = buffer>>width, filled-width
		}
		data = data[groups*uint64(width):]
	}
	return out, nil
}

// decompress decompresses a page to the given size in bytes. It returns an error if the size is
// much larger than the compressed data, because images hardly compress.
func decompress(codec parquet.CompressionCodec, data []byte, size int) (out []byte, err error) {
	if codec == parquet.Uncompressed {
		return data, nil
	}
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("the decoder failed with %q", fmt.Sprint(p))
		}
	}()
	if limit := minUnpacked + 100*len(data); size < 0 || size > limit {
		return nil, fmt.Errorf("%d compressed bytes claim %d bytes uncompressed: the limit is %d bytes", len(data), size, limit)
	}
	var r io.Reader
	switch codec {
	case parquet.Snappy:
		n, err := snappy.DecodedLen(data)
		if err != nil {
			return nil, err
		}
		if n != size {
			return nil, fmt.Errorf("the page has %d uncompressed bytes, expected %d", n, size)
		}
		return snappy.Decode(nil, data)
	case parquet.Lz4Raw:
		out = make([]byte, size)
		n, err := lz4.UncompressBlock(data, out)
		if err == nil && n != size {
			err = fmt.Errorf("the page has %d uncompressed bytes, expected %d", n, size)
		}
		return out, err
	case parquet.Gzip:
		if r, err = gzip.NewReader(bytes.NewReader(data)); err != nil {
			return nil, err
		}
	case parquet.Brotli:
		r = brotli.NewReader(bytes.NewReader(data))
	case parquet.Zstd:
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(max(size, 8<<20))))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("compression %v is not supported: write the file again with snappy or zstd", codec)
	}
	out = make([]byte, size)
	if n, err := io.ReadFull(r, out); err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("the page has %d uncompressed bytes, expected %d", n, size)
	} else if err != nil {
		return nil, err
	}
	// One more byte shows whether there are more, or whether a checksum is wrong.
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return nil, fmt.Errorf("the page has more than %d uncompressed bytes", size)
	case err != io.EOF:
		return nil, err
	}
	return out, nil
}

// pageCache keeps the values of the pages that were used last. A compressed page holds up to a few
// hundred images, and the next images to be read are often in the same page.
type pageCache struct {
	mu    sync.Mutex
	bytes int       // memory of the pages
	order list.List // of *cachedPage, most recently used first
	pages map[*parquetPage]*list.Element
}

// maxPageCache limits the pages in a pageCache, in bytes. The cache keeps at least one page of any
// size.
const maxPageCache = 128 << 20

// cachedPage is a page and its values.
type cachedPage struct {
	page   *parquetPage
	once   sync.Once
	values [][]byte
	err    error
}

// memory returns the size in bytes of the values of a page, at most.
func (p *parquetPage) memory() int {
	size := p.uncompressed + 24*p.rows
	if p.encoding == parquet.DeltaByteArray {
		size += int(maxPrefixes(p.uncompressed, p.rows))
	}
	return size
}

// values returns the values of a page. It calls read if the page is not in the cache.
func (c *pageCache) values(p *parquetPage, read func() ([][]byte, error)) ([][]byte, error) {
	c.mu.Lock()
	e := c.pages[p]
	if e == nil {
		e = c.order.PushFront(&cachedPage{page: p})
		if c.pages == nil {
			c.pages = map[*parquetPage]*list.Element{}
		}
		c.pages[p] = e
		c.bytes += p.memory()
		for c.bytes > maxPageCache && c.order.Len() > 1 {
			last := c.order.Remove(c.order.Back()).(*cachedPage).page
			delete(c.pages, last)
			c.bytes -= last.memory()
		}
	}
	c.order.MoveToFront(e)
	c.mu.Unlock()
	entry := e.Value.(*cachedPage)
	entry.once.Do(func() { entry.values, entry.err = read() })
	return entry.values, entry.err
}
