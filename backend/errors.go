package backend

import (
	"cmp"
	"fmt"
)

// DeviceError reports that [Open] cannot open a device.
type DeviceError struct {
	// Device is the device name that was passed to Open.
	Device string
	// Usage reports whether the name or the number of devices is invalid on every machine.
	Usage bool
	// Err is the reason.
	Err error
}

// Error returns the device name and the reason.
func (e *DeviceError) Error() string {
	return fmt.Sprintf("device %s: %v", cmp.Or(e.Device, Auto), e.Err)
}

// Unwrap returns the reason.
func (e *DeviceError) Unwrap() error { return e.Err }

// PrecisionError reports that the processor of this machine cannot compute in a [Precision].
type PrecisionError struct {
	// Precision is the precision that was requested.
	Precision Precision
	// Err is the reason.
	Err error
}

// Error returns the precision, the reason, and what to do.
func (e *PrecisionError) Error() string {
	return fmt.Sprintf("precision %s on the processor: %v; use %s, which every processor has", e.Precision, e.Err, F32)
}

// Unwrap returns the reason.
func (e *PrecisionError) Unwrap() error { return e.Err }

// MemoryError reports that a computation needs more memory than the device has.
type MemoryError struct {
	// Program is the name of the computation, for example "training step".
	Program string
	// Device is the name of the device, see [NameOf].
	Device string
	// Asked is the size of the allocation that failed, with its unit, as the device reports it. An
	// empty Asked means that the device does not report the size.
	Asked string
	// Inputs is the size of the inputs of the program in bytes. The inputs are the weights, the
	// tuned parameters and the mini-batch.
	Inputs int64
	// Largest is the shape of the largest input.
	Largest string
	// Err is the error of the device.
	Err error
}

// Error returns the computation, the device, the sizes of the inputs, and ways to use less memory.
func (e *MemoryError) Error() string {
	text := fmt.Sprintf("running %s on %s: out of memory", e.Program, e.Device)
	if e.Asked != "" {
		text += " while allocating " + e.Asked
	}
	return text + fmt.Sprintf("; the inputs of the program take %.1f MB, and the largest input has the shape %s; use a smaller batch size, precision bf16 or activation checkpointing (it computes activations twice instead of keeping them), or stop other programs that use the device", float64(e.Inputs)/1e6, e.Largest)
}

// Unwrap returns the error of the device.
func (e *MemoryError) Unwrap() error { return e.Err }
