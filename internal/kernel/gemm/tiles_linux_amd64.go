package gemm

import (
	"golang.org/x/sys/unix"
)

// Requests of arch_prctl, and the number of the state component of the tiles. See
// Documentation/arch/x86/xstate.rst of Linux.
const (
	archReqXcompPerm = 0x1023
	xfeatureTileData = 18
)

// allowTiles asks Linux for the permission to use the tiles. The permission holds for all threads
// of the process, present and future.
func allowTiles() error {
	_, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archReqXcompPerm, xfeatureTileData, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
