package sweep

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/run"
)

// Row is the result of a job of the stage [Final]. Accuracies are shares from 0 to 1; they are
// negative if the run has no such accuracy.
type Row struct {
	Task    string `json:"task"`
	Group   string `json:"group"`
	Model   string `json:"model"`
	Method  string `json:"method"`
	Budget  string `json:"budget"`  // of the specification's budgets
	Choice  string `json:"choice"`  // ChoiceFixed or ChoiceValidation
	Setting string `json:"setting"` // of the grid, that the job chose
	Seed    uint64 `json:"seed"`

	Test    float64 `json:"test_accuracy"` // after the last epoch
	TestMax float64 `json:"test_max"`      // highest of all epochs
	Val     float64 `json:"val_accuracy"`
	ValLoss float64 `json:"val_loss"`
	Tuned   int     `json:"tuned_parameters"` // actual number, without the head
	Head    int     `json:"head_parameters"`
	Seconds float64 `json:"seconds"` // of the trainings
	ID      string  `json:"id"`
}

// The values of Row.Choice: how the settings of the run were chosen.
const (
	ChoiceFixed      = "fixed"      // the specification gives them
	ChoiceValidation = "validation" // on validation images
)

// columns are the columns of a CSV file of rows.
var columns = []struct {
	name  string
	value func(*Row) any // pointer to the field
}{
	{"task", func(r *Row) any { return &r.Task }},
	{"group", func(r *Row) any { return &r.Group }},
	{"model", func(r *Row) any { return &r.Model }},
	{"method", func(r *Row) any { return &r.Method }},
	{"budget", func(r *Row) any { return &r.Budget }},
	{"choice", func(r *Row) any { return &r.Choice }},
	{"setting", func(r *Row) any { return &r.Setting }},
	{"seed", func(r *Row) any { return &r.Seed }},
	{"test_accuracy", func(r *Row) any { return &r.Test }},
	{"test_max", func(r *Row) any { return &r.TestMax }},
	{"val_accuracy", func(r *Row) any { return &r.Val }},
	{"val_loss", func(r *Row) any { return &r.ValLoss }},
	{"tuned_parameters", func(r *Row) any { return &r.Tuned }},
	{"head_parameters", func(r *Row) any { return &r.Head }},
	{"seconds", func(r *Row) any { return &r.Seconds }},
	{"id", func(r *Row) any { return &r.ID }},
}

// Collect reads the results of the final jobs. missing is the number of final jobs without a
// result.
func (f Folder) Collect() (rows []Row, missing int, err error) {
	jobs, err := f.Jobs()
	if err != nil {
		return nil, 0, err
	}
	byID := map[string]Job{}
	for _, j := range jobs {
		byID[j.ID] = j
	}
	// the chosen settings, by candidates; the seeds of a method share them
	settings := map[string]string{}
	for _, j := range jobs {
		if j.Stage != Final {
			continue
		}
		r, err := run.LoadResult[run.Result](f.RunFolder(j.ID))
		if err != nil {
			return nil, 0, err
		}
		if r == nil {
			missing++
			continue
		}
		row := rowOf(j, r)
		if len(j.Candidates) > 0 {
			key := fmt.Sprint(j.Candidates)
			if _, known := settings[key]; !known {
				c, err := f.choose(j, byID)
				if err != nil {
					return nil, 0, err
				}
				settings[key] = c.Setting
			}
			row.Choice, row.Setting = ChoiceValidation, settings[key]
		}
		rows = append(rows, row)
	}
	return rows, missing, nil
}

// rowOf returns the row of a job with a result, without a setting of a grid.
func rowOf(j Job, r *run.Result) Row {
	row := j.labels()
	row.Tuned, row.Head, row.Seconds = r.Counts.Tuned(), r.Counts.Head, math.Round(1000*r.Seconds)/1000
	if len(r.Candidates) > 1 {
		row.Choice = ChoiceValidation
	}
	if r.Test != nil {
		row.Test = r.Test.Accuracy
	}
	if r.TestMax != nil {
		row.TestMax = *r.TestMax
	}
	if r.Val != nil {
		row.Val, row.ValLoss = *r.Val, chosenBy(r).ValLoss
	}
	return row
}

// WriteCSV writes rows as a CSV file with a line of column names. A number that a row does not have
// is an empty cell.
func WriteCSV(w io.Writer, rows []Row) error {
	out := csv.NewWriter(w)
	line := make([]string, len(columns))
	for i, c := range columns {
		line[i] = c.name
	}
	if err := out.Write(line); err != nil {
		return fmt.Errorf("writing CSV: %w", err)
	}
	for _, r := range rows {
		for i, c := range columns {
			switch v := c.value(&r).(type) {
			case *string:
				line[i] = *v
			case *uint64:
				line[i] = strconv.FormatUint(*v, 10)
			case *int:
				line[i] = strconv.Itoa(*v)
			case *float64:
				if line[i] = ""; *v >= 0 {
					line[i] = strconv.FormatFloat(*v, 'f', -1, 64)
				}
			}
		}
		if err := out.Write(line); err != nil {
			return fmt.Errorf("writing CSV: %w", err)
		}
	}
	out.Flush()
	return out.Error()
}

// maxCSV limits the size of a CSV file of rows, in bytes.
const maxCSV = 256 << 20

// ReadCSV reads a file that [WriteCSV] wrote. A broken file is a [*run.InputError].
func ReadCSV(path string) ([]Row, error) {
	data, err := regularfile.Read(path, maxCSV)
	var rows []Row
	if err == nil {
		rows, err = readCSV(bytes.NewReader(data))
		if err != nil {
			err = fmt.Errorf("reading %s: %w; 'sweep collect' writes such a file", path, err)
		}
	}
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	return rows, nil
}

func readCSV(from io.Reader) (rows []Row, err error) {
	in := csv.NewReader(from)
	names, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	}
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i, name := range names {
		at[name] = i
	}
	for _, c := range columns {
		if _, ok := at[c.name]; !ok {
			return nil, fmt.Errorf("the column %s is missing", c.name)
		}
	}
	for {
		line, err := in.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		var r Row
		for _, c := range columns {
			text := line[at[c.name]]
			var err error
			switch v := c.value(&r).(type) {
			case *string:
				*v = text
			case *uint64:
				*v, err = strconv.ParseUint(text, 10, 64)
			case *int:
				*v, err = strconv.Atoi(text)
			case *float64:
				if *v = -1; text != "" {
					*v, err = strconv.ParseFloat(text, 64)
				}
			}
			if err != nil {
				return nil, fmt.Errorf("line %d: the column %s holds %.80q, expected a number", len(rows)+2, c.name, text)
			}
		}
		rows = append(rows, r)
	}
}
