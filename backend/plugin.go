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

// pluginPathEnv names folders with PJRT plug-ins, or plug-ins, divided as PATH is;
// go-xla's own variable.
const pluginPathEnv = "PJRT_PLUGIN_LIBRARY_PATH"

// Plugin is a PJRT plug-in: a shared library that brings a compiler of XLA and the
// devices that it compiles for.
type Plugin struct {
	Name string `json:"name"` // "cuda13", "cpu"
	Path string `json:"path"`
	From string `json:"from"` // where it was found: a variable, a place of GoMLX's, a Python package
	// Unused says why no device of Auto's or of "cuda" is driven through it; empty: one is.
	Unused string `json:"unused,omitempty"`
}

// CUDA reports whether it drives NVIDIA GPUs.
func (p Plugin) CUDA() bool { return strings.Contains(p.Name, "cuda") }

// Plugins lists the PJRT plug-ins of this machine in the order in which they are
// preferred: those of PJRT_PLUGIN_LIBRARY_PATH, of GoMLX's places, of the Python
// packages jax-cuda13-pjrt and jax-cuda12-pjrt. None is loaded, no Python is run
// and nothing is downloaded.
func Plugins() []Plugin {
	return judged(findPlugins(os.Getenv, "/"), xlaBuilt(), len(gpus()))
}

// judged are plug-ins with the reasons against their use, on a machine with so many GPUs,
// in a program that cannot drive any if built is not nil.
func judged(all []Plugin, built error, gpus int) []Plugin {
	preferred := ""
	for i := range all {
		switch p := &all[i]; {
		case built != nil:
			p.Unused = built.Error()
		case !p.CUDA():
			p.Unused = "it drives no NVIDIA GPU; --device xla:" + p.Name + " takes it"
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

// pluginName is what a file of a plug-in is called, after go-xla.
var pluginName = regexp.MustCompile(`^(?:pjrt_c_api_(.+)_plugin|pjrt[-_]plugin[-_](.+))\.(?:so|dylib)$`)

// findPlugins takes the environment and the root of the file system from its
// caller.
func findPlugins(getenv func(string) string, root string) (out []Plugin) {
	add := func(name, path, from string) {
		if stat, err := os.Stat(path); err == nil && stat.Mode().IsRegular() &&
			!slices.ContainsFunc(out, func(p Plugin) bool { return p.Path == path }) {
			out = append(out, Plugin{Name: name, Path: path, From: from})
		}
	}
	folder := func(dir, from string) {
		entries, _ := os.ReadDir(dir) // a folder that is not there has none
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

// sitePackages are the folders of installed Python packages: of the active virtual
// or conda environment, of every Python on PATH, the user's, Debian's.
func sitePackages(getenv func(string) string, root string) (out []string) {
	prefixes := []string{getenv("VIRTUAL_ENV"), getenv("CONDA_PREFIX")}
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		for _, name := range []string{"python3", "python"} {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			prefixes = append(prefixes, filepath.Dir(dir)) // a virtual environment's python is a link out of it
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
			found, _ := filepath.Glob(filepath.Join(prefix, pattern)) // errs for malformed patterns only
			for _, dir := range found {
				if !slices.Contains(out, dir) {
					out = append(out, dir)
				}
			}
		}
	}
	return out
}

// cudaPlugin is the plug-in for NVIDIA GPUs, or why there is none that can be used.
func cudaPlugin() (Plugin, error) {
	if err := xlaBuilt(); err != nil {
		return Plugin{}, err
	}
	if len(gpus()) == 0 {
		return Plugin{}, errors.New("no NVIDIA GPU found: neither /proc/driver/nvidia/gpus nor /dev/nvidia0 is there")
	}
	all := Plugins()
	if i := slices.IndexFunc(all, Plugin.CUDA); i >= 0 {
		return all[i], nil
	}
	return Plugin{}, fmt.Errorf("no PJRT plug-in for CUDA found (%s, GoMLX's places, Python packages). Get one by pip install \"jax[cuda13]\", in an environment whose python3 is on PATH, or by go run github.com/gomlx/go-xla/cmd/pjrt_installer@latest; spt downloads nothing by itself", pluginPathEnv)
}
