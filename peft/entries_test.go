package peft

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestStrip checks that the strip holds all entries and has the fewest values. If the entries are
// spread over the whole matrix, there is no strip.
func TestStrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		out, in := 1+r.IntN(60), 1+r.IntN(60)
		rows, columns := 1+r.IntN(out), 1+r.IntN(in) // bounds of the region with entries
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
				t.Fatalf("matrix [%d, %d]: entry %d is read from position %d", out, in, e, got)
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
			t.Errorf("matrix [%d, %d]: %d lines of %d values, expected %d values in all; ok %t", out, in, len(s.lines), other, least, ok)
		}
		if !slices.IsSorted(entries) {
			t.Fatal("the entries of the test are not ascending")
		}
	}
}
