// Package backend opens the devices on which spt computes.
//
// Begin with [OpenIn], which opens one or several devices as one [Backend]. A device is the
// processor of this machine (package cpu) or an NVIDIA GPU (a PJRT plug-in of XLA, xla.go). A
// Backend is a GoMLX backend: it compiles and runs any GoMLX graph.
//
//   - [Devices] lists the devices of this machine, and [Plugins] lists the installed PJRT plug-ins
//     (plugin.go).
//   - [NameOf], [Replicas] and [OnDevice] describe an open backend.
//   - [DefaultPrecision] selects the [Precision] of a network for a backend (precision.go).
//
// GPUs need a build with the tag xla and with cgo. In a build without XLA, Open returns an error
// that says how to build spt for GPUs (noxla.go).
//
// OpenIn returns a [*DeviceError] for a device that it cannot open. The other packages of spt
// return a [*MemoryError] if a computation needs more memory than the device has (errors.go).
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

// Backend is an open device, or several open devices of the same kind. It compiles and runs GoMLX
// graphs.
type Backend = compute.Backend

// Auto is the device name with which [Open] selects the best available device.
const Auto = "auto"

// Device describes a device of this machine.
type Device struct {
	// Name is the name with which Open opens the device, for example "cpu" or "cuda:0".
	Name string `json:"name"`
	// Description is the model of the device.
	Description string `json:"description"`
	// Unused is the reason why Open cannot open the device. An empty Unused means that Open can
	// open it.
	Unused string `json:"unused,omitempty"`
}

// Devices returns the processor and all NVIDIA GPUs of this machine. The list includes GPUs that
// Open cannot open. Devices does not open a GPU.
func Devices() []Device {
	out := []Device{{Name: "cpu", Description: "the processor of this machine, with the CPU backend of spt"}}
	if be, err := processor(); err == nil {
		out[0].Description = be.Description()
		if cpu.SupportsBF16() == nil {
			out[0].Description += fmt.Sprintf(", precisions %s and %s", F32, BF16)
		}
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

// Open does the same as [OpenIn] with the precision F32.
func Open(device string, count int) (be Backend, note string, err error) {
	return OpenIn(device, count, F32)
}

// OpenIn opens count devices of the same kind as one backend, starting at the named device. In
// training, each device computes a part of each mini-batch. All callers in the process share an
// open backend, so weights are copied to it once. The known names are:
//
//   - "" and "auto": the first GPU if Open can open it, and the processor otherwise. If the machine
//     has a GPU that Open cannot open, note gives the reason. In all other cases note is empty.
//   - "cpu": the processor. It counts as one device.
//   - "cuda" and "cuda:N": the NVIDIA GPU with the number N. The first GPU is number 0, which is
//     the default. It needs a build with XLA.
//   - "xla:PLUGIN": the first device of a PJRT plug-in. PLUGIN is the name of the plug-in (see
//     [Plugins]) or its absolute path. It needs a build with XLA.
//
// If the device is the processor, the backend computes in the precision p, and the zero value means
// F32. Any other device computes graphs of all precisions, and p has no effect.
//
// The error is a [*DeviceError], or a [*PrecisionError] if the processor cannot compute in p.
func OpenIn(device string, count int, p Precision) (be Backend, note string, err error) {
	fail := func(err error) (Backend, string, error) { return nil, "", &DeviceError{device, false, err} }
	misused := func(err error) (Backend, string, error) { return nil, "", &DeviceError{device, true, err} }
	if count < 1 {
		return misused(fmt.Errorf("the number of devices is %d; give at least 1", count))
	}
	host := func() (Backend, string, error) {
		if count > 1 {
			return misused(fmt.Errorf("%d devices were requested, but the processor is one device; request one device, or name a GPU", count))
		}
		if p == BF16 {
			if err := cpu.SupportsBF16(); err != nil {
				return nil, "", &PrecisionError{p, err}
			}
			be, err := processorBF16()
			return be, note, err
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
		if be, _, err = OpenIn("cuda", count, p); err == nil {
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
				return misused(fmt.Errorf("the number of the GPU is invalid; use cuda or cuda:N, where N is 0 for the first GPU"))
			}
		}
		p, err := cudaPlugin()
		if err != nil {
			return fail(err)
		}
		if there := len(gpus()); n+count > there {
			return fail(fmt.Errorf("%d GPU(s) starting at cuda:%d were requested, but this machine has %d NVIDIA GPU(s), cuda:0 to cuda:%d; choose a lower GPU number or fewer GPUs", count, n, there, there-1))
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
				return fail(fmt.Errorf("no PJRT plug-in with this name was found; installed plug-ins: %s; give the absolute path of the plug-in, or set %s to its folder", names(all), pluginPathEnv))
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
	return misused(fmt.Errorf("the device name is unknown; use %s, cpu, cuda, cuda:N or xla:PLUGIN", Auto))
}

// names returns the names of plugins as text for an error message.
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

// processor opens the processor. It returns the same backend in every call.
var processor = sync.OnceValues(func() (Backend, error) {
	silence()
	return cpu.New("")
})

// processorBF16 opens the processor in the precision BF16. It returns the same backend in every
// call.
var processorBF16 = sync.OnceValues(func() (Backend, error) {
	silence()
	return cpu.New(cpu.BF16)
})

// deviceSet identifies devices of the same kind that are opened as one backend.
type deviceSet struct {
	name  string // the name of the first device, see NameOf
	count int
}

// opened holds the open backends of plug-ins.
var opened = struct {
	sync.Mutex
	backends map[deviceSet]Backend
}{backends: map[deviceSet]Backend{}}

// openOnce opens count devices of the plug-in in the file path, starting at device n. If the
// devices are open under this name already, it returns the open backend.
func openOnce(name, path string, n, count int) (Backend, error) {
	opened.Lock()
	defer opened.Unlock()
	if be, ok := opened.backends[deviceSet{name, count}]; ok {
		return be, nil
	}
	silence()
	be, err := openPlugin(path, n, count)
	if err != nil {
		return nil, err
	}
	if there := be.NumDevices(); there < count {
		be.Finalize()
		return nil, fmt.Errorf("%d devices were requested, but the plug-in has %d; request fewer devices", count, there)
	}
	opened.backends[deviceSet{name, count}] = be
	return be, nil
}

// openedAs returns the name and the number of devices with which openOnce opened be.
func openedAs(be Backend) (s deviceSet, ok bool) {
	opened.Lock()
	defer opened.Unlock()
	for s, b := range opened.backends {
		if b == be {
			return s, true
		}
	}
	return s, false
}

// silence discards the log lines that GoMLX writes through the package klog.
func silence() {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	// Set fails only for unknown names, and klog defines these names.
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}

// NameOf returns the device name of a backend that [Open] returned: "cpu", "cuda:N" or "xla:PATH".
// For several devices it returns the name of the first device. For a backend that this package did
// not open it returns be.Name().
func NameOf(be Backend) string {
	if cpu.Is(be) {
		return "cpu"
	}
	if s, ok := openedAs(be); ok {
		return s.name
	}
	return be.Name()
}

// Replicas returns the number of devices with which [Open] opened be. Training keeps a replica of
// the network on each device. For the processor, Replicas returns 1.
func Replicas(be Backend) int {
	if s, ok := openedAs(be); ok {
		return s.count
	}
	return 1
}

// OnDevice reports whether be computes on an accelerator through a PJRT plug-in. An accelerator has
// separate memory, so copies to and from it take time, and its programs run while the host
// continues.
func OnDevice(be Backend) bool { return isDevice(be) }

// gpus returns the model names of the NVIDIA GPUs in the order of the driver.
var gpus = sync.OnceValue(func() []string { return findGPUs("/") })

// findGPUs reads the list of GPUs that the NVIDIA driver keeps below root. If a container hides
// this list, findGPUs counts the device files.
func findGPUs(root string) (out []string) {
	const unknown = "NVIDIA GPU"
	// Glob fails only for malformed patterns.
	files, _ := filepath.Glob(filepath.Join(root, "proc/driver/nvidia/gpus/*/information"))
	for _, f := range files {
		name := unknown
		text, _ := os.ReadFile(f) // if the file is missing, the model is unknown
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
