package backend

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sptune/spt/backend/cpu"
)

// Auto is the device of [Open] that takes the best there is.
const Auto = "auto"

// Device is something that graphs can run on.
type Device struct {
	Name        string `json:"name"` // as Open takes it: "cpu", "cuda:0"
	Description string `json:"description"`
	// Unused says why Open would fail or Auto passes it over; empty: it would not.
	Unused string `json:"unused,omitempty"`
}

// Devices lists the processor and every NVIDIA GPU of this machine, usable or
// not, without starting any.
func Devices() []Device {
	out := []Device{{Name: "cpu", Description: "this machine's processor, by spt's own backend"}}
	if be, err := New(); err == nil {
		out[0].Description = be.Description()
	}
	_, err := cudaPlugin()
	for i, g := range gpus() {
		d := Device{Name: fmt.Sprintf("cuda:%d", i), Description: g}
		if err != nil {
			d.Unused = err.Error()
		}
		out = append(out, d)
	}
	return out
}

// DeviceError says why there is no such device.
type DeviceError struct {
	Device string
	Usage  bool // no machine has such a device: the name or the number is wrong
	Err    error
}

func (e *DeviceError) Error() string {
	return fmt.Sprintf("device %s: %v", cmp.Or(e.Device, Auto), e.Err)
}
func (e *DeviceError) Unwrap() error { return e.Err }

// Open starts a device, once for the process: everyone who opens it shares it,
// so that weights placed on it are placed once. Known are
//
//   - "" and "auto": the first GPU if it can be used, else the processor. note
//     then says why a GPU that is there is not used.
//   - "cpu": package cpu, as [New].
//   - "cuda" and "cuda:N": an NVIDIA GPU, in a build with XLA.
//   - "xla:PLUGIN": the first device of a PJRT plug-in, by its name ([Plugins]) or
//     its absolute path, in a build with XLA.
//
// What cannot be had is a [*DeviceError].
func Open(device string) (be Backend, note string, err error) { return OpenSeveral(device, 1) }

// OpenSeveral is Open of so many devices of one kind, beginning with the one named:
// what is trained on them takes its share of each batch on each ([Replicas]).
func OpenSeveral(device string, count int) (be Backend, note string, err error) {
	fail := func(err error) (Backend, string, error) { return nil, "", &DeviceError{device, false, err} }
	misused := func(err error) (Backend, string, error) { return nil, "", &DeviceError{device, true, err} }
	if count < 1 {
		return misused(fmt.Errorf("%d devices: expected at least 1", count))
	}
	host := func() (Backend, string, error) {
		if count > 1 {
			return misused(fmt.Errorf("the processor is one device, %d were asked for; name a GPU, or leave their number out", count))
		}
		be, err := New()
		return be, note, err
	}
	kind, rest, given := strings.Cut(device, ":")
	switch {
	case device == "" || device == Auto:
		if len(gpus()) == 0 {
			return host()
		}
		if be, _, err = OpenSeveral("cuda", count); err == nil {
			return be, "", nil
		}
		if count > 1 {
			return nil, "", err
		}
		note = "a GPU is there and not used: " + err.Error()
		return host()
	case device == "cpu":
		return host()
	case kind == "cuda":
		n := 0
		if given {
			if n, err = strconv.Atoi(rest); err != nil || n < 0 {
				return misused(fmt.Errorf("expected cuda or cuda:N, N the number of a GPU from 0"))
			}
		}
		p, err := cudaPlugin()
		if err != nil {
			return fail(err)
		}
		if there := len(gpus()); n+count > there {
			return fail(fmt.Errorf("this machine has %d NVIDIA GPUs, cuda:0 to cuda:%d; %d from cuda:%d on were asked for", there, there-1, count, n))
		}
		if be, err = openOnce(fmt.Sprintf("cuda:%d", n), p.Path, n, count); err != nil {
			return fail(err)
		}
		return be, "", nil
	case kind == "xla" && rest != "":
		if err := xlaBuilt(); err != nil {
			return fail(err)
		}
		path := rest
		if !filepath.IsAbs(rest) {
			all := Plugins()
			i := slices.IndexFunc(all, func(p Plugin) bool { return p.Name == rest })
			if i < 0 {
				return fail(fmt.Errorf("there is no PJRT plug-in of that name; found: %s; give its absolute path, or set %s to its folder", names(all), pluginPathEnv))
			}
			path = all[i].Path
		}
		if _, err := os.Stat(path); err != nil {
			return fail(fmt.Errorf("opening the PJRT plug-in: %w", err))
		}
		if be, err = openOnce("xla:"+path, path, 0, count); err != nil {
			return fail(err)
		}
		return be, "", nil
	}
	return misused(fmt.Errorf("expected %s, cpu, cuda, cuda:N or xla:PLUGIN", Auto))
}

func names(plugins []Plugin) string {
	if len(plugins) == 0 {
		return "none"
	}
	var out []string
	for _, p := range plugins {
		out = append(out, p.Name)
	}
	return strings.Join(out, ", ")
}

// several are devices of one kind, beginning with one.
type several struct {
	name  string // of the first, as NameOf has it
	count int
}

var opened = struct {
	sync.Mutex
	backends map[several]Backend
}{backends: map[several]Backend{}}

// openOnce starts count devices of a plug-in from number n on, or returns those that
// run under that name.
func openOnce(name, path string, n, count int) (Backend, error) {
	opened.Lock()
	defer opened.Unlock()
	if be, ok := opened.backends[several{name, count}]; ok {
		return be, nil
	}
	silence()
	be, err := openPlugin(path, n, count)
	if err != nil {
		return nil, err
	}
	if there := be.NumDevices(); there < count {
		be.Finalize()
		return nil, fmt.Errorf("the plug-in has %d devices, %d were asked for", there, count)
	}
	opened.backends[several{name, count}] = be
	return be, nil
}

// as is under what be was opened.
func as(be Backend) (s several, ok bool) {
	opened.Lock()
	defer opened.Unlock()
	for s, b := range opened.backends {
		if b == be {
			return s, true
		}
	}
	return s, false
}

// NameOf is the name under which [Open] finds be again: "cpu", "cuda:0",
// "xla:PATH"; of several devices it is the first one's. Of a backend that was not
// opened here it is the backend's own.
func NameOf(be Backend) string {
	if _, host := be.(*cpu.Backend); host {
		return "cpu"
	}
	if s, ok := as(be); ok {
		return s.name
	}
	return be.Name()
}

// Replicas is how many devices be was opened with, 1 for the processor: of as many
// replicas is what a [NewReplicated] program runs.
func Replicas(be Backend) int {
	if s, ok := as(be); ok {
		return s.count
	}
	return 1
}

// OnDevice reports whether be computes away from the host: its memory is its
// own, copies to and from it take time, and what it is asked for runs while the
// host goes on.
func OnDevice(be Backend) bool { return isDevice(be) }

// gpus describes the NVIDIA GPUs that the driver shows, in its order.
var gpus = sync.OnceValue(func() []string { return findGPUs("/") })

// findGPUs looks below root: the driver's own list, or where a container hides
// that, the device files.
func findGPUs(root string) (out []string) {
	const unknown = "NVIDIA GPU"
	files, _ := filepath.Glob(filepath.Join(root, "proc/driver/nvidia/gpus/*/information")) // errs for malformed patterns only
	for _, f := range files {
		name := unknown
		text, _ := os.ReadFile(f) // an empty one does not say
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "Model" {
				name = strings.TrimSpace(value)
			}
		}
		out = append(out, name)
	}
	if len(out) > 0 {
		return out
	}
	files, _ = filepath.Glob(filepath.Join(root, "dev/nvidia[0-9]*"))
	for range files {
		out = append(out, unknown)
	}
	return out
}
