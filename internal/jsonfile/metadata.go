package jsonfile

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// The keys of the metadata of a safetensors file of this program.
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

// MetadataKind returns the kind that the metadata of a safetensors file names. It is empty if there
// is none.
func MetadataKind(metadata map[string]string) Kind { return Kind(metadata[kindKey]) }

// ReadMetadata decodes the JSON text in the metadata of a safetensors file into v and checks the
// header.
func (h Header) ReadMetadata(metadata map[string]string, v any) error {
	found := Header{Kind: MetadataKind(metadata)}
	if found.Kind == "" {
		return fmt.Errorf("its metadata has no %q, expected %q", kindKey, h.Kind)
	}
	var err error
	if found.Version, err = strconv.Atoi(metadata[versionKey]); err != nil {
		return fmt.Errorf("metadata %q: found %q, expected a number", versionKey, metadata[versionKey])
	}
	if err := h.check(found); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(metadata[contentKey]), v); err != nil {
		return fmt.Errorf("metadata %q: %w", contentKey, err)
	}
	return nil
}
