package vector

import (
	"syscall"
	"testing"
	"unsafe"
)

// guarded returns n numbers at the end of a page. The next page is not readable, so a read or write
// beyond the end crashes the test.
func guarded(t testing.TB, n int) []float32 {
	page := syscall.Getpagesize()
	size := (4*n + page - 1) / page * page
	memory, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(memory) })
	if err := syscall.Mprotect(memory[size:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	all := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(memory))), size/4)
	return all[len(all)-n:]
}
