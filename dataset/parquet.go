package dataset

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	parquet "github.com/parquet-go/parquet-go/format"
)

// parquetFiles finds a folder's parquet files, by split: in data, in the folder itself, or in its folders train,
// validation, test. unread are the splits of other names. All three lists are nil where there is no parquet file.
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
				return files, nil, fmt.Errorf("the split of %s has two names: keep one of its folders", filepath.Dir(found[0]))
			}
			files[split] = append(files[split], found...)
		}
		if slices.ContainsFunc(files[:], func(f []string) bool { return f != nil }) {
			return files, nil, nil
		}
	}
	return files, nil, nil
}

// globEscape keeps a folder's name from being a pattern.
func globEscape(s string) string {
	return regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(s, `\$0`)
}

// words divides a name into runs of letters.
var words = regexp.MustCompile(`\pL+`)

// splitOf tells a file's split by its name: by what it begins with, as the datasets library names files, else by the only
// word in it that is a split's name, in any case.
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

// splitShards deals files to splits by their names. Where none is named after a split, all are train.
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

// shard is how the datasets library numbers the files of a split.
var shard = regexp.MustCompile(`-\d+-of-(\d+)\.parquet$`)

// readParquet reads the footers and labels of the Hugging Face hub's image sets.
func readParquet(src source) (g given, err error) {
	var files [3][]string
	var unread []string
	if src.file != "" {
		files[0] = []string{src.file}
	} else if files, unread, err = parquetFiles(src.root); err != nil {
		return given{}, err
	}
	if files[0] == nil {
		return given{}, errors.New("there is no training split: looked for train*.parquet in the folder and in data, and for train/*.parquet")
	}
	r := parquetReader{src: src, cache: new(pageCache)}
	var splits [3][]labelled
	for i, paths := range files {
		if m := shard.FindStringSubmatch(strings.Join(paths[:min(1, len(paths))], "")); m != nil && src.file == "" {
			if n, err := strconv.Atoi(m[1]); err == nil && n != len(paths) {
				return given{}, fmt.Errorf("%s is one of %d files, and %d of them are here: complete the download", filepath.Base(paths[0]), n, len(paths))
			}
		}
		for _, path := range paths {
			rows, err := r.read(path)
			if err != nil {
				return given{}, err
			}
			splits[i] = append(splits[i], rows...)
		}
	}
	if r.names == nil {
		if r.names, err = readmeClassNames(src.root, r.label); err != nil {
			return given{}, err
		}
	}
	if g, err = numbered(r.names, r.integers, splits); err == nil && unread != nil {
		g.note = "; not read: " + strings.Join(unread, ", ")
	}
	return g, err
}

// parquetReader reads the files of one data set. Its columns are those of the first file.
type parquetReader struct {
	src          source
	cache        *pageCache
	image, label string
	integers     bool     // labels are
	names        []string // of classes
}

// read returns a labelled sample for every row.
func (r *parquetReader) read(path string) ([]labelled, error) {
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
		return nil, fmt.Errorf("%s: column %s has another type than in the files before it", p.name, label.path)
	}
	r.image, r.label, r.integers, p.cache = strings.TrimSuffix(p.image.path, ".bytes"), label.path, integers, r.cache
	if r.names == nil && integers {
		if r.names, err = p.classNames(label.path); err != nil {
			return nil, err
		}
	}
	values, err := p.values(label)
	if err != nil {
		return nil, err
	}
	if p.pages, err = p.index(p.image); err != nil {
		return nil, err
	}
	rows := make([]labelled, len(values))
	for i, v := range values {
		where := fmt.Sprintf("%s row %d", p.name, i)
		text := string(v)
		switch {
		case v == nil:
			return nil, fmt.Errorf("%s: there is no label in column %s", where, label.path)
		case len(v) == 8 && integers:
			text = strconv.FormatInt(int64(binary.LittleEndian.Uint64(v)), 10)
		case integers:
			text = strconv.FormatInt(int64(int32(binary.LittleEndian.Uint32(v))), 10)
		}
		if err := checkClassName(where, text, "write column "+label.path+" as UTF-8"); err != nil {
			return nil, err
		}
		rows[i] = labelled{Sample{Path: fmt.Sprintf("%s#%d", p.path, i), Where: where, stored: p, row: i}, text}
	}
	return rows, nil
}

// imageColumn finds the column of image files: a struct with bytes, or bytes alone. want is its name; "" finds it.
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
			return parquetColumn{}, fmt.Errorf("the column %q holds text and no images, which are files within the table, a struct with bytes; a table of paths is read from .csv, .tsv or .jsonl", want)
		}
		return parquetColumn{}, fmt.Errorf("there is no column of images %q, a struct with bytes; there are %s", want, columnNames(columns))
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
	return parquetColumn{}, fmt.Errorf("no column, or more than one, may hold the images; name it (the image column) among %s", columnNames(columns))
}

// labelColumn finds the column of labels. want is its name; "" finds it.
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
			return c, fmt.Errorf("column %s has type %v; labels are integers or strings", name, c.kind)
		}
	}
	return parquetColumn{}, fmt.Errorf("there is no column of labels (looked for %s); name it (the label column) among %s", strings.Join(names, ", "), columnNames(columns))
}

func columnNames(columns []parquetColumn) string {
	var names []string
	for _, c := range columns {
		names = append(names, strconv.Quote(abbreviate(strings.TrimSuffix(c.path, ".bytes"))))
	}
	return abbreviateList(names)
}

func abbreviateList(names []string) string {
	if len(names) > 20 {
		names = append(names[:20:20], "…")
	}
	return strings.Join(names, ", ")
}

// classNames are those that the datasets library writes into a file's metadata; nil if there are none.
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
			return nil, fmt.Errorf("reading %s: its metadata \"huggingface\": %w", p.name, err)
		}
		var feature struct {
			Names []string `json:"names"`
		}
		if err := json.Unmarshal(doc.Info.Features[label], &feature); err != nil || len(feature.Names) == 0 {
			return nil, nil // another kind of feature
		}
		return feature.Names, distinctNames(feature.Names, p.name)
	}
	return nil, nil
}

// distinctNames makes sure that no two classes have one name.
func distinctNames(names []string, where string) error {
	seen := make(map[string]int)
	for i, n := range names {
		if first, ok := seen[n]; ok {
			return fmt.Errorf("%s: classes %d and %d are both named %q", where, first, i, abbreviate(n))
		}
		seen[n] = i
	}
	return nil
}

// readmeClassNames are those in the README.md of a data set on the hub, in its YAML head as the datasets library writes it:
//
//	dataset_info:
//	  features:
//	  - name: label
//	    dtype:
//	      class_label:
//	        names:
//	          '0': cat
//
// nil if there are none there.
func readmeClassNames(root, label string) ([]string, error) {
	path := filepath.Join(root, "README.md")
	text, err := readText(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := yamlClassNames(text, label)
	if err != nil {
		return nil, fmt.Errorf("README.md: %w", err)
	}
	return names, nil
}

func yamlClassNames(text []byte, label string) (names []string, err error) {
	head, ok := bytes.CutPrefix(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("---\n"))
	if !ok {
		return nil, nil
	}
	head, _, _ = bytes.Cut(head, []byte("\n---"))
	feature, classLabel := false, false
	depth := -1 // of the lines "'0': cat"
	for line := range strings.Lines(string(head)) {
		line = strings.TrimRight(line, " \n")
		item := strings.TrimLeft(line, " ")
		indent := len(line) - len(item)
		if depth >= 0 || names != nil {
			if depth = max(depth, indent); indent < depth || item == "" {
				break
			}
			key, value, _ := strings.Cut(item, ":")
			if n, err := strconv.Atoi(yamlText(key)); err != nil || n != len(names) {
				return nil, fmt.Errorf("in the names of %s: found %q, expected class %d and its name", label, abbreviate(item), len(names))
			}
			name := yamlText(value)
			if err := checkClassName(fmt.Sprintf("class %d", len(names)), name, "save the file as UTF-8"); err != nil {
				return nil, err
			}
			names = append(names, name)
			continue
		}
		switch {
		case strings.HasPrefix(item, "- name:"):
			feature, classLabel = yamlText(item[len("- name:"):]) == label, false
		case feature && item == "class_label:":
			classLabel = true
		case feature && classLabel && item == "names:":
			depth = 0
		}
	}
	return names, distinctNames(names, "the names of "+label)
}

// yamlText is a scalar, plain or quoted.
func yamlText(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return strings.ReplaceAll(s[1:len(s)-1], "''", "'")
	}
	if len(s) >= 2 && s[0] == '"' {
		if text, err := strconv.Unquote(s); err == nil {
			return text
		}
	}
	return s
}
