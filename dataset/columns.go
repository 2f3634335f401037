package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// pathColumns and labelColumns hold the usual names of columns, in lower case. Earlier names take
// precedence.
var (
	pathColumns = []string{"image", "img", "path", "file", "file_name", "filename", "filepath", "image_path", "filepaths", "file_path", "img_path",
		"image_name", "image_id", "id_code", "id"}
	labelColumns = []string{"label", "labels", "fine_label", "class", "target"}
)

// labelForm describes how a table states its labels. The first table of a data set defines the
// form.
type labelForm struct {
	// defined reports whether an earlier table defines the form. A table may then have no labels,
	// because its images are for prediction.
	defined bool

	// column is the name of the column of labels. It is "" if the labels are in class columns.
	column string

	// classes holds the class names: the names of the class columns, of which each row has 1 in
	// exactly one, or the names that a parquet file stores. It is nil if the labels are the names.
	classes []string

	// ids reports whether the labels are indices into classes.
	ids bool

	// several reports whether the target of a row is a list of labels.
	several bool
}

// tableData holds the rows of a table.
type tableData struct {
	name   string     // name of the table in errors
	rows   []labelled // paths are clean, and relative and local, or absolute
	labels labelForm
	splits []*splitColumn
}

// These errors say why a row has no label. They are errors in the training split only.
var (
	errEmptyCell = errors.New("the label is empty: add a label or remove the row")
	errNoKey     = errors.New("the key is missing")
	errNull      = errors.New("found null, want a string or a number")
	errNoColumn  = errors.New("the table has no column of labels")
)

// tableBuilder makes the rows of a table from its cells.
type tableBuilder struct {
	*tableData
	header       []string
	image, label int    // indices of columns; label is -1 if there is no such column
	group        int    // index of the column of groups; -1 if there is none
	hot          []int  // columns that may be class columns; nil if there are none
	named        bool   // the user has named the class columns
	delimiter    string // of labels in a cell; "" if a cell is one label
	noLabels     error  // the error for a table without labels
}

// newTableBuilder finds the columns of a table by their names.
func newTableBuilder(name string, header []string, o OpenOptions, want labelForm) (*tableBuilder, error) {
	b := &tableBuilder{tableData: &tableData{name: name, splits: newSplitColumns(header)}, header: header, delimiter: o.LabelDelimiter}
	var err error
	if b.image, err = findColumn(header, "images", o.ImageColumn, pathColumns); err != nil {
		return nil, err
	}
	if o.LabelColumns != nil {
		return b, b.takeClassColumns(o.LabelColumns, want)
	}
	known := labelColumns
	if want.column != "" {
		known = append([]string{strings.ToLower(want.column)}, known...)
	}
	b.label, b.noLabels = findColumn(header, "labels", o.LabelColumn, known)
	if b.label == b.image { // the usual names overlap with a name that the user gave
		return nil, fmt.Errorf("column %q is the column of images and of labels: name another column", abbreviate(header[b.image]))
	}
	if b.group, err = groupColumn(header, o.GroupColumn); err != nil && !want.defined {
		return nil, err
	}
	b.splits = slices.DeleteFunc(b.splits, func(c *splitColumn) bool {
		return c.index == b.image || c.index == b.label || c.index == b.group
	})
	if b.label >= 0 {
		b.labels.column, b.labels.several = header[b.label], b.delimiter != "" || want.several
		return b, nil
	}
	if o.LabelColumn == "" && (!want.defined || want.classes != nil && want.column == "") {
		for i := range header {
			if i != b.image && i != b.group && !slices.ContainsFunc(b.splits, func(c *splitColumn) bool { return c.index == i }) {
				b.hot = append(b.hot, i)
			}
		}
	}
	if len(b.hot) < 2 {
		b.hot = nil
	}
	if b.hot == nil && !want.defined {
		return nil, b.noLabels
	}
	if want.defined {
		b.labels, b.noLabels = want, nil
	}
	return b, nil
}

// takeClassColumns finds the class columns that the user has named. A later table may have none of
// them, because its images are for prediction.
func (b *tableBuilder) takeClassColumns(names []string, want labelForm) error {
	b.label, b.named, b.labels.several = -1, true, true
	var absent error
	for _, name := range names {
		column, err := findColumn(b.header, "labels", name, nil)
		if err != nil {
			absent = cmp.Or(absent, err)
			continue
		}
		if column == b.image {
			return fmt.Errorf("column %q is the column of images and of labels: name another column", abbreviate(name))
		}
		b.hot = append(b.hot, column)
	}
	if absent != nil && (b.hot != nil || !want.defined) {
		return absent
	}
	b.splits = slices.DeleteFunc(b.splits, func(c *splitColumn) bool { return c.index == b.image || slices.Contains(b.hot, c.index) })
	if want.defined {
		b.labels = want
		return nil
	}
	b.noLabels = errNoColumn
	return nil
}

// findColumn returns the index of a column. want is the name that the user gave. If it is "",
// findColumn returns the first column with a usual name.
func findColumn(header []string, what, want string, known []string) (int, error) {
	if want != "" {
		known = []string{want}
	}
	for _, k := range known {
		for i, n := range header {
			if want != "" && n == want || want == "" && strings.ToLower(strings.TrimSpace(n)) == k {
				return i, nil
			}
		}
	}
	var quoted []string
	for _, n := range header {
		quoted = append(quoted, fmt.Sprintf("%q", abbreviate(n)))
	}
	return -1, fmt.Errorf("there is no column of %s (looked for %s) among %s: rename a column, or name the %s column", what, abbreviate(strings.Join(known, ", ")), abbreviateList(quoted), strings.TrimSuffix(what, "s"))
}

// add adds a row. cell returns the text of a column, or an error if the row has no such text. list
// returns the labels of a column that holds a list, and false for another column; nil means that
// the table has no lists.
func (b *tableBuilder) add(where string, cell func(column int) (string, error), list func(column int) ([]string, bool, error)) error {
	image, err := cell(b.image)
	if err == errEmptyCell {
		err = errors.New("the image path is empty")
	}
	if err != nil {
		return fmt.Errorf("%s: %q: %w", where, abbreviate(b.header[b.image]), err)
	}
	row := labelled{missing: errNoColumn}
	switch {
	case b.label >= 0:
		if row, err = b.labelCell(cell, list); err != nil {
			return fmt.Errorf("%s: %q: %w", where, abbreviate(b.header[b.label]), err)
		}
	case b.hot != nil:
		if row, err = b.classCells(where, cell); err != nil {
			return err
		}
	}
	if row.Sample, err = newTableSample(where, image); err != nil {
		return err
	}
	for _, label := range row.labels() {
		if err := checkClassName(where, label, "save the table as UTF-8"); err != nil {
			return err
		}
	}
	if b.group >= 0 {
		switch text, err := cell(b.group); err {
		case nil, errEmptyCell, errNoKey, errNull: // without a text, the image is its own group
			row.Group = text
		default:
			return fmt.Errorf("%s: %q: %w", where, abbreviate(b.header[b.group]), err)
		}
	}
	b.rows = append(b.rows, row)
	for _, c := range b.splits {
		text, _ := cell(c.index)
		c.add(where, text)
	}
	return nil
}

// labelCell returns the labels in the cell of the label column. All rows of a data set have either
// one label or a list of labels; the first row with a label decides.
func (b *tableBuilder) labelCell(cell func(int) (string, error), list func(int) ([]string, bool, error)) (row labelled, err error) {
	if list != nil {
		labels, ok, err := list(b.label)
		if err != nil {
			return row, err
		}
		if ok {
			decided := b.noLabels == nil && slices.ContainsFunc(b.rows, func(r labelled) bool { return r.missing == nil })
			if decided && !b.labels.several {
				return row, fmt.Errorf("found [%s], want one label as in the rows above", abbreviate(strings.Join(labels, ", ")))
			}
			b.labels.several = true
			return labelled{list: labels, several: true}, distinctLabels(labels)
		}
	}
	text, missing := cell(b.label)
	switch {
	case missing == errNoKey || missing == errNull:
		return labelled{missing: fmt.Errorf("%q: %w", abbreviate(b.header[b.label]), missing)}, nil
	case missing != nil && missing != errEmptyCell:
		return row, missing
	case b.delimiter != "":
		labels, err := splitLabels(text, b.delimiter)
		return labelled{list: labels, several: true}, err
	case b.labels.several && missing == nil:
		return row, fmt.Errorf("found the text %q, want a list of labels as in the rows above", abbreviate(text))
	}
	return labelled{label: text, missing: missing}, nil
}

// splitLabels returns the labels of a cell. A text without labels gives an empty list.
func splitLabels(text, delimiter string) ([]string, error) {
	labels := []string{}
	if text = strings.TrimSpace(text); text == "" {
		return labels, nil
	}
	if strings.TrimSpace(delimiter) == "" {
		labels = strings.Fields(text)
	} else {
		for label := range strings.SplitSeq(text, delimiter) {
			if label = strings.TrimSpace(label); label == "" {
				return nil, fmt.Errorf("found %q, which has no label beside a delimiter %q: want labels such as %q", abbreviate(text), delimiter, "cat"+delimiter+"dog")
			}
			labels = append(labels, label)
		}
	}
	return labels, distinctLabels(labels)
}

// distinctLabels returns an error if a list has a label twice.
func distinctLabels(labels []string) error {
	for i, label := range labels {
		if slices.Contains(labels[:i], label) {
			return fmt.Errorf("the label %q is listed twice: list each label once", abbreviate(label))
		}
	}
	return nil
}

// classCells returns the names of the class columns whose cells are 1. If the user has not named
// the columns and the cells of the first row are not all 0 or 1, the columns are no class columns:
// the table has no labels, which is an error in the first table.
func (b *tableBuilder) classCells(where string, cell func(column int) (string, error)) (row labelled, err error) {
	row = labelled{list: []string{}, several: true}
	for _, column := range b.hot {
		text, err := cell(column)
		switch {
		case err == nil && (text == "0" || text == "0.0" || text == "false"):
		case err == nil && (text == "1" || text == "1.0" || text == "true"):
			row.list = append(row.list, strings.TrimSpace(b.header[column]))
		case b.named || len(b.rows) > 0 && b.rows[0].missing == nil:
			found := fmt.Sprintf("found %q", abbreviate(text))
			if err == errEmptyCell {
				found = "the cell is empty"
			} else if err != nil {
				found = err.Error()
			}
			reason := ""
			if !b.named && b.noLabels != nil {
				reason = fmt.Sprintf(" (the columns were read as labels because %v)", b.noLabels)
			}
			return row, fmt.Errorf("%s: class column %q: %s, expected 0 or 1%s", where, abbreviate(b.header[column]), found, reason)
		case b.noLabels != nil: // the first table
			return row, fmt.Errorf("%s: %w", where, b.noLabels)
		default:
			return labelled{missing: errNoColumn}, nil
		}
	}
	return row, nil
}

// finish returns the table.
func (b *tableBuilder) finish() (*tableData, error) {
	if b.rows == nil {
		return nil, fmt.Errorf("%s lists no images", b.name)
	}
	if b.hot != nil {
		if err := b.decideClassCells(); err != nil {
			return nil, err
		}
	}
	if b.hot != nil && b.noLabels != nil {
		for _, column := range b.hot {
			class := strings.TrimSpace(b.header[column])
			if err := checkClassName(b.name, class, "save the table as UTF-8"); err != nil {
				return nil, err
			}
			b.labels.classes = append(b.labels.classes, class)
		}
		if err := distinctNames(b.labels.classes, b.name); err != nil {
			return nil, err
		}
	}
	return b.tableData, nil
}

// decideClassCells decides whether an image has one label or several. Images have several labels if
// the user has named the class columns, or if some row of the first table has 1 in several.
func (b *tableBuilder) decideClassCells() error {
	first := b.noLabels != nil
	if first && !b.labels.several {
		b.labels.several = slices.ContainsFunc(b.rows, func(r labelled) bool { return len(r.list) > 1 })
	}
	if b.labels.several {
		return nil
	}
	for i := range b.rows {
		row := &b.rows[i]
		switch {
		case row.missing != nil:
		case len(row.list) == 0:
			row.missing = fmt.Errorf("none of the %d class columns is 1: set one of them to 1, or remove the row; if an image may have any number of labels, name the label columns", len(b.hot))
			row.list, row.several = nil, false
		case len(row.list) > 1:
			return fmt.Errorf("%s: the class columns %q and %q are both 1, but no row of the first table has several labels: keep one label in each row; if an image may have any number of labels, name the label columns", row.Where, abbreviate(row.list[0]), abbreviate(row.list[1]))
		default:
			row.label, row.list, row.several = row.list[0], nil, false
		}
	}
	return nil
}

// newTableSample checks the path of a row and returns the sample. If a path has no slashes,
// newTableSample takes backslashes as separators of folders, as on Windows.
func newTableSample(where, image string) (Sample, error) {
	image = strings.TrimSpace(image)
	if !strings.Contains(image, "/") {
		image = strings.ReplaceAll(image, `\`, "/")
	}
	p, err := listedPath(image)
	switch {
	case err != nil:
		return Sample{}, fmt.Errorf("%s: %w", where, err)
	case p == ".":
		return Sample{}, fmt.Errorf("%s: image path %q is a folder: give the path of a file", where, abbreviate(image))
	}
	return Sample{Path: p, Where: where}, nil
}

// splitColumn is a column that may state the split of each image.
type splitColumn struct {
	index  int
	name   string
	yes    int    // the split of images whose cell is true; -1 if the cells are names of splits
	no     int    // the split of images whose cell is false; -1 if another column may state it
	splits []int  // the split of each row; -1 for an empty cell or a false cell without a split
	odd    string // the first cell that is not understood; "" if there is none
	where  string // the place of odd
	any    bool   // some cell states something
}

// splitColumnNames maps the names of columns that may state splits to the meaning of true cells, as
// in splitColumn.yes. The names are in lower case, without spaces, "_" and "-".
var splitColumnNames = map[string]int{
	"split": -1, "subset": -1, "partition": -1, "dataset": -1, "datasetsplit": -1, "usage": -1, "set": -1, "phase": -1, "fold": -1,
	"isvalid": 1, "isval": 1, "isvalidation": 1, "istest": 2, "istrain": 0, "istraining": 0, "istrainingimage": 0,
}

// splitCells maps words in a column of splits to splits, besides splitNames. PublicTest and
// PrivateTest are the values of the column Usage of FER2013, whose PublicTest is for validation.
var splitCells = map[string]int{"publictest": 1, "privatetest": 2}

// newSplitColumns returns the columns that may state splits, in the order in which they decide: the
// column split, other columns of words, and columns of true and false for test, val and train.
func newSplitColumns(header []string) (columns []*splitColumn) {
	for i, name := range header {
		name = strings.TrimSpace(name)
		plain := strings.NewReplacer(" ", "", "_", "", "-", "").Replace(strings.ToLower(name))
		yes, ok := splitColumnNames[plain]
		if !ok {
			continue
		}
		c := &splitColumn{index: i, name: name, yes: yes, no: -1}
		if yes == 0 {
			c.no = 2
		}
		columns = append(columns, c)
	}
	slices.SortStableFunc(columns, func(a, b *splitColumn) int {
		rank := func(c *splitColumn) int {
			switch {
			case c.required():
				return 0
			case c.yes < 0:
				return 1
			}
			return 4 - c.yes
		}
		return cmp.Compare(rank(a), rank(b))
	})
	// each column takes memory for each row
	return columns[:min(len(columns), len(splitColumnNames))]
}

// required reports whether a cell that is not understood is an error, because the name of the
// column leaves no doubt about its meaning.
func (c *splitColumn) required() bool { return strings.EqualFold(c.name, "split") }

// add adds the cell of a row.
func (c *splitColumn) add(where, text string) {
	text = strings.TrimSpace(text)
	word := strings.ToLower(text)
	split, ok := -1, text == ""
	if c.yes < 0 {
		word = strings.NewReplacer(" ", "", "_", "", "-", "").Replace(word)
		for _, words := range []map[string]int{splitNames, splitCells} {
			if s, is := words[word]; is {
				split, ok = s, true
			}
		}
	} else {
		switch word {
		case "true", "1", "1.0", "yes", "t", "y":
			split, ok = c.yes, true
		case "false", "0", "0.0", "no", "f", "n":
			split, ok = c.no, true
		}
	}
	if !ok && c.odd == "" {
		c.odd, c.where = text, where
	}
	c.any = c.any || text != ""
	c.splits = append(c.splits, split)
}

// splitsOf returns the split of each row, or nil if no column states it. fixed is the split of the
// table, or -1. Columns do not apply to a table of validation or test images. notes names the
// columns that are not used. A row about which the columns say nothing is a training image.
func splitsOf(columns []*splitColumn, table string, fixed int) (splits []int, notes []string, err error) {
	unused := func(c *splitColumn, why string, args ...any) {
		notes = append(notes, fmt.Sprintf("%s: column %q is not used: %s", table, abbreviate(c.name), fmt.Sprintf(why, args...)))
	}
	empty := func(splits []int) (n int) {
		for _, s := range splits {
			if s < 0 {
				n++
			}
		}
		return n
	}
	words := false // the splits come from a column of words
	for _, c := range columns {
		switch {
		case c.odd != "" && c.required() && fixed < 0:
			return nil, nil, fmt.Errorf("%s: split %q is unknown; known: %s", c.where, abbreviate(c.odd), strings.Join(slices.Sorted(maps.Keys(splitNames)), ", "))
		case c.odd != "":
			expected := "the name of a split"
			if c.yes >= 0 {
				expected = "true or false"
			}
			unused(c, "%q is not %s", abbreviate(c.odd), expected)
		case !c.any:
		case fixed > 0:
			if slices.ContainsFunc(c.splits, func(s int) bool { return s >= 0 && s != fixed }) {
				unused(c, "all images of the table are in the %s split", splitWords[fixed])
			}
		case words:
			unused(c, "another column states the splits")
		default:
			words = c.yes < 0
			if splits == nil {
				splits = make([]int, len(c.splits))
			}
			for i, s := range c.splits {
				if splits[i] == 0 {
					splits[i] = max(s, 0)
				}
			}
			if n := empty(c.splits); words && n > 0 {
				notes = append(notes, fmt.Sprintf("%s: %s in training, because the column %q states no split", table, countAre(n), abbreviate(c.name)))
			}
		}
	}
	return splits, notes, nil
}

// splitWords holds the names of the splits in messages.
var splitWords = [3]string{"train", "val", "test"}
