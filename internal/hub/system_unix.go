//go:build linux || darwin || freebsd

package hub

import (
	"math"
	"syscall"
)

// noFollow are flags for opening a file. They refuse a symbolic link, and do not wait for the other
// end of a named pipe.
const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// freeSpace returns the number of bytes that a user may write to the disk of the folder dir. If the
// system does not know it, freeSpace returns math.MaxInt64.
func freeSpace(dir string) int64 {
	var s syscall.Statfs_t
	// some network disks have no size
	if err := syscall.Statfs(dir, &s); err != nil || s.Blocks == 0 {
		return math.MaxInt64
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
