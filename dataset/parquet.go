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
func recogniseParquet(_ context.Context, src source) (bool, error) {
	found, err := parquetFiles(src.at, src.root)
	return found.any(), err
}

// parquetSet lists the parquet files of a data set.
type parquetSet struct {
	files  [3][]string // by split
	unread []string    // names of other splits
	config string      // name of the folder of the configuration; "" if the files are not in one
	named  bool        // the name of some file or folder names a split
}

// maxConfigs limits the number of folders in which parquetFiles looks for configurations, because
// the folders may be classes with many images.
const maxConfigs = 200

func (p parquetSet) any() bool {
	return slices.ContainsFunc(p.files[:], func(f []string) bool { return f != nil })
}

// parquetFiles returns the parquet files of a data set. It looks in the folder data, then in root,
// and then in the other folders of root, which are configurations of the datasets library. In each
// of them, the files lie directly in the folder or in its folders train, validation and test.
func parquetFiles(at files, root string) (set parquetSet, err error) {
	for _, base := range []string{filepath.Join(root, "data"), root} {
		if set, err = shardsIn(at, base, parquetName); err != nil || set.any() {
			return set, err
		}
	}
	if tables, err := findTables(at, root); err != nil || tables != nil {
		return set, err
	}
	folders, err := subfolders(at, root)
	if err != nil || len(folders) > maxConfigs {
		return set, err
	}
	var found []string
	for _, f := range folders {
		one, err := shardsIn(at, filepath.Join(root, f), parquetName)
		if err != nil {
			return parquetSet{}, err
		}
		if one.any() && one.named {
			set, found = one, append(found, f)
			set.config = f
		}
	}
	if len(found) > 1 {
		return parquetSet{}, fmt.Errorf("the folder has several configurations of a data set: %s; open one of them, such as %s", abbreviateList(found), filepath.Join(root, found[0]))
	}
	return set, nil
}

// parquetName is the end of the name of a parquet file.
const parquetName = ".parquet"

// shardsIn returns the files in a folder and in its folders train, validation and test whose names
// end with ext. It does not return metadataTable.
func shardsIn(at files, base, ext string) (set parquetSet, err error) {
	glob := func(pattern string) ([]string, error) {
		found, err := globIn(at, base, pattern)
		return slices.DeleteFunc(found, func(p string) bool { return filepath.Base(p) == metadataTable }), err
	}
	flat, err := glob("*" + ext)
	if err != nil {
		return set, err
	}
	if len(flat) > 0 {
		set.files, set.unread, set.named = splitShards(flat)
		return set, nil
	}
	for name, split := range splitNames {
		found, err := glob(name + "/*" + ext)
		if err != nil {
			return set, err
		}
		if len(found) == 0 {
			continue
		}
		if set.files[split] != nil {
			return set, fmt.Errorf("the folder %s and another folder hold the same split: keep one of them", filepath.Dir(found[0]))
		}
		set.files[split], set.named = found, true
	}
	return set, nil
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
// all files belong to the training split, and named is false. unread holds the names of other
// splits.
func splitShards(paths []string) (files [3][]string, unread []string, named bool) {
	slices.Sort(paths)
	for _, p := range paths {
		name := strings.TrimSuffix(filepath.Base(p), filepath.Ext(p))
		prefix := name[:len(name)-len(strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz"))]
		if split, ok := splitOf(name); ok {
			files[split] = append(files[split], p)
		} else if !slices.Contains(unread, cmp.Or(prefix, name)) {
			unread = append(unread, cmp.Or(prefix, name))
		}
	}
	if files[0] == nil && files[1] == nil && files[2] == nil {
		files[0] = paths
		return files, nil, false
	}
	return files, unread, true
}

// shard matches the end of a file name of the datasets library. It holds the number of files in the
// split.
var shard = regexp.MustCompile(`-\d+-of-(\d+)\.parquet$`)

// readParquet reads data sets in parquet files, as on the Hugging Face Hub. It reads the footers
// and the labels but not the images.
func readParquet(ctx context.Context, src source) (g contents, err error) {
	var set parquetSet
	if src.shards != nil {
		set = *src.shards
	} else if src.file != "" {
		set.files[0] = []string{src.file}
	} else if set, err = parquetFiles(src.at, src.root); err != nil {
		return contents{}, err
	}
	if set.files[0] == nil && !(src.NoTrain && set.any()) {
		return contents{}, errors.New("there is no training split: looked for train*.parquet and train/*.parquet in the folder and in data")
	}
	r := parquetReader{src: src, cache: new(pageCache)}
	var splits [3][]labelled
	for i, paths := range set.files {
		if m := shard.FindStringSubmatch(strings.Join(paths[:min(1, len(paths))], "")); m != nil && src.file == "" {
			if n, err := strconv.Atoi(m[1]); err == nil && n != len(paths) {
				return contents{}, fmt.Errorf("%s is one of %d files, but the folder has only %d of them: download the others", filepath.Base(paths[0]), n, len(paths))
			}
		}
		for _, path := range paths {
			rows, err := r.read(ctx, path, i == 0)
			if err != nil {
				return contents{}, err
			}
			splits[i] = append(splits[i], rows...)
		}
	}
	if len(splits[0])+len(splits[1])+len(splits[2]) == 0 {
		return contents{}, fmt.Errorf("%s and the other files have no rows, expected a row for each image", r.first)
	}
	if r.names == nil {
		if r.names, err = readmeNames(src.at, src.root, set.config, r.label); err != nil {
			return contents{}, err
		}
	}
	notes, err := r.divide(&splits)
	if err != nil {
		return contents{}, err
	}
	unlabelled, err := dropUnlabelled(&splits)
	if err != nil {
		return contents{}, err
	}
	if g, err = assignClasses(r.names, r.integers, splits); err != nil {
		return contents{}, fmt.Errorf("column %s: %w", abbreviate(r.label), err)
	}
	g.notes = slices.Concat(notes, unlabelled, g.notes)
	if set.config != "" && src.shards == nil {
		g.notes = append(g.notes, fmt.Sprintf("the files are in the folder %q, the only configuration of the data set", set.config))
	}
	if set.unread != nil {
		g.note = "; not read: " + strings.Join(set.unread, ", ")
	}
	return g, nil
}

// parquetReader reads the files of one data set. The first file determines the columns.
type parquetReader struct {
	src          source
	cache        *pageCache
	image, label string   // names of the columns; "" before the first file
	first        string   // name of the first file
	labels       string   // what the column of labels holds in it
	integers     bool     // the labels are integers
	several      bool     // an image has any number of labels
	names        []string // class names; nil if none have been found yet

	splits []*splitColumn // columns of the training files that may state splits
	notes  []string       // see Dataset.Notes
}

// readSplits reads the columns that may state the splits of the rows of a file.
func (r *parquetReader) readSplits(ctx context.Context, p *parquetFile, columns []parquetColumn) error {
	if r.splits == nil {
		var names []string
		for _, c := range columns {
			names = append(names, c.path)
		}
		for _, c := range newSplitColumns(names) {
			switch kind := columns[c.index].kind; {
			case c.name == r.label:
			case kind == parquet.ByteArray || kind == parquet.Int32 || kind == parquet.Int64:
				r.splits = append(r.splits, c)
			default:
				r.notes = append(r.notes, fmt.Sprintf("%s: column %q is not used: its type is %v, expected strings or integers", p.name, abbreviate(c.name), kind))
			}
		}
	}
	for _, c := range r.splits {
		at := slices.IndexFunc(columns, func(other parquetColumn) bool { return other.path == c.name })
		values := make([][]byte, p.rows)
		if at >= 0 {
			var err error
			if values, err = p.values(ctx, columns[at]); err != nil {
				return err
			}
		}
		for i, v := range values {
			text := ""
			if v != nil {
				text = parquetText(v, columns[at].kind)
			}
			c.add(fmt.Sprintf("%s row %d", p.name, i), text)
		}
	}
	return nil
}

// divide moves the rows of the training files to the splits that a column states. It returns notes
// about columns that are not used.
func (r *parquetReader) divide(splits *[3][]labelled) (notes []string, err error) {
	if splits[0] == nil {
		return r.notes, nil
	}
	given, notes, err := splitsOf(r.splits, "training files", 0)
	notes = append(r.notes, notes...)
	if err != nil || given == nil {
		return notes, err
	}
	rows := splits[0]
	splits[0] = nil
	for i, s := range given {
		splits[s] = append(splits[s], rows[i])
	}
	return notes, nil
}

// readmeNames returns the class names of the column label from README.md in the folder root of the
// data set. config is the name of the configuration in a folder of root, or "". The folder that was
// opened may itself be the folder of a configuration, whose README.md lies in the folder above.
func readmeNames(at files, root, config, label string) ([]string, error) {
	names, err := readmeClassNames(at, root, config, label)
	if config != "" && names == nil && err == nil { // the file may not list configurations
		return readmeClassNames(at, root, "", label)
	}
	if names == nil && err == nil { // a file that cannot be read may belong to something else
		if above, err := readmeClassNames(at, filepath.Dir(root), filepath.Base(root), label); err == nil {
			names = above
		}
	}
	return names, err
}

// mayLabel reports whether a column of lists may be the column of labels: it has the name that the
// user or an earlier table gave, or a usual name. Other columns of lists are not read.
func (o OpenOptions) mayLabel(column string, want labelForm) bool {
	if o.LabelColumn != "" {
		return column == o.LabelColumn
	}
	return column == want.column || slices.Contains(labelColumns, strings.ToLower(column))
}

// parquetText returns the text of a value. Integers are in decimal digits.
func parquetText(v []byte, kind parquet.Type) string {
	switch {
	case kind == parquet.ByteArray:
		return string(v)
	case len(v) == 8:
		return strconv.FormatInt(int64(binary.LittleEndian.Uint64(v)), 10)
	}
	return strconv.FormatInt(int64(int32(binary.LittleEndian.Uint32(v))), 10)
}

// read returns a labelled sample for every row of a file. train reports whether the file is of the
// training split, whose rows may have a column that states their split.
func (r *parquetReader) read(ctx context.Context, path string, train bool) ([]labelled, error) {
	p, err := openParquet(r.src.at, path, relative(r.src.root, path), minImageBytes, 1000)
	if err != nil {
		return nil, err
	}
	return r.rows(ctx, p, train)
}

// rows is read for an open file.
func (r *parquetReader) rows(ctx context.Context, p *parquetFile, train bool) ([]labelled, error) {
	all, err := p.columnsAndLists()
	if err != nil {
		return nil, err
	}
	columns := withoutLists(all)
	first := r.image == ""
	if first {
		r.image, r.label = r.src.ImageColumn, r.src.LabelColumn
	}
	var label parquetColumn
	if p.image, err = p.imageColumn(columns, r.image); err == nil {
		label, err = p.labelColumn(all, r.label)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	integers := label.kind != parquet.ByteArray
	several := label.list || r.src.LabelDelimiter != ""
	if label.list && r.src.LabelDelimiter != "" {
		return nil, fmt.Errorf("%s: column %s holds lists of labels: leave out the delimiter of labels", p.name, abbreviate(label.path))
	}
	if first {
		r.first, r.labels = p.name, p.holdsOf(label.path)
	} else if integers != r.integers || several != r.several {
		return nil, fmt.Errorf("%s: column %s holds %s, expected %s as in %s: write all files with the same type", p.name, abbreviate(label.path), p.holdsOf(label.path), r.labels, r.first)
	}
	r.image, r.label, r.integers, r.several, p.cache = strings.TrimSuffix(p.image.path, ".bytes"), label.path, integers, several, r.cache
	if r.names == nil && integers {
		if r.names, err = p.classNames(label.path); err != nil {
			return nil, err
		}
	}
	rows, err := p.labels(ctx, label, r.src.LabelDelimiter)
	if err != nil {
		return nil, err
	}
	if p.pages, err = p.index(ctx, p.image); err != nil {
		return nil, err
	}
	if p.rows > 0 && p.nulls(p.image) >= int64(p.rows) && !r.src.SkipBadImages {
		return nil, fmt.Errorf("%s: column %s holds null in all %d rows, expected the bytes of images: %s", p.name, abbreviate(p.image.path), p.rows, storeBytes)
	}
	if train {
		if err := r.readSplits(ctx, p, columns); err != nil {
			return nil, err
		}
	}
	groups, err := r.groups(ctx, p, columns, train)
	if err != nil {
		return nil, err
	}
	p.meta = parquet.FileMetaData{} // all that is needed of it is in p
	for i := range rows {
		rows[i].Sample = Sample{Path: fmt.Sprintf("%s#%d", p.path, i), Where: rows[i].Where, stored: parquetRow{p, i}}
		if groups != nil {
			rows[i].Group = groups[i]
		}
	}
	return rows, nil
}

// labels returns the labels of a column in every row, and the place of the row. delimiter is that
// of OpenOptions.
func (p *parquetFile) labels(ctx context.Context, c parquetColumn, delimiter string) (rows []labelled, err error) {
	rows = make([]labelled, p.rows)
	var lists [][][]byte
	var values [][]byte
	if c.list {
		lists, err = p.lists(ctx, c)
	} else {
		values, err = p.values(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		row := &rows[i]
		row.Where, row.several = fmt.Sprintf("%s row %d", p.name, i), c.list || delimiter != ""
		switch {
		case c.list && lists[i] != nil:
			row.list = make([]string, len(lists[i]))
			for k, v := range lists[i] {
				row.list[k] = parquetText(v, c.kind)
			}
			err = distinctLabels(row.list)
		case c.list || values[i] == nil:
			row.missing = fmt.Errorf("column %s has no label: remove the row or add a label", abbreviate(c.path))
		case delimiter != "":
			row.list, err = splitLabels(parquetText(values[i], c.kind), delimiter)
		default:
			row.label = parquetText(values[i], c.kind)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: column %s: %w", row.Where, abbreviate(c.path), err)
		}
		for _, text := range row.labels() {
			if err := checkClassName(row.Where, text, "write column "+abbreviate(c.path)+" as UTF-8"); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

// groups returns the group of each row of a file. It returns nil if the options name no column of
// groups, and for a file of another split than train that lacks the column.
func (r *parquetReader) groups(ctx context.Context, p *parquetFile, columns []parquetColumn, train bool) ([]string, error) {
	if r.src.GroupColumn == "" {
		return nil, nil
	}
	at := slices.IndexFunc(columns, func(c parquetColumn) bool { return c.path == r.src.GroupColumn })
	if at < 0 {
		if !train {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: there is no column of groups %q: name one of %s", p.name, abbreviate(r.src.GroupColumn), p.describeColumns())
	}
	kind := columns[at].kind
	if kind != parquet.ByteArray && kind != parquet.Int32 && kind != parquet.Int64 {
		return nil, fmt.Errorf("%s: the column of groups %s holds %s, expected integers or strings; name another column", p.name, abbreviate(r.src.GroupColumn), columns[at].values)
	}
	values, err := p.values(ctx, columns[at])
	if err != nil {
		return nil, err
	}
	groups := make([]string, len(values))
	for i, v := range values {
		if v != nil {
			groups[i] = strings.TrimSpace(parquetText(v, kind))
		}
	}
	return groups, nil
}

// imageColumn returns the column that holds encoded images. Its type is a struct with the field
// bytes, or bytes. want is the name of the column. If want is "", imageColumn returns the only
// column with such a struct. If there is not exactly one, it returns the first column with a usual
// name.
func (p *parquetFile) imageColumn(columns []parquetColumn, want string) (parquetColumn, error) {
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
		if holds := p.holdsOf(want); holds != "" {
			return parquetColumn{}, fmt.Errorf("column %q holds %s, expected encoded images (a struct with bytes, or bytes); the columns are %s", want, holds, p.describeColumns())
		}
		return parquetColumn{}, fmt.Errorf("there is no column %q of encoded images; the columns are %s", want, p.describeColumns())
	}
	for _, c := range columns {
		if c.kind == parquet.ByteArray && strings.HasSuffix(c.path, ".bytes") {
			structs = append(structs, c)
		}
	}
	if !slices.ContainsFunc(columns, func(c parquetColumn) bool { return c.kind == parquet.ByteArray && !c.text }) {
		return parquetColumn{}, fmt.Errorf("no column holds images, as bytes or as a struct with bytes: give a data set of images; the columns are %s", p.describeColumns())
	}
	if len(structs) == 1 {
		return structs[0], nil
	}
	for _, name := range pathColumns {
		if c, ok := find(name); ok {
			return c, nil
		}
	}
	return parquetColumn{}, fmt.Errorf("the image column is unknown, because no column or several columns may hold images: name the image column, one of %s", p.describeColumns())
}

// labelColumn returns the column of labels. want is the name of the column. If want is "",
// labelColumn returns the first column with a usual name.
func (p *parquetFile) labelColumn(columns []parquetColumn, want string) (parquetColumn, error) {
	names := labelColumns
	if want != "" {
		names = []string{want}
	}
	for _, name := range names {
		for _, c := range columns {
			if c.path != name {
				continue
			}
			switch c.values {
			case "integers", "strings", "bytes":
				return c, nil
			}
			return c, fmt.Errorf("column %s holds %s, expected integers or strings; name another label column", name, cmp.Or(p.holdsOf(name), c.values))
		}
	}
	for _, name := range names { // such a column is not among columns
		if holds := p.holdsOf(name); holds != "" {
			return parquetColumn{}, fmt.Errorf("column %s holds %s, expected integers, strings or lists of them: name another label column, such as a field of a struct as %s.FIELD; the columns are %s", name, holds, name, p.describeColumns())
		}
	}
	return parquetColumn{}, fmt.Errorf("there is no column of labels (looked for %s): name the label column, one of %s", strings.Join(names, ", "), p.describeColumns())
}

// nulls returns the number of rows without a value of a column, as far as the file states it.
func (p *parquetFile) nulls(c parquetColumn) (n int64) {
	for _, g := range p.meta.RowGroups {
		n += g.Columns[c.index].MetaData.Statistics.NullCount
	}
	return n
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
		names := featureNames(doc.Info.Features[label])
		return names, distinctNames(names, p.name)
	}
	return nil, nil
}

// featureNames returns the class names of a feature of the datasets library: a ClassLabel or a list
// of ClassLabel, which has the form {"feature": …} or […]. It returns nil for another feature.
func featureNames(raw json.RawMessage) []string {
	var feature struct {
		Names []string        `json:"names"`
		Inner json.RawMessage `json:"feature"`
	}
	var list []json.RawMessage
	for range 2 {
		if json.Unmarshal(raw, &list) == nil && len(list) == 1 {
			raw = list[0]
		}
		if json.Unmarshal(raw, &feature) != nil {
			return nil
		}
		if len(feature.Names) > 0 {
			return feature.Names
		}
		raw = feature.Inner
	}
	return nil
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

// readMetadataParquet reads a parquet file that lists the paths and the labels of images, as
// parseCSV reads a text.
func readMetadataParquet(ctx context.Context, at files, path, name string, o OpenOptions, want labelForm) (*tableData, error) {
	p, err := openParquet(at, path, name, minPathBytes, 100_000)
	if err != nil {
		return nil, err
	}
	columns, err := p.columnsAndLists()
	if err != nil {
		return nil, err
	}
	columns = slices.DeleteFunc(columns, func(c parquetColumn) bool {
		return c.kind != parquet.ByteArray && c.kind != parquet.Int32 && c.kind != parquet.Int64 || c.list && !o.mayLabel(c.path, want)
	})
	var header []string
	for _, c := range columns {
		header = append(header, c.path)
	}
	b, err := newTableBuilder(name, header, o, want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	needed := append([]int{b.image}, b.hot...)
	var lists []labelled
	if b.label >= 0 {
		if c := columns[b.label]; !c.list {
			needed = append(needed, b.label)
		} else if o.LabelDelimiter != "" {
			return nil, fmt.Errorf("%s: column %q holds lists of labels: leave out the delimiter of labels", name, abbreviate(c.path))
		} else if lists, err = p.labels(ctx, c, ""); err != nil {
			return nil, err
		}
		if columns[b.label].kind != parquet.ByteArray {
			if b.labels.classes, err = p.classNames(header[b.label]); err != nil {
				return nil, err
			}
			b.labels.ids = b.labels.classes != nil
		}
	}
	if b.group >= 0 {
		needed = append(needed, b.group)
	}
	for _, c := range b.splits {
		needed = append(needed, c.index)
	}
	if limit := 1<<22 + 16*p.size; int64(len(needed))*int64(p.rows) > limit {
		return nil, fmt.Errorf("%s: %d columns with %d rows have more than the limit of %d cells for a file of %d bytes: name the label column", name, len(needed), p.rows, limit, p.size)
	}
	cells := make(map[int][][]byte)
	for _, i := range needed {
		if cells[i], err = p.values(ctx, columns[i]); err != nil {
			return nil, err
		}
	}
	for i := range p.rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := b.add(fmt.Sprintf("%s row %d", name, i), func(column int) (string, error) {
			if lists != nil && column == b.label {
				return "", errNull
			}
			v := cells[column][i]
			if v == nil {
				return "", errEmptyCell
			}
			if text := strings.TrimSpace(parquetText(v, columns[column].kind)); text != "" {
				return text, nil
			}
			return "", errEmptyCell
		}, func(int) ([]string, bool, error) {
			if lists == nil || lists[i].missing != nil {
				return nil, false, nil
			}
			return lists[i].list, true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return b.finish()
}
