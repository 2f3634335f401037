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
	"math"
	"slices"
	"unicode/utf8"

	"github.com/sptune/spt/internal/atomicfile"
)

// Entry is one tensor for [Save].
type Entry struct {
	Name  string
	DType DType // F32, F16, BF16, I32 or U8
	Shape []int // empty for a scalar
	// row-major: []float32 for F32, F16 and BF16 (rounded to nearest even), []int32 for I32,
	// []uint8 for U8
	Data any
}

// Save writes entries and metadata (which may be nil) as a safetensors file at path, in the layout
// of the official writer, whatever their order. It writes the file beside path, syncs it and
// renames it, so that the file appears whole or not at all; a file at path is replaced. A bad entry
// is an error before anything is written.
func Save(path string, entries []Entry, metadata map[string]string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("saving checkpoint %s: %w", path, err)
		}
	}()
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.DType.rank(), a.DType.rank()), cmp.Compare(a.Name, b.Name))
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

// header checks the sorted entries and returns the file's length field and JSON header.
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
		text.Truncate(text.Len() - 1) // Encode ends with a newline
		text.WriteByte(':')
		if err := enc.Encode(value); err != nil {
			return err
		}
		text.Truncate(text.Len() - 1)
		return nil
	}

	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if !utf8.ValidString(key) || !utf8.ValidString(metadata[key]) {
			return nil, fmt.Errorf("metadata %q: %q is not valid UTF-8", key, metadata[key])
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
			err = errors.New("the name is given twice or reserved")
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
		return nil, fmt.Errorf("the header takes %d bytes, the format allows %d; store fewer tensors or less metadata", n, maxHeader)
	}
	binary.LittleEndian.PutUint64(text.Bytes(), uint64(n))
	return text.Bytes(), nil
}

// size checks that DType, Shape and Data agree and returns the number of bytes that the entry takes
// in the file.
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
		return 0, fmt.Errorf("cannot write %T as %s, expected []float32 as F32, F16 or BF16, []int32 as I32 or []uint8 as U8", e.Data, e.DType)
	}
	if want := size * 8 / dtypes[e.DType.rank()].bits; uint64(count) != want {
		return 0, fmt.Errorf("shape %v takes %d values, Data has %d", e.Shape, want, count)
	}
	return size, nil
}

// write appends the entry's little-endian data to w.
func write(w io.Writer, e Entry) error {
	switch data := e.Data.(type) {
	case []float32:
		switch e.DType {
		case F16:
			return encode(w, data, func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint16(b, toFloat16(v)) })
		case BF16:
			return encode(w, data, func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint16(b, toBFloat16(v)) })
		}
		return encode(w, data, func(b []byte, v float32) []byte {
			return binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		})
	case []int32:
		return encode(w, data, func(b []byte, v int32) []byte { return binary.LittleEndian.AppendUint32(b, uint32(v)) })
	}
	_, err := w.Write(e.Data.([]uint8)) // size lets no other type through
	return err
}

// encode writes data through a buffer of some thousand values, so that a large tensor is never in
// memory twice.
func encode[T any](w io.Writer, data []T, put func([]byte, T) []byte) error {
	var buf []byte
	for part := range slices.Chunk(data, 1<<13) {
		buf = buf[:0]
		for _, v := range part {
			buf = put(buf, v)
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
