// Package jsonfile reads and writes the JSON files of this program. Each is one object that begins
// with its kind and the version of its format, so that a reader knows a file by its content.
package jsonfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sptune/spt/internal/atomicfile"
)

// Kind says what a JSON file holds.
type Kind string

// The kinds of JSON files that this program writes. docs/format.md describes each.
const (
	Run       Kind = "run"       // config.json of a run folder
	Result    Kind = "result"    // result.json of a run folder
	Candidate Kind = "candidate" // result.json of one budget that a run tried
	Epoch     Kind = "epoch"     // one line of metrics.jsonl
	Plan      Kind = "plan"      // plan.json
	Delta     Kind = "delta"     // delta.json
)

// Header holds the first keys of every JSON file of this program.
type Header struct {
	Kind    Kind `json:"kind"`
	Version int  `json:"version"` // of the format of this kind, from 1
}

// Check reports a header other than h.
func (h Header) Check(found Header) error {
	switch {
	case found.Kind != h.Kind:
		return fmt.Errorf("its kind is %q, expected %q", found.Kind, h.Kind)
	case found.Version != h.Version:
		return fmt.Errorf("it has version %d of the format %q, this program reads version %d", found.Version, h.Kind, h.Version)
	}
	return nil
}

// Write replaces the file as a whole, so that an interrupted program leaves no half of it. v must
// encode the keys of [Header] itself.
func Write(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, append(data, '\n'))
}

// WriteLines replaces the file as a whole with one line of JSON for each value.
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

// HeaderOf reads the header of a JSON file, or of its first line. The header of a JSON object of
// another program has no kind. A missing or special file gives [fs.ErrNotExist].
func HeaderOf(path string) (Header, error) {
	if stat, err := os.Stat(path); err == nil && !stat.Mode().IsRegular() {
		return Header{}, fs.ErrNotExist // opening a pipe would wait for its writer
	}
	f, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	var found struct {
		Kind    any `json:"kind"`
		Version any `json:"version"`
	}
	if err := json.NewDecoder(f).Decode(&found); err != nil {
		return Header{}, &ContentError{path, fmt.Errorf("broken JSON: %w", err)}
	}
	kind, _ := found.Kind.(string)
	version, _ := found.Version.(float64)
	return Header{Kind(kind), int(version)}, nil
}

// Read decodes the file into v and checks its header. A missing file gives [fs.ErrNotExist]; found
// content that does not fit gives a [*ContentError].
func Read(path string, want Header, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	var header Header
	if err := json.Unmarshal(data, &header); err != nil {
		return &ContentError{path, err}
	}
	if err := want.Check(header); err != nil {
		return &ContentError{path, err}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &ContentError{path, err}
	}
	return nil
}

// ReadLines decodes each line of the file into one value and checks its header. A missing file has
// no lines.
func ReadLines[T any](path string, want Header) ([]T, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	var out []T
	for line := range bytes.Lines(data) {
		var header Header
		var v T
		err := json.Unmarshal(line, &header)
		if err == nil {
			err = want.Check(header)
		}
		if err == nil {
			err = json.Unmarshal(line, &v)
		}
		if err != nil {
			return nil, &ContentError{path, fmt.Errorf("line %d: %w", len(out)+1, err)}
		}
		out = append(out, v)
	}
	return out, nil
}

// ContentError reports a file that was read and does not hold what was expected.
type ContentError struct {
	Path string
	Err  error
}

func (e *ContentError) Error() string { return fmt.Sprintf("reading %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *ContentError) Unwrap() error { return e.Err }
