//go:build xla && linux

package backend

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

// While standard error is hidden a plug-in may abort the process, as XLA does at a flag
// that it does not know: then what was hidden is shown before the process ends.
static int kept, shown;
static struct sigaction before;

static void showKept(int signal) {
	char text[4096];
	ssize_t n;
	off_t at = 0;
	while ((n = pread(kept, text, sizeof text, at)) > 0 && write(shown, text, n) == n)
		at += n;
	_exit(128 + signal);
}

static void onAbort(int keptFD, int shownFD) {
	struct sigaction action = {.sa_handler = showKept, .sa_flags = SA_ONSTACK};
	kept = keptFD;
	shown = shownFD;
	sigaction(SIGABRT, &action, &before);
}

static void offAbort(void) { sigaction(SIGABRT, &before, NULL); }
*/
import "C"

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
	"github.com/gomlx/gomlx/support/exceptions"
	"golang.org/x/sys/unix"
)

func init() {
	xla.EnableAutoInstall(false) // nothing is downloaded without being asked
}

// xlaBuilt says why this program cannot drive GPUs: it can.
func xlaBuilt() error { return nil }

// openPlugin starts count devices, from number n on, of the plug-in in a file.
func openPlugin(path string, n, count int) (Backend, error) {
	path, err := filepath.Abs(path) // else go-xla looks for a name, and installs
	if err != nil {
		return nil, err
	}
	if strings.Contains(path, ",") {
		return nil, fmt.Errorf("the path of the PJRT plug-in, %s, has a comma, which go-xla takes for the start of options; move it", path)
	}
	config := path
	cuda := pjrt.IsCUDAName(path)
	if cuda {
		// float32 means float32; bfloat16 is what is fast. Only these GPUs are made
		// visible, the first of which then is device 0. Memory is taken as it is needed.
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

// memoryOf is what a compiled program takes on its device while it runs, in bytes, by
// the compiler's own count; 0 where that cannot be had. go-xla has the count and shows
// it to its log alone.
func memoryOf(program compute.Executable) int64 {
	x, ok := program.(*xla.Executable)
	if !ok {
		return 0
	}
	loaded, ok := reflect.TypeFor[xla.Executable]().FieldByName("exec")
	if !ok || loaded.Type != reflect.TypeFor[*pjrt.LoadedExecutable]() {
		return 0
	}
	s := (*(**pjrt.LoadedExecutable)(unsafe.Add(unsafe.Pointer(x), loaded.Offset))).OnDeviceMemoryUsageStats
	return s.Inputs + s.Outputs - s.Aliases + s.Temporary
}

// startPlugin starts the client that config describes, and keeps what C++ writes to
// standard error before its logging is set up for the error, if there is one. A plug-in
// that fails to load makes go-xla panic.
func startPlugin(config string) (be *xla.Backend, err error) {
	said := quietly()
	if caught := exceptions.TryCatch[error](func() { be, err = xla.NewWithOptions(config, nil) }); caught != nil {
		err = caught
	}
	if text := said(); err != nil && text != "" {
		err = fmt.Errorf("%w; it wrote: %s", err, text)
	}
	return be, err
}

// prepareCUDA does what JAX does before it loads the plug-in: it loads NVIDIA's
// libraries from their Python packages, so that the plug-in's later look-ups find
// these, and says where ptxas and libdevice are.
func prepareCUDA(plugin string) {
	data := cudaData(plugin)
	// go-xla looks for the libraries beside the plug-in's folder alone and warns.
	setIfUnset("GOPJRT_CUDA_CHECKS", "0")
	flags := slices.Clone(compilerFlags)
	// What the compiler found fastest is kept. (Not the kernels that it made, which it
	// could keep too: programs built from that file crashed, with plug-in 0.11.2.)
	if cache, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(cache, "spt", "xla")
		if os.MkdirAll(cache, 0o777) == nil {
			flags = append(flags, compilerFlag{"xla_gpu_per_fusion_autotune_cache_dir", cache})
		}
	}
	if data != "" { // else the system's CUDA, by LD_LIBRARY_PATH
		toolkit := data
		if stat, err := os.Stat(filepath.Join(data, "cu13")); err == nil && stat.IsDir() {
			toolkit = filepath.Join(data, "cu13")
		}
		flags = append(flags, compilerFlag{"xla_gpu_cuda_data_dir", toolkit})
		loadLibraries(data)
	}
	setFlags(plugin, flags)
}

// loadLibraries loads those that XLA looks for when it needs them.
func loadLibraries(data string) {
	for _, name := range []string{"libcudart", "libnvrtc", "libcublasLt", "libcublas", "libnccl", "libcupti", "libnvJitLink", "libcusparse", "libcusolver", "libcufft", "libcudnn"} {
		files, _ := filepath.Glob(filepath.Join(data, "*", "lib", name+".so.[0-9]*")) // errs for malformed patterns only
		for _, f := range files {
			load(f)
		}
	}
}

// compilerFlag is one of XLA_FLAGS.
type compilerFlag struct{ name, value string }

// compilerFlags are those that make XLA's compiler fit vision transformers on a GPU.
// Measured on an H100: see docs/benchmarks.md.
var compilerFlags = []compilerFlag{
	// cuBLASLt's products are faster than Triton's at these sizes, and trying Triton's
	// takes most of the time to compile.
	{"xla_gpu_enable_triton_gemm", "false"},
	// Products of the same input are otherwise made one, whose parts have then to be
	// copied out.
	{"xla_gpu_dot_merger_threshold_mb", "0"},
}

// setFlags adds to XLA_FLAGS those flags that it lacks and that the plug-in knows: one
// that it does not know would end the process.
func setFlags(plugin string, flags []compilerFlag) {
	text := os.Getenv("XLA_FLAGS")
	known := contained(plugin, flags)
	for i, f := range flags {
		if known[i] && !strings.Contains(text, f.name) {
			text += " --" + f.name + "=" + f.value
		}
	}
	_ = os.Setenv("XLA_FLAGS", strings.TrimSpace(text))
}

// contained reports which flags' names a file holds as strings.
func contained(path string, flags []compilerFlag) []bool {
	out := make([]bool, len(flags))
	f, err := os.Open(path)
	if err != nil {
		return out // starting the plug-in will say so
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil || stat.Size() == 0 {
		return out
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(stat.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return out
	}
	defer func() { _ = unix.Munmap(data) }()
	for i, flag := range flags {
		// As a string by itself: the names of flags that were taken away live on within
		// others.
		out[i] = bytes.Contains(data, []byte("\x00"+flag.name+"\x00"))
	}
	return out
}

// cudaData is the folder with the CUDA libraries that belong to a plug-in, "" if
// it is not where JAX's or GoMLX's installers put it.
func cudaData(plugin string) string {
	for _, candidate := range []string{"../../nvidia", "../nvidia", "."} { // JAX; GoMLX, beside the plug-in or around it
		path := filepath.Join(filepath.Dir(plugin), candidate)
		libraries, _ := filepath.Glob(filepath.Join(path, "*", "lib", "libcudart.so.*")) // errs for malformed patterns only
		if len(libraries) > 0 {
			return path
		}
	}
	return ""
}

// load loads a shared library for the rest of the process. One that fails is
// left to the plug-in, which names it if it needs it.
func load(path string) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	C.dlopen(name, C.RTLD_NOW|C.RTLD_GLOBAL)
}

func setIfUnset(name, value string) {
	if _, ok := os.LookupEnv(name); !ok {
		_ = os.Setenv(name, value)
	}
}

// isDevice: all plug-ins but those for CPUs have memory of their own. One for CPUs
// is treated alike, because it too runs while the host goes on.
func isDevice(be Backend) bool {
	_, ok := be.(*xla.Backend)
	return ok
}

// quietly hides what is written to standard error, until the function that it returns
// is called, which says what it was: the end of it, of at most [mostSaid] bytes.
func quietly() (said func() string) {
	nothing := func() string { return "" }
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return nothing
	}
	kept := os.NewFile(uintptr(fd), "stderr")
	const stderr = 2
	saved, err := unix.Dup(stderr)
	if err != nil || unix.Dup3(fd, stderr, 0) != nil {
		_ = kept.Close()
		return nothing
	}
	C.onAbort(C.int(fd), C.int(saved))
	return func() string {
		C.offAbort()
		_ = unix.Dup3(saved, stderr, 0)
		_ = unix.Close(saved)
		defer kept.Close()
		size, err := kept.Seek(0, io.SeekEnd)
		if err != nil {
			return ""
		}
		text := make([]byte, min(size, mostSaid))
		n, err := kept.ReadAt(text, size-int64(len(text)))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text[:n]))
	}
}

// mostSaid bounds what of a plug-in's standard error an error repeats.
const mostSaid = 2000
