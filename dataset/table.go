package dataset

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// A table lists the paths and labels of images. It is metadata.csv or metadata.jsonl, as the
// imagefolder builder of Hugging Face's datasets library has it; or train.csv, val.csv and
// test.csv; or one file of any name.

// The usual names of columns, in lower case.
var (
	pathColumns  = []string{"image", "img", "path", "file", "file_name", "filename", "filepath", "image_path"}
	labelColumns = []string{"label", "labels", "fine_label", "class", "target"}
)

// tableFormats are the extensions of tables.
var tableFormats = []string{".csv", ".tsv", ".jsonl"}

// table is the file of one table.
type table struct {
	path  string
	split int // the split that it lists; -1: a column or the paths name the split of each image
}

// recogniseTables reports whether a folder holds tables.
func recogniseTables(_ context.Context, root string) (bool, error) {
	tables, err := findTables(root)
	return tables != nil, err
}

// findTables returns the tables of a folder, nil if there are none.
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
					return fmt.Errorf("found both %s and %s: keep one", relative(root, t.path), relative(root, file))
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

// relative returns a path as seen from root, with slashes, for messages and fingerprints.
func relative(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil {
		path = rel
	}
	return filepath.ToSlash(path)
}

// readTables reads a data set that is listed in tables.
func readTables(ctx context.Context, src source) (given, error) {
	g, err := readTableSplits(ctx, src)
	if err != nil && ctx.Err() == nil && src.Layout == "" && src.file == "" {
		// Other programs use the same file names for other things.
		err = fmt.Errorf("%w (the file is taken for a table of images; to read folders of classes beside it, choose the layout imagefolder)", err)
	}
	return g, err
}

func readTableSplits(ctx context.Context, src source) (g given, err error) {
	tables := []table{{src.file, -1}}
	if src.file == "" {
		if tables, err = findTables(src.root); err != nil {
			return given{}, err
		}
	}
	if tables == nil {
		return given{}, errors.New("there is no table: looked for metadata and train with .csv, .tsv and .jsonl, and for train/metadata")
	}
	names, err := readClassNames(src.root)
	if err != nil {
		return given{}, err
	}
	var splits [3][]labelled
	for _, t := range tables {
		if err := ctx.Err(); err != nil {
			return given{}, err
		}
		rows, err := readTable(src, t)
		if err != nil {
			return given{}, err
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
					return given{}, fmt.Errorf("%s: split %q is none of train, val, valid, validation, test", row.Where, abbreviate(name))
				}
			}
			row.Path = filepath.Join(filepath.Dir(t.path), filepath.FromSlash(row.Path))
			splits[split] = append(splits[split], row.labelled)
		}
	}
	if splits[0] == nil {
		return given{}, fmt.Errorf("%s lists no training images", relative(src.root, tables[0].path))
	}
	return assignClasses(names, false, splits)
}

// namesSplits reports whether every path begins with the folder of a split, as in a metadata.csv
// that lies beside the folders train and test.
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
	split string // text of the column split; "" if there is no such column
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

// parseCSV reads a table with a heading. Tabs or commas divide its columns. Semicolons divide them
// if the heading has semicolons and no comma: spreadsheets write so where decimals have a comma.
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

// parseJSONLines reads a JSON object on each line. The keys of the first object are the columns.
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
				continue // there is no column of splits; "" may be the key of another column
			}
			if !utf8.Valid(raw) { // the decoder would replace the bytes
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

// jsonObject reads one object and returns its keys in order. A key that is there twice is an error.
func jsonObject(text []byte) (keys []string, values map[string]json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	token, err := d.Token()
	if err != nil {
		return nil, nil, fmt.Errorf("reading json: %w", err)
	}
	if token != json.Delim('{') {
		return nil, nil, fmt.Errorf("found %v, want an object such as {\"file_name\": \"a.jpg\", \"label\": \"cat\"}", token)
	}
	values = make(map[string]json.RawMessage)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, nil, fmt.Errorf("reading json: %w", err)
		}
		key, ok := token.(string)
		if _, again := values[key]; !ok || again {
			return nil, nil, fmt.Errorf("reading json: the key %q is there twice", token)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, fmt.Errorf("reading json: %w", err)
		}
		keys, values[key] = append(keys, key), value
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, nil, fmt.Errorf("reading json: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("more follows after the object: write one object on each line")
	}
	return keys, values, nil
}

// jsonScalar returns a string, or a number as it is written.
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

// tableColumns finds the columns of paths, labels and splits among the columns of a table. split is
// -1 if there is no column of splits.
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
		return -1, fmt.Errorf("there is no column of %s (looked for %s) among %s: give the column such a heading, or name the %s column", what, strings.Join(known, ", "), abbreviateList(quoted), strings.TrimSuffix(what, "s"))
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

// newTableRow checks a row. In a path without slashes, backslashes divide the folders, as on
// Windows.
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
		return tableRow{}, fmt.Errorf("%s: image path %q is a folder", where, image)
	case label == "":
		return tableRow{}, fmt.Errorf("%s: the label is empty", where)
	}
	if err := checkClassName(where, label, "save the table as UTF-8"); err != nil {
		return tableRow{}, err
	}
	return tableRow{labelled{Sample{Path: path.Clean(p), Where: where}, label}, split}, nil
}
