package measure

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// AvailableMemory returns the number of bytes of memory that the process can still take without
// swapping: what the system has, within the limit of the control group of a container. It returns
// math.MaxInt64 if the system does not say, as on systems other than Linux.
func AvailableMemory() int64 { return availableMemory("/proc/meminfo", "/sys/fs/cgroup") }

// availableMemory implements AvailableMemory. meminfo is the path of proc_meminfo(5), and group is
// the folder of a control group, version 2.
func availableMemory(meminfo, group string) int64 {
	free := int64(math.MaxInt64)
	if kib, ok := number(meminfo, "MemAvailable:"); ok {
		free = kib << 10
	}
	limit, limited := number(filepath.Join(group, "memory.max"), "")
	used, known := number(filepath.Join(group, "memory.current"), "")
	if limited && known {
		// The group also counts the cache of files, which the system gives up when it needs memory.
		cached, _ := number(filepath.Join(group, "memory.stat"), "inactive_file")
		free = min(free, max(0, limit-used+cached))
	}
	return free
}

// number returns the number after the word key at the start of a line of a file. An empty key means
// the number with which the file begins. ok is false if there is no such number, such as in a file
// that says "max".
func number(file, key string) (n int64, ok bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if key != "" && len(words) > 0 && words[0] == key {
			words = words[1:]
		} else if key != "" {
			continue
		}
		if len(words) > 0 {
			n, err := strconv.ParseInt(words[0], 10, 64)
			return n, err == nil && n >= 0 && n <= math.MaxInt64>>10
		}
	}
	return 0, false
}
