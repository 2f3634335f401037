//go:build !(xla && linux)

package backend

import (
	"errors"

	"github.com/gomlx/compute"
)

// xlaBuilt says why this program cannot drive GPUs.
func xlaBuilt() error {
	return errors.New("this build of spt computes on the processor only; for a GPU, on Linux, build it with a C compiler by CGO_ENABLED=1 go build -tags xla ./cmd/spt")
}

func openPlugin(string, int, int) (Backend, error) { return nil, xlaBuilt() }

// isDevice: without XLA every backend computes in the host's memory.
func isDevice(Backend) bool { return false }

// memoryOf: without XLA no program has a count.
func memoryOf(compute.Executable) int64 { return 0 }
