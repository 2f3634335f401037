package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/littleendian"
)

// Entry is a tensor that [Save] writes.
type Entry struct {
	// Name is the name of the tensor. It must be valid UTF-8.
	Name string
	// DType is the type of the elements in the file: F32, F16, BF16, I32 or U8.
	DType DType
	// Shape holds the dimensions, outermost first. It is empty for a scalar.
	Shape []int
	// Data holds the values in row-major order: a []float32 for F32, F16 and BF16, an []int32 for
	// I32, a []uint8 for U8. For F16 and BF16, Save rounds to the nearest value, ties to even.
	Data any
}

// Save writes entries and metadata as a safetensors file at path. metadata may be nil. The file has
// the layout of the official writer and does not depend on the order of entries. Save replaces a
// file at path. It first writes a temporary file beside path, syncs it to disk and then renames it,
// so that path never holds an incomplete file. Save checks all entries before it writes, and
// returns an error if two have the same name, or if the type, the shape and the data of one do not
// agree.
func Save(path string, entries []Entry, metadata map[string]string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("saving the checkpoint %s: %w", path, err)
		}
	}()
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.DType.index(), a.DType.index()), cmp.Compare(a.Name, b.Name))
	})
	head, err := header(entries, metadata)
	if err != nil {
		return err
	}

	return atomicfile.Write(path, func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		for _, e := range entries {
			if err := write(w, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// header checks the sorted entries and returns the start of the file: the length of the header and
// the JSON header.
func header(entries []Entry, metadata map[string]string) ([]byte, error) {
	var text bytes.Buffer
	text.Write(make([]byte, 8))
	sep := "{"
	field := func(key string, value any) error {
		if !utf8.ValidString(key) {
			return fmt.Errorf("the name %q is not valid UTF-8", key)
		}
		text.WriteString(sep)
		sep = ","
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(key); err != nil {
			return err
		}
		text.Truncate(text.Len() - 1) // remove the newline that Encode adds
		text.WriteByte(':')
		if err := enc.Encode(value); err != nil {
			return err
		}
		text.Truncate(text.Len() - 1)
		return nil
	}

	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if !utf8.ValidString(key) || !utf8.ValidString(metadata[key]) {
			return nil, fmt.Errorf("the key %q or the value %q of the metadata is not valid UTF-8", key, metadata[key])
		}
	}
	if len(metadata) > 0 {
		if err := field(metadataKey, metadata); err != nil {
			return nil, err
		}
	}
	end := uint64(0)
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		size, err := e.size()
		if err == nil && (seen[e.Name] || e.Name == metadataKey) {
			err = errors.New("another entry has the same name, or the name is reserved; choose another name")
		}
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", e.Name, err)
		}
		seen[e.Name] = true
		type entry struct {
			DType   DType     `json:"dtype"`
			Shape   []int     `json:"shape"`
			Offsets [2]uint64 `json:"data_offsets"`
		}
		if err := field(e.Name, entry{e.DType, append([]int{}, e.Shape...), [2]uint64{end, end + size}}); err != nil {
			return nil, err
		}
		end += size
	}
	if sep == "{" {
		text.WriteString(sep)
	}
	text.WriteByte('}')
	for text.Len()%8 != 0 {
		text.WriteByte(' ')
	}
	n := text.Len() - 8
	if n > maxHeader {
		return nil, fmt.Errorf("the header takes %d bytes, but the format allows %d bytes; store fewer tensors or less metadata", n, maxHeader)
	}
	binary.LittleEndian.PutUint64(text.Bytes(), uint64(n))
	return text.Bytes(), nil
}

// size returns the number of bytes that the data of the entry take in the file. It returns an error
// if DType, Shape and Data do not agree.
func (e Entry) size() (uint64, error) {
	size, err := byteSize(e.DType, e.Shape)
	if err != nil {
		return 0, err
	}
	count, ok := 0, false
	switch data := e.Data.(type) {
	case []float32:
		count, ok = len(data), e.DType == F32 || e.DType == F16 || e.DType == BF16
	case []int32:
		count, ok = len(data), e.DType == I32
	case []uint8:
		count, ok = len(data), e.DType == U8
	}
	if !ok {
		return 0, fmt.Errorf("cannot write %T as %s; expected []float32 as F32, F16 or BF16, []int32 as I32, or []uint8 as U8", e.Data, e.DType)
	}
	if want := size * 8 / dtypes[e.DType.index()].bits; uint64(count) != want {
		return 0, fmt.Errorf("shape %v requires %d values, but Data has %d", e.Shape, want, count)
	}
	return size, nil
}

// write writes the data of the entry to w, little-endian.
func write(w io.Writer, e Entry) error {
	switch data := e.Data.(type) {
	case []float32:
		switch e.DType {
		case F16:
			return encode(w, data, func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint16(b, ToFloat16(v)) })
		case BF16:
			return encode(w, data, func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint16(b, toBFloat16(v)) })
		}
		return littleendian.Write(w, data)
	case []int32:
		return encode(w, data, func(b []byte, v int32) []byte { return binary.LittleEndian.AppendUint32(b, uint32(v)) })
	}
	_, err := w.Write(e.Data.([]uint8)) // size accepts no other type
	return err
}

// encode writes data to w. put appends the bytes of one value. encode converts 8192 values at a
// time, so that a large tensor is never in memory twice.
func encode[T any](w io.Writer, data []T, put func([]byte, T) []byte) error {
	var buf []byte
	for chunk := range slices.Chunk(data, 1<<13) {
		buf = buf[:0]
		for _, v := range chunk {
			buf = put(buf, v)
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
