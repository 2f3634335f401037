// Package jsonfile reads and writes the JSON files of this program. Each is one object that begins
// with its kind and the version of its format, so that a reader knows a file by its content.
package jsonfile

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/sptune/spt/internal/atomicfile"
)

// Kind says what a file holds.
type Kind string

// The kinds of JSON files that this program writes. docs/format.md describes each.
const (
	Run       Kind = "run"       // config.json of a run folder
	Result    Kind = "result"    // result.json of a run folder
	Candidate Kind = "candidate" // result.json of one budget that a run tried
	Epoch     Kind = "epoch"     // one line of metrics.jsonl
	Plan      Kind = "plan"      // plan.json
	Delta     Kind = "delta"     // spt_delta.json
)

// The kinds of safetensors files whose metadata holds a [Header]. docs/format.md describes each.
const (
	Scores        Kind = "scores"         // result of stage 1
	TrainingState Kind = "training-state" // state of an unfinished training
)

// Header holds the first keys of every JSON file of this program.
type Header struct {
	Kind    Kind `json:"kind"`
	Version int  `json:"version"` // of the format of this kind, from 1
}

// check reports another header than h.
func (h Header) check(found Header) error {
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

// HeaderOf returns the header of a JSON object, or of the first line of JSON lines. An object of
// another program has no kind.
func HeaderOf(data []byte) (Header, error) {
	var found struct {
		Kind    any `json:"kind"`
		Version any `json:"version"`
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&found); err != nil {
		return Header{}, fmt.Errorf("broken JSON: %w", err)
	}
	kind, _ := found.Kind.(string)
	version, _ := found.Version.(float64)
	return Header{Kind(kind), int(version)}, nil
}

// Decode decodes a JSON object into v. It reports another header than want.
func Decode(data []byte, want Header, v any) error {
	found, err := HeaderOf(data)
	if err == nil {
		err = want.check(found)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
