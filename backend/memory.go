package backend

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/gomlx/compute/shapes"
)

// MemoryError is the error of a program that needs more memory than the device has.
type MemoryError struct {
	Program string // name of the program
	Device  string // name of the device, see NameOf
	Asked   string // size of the allocation that failed, as the device reports it; empty: the device does not report it
	Inputs  int64  // size of the inputs of the program (weights, tuned tensors, the batch), in bytes
	Largest string // shape of the largest input
	Err     error  // error of the device
}

func (e *MemoryError) Error() string {
	text := fmt.Sprintf("running %s on %s: out of memory", e.Program, e.Device)
	if e.Asked != "" {
		text += " while allocating " + e.Asked
	}
	return text + fmt.Sprintf("; the inputs take %.1f MB, the largest is %s; use a smaller batch size, activation checkpointing, which computes activations twice instead of keeping them, or precision bf16, or stop other programs on the device", float64(e.Inputs)/1e6, e.Largest)
}

func (e *MemoryError) Unwrap() error { return e.Err }

var (
	exhausted = regexp.MustCompile(`(?i)RESOURCE_EXHAUSTED|out of memory`)
	asked     = regexp.MustCompile(`(?i)allocat\w* (\d[\d.]* ?(?:bytes|[KMGT]i?B))`)
)

// memoryError returns err, or a *MemoryError if err says that memory is exhausted. given lists the
// shapes of the inputs.
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
