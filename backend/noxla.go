//go:build !(xla && linux)

package backend

import (
	"errors"
)

// xlaBuilt returns an error with the reason why this program cannot use GPUs.
func xlaBuilt() error {
	return errors.New("this build of spt supports only the processor; to use a GPU, build spt on Linux with a C compiler: CGO_ENABLED=1 go build -tags xla ./cmd/spt")
}

// openPlugin returns an error, because this build cannot run plug-ins.
func openPlugin(string, int, int) (Backend, error) { return nil, xlaBuilt() }

// isDevice returns false, because every backend of this build computes in the memory of the host.
func isDevice(Backend) bool { return false }
