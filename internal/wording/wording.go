// Package wording writes numbers with their nouns and units, for people. The command line and the
// reports use it, so that a number looks the same in both.
package wording

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Plural returns a number with its noun: "1 image", "2000 images".
func Plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Count is Plural with a comma after every thousand: "2,000 images".
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return Thousands(n) + " " + thing + "s"
}

// Thousands returns a number with a comma after every thousand, such as "27,622".
func Thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Percent returns a share from 0 to 1 as a percentage with two decimals, such as "93.50%".
func Percent(v float64) string { return fmt.Sprintf("%.2f%%", 100*v) }

// Bytes returns a number of bytes with a unit, such as "155.9 kB".
func Bytes(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}

// Seconds returns a time of so many seconds with its unit, such as "7.2 s" or "284 s".
func Seconds(seconds float64) string {
	if seconds < 10 {
		return fmt.Sprintf("%.1f s", seconds)
	}
	return fmt.Sprintf("%.0f s", seconds)
}

// Time returns a time of so many seconds in the unit that fits it: seconds, minutes or hours.
func Time(seconds float64) string {
	d := time.Duration(math.Round(seconds)) * time.Second
	switch {
	case d < 2*time.Minute:
		return Seconds(seconds)
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

// Rank returns the rank of modules in words: "rank 2", or "ranks 1 to 4" if they differ. ranks
// holds the ranks that differ from rank, the largest one.
func Rank(rank int, ranks map[string]int) string {
	least := rank
	for _, r := range ranks {
		least = min(least, r)
	}
	if least == rank {
		return fmt.Sprintf("rank %d", rank)
	}
	return fmt.Sprintf("ranks %d to %d", least, rank)
}

// Matrices returns a number of matrices with the noun.
func Matrices(n int) string {
	if n == 1 {
		return "1 matrix"
	}
	return fmt.Sprintf("%d matrices", n)
}

// Join joins phrases with commas and, before the last one, a conjunction: "a, b and c".
func Join(list []string, conjunction string) string {
	last := len(list) - 1
	if last < 1 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:last], ", ") + " " + conjunction + " " + list[last]
}
