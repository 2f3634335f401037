package backend

import (
	"cmp"
	"fmt"
)

// DeviceError is the error of [Open] for a device that it cannot open.
type DeviceError struct {
	Device string // name given to Open
	Usage  bool   // the name or the number of devices is invalid on every machine
	Err    error  // the reason
}

func (e *DeviceError) Error() string {
	return fmt.Sprintf("device %s: %v", cmp.Or(e.Device, Auto), e.Err)
}
func (e *DeviceError) Unwrap() error { return e.Err }

// MemoryError is the error of a computation that needs more memory than the device has.
type MemoryError struct {
	Program string // name of the computation: "training step" for example
	Device  string // name of the device, see NameOf
	// size of the allocation that failed, as the device reports it; empty: the device does not
	// report it
	Asked string
	// size of the inputs of the program (weights, tuned tensors, the batch), in bytes
	Inputs  int64
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
