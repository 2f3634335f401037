// Package backend opens the devices on which spt computes.
//
// [Devices] lists the devices of this machine. [Open] opens one or several of them as one
// [Backend]: the processor, through package cpu, or GPUs, through a PJRT plug-in (xla.go). GPUs
// need a build with XLA (build tag xla, cgo); without it, noxla.go says so. [Plugins] lists the
// installed plug-ins (plugin.go). [NameOf], [Replicas] and [OnDevice] describe an open backend, and
// [DefaultPrecision] chooses the [Precision] of networks on it (precision.go).
//
// A Backend is a GoMLX backend: it runs any GoMLX graph. Open returns a [DeviceError] for a device
// that it cannot open. The other packages of spt return a [MemoryError] if a computation needs more
// memory than its device has (errors.go).
package backend

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gomlx/compute"
	"k8s.io/klog/v2"

	"github.com/sptune/spt/backend/cpu"
)

// Backend is an open device, or several devices that are open as one backend. Graphs are compiled
// for it and run on it.
type Backend = compute.Backend

// Auto is the name of the best available device, for [Open].
const Auto = "auto"

// Device is a device of this machine.
type Device struct {
	Name        string `json:"name"`        // name for Open: "cpu", "cuda:0"
	Description string `json:"description"` // model of the device
	// Unused is the reason why Open cannot open the device. Empty: it can.
	Unused string `json:"unused,omitempty"`
}

// Devices lists the processor and all NVIDIA GPUs of this machine, also those that Open cannot
// open. It opens none of the GPUs.
func Devices() []Device {
	out := []Device{{Name: "cpu", Description: "this machine's processor, by spt's own backend"}}
	if be, err := processor(); err == nil {
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

// Open opens count devices of one kind, from the named device on, as one backend. Each device
// computes a part of each batch. All callers in the process share an open backend, so weights are
// placed on it once. The known names are:
//
//   - "" and "auto": the first GPU if Open can open it, otherwise the processor. If there is a GPU
//     that Open cannot open, note is the reason.
//   - "cpu": the processor. It is one device.
//   - "cuda" and "cuda:N": an NVIDIA GPU. N counts from 0. It needs a build with XLA.
//   - "xla:PLUGIN": the first device of a PJRT plug-in, given by its name (see [Plugins]) or its
//     absolute path. It needs a build with XLA.
//
// The error is a [*DeviceError].
func Open(device string, count int) (be Backend, note string, err error) {
	fail := func(err error) (Backend, string, error) { return nil, "", &DeviceError{device, false, err} }
	misused := func(err error) (Backend, string, error) { return nil, "", &DeviceError{device, true, err} }
	if count < 1 {
		return misused(fmt.Errorf("the number of devices is %d: expected at least 1", count))
	}
	host := func() (Backend, string, error) {
		if count > 1 {
			return misused(fmt.Errorf("the processor is one device, %d were asked for; name a GPU, or leave their number out", count))
		}
		be, err := processor()
		return be, note, err
	}
	kind, rest, given := strings.Cut(device, ":")
	switch {
	case device == "" || device == Auto:
		if len(gpus()) == 0 {
			return host()
		}
		if be, _, err = Open("cuda", count); err == nil {
			return be, "", nil
		}
		if count > 1 {
			return nil, "", err
		}
		note = "a GPU of this machine is not used: " + err.Error()
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

// names lists the names of plug-ins for an error.
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

// processor opens the processor. It returns the same backend to all callers.
var processor = sync.OnceValues(func() (Backend, error) {
	silence()
	return cpu.New("")
})

// several identifies devices of one kind that are opened as one backend.
type several struct {
	name  string // name of the first device, see NameOf
	count int
}

// opened holds the backends of plug-ins that are open.
var opened = struct {
	sync.Mutex
	backends map[several]Backend
}{backends: map[several]Backend{}}

// openOnce opens count devices of a plug-in from device n on. If they are open under the name, it
// returns them.
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
		return nil, fmt.Errorf("the plug-in has %d devices: %d were asked for", there, count)
	}
	opened.backends[several{name, count}] = be
	return be, nil
}

// as returns the name and the number of devices with which be was opened.
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

// silence discards the log lines that GoMLX writes with klog.
func silence() {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	// Set fails for unknown names only. klog defines these names.
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}

// NameOf returns the name with which [Open] returns be: "cpu", "cuda:0" or "xla:PATH". For several
// devices it is the name of the first. For a backend that this package did not open it is
// be.Name().
func NameOf(be Backend) string {
	if cpu.Is(be) {
		return "cpu"
	}
	if s, ok := as(be); ok {
		return s.name
	}
	return be.Name()
}

// Replicas returns the number of devices with which [Open] opened be. Training keeps a replica of
// the network on each of them. It is 1 for the processor.
func Replicas(be Backend) int {
	if s, ok := as(be); ok {
		return s.count
	}
	return 1
}

// OnDevice reports whether be computes outside of the host: it has separate memory, copies to and
// from it take time, and programs run while the host continues.
func OnDevice(be Backend) bool { return isDevice(be) }

// gpus returns the models of the NVIDIA GPUs in the order of the driver.
var gpus = sync.OnceValue(func() []string { return findGPUs("/") })

// findGPUs reads the list of the driver below root. In a container that hides the list, it counts
// the device files.
func findGPUs(root string) (out []string) {
	const unknown = "NVIDIA GPU"
	// returns errors for malformed patterns only
	files, _ := filepath.Glob(filepath.Join(root, "proc/driver/nvidia/gpus/*/information"))
	for _, f := range files {
		name := unknown
		text, _ := os.ReadFile(f) // without the file, the model is unknown
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
