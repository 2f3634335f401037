package dataset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go/encoding/delta"
	parquet "github.com/parquet-go/parquet-go/format"
)

// TestDelta checks cases that were written by hand from the specification of the encodings, and
// damaged data.
func TestDelta(t *testing.T) {
	// The first example of the specification: 1 2 3 4 5. The second: 7 5 3 1 2 3 4 5.
	head := "\x80\x01\x04"
	for _, c := range []struct {
		data string
		n    int
		want string
	}{
		{head + "\x05\x02\x02\x00\x00\x00\x00", 5, "[1 2 3 4 5]"},
		{head + "\x08\x0e\x03\x02\x00\x00\x00" + "\xc0\x3f\x00\x00\x00\x00\x00\x00", 8, "[7 5 3 1 2 3 4 5]"},
		{head + "\x01\x01", 1, "[-1]"},
		{head + "\x00\x00", 0, "[]"},
		{head + "\xff\xff\xff\xff\x0f\x00", 5, "there are 4294967295 values, expected 5"},
		{head + "\x05", 5, "unexpected EOF"},
		{head + "\x05\x02", 5, "unexpected EOF"},
		{head + "\x05\x02\x02\x40\x00\x00\x00", 5, "a miniblock of 32 values has 64 bits each"},
		{"\x80\x01\x00\x05\x02", 5, "128 values in 0 miniblocks"},
		{"\x81\x01\x04\x05\x02", 5, "129 values in 4 miniblocks"},
	} {
		values, _, err := deltaPacked([]byte(c.data), c.n)
		got := fmt.Sprint(values)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("% x: %s, want %s", c.data, got, c.want)
		}
	}

	// Random integers, which package parquet-go encodes.
	packed := func(values ...int64) string {
		data, err := new(delta.BinaryPackedEncoding).EncodeInt64(nil, values)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 600 {
		want := make([]int64, n)
		for i := range want {
			want[i] = int64(rng.Uint64()) >> rng.IntN(64)
		}
		got, rest, err := deltaPacked([]byte(packed(want...)+"rest"), n)
		if err != nil || !slices.Equal(got, want) || string(rest) != "rest" {
			t.Fatalf("%d values: %v, rest %q, error %v", n, got, rest, err)
		}
	}

	if values, err := deltaStrings([]byte(packed(0, 2, 3)+packed(3, 1, 0)+"abcd"), 3); err != nil || fmt.Sprintf("%s", values) != "[abc abd abd]" {
		t.Errorf("%s, %v", values, err)
	}
	for data, want := range map[string]string{
		packed(0, 2, 3) + packed(3, 2, 0) + "abcd":  "value 1 claims 2 bytes, but only 1 bytes follow",
		packed(0, 2, 3) + packed(3, -1, 0) + "abcd": "value 1 claims -1 bytes",
		packed(0, 4, 3) + packed(3, 1, 0) + "abcd":  "value 1 shares 4 bytes with the value before, which has 3",
		packed(0, 4, 3) + packed(3, 1) + "abcd":     "there are 2 values, expected 3",
	} {
		if _, err := deltaStrings([]byte(data), 3); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	// A thousand values share a value of a million bytes.
	const size, n = 1 << 20, 1000
	prefixes, suffixes := make([]int64, n), make([]int64, n)
	for i := 1; i < n; i++ {
		prefixes[i] = size
	}
	suffixes[0] = size
	if _, err := deltaStrings([]byte(packed(prefixes...)+packed(suffixes...)+strings.Repeat("x", size)), n); err == nil || !strings.Contains(err.Error(), "repeat each other too often") {
		t.Errorf("unexpected error %v", err)
	}
}

// FuzzEncodedValues checks that damaged values do not panic and have the expected number.
func FuzzEncodedValues(f *testing.F) {
	encodings := []parquet.Encoding{parquet.DeltaBinaryPacked, parquet.DeltaLengthByteArray, parquet.DeltaByteArray, parquet.ByteStreamSplit}
	for i := range encodings {
		f.Add([]byte("\x80\x01\x04\x05\x02\x02\x00\x00\x00\x00"), uint8(i), uint16(5))
		f.Add([]byte("\x80\x01\x04\x02\x00\x00\x00\x00\x00\x00\x80\x01\x04\x02\x04\x01\x00\x00\x00\x00abc"), uint8(i), uint16(2))
		f.Add([]byte("abcdefgh"), uint8(i), uint16(2))
	}
	f.Fuzz(func(t *testing.T, data []byte, encoding uint8, n uint16) {
		for _, kind := range []parquet.Type{parquet.Int32, parquet.Int64, parquet.ByteArray} {
			values, err := encodedValues(data, encodings[int(encoding)%len(encodings)], kind, int(n))
			total := 0
			for _, v := range values {
				total += len(v)
			}
			if err == nil && (len(values) != int(n) || total > 9*len(data)+256*int(n)) {
				t.Errorf("%d values of %d bytes", len(values), total)
			}
		}
	})
}
