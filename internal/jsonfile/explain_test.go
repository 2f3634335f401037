package jsonfile_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/jsonfile"
)

// TestExplain checks that the errors name the JSON values that were found and expected, and no Go
// types.
func TestExplain(t *testing.T) {
	type inner struct {
		LR float64 `json:"lr"`
	}
	type document struct {
		Name   string         `json:"name"`
		Budget int            `json:"budget"`
		Seed   uint64         `json:"seed"`
		On     bool           `json:"on"`
		Shape  []int          `json:"shape"`
		Counts map[string]int `json:"counts"`
		Train  *inner         `json:"train"`
	}
	for text, want := range map[string]string{
		`{"budget":"x"}`:                     `field "budget": found a string, expected a whole number`,
		`{"budget":1.5}`:                     `field "budget": found the number 1.5, expected a whole number`,
		`{"seed":-1}`:                        `field "seed": found the number -1, expected a whole number of at least 0`,
		`{"name":3}`:                         `field "name": found a number, expected a string`,
		`{"on":"yes"}`:                       `field "on": found a string, expected true or false`,
		`{"shape":{}}`:                       `field "shape": found an object, expected a list`,
		`{"counts":[]}`:                      `field "counts": found a list, expected an object`,
		`{"train":false}`:                    `field "train": found true or false, expected an object`,
		"{\n\"name\":\"a\",\n\"budget\":[]}": `line 3: field "budget": found a list, expected a whole number`,
		`{"train":{"lr":"high"}}`:            `field "train.lr": found a string, expected a number`,
		`[]`:                                 `found a list, expected an object`,
		`{"other":1}`:                        `unknown field "other"`,
		`{"name":`:                           `broken JSON: the text ends too early`,
		"{\n\"name\" 1}":                     `line 2: broken JSON: `,
	} {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		err := jsonfile.Explain([]byte(text), decoder.Decode(new(document)))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "json:") {
			t.Errorf("%s: the error is %v, want %s", text, err, want)
		}
	}
	if err := errors.New("other"); jsonfile.Explain(nil, err) != err || jsonfile.Explain(nil, nil) != nil {
		t.Error("Explain changes an error of another package, or makes one")
	}
}
