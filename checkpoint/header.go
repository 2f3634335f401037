package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxHeader is the longest JSON header, in bytes, that the format allows.
const maxHeader = 100_000_000

// metadataKey is the one key of the header that does not name a tensor.
const metadataKey = "__metadata__"

// TensorInfo describes one tensor of a checkpoint.
type TensorInfo struct {
	Name  string `json:"name"`
	DType DType  `json:"dtype"`
	Shape []int  `json:"shape"` // empty for a scalar
}

// Bytes returns the number of bytes that the tensor's values take.
func (t TensorInfo) Bytes() int64 {
	n, _ := byteSize(t.DType, t.Shape) // of a File it has been checked
	return int64(n)
}

// placed is a tensor of a safetensors file.
type placed struct {
	TensorInfo
	begin, end int64 // bytes from the start of the data section: [begin, end)
}

// FormatError reports that a file breaks a rule of its format, or that a tensor cannot be what its
// name says.
type FormatError struct {
	File string
	// bytes from the start of the file, where the fault was noticed; in a compressed member, its
	// start
	Offset int64
	Tensor string // empty if the fault is not in one tensor
	Err    error
}

// Error names the file, the offset, the tensor if there is one, and the cause. It shortens names
// and shapes, which a hostile header can make of any length.
func (e *FormatError) Error() string {
	cause := e.Err.Error()
	if len(cause) > 500 {
		cause = cause[:500] + "…"
	}
	if e.Tensor == "" {
		return fmt.Sprintf("checkpoint %s: at byte %d: %s", e.File, e.Offset, cause)
	}
	return fmt.Sprintf("checkpoint %s: at byte %d: tensor %.100q: %s", e.File, e.Offset, e.Tensor, cause)
}

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }

// jsonParser reads JSON token by token. json.Unmarshal would keep the last of two equal keys, so
// that two readers could see two different files.
type jsonParser struct {
	dec  *json.Decoder
	file string
	base int64  // offset of the text in the file
	what string // "header" or "index", for errors
}

// newJSONParser checks that raw is one JSON object that encoding/json reads without a silent
// correction.
func newJSONParser(raw []byte, file string, base int64, what string) (*jsonParser, error) {
	fail := func(at int, format string, args ...any) error {
		return &FormatError{File: file, Offset: base + int64(at), Err: fmt.Errorf("the "+what+" "+format, args...)}
	}
	if at := invalidUTF8(raw); at >= 0 {
		return nil, fail(at, "is not valid UTF-8")
	}
	if err := json.Unmarshal(raw, &struct{}{}); err != nil {
		at := 0
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = max(int(syntax.Offset)-1, 0)
		}
		return nil, fail(at, "is not valid JSON: %w", err)
	}
	if at := loneSurrogate(raw); at >= 0 {
		return nil, fail(at, "has half of a UTF-16 surrogate pair, which is no character")
	}
	p := &jsonParser{dec: json.NewDecoder(bytes.NewReader(raw)), file: file, base: base, what: what}
	p.dec.UseNumber()
	return p, nil
}

// parseHeader checks the JSON text raw of a file's header against all rules of the format. dataSize
// is the number of bytes in the file after the header. The tensors are returned in the order of
// their data.
func parseHeader(raw []byte, dataSize int64, file string) ([]placed, map[string]string, error) {
	fail := func(at int, format string, args ...any) error {
		return &FormatError{File: file, Offset: 8 + int64(at), Err: fmt.Errorf(format, args...)}
	}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, nil, fail(0, "the header does not start with '{': not a safetensors file")
	}
	if text := bytes.TrimRight(raw, " "); text[len(text)-1] != '}' {
		return nil, nil, fail(len(text)-1, "the header does not end with '}' and spaces")
	}
	p, err := newJSONParser(raw, file, 8, "header")
	if err != nil {
		return nil, nil, err
	}
	var tensors []placed
	var metadata map[string]string
	err = p.object("", func(key string) (err error) {
		if key == metadataKey {
			metadata, err = p.metadata()
			return err
		}
		info, err := p.tensor(key, dataSize)
		tensors = append(tensors, info)
		return err
	})
	if err != nil {
		return nil, nil, err
	}

	slices.SortFunc(tensors, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.Name, b.Name))
	})
	dataStart, end := 8+int64(len(raw)), int64(0)
	for _, t := range tensors {
		if t.begin != end {
			return nil, nil, &FormatError{File: file, Offset: dataStart + t.begin, Tensor: t.Name, Err: fmt.Errorf(
				"its data begins at byte %d of the data section, but the data before it ends at %d; tensors must follow each other without holes or overlap", t.begin, end)}
		}
		end = t.end
	}
	if end != dataSize {
		return nil, nil, fail(len(raw)+int(end), "the tensors end at byte %d of the data section, which has %d bytes", end, dataSize)
	}
	return tensors, metadata, nil
}

// invalidUTF8 returns the index of the first byte of raw that is not part of valid UTF-8, -1 if
// there is none.
func invalidUTF8(raw []byte) int {
	if utf8.Valid(raw) {
		return -1
	}
	at := 0
	for {
		r, n := utf8.DecodeRune(raw[at:])
		if r == utf8.RuneError && n <= 1 {
			return at
		}
		at += n
	}
}

// loneSurrogate returns the index of the first \u escape in valid JSON that is half of a surrogate
// pair, -1 if there is none. encoding/json would replace it by U+FFFD, and so make different names
// equal.
func loneSurrogate(raw []byte) int {
	unit := func(at int) rune { // the value of the \uXXXX at raw[at:], -1 if there is none
		if at+6 > len(raw) || raw[at] != '\\' || raw[at+1] != 'u' {
			return -1
		}
		v, _ := strconv.ParseUint(string(raw[at+2:at+6]), 16, 16) // valid JSON has four digits here
		return rune(v)
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		if r := unit(i); utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, unit(i+6)) == utf8.RuneError {
				return i
			}
			i += 10
		}
		i++ // the character after the backslash
	}
	return -1
}

// fail returns an error at the token that was read last.
func (p *jsonParser) fail(tensor, format string, args ...any) error {
	return &FormatError{File: p.file, Offset: p.base + p.dec.InputOffset(), Tensor: tensor, Err: fmt.Errorf(format, args...)}
}

// token reads one token: a string, a json.Number, a json.Delim, a bool or nil.
func (p *jsonParser) token(tensor string) (json.Token, error) {
	t, err := p.dec.Token()
	if err != nil {
		return nil, p.fail(tensor, "the %s is not valid JSON: %w", p.what, err)
	}
	return t, nil
}

// open reads the delimiter that starts an object or an array. what names the value in errors.
func (p *jsonParser) open(tensor, what string, delim json.Delim) error {
	t, err := p.token(tensor)
	if err == nil && t != delim {
		err = p.fail(tensor, "%s is %v, expected '%v'", what, t, delim)
	}
	return err
}

// object reads a whole object and calls value after each key to read its value. Equal keys are an
// error.
func (p *jsonParser) object(tensor string, value func(key string) error) error {
	if err := p.open(tensor, "the value", '{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for p.dec.More() {
		t, err := p.token(tensor)
		if err != nil {
			return err
		}
		key, _ := t.(string) // valid JSON has no other keys
		if seen[key] {
			return p.fail(tensor, "duplicate key %q", key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	_, err := p.token(tensor)
	return err
}

func (p *jsonParser) metadata() (map[string]string, error) {
	metadata := map[string]string{}
	err := p.object(metadataKey, func(key string) error {
		s, err := p.str(metadataKey, "the value of "+strconv.Quote(key))
		metadata[key] = s
		return err
	})
	return metadata, err
}

func (p *jsonParser) str(tensor, what string) (string, error) {
	t, err := p.token(tensor)
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", p.fail(tensor, "%s is %v, expected a string", what, t)
	}
	return s, nil
}

// unsigned reads an array of whole numbers from 0 to 2^bitSize-1, written in plain digits.
func (p *jsonParser) unsigned(tensor, what string, bitSize int) ([]uint64, error) {
	if err := p.open(tensor, what, '['); err != nil {
		return nil, err
	}
	var numbers []uint64
	for p.dec.More() {
		t, err := p.token(tensor)
		if err != nil {
			return nil, err
		}
		number, ok := t.(json.Number)
		if !ok {
			return nil, p.fail(tensor, "%s holds %v, expected whole numbers", what, t)
		}
		n, err := strconv.ParseUint(number.String(), 10, bitSize)
		if err != nil {
			return nil, p.fail(tensor, "%s holds %s, expected whole numbers from 0 to 2^%d-1 without sign, fraction or exponent", what, number, bitSize)
		}
		numbers = append(numbers, n)
	}
	_, err := p.token(tensor)
	return numbers, err
}

// tensor reads and checks the entry of one tensor.
func (p *jsonParser) tensor(name string, dataSize int64) (placed, error) {
	info := placed{TensorInfo: TensorInfo{Name: name, Shape: []int{}}}
	// equal keys are an error already, so three known fields are the three different ones
	fields := 0
	err := p.object(name, func(key string) error {
		fields++
		switch key {
		case "dtype":
			s, err := p.str(name, "dtype")
			info.DType = DType(s)
			return err
		case "shape":
			dims, err := p.unsigned(name, "shape", strconv.IntSize-1)
			for _, d := range dims {
				info.Shape = append(info.Shape, int(d))
			}
			return err
		case "data_offsets":
			offsets, err := p.unsigned(name, "data_offsets", 63)
			if err != nil {
				return err
			}
			if len(offsets) != 2 {
				return p.fail(name, "data_offsets has %d numbers, expected [begin, end]", len(offsets))
			}
			info.begin, info.end = int64(offsets[0]), int64(offsets[1])
			return nil
		}
		return p.fail(name, "unknown field %q, expected dtype, shape and data_offsets", key)
	})
	if err != nil {
		return info, err
	}
	if fields != 3 {
		return info, p.fail(name, "the entry has %d of the fields dtype, shape and data_offsets, expected all three", fields)
	}
	size, err := byteSize(info.DType, info.Shape)
	switch {
	case err != nil:
		return info, p.fail(name, "%w", err)
	case info.begin > info.end:
		return info, p.fail(name, "data_offsets [%d, %d] run backwards", info.begin, info.end)
	case info.end > dataSize:
		return info, p.fail(name, "data_offsets [%d, %d] go past the end of the data section of %d bytes; the file is cut short or damaged, fetch it again", info.begin, info.end, dataSize)
	case size > math.MaxInt64 || int64(size) != info.end-info.begin:
		return info, p.fail(name, "data_offsets [%d, %d] hold %d bytes, but %s %v takes %d", info.begin, info.end, info.end-info.begin, info.DType, info.Shape, size)
	}
	return info, nil
}
