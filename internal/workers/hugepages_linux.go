package workers

import (
	"syscall"
	"unsafe"
)

// hugePage is the usual size of a huge page in bytes. Some systems have huge pages of another size.
const hugePage = 2 << 20

// huge asks Linux to use huge pages for the part of p that consists of complete huge pages. With
// pages of 4 KiB, a tensor of one megabyte needs about 300 entries of the TLB. On a virtual
// machine, every TLB miss reads two page tables. A system with the setting "never" ignores the
// request.
func huge(p []float32) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	skip := -start & (hugePage - 1)
	if n := 4 * uintptr(len(p)); n >= skip+hugePage {
		whole := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), skip)), (n-skip)&^(hugePage-1))
		// The results are the same without huge pages.
		_ = syscall.Madvise(whole, syscall.MADV_HUGEPAGE)
	}
}
