package dataset

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A table lists the paths and labels of images. A data set has one of these forms:
//
//   - metadata.csv, metadata.jsonl or metadata.parquet, as the imagefolder builder of the Hugging
//     Face datasets library reads them,
//   - _classes.csv in the folders train, valid and test, as Roboflow writes them,
//   - train.csv, val.csv and test.csv,
//   - one file of any name.

// tableFormats holds the extensions of tables.
var tableFormats = []string{".csv", ".tsv", ".jsonl"}

// metadataTable is the name of a table in the format parquet, beside the images that it lists.
// Other parquet files hold the images themselves.
const metadataTable = "metadata.parquet"

// table is the file of one table.
type table struct {
	path string

	// split is the split of all images of the table, as in splitNames. It is -1 if a column or the
	// paths name the split of each image.
	split int
}

// recogniseTables reports whether a folder holds tables.
func recogniseTables(_ context.Context, src source) (bool, error) {
	tables, err := findTables(src.at, src.root)
	return tables != nil, err
}

// findTables returns the tables of a folder, or nil if there are none.
func findTables(at files, root string) (tables []table, err error) {
	find := func(folder, name string, split int) error {
		var files []string
		for _, format := range tableFormats {
			files = append(files, name+format)
		}
		if name == "metadata" {
			files = append(files, metadataTable)
		}
		for _, file := range files {
			file = filepath.Join(root, folder, file)
			if found, err := anyExists(at, filepath.Dir(file), filepath.Base(file)); err != nil {
				return err
			} else if !found {
				continue
			}
			for _, t := range tables {
				if t.split == split {
					return fmt.Errorf("found both %s and %s for the same split: keep one of them", relative(root, t.path), relative(root, file))
				}
			}
			tables = append(tables, table{file, split})
		}
		return nil
	}
	for _, name := range []string{"metadata", "_classes"} {
		if err := find("", name, -1); err != nil || tables != nil {
			return tables, err
		}
	}
	for _, place := range []struct{ folder, name string }{{"%s", "metadata"}, {"%s", "_classes"}, {"", "%s"}} {
		for name, split := range splitNames {
			folder, file := strings.ReplaceAll(place.folder, "%s", name), strings.ReplaceAll(place.name, "%s", name)
			if err := find(folder, file, split); err != nil {
				return nil, err
			}
		}
		if tables != nil {
			slices.SortFunc(tables, func(a, b table) int { return a.split - b.split })
			return tables, nil
		}
	}
	return nil, nil
}

// relative returns a path relative to root, with slashes, for error messages and fingerprints.
func relative(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil {
		path = rel
	}
	return filepath.ToSlash(path)
}

// readTables reads a data set that is listed in tables.
func readTables(ctx context.Context, src source) (contents, error) {
	g, err := readTableSplits(ctx, src)
	if err != nil && ctx.Err() == nil && src.Layout == "" && src.file == "" {
		// Other programs use files with the same names for other purposes.
		err = fmt.Errorf("%w (the file was read as a table of images because of its name; to read class folders instead, choose the layout imagefolder)", err)
	}
	return g, err
}

// readTableSplits reads the tables and divides their rows into splits.
func readTableSplits(ctx context.Context, src source) (g contents, err error) {
	tables := []table{{src.file, -1}}
	if src.file == "" {
		if tables, err = findTables(src.at, src.root); err != nil {
			return contents{}, err
		}
	}
	if tables == nil {
		return contents{}, errors.New("there is no table: looked for metadata, train and train/metadata, each with .csv, .tsv and .jsonl")
	}
	names, err := readClassNames(src.at, src.root, "classes.txt")
	if err != nil {
		return contents{}, err
	}
	named := names != nil // by classes.txt
	var labels labelForm
	var splits [3][]labelled
	for _, t := range tables {
		if err := ctx.Err(); err != nil {
			return contents{}, err
		}
		// The first table defines the form of the labels. Later tables may have no labels.
		data, err := readTable(ctx, src, t, labels)
		if err != nil {
			return contents{}, err
		}
		if !labels.defined {
			labels = data.labels
			labels.defined = true
			if !named {
				names = labels.classes
			}
		}
		given, notes, err := splitsOf(data.splits, data.name, t.split)
		if err != nil {
			return contents{}, err
		}
		g.notes = append(g.notes, notes...)
		byPath := t.split < 0 && given == nil && namesSplits(data.rows)
		place := imagePlace{at: src.at, folder: filepath.Dir(t.path)}
		if !unlabelled(data.rows) || t.split <= 0 {
			note := ""
			if place, note, err = locateImages(ctx, src, place.folder, t.split, data); err != nil {
				return contents{}, err
			}
			if note != "" {
				g.notes = append(g.notes, note)
			}
		}
		for i, row := range data.rows {
			split := max(t.split, 0)
			if given != nil {
				split = given[i]
			} else if byPath {
				folder, _, _ := strings.Cut(row.Path, "/")
				split = splitNames[folder]
			}
			row.Path = place.path(row.Path)
			splits[split] = append(splits[split], row)
		}
	}
	notes, err := dropUnlabelled(&splits)
	if err != nil {
		return contents{}, err
	}
	notes = append(g.notes, notes...)
	if splits[0] == nil && !src.NoTrain {
		return contents{}, fmt.Errorf("%s lists no training images", relative(src.root, tables[0].path))
	}
	g, err = assignClasses(names, labels.ids && !named, splits)
	g.notes = append(notes, g.notes...)
	return g, err
}

// namesSplits reports whether every path begins with a folder that has the name of a split. This is
// so for a metadata.csv beside the folders train and test.
func namesSplits(rows []labelled) bool {
	return !slices.ContainsFunc(rows, func(r labelled) bool {
		folder, _, deeper := strings.Cut(r.Path, "/")
		_, ok := splitNames[folder]
		return !ok || !deeper
	})
}

// readTable reads the rows of one table. want is the form of the labels of the first table.
func readTable(ctx context.Context, src source, t table, want labelForm) (*tableData, error) {
	name := relative(src.root, t.path)
	data, err := func() (*tableData, error) {
		if strings.EqualFold(filepath.Ext(t.path), ".parquet") {
			return readMetadataParquet(ctx, src.at, t.path, name, src.OpenOptions, want)
		}
		text, err := readText(src.at, t.path, maxList)
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(filepath.Ext(t.path), ".jsonl") {
			return parseJSONLines(ctx, name, text, src.OpenOptions, want)
		}
		return parseCSV(ctx, name, text, strings.EqualFold(filepath.Ext(t.path), ".tsv"), src.OpenOptions, want)
	}()
	if err != nil {
		return nil, err
	}
	return data, data.checkAbsolute(src)
}

// checkAbsolute returns an error if an absolute path of the table is not allowed. A user who opens
// a table by its own name trusts it. In a folder, which may come from an untrusted source, absolute
// paths must lie in this folder or in the image root.
func (t *tableData) checkAbsolute(src source) error {
	if src.file != "" {
		return nil
	}
	for _, r := range t.rows {
		p := filepath.FromSlash(r.Path)
		if !filepath.IsAbs(p) {
			continue
		}
		inside := func(folder string) bool {
			rel, err := filepath.Rel(folder, p)
			return folder != "" && err == nil && filepath.IsLocal(rel)
		}
		if !inside(src.root) && !inside(src.ImageRoot) {
			return fmt.Errorf("%s: image path %q is absolute and leaves the folder of the data set: set the image root to a folder that holds the image, or open the table %s itself", r.Where, abbreviate(r.Path), t.name)
		}
	}
	return nil
}

// parseCSV reads a table whose first row is the header. The separator is a tab if tabs is true.
// Otherwise it is a comma, or a semicolon if the header has semicolons and no comma. Spreadsheets
// write semicolons in countries with a decimal comma.
func parseCSV(ctx context.Context, name string, text []byte, tabs bool, o OpenOptions, want labelForm) (*tableData, error) {
	r := csv.NewReader(contextReader{ctx, bytes.NewReader(text)})
	if tabs {
		r.Comma, r.LazyQuotes = '\t', true
	} else if first, _, _ := bytes.Cut(bytes.TrimLeft(text, "\r\n"), []byte("\n")); !bytes.ContainsRune(first, ',') && bytes.ContainsRune(first, ';') {
		r.Comma = ';'
	}
	r.ReuseRecord = true
	heading, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is empty", name)
	}
	if err != nil {
		return nil, csvError(name, err, nil, 0)
	}
	b, err := newTableBuilder(name, slices.Clone(heading), o, want)
	if err != nil {
		return nil, fmt.Errorf("%s:1: %w", name, err)
	}
	for i, column := range b.header {
		if first := slices.Index(b.header, column); first < i && (first == b.image || first == b.label) {
			return nil, fmt.Errorf("%s:1: the columns %d and %d are both named %q: rename one of them", name, first+1, i+1, abbreviate(column))
		}
	}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, csvError(name, err, record, len(b.header))
		}
		line, _ := r.FieldPos(0)
		err = b.add(fmt.Sprintf("%s:%d", name, line), func(column int) (string, error) {
			if text := strings.TrimSpace(record[column]); text != "" {
				return text, nil
			}
			return "", errEmptyCell
		}, nil)
		if err != nil {
			return nil, err
		}
	}
	return b.finish()
}

// csvError returns the error for a row of a CSV file that cannot be read. record holds the cells of
// the row if they could be told apart, and columns is the number of columns.
func csvError(name string, err error, record []string, columns int) error {
	e := (*csv.ParseError)(nil)
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", name, err)
	}
	switch e.Err {
	case csv.ErrFieldCount:
		return fmt.Errorf("%s:%d: the row has %d cells, want %d as in the heading: add or remove cells; if it is the last row, the file may be cut short", name, e.StartLine, len(record), columns)
	case csv.ErrQuote, csv.ErrBareQuote:
		return fmt.Errorf("%s:%d: column %d of line %d: found a quotation mark that neither begins nor ends a cell, or a cell without its second mark: write two marks for one inside a cell; if it is the last row, the file may be cut short", name, e.StartLine, e.Column, e.Line)
	}
	return fmt.Errorf("%s:%d: %w", name, e.Line, e.Err)
}

// jsonCut returns the error for JSON that cannot be read. It explains the error for a text that
// ends early.
func jsonCut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("reading JSON: %w: the text ends inside an object, so the file may be cut short", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("reading JSON: %w", err)
}

// parseJSONLines reads a table with one JSON object on each line. The keys of the first object are
// the columns.
func parseJSONLines(ctx context.Context, name string, text []byte, o OpenOptions, want labelForm) (*tableData, error) {
	var b *tableBuilder
	line := 0
	for s := range bytes.Lines(text) {
		line++
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s = bytes.TrimSpace(s); len(s) == 0 {
			continue
		}
		where := fmt.Sprintf("%s:%d", name, line)
		keys, values, err := jsonObject(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if b == nil {
			if b, err = newTableBuilder(name, keys, o, want); err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
		}
		err = b.add(where, func(column int) (string, error) {
			return jsonScalar(values[b.header[column]])
		}, func(column int) ([]string, bool, error) {
			return jsonList(values[b.header[column]])
		})
		if err != nil {
			return nil, err
		}
	}
	if b == nil {
		return nil, fmt.Errorf("%s lists no images", name)
	}
	return b.finish()
}

// jsonObject parses one JSON object and returns its keys in order. It returns an error for a
// duplicate key.
func jsonObject(text []byte) (keys []string, values map[string]json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	token, err := d.Token()
	if err != nil {
		return nil, nil, jsonCut(err)
	}
	if token != json.Delim('{') {
		return nil, nil, fmt.Errorf("found %.80q, want an object such as {\"file_name\": \"a.jpg\", \"label\": \"cat\"}", fmt.Sprint(token))
	}
	values = make(map[string]json.RawMessage)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, nil, jsonCut(err)
		}
		key, ok := token.(string)
		if _, again := values[key]; !ok || again {
			return nil, nil, fmt.Errorf("reading JSON: the key %.80q is listed twice: remove one of them", key)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, jsonCut(err)
		}
		keys, values[key] = append(keys, key), value
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, nil, jsonCut(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("more text follows after the object: write one object on each line")
	}
	return keys, values, nil
}

// jsonScalar returns the text of a JSON string, number, true or false. A number without a fraction,
// such as 1.0 or 1e3, is returned in decimal digits; another number keeps its spelling.
func jsonScalar(raw json.RawMessage) (string, error) {
	if raw == nil {
		return "", errNoKey
	}
	if !utf8.Valid(raw) { // the decoder would replace the invalid bytes
		return "", errors.New("the text is not UTF-8: save the table as UTF-8")
	}
	switch raw[0] {
	case '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", err
		}
		if s = strings.TrimSpace(s); s == "" {
			return "", errEmptyCell
		}
		return s, nil
	case 't', 'f':
		return string(raw), nil
	case 'n':
		return "", errNull
	case '[', '{':
		return "", fmt.Errorf("found %s, want a string or a number", abbreviate(string(raw[:min(len(raw), 2*maxShown)])))
	}
	if f, err := strconv.ParseFloat(string(raw), 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.FormatInt(int64(f), 10), nil
	}
	return string(raw), nil
}

// jsonList returns the labels of a JSON array of strings, numbers, true or false. ok is false for
// another value.
func jsonList(raw json.RawMessage) (labels []string, ok bool, err error) {
	if len(raw) == 0 || raw[0] != '[' {
		return nil, false, nil
	}
	var values []json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, true, err
	}
	labels = []string{}
	for i, v := range values {
		label, err := jsonScalar(v)
		if err == errEmptyCell {
			err = errors.New("the label is empty")
		}
		if err != nil {
			return nil, true, fmt.Errorf("label %d of the list: %w", i+1, err)
		}
		labels = append(labels, label)
	}
	return labels, true, nil
}
