package measure

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestAvailableMemory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	meminfo := filepath.Join(dir, "meminfo")
	want := func(what string, n int64) {
		t.Helper()
		if got := availableMemory(meminfo, dir); got != n {
			t.Errorf("%s: %d bytes are available, want %d", what, got, n)
		}
	}
	want("no files", math.MaxInt64)
	write("meminfo", "MemTotal:       24684084 kB\nMemFree:        100 kB\nMemAvailable:   20000 kB\n")
	want("no control group", 20000<<10)
	write("memory.max", "max\n")
	write("memory.current", "5000000\n")
	want("a control group without a limit", 20000<<10)
	write("memory.max", "9000000\n")
	want("a limit", 4000000)
	write("memory.stat", "anon 1\ninactive_file 1000000\n")
	want("a limit, with a cache of files", 5000000)
	write("memory.current", "99000000\n")
	want("a limit that is exceeded", 0)
	write("memory.max", "-3\n")
	write("meminfo", "MemAvailable: many kB\nMemAvailable: 9 kB\n")
	want("broken files", math.MaxInt64)
	if n := AvailableMemory(); n <= 0 {
		t.Errorf("this machine has %d bytes available", n)
	}
}
