package program

import (
	"errors"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
)

// AtOnce returns how many tokens be processes best: in one run of a program, and in all runs at the
// same time. An image has one token per position of its sequence. A processor computes each small
// run on one core, in its caches, but needs memory for the activations of all runs. 0 means no
// limit.
func AtOnce(be backend.Backend) (run, all int) {
	if cpu.Is(be) {
		return 1024, 4096
	}
	return 0, 0
}

// Rematerialises reports whether be itself decides which activations it computes again in the
// backward pass instead of keeping them.
func Rematerialises(be backend.Backend) bool { return cpu.Is(be) }

// ReturnMemory returns unused memory to the operating system. Call it between two stages that need
// much memory.
func ReturnMemory() {
	runtime.GC() // the pools of package cpu survive one collection
	debug.FreeOSMemory()
}

var (
	exhausted = regexp.MustCompile(`(?i)RESOURCE_EXHAUSTED|out of memory`)
	asked     = regexp.MustCompile(`(?i)allocat\w* (\d[\d.]* ?(?:bytes|[KMGT]i?B))`)
)

// memoryError returns err, or a *backend.MemoryError if err says that memory is exhausted. given
// lists the shapes of the inputs.
func memoryError(program string, be backend.Backend, given []shapes.Shape, err error) error {
	if !exhausted.MatchString(err.Error()) {
		return err
	}
	e := &backend.MemoryError{Program: program, Device: backend.NameOf(be), Err: errors.Unwrap(err)}
	if m := asked.FindStringSubmatch(err.Error()); m != nil {
		e.Asked = strings.TrimSpace(m[1])
	}
	most := int64(-1)
	for _, s := range given {
		n := int64(s.ByteSize())
		e.Inputs += n
		if n > most {
			most, e.Largest = n, s.String()
		}
	}
	return e
}
