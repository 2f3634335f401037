package evaluate

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/klauspost/compress/snappy"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	parquet "github.com/parquet-go/parquet-go/format"
)

// The structures of the format and their encoder come from package parquet-go. Its writer is not
// used, because it would make the program larger by nearly a half. A table needs little of it:
// columns that may miss values, plain values, and one compressed page for each column of a row
// group.

const (
	// rowGroupBytes is the size of the values in a row group, which are held in memory.
	rowGroupBytes = 64 << 20
	// rowGroupRows limits the number of rows in a row group.
	rowGroupRows = 1 << 16
)

// parquetTypes holds the type of each kind of column in the file.
var parquetTypes = map[kind]parquet.Type{text: parquet.ByteArray, boolean: parquet.Boolean, double: parquet.Double, single: parquet.Float}

// parquetColumn holds the values of one column in a row group.
type parquetColumn struct {
	column
	values  []byte // plain encoding, but one byte for each boolean
	present []bool // whether the value of each row is not missing
}

// add adds a value.
func (c *parquetColumn) add(v cell) {
	c.present = append(c.present, !v.missing)
	switch {
	case v.missing:
	case c.kind == text:
		c.values = binary.LittleEndian.AppendUint32(c.values, uint32(len(v.text)))
		c.values = append(c.values, v.text...)
	case c.kind == boolean:
		c.values = append(c.values, byte(v.number))
	case c.kind == double:
		c.values = binary.LittleEndian.AppendUint64(c.values, math.Float64bits(v.number))
	default:
		c.values = binary.LittleEndian.AppendUint32(c.values, math.Float32bits(float32(v.number)))
	}
}

// appendPage appends the content of the data page: the length of the definition levels, the levels
// as one bit-packed run of the hybrid encoding, and the values.
func (c *parquetColumn) appendPage(page []byte) []byte {
	start := len(page)
	page = append(page, 0, 0, 0, 0)
	page = binary.AppendUvarint(page, uint64((len(c.present)+7)/8)<<1|1)
	page = appendBits(page, len(c.present), func(i int) bool { return c.present[i] })
	binary.LittleEndian.PutUint32(page[start:], uint32(len(page)-start-4))
	if c.kind == boolean {
		return appendBits(page, len(c.values), func(i int) bool { return c.values[i] == 1 })
	}
	return append(page, c.values...)
}

// appendBits appends n bits, the first in the lowest bit of a byte.
func appendBits(dst []byte, n int, bit func(i int) bool) []byte {
	for i := 0; i < n; i += 8 {
		var b byte
		for j := range min(8, n-i) {
			if bit(i + j) {
				b |= 1 << j
			}
		}
		dst = append(dst, b)
	}
	return dst
}

// parquetWriter writes a parquet file.
type parquetWriter struct {
	w       io.Writer
	offset  int64
	columns []parquetColumn
	meta    parquet.FileMetaData

	page, compressed []byte // buffers
}

func (w *parquetWriter) write(b []byte) error {
	n, err := w.w.Write(b)
	w.offset += int64(n)
	return err
}

// writeStruct writes a structure of the format and returns its length in bytes.
func (w *parquetWriter) writeStruct(v any) (int, error) {
	b, err := thrift.Marshal(new(thrift.CompactProtocol), v)
	if err != nil {
		return 0, err
	}
	return len(b), w.write(b)
}

// writeParquet writes a table as a parquet file. All columns are optional and compressed with
// Snappy, which every reader supports.
func writeParquet(out io.Writer, t *table) error {
	w := &parquetWriter{w: out, columns: make([]parquetColumn, len(t.columns))}
	w.meta = parquet.FileMetaData{Version: 1, NumRows: int64(t.rows), CreatedBy: "spt"}
	w.meta.Schema = append(w.meta.Schema, parquet.SchemaElement{Name: "schema", NumChildren: thrift.New(int32(len(t.columns)))})
	for i, c := range t.columns {
		w.columns[i].column = c
		element := parquet.SchemaElement{Name: c.name, Type: thrift.New(parquetTypes[c.kind]), RepetitionType: thrift.New(parquet.Optional)}
		if c.kind == text {
			element.ConvertedType = thrift.New(deprecated.UTF8)
			element.LogicalType.Value = new(parquet.StringType)
		}
		w.meta.Schema = append(w.meta.Schema, element)
	}
	if err := w.write([]byte("PAR1")); err != nil {
		return err
	}
	cells := make([]cell, len(t.columns))
	bytes, rows := 0, 0 // of the row group
	for i := range t.rows {
		t.fill(i, cells)
		for c := range cells {
			before := len(w.columns[c].values)
			w.columns[c].add(cells[c])
			bytes += len(w.columns[c].values) - before
		}
		if rows++; bytes >= rowGroupBytes || rows == rowGroupRows || i+1 == t.rows {
			if err := w.flush(rows); err != nil {
				return err
			}
			bytes, rows = 0, 0
		}
	}
	n, err := w.writeStruct(&w.meta)
	if err != nil {
		return err
	}
	return w.write(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), "PAR1"...))
}

// flush writes a row group and empties the columns.
func (w *parquetWriter) flush(rows int) error {
	group := parquet.RowGroup{NumRows: int64(rows), Ordinal: int16(len(w.meta.RowGroups)), FileOffset: w.offset}
	for i := range w.columns {
		c := &w.columns[i]
		var statistics parquet.Statistics // its number of missing values is always written
		for _, present := range c.present {
			if !present {
				statistics.NullCount++
			}
		}
		w.page = c.appendPage(w.page[:0])
		w.compressed = snappy.Encode(w.compressed[:cap(w.compressed)], w.page)
		offset := w.offset
		header, err := w.writeStruct(&parquet.PageHeader{
			Type: parquet.DataPage, UncompressedPageSize: int32(len(w.page)), CompressedPageSize: int32(len(w.compressed)),
			DataPageHeader: thrift.New(parquet.DataPageHeader{
				NumValues: int32(rows), Encoding: parquet.Plain, DefinitionLevelEncoding: parquet.RLE, RepetitionLevelEncoding: parquet.RLE,
				Statistics: statistics,
			}),
		})
		if err == nil {
			err = w.write(w.compressed)
		}
		if err != nil {
			return err
		}
		size := int64(header + len(w.page))
		group.Columns = append(group.Columns, parquet.ColumnChunk{FileOffset: offset, MetaData: parquet.ColumnMetaData{
			Type: parquetTypes[c.kind], Encoding: []parquet.Encoding{parquet.Plain, parquet.RLE}, PathInSchema: []string{c.name},
			Codec: parquet.Snappy, NumValues: int64(rows), DataPageOffset: offset,
			TotalUncompressedSize: size, TotalCompressedSize: w.offset - offset, Statistics: statistics,
		}})
		group.TotalByteSize += size
		c.values, c.present = c.values[:0], c.present[:0]
	}
	group.TotalCompressedSize = w.offset - group.FileOffset
	w.meta.RowGroups = append(w.meta.RowGroups, group)
	return nil
}
