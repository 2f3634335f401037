//go:build linux || darwin || freebsd

package hub

import "syscall"

// mkfifo creates a named pipe.
func mkfifo(path string) error { return syscall.Mkfifo(path, 0o666) }
