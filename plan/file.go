package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"unicode"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
)

// maxFile is the size in bytes of the largest plan file that LoadFile reads. It is enough for
// twenty million entries, about fifty times the largest plan of the paper.
const maxFile = 256 << 20

// numberList matches a list of numbers as [json.MarshalIndent] writes it, with one number on each
// line. It matches no part of a JSON string, because a JSON string contains no line break.
var numberList = regexp.MustCompile(`\[\n[-0-9,\s]+\]`)

// encode returns the content of a plan file: indented JSON, with the positions of each tensor on
// one line. Equal plans give equal bytes.
func (p *Plan) encode() ([]byte, error) {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding plan: %w", err)
	}
	data = numberList.ReplaceAllFunc(data, func(list []byte) []byte {
		return bytes.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return -1
			}
			return r
		}, list)
	})
	return append(data, '\n'), nil
}

// decode parses the content of a plan file. It returns an error if the kind or the version is not
// that of a plan file, if a field is unknown, or if the plan contradicts itself. A plan contradicts
// itself, for example, if positions are not ascending, if a tensor is in two lists, or if the cost
// is not the sum of its parts.
func decode(data []byte) (*Plan, error) {
	// Check the header before the fields, because another version may have other fields.
	var found jsonfile.Header
	if err := json.Unmarshal(data, &found); err != nil {
		return nil, fmt.Errorf("decoding plan: %w; expected a JSON file that 'spt plan' wrote, or a published selection", jsonfile.Explain(data, err))
	}
	switch {
	case found.Kind != header.Kind:
		return nil, fmt.Errorf("decoding plan: kind is %.100q, expected %q; give a plan file", found.Kind, header.Kind)
	case found.Version != header.Version:
		return nil, fmt.Errorf("decoding plan: version is %d, expected %d; make the plan again, or use the release of spt that wrote it", found.Version, header.Version)
	}
	p := new(Plan)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&document{fields: (*fields)(p)}); err != nil {
		return nil, fmt.Errorf("decoding plan: %w", jsonfile.Explain(data, err))
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("decoding plan: %w", err)
	}
	return p, nil
}

// Save writes the plan to the file at path, as JSON. If the file exists, Save replaces it after the
// new content is complete on disk.
func (p *Plan) Save(path string) error {
	data, err := p.encode()
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(path, data); err != nil {
		return fmt.Errorf("saving plan: %w", err)
	}
	return nil
}

// LoadFile reads a plan file, as [Plan.Save] writes it. It returns an error that names the file if
// the file has another kind or version, has an unknown field or contradicts itself. LoadFile does
// not check whether the plan fits a backbone; call [Plan.Validate] to do so.
func LoadFile(path string) (*Plan, error) {
	data, err := regularfile.Read(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("loading plan: %w", err)
	}
	p, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("loading plan %s: %w", path, err)
	}
	return p, nil
}
