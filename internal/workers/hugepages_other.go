//go:build !linux

package workers

// huge is for Linux, where a program has to ask for huge pages.
func huge([]float32) {}
