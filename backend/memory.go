package backend

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// ProgramMemory is the most that a program needs on a device while it runs, in bytes
// by the compiler's own count: inputs, outputs and what is computed in between; of the
// programs compiled since it was last asked for. 0 where there is no such count.
func ProgramMemory(be Backend) int64 {
	programMemory.Lock()
	defer programMemory.Unlock()
	n := programMemory.most[be]
	delete(programMemory.most, be)
	return n
}

var programMemory = struct {
	sync.Mutex
	most map[Backend]int64
}{most: map[Backend]int64{}}

// noteMemory remembers what compiled graphs need.
func noteMemory(be Backend, graphs []*graph.Graph) {
	programMemory.Lock()
	defer programMemory.Unlock()
	for _, g := range graphs {
		if n := memoryOf(g.Executable()); n > programMemory.most[be] {
			programMemory.most[be] = n
		}
	}
}

// MemoryError says that a device had too little memory for a program.
type MemoryError struct {
	Program string // what was being run
	Device  string // NameOf
	Asked   string // bytes of the allocation that failed, as the device says it; empty if it does not
	Inputs  int64  // bytes of what the program was given: weights, tuned tensors, the batch
	Largest string // shape of the largest of them
	Err     error
}

func (e *MemoryError) Error() string {
	text := fmt.Sprintf("running %s on %s: out of memory", e.Program, e.Device)
	if e.Asked != "" {
		text += " while allocating " + e.Asked
	}
	return text + fmt.Sprintf("; its inputs take %.1f MB, the largest is %s. Smaller batches (--batch-size) help, --checkpoint-activations, which computes activations twice instead of keeping them, --precision bf16, and other programs leaving the device", float64(e.Inputs)/1e6, e.Largest)
}

func (e *MemoryError) Unwrap() error { return e.Err }

var (
	exhausted = regexp.MustCompile(`(?i)RESOURCE_EXHAUSTED|out of memory`)
	asked     = regexp.MustCompile(`(?i)allocat\w* (\d[\d.]* ?(?:bytes|[KMGT]i?B))`)
)

// memoryError is err, as a *MemoryError if it tells of one. given are the shapes of
// what the program was given.
func memoryError(program string, be Backend, given []shapes.Shape, err error) error {
	if !exhausted.MatchString(err.Error()) {
		return err
	}
	e := &MemoryError{Program: program, Device: NameOf(be), Err: errors.Unwrap(err)}
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
