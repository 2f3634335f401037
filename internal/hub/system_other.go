//go:build !(linux || darwin || freebsd || windows)

package hub

import "math"

// noFollow are flags for opening a file. This system has none.
const noFollow = 0

// freeSpace returns math.MaxInt64: the free space is not known.
func freeSpace(string) int64 { return math.MaxInt64 }
