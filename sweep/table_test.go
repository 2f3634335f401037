package sweep

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The accuracies of three seeds of two methods on four tasks. The expected values below were
// computed with NumPy 2 (mean, std with ddof=1).
var (
	tableTasks  = []string{"cifar", "dtd", "eurosat", "kitti"}
	tableGroups = []string{"natural", "natural", "specialized", "structured"}
	tableValues = map[string][]float64{
		"lora":     {0.595, 0.718, 0.648, 0.742, 0.75, 0.526, 0.505, 0.835, 0.604, 0.594, 0.898, 0.688},
		"spt-lora": {0.835, 0.691, 0.756, 0.56, 0.754, 0.847, 0.709, 0.797, 0.769, 0.526, 0.803, 0.736},
	}
)

// tableRows returns the rows of tableValues.
func tableRows() (rows []Row) {
	for _, method := range []string{"lora", "spt-lora"} {
		for i, v := range tableValues[method] {
			rows = append(rows, Row{Task: tableTasks[i/3], Group: tableGroups[i/3], Model: "vit", Method: method, Choice: ChoiceFixed, Seed: uint64(i % 3),
				Test: v, TestMax: -1, Val: -1, ValLoss: -1, Tuned: 1000 * (i%3 + 1), Seconds: 2})
		}
	}
	return rows
}

// TestTable compares means, deviations and differences with NumPy's.
func TestTable(t *testing.T) {
	table, err := NewTable(tableRows(), TableOptions{Baseline: "lora"})
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-12 {
			t.Errorf("%s: %.15g, expected %.15g", what, got, want)
		}
	}
	for i, want := range []struct {
		tasks, groups     [][2]float64
		ofGroups, ofTasks [2]float64
	}{
		{[][2]float64{{0.6536666666666666, 0.06169548875998417}, {0.6726666666666666, 0.1270800272794011}, {0.648, 0.16934284750174716}, {0.7266666666666666, 0.15564489497999393}},
			[][2]float64{{0.6631666666666667, 0.07063226363827416}, {0.648, 0.16934284750174716}, {0.7266666666666666, 0.15564489497999393}},
			[2]float64{0.6792777777777778, 0.08020200191461002}, [2]float64{0.67525, 0.06748055275410834}},
		{[][2]float64{{0.7606666666666667, 0.07211333672305931}, {0.7203333333333334, 0.14643200925116517}, {0.7583333333333333, 0.04495924080023301}, {0.6883333333333335, 0.14452104806336458}},
			[][2]float64{{0.7405, 0.08161290747588071}, {0.7583333333333333, 0.04495924080023301}, {0.6883333333333335, 0.14452104806336458}},
			[2]float64{0.7290555555555556, 0.057318150444430525}, [2]float64{0.7319166666666668, 0.05564976040679181}},
	} {
		l := table.Lines[i]
		for k, c := range l.Tasks {
			near(l.Method+" "+table.Tasks[k], c.Mean, want.tasks[k][0])
			near(l.Method+" "+table.Tasks[k]+" deviation", c.SD, want.tasks[k][1])
		}
		for k, c := range l.Groups {
			near(l.Method+" "+table.Groups[k], c.Mean, want.groups[k][0])
			near(l.Method+" "+table.Groups[k]+" deviation", c.SD, want.groups[k][1])
		}
		near(l.Method+" mean of groups", l.MeanOfGroups.Mean, want.ofGroups[0])
		near(l.Method+" mean of groups deviation", l.MeanOfGroups.SD, want.ofGroups[1])
		near(l.Method+" mean of tasks", l.MeanOfTasks.Mean, want.ofTasks[0])
		near(l.Method+" mean of tasks deviation", l.MeanOfTasks.SD, want.ofTasks[1])
		near(l.Method+" tuned", l.Tuned, 2000)
	}
	d := table.Differences[0]
	near("difference", d.Mean, 0.05666666666666668)
	near("standard error", d.SE, 0.04385570923292921)
	near("standard error over seeds", d.SeedsSE, 0.05773526748107357)
	if d.Pairs != 12 || d.Better != 7 || d.Equal != 0 || d.Worse != 5 || d.Tasks != 4 || d.TasksBetter != 3 || d.Seeds != 3 || d.SeedsBetter != 2 {
		t.Errorf("the difference is %+v", d)
	}
}

// TestIncompleteTable checks that a mean over tasks needs every task, and a deviation two seeds.
func TestIncompleteTable(t *testing.T) {
	rows := tableRows()
	table, err := NewTable(rows[:len(rows)-3], TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l := table.Lines[1]; l.MeanOfTasks.N != 0 || l.MeanOfGroups.N != 0 || l.Tasks[3].N != 0 || l.Groups[0].N != 6 {
		t.Errorf("the line without a task is %+v", l)
	}
	table, err = NewTable(append(rows[:1:1], rows[3], rows[6], rows[9]), TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l := table.Lines[0]; l.MeanOfTasks.N != 4 || l.MeanOfTasks.SD >= 0 || l.Tasks[0].SD >= 0 {
		t.Errorf("the line of one seed is %+v", l)
	}
	for _, wrong := range []struct {
		rows []Row
		o    TableOptions
		want string
	}{
		{nil, TableOptions{}, "no run has a result yet"},
		{rows, TableOptions{Metric: TestMax}, "paper_protocol"},
		{rows, TableOptions{Metric: "tset"}, `did you mean "test"?`},
		{rows, TableOptions{Baseline: "loar"}, `did you mean "lora"?`},
		{append(rows, rows[0]), TableOptions{}, "have the seed 0"},
	} {
		if _, err := NewTable(wrong.rows, wrong.o); err == nil || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("error %v, expected %q", err, wrong.want)
		}
	}
}

// TestFormats writes a table in every format, and checks the cells that differ between formats.
func TestFormats(t *testing.T) {
	rows := tableRows()
	for i := range rows {
		rows[i].Budget = "0.5%"
	}
	table, err := NewTable(rows, TableOptions{Baseline: "lora"})
	if err != nil {
		t.Fatal(err)
	}
	for format, want := range map[Format][]string{
		"text":     {"65.4 ± 6.2", "mean of groups", "+5.67 ± 4.39", "7, 0, 5"},
		"markdown": {"| lora | 0.5% | fixed | 2,000 | 12 | 65.4 ± 6.2 |", "|---|---|"},
		"latex":    {`lora & 0.5\% & fixed & 2,000 & 12 & 65.4 $\pm$ 6.2`, `\toprule`},
		"csv":      {"lora,0.5%,fixed,\"2,000\",12,65.4 ± 6.2"},
		"json":     {`"mean_of_tasks"`, `"baseline": "lora"`},
	} {
		var b bytes.Buffer
		if err := table.Write(&b, format); err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			if !strings.Contains(b.String(), text) {
				t.Errorf("%s lacks %q:\n%s", format, text, b.String())
			}
		}
	}
	if err := table.Write(&bytes.Buffer{}, "html"); err == nil {
		t.Error("an unknown format gives no error")
	}
}

// TestCSV writes rows and reads them back.
func TestCSV(t *testing.T) {
	rows := tableRows()
	rows[0].Setting, rows[0].Val, rows[0].ValLoss = "lr=1e-3, the first", 0.25, 1.0/3
	var b bytes.Buffer
	if err := WriteCSV(&b, rows); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rows.csv")
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	read, err := ReadCSV(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(read) != len(rows) {
		t.Fatalf("%d rows, expected %d", len(read), len(rows))
	}
	for i := range rows {
		if read[i] != rows[i] {
			t.Errorf("row %d is %+v, expected %+v", i, read[i], rows[i])
		}
	}
	for text, want := range map[string]string{
		"":                   "the file is empty",
		"task,seed\n":        "the column group is missing",
		b.String() + "a,b\n": "wrong number of fields",
		strings.Replace(b.String(), "0.718", "high", 1): `the column test_accuracy holds "high", expected a number`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadCSV(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, expected %q", err, want)
		}
	}
}
