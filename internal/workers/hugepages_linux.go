package workers

import (
	"syscall"
	"unsafe"
)

// hugePage is the size of a huge page in bytes on the systems that have one size
// only; elsewhere it asks for more or less than what fits.
const hugePage = 2 << 20

// huge asks for huge pages under all of p that whole ones cover. With pages of
// 4 KiB, a tensor of a megabyte takes some 300 entries of the processor's table
// of translated addresses, and on a virtual machine each that is missing costs a
// walk through two page tables. Systems set to "never" ignore it.
func huge(p []float32) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	skip := -start & (hugePage - 1)
	if n := 4 * uintptr(len(p)); n >= skip+hugePage {
		whole := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), skip)), (n-skip)&^(hugePage-1))
		_ = syscall.Madvise(whole, syscall.MADV_HUGEPAGE) // advice: without it all is as right
	}
}
