package hub

import (
	"math"

	"golang.org/x/sys/windows"
)

// noFollow are flags for opening a file. This system has none.
const noFollow = 0

// freeSpace returns the number of bytes that the user may write to the disk of the folder dir. If
// the system does not know it, freeSpace returns math.MaxInt64.
func freeSpace(dir string) int64 {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return math.MaxInt64
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, nil, nil); err != nil {
		return math.MaxInt64
	}
	return int64(min(free, math.MaxInt64))
}
