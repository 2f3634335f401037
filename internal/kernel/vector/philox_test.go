package vector

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPhiloxKnownAnswers compares with the test vectors for philox4x32 with 10 rounds in the file
// kat_vectors of Random123.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, test := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    []uint32
	}{
		{want: []uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		eachLevel(func() {
			// 64 words are enough to run the loop of the assembly. The block is the first of them.
			got := make([]uint32, 64)
			Philox(got, test.key, test.counter)
			if !slices.Equal(got[:4], test.want) {
				t.Errorf("%s: counter %08x, key %08x: got %08x, want %08x", levelName(), test.counter, test.key, got[:4], test.want)
			}
		})
	}
}

// TestPhiloxCounter checks that block b is the block of counter+b for every length, also if the low
// word of the counter overflows.
func TestPhiloxCounter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 4))
	counters := [][4]uint32{{0xfffffff5, 7, 8, 9}, {0xfffffffa, 0xffffffff, 1, 0}}
	for range 10 {
		counters = append(counters, [4]uint32{r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()})
	}
	for _, counter := range counters {
		key := [2]uint32{r.Uint32(), r.Uint32()}
		var want []uint32
		for b := range uint64(40) {
			n := uint64(counter[1])<<32 + uint64(counter[0]) + b
			block := philoxBlock(key, [4]uint32{uint32(n), uint32(n >> 32), counter[2], counter[3]})
			want = append(want, block[:]...)
		}
		eachLevel(func() {
			for n := range len(want) {
				got := make([]uint32, n+1)
				got[n] = 42
				Philox(got[:n], key, counter)
				if !slices.Equal(got[:n], want[:n]) || got[n] != 42 {
					t.Fatalf("%s: %d words: got %08x, want %08x", levelName(), n, got, want[:n])
				}
			}
		})
	}
}
