package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lease takes a lease on the file at path: until the lease ends, every process that opens the file
// waits. waiting reports whether a process waits. The lease ends when f is closed. The error is
// [unix.EAGAIN] while another process has the file open.
func lease(path string) (f *os.File, waiting func() bool, err error) {
	if f, err = os.Open(path); err != nil {
		return nil, nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("taking a lease on %s: %w", path, err)
	}
	return f, func() bool {
		kind, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
		return err == nil && kind != unix.F_WRLCK
	}, nil
}

// processorTime returns the seconds of processor time that a process has used.
func processorTime(pid int) float64 {
	// a process that has ended has no file
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // the kernel counts in hundredths of a second
}

// hasOpen reports whether a process has opened a file whose path matches pattern.
func hasOpen(pid int, pattern *regexp.Regexp) bool {
	open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, name := range open {
		if path, err := os.Readlink(name); err == nil && pattern.MatchString(path) {
			return true
		}
	}
	return false
}

// readsFolder reports whether a process waits for the names of the files in a folder.
func readsFolder(pid int, folder string) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, name := range threads {
		text, _ := os.ReadFile(name) // the number of the system call and its arguments
		var call, fd int
		if n, _ := fmt.Sscanf(string(text), "%d 0x%x", &call, &fd); n == 2 && call == unix.SYS_GETDENTS64 {
			path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
			return path == folder
		}
	}
	return false
}

// unread returns the number of bytes in a pipe.
func unread(pipe *os.File) int {
	n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
	if err != nil {
		return -1
	}
	return n
}
