package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// pluginPathEnv is the environment variable of go-xla that lists PJRT plug-ins and folders with
// PJRT plug-ins. It has the format of PATH.
const pluginPathEnv = "PJRT_PLUGIN_LIBRARY_PATH"

// Plugin describes an installed PJRT plug-in: a shared library with the XLA compiler and runtime
// for one kind of device.
type Plugin struct {
	// Name is the kind of device, for example "cuda13" or "cpu".
	Name string `json:"name"`
	// Path is the path of the shared library.
	Path string `json:"path"`
	// From says where the plug-in was found: in an environment variable, a folder of GoMLX or a
	// Python package.
	From string `json:"from"`
	// Unused is the reason why the devices "auto" and "cuda" do not use the plug-in. An empty
	// Unused means that they use it.
	Unused string `json:"unused,omitempty"`
}

// cuda reports whether the plug-in is for NVIDIA GPUs.
func (p Plugin) cuda() bool { return strings.Contains(p.Name, "cuda") }

// Plugins returns the PJRT plug-ins that are installed on this machine, in order of preference. It
// searches the environment variable PJRT_PLUGIN_LIBRARY_PATH, the folders of GoMLX, the environment
// variable LD_LIBRARY_PATH, and the Python packages jax-cuda13-pjrt and jax-cuda12-pjrt, in this
// order. Plugins does not load a plug-in, run Python or download anything.
func Plugins() []Plugin {
	return markUnused(findPlugins(os.Getenv, "/"), xlaBuilt(), len(gpus()))
}

// markUnused sets the field Unused of each plug-in and returns all. gpus is the number of GPUs of
// the machine. A non-nil built is the reason why this program cannot use GPUs.
func markUnused(all []Plugin, built error, gpus int) []Plugin {
	preferred := ""
	for i := range all {
		switch p := &all[i]; {
		case built != nil:
			p.Unused = built.Error()
		case !p.cuda():
			p.Unused = "it is not for NVIDIA GPUs; to use it, open the device xla:" + p.Name
		case gpus == 0:
			p.Unused = "no NVIDIA GPU was found on this machine"
		case preferred != "":
			p.Unused = "the plug-in " + preferred + " is preferred"
		default:
			preferred = p.Path
		}
	}
	return all
}

// pluginName matches the file names of PJRT plug-ins in the same way as go-xla.
var pluginName = regexp.MustCompile(`^(?:pjrt_c_api_(.+)_plugin|pjrt[-_]plugin[-_](.+))\.(?:so|dylib)$`)

// findPlugins returns the plug-ins that are installed below the folder root of the file system. It
// reads environment variables with getenv.
func findPlugins(getenv func(string) string, root string) (out []Plugin) {
	add := func(name, path, from string) {
		if stat, err := os.Stat(path); err == nil && stat.Mode().IsRegular() &&
			!slices.ContainsFunc(out, func(p Plugin) bool { return p.Path == path }) {
			out = append(out, Plugin{Name: name, Path: path, From: from})
		}
	}
	folder := func(dir, from string) {
		entries, _ := os.ReadDir(dir) // a missing folder has no entries
		for _, e := range entries {
			if m := pluginName.FindStringSubmatch(e.Name()); m != nil {
				add(m[1]+m[2], filepath.Join(dir, e.Name()), from)
			}
		}
	}
	for _, p := range filepath.SplitList(getenv(pluginPathEnv)) {
		if m := pluginName.FindStringSubmatch(filepath.Base(p)); m != nil {
			add(m[1]+m[2], p, pluginPathEnv)
		} else {
			folder(p, pluginPathEnv)
		}
	}
	home := getenv("HOME")
	for _, dir := range []string{".local/lib/go-xla", ".local/lib/go-xla/nvidia", ".local/lib/gomlx/pjrt"} {
		if home != "" {
			folder(filepath.Join(home, dir), "folder of GoMLX")
		}
	}
	for _, dir := range []string{"usr/local/lib/go-xla", "usr/local/lib/go-xla/nvidia", "usr/local/lib/gomlx/pjrt"} {
		folder(filepath.Join(root, dir), "folder of GoMLX")
	}
	for _, dir := range filepath.SplitList(getenv("LD_LIBRARY_PATH")) {
		folder(dir, "LD_LIBRARY_PATH")
	}
	for _, version := range []string{"13", "12"} {
		for _, site := range sitePackages(getenv, root) {
			add("cuda"+version, filepath.Join(site, "jax_plugins", "xla_cuda"+version, "xla_cuda_plugin.so"), "Python package jax-cuda"+version+"-pjrt")
		}
	}
	return out
}

// sitePackages returns the folders of installed Python packages. It searches the active virtual
// environment, the active conda environment, every Python on PATH, the home folder of the user, and
// the system folders.
func sitePackages(getenv func(string) string, root string) (out []string) {
	prefixes := []string{getenv("VIRTUAL_ENV"), getenv("CONDA_PREFIX")}
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		for _, name := range []string{"python3", "python"} {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			// In a virtual environment, python is a link to a program in another folder.
			prefixes = append(prefixes, filepath.Dir(dir))
			if real, err := filepath.EvalSymlinks(path); err == nil {
				prefixes = append(prefixes, filepath.Dir(filepath.Dir(real)))
			}
		}
	}
	if home := getenv("HOME"); home != "" {
		prefixes = append(prefixes, filepath.Join(home, ".local"))
	}
	prefixes = append(prefixes, filepath.Join(root, "usr/local"), filepath.Join(root, "usr"))
	for _, prefix := range prefixes {
		if prefix == "" {
			continue
		}
		for _, pattern := range []string{"lib/python3*/site-packages", "lib/python3*/dist-packages"} {
			// Glob fails only for malformed patterns.
			found, _ := filepath.Glob(filepath.Join(prefix, pattern))
			for _, dir := range found {
				if !slices.Contains(out, dir) {
					out = append(out, dir)
				}
			}
		}
	}
	return out
}

// cudaPlugin returns the preferred plug-in for NVIDIA GPUs. If no plug-in can be used, the error
// gives the reason.
func cudaPlugin() (Plugin, error) {
	if err := xlaBuilt(); err != nil {
		return Plugin{}, err
	}
	if len(gpus()) == 0 {
		return Plugin{}, errors.New("no NVIDIA GPU was found: neither /proc/driver/nvidia/gpus nor /dev/nvidia0 exists")
	}
	all := Plugins()
	if i := slices.IndexFunc(all, Plugin.cuda); i >= 0 {
		return all[i], nil
	}
	return Plugin{}, fmt.Errorf("no PJRT plug-in for CUDA was found in %s, the folders of GoMLX or the Python packages; install a plug-in: run pip install \"jax[cuda13]\" in a Python environment whose python3 is on PATH, or run go run github.com/gomlx/go-xla/cmd/pjrt_installer@latest", pluginPathEnv)
}
