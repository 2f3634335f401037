package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	parquet "github.com/parquet-go/parquet-go/format"
)

// This file decodes the encodings DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY
// and BYTE_STREAM_SPLIT. The specification is Encodings.md of the parquet format. The decoders of
// package parquet-go are not used, because they allocate the number of values that the data claims.

// encodedValues decodes n values of an encoding other than PLAIN and the dictionary encodings.
// Integers are returned in the encoding PLAIN.
func encodedValues(data []byte, encoding parquet.Encoding, kind parquet.Type, n int) ([][]byte, error) {
	width := 4
	if kind == parquet.Int64 {
		width = 8
	}
	switch {
	case encoding == parquet.DeltaBinaryPacked && kind != parquet.ByteArray:
		numbers, _, err := deltaPacked(data, n)
		if err != nil {
			return nil, err
		}
		plain := make([]byte, 0, 8*n)
		values := make([][]byte, n)
		for i, v := range numbers {
			plain = binary.LittleEndian.AppendUint64(plain, uint64(v)) // int32 is the lower half
			values[i] = plain[8*i : 8*i+width : 8*i+width]
		}
		return values, nil
	case encoding == parquet.ByteStreamSplit && kind != parquet.ByteArray:
		if len(data) != n*width {
			return nil, fmt.Errorf("there are %d bytes, expected %d for %d values", len(data), n*width, n)
		}
		values := make([][]byte, n)
		for i := range values {
			values[i] = make([]byte, width)
			for k := range values[i] {
				values[i][k] = data[k*n+i]
			}
		}
		return values, nil
	case encoding == parquet.DeltaLengthByteArray && kind == parquet.ByteArray:
		return deltaLengths(data, n)
	case encoding == parquet.DeltaByteArray && kind == parquet.ByteArray:
		return deltaStrings(data, n)
	}
	return nil, fmt.Errorf("the encoding %v is not allowed for values of type %v", encoding, kind)
}

// deltaPacked decodes n integers in the encoding DELTA_BINARY_PACKED and returns the bytes that
// follow. The data consists of blocks of differences. Each block has miniblocks, which have bit
// widths of their own.
func deltaPacked(data []byte, n int) (values []int64, rest []byte, err error) {
	number := func(signed bool) (v uint64) {
		v, used := binary.Uvarint(data)
		if used <= 0 && err == nil {
			err = io.ErrUnexpectedEOF
		}
		data = data[max(used, 0):]
		if signed { // zigzag
			v = v>>1 ^ -(v & 1)
		}
		return v
	}
	block, miniblocks, count, first := number(false), number(false), number(false), number(true)
	switch {
	case err != nil:
		return nil, nil, err
	case block == 0 || block > 1<<20 || block%128 != 0 || miniblocks == 0 || block%miniblocks != 0 || block/miniblocks%32 != 0:
		return nil, nil, fmt.Errorf("blocks of %d values in %d miniblocks, expected a multiple of 128 in miniblocks of a multiple of 32", block, miniblocks)
	case count != uint64(n):
		return nil, nil, fmt.Errorf("there are %d values, expected %d", count, n)
	case n == 0:
		return nil, data, nil
	}
	perMini := int(block / miniblocks)
	values = append(make([]int64, 0, n), int64(first))
	for last := first; len(values) < n; {
		least := number(true)
		if err != nil || len(data) < int(miniblocks) {
			return nil, nil, io.ErrUnexpectedEOF
		}
		widths := data[:miniblocks]
		data = data[miniblocks:]
		for _, width := range widths {
			left := min(perMini, n-len(values))
			if left == 0 {
				break // the other miniblocks have no data
			}
			size := perMini / 8 * int(width)
			if width > 64 || size > len(data) {
				return nil, nil, fmt.Errorf("a miniblock of %d values has %d bits each, but only %d bytes follow", perMini, width, len(data))
			}
			for i := range left {
				last += least + bitsAt(data, i*int(width), int(width))
				values = append(values, int64(last))
			}
			data = data[size:]
		}
	}
	return values, data, nil
}

// bitsAt returns the number of width bits that begins at a bit of data. The lowest bit is first.
func bitsAt(data []byte, at, width int) (v uint64) {
	for got := 0; got < width; {
		take := min(8-at%8, width-got)
		v |= uint64(data[at/8]>>(at%8)&byte(1<<take-1)) << got
		at, got = at+take, got+take
	}
	return v
}

// deltaLengths decodes n values in the encoding DELTA_LENGTH_BYTE_ARRAY: the lengths of the values
// and then their bytes.
func deltaLengths(data []byte, n int) ([][]byte, error) {
	lengths, data, err := deltaPacked(data, n)
	if err != nil {
		return nil, fmt.Errorf("the lengths of the values: %w", err)
	}
	values := make([][]byte, n)
	for i, length := range lengths {
		if length < 0 || length > int64(len(data)) {
			return nil, fmt.Errorf("value %d claims %d bytes, but only %d bytes follow", i, length, len(data))
		}
		values[i], data = data[:length:length], data[length:]
	}
	return values, nil
}

// maxPrefixes limits the bytes of the prefixes of n values in a page of size bytes. Without a
// limit, each of many values could repeat one long value. Labels and paths may repeat short values.
// Images share little more than their headers.
func maxPrefixes(size, n int) int64 { return 8*int64(size) + 256*int64(n) }

// deltaStrings decodes n values in the encoding DELTA_BYTE_ARRAY: the number of bytes that each
// value shares with the beginning of the value before, and the remaining bytes.
func deltaStrings(data []byte, n int) ([][]byte, error) {
	prefixes, data, err := deltaPacked(data, n)
	if err != nil {
		return nil, fmt.Errorf("the lengths of the prefixes: %w", err)
	}
	values, err := deltaLengths(data, n)
	if err != nil {
		return nil, err
	}
	limit := maxPrefixes(len(data), n)
	var last []byte
	for i, suffix := range values {
		prefix := prefixes[i]
		if prefix < 0 || prefix > int64(len(last)) {
			return nil, fmt.Errorf("value %d shares %d bytes with the value before, which has %d", i, prefix, len(last))
		}
		if limit -= prefix; limit < 0 {
			return nil, errors.New("the values repeat each other too often for a page of this size")
		}
		if prefix > 0 {
			suffix = append(last[:prefix:prefix], suffix...)
		}
		values[i], last = suffix, suffix
	}
	return values, nil
}
