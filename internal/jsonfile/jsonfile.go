// Package jsonfile reads and writes the JSON files of spt. Each file is one object, or one object
// per line, and each object begins with a [Header]: the kind of the file and the version of its
// format. A reader recognises a file by its header, with [HeaderOf].
//
// [Write] and [WriteLines] write JSON files, and [Decode] reads an object. [Header.Metadata] and
// [Header.ReadMetadata] do the same for the metadata of safetensors files.
package jsonfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sptune/spt/internal/atomicfile"
)

// Kind is the kind of content of a file.
type Kind string

// The kinds of JSON files that spt writes. docs/format.md describes each kind.
const (
	Run         Kind = "run"         // config.json of a run folder
	Result      Kind = "result"      // result.json of a run folder
	Candidate   Kind = "candidate"   // result.json of a candidate, one budget that a run tried
	Epoch       Kind = "epoch"       // one line of metrics.jsonl
	Plan        Kind = "plan"        // plan.json
	Delta       Kind = "delta"       // spt_delta.json
	Suite       Kind = "suite"       // the report of spt bench --suite
	Job         Kind = "job"         // one line of jobs.jsonl of a sweep folder
	Attempt     Kind = "attempt"     // one line of the log of a job of a sweep
	Predictions Kind = "predictions" // first line of predictions.jsonl
	MLflow      Kind = "mlflow"      // mlflow.json of a run folder
	Folds       Kind = "folds"       // folds.json of a cross-validation
)

// The kinds of safetensors files whose metadata holds a [Header]. docs/format.md describes each
// kind.
const (
	Scores        Kind = "scores"         // result of stage 1
	TrainingState Kind = "training-state" // state of an unfinished training
)

// Header holds the first two keys of every JSON file of spt.
type Header struct {
	Kind    Kind `json:"kind"`
	Version int  `json:"version"` // of the format of this kind, from 1
}

// check returns an error if found differs from h.
func (h Header) check(found Header) error {
	switch {
	case found.Kind != h.Kind:
		return fmt.Errorf("the kind is %q, expected %q", found.Kind, h.Kind)
	case found.Version != h.Version:
		return fmt.Errorf("the file has version %d of the format %q, but this program reads version %d", found.Version, h.Kind, h.Version)
	}
	return nil
}

// Write replaces the file at path with v as indented JSON. It replaces the whole file at once, so
// that an interrupted program leaves no partial file. v must encode the keys of its [Header]
// itself.
func Write(path string, v any) error { return write(path, v, atomicfile.WriteBytes) }

// Create makes the file at path with v, like [Write]. If the file exists, the error is fs.ErrExist.
func Create(path string, v any) error { return write(path, v, atomicfile.CreateBytes) }

func write(path string, v any, to func(path string, data []byte) error) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return to(path, append(data, '\n'))
}

// WriteLines replaces the file at path, like [Write], with one line of JSON for each value.
func WriteLines[T any](path string, values []T) error {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, v := range values {
		if err := encoder.Encode(v); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return atomicfile.WriteBytes(path, out.Bytes())
}

// Text returns s, such as a path, for a JSON document. JSON holds UTF-8 only, and its encoder
// replaces all other bytes with the same character. Text writes such a byte as \x and two digits,
// so that different paths stay different.
func Text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// HeaderOf returns the header of a JSON object, or of the first of several lines of JSON. The kind
// is empty if the object has no kind, as in files of other programs. Broken JSON is an error.
func HeaderOf(data []byte) (Header, error) {
	var found struct {
		Kind    any `json:"kind"`
		Version any `json:"version"`
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&found); err != nil {
		return Header{}, Explain(data, err)
	}
	kind, _ := found.Kind.(string)
	version, _ := found.Version.(float64)
	return Header{Kind(kind), int(version)}, nil
}

// Decode decodes a JSON object into v. A header other than want is an error.
func Decode(data []byte, want Header, v any) error {
	found, err := HeaderOf(data)
	if err == nil {
		err = want.check(found)
	}
	if err != nil {
		return err
	}
	return Explain(data, json.Unmarshal(data, v))
}
