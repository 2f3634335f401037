package evaluate

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// readTable reads a table in any format. The values are strings, float64, bool and nil. Strings of
// CSV are converted as the kinds say, because CSV has no types.
func readTable(t *testing.T, path string, kinds map[string]kind) (columns []string, rows [][]any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	switch filepath.Ext(path) {
	case ".csv":
		records, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		columns = records[0]
		for _, record := range records[1:] {
			var row []any
			for i, s := range record {
				row = append(row, convert(t, s, kinds[columns[i]]))
			}
			rows = append(rows, row)
		}
	case ".jsonl":
		for line := range bytes.Lines(data) {
			d := json.NewDecoder(bytes.NewReader(line))
			if _, err := d.Token(); err != nil {
				t.Fatal(err)
			}
			var keys []string
			var row []any
			for d.More() {
				key, err := d.Token()
				if err != nil {
					t.Fatal(err)
				}
				value, err := d.Token()
				if err != nil {
					t.Fatal(err)
				}
				keys, row = append(keys, key.(string)), append(row, value)
			}
			if columns != nil && !slices.Equal(columns, keys) {
				t.Fatalf("keys %q follow %q", keys, columns)
			}
			columns, rows = keys, append(rows, row)
		}
	case ".parquet":
		f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Schema().Columns() {
			columns = append(columns, c[0])
		}
		for _, group := range f.RowGroups() {
			reader := group.Rows()
			for buffer := make([]parquet.Row, 1); ; {
				n, err := reader.ReadRows(buffer)
				if n == 1 {
					row := make([]any, len(columns))
					for _, v := range buffer[0] {
						switch {
						case v.IsNull():
						case v.Kind() == parquet.ByteArray:
							row[v.Column()] = string(v.ByteArray())
						case v.Kind() == parquet.Boolean:
							row[v.Column()] = v.Boolean()
						case v.Kind() == parquet.Double:
							row[v.Column()] = v.Double()
						case v.Kind() == parquet.Float:
							row[v.Column()] = float64(v.Float())
						}
					}
					rows = append(rows, row)
				}
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := reader.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for c, name := range columns { // query engines count values without reading them
			null := int64(0)
			for _, group := range f.Metadata().RowGroups {
				null += group.Columns[c].MetaData.Statistics.NullCount
			}
			for _, row := range rows {
				if row[c] == nil {
					null--
				}
			}
			if null != 0 {
				t.Errorf("%s: the statistics of column %s say %d missing values too many", path, name, null)
			}
		}
		if f.NumRows() != int64(len(rows)) {
			t.Errorf("%s says %d rows and has %d", path, f.NumRows(), len(rows))
		}
	}
	return columns, rows
}

func convert(t *testing.T, s string, k kind) any {
	t.Helper()
	var v any = s
	var err error
	switch {
	case s == "":
		return nil
	case k == boolean:
		v, err = strconv.ParseBool(s)
	case k == double || k == single:
		v, err = strconv.ParseFloat(s, 64)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestWrite checks that all formats hold the same values, without loss.
func TestWrite(t *testing.T) {
	p := &Predictions{Classes: []string{"cat", "a,\"b\"\n", "crane", "crane", "crane [2]", "-ü"}}
	paths := []string{"=1+1.png", "a;b\t.png", "\xff.png"}
	logits := []float32{1, 2, 3, 4, 5, 6, 0.1, 0, 0, 0, 0, 1e-7, 1e4, -1e4, 0, 3, 2, 1}
	if err := p.Add(paths, []int32{5, 1, Unknown}, logits); err != nil {
		t.Fatal(err)
	}
	wantColumns := []string{"path", "target", "predicted", "correct", "confidence"}
	kinds := map[string]kind{"correct": boolean, "confidence": double}
	names := []string{"cat", "a,\"b\"\n", "crane [2] [2]", "crane [3]", "crane [2]", "-ü"}
	for _, prefix := range []string{"probability_", "logit_"} {
		for _, name := range names {
			wantColumns = append(wantColumns, prefix+name)
			kinds[prefix+name] = double
		}
	}
	want := [][]any{
		{"=1+1.png", "-ü", "-ü", true},
		{"a;b\t.png", "a,\"b\"\n", "cat", false},
		{`\xff.png`, nil, "cat", nil},
	}
	for i := range want {
		probabilities := p.Probabilities(i, 3, nil)
		want[i] = append(want[i], slices.Max(probabilities))
		for _, v := range probabilities {
			want[i] = append(want[i], v)
		}
		for _, v := range p.row(i, nil) {
			want[i] = append(want[i], float64(v))
		}
	}
	for _, extension := range Formats() {
		path := filepath.Join(t.TempDir(), "all"+extension)
		if err := p.Write(path, WriteOptions{Temperature: 3, Logits: true}); err != nil {
			t.Fatal(err)
		}
		columns, rows := readTable(t, path, kinds)
		// CSV and JSON Lines write a float32 with as many digits as a float32 needs.
		for _, row := range rows {
			for i, v := range row {
				if number, ok := v.(float64); ok && strings.HasPrefix(columns[i], "logit_") {
					row[i] = float64(float32(number))
				}
			}
		}
		if !slices.Equal(columns, wantColumns) || !reflect.DeepEqual(rows, want) {
			t.Errorf("%s: columns %q, rows\n%v, want\n%v", extension, columns, rows, want)
		}
		if err := p.Write(path, WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		columns, rows = readTable(t, path, kinds)
		if len(columns) != 5+len(names) || rows[0][5] != p.Probabilities(0, 1, nil)[0] {
			t.Errorf("%s: without logits, columns %q, rows %v", extension, columns, rows)
		}
	}
}

// TestWriteTop checks the table for people in all formats.
func TestWriteTop(t *testing.T) {
	classes := []string{"cat", "@dog", "=\"x\""}
	rows := []Row{
		{Path: "-a.png", Top: []ClassProbability{{1, 0.75}, {0, 0.25}}},
		{Path: "b.png", Error: "the file is empty"},
		{Path: "c.png", Top: []ClassProbability{{2, 1}}},
	}
	wantColumns := []string{"path", "label", "probability", "label_2", "probability_2", "error"}
	kinds := map[string]kind{"probability": double, "probability_2": double}
	for _, extension := range Formats() {
		want := [][]any{
			{"-a.png", "@dog", 0.75, "cat", 0.25, nil},
			{"b.png", nil, nil, nil, nil, "the file is empty"},
			{"c.png", "=\"x\"", 1.0, nil, nil, nil},
		}
		if extension == ".csv" {
			want[0][0], want[0][1], want[2][1] = "'-a.png", "'@dog", "'=\"x\""
		}
		path := filepath.Join(t.TempDir(), "top"+strings.ToUpper(extension))
		if err := WriteTop(path, classes, rows, false); err != nil {
			t.Fatal(err)
		}
		lower := filepath.Join(t.TempDir(), "top"+extension)
		if err := os.Rename(path, lower); err != nil {
			t.Fatal(err)
		}
		columns, got := readTable(t, lower, kinds)
		if !slices.Equal(columns, wantColumns) || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: columns %q, rows\n%v, want\n%v", extension, columns, got, want)
		}
		// without errors, and without images
		for rows, want := range map[int][]string{1: wantColumns[:5], 0: wantColumns[:3]} {
			if err := WriteTop(lower, classes, []Row{rowOf(1), rowOf(0)}[:rows], false); err != nil {
				t.Fatal(err)
			}
			if columns, got := readTable(t, lower, kinds); len(got) != rows || (rows > 0 || extension != ".jsonl") && !slices.Equal(columns, want) {
				t.Errorf("%s: columns %q, %d rows, want %q, %d", extension, columns, len(got), want, rows)
			}
		}
	}
	if err := WriteTop(filepath.Join(t.TempDir(), "x.csv"), classes[:1], rows, false); err == nil || !strings.Contains(err.Error(), "image -a.png has class 1, expected 0 to 0") {
		t.Errorf("a class without a name: %v", err)
	}
}

func rowOf(class int) Row {
	return Row{Path: "a.png", Top: []ClassProbability{{class, 0.5}, {2, 0.25}}}
}

// TestCSV checks the bytes of CSV files: the byte order mark, and text that is a formula for
// spreadsheets.
func TestCSV(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.csv")
	for name, want := range map[string]string{
		"cat":      "path,label,probability\na.png,cat,0.5\n",
		"kätzchen": "\ufeffpath,label,probability\na.png,kätzchen,0.5\n",
		"=1":       "path,label,probability\na.png,'=1,0.5\n",
		"+1":       "path,label,probability\na.png,'+1,0.5\n",
		"-1":       "path,label,probability\na.png,'-1,0.5\n",
		"@x":       "path,label,probability\na.png,'@x,0.5\n",
		"\tx":      "path,label,probability\na.png,'\tx,0.5\n",
		"\rx":      "path,label,probability\na.png,\"'\rx\",0.5\n",
		"＝1":       "\ufeffpath,label,probability\na.png,'＝1,0.5\n",
		"a=1":      "path,label,probability\na.png,a=1,0.5\n",
		"a,\"b":    "path,label,probability\na.png,\"a,\"\"b\",0.5\n",
	} {
		if err := WriteTop(path, []string{name}, []Row{{Path: "a.png", Top: []ClassProbability{{0, 0.5}}}}, false); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
	p := &Predictions{Classes: []string{"=ü"}}
	if err := p.Add([]string{"-a"}, []int32{0}, []float32{0}); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(path, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "path,target,predicted,correct,confidence,probability_=ü\n-a,=ü,=ü,true,1,1\n" {
		t.Errorf("the table for programs is %q, %v", got, err)
	}
}

// TestParquetRowGroups writes several row groups, with missing values in different places.
func TestParquetRowGroups(t *testing.T) {
	rows := make([]Row, 2*rowGroupRows+5)
	for i := range rows {
		rows[i].Path = fmt.Sprint(i)
		if i%3 == 0 || i >= 2*rowGroupRows {
			rows[i].Error = "e" + rows[i].Path
		} else {
			rows[i].Top = []ClassProbability{{i % 7, 1 / float64(i+1)}}
		}
	}
	path := filepath.Join(t.TempDir(), "x.parquet")
	if err := WriteTop(path, strings.Split("abcdefg", ""), rows, false); err != nil {
		t.Fatal(err)
	}
	_, got := readTable(t, path, nil)
	if len(got) != len(rows) {
		t.Fatalf("found %d rows", len(got))
	}
	for i, row := range got {
		want := []any{rows[i].Path, nil, nil, nil}
		if rows[i].Error != "" {
			want[3] = rows[i].Error
		} else {
			want[1], want[2] = string(rune('a'+i%7)), 1/float64(i+1)
		}
		if !reflect.DeepEqual(row, want) {
			t.Fatalf("row %d is %v, want %v", i, row, want)
		}
	}
}

// TestWriteErrors checks that an unknown extension and wrong options are errors, and that a failure
// leaves no file.
func TestWriteErrors(t *testing.T) {
	p := random(2, 3)
	dir := t.TempDir()
	for name, want := range map[string]string{
		"x.txt": `the name ends in ".txt", expected the extension of a table: .csv, .jsonl, .parquet`,
		"csv":   `the name ends in ""`,
	} {
		path := filepath.Join(dir, name)
		for _, err := range []error{CheckFormat(path), p.Write(path, WriteOptions{}), WriteTop(path, nil, nil, false)} {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	}
	for _, extension := range Formats() {
		if err := CheckFormat("dir.txt/X" + strings.ToUpper(extension)); err != nil {
			t.Error(err)
		}
	}
	if err := p.Write(filepath.Join(dir, "x.csv"), WriteOptions{Temperature: math.Inf(1)}); err == nil || !strings.Contains(err.Error(), "temperature") {
		t.Errorf("an infinite temperature: %v", err)
	}
	p.Logits = p.Logits[1:]
	if err := p.Write(filepath.Join(dir, "x.csv"), WriteOptions{}); err == nil || !strings.Contains(err.Error(), " and 5 logits") {
		t.Errorf("too few logits: %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("the folder holds %v, %v", files, err)
	}
}

// TestWriteTopUnknown checks the column unknown in each format: it is missing for an image that
// could not be read.
func TestWriteTopUnknown(t *testing.T) {
	rows := []Row{
		{Path: "a.png", Top: []ClassProbability{{1, 0.9}, {0, 0.1}}},
		{Path: "b.png", Top: []ClassProbability{{0, 0.6}}, Unknown: true},
		{Path: "c.png", Error: "broken"},
	}
	dir := t.TempDir()
	for name, want := range map[string]string{
		"t.csv": "path,unknown,label,probability,label_2,probability_2,error\na.png,false,y,0.9,x,0.1,\nb.png,true,x,0.6,,,\nc.png,,,,,,broken\n",
		"t.jsonl": `{"path":"a.png","unknown":false,"label":"y","probability":0.9,"label_2":"x","probability_2":0.1,"error":null}
{"path":"b.png","unknown":true,"label":"x","probability":0.6,"label_2":null,"probability_2":null,"error":null}
{"path":"c.png","unknown":null,"label":null,"probability":null,"label_2":null,"probability_2":null,"error":"broken"}
`,
	} {
		path := filepath.Join(dir, name)
		if err := WriteTop(path, []string{"x", "y"}, rows, true); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s holds\n%s, want\n%s (%v)", name, got, want, err)
		}
	}
	if err := WriteTop(filepath.Join(dir, "t.parquet"), []string{"x", "y"}, rows, true); err != nil {
		t.Error(err)
	}
}
