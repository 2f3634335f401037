package vector

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestDropout checks that each element is x times the scale or x times zero, as the words of Philox
// decide. It covers every length, special numbers, thresholds that equal a word, are next to a word
// or are the smallest and the largest, and a carry in the counter.
func TestDropout(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	const most = 200
	key := [2]uint32{0x12345678, 0x9abcdef0}
	words := make([]uint32, most)
	yAll, inPlaceAll := guarded(t, most), guarded(t, most)
	for _, counter := range [][4]uint32{{3, 7, 8, 9}, {0xfffffff3, 7, 8, 9}, {0xffffffff, 0xffffffff, 1, 0}} {
		for b := range uint64(most / 4) {
			n := uint64(counter[1])<<32 + uint64(counter[0]) + b
			block := philoxBlock(key, [4]uint32{uint32(n), uint32(n >> 32), counter[2], counter[3]})
			copy(words[4*b:], block[:])
		}
		for _, threshold := range []uint32{0, 1, words[5], words[5] + 1, 1 << 31, math.MaxUint32} {
			xAll := mixed(t, most+1, r)
			scale := xAll[most]
			eachLevel(func() {
				for n := range most + 1 {
					x, y, inPlace := xAll[:n], yAll[most-n:], inPlaceAll[most-n:]
					copy(inPlace, x)
					Dropout(y, x, scale, threshold, key, counter)
					Dropout(inPlace, inPlace, scale, threshold, key, counter)
					for i, word := range words[:n] {
						var want float32
						if word >= threshold {
							want = scale
						}
						if !same(y[i], x[i]*want) || !same(inPlace[i], x[i]*want) {
							t.Fatalf("%s: %d elements, threshold %08x: element %d is %g, in place %g, want %g*%g", levelName(), n, threshold, i, y[i], inPlace[i], x[i], want)
						}
					}
				}
			})
		}
	}
}

// TestDropoutRate checks that the share of dropped elements differs from threshold/2^32 by at most
// four standard deviations.
func TestDropoutRate(t *testing.T) {
	const n, p = 1 << 20, 0.1
	m := make([]float32, n)
	threshold := uint32(math.Round(p * (1 << 32)))
	Fill(m, 1)
	Dropout(m, m, 1, threshold, [2]uint32{1, 2}, [4]uint32{})
	dropped := n - float64(Sum(m))
	if d := math.Abs(dropped - n*p); d > 4*math.Sqrt(n*p*(1-p)) {
		t.Errorf("%g of %d elements dropped, want %g", dropped, n, n*p)
	}
}
