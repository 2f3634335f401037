package dataset

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// A table lists the paths and labels of images. A data set has one of these forms:
//
//   - metadata.csv or metadata.jsonl, as the imagefolder builder of the Hugging Face datasets
//     library reads them,
//   - train.csv, val.csv and test.csv,
//   - one file of any name.

// pathColumns and labelColumns hold the usual names of columns, in lower case. Earlier names take
// precedence.
var (
	pathColumns  = []string{"image", "img", "path", "file", "file_name", "filename", "filepath", "image_path"}
	labelColumns = []string{"label", "labels", "fine_label", "class", "target"}
)

// tableFormats holds the extensions of tables.
var tableFormats = []string{".csv", ".tsv", ".jsonl"}

// table is the file of one table.
type table struct {
	path string

	// split is the split of all images of the table, as in splitNames. It is -1 if a column or the
	// paths name the split of each image.
	split int
}

// recogniseTables reports whether a folder holds tables.
func recogniseTables(_ context.Context, root string) (bool, error) {
	tables, err := findTables(root)
	return tables != nil, err
}

// findTables returns the tables of a folder, or nil if there are none.
func findTables(root string) (tables []table, err error) {
	find := func(folder, name string, split int) error {
		for _, format := range tableFormats {
			file := filepath.Join(root, folder, name+format)
			if found, err := anyExists(filepath.Dir(file), filepath.Base(file)); err != nil {
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
	if err := find("", "metadata", -1); err != nil || tables != nil {
		return tables, err
	}
	for _, place := range []struct{ folder, name string }{{"%s", "metadata"}, {"", "%s"}} {
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
		if tables, err = findTables(src.root); err != nil {
			return contents{}, err
		}
	}
	if tables == nil {
		return contents{}, errors.New("there is no table: looked for metadata, train and train/metadata, each with .csv, .tsv and .jsonl")
	}
	names, err := readClassNames(src.root)
	if err != nil {
		return contents{}, err
	}
	var splits [3][]labelled
	for _, t := range tables {
		if err := ctx.Err(); err != nil {
			return contents{}, err
		}
		rows, err := readTable(src, t)
		if err != nil {
			return contents{}, err
		}
		byPath := t.split < 0 && namesSplits(rows)
		for _, row := range rows {
			split := max(t.split, 0)
			if name := row.split; t.split < 0 && (name != "" || byPath) {
				if name == "" {
					name, _, _ = strings.Cut(row.Path, "/")
				}
				var ok bool
				if split, ok = splitNames[strings.ToLower(name)]; !ok {
					return contents{}, fmt.Errorf("%s: split %q is unknown; known: %s", row.Where, abbreviate(name), strings.Join(slices.Sorted(maps.Keys(splitNames)), ", "))
				}
			}
			row.Path = filepath.Join(filepath.Dir(t.path), filepath.FromSlash(row.Path))
			splits[split] = append(splits[split], row.labelled)
		}
	}
	if splits[0] == nil {
		return contents{}, fmt.Errorf("%s lists no training images", relative(src.root, tables[0].path))
	}
	return assignClasses(names, false, splits)
}

// namesSplits reports whether every path begins with a folder that has the name of a split. This is
// so for a metadata.csv beside the folders train and test.
func namesSplits(rows []tableRow) bool {
	return !slices.ContainsFunc(rows, func(r tableRow) bool {
		folder, _, deeper := strings.Cut(r.Path, "/")
		_, ok := splitNames[folder]
		return !ok || !deeper
	})
}

// tableRow is one image of a table. Its path is clean, relative and local.
type tableRow struct {
	labelled
	split string // text in the column split; "" if there is no such column
}

// readTable reads the rows of one table.
func readTable(src source, t table) ([]tableRow, error) {
	name := relative(src.root, t.path)
	if info, err := os.Stat(t.path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (mode %s)", name, info.Mode())
	}
	text, err := readText(t.path)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(filepath.Ext(t.path), ".jsonl") {
		return parseJSONLines(name, text, src.OpenOptions)
	}
	return parseCSV(name, text, strings.EqualFold(filepath.Ext(t.path), ".tsv"), src.OpenOptions)
}

// parseCSV reads a table whose first row is the header. The separator is a tab if tabs is true.
// Otherwise it is a comma, or a semicolon if the header has semicolons and no comma. Spreadsheets
// write semicolons in countries with a decimal comma.
func parseCSV(name string, text []byte, tabs bool, o OpenOptions) ([]tableRow, error) {
	r := csv.NewReader(bytes.NewReader(text))
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
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	heading = slices.Clone(heading)
	image, label, split, err := tableColumns(heading, o)
	if err != nil {
		return nil, fmt.Errorf("%s:1: %w", name, err)
	}
	var rows []tableRow
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		line, _ := r.FieldPos(0)
		inSplit := ""
		if split >= 0 {
			inSplit = record[split]
		}
		row, err := newTableRow(fmt.Sprintf("%s:%d", name, line), record[image], record[label], inSplit)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if rows == nil {
		return nil, fmt.Errorf("%s lists no images", name)
	}
	return rows, nil
}

// parseJSONLines reads a table with one JSON object on each line. The keys of the first object are
// the columns.
func parseJSONLines(name string, text []byte, o OpenOptions) ([]tableRow, error) {
	var rows []tableRow
	line := 0
	var image, label, split string
	for s := range bytes.Lines(text) {
		line++
		if s = bytes.TrimSpace(s); len(s) == 0 {
			continue
		}
		where := fmt.Sprintf("%s:%d", name, line)
		keys, values, err := jsonObject(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if rows == nil {
			i, l, p, err := tableColumns(keys, o)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			if image, label = keys[i], keys[l]; p >= 0 {
				split = keys[p]
			}
		}
		var texts [3]string
		for i, key := range []string{image, label, split} {
			raw, ok := values[key]
			if i == 2 && (!ok || key == "") {
				continue // there is no column split, and "" may be the key of another column
			}
			if !utf8.Valid(raw) { // the decoder would replace the invalid bytes
				return nil, fmt.Errorf("%s: %q is not UTF-8: save the table as UTF-8", where, abbreviate(key))
			}
			if texts[i], err = jsonScalar(raw); err != nil {
				return nil, fmt.Errorf("%s: %q: %w", where, abbreviate(key), err)
			}
		}
		row, err := newTableRow(where, texts[0], texts[1], texts[2])
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if rows == nil {
		return nil, fmt.Errorf("%s lists no images", name)
	}
	return rows, nil
}

// jsonObject parses one JSON object and returns its keys in order. It returns an error for a
// duplicate key.
func jsonObject(text []byte) (keys []string, values map[string]json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	token, err := d.Token()
	if err != nil {
		return nil, nil, fmt.Errorf("reading JSON: %w", err)
	}
	if token != json.Delim('{') {
		return nil, nil, fmt.Errorf("found %v, want an object such as {\"file_name\": \"a.jpg\", \"label\": \"cat\"}", token)
	}
	values = make(map[string]json.RawMessage)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, nil, fmt.Errorf("reading JSON: %w", err)
		}
		key, ok := token.(string)
		if _, again := values[key]; !ok || again {
			return nil, nil, fmt.Errorf("reading JSON: the key %q is listed twice: remove one of them", token)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, fmt.Errorf("reading JSON: %w", err)
		}
		keys, values[key] = append(keys, key), value
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, nil, fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("more text follows after the object: write one object on each line")
	}
	return keys, values, nil
}

// jsonScalar returns the text of a JSON string or number. A number keeps its spelling.
func jsonScalar(raw json.RawMessage) (string, error) {
	var s string
	if raw == nil {
		return "", errors.New("the key is missing")
	}
	if json.Unmarshal(raw, &s) == nil && raw[0] == '"' {
		return s, nil
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil && raw[0] != 'n' { // null
		return n.String(), nil
	}
	return "", fmt.Errorf("found %s, want a string or a number", abbreviate(string(raw)))
}

// tableColumns returns the indices of the columns that hold the paths, the labels and the splits.
// split is -1 if there is no such column.
func tableColumns(names []string, o OpenOptions) (image, label, split int, err error) {
	find := func(what, want string, known []string) (int, error) {
		if want != "" {
			known = []string{want}
		}
		for _, k := range known {
			for i, n := range names {
				if want != "" && n == want || want == "" && strings.ToLower(strings.TrimSpace(n)) == k {
					return i, nil
				}
			}
		}
		var quoted []string
		for _, n := range names {
			quoted = append(quoted, fmt.Sprintf("%q", abbreviate(n)))
		}
		return -1, fmt.Errorf("there is no column of %s (looked for %s) among %s: rename a column, or name the %s column", what, strings.Join(known, ", "), abbreviateList(quoted), strings.TrimSuffix(what, "s"))
	}
	if image, err = find("images", o.ImageColumn, pathColumns); err != nil {
		return 0, 0, 0, err
	}
	if label, err = find("labels", o.LabelColumn, labelColumns); err != nil {
		return 0, 0, 0, err
	}
	split, _ = find("splits", "", []string{"split"})
	return image, label, split, nil
}

// newTableRow checks the cells of a row and returns the row. If a path has no slashes, newTableRow
// takes backslashes as separators of folders, as on Windows.
func newTableRow(where, image, label, split string) (tableRow, error) {
	image, label, split = strings.TrimSpace(image), strings.TrimSpace(label), strings.TrimSpace(split)
	if !strings.Contains(image, "/") {
		image = strings.ReplaceAll(image, `\`, "/")
	}
	p, err := localPath(image)
	switch {
	case err != nil:
		return tableRow{}, fmt.Errorf("%s: %w", where, err)
	case p == ".":
		return tableRow{}, fmt.Errorf("%s: image path %q is a folder: give the path of a file", where, image)
	case label == "":
		return tableRow{}, fmt.Errorf("%s: the label is empty: add a label or remove the row", where)
	}
	if err := checkClassName(where, label, "save the table as UTF-8"); err != nil {
		return tableRow{}, err
	}
	return tableRow{labelled{Sample{Path: path.Clean(p), Where: where}, label}, split}, nil
}
