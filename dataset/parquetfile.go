package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go/deprecated"
	parquet "github.com/parquet-go/parquet-go/format"
)

// Opening a parquet file reads the footer, the page headers of the image and label columns, and the
// labels. Images are read later: one image at a time from uncompressed pages, and one page at a
// time from compressed pages.
//
// The structures of the format and their decoder come from package parquet-go. Its page reader is
// not used for two reasons: it decodes every page before a row to find the row, and it allocates
// the size that a page header claims, which may be wrong.

const (
	// maxFooterBytes limits the size of the footer.
	maxFooterBytes = 64 << 20
	// maxPageHeader limits the size of a page header, in bytes. Its statistics hold the smallest
	// and the largest value of the page, which may be whole images.
	maxPageHeader = 16 << 20
	// minImageBytes is the least size of an image in a file. Rows that share an image in a
	// dictionary take less.
	minImageBytes = 16
	// minPathBytes is the least size of a path and its label in a file, after compression.
	minPathBytes = 1
	// maxColumnPath limits the length of the path of a column, because many columns can be in one
	// group with a long name.
	maxColumnPath = 1024
	// minUnpacked is the size in bytes to which the pages of a column may be decompressed together,
	// in addition to 100 × the size of the file.
	minUnpacked = 64 << 20
)

// parquetFile describes a parquet file. Every read opens and closes the file.
type parquetFile struct {
	path string
	open func() (content, error)
	name string // name in errors: the path relative to the root of the data set
	size int64  // bytes
	meta parquet.FileMetaData
	rows int

	image parquetColumn
	pages []*parquetPage // data pages of the image column, in the order of their rows
	cache *pageCache
}

// parquetRow is the image in one row of a parquet file. Rows are numbered from 0.
type parquetRow struct {
	in  *parquetFile
	row int
}

// parquetColumn describes a column that has at most one value in each row, or a list of values. A
// column of lists of lists or of lists of structs has no parquetColumn.
type parquetColumn struct {
	path     string // such as "image.bytes"; of a list, without the names of its inner parts
	index    int    // index among the leaves of the schema
	kind     parquet.Type
	maxLevel int    // definition level of a row that has a value; 0 if every row has a value
	text     bool   // the values are annotated as UTF-8
	values   string // what they are, as valuesOf returns it
	list     bool   // a row has a list of values; parquetFile.lists reads them
	// slot is the definition level of a list that is not empty. The level below is that of an empty
	// list, and all lower levels that of a row without a list.
	slot int
}

// always returns the column for reading its dictionary, which has no definition levels.
func (c parquetColumn) always() parquetColumn {
	c.maxLevel, c.list = 0, false
	return c
}

// openParquet reads the footer of a file. name is the name of the file in errors. minBytes and
// spare are as in readFooter.
func openParquet(at files, path, name string, minBytes, spare int64) (*parquetFile, error) {
	info, err := at.stat(path)
	if err != nil {
		return nil, err
	}
	p := &parquetFile{path: path, name: name, size: info.Size(), open: func() (content, error) {
		f, _, err := at.open(path)
		return f, err
	}}
	return p, p.readFooter(minBytes, spare)
}

// readFooter reads the footer. The file must have minBytes bytes or more for each row after the
// first spare rows, because a row takes memory.
func (p *parquetFile) readFooter(minBytes, spare int64) error {
	return p.reading("", func(f io.ReaderAt) error {
		if p.size < 12 {
			return fmt.Errorf("the file has %d bytes, too few for a parquet file", p.size)
		}
		var head, tail [8]byte
		if _, err := f.ReadAt(head[:4], 0); err != nil {
			return err
		}
		if _, err := f.ReadAt(tail[:], p.size-8); err != nil {
			return err
		}
		if string(head[:4]) == "PARE" || string(tail[4:]) == "PARE" {
			return errors.New("the file is encrypted, which is not supported: write it again without encryption")
		}
		if string(head[:4]) != "PAR1" || string(tail[4:]) != "PAR1" {
			return fmt.Errorf("the file begins with %q and ends with %q, but a parquet file begins and ends with \"PAR1\": it is cut short or another kind of file", head[:4], tail[4:])
		}
		length := int64(binary.LittleEndian.Uint32(tail[:4]))
		if length > p.size-12 || length > maxFooterBytes {
			return fmt.Errorf("the footer claims %d bytes of a file of %d bytes, and the limit is %d bytes: the file is damaged", length, p.size, maxFooterBytes)
		}
		if _, err := readThrift(f, p.size-8-length, length, &p.meta); err != nil {
			return fmt.Errorf("the footer is broken: %w", err)
		}
		if limit := p.size/minBytes + spare; p.meta.NumRows < 0 || p.meta.NumRows > limit {
			return fmt.Errorf("the footer claims %d rows, too many for a file of %d bytes: the file is damaged", p.meta.NumRows, p.size)
		}
		p.rows = int(p.meta.NumRows)
		return nil
	})
}

// reading opens the file and calls do. Errors name the file and what, which describes what do
// reads.
func (p *parquetFile) reading(what string, do func(f io.ReaderAt) error) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := do(f); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if what != "" {
			what = ", " + what
		}
		return fmt.Errorf("reading %s%s: %w", p.name, what, err)
	}
	return nil
}

// withoutLists returns the columns that have at most one value in each row.
func withoutLists(columns []parquetColumn) []parquetColumn {
	return slices.DeleteFunc(slices.Clone(columns), func(c parquetColumn) bool { return c.list })
}

// columnsAndLists returns the columns that have at most one value or a list of values in each row.
func (p *parquetFile) columnsAndLists() ([]parquetColumn, error) {
	var columns []parquetColumn
	at, leaf := 0, 0
	// visit reads schema element number at and the elements below it. level is the definition level
	// of the group that holds the element. list describes the list that the group is in.
	type enclosing struct {
		lists int    // number of lists
		path  string // of the list
		slot  int    // see parquetColumn
		depth int    // of the repeated element
		parts int    // number of elements in it; 0 for a value
	}
	var visit func(path string, level int, list enclosing, depth int) error
	visit = func(path string, level int, list enclosing, depth int) error {
		if at >= len(p.meta.Schema) || depth > maxThriftDepth {
			return errors.New("the schema is broken: a group has more columns than the schema describes, or is nested too deeply")
		}
		e := p.meta.Schema[at]
		at++
		if depth > 0 { // the path does not include the name of the root
			if len(path)+len(e.Name) > maxColumnPath {
				return fmt.Errorf("the schema is broken: the column %q has a path of more than %d bytes", abbreviate(path+"."+abbreviate(e.Name)), maxColumnPath)
			}
			above := path
			path = strings.TrimPrefix(path+"."+e.Name, ".")
			switch e.RepetitionType.V {
			case parquet.Optional:
				level++
			case parquet.Repeated:
				level++
				if e.Type.Valid { // a list without inner parts
					above = path
				}
				list = enclosing{list.lists + 1, above, level, depth, int(e.NumChildren.V)}
			}
		}
		if e.Type.Valid {
			c := parquetColumn{path: path, index: leaf, kind: e.Type.V, maxLevel: level, text: isText(e), values: valuesOf(e)}
			if list.lists == 1 && list.parts <= 1 && depth <= list.depth+1 { // not a map
				c.path, c.list, c.slot = list.path, true, list.slot
			}
			if list.lists == 0 || c.list {
				columns = append(columns, c)
			}
			leaf++
			return nil
		}
		for range e.NumChildren.V {
			if err := visit(path, level, list, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit("", 0, enclosing{}, 0); err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.name, err)
	}
	for i, g := range p.meta.RowGroups {
		if len(g.Columns) != leaf {
			return nil, fmt.Errorf("reading %s: row group %d has %d columns, but the schema has %d", p.name, i, len(g.Columns), leaf)
		}
	}
	return columns, nil
}

// isText reports whether a column is annotated as UTF-8, in the current or the deprecated form.
func isText(e parquet.SchemaElement) bool {
	_, is := e.LogicalType.Value.(*parquet.StringType)
	return is || e.ConvertedType.Valid && e.ConvertedType.V == deprecated.UTF8
}

// index returns the data pages of a column. It reads only the page headers.
func (p *parquetFile) index(ctx context.Context, c parquetColumn) (pages []*parquetPage, err error) {
	err = p.reading("column "+abbreviate(c.path), func(f io.ReaderAt) error {
		rows, listed, left := 0, 0, p.size
		for i, g := range p.meta.RowGroups {
			chunk := g.Columns[c.index]
			m := chunk.MetaData
			switch {
			case chunk.FilePath != "":
				return fmt.Errorf("row group %d is in another file, %q, which is not supported: write the data into one file", i, abbreviate(chunk.FilePath))
			case m.Type != c.kind:
				return fmt.Errorf("row group %d has type %v, but the schema has %v", i, m.Type, c.kind)
			case g.NumRows < 0 || g.NumRows > int64(p.rows-rows):
				return fmt.Errorf("row group %d claims %d rows, but the file has %d", i, g.NumRows, p.rows)
			}
			if left -= max(m.TotalCompressedSize, 0); left < 0 {
				return fmt.Errorf("row group %d: the row groups claim more bytes than the file of %d bytes has, so they overlap", i, p.size)
			}
			first, entries := rows, g.NumRows
			if c.list {
				first, entries = listed, m.NumValues
				if limit := 1<<22 + 16*p.size - int64(listed); entries < 0 || entries > limit {
					return fmt.Errorf("row group %d claims %d labels, too many for a file of %d bytes: the file is damaged", i, entries, p.size)
				}
				listed += int(entries)
			}
			more, err := p.indexChunk(ctx, f, m, first, int(entries), c.list)
			if err != nil {
				return fmt.Errorf("row group %d: %w", i, err)
			}
			pages = append(pages, more...)
			rows += int(g.NumRows)
		}
		unpacked := int64(0)
		var dict *parquetPage
		for _, page := range pages {
			unpacked += int64(page.uncompressed)
			if page.dictionary != dict && page.dictionary != nil {
				unpacked += int64(page.dictionary.uncompressed)
			}
			dict = page.dictionary
		}
		if limit := minUnpacked + 100*p.size; unpacked > limit {
			return fmt.Errorf("the pages claim %d bytes uncompressed: the limit for a file of %d bytes is %d bytes", unpacked, p.size, limit)
		}
		if rows != p.rows {
			return fmt.Errorf("the row groups have %d rows together, but the footer claims %d", rows, p.rows)
		}
		return nil
	})
	return pages, err
}

// indexChunk returns the data pages of a column in one row group. first is the first row of the
// group in the file, and rows is the number of its rows. For a column of lists, each value and each
// empty list counts as a row.
func (p *parquetFile) indexChunk(ctx context.Context, f io.ReaderAt, m parquet.ColumnMetaData, first, rows int, list bool) (pages []*parquetPage, err error) {
	if rows == 0 { // pyarrow writes such a row group for an empty table, without an offset
		return nil, nil
	}
	at := m.DataPageOffset
	if m.DictionaryPageOffset > 0 && m.DictionaryPageOffset < at {
		at = m.DictionaryPageOffset
	}
	if at < 4 || m.TotalCompressedSize < 0 || at > p.size || m.TotalCompressedSize > p.size-at {
		return nil, fmt.Errorf("its %d bytes at offset %d are outside the file of %d bytes", m.TotalCompressedSize, at, p.size)
	}
	end := at + m.TotalCompressedSize
	var dict *parquetPage
	for found := 0; found < rows; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if at >= end {
			return nil, fmt.Errorf("the pages have %d rows, expected %d", found, rows)
		}
		var h parquet.PageHeader
		n, err := readThrift(f, at, min(maxPageHeader, end-at), &h)
		if err != nil {
			return nil, fmt.Errorf("the page header at offset %d is broken: %w", at, err)
		}
		page := &parquetPage{first: first + found, at: at + int64(n), compressed: int(h.CompressedPageSize), uncompressed: int(h.UncompressedPageSize), codec: m.Codec}
		if h.CompressedPageSize < 0 || h.UncompressedPageSize < 0 || int64(page.compressed) > end-page.at {
			return nil, fmt.Errorf("the page at offset %d claims %d bytes, %d uncompressed, but only %d bytes follow", at, page.compressed, page.uncompressed, end-page.at)
		}
		at = page.at + int64(page.compressed)
		var values int32
		var encoding parquet.Encoding
		switch {
		case h.Type == parquet.DictionaryPage && h.DictionaryPageHeader.Valid:
			if dict != nil {
				return nil, errors.New("the column has two dictionaries, expected at most one")
			}
			page.rows = int(h.DictionaryPageHeader.V.NumValues)
			if most := max(p.rows, rows); page.rows < 0 || page.rows > most {
				return nil, fmt.Errorf("the dictionary claims %d values, but the file has %d rows", page.rows, most)
			}
			dict = page
			continue
		case h.Type == parquet.DataPage && h.DataPageHeader.Valid:
			values, encoding, page.levels = h.DataPageHeader.V.NumValues, h.DataPageHeader.V.Encoding, -1
		case h.Type == parquet.DataPageV2 && h.DataPageHeaderV2.Valid:
			v2 := h.DataPageHeaderV2.V
			values, encoding = v2.NumValues, v2.Encoding
			if (v2.RepetitionLevelsByteLength != 0) != list || v2.RepetitionLevelsByteLength < 0 || v2.DefinitionLevelsByteLength < 0 ||
				int64(v2.RepetitionLevelsByteLength)+int64(v2.DefinitionLevelsByteLength) > int64(page.compressed) {
				return nil, fmt.Errorf("the page before offset %d claims %d bytes of repetition levels, which only lists have, and %d bytes of definition levels", at, v2.RepetitionLevelsByteLength, v2.DefinitionLevelsByteLength)
			}
			page.repetition, page.levels = int(v2.RepetitionLevelsByteLength), int(v2.DefinitionLevelsByteLength)
			if v2.IsCompressed.Valid && !v2.IsCompressed.V {
				page.codec = parquet.Uncompressed
			}
		default:
			continue // index page
		}
		if values < 0 || int(values) > rows-found {
			return nil, fmt.Errorf("a page claims %d rows, but the row group has only %d more", values, rows-found)
		}
		page.rows = int(values)
		switch encoding {
		case parquet.Plain:
		//lint:ignore SA1019 files of format version 1 have this encoding
		case parquet.RLEDictionary, parquet.PlainDictionary:
			if page.dictionary = dict; dict == nil {
				return nil, errors.New("a page refers to a dictionary, but no dictionary precedes it")
			}
		case parquet.DeltaBinaryPacked, parquet.DeltaLengthByteArray, parquet.DeltaByteArray, parquet.ByteStreamSplit:
		default:
			return nil, fmt.Errorf("encoding %v is not supported: write the file again with the encodings PLAIN or RLE_DICTIONARY, the default of pyarrow", encoding)
		}
		page.encoding = encoding
		found += page.rows
		if page.rows > 0 {
			pages = append(pages, page)
		}
	}
	return pages, nil
}

// maxLabelBytes limits the length of a label, which is a class name. The size of the file does not
// limit the memory of all labels, because a few compressed bytes may hold many long labels.
const maxLabelBytes = 1024

// values returns the value of a column in every row. The value is nil for a row without a value.
func (p *parquetFile) values(ctx context.Context, c parquetColumn) ([][]byte, error) {
	all := make([][]byte, 0, p.rows)
	err := p.eachPage(ctx, c, func(page *parquetPage, entries pageEntries) error {
		all = append(all, entries.values...)
		return nil
	})
	return all, err
}

// lists returns the values of a column of lists in every row. The list is nil for a row without a
// list. A list with a missing value is an error.
func (p *parquetFile) lists(ctx context.Context, c parquetColumn) ([][][]byte, error) {
	all := make([][][]byte, 0, p.rows)
	err := p.eachPage(ctx, c, func(page *parquetPage, entries pageEntries) error {
		repetition, err := runLengths(entries.repetition, 1, page.rows)
		if err != nil {
			return fmt.Errorf("the repetition levels of the page at offset %d are broken: %w", page.at, err)
		}
		levels, err := runLengths(entries.levels, uint(bits.Len(uint(c.maxLevel))), page.rows)
		if err != nil {
			return fmt.Errorf("the definition levels of the page at offset %d are broken: %w", page.at, err)
		}
		for i, level := range levels {
			if repetition[i] == 0 {
				if len(all) == p.rows {
					return fmt.Errorf("the page at offset %d has more lists than the %d rows of the file", page.at, p.rows)
				}
				all = append(all, nil)
			} else if len(all) == 0 {
				return fmt.Errorf("the page at offset %d begins inside a list", page.at)
			}
			list := &all[len(all)-1]
			switch {
			case int(level)+1 < c.slot: // no list
			case *list == nil:
				*list = [][]byte{}
			}
			switch {
			case int(level) < c.slot:
				if repetition[i] != 0 {
					return fmt.Errorf("row %d has an empty list inside a list", len(all)-1)
				}
			case entries.values[i] == nil:
				return fmt.Errorf("row %d: label %d of the list is missing: remove it from the list", len(all)-1, len(*list)+1)
			default:
				*list = append(*list, entries.values[i])
			}
		}
		return nil
	})
	if err == nil && len(all) != p.rows {
		err = fmt.Errorf("reading %s, column %s: found %d lists, but the file has %d rows", p.name, abbreviate(c.path), len(all), p.rows)
	}
	return all, err
}

// eachPage calls do for each data page of a column of labels. Equal values share their memory, so
// that the pages can be freed.
func (p *parquetFile) eachPage(ctx context.Context, c parquetColumn, do func(*parquetPage, pageEntries) error) error {
	pages, err := p.index(ctx, c)
	if err != nil {
		return err
	}
	known := map[string][]byte{} // one copy of each different label
	return p.reading("column "+abbreviate(c.path), func(f io.ReaderAt) error {
		var last *parquetPage // the dictionary that was read last
		var dictionary [][]byte
		for _, page := range pages {
			if err := ctx.Err(); err != nil {
				return err
			}
			if page.dictionary != nil && page.dictionary != last {
				if dictionary, err = page.dictionary.values(f, c.always(), nil); err != nil {
					return err
				}
				last = page.dictionary
			}
			entries, err := page.read(f, c, dictionary)
			if err != nil {
				return err
			}
			for i, v := range entries.values {
				if len(v) > maxLabelBytes {
					return fmt.Errorf("row %d has a label of %d bytes: the limit is %d bytes; choose another label column", page.first+i, len(v), maxLabelBytes)
				}
				if v == nil {
					continue
				}
				label, ok := known[string(v)]
				if !ok {
					label = bytes.Clone(v)
					known[string(v)] = label
				}
				entries.values[i] = label
			}
			if err := do(page, entries); err != nil {
				return err
			}
		}
		return nil
	})
}

// size implements stored. Only the page of an image tells its size.
func (r parquetRow) size() int64 { return -1 }

// file implements stored.
func (r parquetRow) file() string { return r.in.path }

// storeBytes says how to make a file with the bytes of images, and not with their paths alone.
const storeBytes = "store the images in the file (the datasets library does this in push_to_hub, and in to_parquet after embed_table_storage)"

// encoded implements stored. It reads one image from an uncompressed page, or the whole page
// through the cache.
func (r parquetRow) encoded() (data []byte, err error) {
	p, row := r.in, r.row
	after, _ := slices.BinarySearchFunc(p.pages, row+1, func(page *parquetPage, row int) int { return page.first - row })
	page := p.pages[after-1]
	err = p.reading(fmt.Sprintf("row %d", row), func(f io.ReaderAt) error {
		if page.encoding == parquet.Plain && page.codec == parquet.Uncompressed {
			data, err = page.value(f, p.image, row-page.first)
			return err
		}
		values, err := p.cache.values(page, func() ([][]byte, error) {
			var dictionary [][]byte
			if page.dictionary != nil {
				var err error
				dictionary, err = p.cache.values(page.dictionary, func() ([][]byte, error) { return page.dictionary.values(f, p.image.always(), nil) })
				if err != nil {
					return nil, err
				}
			}
			return page.values(f, p.image, dictionary)
		})
		if err == nil {
			data = values[row-page.first]
		}
		return err
	})
	if err == nil && len(data) == 0 {
		found := "no bytes"
		if data == nil {
			found = "null"
		}
		err = fmt.Errorf("%s, row %d, column %s: found %s, expected the bytes of an image: %s", p.name, row, abbreviate(p.image.path), found, storeBytes)
	}
	return data, err
}
