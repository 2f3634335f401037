//go:build !linux

package workers

// huge does nothing, because only Linux has madvise with MADV_HUGEPAGE.
func huge([]float32) {}
