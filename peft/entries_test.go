package peft

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestStrip: every entry is found in the strip, which is the smaller of the two that there are;
// entries all over the matrix have none.
func TestStrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		out, in := 1+r.IntN(60), 1+r.IntN(60)
		rows, columns := 1+r.IntN(out), 1+r.IntN(in) // where entries may be
		var entries []int32
		for i := range rows {
			for j := range columns {
				if r.IntN(3) == 0 {
					entries = append(entries, int32(i*in+j))
				}
			}
		}
		if len(entries) == 0 {
			continue
		}
		s, ok := stripOf(entries, out, in)
		width, other := in, out
		if s.columns {
			width, other = out, in
		}
		for k, e := range entries {
			line, across := int(s.picks[k])/width, int(s.picks[k])%width
			row, column := int(s.lines[line]), across
			if s.columns {
				row, column = column, row
			}
			if got := row*in + column; got != int(e) {
				t.Fatalf("[%d, %d]: entry %d is taken from %d", out, in, e, got)
			}
		}
		distinct := func(of func(e int32) int32) int {
			seen := map[int32]bool{}
			for _, e := range entries {
				seen[of(e)] = true
			}
			return (len(seen) + stripAlign - 1) / stripAlign * stripAlign
		}
		least := min(distinct(func(e int32) int32 { return e / int32(in) })*in, distinct(func(e int32) int32 { return e % int32(in) })*out)
		if size := len(s.lines) * width; size != least || len(s.lines)%stripAlign != 0 || ok != (size <= out*in/2) {
			t.Errorf("[%d, %d]: %d lines of %d, expected %d values; ok %t", out, in, len(s.lines), other, least, ok)
		}
		if !slices.IsSorted(entries) {
			t.Fatal("entries must ascend")
		}
	}
}
