package program

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
)

// AtOnce returns how many tokens be processes best in one run of a program, and how many tokens all
// runs at the same time may process in total. An image has one token for each position of its
// sequence. The processor computes each small run on one core, in the caches of this core, but
// needs memory for the activations of all runs. Zero means no limit.
func AtOnce(be backend.Backend) (run, all int) {
	if cpu.Is(be) {
		return 1024, 4096
	}
	return 0, 0
}

// Rematerialises reports whether be selects by itself which activations to compute again in the
// backward pass. The other activations stay in memory.
func Rematerialises(be backend.Backend) bool { return cpu.Is(be) }

// Footprint compiles the program for inputs of the given shapes and returns the memory that it
// needs. ok is false if the backend does not tell it.
func (p *Program) Footprint(in ...shapes.Shape) (f cpu.Footprint, ok bool, err error) {
	caught := Caught(func() {
		var g *graph.Graph
		if g, err = p.exec.Compile(in...); err == nil {
			f, ok = cpu.FootprintOf(g.Executable())
		}
	})
	if err = cmp.Or(err, caught); err != nil {
		err = fmt.Errorf("compiling %s: %w", p.name, brief{err})
	}
	return f, ok, err
}

// ReturnMemory runs the garbage collector and returns unused memory to the operating system. Call
// it between two stages that need much memory.
func ReturnMemory() {
	runtime.GC() // the pools of package cpu survive one collection
	debug.FreeOSMemory()
}

var (
	exhausted = regexp.MustCompile(`(?i)RESOURCE_EXHAUSTED|out of memory`)
	asked     = regexp.MustCompile(`(?i)allocat\w* (\d[\d.]* ?(?:bytes|[KMGT]i?B))`)
)

// memoryError converts err to a *backend.MemoryError if err says that the memory is exhausted. It
// returns any other err unchanged. given holds the shapes of the inputs.
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
