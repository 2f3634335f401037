package depthwise

import "unsafe"

type isa int

const (
	portable isa = iota
	avx2
	avx512
)

// kernel is the code for one instruction set.
type kernel struct {
	isa     isa
	name    string
	lanes   int    // channels of a block
	cols    [2]int // largest number of columns of a tile of one row, and of two rows
	runCols [2]int // the same for a tile with runs of taps; 0: there is no such tile
}

// run is the number of taps in a run.
const run = 7

// active is the best kernel of this machine. Tests change it.
var active = &available[len(available)-1]

// tile is the argument of the micro-kernels. For rows × cols pixels (i,j) of one block of channels,
// the micro-kernel tile computes
//
//	dst[i,j] = Σ over taps t of src[offsets[t] + i·pitch + j] · kernel[t]
//
// and the micro-kernel runs, in which an offset stands for a run of neighbouring taps that read
// neighbouring pixels, computes
//
//	dst[i,j] = Σ over runs t, taps k < run of src[offsets[t] + i·pitch + j + k] · kernel[t·run + k]
//
// If add is not 0, the sums are added to dst. Offsets, pitch and the steps of dst are in bytes.
// Neighbouring pixels of src and neighbouring taps of kernel are one block apart.
type tile struct {
	src, kernel, dst unsafe.Pointer
	offsets          unsafe.Pointer // of taps ints
	taps             int            // or runs, at least 1
	rows, cols       int            // 1 or 2; 1 to the kernel's cols
	pitch            int
	dstRow, dstCol   int
	add              int
}

// portableLanes is the number of channels in a block without vector registers.
const portableLanes = 16

var portableKernel = kernel{portable, "portable", portableLanes, [2]int{14, 14}, [2]int{14, 14}}

func tilePortable(t *tile, run int) {
	offsets := unsafe.Slice((*int)(t.offsets), t.taps)
	for i := range t.rows {
		for j := range t.cols {
			dst := (*[portableLanes]float32)(unsafe.Add(t.dst, i*t.dstRow+j*t.dstCol))
			var sum [portableLanes]float32
			if t.add != 0 {
				sum = *dst
			}
			for tap, offset := range offsets {
				for r := range run {
					x := (*[portableLanes]float32)(unsafe.Add(t.src, offset+i*t.pitch+4*portableLanes*(j+r)))
					k := (*[portableLanes]float32)(unsafe.Add(t.kernel, 4*portableLanes*(tap*run+r)))
					for c, v := range x {
						sum[c] += v * k[c]
					}
				}
			}
			*dst = sum
		}
	}
}

// gatherPortable copies n pixels of 1 to portableLanes channels to complete blocks, with zeros
// after the channels. Steps are in bytes.
func gatherPortable(dst *float32, dstStep int, src *float32, srcStep, channels, n int) {
	for i := range n {
		d := (*[portableLanes]float32)(unsafe.Add(unsafe.Pointer(dst), i*dstStep))
		clear(d[copy(d[:], unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(src), i*srcStep)), channels)):])
	}
}
