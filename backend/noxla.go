//go:build !(xla && linux)

package backend

import (
	"errors"
)

// xlaBuilt returns why this program cannot use GPUs.
func xlaBuilt() error {
	return errors.New("this build of spt computes on the processor only; for a GPU, on Linux, build it with a C compiler by CGO_ENABLED=1 go build -tags xla ./cmd/spt")
}

// openPlugin returns an error: no plug-in can run.
func openPlugin(string, int, int) (Backend, error) { return nil, xlaBuilt() }

// isDevice returns false: without XLA, every backend computes in the memory of the host.
func isDevice(Backend) bool { return false }
