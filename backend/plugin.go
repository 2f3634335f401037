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

// pluginPathEnv is the variable of go-xla with PJRT plug-ins and folders of PJRT plug-ins,
// separated as in PATH.
const pluginPathEnv = "PJRT_PLUGIN_LIBRARY_PATH"

// Plugin is an installed PJRT plug-in: a shared library with a compiler of XLA for some kind of
// device.
type Plugin struct {
	Name string `json:"name"` // kind of device, "cuda13" or "cpu" for example
	Path string `json:"path"` // path of the library
	From string `json:"from"` // where it was found: a variable, a folder of GoMLX, a Python package
	// Unused is the reason why the devices "auto" and "cuda" do not use the plug-in. Empty: they
	// use it.
	Unused string `json:"unused,omitempty"`
}

// cuda reports whether the plug-in is for NVIDIA GPUs.
func (p Plugin) cuda() bool { return strings.Contains(p.Name, "cuda") }

// Plugins lists the PJRT plug-ins of this machine. A plug-in that is preferred comes first:
// plug-ins in the variable PJRT_PLUGIN_LIBRARY_PATH, then in the folders of GoMLX, then in the
// Python packages jax-cuda13-pjrt and jax-cuda12-pjrt. Plugins loads no plug-in, runs no Python and
// downloads nothing.
func Plugins() []Plugin {
	return judged(findPlugins(os.Getenv, "/"), xlaBuilt(), len(gpus()))
}

// judged sets the field Unused of the plug-ins. gpus is the number of GPUs of the machine. If built
// is not nil, it is the reason why this program cannot use GPUs.
func judged(all []Plugin, built error, gpus int) []Plugin {
	preferred := ""
	for i := range all {
		switch p := &all[i]; {
		case built != nil:
			p.Unused = built.Error()
		case !p.cuda():
			p.Unused = "it is not for NVIDIA GPUs; the device xla:" + p.Name + " uses it"
		case gpus == 0:
			p.Unused = "this machine shows no NVIDIA GPU"
		case preferred != "":
			p.Unused = preferred + " is preferred"
		default:
			preferred = p.Path
		}
	}
	return all
}

// pluginName matches the file names of plug-ins, as go-xla does.
var pluginName = regexp.MustCompile(`^(?:pjrt_c_api_(.+)_plugin|pjrt[-_]plugin[-_](.+))\.(?:so|dylib)$`)

// findPlugins lists the plug-ins for an environment and a root folder of the file system.
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
			folder(filepath.Join(home, dir), "GoMLX's place")
		}
	}
	for _, dir := range []string{"usr/local/lib/go-xla", "usr/local/lib/go-xla/nvidia", "usr/local/lib/gomlx/pjrt"} {
		folder(filepath.Join(root, dir), "GoMLX's place")
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

// sitePackages lists the folders of installed Python packages: of the active virtual or conda
// environment, of every Python on PATH, of the user, and of Debian.
func sitePackages(getenv func(string) string, root string) (out []string) {
	prefixes := []string{getenv("VIRTUAL_ENV"), getenv("CONDA_PREFIX")}
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		for _, name := range []string{"python3", "python"} {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			// the python of a virtual environment is a link to another folder
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
			// returns errors for malformed patterns only
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

// cudaPlugin returns the plug-in for NVIDIA GPUs, or an error that says why no plug-in can be used.
func cudaPlugin() (Plugin, error) {
	if err := xlaBuilt(); err != nil {
		return Plugin{}, err
	}
	if len(gpus()) == 0 {
		return Plugin{}, errors.New("no NVIDIA GPU found: neither /proc/driver/nvidia/gpus nor /dev/nvidia0 exists")
	}
	all := Plugins()
	if i := slices.IndexFunc(all, Plugin.cuda); i >= 0 {
		return all[i], nil
	}
	return Plugin{}, fmt.Errorf("no PJRT plug-in for CUDA found in %s, the folders of GoMLX and Python packages; install one with pip install \"jax[cuda13]\", in an environment whose python3 is on PATH, or with go run github.com/gomlx/go-xla/cmd/pjrt_installer@latest", pluginPathEnv)
}
