package run

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/internal/yamlfile"
)

// maxClassWeights limits the size of a file of class weights, in bytes.
const maxClassWeights = 16 << 20

// ReadClassWeights reads a weight for each of the given class names from a file, and returns the
// weights by class id. All weights are above 0. The extension of the file says its form:
//
//   - .json, .yaml and .yml: a mapping of class names to weights, such as {"cat": 1, "dog": 2.5}
//   - .csv: a table of two columns, the class name and the weight, with or without a header.
//
// The file must name every class once, and no other class. A name that several classes share gives
// all of them its weight. Errors are of type *[InputError].
func ReadClassWeights(path string, classes []string) ([]float64, error) {
	fail := func(err error) ([]float64, error) {
		return nil, &InputError{Err: fmt.Errorf("reading the class weights in %s: %w", path, err)}
	}
	rows := mappingWeights
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".csv":
		rows = tableWeights
	case ".json", ".yaml", ".yml":
	default:
		return fail(fmt.Errorf("the name ends in %q, expected .json, .yaml or .csv", ext))
	}
	data, err := regularfile.Read(path, maxClassWeights)
	if err != nil {
		return fail(err)
	}
	found, err := rows(bytes.TrimPrefix(data, []byte("\ufeff")))
	if err != nil {
		return fail(err)
	}
	weights := make([]float64, len(classes))
	first := map[string]int{}
	for _, w := range found {
		switch line, ok := first[w.class]; {
		case ok:
			return fail(fmt.Errorf("line %d: the class %q has a weight in line %d already; remove one of them", w.line, w.class, line))
		case !slices.Contains(classes, w.class):
			return fail(fmt.Errorf("line %d: the data set has no class %q; use the names of its %d classes", w.line, w.class, len(classes)))
		case !(w.weight > 0) || math.IsInf(w.weight, 1):
			return fail(fmt.Errorf("line %d: the weight of the class %q is %g, expected a finite number above 0", w.line, w.class, w.weight))
		}
		first[w.class] = w.line
		for id, name := range classes {
			if name == w.class {
				weights[id] = w.weight
			}
		}
	}
	for _, name := range classes {
		if first[name] == 0 {
			return fail(fmt.Errorf("the class %q has no weight; add one", name))
		}
	}
	return weights, nil
}

// classWeight is one row of a file of class weights.
type classWeight struct {
	line   int
	class  string
	weight float64
}

// mappingWeights reads the rows of a JSON or YAML file.
func mappingWeights(data []byte) (rows []classWeight, err error) {
	n, err := yamlfile.Parse(data)
	if err != nil {
		return nil, err
	}
	if n == nil || len(n.Content) == 0 || n.ShortTag() != "!!map" {
		return nil, errors.New(`expected a mapping of class names to weights, such as {"cat": 1, "dog": 2.5}`)
	}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		row := classWeight{line: key.Line, class: key.Value}
		if err := yamlfile.Decode(n.Content[i+1], &row.weight); err != nil {
			return nil, fmt.Errorf("class %q: %w", row.class, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// tableWeights reads the rows of a CSV file.
func tableWeights(data []byte) (rows []classWeight, err error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = 2
	for header := true; ; header = false {
		record, err := r.Read()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return nil, fmt.Errorf("expected two columns, the class name and its weight: %w", err)
		}
		line, _ := r.FieldPos(0)
		weight, err := strconv.ParseFloat(strings.TrimSpace(record[1]), 64)
		if err != nil && header {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: the weight of the class %q is %q, expected a number", line, record[0], record[1])
		}
		rows = append(rows, classWeight{line, record[0], weight})
	}
}
