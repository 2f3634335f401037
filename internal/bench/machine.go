package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/measure"
)

func thisMachine() machine {
	return machine{CPU: field("/proc/cpuinfo", "model name"), Arch: runtime.GOARCH, Threads: runtime.GOMAXPROCS(0), Kernel: measure.Kernel()}
}

// peakRSS returns the most memory that was resident since resetPeakRSS, in bytes. It returns 0
// where there is no /proc.
func peakRSS() float64 {
	text := strings.TrimSuffix(field("/proc/self/status", "VmHWM"), " kB") // KiB, see proc(5)
	kib, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return 1024 * kib
}

// resetPeakRSS resets the kernel's peak, see proc(5). Where this fails, the peak counts from the
// start of the process.
func resetPeakRSS() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// field returns the value of the first "name : value" line of a file, or an empty string if there
// is none.
func field(file, name string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
