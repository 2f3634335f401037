package run

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/progress"
)

// ComputeConfig configures the device and the precision of a run. The zero value means the best
// device of the machine and the default precision of that device.
type ComputeConfig struct {
	// Device is the name of a device, as backend.Open takes it: auto, cpu, cuda, cuda:N or
	// xla:PLUGIN. Empty: auto.
	Device string `json:"device,omitempty"`
	// Devices is the number of devices that train together, starting at Device. Zero means one
	// device.
	Devices int `json:"devices,omitempty"`
	// Precision is f32 or bf16. Empty: backend.DefaultPrecision of the device, or for a run with a
	// time limit, backend.TimedPrecision.
	Precision backend.Precision `json:"precision,omitempty"`
	// CheckpointActivations turns on activation checkpointing: the backward pass recomputes the
	// activations of each block instead of reading stored ones. This saves memory and adds about a
	// third more computation. It has no effect on the CPU, because the CPU backend always
	// recomputes cheap operations. Default: false.
	CheckpointActivations bool `json:"checkpoint_activations,omitempty"`
}

// Open opens the device and fills in the empty fields of c. If the device is not the one that a
// user may expect, report receives a progress.Note with the reason. A missing device is an
// [*InputError]. An option that cannot work is an [*OptionError].
func (c *ComputeConfig) Open(report progress.Func) (backend.Backend, error) {
	if err := c.Precision.Validate(); err != nil {
		return nil, &OptionError{Option: "precision", Err: err}
	}
	if c.Devices < 0 {
		return nil, &OptionError{Option: "devices", Err: fmt.Errorf("number of devices %d: expected at least 1", c.Devices)}
	}
	be, note, err := backend.OpenIn(c.Device, max(c.Devices, 1), c.Precision)
	if note != "" {
		report.Report(progress.Event{Stage: progress.Note, Item: note})
	}
	if err != nil {
		if e := (*backend.PrecisionError)(nil); errors.As(err, &e) {
			return nil, &OptionError{Option: "precision", Err: err}
		}
		if e := (*backend.DeviceError)(nil); errors.As(err, &e) && e.Usage {
			return nil, &OptionError{Option: "device", Err: err}
		}
		return nil, &InputError{Err: err}
	}
	c.Device = backend.NameOf(be)
	c.Precision = cmp.Or(c.Precision, backend.DefaultPrecision(be))
	if !backend.OnDevice(be) && c.CheckpointActivations {
		report.Report(progress.Event{Stage: progress.Note, Item: "activation checkpointing saves memory on GPUs; it has no effect on the CPU"})
	}
	return be, nil
}

// String describes c in a few words, such as "cuda, precision bf16".
func (c ComputeConfig) String() string {
	text := c.Device
	if c.Devices > 1 {
		text = fmt.Sprintf("%d devices starting at %s", c.Devices, c.Device)
	}
	text += ", precision " + string(cmp.Or(c.Precision, backend.F32))
	if c.CheckpointActivations && c.Device != "cpu" {
		text += ", with activation checkpointing"
	}
	return text
}
