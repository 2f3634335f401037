package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/measure"
)

// thisMachine describes the machine on which the program runs. bf16 reports that the program
// computes in bf16.
func thisMachine(bf16 bool) machine {
	return machine{CPU: field("/proc/cpuinfo", "model name"), Arch: runtime.GOARCH, Threads: runtime.GOMAXPROCS(0), Kernel: measure.Kernel(bf16)}
}

// peakRSS returns the greatest resident memory of the process since resetPeakRSS, in bytes. It
// returns 0 if the system has no /proc.
func peakRSS() float64 {
	text := strings.TrimSuffix(field("/proc/self/status", "VmHWM"), " kB") // KiB, see proc(5)
	kib, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return 1024 * kib
}

// resetPeakRSS resets the peak that Linux records, see proc(5). If this fails, peakRSS returns the
// peak since the start of the process.
func resetPeakRSS() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// field returns the value in the first line of the form "name : value" in a file. It returns an
// empty string if there is no such line.
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
