package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"unicode"

	"github.com/sptune/spt/internal/atomicfile"
)

// maxFile is the largest plan file that is read, in bytes: twenty million
// entries, some fifty times the largest plan of the paper.
const maxFile = 256 << 20

// A list of numbers as [json.MarshalIndent] lays it out, one number per line. No
// string holds a line break, so this matches no part of one.
var numberList = regexp.MustCompile(`\[\n[-0-9,\s]+\]`)

// Encode returns the plan as a plan file: JSON, indented, with the indexes of
// each tensor on one line. The same plan gives the same bytes.
func (p *Plan) Encode() ([]byte, error) {
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

// Decode reads a plan file. It is an error if the version is another one, if a
// field is unknown, or if the plan disagrees with itself: an index list that is
// not ascending, a tensor in two places, a cost that is not the sum of its
// parts. Whether the plan fits a backbone is for [Plan.Validate] to say.
func Decode(data []byte) (*Plan, error) {
	// The version goes first: another version may have other fields.
	var header struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &header); err != nil {
		return nil, fmt.Errorf("decoding plan: %w; expected the JSON of 'spt plan', or a published selection", located(data, err))
	}
	p := new(Plan)
	if header.Version == Version {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(p); err != nil {
			return nil, fmt.Errorf("decoding plan: %w", located(data, err))
		}
	}
	p.Version = header.Version
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("decoding plan: %w", err)
	}
	return p, nil
}

// located adds the line to a JSON error that knows its offset.
func located(data []byte, err error) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if errors.As(err, &syntax) {
		offset = syntax.Offset
	} else if errors.As(err, &kind) {
		offset = kind.Offset
	}
	if offset < 0 || offset > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}

// Save writes the plan file at path. An existing file is replaced only once the
// new one is complete on disk.
func (p *Plan) Save(path string) error {
	data, err := p.Encode()
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(path, data); err != nil {
		return fmt.Errorf("saving plan: %w", err)
	}
	return nil
}

// LoadFile reads the plan file at path; see [Decode]. Errors name the file.
func LoadFile(path string) (*Plan, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("loading plan: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("loading plan: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("loading plan %s: the file has more than %d bytes: is it a plan?", path, maxFile)
	}
	p, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("loading plan %s: %w", path, err)
	}
	return p, nil
}
