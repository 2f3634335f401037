package depthwise

import "unsafe"

// available lists the kernels. Every arm64 processor has NEON. A block has 16 channels, as in Go.
var available = []kernel{portableKernel, {neon, "neon", portableLanes, [2]int{14, 14}, [2]int{14, 14}}}

// columnsNEON is the number of neighbouring pixels that fourNEON computes at the same time.
const columnsNEON = 4

// fourNEON computes four neighbouring pixels of one row of a tile. The arguments are as in the type
// tile; run is the number of taps for each offset, and taps and run are not 0.
//
//go:noescape
func fourNEON(dst unsafe.Pointer, dstCol int, src, kernel, offsets unsafe.Pointer, taps, run int, add bool)

// oneNEON computes one pixel, as fourNEON.
//
//go:noescape
func oneNEON(dst, src, kernel, offsets unsafe.Pointer, taps, run int, add bool)

// tileNEON is the micro-kernel for NEON. run is the number of taps for each offset.
func tileNEON(t *tile, run int) {
	const block = 4 * portableLanes
	for i := range t.rows {
		j := 0
		for ; j+columnsNEON <= t.cols; j += columnsNEON {
			fourNEON(unsafe.Add(t.dst, i*t.dstRow+j*t.dstCol), t.dstCol, unsafe.Add(t.src, i*t.pitch+j*block), t.kernel, t.offsets, t.taps, run, t.add != 0)
		}
		for ; j < t.cols; j++ {
			oneNEON(unsafe.Add(t.dst, i*t.dstRow+j*t.dstCol), unsafe.Add(t.src, i*t.pitch+j*block), t.kernel, t.offsets, t.taps, run, t.add != 0)
		}
	}
}

// tile computes a tile with single taps.
func (kn *kernel) tile(t *tile) {
	if kn.isa == neon {
		tileNEON(t, 1)
		return
	}
	tilePortable(t, 1)
}

// runs computes a tile with runs of taps.
func (kn *kernel) runs(t *tile) {
	if kn.isa == neon {
		tileNEON(t, run)
		return
	}
	tilePortable(t, run)
}

func (*kernel) gather(dst *float32, dstStep int, src *float32, srcStep, channels, n int) {
	gatherPortable(dst, dstStep, src, srcStep, channels, n)
}
