//go:build xla && linux

package backend

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
*/
import "C"

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
	"github.com/gomlx/gomlx/support/exceptions"
)

func init() {
	xla.EnableAutoInstall(false) // go-xla must not download plug-ins
}

// xlaBuilt returns nil, because this program can use GPUs.
func xlaBuilt() error { return nil }

// openPlugin loads the plug-in in the file path and starts count devices, starting at device n.
func openPlugin(path string, n, count int) (Backend, error) {
	// Go-xla treats a relative path as the name of a plug-in to install.
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if strings.Contains(path, ",") {
		return nil, fmt.Errorf("the path of the PJRT plug-in contains a comma, after which go-xla reads options: got %s; move the plug-in to a path without a comma", path)
	}
	config := path
	cuda := pjrt.IsCUDAName(path)
	if cuda {
		// Float32 matrix products are computed in float32, not in TF32. Only the given GPUs are
		// visible, and the first of these GPUs becomes device 0. The plug-in allocates memory only
		// when a program needs it.
		var visible []string
		for i := range count {
			visible = append(visible, strconv.Itoa(n+i))
		}
		config += ",notf32,noshared_buffers,preallocate=false,visible_devices=" + strings.Join(visible, ";")
		prepareCUDA(path)
	} else {
		config += ",noshared_buffers"
	}
	be, err := startPlugin(config)
	if err != nil {
		return nil, fmt.Errorf("starting the PJRT plug-in %s: %w", path, brief{err})
	}
	return be, nil
}

// startPlugin starts the PJRT client that config describes. If a plug-in does not load, go-xla
// panics. startPlugin returns the panic as an error.
func startPlugin(config string) (be *xla.Backend, err error) {
	// As in JAX, the plug-in writes warnings and errors to standard error, but no informational
	// messages.
	setIfUnset("TF_CPP_MIN_LOG_LEVEL", "1")
	if caught := exceptions.TryCatch[error](func() { be, err = xla.NewWithOptions(config, nil) }); caught != nil {
		err = caught
	}
	return be, err
}

// prepareCUDA prepares the process for a CUDA plug-in in the same way as JAX. It loads the
// libraries of NVIDIA from their Python packages, so that the plug-in finds these libraries, and
// sets the folder of ptxas and libdevice.
func prepareCUDA(plugin string) {
	data := cudaData(plugin)
	// Without this variable, go-xla prints a warning if the libraries are not in a folder next to
	// the folder of the plug-in.
	setIfUnset("GOPJRT_CUDA_CHECKS", "0")
	flags := slices.Clone(compilerFlags)
	// The compiler stores the fastest kernel configurations in this cache. The compiler can also
	// cache the compiled kernels, but with plug-in 0.11.2 programs with cached kernels crash.
	if cache, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(cache, "spt", "xla")
		if os.MkdirAll(cache, 0o777) == nil {
			flags = append(flags, compilerFlag{"xla_gpu_per_fusion_autotune_cache_dir", cache})
		}
	}
	if data != "" { // otherwise LD_LIBRARY_PATH leads to a CUDA that is installed in the system
		toolkit := data
		if stat, err := os.Stat(filepath.Join(data, "cu13")); err == nil && stat.IsDir() {
			toolkit = filepath.Join(data, "cu13")
		}
		flags = append(flags, compilerFlag{"xla_gpu_cuda_data_dir", toolkit})
		loadLibraries(data)
	}
	setFlags(plugin, flags)
}

// loadLibraries loads the CUDA libraries in the folder data, so that XLA finds them later.
func loadLibraries(data string) {
	for _, name := range []string{"libcudart", "libnvrtc", "libcublasLt", "libcublas", "libnccl", "libcupti", "libnvJitLink", "libcusparse", "libcusolver", "libcufft", "libcudnn"} {
		// Glob fails only for malformed patterns.
		files, _ := filepath.Glob(filepath.Join(data, "*", "lib", name+".so.[0-9]*"))
		for _, f := range files {
			load(f)
		}
	}
}

// compilerFlag is one flag of the environment variable XLA_FLAGS.
type compilerFlag struct{ name, value string }

// compilerFlags holds the flags with which XLA compiles the fastest programs for vision
// transformers on a GPU. The file docs/benchmarks.md has the measurements on an H100.
var compilerFlags = []compilerFlag{
	// For the matrix sizes of vision transformers, cuBLASLt is faster than Triton. The trials with
	// Triton would take most of the compile time.
	{"xla_gpu_enable_triton_gemm", "false"},
	// Without this flag, XLA merges matrix products with the same input into one product and then
	// copies the parts of its result.
	{"xla_gpu_dot_merger_threshold_mb", "0"},
}

// setFlags adds flags to the environment variable XLA_FLAGS. It skips flags that the variable
// contains already. It also skips flags that the plug-in does not know, because an unknown flag
// ends the process.
func setFlags(plugin string, flags []compilerFlag) {
	library, _ := os.ReadFile(plugin) // a read error appears again when the plug-in starts
	text := os.Getenv("XLA_FLAGS")
	for _, f := range flags {
		// The name must be a complete C string, because names of removed flags remain as parts of
		// other strings.
		known := bytes.Contains(library, []byte("\x00"+f.name+"\x00"))
		if known && !strings.Contains(text, f.name) {
			text += " --" + f.name + "=" + f.value
		}
	}
	_ = os.Setenv("XLA_FLAGS", strings.TrimSpace(text))
}

// cudaData returns the folder with the CUDA libraries that the installer of JAX or GoMLX put next
// to the plug-in. It returns "" if there is no such folder.
func cudaData(plugin string) string {
	// The first candidate is the folder of JAX. GoMLX uses the second or the third.
	for _, candidate := range []string{"../../nvidia", "../nvidia", "."} {
		path := filepath.Join(filepath.Dir(plugin), candidate)
		// Glob fails only for malformed patterns.
		libraries, _ := filepath.Glob(filepath.Join(path, "*", "lib", "libcudart.so.*"))
		if len(libraries) > 0 {
			return path
		}
	}
	return ""
}

// load loads a shared library and never unloads it. It ignores failures, because the plug-in
// reports a missing library when it needs the library.
func load(path string) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	C.dlopen(name, C.RTLD_NOW|C.RTLD_GLOBAL)
}

// setIfUnset sets an environment variable that is not set yet.
func setIfUnset(name, value string) {
	if _, ok := os.LookupEnv(name); !ok {
		_ = os.Setenv(name, value)
	}
}

// isDevice reports whether be runs on a PJRT plug-in. A plug-in for CPUs counts as a device: it has
// no separate memory, but its programs run while the host continues.
func isDevice(be Backend) bool {
	_, ok := be.(*xla.Backend)
	return ok
}

// brief wraps an error and hides the stack trace that pkg/errors prints for %+v. errors.Is and
// errors.As still find the wrapped error.
type brief struct{ error }

func (b brief) Error() string { return b.error.Error() }
func (b brief) Unwrap() error { return b.error }
