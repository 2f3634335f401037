package run

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
)

// ComputeConfig says on what a run computes, and how. The zero value is the best
// device there is and its default precision.
type ComputeConfig struct {
	Device    string            `json:"device,omitempty"`    // as backend.Open takes it
	Devices   int               `json:"devices,omitempty"`   // so many from Device on train together; 0: 1
	Precision backend.Precision `json:"precision,omitempty"` // empty: backend.DefaultPrecision of the device
	// CheckpointActivations computes the activations of a block anew on the way
	// back instead of keeping them: less memory for a third more work. On the
	// processor it does nothing: what is worth it is computed anew there anyway.
	CheckpointActivations bool `json:"checkpoint_activations,omitempty"`
}

// Open starts the device and fills in what c leaves open. note is [backend.Open]'s.
// A device that is not there is an *[InputError], one that no machine has an
// *[OptionError].
func (c *ComputeConfig) Open() (be backend.Backend, note string, err error) {
	if err := c.Precision.Validate(); err != nil {
		return nil, "", &OptionError{Option: "precision", Err: err}
	}
	if c.Devices < 0 {
		return nil, "", &OptionError{Option: "devices", Err: fmt.Errorf("devices %d: expected at least 1", c.Devices)}
	}
	if be, note, err = backend.OpenSeveral(c.Device, max(c.Devices, 1)); err != nil {
		if e := (*backend.DeviceError)(nil); errors.As(err, &e) && e.Usage {
			return nil, "", &OptionError{Option: "device", Err: err}
		}
		return nil, "", &InputError{err}
	}
	c.Device = backend.NameOf(be)
	c.Precision = cmp.Or(c.Precision, backend.DefaultPrecision(be))
	return be, note, nil
}

// Model is m as c computes it.
func (c ComputeConfig) Model(m *backbone.Model) *backbone.Model {
	return m.In(c.Precision, c.CheckpointActivations)
}

// String is c in a few words.
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
