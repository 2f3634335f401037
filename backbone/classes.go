package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
)

// ClassesKey is the metadata key of the class names in a checkpoint that spt writes. The value is a
// JSON list of strings, one for each row of the head.
const ClassesKey = "spt_classes"

// ClassNames holds the names of the rows of the head of a checkpoint.
type ClassNames struct {
	// Names holds one name for each row. It is nil if nothing names the rows.
	Names []string
	// Source says, for people, where the names come from.
	Source string
}

// ReadClasses returns the class names of the head of the checkpoint f. The head has the given
// number of rows. The names come from the first of these places: the metadata that spt writes,
// id2label in the config.json of Hugging Face, and label_names in the config.json of timm. Without
// names, ReadClasses returns the zero ClassNames. The names LABEL_0, LABEL_1 … count as no names,
// because transformers writes them if the user gives none. Names that do not fit the head are an
// error.
func ReadClasses(f *checkpoint.File, rows int) (ClassNames, error) {
	c, err := findClasses(f)
	if err == nil && c.Names != nil && len(c.Names) != rows {
		err = fmt.Errorf("%s holds %d class names, but the head has %d rows; correct the names, or remove them to number the rows", c.Source, len(c.Names), rows)
	}
	if err != nil {
		return ClassNames{}, fmt.Errorf("reading the class names of %s: %w", f.Name(), err)
	}
	return c, nil
}

// findClasses returns the class names of f. It does not know the number of rows.
func findClasses(f *checkpoint.File) (ClassNames, error) {
	if text, ok := f.Metadata()[ClassesKey]; ok {
		c := ClassNames{Source: fmt.Sprintf("the metadata %q", ClassesKey)}
		if err := json.Unmarshal([]byte(text), &c.Names); err != nil {
			return c, fmt.Errorf("%s: %w; expected a JSON list of strings", c.Source, jsonfile.Explain([]byte(text), err))
		}
		return c, nil
	}
	path := filepath.Join(filepath.Dir(f.Name()), "config.json")
	text, err := readClassConfig(path)
	if text == nil || err != nil {
		return ClassNames{}, err
	}
	var config, pretrained map[string]json.RawMessage
	if json.Unmarshal(text, &config) != nil {
		return ClassNames{}, nil // not a description of a model; Load says so
	}
	_ = json.Unmarshal(config["pretrained_cfg"], &pretrained) // absent in files of Hugging Face
	for _, place := range []struct {
		field string
		value json.RawMessage
	}{{"id2label", config["id2label"]}, {"label_names", config["label_names"]}, {"label_names", pretrained["label_names"]}} {
		c := ClassNames{Source: place.field + " in " + path}
		var id2label map[string]any
		switch {
		case place.value == nil:
			continue
		case place.field == "id2label":
			if err = json.Unmarshal(place.value, &id2label); err == nil {
				c.Names, err = namesByID(id2label)
			}
		default:
			err = json.Unmarshal(place.value, &c.Names)
		}
		if err != nil {
			return ClassNames{}, fmt.Errorf("%s: %w; expected id2label as an object from the numbers of the rows to names, or label_names as a list of names", c.Source, jsonfile.Explain(place.value, err))
		}
		if len(c.Names) > 0 && !placeholders(c.Names) {
			return c, nil
		}
	}
	return ClassNames{}, nil
}

// readClassConfig returns the content of the config.json at path, as [Load] reads it. It returns
// nil if there is no such file.
func readClassConfig(path string) ([]byte, error) {
	text, err := readSideFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return text, nil
}

// namesByID returns the names of an id2label, in the order of the ids. The keys must be the numbers
// from 0, each once.
func namesByID(id2label map[string]any) ([]string, error) {
	if len(id2label) == 0 {
		return nil, nil
	}
	names := make([]string, len(id2label))
	for id := range names {
		switch name := id2label[strconv.Itoa(id)].(type) {
		case string:
			names[id] = name
		case float64: // transformers writes the number of a class that has no other name
			names[id] = strconv.FormatFloat(name, 'f', -1, 64)
		case nil:
			return nil, fmt.Errorf("it has %d entries, but no name for row %d; expected the keys \"0\" to \"%d\"", len(id2label), id, len(id2label)-1)
		default:
			return nil, fmt.Errorf("the name of row %d is %v; expected a text", id, name)
		}
	}
	return names, nil
}

// placeholders reports whether the names are those that transformers writes for unnamed classes:
// LABEL_0, LABEL_1 and so on.
func placeholders(names []string) bool {
	own := make([]string, len(names))
	for i := range own {
		own[i] = "LABEL_" + strconv.Itoa(i)
	}
	return slices.Equal(names, own)
}
