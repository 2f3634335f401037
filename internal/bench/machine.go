package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/measure"
)

func thisMachine() Machine {
	return Machine{CPU: field("/proc/cpuinfo", "model name"), Arch: runtime.GOARCH, Threads: runtime.GOMAXPROCS(0), Kernel: measure.Kernel()}
}

// peakRSS is the most memory that was resident since resetPeakRSS, in bytes; 0
// where there is no /proc.
func peakRSS() float64 {
	text := strings.TrimSuffix(field("/proc/self/status", "VmHWM"), " kB") // KiB, see proc(5)
	kib, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return 1024 * kib
}

// resetPeakRSS makes the kernel count anew, see proc(5). Where it cannot, the
// peak is that of the process from its start.
func resetPeakRSS() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// field is the first value of a "name : value" line of a file; empty if there
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
