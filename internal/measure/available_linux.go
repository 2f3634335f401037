package measure

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

func available() (int64, bool) { return availableIn("/") }

// availableIn is Available for the files /proc and /sys below root.
func availableIn(root string) (int64, bool) {
	own := kilobytes(filepath.Join(root, "proc/self/status"), "VmRSS")
	free := kilobytes(filepath.Join(root, "proc/meminfo"), "MemAvailable")
	if free < 0 {
		return 0, false
	}
	for _, group := range cgroups(root) {
		limit, used := number(filepath.Join(group.folder, group.limit)), number(filepath.Join(group.folder, group.usage))
		if limit < 0 || used < 0 {
			continue
		}
		// The kernel gives back the pages of files that were not read lately.
		used -= max(0, statistic(filepath.Join(group.folder, "memory.stat"), group.reclaimable))
		free = min(free, max(0, limit-used))
	}
	return max(0, own) + free, true
}

// cgroup names the files of a control group with a memory controller.
type cgroup struct{ folder, limit, usage, reclaimable string }

// cgroups returns the control groups of the process, and those that contain them. The limit of each
// of them holds. A container may see its own group as the root.
func cgroups(root string) (groups []cgroup) {
	data, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(parts) != 3 {
			continue
		}
		form := cgroup{filepath.Join(root, "sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"}
		switch {
		case parts[1] == "": // version 2
		case strings.Contains(","+parts[1]+",", ",memory,"):
			form = cgroup{filepath.Join(root, "sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
		default:
			continue
		}
		for at := path.Clean("/" + parts[2]); ; at = path.Dir(at) {
			group := form
			group.folder = filepath.Join(form.folder, filepath.FromSlash(at))
			groups = append(groups, group)
			if at == "/" {
				break
			}
		}
	}
	return groups
}

// kilobytes returns the value of a line such as "VmRSS: 123 kB", in bytes. It returns -1 if there
// is no such line.
func kilobytes(file, name string) int64 {
	n := statistic(file, name+":")
	if n < 0 {
		return -1
	}
	return n << 10
}

// statistic returns the number after a name at the beginning of a line. It returns -1 if there is
// no such line.
func statistic(file, name string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == name {
			return parse(fields[1])
		}
	}
	return -1
}

// number returns the number in a file. It returns -1 for another text, such as "max".
func number(file string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	return parse(strings.TrimSpace(string(data)))
}

// parse returns the number in a text. It returns -1 for another text, and for numbers that stand
// for no limit.
func parse(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>1 {
		return -1
	}
	return n
}
