package measure

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAvailableIn checks the limits of cgroups, in folders like /proc and /sys.
func TestAvailableIn(t *testing.T) {
	const status, meminfo = "VmHWM:\t  9999 kB\nVmRSS:\t  1024 kB\n", "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:   4096 kB\n"
	for name, test := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no cgroup": {nil, 5 << 20},
		"version 2": {map[string]string{
			"proc/self/cgroup":                   "0::/slice/job\n",
			"sys/fs/cgroup/slice/job/memory.max": "3145728\n", "sys/fs/cgroup/slice/job/memory.current": "2097152\n",
			"sys/fs/cgroup/slice/job/memory.stat": "anon 5\ninactive_file 1048576\n",
		}, 1<<20 + 2<<20},
		"limit of the parent": {map[string]string{
			"proc/self/cgroup":                   "0::/slice/job\n",
			"sys/fs/cgroup/slice/job/memory.max": "max\n", "sys/fs/cgroup/slice/job/memory.current": "2097152\n",
			"sys/fs/cgroup/slice/memory.max": "3145728\n", "sys/fs/cgroup/slice/memory.current": "2097152\n",
		}, 2 << 20},
		"version 1": {map[string]string{
			"proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/docker/a\n",
			"sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "3145728\n", "sys/fs/cgroup/memory/docker/a/memory.usage_in_bytes": "1048576\n",
		}, 3 << 20},
		"version 1 without a limit": {map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1048576\n",
		}, 5 << 20},
		"group seen as the root": {map[string]string{
			"proc/self/cgroup":         "0::/../../job\n",
			"sys/fs/cgroup/memory.max": "3145728\n", "sys/fs/cgroup/memory.current": "1048576\n",
		}, 3 << 20},
		"above the limit": {map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "1048576\n", "sys/fs/cgroup/memory.current": "2097152\n",
		}, 1 << 20},
		"broken files": {map[string]string{
			"proc/self/cgroup":         "0::\nnothing\n0::/a:b\n",
			"sys/fs/cgroup/memory.max": "-1\n", "sys/fs/cgroup/memory.current": "x\n",
		}, 5 << 20},
	} {
		root := t.TempDir()
		write := func(path, text string) {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		write("proc/self/status", status)
		write("proc/meminfo", meminfo)
		for path, text := range test.files {
			write(path, text)
		}
		if got, known := availableIn(root); got != test.want || !known {
			t.Errorf("%s: %d, %v, want %d", name, got, known, test.want)
		}
	}
	if got, known := availableIn(t.TempDir()); got != 0 || known {
		t.Errorf("without /proc: %d, %v, want none", got, known)
	}
	if got, known := Available(); !known || got < 16<<20 {
		t.Errorf("this process may have %d bytes, known: %v", got, known)
	}
}
