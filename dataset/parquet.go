package dataset

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	parquet "github.com/parquet-go/parquet-go/format"
)

// recogniseParquet reports whether a folder holds the parquet files of a training split.
func recogniseParquet(_ context.Context, root string) (bool, error) {
	files, _, err := parquetFiles(root)
	return files[0] != nil, err
}

// parquetFiles returns the parquet files of each split. It looks in the folder data first and then
// in root. In each of them, the files lie directly in the folder or in its folders train,
// validation and test. unread holds the names of other splits. All three lists are nil if there is
// no parquet file.
func parquetFiles(root string) (files [3][]string, unread []string, err error) {
	for _, base := range []string{filepath.Join(root, "data"), root} {
		flat, err := filepath.Glob(filepath.Join(globEscape(base), "*.parquet"))
		if err != nil {
			return files, nil, err
		}
		if len(flat) > 0 {
			files, unread = splitShards(flat)
			return files, unread, nil
		}
		for name, split := range splitNames {
			found, err := filepath.Glob(filepath.Join(globEscape(base), name, "*.parquet"))
			if err != nil {
				return files, nil, err
			}
			if files[split] != nil && found != nil {
				return files, nil, fmt.Errorf("the folder %s and another folder hold the same split: keep one of them", filepath.Dir(found[0]))
			}
			files[split] = append(files[split], found...)
		}
		if slices.ContainsFunc(files[:], func(f []string) bool { return f != nil }) {
			return files, nil, nil
		}
	}
	return files, nil, nil
}

// globEscape escapes the characters in a path that have a special meaning in patterns.
func globEscape(s string) string {
	return regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(s, `\$0`)
}

// words matches sequences of letters.
var words = regexp.MustCompile(`\pL+`)

// splitOf returns the split that a file belongs to by its name. If the first word of the name is
// the name of a split, it decides; the datasets library names files in this way. Otherwise the
// split is the only one that any word names.
func splitOf(name string) (split int, ok bool) {
	found := map[int]bool{}
	for i, word := range words.FindAllString(strings.ToLower(name), -1) {
		if s, is := splitNames[word]; is {
			split, found[s] = s, true
			if i == 0 {
				return s, true
			}
		}
	}
	return split, len(found) == 1
}

// splitShards assigns files to splits by their names. If no file name contains the name of a split,
// all files belong to the training split. unread holds the names of other splits.
func splitShards(paths []string) (files [3][]string, unread []string) {
	slices.Sort(paths)
	for _, p := range paths {
		name := strings.TrimSuffix(filepath.Base(p), ".parquet")
		prefix := name[:len(name)-len(strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz"))]
		if split, ok := splitOf(name); ok {
			files[split] = append(files[split], p)
		} else if !slices.Contains(unread, cmp.Or(prefix, name)) {
			unread = append(unread, cmp.Or(prefix, name))
		}
	}
	if files[0] == nil && files[1] == nil && files[2] == nil {
		files[0], unread = paths, nil
	}
	return files, unread
}

// shard matches the end of a file name of the datasets library. It holds the number of files in the
// split.
var shard = regexp.MustCompile(`-\d+-of-(\d+)\.parquet$`)

// readParquet reads data sets in parquet files, as on the Hugging Face Hub. It reads the footers
// and the labels but not the images.
func readParquet(ctx context.Context, src source) (g contents, err error) {
	var files [3][]string
	var unread []string
	if src.file != "" {
		files[0] = []string{src.file}
	} else if files, unread, err = parquetFiles(src.root); err != nil {
		return contents{}, err
	}
	if files[0] == nil {
		return contents{}, errors.New("there is no training split: looked for train*.parquet and train/*.parquet in the folder and in data")
	}
	r := parquetReader{src: src, cache: new(pageCache)}
	var splits [3][]labelled
	for i, paths := range files {
		if m := shard.FindStringSubmatch(strings.Join(paths[:min(1, len(paths))], "")); m != nil && src.file == "" {
			if n, err := strconv.Atoi(m[1]); err == nil && n != len(paths) {
				return contents{}, fmt.Errorf("%s is one of %d files, but the folder has only %d of them: download the others", filepath.Base(paths[0]), n, len(paths))
			}
		}
		for _, path := range paths {
			rows, err := r.read(ctx, path)
			if err != nil {
				return contents{}, err
			}
			splits[i] = append(splits[i], rows...)
		}
	}
	if r.names == nil {
		if r.names, err = readmeClassNames(src.root, r.label); err != nil {
			return contents{}, err
		}
	}
	if g, err = assignClasses(r.names, r.integers, splits); err == nil && unread != nil {
		g.note = "; not read: " + strings.Join(unread, ", ")
	}
	return g, err
}

// parquetReader reads the files of one data set. The first file determines the columns.
type parquetReader struct {
	src          source
	cache        *pageCache
	image, label string   // names of the columns; "" before the first file
	integers     bool     // the labels are integers
	names        []string // class names; nil if none have been found yet
}

// read returns a labelled sample for every row of a file.
func (r *parquetReader) read(ctx context.Context, path string) ([]labelled, error) {
	p, err := openParquet(path, relative(r.src.root, path))
	if err != nil {
		return nil, err
	}
	columns, err := p.columns()
	if err != nil {
		return nil, err
	}
	first := r.image == ""
	if first {
		r.image, r.label = r.src.ImageColumn, r.src.LabelColumn
	}
	var label parquetColumn
	if p.image, err = imageColumn(columns, r.image); err == nil {
		label, err = labelColumn(columns, r.label)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	integers := label.kind != parquet.ByteArray
	if !first && integers != r.integers {
		return nil, fmt.Errorf("%s: column %s has a different type than in the previous files: write all files with the same type", p.name, label.path)
	}
	r.image, r.label, r.integers, p.cache = strings.TrimSuffix(p.image.path, ".bytes"), label.path, integers, r.cache
	if r.names == nil && integers {
		if r.names, err = p.classNames(label.path); err != nil {
			return nil, err
		}
	}
	values, err := p.values(ctx, label)
	if err != nil {
		return nil, err
	}
	if p.pages, err = p.index(ctx, p.image); err != nil {
		return nil, err
	}
	rows := make([]labelled, len(values))
	for i, v := range values {
		where := fmt.Sprintf("%s row %d", p.name, i)
		text := string(v)
		switch {
		case v == nil:
			return nil, fmt.Errorf("%s: column %s has no label: remove the row or add a label", where, label.path)
		case len(v) == 8 && integers:
			text = strconv.FormatInt(int64(binary.LittleEndian.Uint64(v)), 10)
		case integers:
			text = strconv.FormatInt(int64(int32(binary.LittleEndian.Uint32(v))), 10)
		}
		if err := checkClassName(where, text, "write column "+label.path+" as UTF-8"); err != nil {
			return nil, err
		}
		rows[i] = labelled{Sample{Path: fmt.Sprintf("%s#%d", p.path, i), Where: where, stored: parquetRow{p, i}}, text}
	}
	return rows, nil
}

// imageColumn returns the column that holds encoded images. Its type is a struct with the field
// bytes, or bytes. want is the name of the column. If want is "", imageColumn returns the only
// column with such a struct. If there is not exactly one, it returns the first column with a usual
// name.
func imageColumn(columns []parquetColumn, want string) (parquetColumn, error) {
	var structs []parquetColumn
	find := func(name string) (c parquetColumn, ok bool) {
		i := slices.IndexFunc(columns, func(c parquetColumn) bool {
			return c.kind == parquet.ByteArray && (c.path == name+".bytes" || c.path == name && !c.text)
		})
		if i < 0 {
			return c, false
		}
		return columns[i], true
	}
	if want != "" {
		if c, ok := find(want); ok {
			return c, nil
		}
		if slices.ContainsFunc(columns, func(c parquetColumn) bool { return c.path == want && c.text }) {
			return parquetColumn{}, fmt.Errorf("column %q holds text, not images: name a column of encoded images, or list the paths of the images in a .csv, .tsv or .jsonl table", want)
		}
		return parquetColumn{}, fmt.Errorf("no column %q holds encoded images (a struct with bytes, or bytes); the columns are %s", want, columnNames(columns))
	}
	for _, c := range columns {
		if c.kind == parquet.ByteArray && strings.HasSuffix(c.path, ".bytes") {
			structs = append(structs, c)
		}
	}
	if len(structs) == 1 {
		return structs[0], nil
	}
	for _, name := range pathColumns {
		if c, ok := find(name); ok {
			return c, nil
		}
	}
	return parquetColumn{}, fmt.Errorf("the image column is unknown, because no column or several columns may hold images: name the image column, one of %s", columnNames(columns))
}

// labelColumn returns the column of labels. want is the name of the column. If want is "",
// labelColumn returns the first column with a usual name.
func labelColumn(columns []parquetColumn, want string) (parquetColumn, error) {
	names := labelColumns
	if want != "" {
		names = []string{want}
	}
	for _, name := range names {
		for _, c := range columns {
			if c.path != name {
				continue
			}
			switch c.kind {
			case parquet.Int32, parquet.Int64, parquet.ByteArray:
				return c, nil
			}
			return c, fmt.Errorf("column %s has type %v, expected integers or strings; name another label column", name, c.kind)
		}
	}
	return parquetColumn{}, fmt.Errorf("there is no column of labels (looked for %s): name the label column, one of %s", strings.Join(names, ", "), columnNames(columns))
}

// columnNames returns the names of columns for an error message.
func columnNames(columns []parquetColumn) string {
	var names []string
	for _, c := range columns {
		names = append(names, strconv.Quote(abbreviate(strings.TrimSuffix(c.path, ".bytes"))))
	}
	return abbreviateList(names)
}

// abbreviateList joins the first twenty names for an error message.
func abbreviateList(names []string) string {
	if len(names) > 20 {
		names = append(names[:20:20], "…")
	}
	return strings.Join(names, ", ")
}

// classNames returns the class names of the column label from the metadata that the datasets
// library writes. It returns nil if there are none.
func (p *parquetFile) classNames(label string) ([]string, error) {
	for _, kv := range p.meta.KeyValueMetadata {
		if kv.Key != "huggingface" {
			continue
		}
		var doc struct {
			Info struct {
				Features map[string]json.RawMessage `json:"features"`
			} `json:"info"`
		}
		if err := json.Unmarshal([]byte(kv.Value), &doc); err != nil {
			return nil, fmt.Errorf("reading %s, metadata \"huggingface\": %w", p.name, err)
		}
		var feature struct {
			Names []string `json:"names"`
		}
		if err := json.Unmarshal(doc.Info.Features[label], &feature); err != nil || len(feature.Names) == 0 {
			return nil, nil // the feature has no class names
		}
		return feature.Names, distinctNames(feature.Names, p.name)
	}
	return nil, nil
}

// distinctNames returns an error if two classes have the same name. where is the beginning of the
// error.
func distinctNames(names []string, where string) error {
	seen := make(map[string]int)
	for i, n := range names {
		if first, ok := seen[n]; ok {
			return fmt.Errorf("%s: classes %d and %d are both named %q: give them different names", where, first, i, abbreviate(n))
		}
		seen[n] = i
	}
	return nil
}
