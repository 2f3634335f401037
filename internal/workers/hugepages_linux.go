package workers

import (
	"syscall"
	"unsafe"
)

// hugePage is the size of a huge page in bytes on systems with one size of huge pages. On other
// systems it is not exact.
const hugePage = 2 << 20

// huge asks for huge pages for the part of p that complete huge pages cover. With pages of 4 KiB, a
// tensor of one megabyte needs some 300 entries of the TLB, and on a virtual machine every missing
// entry costs a walk through two page tables. Systems with the setting "never" ignore the request.
func huge(p []float32) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	skip := -start & (hugePage - 1)
	if n := 4 * uintptr(len(p)); n >= skip+hugePage {
		whole := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), skip)), (n-skip)&^(hugePage-1))
		// without huge pages, results are the same
		_ = syscall.Madvise(whole, syscall.MADV_HUGEPAGE)
	}
}
