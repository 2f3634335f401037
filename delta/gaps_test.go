package delta

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestGaps compares the encoding with published bytes of LEB128, and decodes positions of all
// densities.
func TestGaps(t *testing.T) {
	for _, tt := range []struct {
		positions []int32
		bytes     string
	}{
		{[]int32{624485}, "\xe5\x8e\x26"}, // the example of the DWARF standard and of Wikipedia
		{[]int32{0, 1, 2, 130}, "\x00\x00\x00\x7f"},
		{[]int32{128}, "\x80\x01"},
		{[]int32{0, 129}, "\x00\x80\x01"},
		{[]int32{math.MaxInt32}, "\xff\xff\xff\xff\x07"},
		{nil, ""},
	} {
		if got := string(appendGaps(nil, tt.positions)); got != tt.bytes {
			t.Errorf("%v are encoded as %x, want %x", tt.positions, got, tt.bytes)
		}
		got, rest, err := takeGaps([]byte(tt.bytes+"\x05"), len(tt.positions))
		if err != nil || !slices.Equal(got, tt.positions) || string(rest) != "\x05" {
			t.Errorf("%x are decoded as %v with the rest %x: %v", tt.bytes, got, rest, err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, largest := range []int32{1, 2, 200, 70_000, 40_000_000} {
		var want []int32
		for p := r.Int32N(largest); len(want) < 50; p += 1 + r.Int32N(largest) {
			want = append(want, p)
		}
		if got, rest, err := takeGaps(appendGaps(nil, want), 50); err != nil || len(rest) > 0 || !slices.Equal(got, want) {
			t.Errorf("%v were decoded as %v: %v", want, got, err)
		}
	}
	for _, tt := range []struct {
		bytes string
		n     int
		text  string
	}{
		{"", 1, "found 0 bytes for 1 positions"},
		{"\x01", math.MaxInt, "found 1 bytes"},
		{"\x80", 1, "cut short"},
		{"\x80\x00", 1, "more bytes than it needs"},
		{"\xff\xff\xff\xff\x08", 1, "position 0 is above 2147483647"},
		{"\xff\xff\xff\xff\x07\x00", 2, "position 1 is above 2147483647"},
		{strings.Repeat("\xff", 9) + "\x01", 1, "position 0 is above"},
		{strings.Repeat("\xff", 11), 1, "more than 64 bits"},
	} {
		if _, _, err := takeGaps([]byte(tt.bytes), tt.n); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%x: got %v, want %q", tt.bytes, err, tt.text)
		}
	}
}

// FuzzGaps checks that positions have one encoding only, and that decoded positions ascend.
func FuzzGaps(f *testing.F) {
	f.Add([]byte("\xe5\x8e\x26\x00\x7f\x80\x01"), 4)
	f.Add([]byte("\x80\x00"), 1)
	f.Add([]byte("\xff\xff\xff\xff\x07\x00"), 2)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		if n < 0 {
			return
		}
		positions, rest, err := takeGaps(data, n)
		if err != nil {
			return
		}
		if len(positions) != n || !slices.IsSorted(positions) || len(slices.Compact(slices.Clone(positions))) != n || n > 0 && positions[0] < 0 {
			t.Fatalf("%d positions %v", n, positions)
		}
		if got := append(appendGaps(nil, positions), rest...); !bytes.Equal(got, data) {
			t.Fatalf("%x are encoded again as %x", data, got)
		}
	})
}
