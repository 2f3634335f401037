package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go/encoding/thrift"
)

// The metadata of a parquet file is encoded in the compact protocol of Thrift. The decoder
// allocates the size that a length claims before it reads the bytes. thriftLength therefore checks
// all lengths first. If a structure passes the check, it holds no more items than its bytes can
// encode.

const (
	// maxThriftDepth limits the nesting depth. It is about twice the depth of the parquet
	// structures.
	maxThriftDepth = 24
	// maxThriftItems limits the number of items of all lists together. The largest item is a column
	// chunk, which takes about 700 bytes in memory but only one byte in a hostile file. A row group
	// of an image data set has about 20 items.
	maxThriftItems = 1 << 17
)

// errThriftShort reports that a structure needs more bytes than there are.
var errThriftShort = errors.New("it is cut short")

// decodeThrift decodes the structure at the beginning of b into v and returns its length in bytes.
func decodeThrift(b []byte, v any) (n int, err error) {
	if n, err = thriftLength(b); err != nil {
		return 0, err
	}
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("the decoder failed with %q", fmt.Sprint(p))
		}
	}()
	return n, thrift.Unmarshal(new(thrift.CompactProtocol), b[:n], v)
}

// thriftLength returns the length in bytes of the structure at the beginning of b.
func thriftLength(b []byte) (int, error) {
	w := thriftScanner{b: b}
	if err := w.structure(0); err != nil {
		return 0, err
	}
	return w.at, nil
}

// thriftScanner finds the end of a structure without decoding it.
type thriftScanner struct {
	b     []byte
	at    int // index of the next byte
	items int // number of items of all lists so far
}

func (w *thriftScanner) byte() (byte, error) {
	if w.at >= len(w.b) {
		return 0, errThriftShort
	}
	w.at++
	return w.b[w.at-1], nil
}

func (w *thriftScanner) varint() (uint64, error) {
	v, n := binary.Uvarint(w.b[w.at:])
	switch {
	case n == 0:
		return 0, errThriftShort
	case n < 0:
		return 0, errors.New("a number has more than 64 bits")
	}
	w.at += n
	return v, nil
}

func (w *thriftScanner) skip(n uint64) error {
	if n > uint64(len(w.b)-w.at) {
		return errThriftShort
	}
	w.at += int(n)
	return nil
}

// structure skips the fields of a structure and its stop byte.
func (w *thriftScanner) structure(depth int) error {
	if depth > maxThriftDepth {
		return fmt.Errorf("it is nested more than %d levels deep", maxThriftDepth)
	}
	for {
		head, err := w.byte()
		if err != nil {
			return err
		}
		if head == 0 {
			return nil
		}
		if head>>4 == 0 { // the field number follows
			if _, err := w.varint(); err != nil {
				return err
			}
		}
		// 1 and 2 are the values true and false, without more bytes
		if kind := head & 15; kind > 2 {
			if err := w.value(kind, depth); err != nil {
				return err
			}
		}
	}
}

// value skips a value of the given type in a field, a list or a map.
func (w *thriftScanner) value(kind byte, depth int) error {
	switch kind {
	case 1, 2, 3: // bool, byte
		return w.skip(1)
	case 4, 5, 6: // integers
		_, err := w.varint()
		return err
	case 7: // double
		return w.skip(8)
	case 8: // binary
		n, err := w.varint()
		if err != nil {
			return err
		}
		return w.skip(n)
	case 9, 10: // list, set
		head, err := w.byte()
		if err != nil {
			return err
		}
		n := uint64(head >> 4)
		if n == 15 {
			if n, err = w.varint(); err != nil {
				return err
			}
		}
		return w.values(n, depth, head&15)
	case 11: // map
		n, err := w.varint()
		if err != nil || n == 0 {
			return err
		}
		kinds, err := w.byte()
		if err != nil {
			return err
		}
		return w.values(n, depth, kinds>>4, kinds&15)
	case 12:
		return w.structure(depth + 1)
	case 13: // UUID
		return w.skip(16)
	}
	return fmt.Errorf("type %d is not a type of the compact protocol", kind)
}

// values skips the n items of a list, a set or a map. kinds holds the types of one item. Every
// value takes at least one byte, so n items need at least n bytes.
func (w *thriftScanner) values(n uint64, depth int, kinds ...byte) error {
	if n > uint64(len(w.b)-w.at) {
		return errThriftShort
	}
	if w.items += int(n); w.items > maxThriftItems {
		return fmt.Errorf("it lists more than %d items", maxThriftItems)
	}
	if depth > maxThriftDepth {
		return fmt.Errorf("it is nested more than %d levels deep", maxThriftDepth)
	}
	for range n {
		for _, kind := range kinds {
			if err := w.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// readThrift decodes the structure at an offset of r into v and returns its length in bytes. It
// reads at most limit bytes.
func readThrift(r io.ReaderAt, offset, limit int64, v any) (int, error) {
	for size := int64(512); ; size *= 8 {
		b := make([]byte, min(size, limit))
		if _, err := r.ReadAt(b, offset); err != nil {
			return 0, err
		}
		n, err := decodeThrift(b, v)
		if !errors.Is(err, errThriftShort) || int64(len(b)) == limit {
			return n, err
		}
	}
}
