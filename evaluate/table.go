package evaluate

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/jsonfile"
)

// format is a file format of tables.
type format struct {
	extension string
	write     func(w io.Writer, t *table) error
}

var formats = []format{{".csv", writeCSV}, {".jsonl", writeJSONLines}, {".parquet", writeParquet}}

// Formats returns the extensions of the files that [Predictions.Write] and [WriteTop] can write,
// such as ".csv".
func Formats() []string {
	extensions := make([]string, len(formats))
	for i, f := range formats {
		extensions[i] = f.extension
	}
	return extensions
}

// CheckFormat returns an error if [Predictions.Write] and [WriteTop] cannot write the file at path,
// because its extension is unknown. The case of the extension does not matter.
func CheckFormat(path string) error {
	if _, err := formatOf(path); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func formatOf(path string) (format, error) {
	extension := strings.ToLower(filepath.Ext(path))
	i := slices.IndexFunc(formats, func(f format) bool { return f.extension == extension })
	if i < 0 {
		return format{}, fmt.Errorf("the name ends in %q, expected the extension of a table: %s", extension, strings.Join(Formats(), ", "))
	}
	return formats[i], nil
}

// table is a table that is written row by row.
type table struct {
	columns []column
	rows    int
	fill    func(row int, cells []cell) // sets every cell of a row, one for each column
	people  bool                        // made for spreadsheets
}

type column struct {
	name string
	kind kind
}

// kind is the type of the values of a column.
type kind int

const (
	text    kind = iota
	boolean      // number is 0 or 1
	double
	single // a number with the precision of float32
)

// cell holds text or a number, depending on the kind of the column.
type cell struct {
	text    string
	number  float64
	missing bool
}

// textCell returns a cell with UTF-8 text; see [jsonfile.Text].
func textCell(s string) cell { return cell{text: jsonfile.Text(s)} }

// write writes the table to the file at path.
func (t *table) write(path string) error {
	f, err := formatOf(path)
	if err == nil {
		err = atomicfile.Write(path, func(w io.Writer) error { return f.write(w, t) })
	}
	if err != nil {
		return fmt.Errorf("writing predictions to %s: %w", path, err)
	}
	return nil
}

// WriteOptions configures [Predictions.Write].
type WriteOptions struct {
	// of the probabilities; 0 means 1, which keeps the probabilities of the model
	Temperature float64
	Logits      bool // also write the logits
}

// Write writes all probabilities to a table for programs. The extension of path chooses the format;
// see [Formats]. All formats have the same columns, with one row for each image:
//
//   - path: the path of the image
//   - target: the name of the class; missing if the target is unknown
//   - predicted: the name of the class with the largest logit
//   - correct: whether target and predicted are the same class; missing if the target is unknown
//   - confidence: the probability of the predicted class
//   - probability_NAME: the probability of the class NAME, one column for each class
//   - logit_NAME: the logit of the class NAME, if o.Logits is set
//
// If several classes have one name, the class id follows the name, as in "probability_crane [134]".
// Probabilities are float64 and logits are float32, both exact. Bytes that are not UTF-8 are
// written as \x and two digits. A missing value is an empty cell in CSV, and null in the other
// formats. CSV holds text as it is, so that programs read the same text: a spreadsheet may take a
// path that begins with "=" for a formula.
func (p *Predictions) Write(path string, o WriteOptions) error {
	if o.Temperature == 0 {
		o.Temperature = 1
	}
	err := p.check()
	if err == nil {
		err = checkTemperature(o.Temperature)
	}
	if err == nil && p.Keep > 0 {
		err = fmt.Errorf("only the %d largest logits of each image are kept, and a table has all; leave Keep out", p.Keep)
	}
	if err != nil {
		return fmt.Errorf("writing predictions to %s: %w", path, err)
	}
	t := &table{rows: p.Len(), columns: []column{{"path", text}, {"target", text}, {"predicted", text}, {"correct", boolean}, {"confidence", double}}}
	names := distinctNames(p.Classes)
	for _, name := range names {
		t.columns = append(t.columns, column{"probability_" + name, double})
	}
	if o.Logits {
		for _, name := range names {
			t.columns = append(t.columns, column{"logit_" + name, single})
		}
	}
	var all []float64
	t.fill = func(i int, cells []cell) {
		predicted := p.Predicted(i)
		all = p.Probabilities(i, o.Temperature, all)
		cells[0], cells[1], cells[2], cells[3] = textCell(p.Paths[i]), cell{missing: true}, cell{text: names[predicted]}, cell{missing: true}
		cells[4] = cell{number: all[predicted]}
		if target := int(p.Targets[i]); target != Unknown {
			cells[1], cells[3] = cell{text: names[target]}, cell{}
			if target == predicted {
				cells[3].number = 1
			}
		}
		for c, v := range all {
			cells[5+c] = cell{number: v}
		}
		if o.Logits {
			for c, v := range p.row(i, nil) {
				cells[5+len(names)+c] = cell{number: float64(v)}
			}
		}
	}
	return t.write(path)
}

// distinctNames returns the names of classes as UTF-8. It adds the class id to a name that several
// classes have.
func distinctNames(classes []string) []string {
	names, count := make([]string, len(classes)), map[string]int{}
	for i, name := range classes {
		names[i] = jsonfile.Text(name)
		count[names[i]]++
	}
	for i, name := range slices.Clone(names) {
		if count[name] > 1 {
			for count[names[i]] > 0 {
				names[i] = fmt.Sprintf("%s [%d]", names[i], i)
			}
			count[names[i]]++
		}
	}
	return names
}

// Row is one image in a table for people.
type Row struct {
	Path string             // path of the image
	Top  []ClassProbability // most probable classes, most probable first
	// Unknown reports whether the prediction is rejected, because its confidence is too low.
	Unknown bool
	Error   string // why the image could not be read, with Top empty; "" if it was read
}

// WriteTop writes the most probable classes of images to a table for people, such as one to open in
// a spreadsheet. The extension of path chooses the format; see [Formats]. classes holds the names
// of the classes. All formats have the same columns, with one row for each image:
//
//   - path: the path of the image
//   - unknown: whether the prediction is rejected; only if rejects is set
//   - label, probability: the most probable class and its probability
//   - label_2, probability_2, …: the classes that follow, as many as the longest Top has
//   - error: why the image could not be read; only if an image has an error
//
// Values that an image lacks are missing, as in [Predictions.Write]. In CSV, text that a
// spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV Injection). The file
// begins with a byte order mark if the text is not ASCII, because Excel takes the text for another
// encoding without the mark. The table of [Predictions.Write] never has the mark, because many
// programs take the mark for a part of the first name.
func WriteTop(path string, classes []string, rows []Row, rejects bool) error {
	t := &table{rows: len(rows), columns: []column{{"path", text}}, people: true}
	ranks, failed := 1, false
	for _, r := range rows {
		ranks = max(ranks, len(r.Top))
		failed = failed || r.Error != ""
		for _, top := range r.Top {
			if top.Class < 0 || top.Class >= len(classes) {
				return fmt.Errorf("writing predictions to %s: image %s has class %d, expected 0 to %d", path, r.Path, top.Class, len(classes)-1)
			}
		}
	}
	if rejects {
		t.columns = append(t.columns, column{"unknown", boolean})
	}
	first := len(t.columns)
	for rank := range ranks {
		suffix := ""
		if rank > 0 {
			suffix = fmt.Sprintf("_%d", rank+1)
		}
		t.columns = append(t.columns, column{"label" + suffix, text}, column{"probability" + suffix, double})
	}
	if failed {
		t.columns = append(t.columns, column{"error", text})
	}
	names := distinctNames(classes)
	t.fill = func(i int, cells []cell) {
		r := rows[i]
		for c := range cells {
			cells[c] = cell{missing: true}
		}
		cells[0] = textCell(r.Path)
		if rejects && len(r.Top) > 0 {
			cells[1] = cell{}
			if r.Unknown {
				cells[1].number = 1
			}
		}
		for rank, top := range r.Top {
			cells[first+2*rank], cells[first+1+2*rank] = cell{text: names[top.Class]}, cell{number: top.Probability}
		}
		if r.Error != "" {
			cells[len(cells)-1] = textCell(r.Error)
		}
	}
	return t.write(path)
}

// append appends the number of a cell as text. The number has as many digits as its kind needs to
// be read back exactly.
func (c cell) append(dst []byte, k kind) []byte {
	switch k {
	case boolean:
		return strconv.AppendBool(dst, c.number == 1)
	case single:
		return strconv.AppendFloat(dst, c.number, 'g', -1, 32)
	}
	return strconv.AppendFloat(dst, c.number, 'g', -1, 64)
}

// writeCSV writes a table as comma-separated values, with the names of the columns in the first
// line.
func writeCSV(w io.Writer, t *table) error {
	cells := make([]cell, len(t.columns))
	if t.people {
		for i := range t.rows {
			t.fill(i, cells)
			if slices.ContainsFunc(cells, func(c cell) bool { return !isASCII(c.text) }) {
				if _, err := io.WriteString(w, "\ufeff"); err != nil {
					return err
				}
				break
			}
		}
	}
	out := csv.NewWriter(w)
	record := make([]string, len(t.columns))
	for i, c := range t.columns {
		record[i] = c.name
	}
	if err := out.Write(record); err != nil {
		return err
	}
	var numbers []byte
	ends := make([]int, len(t.columns)) // of the numbers
	for i := range t.rows {
		t.fill(i, cells)
		numbers = numbers[:0]
		for c, cell := range cells {
			if t.columns[c].kind != text && !cell.missing {
				numbers = cell.append(numbers, t.columns[c].kind)
			}
			ends[c] = len(numbers)
		}
		// one string, because an allocation for each number is slow
		all, begin := string(numbers), 0
		for c, cell := range cells {
			switch {
			case t.columns[c].kind != text:
				record[c] = all[begin:ends[c]]
			case t.people && isFormula(cell.text):
				record[c] = "'" + cell.text
			default:
				record[c] = cell.text
			}
			begin = ends[c]
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// isFormula reports whether spreadsheets may take a text for a formula. The characters are those of
// OWASP's page on CSV Injection, with their full-width forms.
func isFormula(s string) bool {
	first, _ := utf8.DecodeRuneInString(s)
	return s != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", first)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// writeJSONLines writes one JSON object for each row, with the names of the columns as keys.
func writeJSONLines(w io.Writer, t *table) error {
	keys := make([][]byte, len(t.columns))
	for i, c := range t.columns {
		name, err := json.Marshal(c.name)
		if err != nil {
			return err
		}
		before := byte(',')
		if i == 0 {
			before = '{'
		}
		keys[i] = append(append([]byte{before}, name...), ':')
	}
	cells := make([]cell, len(t.columns))
	var line []byte
	for i := range t.rows {
		t.fill(i, cells)
		line = line[:0]
		for c, cell := range cells {
			line = append(line, keys[c]...)
			switch {
			case cell.missing:
				line = append(line, "null"...)
			case t.columns[c].kind == text:
				s, err := json.Marshal(cell.text)
				if err != nil {
					return err
				}
				line = append(line, s...)
			default:
				line = cell.append(line, t.columns[c].kind)
			}
		}
		if _, err := w.Write(append(line, "}\n"...)); err != nil {
			return err
		}
	}
	return nil
}

// Write writes all probabilities to a table for programs. The extension of path chooses the format;
// see [Formats]. All formats have the same columns, with one row for each image:
//
//   - path: the path of the image
//   - target_NAME: whether the image has the label NAME, one column for each label
//   - predicted_NAME: whether the probability of the label is at least its threshold
//   - probability_NAME: the probability of the label
//   - logit_NAME: the logit of the label, if logits is true
//
// Names, numbers and texts are as in [Predictions.Write]. thresholds are as for
// [LabelPredictions.Metrics].
func (p *LabelPredictions) Write(path string, thresholds []float64, logits bool) error {
	err := p.check()
	if err == nil {
		err = CheckThresholds(thresholds, len(p.Classes))
	}
	if err != nil {
		return fmt.Errorf("writing predictions to %s: %w", path, err)
	}
	t := &table{rows: p.Len(), columns: []column{{"path", text}}}
	names := distinctNames(p.Classes)
	add := func(prefix string, k kind) {
		for _, name := range names {
			t.columns = append(t.columns, column{prefix + name, k})
		}
	}
	add("target_", boolean)
	add("predicted_", boolean)
	add("probability_", double)
	if logits {
		add("logit_", single)
	}
	n := len(names)
	t.fill = func(i int, cells []cell) {
		cells[0] = textCell(p.Paths[i])
		for c := range n {
			logit := p.Logits[i*n+c]
			probability := Sigmoid(logit)
			cells[1+c] = cell{number: float64(p.Targets[i*n+c])}
			cells[1+n+c] = cell{number: float64(count(probability >= thresholdOf(thresholds, c)))}
			cells[1+2*n+c] = cell{number: probability}
			if logits {
				cells[1+3*n+c] = cell{number: float64(logit)}
			}
		}
	}
	return t.write(path)
}
