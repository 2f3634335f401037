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
	xla.EnableAutoInstall(false) // do not download plug-ins
}

// xlaBuilt returns nil: this program can use GPUs.
func xlaBuilt() error { return nil }

// openPlugin starts count devices of the plug-in in a file, from device n on.
func openPlugin(path string, n, count int) (Backend, error) {
	// go-xla takes a relative path for a name and installs a plug-in
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if strings.Contains(path, ",") {
		return nil, fmt.Errorf("the path of the PJRT plug-in must have no comma, because go-xla reads options after a comma: got %s; move the plug-in", path)
	}
	config := path
	cuda := pjrt.IsCUDAName(path)
	if cuda {
		// Products of float32 numbers are computed in float32, not in TF32. Only the given GPUs are
		// visible, and the first of them is device 0. The plug-in allocates memory when it is
		// needed.
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

// startPlugin starts the client that config describes. go-xla panics if a plug-in does not load;
// the panic becomes an error.
func startPlugin(config string) (be *xla.Backend, err error) {
	// As in JAX, the plug-in writes warnings and errors to standard error, and no information.
	setIfUnset("TF_CPP_MIN_LOG_LEVEL", "1")
	if caught := exceptions.TryCatch[error](func() { be, err = xla.NewWithOptions(config, nil) }); caught != nil {
		err = caught
	}
	return be, err
}

// prepareCUDA does what JAX does before it loads the plug-in. It loads NVIDIA's libraries from
// their Python packages, so that the plug-in finds these libraries, and sets the folder of ptxas
// and libdevice.
func prepareCUDA(plugin string) {
	data := cudaData(plugin)
	// Without this, go-xla warns if the libraries are not beside the folder of the plug-in.
	setIfUnset("GOPJRT_CUDA_CHECKS", "0")
	flags := slices.Clone(compilerFlags)
	// Keep the fastest configurations that the compiler finds. The compiler can also keep the
	// compiled kernels, but programs with these kernels crash with plug-in 0.11.2.
	if cache, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(cache, "spt", "xla")
		if os.MkdirAll(cache, 0o777) == nil {
			flags = append(flags, compilerFlag{"xla_gpu_per_fusion_autotune_cache_dir", cache})
		}
	}
	if data != "" { // otherwise CUDA is installed in the system and found by LD_LIBRARY_PATH
		toolkit := data
		if stat, err := os.Stat(filepath.Join(data, "cu13")); err == nil && stat.IsDir() {
			toolkit = filepath.Join(data, "cu13")
		}
		flags = append(flags, compilerFlag{"xla_gpu_cuda_data_dir", toolkit})
		loadLibraries(data)
	}
	setFlags(plugin, flags)
}

// loadLibraries loads the CUDA libraries that XLA looks for when it needs them.
func loadLibraries(data string) {
	for _, name := range []string{"libcudart", "libnvrtc", "libcublasLt", "libcublas", "libnccl", "libcupti", "libnvJitLink", "libcusparse", "libcusolver", "libcufft", "libcudnn"} {
		// returns errors for malformed patterns only
		files, _ := filepath.Glob(filepath.Join(data, "*", "lib", name+".so.[0-9]*"))
		for _, f := range files {
			load(f)
		}
	}
}

// compilerFlag is one flag of the variable XLA_FLAGS.
type compilerFlag struct{ name, value string }

// compilerFlags are the flags with which XLA's compiler is fast for vision transformers on a GPU.
// The measurements on an H100 are in docs/benchmarks.md.
var compilerFlags = []compilerFlag{
	// At these sizes, products by cuBLASLt are faster than products by Triton, and trying Triton
	// takes most of the compile time.
	{"xla_gpu_enable_triton_gemm", "false"},
	// Without this flag, products of the same input are merged into one product, whose parts must
	// be copied.
	{"xla_gpu_dot_merger_threshold_mb", "0"},
}

// setFlags adds flags to the variable XLA_FLAGS. It leaves out flags that the variable has already,
// and flags that the plug-in does not know, because an unknown flag ends the process.
func setFlags(plugin string, flags []compilerFlag) {
	library, _ := os.ReadFile(plugin) // starting the plug-in returns the error
	text := os.Getenv("XLA_FLAGS")
	for _, f := range flags {
		// The name must be a complete string: names of removed flags are still parts of other
		// strings.
		known := bytes.Contains(library, []byte("\x00"+f.name+"\x00"))
		if known && !strings.Contains(text, f.name) {
			text += " --" + f.name + "=" + f.value
		}
	}
	_ = os.Setenv("XLA_FLAGS", strings.TrimSpace(text))
}

// cudaData returns the folder with the CUDA libraries of a plug-in, or "" if the folder is not
// where the installers of JAX and GoMLX put it.
func cudaData(plugin string) string {
	// JAX; GoMLX, beside the folder of the plug-in or in it
	for _, candidate := range []string{"../../nvidia", "../nvidia", "."} {
		path := filepath.Join(filepath.Dir(plugin), candidate)
		// returns errors for malformed patterns only
		libraries, _ := filepath.Glob(filepath.Join(path, "*", "lib", "libcudart.so.*"))
		if len(libraries) > 0 {
			return path
		}
	}
	return ""
}

// load loads a shared library until the process ends. It ignores failures: the plug-in reports a
// missing library if it needs the library.
func load(path string) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	C.dlopen(name, C.RTLD_NOW|C.RTLD_GLOBAL)
}

// setIfUnset sets an environment variable unless it is set.
func setIfUnset(name, value string) {
	if _, ok := os.LookupEnv(name); !ok {
		_ = os.Setenv(name, value)
	}
}

// isDevice reports whether a plug-in runs be. Plug-ins for CPUs have no separate memory, but they
// too run while the host continues.
func isDevice(be Backend) bool {
	_, ok := be.(*xla.Backend)
	return ok
}

// brief is an error without the stack trace that pkg/errors adds to %+v. It keeps the chain for
// errors.Is.
type brief struct{ error }

func (b brief) Error() string { return b.error.Error() }
func (b brief) Unwrap() error { return b.error }
