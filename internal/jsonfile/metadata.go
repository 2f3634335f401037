package jsonfile

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// The metadata keys of the safetensors files of spt.
const (
	kindKey    = "kind"
	versionKey = "version"
	contentKey = "content"
)

// Metadata returns the metadata of a safetensors file: the header, and v as JSON text.
func (h Header) Metadata(v any) (map[string]string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return map[string]string{kindKey: string(h.Kind), versionKey: strconv.Itoa(h.Version), contentKey: string(text)}, nil
}

// MetadataKind returns the kind in the metadata of a safetensors file. It is empty if the metadata
// has no kind.
func MetadataKind(metadata map[string]string) Kind { return Kind(metadata[kindKey]) }

// ReadMetadata decodes the JSON text in the metadata of a safetensors file into v. A header other
// than h is an error.
func (h Header) ReadMetadata(metadata map[string]string, v any) error {
	found := Header{Kind: MetadataKind(metadata)}
	if found.Kind == "" {
		return fmt.Errorf("the metadata has no %q, expected %q", kindKey, h.Kind)
	}
	var err error
	if found.Version, err = strconv.Atoi(metadata[versionKey]); err != nil {
		return fmt.Errorf("metadata %q: found %q, expected a number", versionKey, metadata[versionKey])
	}
	if err := h.check(found); err != nil {
		return err
	}
	content := []byte(metadata[contentKey])
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("metadata %q: %w", contentKey, Explain(content, err))
	}
	return nil
}
