package measure

import "golang.org/x/sys/unix"

// available returns the memory of the machine. macOS compresses and swaps the memory of other
// programs, so nearly all of it can be had.
func available() (int64, bool) {
	n, err := unix.SysctlUint64("hw.memsize")
	return int64(n), err == nil
}
