package yamlfile_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/plan"
)

type inner struct {
	Rank   int         `json:"rank"`
	Budget plan.Budget `json:"budget"`
}

type outer struct {
	inner
	Embedded inner              `json:"embedded"`
	Name     string             `json:"name"`
	Rates    []float64          `json:"rates"`
	Mean     [3]float32         `json:"mean"`
	Factors  map[string]float64 `json:"factors"`
	Seed     uint64             `json:"seed"`
	On       bool               `json:"on"`
	Later    *yamlfile.Node     `json:"later"`
	Single   *inner             `json:"single"`
	Hidden   string             `json:"-"`
}

// TestDecode decodes one document on top of another.
func TestDecode(t *testing.T) {
	before := map[string]float64{"head": 2, "norms": 3}
	v := outer{Name: "kept", Single: &inner{Rank: 1}, Factors: before}
	for _, text := range []string{
		"{}", "",
		"embedded: {rank: 4, budget: 0.2M}\nrates: [1e-3, 1, .5]\nmean: [0.5, 0, 1]\nseed: 18446744073709551615\non: true\nlater: [a, {b: 1}]\n",
		`{"single": {"budget": 100}, "seed": 7}`,
		"factors: {module-outputs: 4, norms: 0.5}",
	} {
		n, err := yamlfile.Parse([]byte(text))
		if err == nil {
			err = yamlfile.Decode(n, &v)
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	if v.Name != "kept" || v.Embedded.Rank != 4 || v.Embedded.Budget.String() != "0.2M" || len(v.Rates) != 3 || v.Rates[0] != 1e-3 || v.Mean[0] != 0.5 ||
		v.Seed != 7 || !v.On || v.Single.Rank != 1 || v.Single.Budget.String() != "100" || len(v.Later.Content) != 2 {
		t.Errorf("decoded %+v", v)
	}
	if !maps.Equal(v.Factors, map[string]float64{"head": 2, "norms": 0.5, "module-outputs": 4}) || len(before) != 2 || before["norms"] != 3 {
		t.Errorf("decoded the factors %v on top of %v", v.Factors, before)
	}
}

// TestErrors checks that every error names the line, the column and the value that was found.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"name: a\nnmae: b":                  `line 2, column 1: key "nmae" is unknown; did you mean "name"? known: `,
		"embedded:\n  rnak: 3":              `line 2, column 3: key "rnak" is unknown; did you mean "rank"? known: budget, rank`,
		"Hidden: a":                         `key "Hidden" is unknown`,
		"name: 3":                           `line 1, column 7: name: found 3, expected a text`,
		"seed: -1":                          `seed: found -1, expected a whole number of at least 0`,
		"seed: 1.0":                         `seed: found 1.0, expected a whole number`,
		"rates: 0.1":                        `rates: found 0.1, expected a list`,
		"rates: [0.1, fast]":                `line 1, column 14: rates: found "fast", expected a number`,
		"rates: [.nan]":                     `expected a number`,
		`embedded: {rank: "4"}`:             `line 1, column 18: embedded: rank: found "4", expected a whole number`,
		"embedded: [1]":                     `embedded: found a list, expected a mapping`,
		"embedded: {budget: 0}":             `line 1, column 20: embedded: budget: budget "0": it allows no parameter`,
		"on: yes please":                    `expected true or false`,
		"factors: [1]":                      `factors: found a list, expected a mapping`,
		"factors: {head: fast}":             `line 1, column 17: factors: head: found "fast", expected a number`,
		"factors: {head: 1, head: 2}":       `the key "head" is given twice`,
		"mean: [1, 2]":                      `line 1, column 7: mean: found a list of 2 values, expected 3`,
		"seed: 1\nname: a\nseed: 2":         `line 3, column 1: the key "seed" is given twice, first in line 1`,
		"name: {":                           `the YAML is broken`,
		"a: &x {rank: 1}\nsingle: {<<: *x}": `key "a" is unknown`,
		"single: {<<: {rank: 1}}":           `merge keys`,
	} {
		n, err := yamlfile.Parse([]byte(text))
		if err == nil {
			err = yamlfile.Decode(n, new(outer))
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, expected %q", text, err, want)
		}
	}
}
