// Package tensorfile writes and reads the metadata by which a safetensors file of this program is
// known: its kind, the version of its format, and a JSON text that describes its tensors.
package tensorfile

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Kind says what a safetensors file of this program holds.
type Kind string

// The kinds of safetensors files that carry metadata. docs/format.md describes each.
const (
	Scores        Kind = "scores"         // result of stage 1
	TrainingState Kind = "training-state" // state of an unfinished training
)

// The keys of the metadata.
const (
	kindKey    = "kind"
	versionKey = "version"
	contentKey = "content"
)

// Header is the kind of a file and the version of its format, from 1.
type Header struct {
	Kind    Kind
	Version int
}

// KindOf returns the kind that the metadata of a file names. It is empty if the metadata has none.
func KindOf(metadata map[string]string) Kind { return Kind(metadata[kindKey]) }

// Metadata returns the metadata of a file with content as its JSON text.
func (h Header) Metadata(content any) (map[string]string, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	return map[string]string{kindKey: string(h.Kind), versionKey: strconv.Itoa(h.Version), contentKey: string(text)}, nil
}

// Read decodes the JSON text of the metadata into content. It reports a file of another kind or
// another version.
func (h Header) Read(metadata map[string]string, content any) error {
	switch found := KindOf(metadata); found {
	case h.Kind:
	case "":
		return fmt.Errorf("its metadata has no %q, expected %q", kindKey, h.Kind)
	default:
		return fmt.Errorf("its metadata has kind %q, expected %q", found, h.Kind)
	}
	if found := metadata[versionKey]; found != strconv.Itoa(h.Version) {
		return fmt.Errorf("it has version %q of the format %q, this program reads version %d", found, h.Kind, h.Version)
	}
	if err := json.Unmarshal([]byte(metadata[contentKey]), content); err != nil {
		return fmt.Errorf("metadata %q: %w", contentKey, err)
	}
	return nil
}
