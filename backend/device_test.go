package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend/cpu"
)

// tree creates files in a new folder and returns the folder. An element of files is a path, or a
// path, a tab and the content.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		name, text, _ := strings.Cut(f, "\t")
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestUnusedPlugins checks the reason that each unused plug-in gives.
func TestUnusedPlugins(t *testing.T) {
	all := func() []Plugin {
		return []Plugin{{Name: "tpu", Path: "/a"}, {Name: "cuda13", Path: "/b"}, {Name: "cuda12", Path: "/c"}}
	}
	for _, c := range []struct {
		built error
		gpus  int
		want  [3]string // parts of the reasons; empty: none
	}{
		{nil, 1, [3]string{"device xla:tpu", "", "/b is preferred"}},
		{nil, 0, [3]string{"device xla:tpu", "no NVIDIA GPU", "no NVIDIA GPU"}},
		{errors.New("not built"), 1, [3]string{"not built", "not built", "not built"}},
	} {
		for i, p := range markUnused(all(), c.built, c.gpus) {
			if (p.Unused == "") != (c.want[i] == "") || !strings.Contains(p.Unused, c.want[i]) {
				t.Errorf("%d GPUs, built %v: %s has the reason %q, expected %q", c.gpus, c.built, p.Name, p.Unused, c.want[i])
			}
		}
	}
}

// TestPlugins checks that findPlugins searches all places in order and skips other files.
func TestPlugins(t *testing.T) {
	root := tree(t,
		"given/pjrt_c_api_tpu_plugin.so", "given/notes.txt", "given/libother.so",
		"one/pjrt-plugin-metal.so",
		"home/.local/lib/go-xla/nvidia/pjrt_c_api_cuda_plugin.so",
		"usr/local/lib/go-xla/pjrt_c_api_cpu_v0.83.1_plugin.so",
		"venv/bin/python3", "venv/lib/python3.12/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so",
		"conda/lib/python3.11/site-packages/jax_plugins/xla_cuda12/xla_cuda_plugin.so",
		"usr/lib/python3/dist-packages/jax_plugins/xla_cuda12/xla_cuda_plugin.so",
		"ld/pjrt_c_api_extra_plugin.so",
	)
	in := func(s string) string { return filepath.Join(root, s) }
	env := map[string]string{
		"PJRT_PLUGIN_LIBRARY_PATH": in("given") + ":" + in("one/pjrt-plugin-metal.so") + ":" + in("absent"),
		"HOME":                     in("home"), "CONDA_PREFIX": in("conda"), "PATH": in("venv/bin") + ":" + in("absent"), "LD_LIBRARY_PATH": in("ld"),
	}
	var got []string
	for _, p := range findPlugins(func(name string) string { return env[name] }, root) {
		rel, err := filepath.Rel(root, p.Path)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s (%s) %t", p.Name, rel, p.From, p.cuda()))
	}
	want := []string{
		"tpu given/pjrt_c_api_tpu_plugin.so (PJRT_PLUGIN_LIBRARY_PATH) false",
		"metal one/pjrt-plugin-metal.so (PJRT_PLUGIN_LIBRARY_PATH) false",
		"cuda home/.local/lib/go-xla/nvidia/pjrt_c_api_cuda_plugin.so (folder of GoMLX) true",
		"cpu_v0.83.1 usr/local/lib/go-xla/pjrt_c_api_cpu_v0.83.1_plugin.so (folder of GoMLX) false",
		"extra ld/pjrt_c_api_extra_plugin.so (LD_LIBRARY_PATH) false",
		"cuda13 venv/lib/python3.12/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so (Python package jax-cuda13-pjrt) true",
		"cuda12 conda/lib/python3.11/site-packages/jax_plugins/xla_cuda12/xla_cuda_plugin.so (Python package jax-cuda12-pjrt) true",
		"cuda12 usr/lib/python3/dist-packages/jax_plugins/xla_cuda12/xla_cuda_plugin.so (Python package jax-cuda12-pjrt) true",
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("found\n%s\nwant\n%s", g, w)
	}
}

// TestGPUs checks that findGPUs prefers the list of the driver to device files, and finds no GPU
// without both.
func TestGPUs(t *testing.T) {
	for want, root := range map[string]string{
		"[]": tree(t, "dev/nvidiactl"),
		"[NVIDIA H100 80GB HBM3 NVIDIA GPU]": tree(t, "dev/nvidia0",
			"proc/driver/nvidia/gpus/0000:00:05.0/information\tModel: \t\t NVIDIA H100 80GB HBM3\nIRQ:   11\n",
			"proc/driver/nvidia/gpus/0000:00:06.0/information\t"),
		"[NVIDIA GPU NVIDIA GPU]": tree(t, "dev/nvidia0", "dev/nvidia1", "dev/nvidia-uvm"),
	} {
		if got := fmt.Sprint(findGPUs(root)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for name, old := range map[string]bool{"NVIDIA H100 80GB HBM3": false, "NVIDIA A100-SXM4-40GB": false, "NVIDIA GeForce RTX 3090": false, "Tesla T4": true,
		"Tesla V100-SXM2-16GB": true, "NVIDIA GeForce RTX 2080 Ti": true, "NVIDIA GeForce GTX 1660": true, "Tesla P100-PCIE-16GB": true, "NVIDIA L4": false, "NVIDIA RTX 4000": false,
		"Quadro RTX 6000": true, "NVIDIA T1000": true, "Quadro GV100": true, "NVIDIA GeForce MX150": true, "NVIDIA RTX A6000": false, "NVIDIA RTX 6000 Ada Generation": false} {
		if beforeAmpere.MatchString(name) != old {
			t.Errorf("%s: before Ampere %t, want %t", name, !old, old)
		}
	}
}

// TestOpen checks that Open returns an error with the name of a device that does not exist.
func TestOpen(t *testing.T) {
	own, err := processor()
	if err != nil {
		t.Fatal(err)
	}
	be, note, err := Open("cpu", 1)
	if be != own || note != "" || err != nil {
		t.Errorf("cpu: %v, %q, %v", be, note, err)
	}
	if NameOf(be) != "cpu" || OnDevice(be) || DefaultPrecision(be) != F32 {
		t.Errorf("cpu is called %q, on a device %t, precision %s", NameOf(be), OnDevice(be), DefaultPrecision(be))
	}
	be, _, err = OpenIn("cpu", 1, BF16)
	if missing := cpu.SupportsBF16(); missing != nil {
		var refused *PrecisionError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), missing.Error()) || !strings.Contains(err.Error(), "use f32") {
			t.Errorf("bf16 without AVX512-BF16: %v", err)
		}
		if p := TimedPrecision("cpu"); p != "" {
			t.Errorf("precision %s with a time limit, without AVX512-BF16", p)
		}
	} else if p := TimedPrecision("cpu"); p != BF16 || TimedPrecision("cuda") != "" {
		t.Errorf("precision %q with a time limit on the processor, %q on a GPU", p, TimedPrecision("cuda"))
	} else if again, _, _ := OpenIn("cpu", 1, BF16); err != nil || be != again || be == own || NameOf(be) != "cpu" || BF16.DType(be) != dtypes.Float32 {
		t.Errorf("cpu in bf16: %v, %v", be, err)
	}
	if F32.DType(own) != dtypes.Float32 || BF16.DType(own) != dtypes.BFloat16 {
		t.Errorf("types of graphs: %s and %s", F32.DType(own), BF16.DType(own))
	}
	for _, device := range []string{"gpu", "cuda:", "cuda:-1", "cuda:x", "xla", "xla:", "xla:no-such", "xla:/no/such/pjrt_c_api_x_plugin.so", "cpu:0"} {
		var missing *DeviceError
		if _, _, err := Open(device, 1); !errors.As(err, &missing) || !strings.Contains(err.Error(), "device "+device+": ") {
			t.Errorf("%s: %v", device, err)
		}
	}
	if err := xlaBuilt(); err != nil {
		if _, _, got := Open("cuda", 1); got == nil || !strings.Contains(got.Error(), "-tags xla") {
			t.Errorf("cuda in a build without XLA: %v", got)
		}
	}
}
