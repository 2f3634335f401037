//go:build amd64 && !linux

package gemm

import "errors"

// allowTiles returns an error: only Linux is known to save the tiles of all threads on request.
func allowTiles() error { return errors.New("spt uses AMX on Linux only") }
