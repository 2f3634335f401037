// Package cputime tells the processor time that the process has used. Unlike the time that has
// passed, it hardly depends on other programs.
package cputime

import "time"

// Process returns the processor time that all threads of the process have used. Systems other than
// Linux do not tell it, so there Process returns the time that has passed.
func Process() (time.Duration, error) { return process() }

// Used returns the result of [Process] to a benchmark, b, and ends the benchmark after an error.
func Used(b interface {
	Helper()
	Fatal(args ...any)
}) time.Duration {
	b.Helper()
	t, err := process()
	if err != nil {
		b.Fatal(err)
	}
	return t
}
