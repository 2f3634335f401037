package run

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/progress"
)

// ComputeConfig says on which device a run computes, and how. The zero value is the best device of
// the machine and the default precision of that device.
type ComputeConfig struct {
	// Device is a name that backend.Open takes: auto, cpu, cuda, cuda:N or xla:PLUGIN. Empty: auto.
	Device string `json:"device,omitempty"`
	// Devices is the number of devices that train together, starting at Device. 0: 1.
	Devices int `json:"devices,omitempty"`
	// Precision is f32 or bf16. Empty: backend.DefaultPrecision of the device.
	Precision backend.Precision `json:"precision,omitempty"`
	// CheckpointActivations computes the activations of a block again in the backward pass instead
	// of keeping them: less memory, a third more work. On the CPU it changes nothing, because the
	// CPU backend already computes again what is cheap.
	CheckpointActivations bool `json:"checkpoint_activations,omitempty"`
}

// Open starts the device and fills in the fields that c leaves open. A progress.Note says why a
// device is not the one that might be expected. A missing device is an [*InputError], an impossible
// option an [*OptionError].
func (c *ComputeConfig) Open(report progress.Func) (backend.Backend, error) {
	if err := c.Precision.Validate(); err != nil {
		return nil, &OptionError{Option: "precision", Err: err}
	}
	if c.Devices < 0 {
		return nil, &OptionError{Option: "devices", Err: fmt.Errorf("%d devices: expected at least 1", c.Devices)}
	}
	be, note, err := backend.Open(c.Device, max(c.Devices, 1))
	if note != "" {
		report.Report(progress.Event{Stage: progress.Note, Item: note})
	}
	if err != nil {
		if e := (*backend.DeviceError)(nil); errors.As(err, &e) && e.Usage {
			return nil, &OptionError{Option: "device", Err: err}
		}
		return nil, &InputError{Err: err}
	}
	c.Device = backend.NameOf(be)
	c.Precision = cmp.Or(c.Precision, backend.DefaultPrecision(be))
	if !backend.OnDevice(be) {
		if c.CheckpointActivations {
			report.Report(progress.Event{Stage: progress.Note, Item: "checkpointing of activations is for GPUs; on the CPU it changes nothing"})
		}
		if c.Precision == backend.BF16 {
			report.Report(progress.Event{Stage: progress.Note, Item: "bf16 on the CPU is far slower than f32; it serves to compare results"})
		}
	}
	return be, nil
}

// String describes c in a few words.
func (c ComputeConfig) String() string {
	text := c.Device
	if c.Devices > 1 {
		text = fmt.Sprintf("%d devices from %s on", c.Devices, c.Device)
	}
	text += ", precision " + string(cmp.Or(c.Precision, backend.F32))
	if c.CheckpointActivations && c.Device != "cpu" {
		text += ", activations checkpointed"
	}
	return text
}
