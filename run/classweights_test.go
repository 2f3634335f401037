package run_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/run"
)

// TestReadClassWeights reads files of class weights, and files that are wrong.
func TestReadClassWeights(t *testing.T) {
	classes := []string{"cat", "dog, small", "crane", "crane"}
	for _, c := range []struct {
		name, text, want string // want is part of the error; empty: the weights are 1, 2.5, 3, 3
	}{
		{"w.json", `{"cat": 1, "dog, small": 2.5, "crane": 3}`, ""},
		{"W.JSON", "\ufeff{\"crane\": 3e0,\n\"cat\": 1.0, \"dog, small\": 2.5}", ""},
		{"w.yaml", "cat: 1\ndog, small: 2.5\ncrane: 3\n", ""},
		{"w.csv", "class,weight\ncat,1\n\"dog, small\", 2.5\ncrane,3\n", ""},
		{"w.csv", "\ufeffcrane,3\r\ncat,1\r\n\"dog, small\",2.5", ""},
		{"w.txt", "cat 1", `the name ends in ".txt", expected .json, .yaml or .csv`},
		{"w.json", `{"cat": 1,` + "\n" + `"dgo": 2.5}`, `line 2: the data set has no class "dgo"; use the names of its 4 classes`},
		{"w.json", `{"cat": 1, "crane": 3}`, `the class "dog, small" has no weight; add one`},
		{"w.json", `{"cat": 1, "cat": 3}`, `line 1: the class "cat" has a weight in line 1 already`},
		{"w.json", `{"cat": 0}`, `line 1: the weight of the class "cat" is 0, expected a finite number above 0`},
		{"w.json", `{"cat": "1"}`, `class "cat": line 1, column 9`},
		{"w.json", `{"cat": [1]}`, `class "cat": line 1, column 9`},
		{"w.json", `[1, 2]`, "expected a mapping of class names to weights"},
		{"w.json", ``, "expected a mapping of class names to weights"},
		{"w.json", `{`, "broken"},
		{"w.csv", ``, `the class "cat" has no weight`},
		{"w.csv", "cat,1\ndog\n", "expected two columns, the class name and its weight: record on line 2"},
		{"w.csv", "cat,1\ncrane,x\n", `line 2: the weight of the class "crane" is "x", expected a number`},
		{"w.csv", "cat,-1\n", `line 1: the weight of the class "cat" is -1`},
		{"w.csv", "cat,inf\n", `line 1: the weight of the class "cat" is +Inf`},
		{"w.csv", "cat,NaN\n", `line 1: the weight of the class "cat" is NaN`},
		{"w.csv", "cat,1\ncrane,3\ncat,2\n", `line 3: the class "cat" has a weight in line 1 already`},
	} {
		path := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(path, []byte(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		weights, err := run.ReadClassWeights(path, classes)
		if c.want == "" {
			if err != nil || !slices.Equal(weights, []float64{1, 2.5, 3, 3}) {
				t.Errorf("%s %q: weights %v, error %v", c.name, c.text, weights, err)
			}
			continue
		}
		if input := (*run.InputError)(nil); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || !errors.As(err, &input) {
			t.Errorf("%s %q: error %v, expected %q and the path", c.name, c.text, err, c.want)
		}
	}
	if _, err := run.ReadClassWeights(filepath.Join(t.TempDir(), "no.csv"), classes); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: error %v", err)
	}
}
