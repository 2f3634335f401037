package depthwise

import "unsafe"

// isa is the instruction set of a micro-kernel.
type isa int

const (
	portable isa = iota
	neon
	avx2
	avx512
)

// kernel describes the micro-kernels for one instruction set.
type kernel struct {
	isa     isa
	name    string
	lanes   int    // number of channels of a block
	cols    [2]int // largest number of columns of a tile with one row, and with two rows
	runCols [2]int // the same for a tile with runs of taps; 0: there is no such tile
}

// run is the number of taps in a run. A run is a group of neighbouring taps that the micro-kernel
// processes in one step.
const run = 7

// active is the kernel in use: the fastest kernel of this processor. Tests change it.
var active = &available[len(available)-1]

// tile is the argument of the micro-kernels. It describes rows × cols pixels (i,j) of one block of
// channels. The micro-kernel tile computes
//
//	dst[i,j] = Σ over taps t of src[offsets[t] + i·pitch + j] · kernel[t]
//
// In the micro-kernel runs, an offset stands for a run of neighbouring taps that read neighbouring
// pixels. It computes
//
//	dst[i,j] = Σ over runs t and taps k < run:
//	           src[offsets[t] + i·pitch + j + k] · kernel[t·run + k]
//
// If add is not 0, the sums are added to dst. Offsets, pitch and the steps of dst are in bytes.
// Neighbouring pixels of src and neighbouring taps of kernel are one block apart.
type tile struct {
	src, kernel, dst unsafe.Pointer
	offsets          unsafe.Pointer // one int for each tap, or for each run
	taps             int            // number of taps, or of runs; at least 1
	rows, cols       int            // rows: 1 or 2; cols: 1 to the largest number of the kernel
	pitch            int            // distance from row to row of src
	dstRow, dstCol   int            // distances from row to row and from column to column of dst
	add              int            // not 0: the sums are added to dst
}

// portableLanes is the number of channels in a block of the kernel in Go.
const portableLanes = 16

var portableKernel = kernel{portable, "portable", portableLanes, [2]int{14, 14}, [2]int{14, 14}}

// tilePortable is the micro-kernel in Go. run is the number of taps for each offset: 1 for single
// taps.
func tilePortable(t *tile, run int) {
	offsets := unsafe.Slice((*int)(t.offsets), t.taps)
	for i := range t.rows {
		for j := range t.cols {
			dst := (*[portableLanes]float32)(unsafe.Add(t.dst, i*t.dstRow+j*t.dstCol))
			for half := 0; half < portableLanes; half += 8 {
				addHalf((*[8]float32)(dst[half:]), unsafe.Add(t.src, i*t.pitch+4*portableLanes*j+4*half), unsafe.Add(t.kernel, 4*half), offsets, run, t.add != 0)
			}
		}
	}
}

// addHalf computes eight channels of one pixel. Eight sums fit the registers of every processor.
func addHalf(dst *[8]float32, src, kernel unsafe.Pointer, offsets []int, run int, add bool) {
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	if add {
		s0, s1, s2, s3, s4, s5, s6, s7 = dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], dst[6], dst[7]
	}
	for tap, offset := range offsets {
		for r := range run {
			x := (*[8]float32)(unsafe.Add(src, offset+4*portableLanes*r))
			k := (*[8]float32)(unsafe.Add(kernel, 4*portableLanes*(tap*run+r)))
			s0 += x[0] * k[0]
			s1 += x[1] * k[1]
			s2 += x[2] * k[2]
			s3 += x[3] * k[3]
			s4 += x[4] * k[4]
			s5 += x[5] * k[5]
			s6 += x[6] * k[6]
			s7 += x[7] * k[7]
		}
	}
	*dst = [8]float32{s0, s1, s2, s3, s4, s5, s6, s7}
}

// gatherPortable copies n pixels to blocks. A pixel has 1 to portableLanes channels, and the other
// lanes of its block become zeros. Steps are in bytes.
func gatherPortable(dst *float32, dstStep int, src *float32, srcStep, channels, n int) {
	for i := range n {
		d := (*[portableLanes]float32)(unsafe.Add(unsafe.Pointer(dst), i*dstStep))
		clear(d[copy(d[:], unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(src), i*srcStep)), channels)):])
	}
}
