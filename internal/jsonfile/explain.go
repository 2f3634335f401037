package jsonfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// explained is an error of encoding/json in words.
type explained struct {
	text string
	err  error
}

func (e explained) Error() string { return e.text }
func (e explained) Unwrap() error { return e.err }

// Explain returns err, which decoding data has returned, in words: the line, the field, the JSON
// value that was found and the one that was expected. The errors of encoding/json name Go types.
// Explain returns an error of another package as it is.
func Explain(data []byte, err error) error {
	if already := (explained{}); err == nil || errors.As(err, &already) {
		return err
	}
	text, offset := err.Error(), int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
		text = "broken JSON: " + syntax.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		text = "broken JSON: the text ends too early"
	case errors.As(err, &kind):
		offset = kind.Offset
		text = fmt.Sprintf("found %s, expected %s", article(kind.Value), kindName(kind.Type))
		if name := fieldName(kind.Field); name != "" {
			text = fmt.Sprintf("field %q: %s", name, text)
		}
	case strings.HasPrefix(text, "json: unknown field "):
		text = strings.TrimPrefix(text, "json: ")
	default:
		return err
	}
	if offset >= 0 && offset <= int64(len(data)) && bytes.ContainsRune(bytes.TrimSpace(data), '\n') {
		text = fmt.Sprintf("line %d: %s", 1+bytes.Count(data[:offset], []byte("\n")), text)
	}
	return explained{text, err}
}

// fieldName returns the path of a field without the names of embedded structs, which are no part of
// the JSON. Embedded structs have the name fields.
func fieldName(path string) string {
	return strings.TrimPrefix(path, "fields.")
}

// article returns the JSON value of an UnmarshalTypeError, such as "number 1.5", with its article.
func article(value string) string {
	switch {
	case value == "bool":
		return "true or false"
	case value == "array":
		return "a list"
	case value == "object":
		return "an object"
	case strings.HasPrefix(value, "number "):
		return "the " + value
	}
	return "a " + value
}

// kindName returns the JSON value that a Go type takes.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindName(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of at least 0"
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return fmt.Sprintf("a whole number of at most %d", 1<<(t.Bits()-1)-1)
	case reflect.Int, reflect.Int64:
		return "a whole number"
	}
	return "another value"
}
