//go:build !(linux || darwin || freebsd)

package hub

import "errors"

// mkfifo returns an error, because this system has no named pipes in folders.
func mkfifo(string) error { return errors.ErrUnsupported }
