package dataset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// counts returns how often each value is in list.
func counts(list []int) map[int]int {
	n := map[int]int{}
	for _, v := range list {
		n[v]++
	}
	return n
}

// spread returns the difference between the largest and the smallest count of the given values.
func spread(n map[int]int, values []int) int {
	most, least := 0, int(^uint(0)>>1)
	for _, v := range values {
		most, least = max(most, n[v]), min(least, n[v])
	}
	return most - least
}

// TestShuffleBalanced checks that in every epoch, and over all epochs, strata are drawn equally
// often, and that the samples of a stratum are drawn equally often.
func TestShuffleBalanced(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		strata := make([]int, 1+r.IntN(60))
		few := 1 + r.IntN(5)
		for i := range strata {
			strata[i] = min(r.IntN(few), r.IntN(few)) - r.IntN(2)*r.IntN(2)
		}
		n, seed := len(strata), r.Uint64()
		kinds := slices.Compact(slices.Sorted(slices.Values(strata)))
		var all []int
		orders := map[string]bool{}
		for epoch := range 7 {
			order := ShuffleBalanced(strata, seed, epoch)
			if len(order) != n || !slices.Equal(order, ShuffleBalanced(strata, seed, epoch)) {
				t.Fatalf("epoch %d of %v: order %v", epoch, strata, order)
			}
			var own []int
			for _, i := range order {
				own = append(own, strata[i%n])
			}
			if spread(counts(own), kinds) > 1 {
				t.Fatalf("epoch %d of %v: the strata are drawn %v times", epoch, strata, counts(own))
			}
			// Repetition k of sample i is i + k·n, and each is there once.
			seen := counts(order)
			for i := range seen {
				if seen[i] != 1 || i >= n && seen[i-n] != 1 {
					t.Fatalf("epoch %d of %v: position %d is drawn %d times, in %v", epoch, strata, i, seen[i], order)
				}
				all = append(all, i%n)
			}
			orders[fmt.Sprint(order)] = true
		}
		var own []int
		for _, i := range all {
			own = append(own, strata[i])
		}
		if spread(counts(own), kinds) > 1 {
			t.Fatalf("all epochs of %v: the strata are drawn %v times", strata, counts(own))
		}
		for _, members := range byStratum(strata) {
			if spread(counts(all), members) > 1 {
				t.Fatalf("all epochs of %v: the samples of a stratum are drawn %v times", strata, counts(all))
			}
		}
		if n > 10 && len(orders) < 7 {
			t.Errorf("%d orders in 7 epochs of %d samples", len(orders), n)
		}
	}
	if a, b := ShuffleBalanced(make([]int, 50), 1, 0), ShuffleBalanced(make([]int, 50), 2, 0); slices.Equal(a, b) {
		t.Error("the order does not depend on the seed")
	}
}

// TestShuffleStratified checks that the result is a permutation, and that each of its beginnings
// has as many samples of each stratum, as far as the strata have samples.
func TestShuffleStratified(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		strata := make([]int, r.IntN(60))
		for i := range strata {
			strata[i] = min(r.IntN(6), r.IntN(6)) - 1
		}
		order := ShuffleStratified(strata, r.Uint64())
		if sorted := slices.Sorted(slices.Values(order)); len(order) != len(strata) || len(sorted) > 0 && (sorted[0] != 0 || len(slices.Compact(sorted)) != len(strata)) {
			t.Fatalf("%v is no permutation of %d positions", order, len(strata))
		}
		sizes, taken := counts(strata), map[int]int{}
		for _, i := range order {
			taken[strata[i]]++
			for s, size := range sizes {
				// A stratum is behind the one just taken only if it is used up, or by one sample.
				if taken[s] < size && taken[s] < taken[strata[i]]-1 {
					t.Fatalf("the order %v of %v takes %v", order, strata, taken)
				}
			}
		}
	}
	strata := make([]int, 50)
	if slices.Equal(ShuffleStratified(strata, 1), ShuffleStratified(strata, 2)) || !slices.Equal(ShuffleStratified(strata, 1), ShuffleStratified(strata, 1)) {
		t.Error("the order must depend on the seed alone")
	}
}

// TestRepeatedSamples checks that an index of Len or more stands for a repeated sample with another
// random flip.
func TestRepeatedSamples(t *testing.T) {
	var samples []Sample
	for i := range 3 {
		m := &RGB{Width: 2, Height: 2, Pix: make([]uint8, 12)}
		for k := range m.Pix {
			m.Pix[k] = uint8(20*i + k)
		}
		samples = append(samples, Sample{Image: m, Target: Class(i)})
	}
	l := NewLoader(samples, Transform{Size: 2, HorizontalFlip: true}, nil, LoaderOptions{})
	if got := l.Strata(); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("strata %v", got)
	}
	var order []int
	for k := range 16 {
		order = append(order, 1+3*k)
	}
	flips := map[bool]int{}
	for b, err := range l.Batches(t.Context(), order, 5, 7, 1) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.N {
			if b.Targets[i] != Target(Class(1)) || b.Pixels[12*i]/20 != 1 {
				t.Fatalf("target %v, pixels %v; expected sample 1", b.Targets[i], b.Pixels[12*i:12*i+12])
			}
			flips[b.Pixels[12*i] != 20]++
		}
	}
	if len(flips) != 2 || flips[true]+flips[false] != 16 {
		t.Errorf("flips of 16 repetitions: %v", flips)
	}
}

// TestImbalance checks the note on classes of very different sizes.
func TestImbalance(t *testing.T) {
	of := func(sizes ...int) *Dataset {
		d := &Dataset{}
		for class, n := range sizes {
			d.Classes = append(d.Classes, fmt.Sprintf("class %d", class))
			for range n {
				d.Train = append(d.Train, Sample{Target: Class(class)})
			}
		}
		return d
	}
	for _, c := range []struct {
		sizes []int
		want  string
	}{
		{nil, ""}, {[]int{5}, ""}, {[]int{0, 0}, ""}, {[]int{99, 10}, ""}, {[]int{30, 0, 4}, ""},
		{[]int{100, 10}, "class 0 has 10 times as many training images as class 1 (100 and 10)"},
		{[]int{3, 7, 151, 0}, "class 2 has 50.3 times as many training images as class 0 (151 and 3)"},
	} {
		d := of(c.sizes...)
		if got := d.Imbalance(); (got == "") != (c.want == "") || !strings.HasSuffix(got, c.want) {
			t.Errorf("%v: %q, expected %q", c.sizes, got, c.want)
		}
		if got := d.ClassCounts(); !slices.Equal(got, c.sizes) {
			t.Errorf("counts %v, expected %v", got, c.sizes)
		}
	}
}
