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
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxHeader is the length in bytes of the longest JSON header that the safetensors format allows.
const maxHeader = 100_000_000

// metadataKey is the only key of a safetensors header that does not name a tensor.
const metadataKey = "__metadata__"

// TensorInfo describes one tensor of a checkpoint.
type TensorInfo struct {
	// Name is the name of the tensor in the file.
	Name string `json:"name"`
	// DType is the type of the elements in the file.
	DType DType `json:"dtype"`
	// Shape holds the dimensions, outermost first. It is empty for a scalar.
	Shape []int `json:"shape"`
}

// Bytes returns the number of bytes that the values of the tensor take in the file. It returns 0 if
// DType is unknown or the size overflows, which cannot happen for a tensor of a [File].
func (t TensorInfo) Bytes() int64 {
	n, _ := byteSize(t.DType, t.Shape) // the readers have checked the tensors of a File
	return int64(n)
}

// placed is a tensor of a safetensors file and the place of its values.
type placed struct {
	TensorInfo
	begin, end int64 // bytes from the start of the data section: [begin, end)
}

// FormatError reports a file that is not a checkpoint, a file that breaks a rule of its format, or
// a tensor that does not have the form that its name requires.
type FormatError struct {
	// File is the path of the file, or the name that was given to [NewFile].
	File string
	// Offset is the place of the fault in bytes from the start of the file. For a fault inside a
	// compressed member of a zip archive it is the start of the member.
	Offset int64
	// Tensor is the name of the tensor that has the fault. It is empty if the fault does not belong
	// to one tensor.
	Tensor string
	// Err is the cause.
	Err error

	wholeFile bool // the file as a whole has another format, so Error leaves out the offset
}

// Error returns a message with the file, the offset, the name of the tensor if there is one, and
// the cause. It leaves out the offset if the file is not a checkpoint. It shortens long names and
// causes, because a hostile file can make them of any length.
func (e *FormatError) Error() string {
	cause := e.Err.Error()
	if len(cause) > 500 {
		cause = strings.ToValidUTF8(cause[:500], "") + "…"
	}
	if e.wholeFile {
		return fmt.Sprintf("opening the checkpoint %s: %s", e.File, cause)
	}
	if e.Tensor == "" {
		return fmt.Sprintf("checkpoint %s: at byte %d: %s", e.File, e.Offset, cause)
	}
	return fmt.Sprintf("checkpoint %s: at byte %d: tensor %.100q: %s", e.File, e.Offset, e.Tensor, cause)
}

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }

// jsonParser reads valid JSON token by token, in one pass, and rejects equal keys. json.Unmarshal
// would keep the last of two equal keys, where another program might keep the first.
type jsonParser struct {
	raw  []byte
	at   int    // index after the token that was read last
	file string // for errors
	base int64  // offset of the text in the file, in bytes
}

// newJSONParser returns a parser for raw, the text at offset base of a file. It checks that raw is
// one JSON object that encoding/json reads without a silent correction. what is "header" or
// "index", for errors.
func newJSONParser(raw []byte, file string, base int64, what string) (*jsonParser, error) {
	fail := func(at int, format string, args ...any) error {
		return &FormatError{File: file, Offset: base + int64(at), Err: fmt.Errorf("the "+what+" "+format, args...)}
	}
	if at := invalidUTF8(raw); at >= 0 {
		return nil, fail(at, "is not valid UTF-8")
	}
	if !json.Valid(raw) {
		err, at := json.Unmarshal(raw, &struct{}{}), 0
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = max(int(syntax.Offset)-1, 0)
		}
		return nil, fail(at, "is not valid JSON: %w", err)
	}
	if bytes.TrimLeft(raw, " \t\r\n")[0] != '{' {
		return nil, fail(0, "is not a JSON object")
	}
	if at := loneSurrogate(raw); at >= 0 {
		return nil, fail(at, "has half of a UTF-16 surrogate pair, which is not a character")
	}
	return &jsonParser{raw: raw, file: file, base: base}, nil
}

// parseHeader checks raw, the JSON header of a safetensors file, against all rules of the format.
// dataSize is the number of bytes in the file after the header. It returns the tensors in the order
// of their data, and the text pairs of the metadata.
func parseHeader(raw []byte, dataSize int64, file string) ([]placed, map[string]string, error) {
	fail := func(at int, format string, args ...any) error {
		return &FormatError{File: file, Offset: 8 + int64(at), Err: fmt.Errorf(format, args...)}
	}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, nil, fail(0, "the header does not start with '{'; the file is probably not a safetensors file or is damaged")
	}
	if text := bytes.TrimRight(raw, " "); text[len(text)-1] != '}' {
		return nil, nil, fail(len(text)-1, "the header does not end with '}', or '}' and spaces; the file is damaged")
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
				"its values begin at byte %d of the data section, but the values of the tensor before end at byte %d; tensors must follow each other without holes or overlap", t.begin, end)}
		}
		end = t.end
	}
	if end != dataSize {
		return nil, nil, fail(len(raw)+int(end), "the values of the tensors end at byte %d of the data section, which has %d bytes; the file is damaged", end, dataSize)
	}
	return tensors, metadata, nil
}

// invalidUTF8 returns the index of the first byte of raw that is not part of valid UTF-8, or -1 if
// all bytes are valid.
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

// loneSurrogate returns the index of the first \u escape in raw that is half of a UTF-16 surrogate
// pair, or -1 if there is none. raw must be valid JSON. encoding/json would replace such an escape
// by U+FFFD, which could make different names equal.
func loneSurrogate(raw []byte) int {
	unit := func(at int) rune { // returns the value of the \uXXXX at raw[at:], or -1
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

// fail returns a FormatError with the offset after the token that was read last.
func (p *jsonParser) fail(tensor, format string, args ...any) error {
	return &FormatError{File: p.file, Offset: p.base + int64(p.at), Tensor: tensor, Err: fmt.Errorf(format, args...)}
}

// token returns the next token, as it is in the text: a string in its quotes, another scalar, or
// one of { } [ ]. It skips spaces, commas and colons.
func (p *jsonParser) token() []byte {
	for bytes.IndexByte([]byte(" \t\r\n,:"), p.raw[p.at]) >= 0 {
		p.at++
	}
	start := p.at
	switch p.raw[start] {
	case '{', '}', '[', ']':
		p.at++
	case '"':
		for p.at++; p.raw[p.at] != '"'; p.at++ {
			if p.raw[p.at] == '\\' {
				p.at++
			}
		}
		p.at++
	default:
		// a scalar is inside an object
		for p.at++; bytes.IndexByte([]byte(" \t\r\n,]}"), p.raw[p.at]) < 0; {
			p.at++
		}
	}
	return p.raw[start:p.at]
}

// value returns the next value, as it is in the text.
func (p *jsonParser) value() []byte {
	first := p.token()
	start := p.at - len(first)
	for depth, token := 0, first; ; token = p.token() {
		switch token[0] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth == 0 {
			return p.raw[start:p.at]
		}
	}
}

// unquoted returns the text of a token that is a string.
func unquoted(token []byte) (s string) {
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token[1 : len(token)-1])
	}
	_ = json.Unmarshal(token, &s) // the text is valid JSON
	return s
}

// shown returns a token for an error, without characters that a terminal would interpret.
func shown(token []byte) string {
	if token[0] == '"' {
		return fmt.Sprintf("%.100q", unquoted(token))
	}
	return fmt.Sprintf("%.100s", token)
}

// open reads delim, which starts an object or an array. Errors name the value by what.
func (p *jsonParser) open(tensor, what string, delim byte) error {
	if t := p.token(); t[0] != delim {
		return p.fail(tensor, "%s is %s, expected '%c'", what, shown(t), delim)
	}
	return nil
}

// object reads a whole object. After each key it calls value, which reads the value of the key. Two
// equal keys are an error.
func (p *jsonParser) object(tensor string, value func(key string) error) error {
	if err := p.open(tensor, "the value", '{'); err != nil {
		return err
	}
	few := make([]string, 0, 8) // most objects have three keys
	var all map[string]bool
	for {
		t := p.token()
		if t[0] == '}' {
			return nil
		}
		key := unquoted(t)
		if all[key] || slices.Contains(few, key) {
			return p.fail(tensor, "duplicate key %.100q", key)
		}
		if len(few) < cap(few) {
			few = append(few, key)
		} else {
			if all == nil {
				all = map[string]bool{}
			}
			all[key] = true
		}
		if err := value(key); err != nil {
			return err
		}
	}
}

// metadata reads the object under metadataKey, whose values must be strings.
func (p *jsonParser) metadata() (map[string]string, error) {
	metadata := map[string]string{}
	err := p.object(metadataKey, func(key string) error {
		s, err := p.str(metadataKey, fmt.Sprintf("the value of %.100q", key))
		metadata[key] = s
		return err
	})
	return metadata, err
}

// str reads a string. Errors name the value by what.
func (p *jsonParser) str(tensor, what string) (string, error) {
	t := p.token()
	if t[0] != '"' {
		return "", p.fail(tensor, "%s is %s, expected a string", what, shown(t))
	}
	return unquoted(t), nil
}

// unsigned reads an array of whole numbers from 0 to 2^bitSize-1, written in digits only. Errors
// name the value by what.
func (p *jsonParser) unsigned(tensor, what string, bitSize int) ([]uint64, error) {
	if err := p.open(tensor, what, '['); err != nil {
		return nil, err
	}
	var numbers []uint64
	for {
		t := p.token()
		if t[0] == ']' {
			return numbers, nil
		}
		if t[0] != '-' && (t[0] < '0' || t[0] > '9') {
			return nil, p.fail(tensor, "%s holds %s, expected whole numbers", what, shown(t))
		}
		n, err := strconv.ParseUint(string(t), 10, bitSize)
		if err != nil {
			return nil, p.fail(tensor, "%s holds %s, expected whole numbers from 0 to 2^%d-1 without sign, fraction or exponent", what, shown(t), bitSize)
		}
		numbers = append(numbers, n)
	}
}

// tensor reads and checks the entry of the tensor called name. dataSize is the length of the data
// section in bytes.
func (p *jsonParser) tensor(name string, dataSize int64) (placed, error) {
	info := placed{TensorInfo: TensorInfo{Name: name, Shape: []int{}}}
	// known fields that were read; object rejects equal keys, so 3 means that all are present
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
				return p.fail(name, "data_offsets has %d numbers, expected two: [begin, end]", len(offsets))
			}
			info.begin, info.end = int64(offsets[0]), int64(offsets[1])
			return nil
		}
		return p.fail(name, "unknown field %.100q, expected dtype, shape and data_offsets", key)
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
		return info, p.fail(name, "data_offsets [%d, %d] run backwards: the end is before the begin", info.begin, info.end)
	case info.end > dataSize:
		return info, p.fail(name, "data_offsets [%d, %d] go past the end of the data section of %d bytes; the file is cut short or damaged; download or copy it again", info.begin, info.end, dataSize)
	case size > math.MaxInt64 || int64(size) != info.end-info.begin:
		return info, p.fail(name, "data_offsets [%d, %d] hold %d bytes, but %s %v takes %d bytes", info.begin, info.end, info.end-info.begin, info.DType, info.Shape, size)
	}
	return info, nil
}
