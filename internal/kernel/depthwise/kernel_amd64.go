package depthwise

import "golang.org/x/sys/cpu"

//go:generate go run ./asm -out depthwise_amd64.s -stubs depthwise_amd64.go

// available lists the kernels that this processor can run. The fastest is the last.
var available = detect()

func detect() []kernel {
	k := []kernel{portableKernel}
	x := &cpu.X86
	if x.HasAVX2 && x.HasFMA {
		k = append(k, kernel{avx2, "avx2", 8, [2]int{14, 7}, [2]int{7, 0}})
	}
	if x.HasAVX512F && x.HasAVX512VL && x.HasBMI2 {
		k = append(k, kernel{avx512, "avx512", 16, [2]int{14, 14}, [2]int{14, 9}})
	}
	return k
}

// tile computes a tile with single taps.
func (kn *kernel) tile(t *tile) {
	switch kn.isa {
	case avx512:
		tileAVX512(t)
	case avx2:
		tileAVX2(t)
	default:
		tilePortable(t, 1)
	}
}

// runs computes a tile with runs of taps.
func (kn *kernel) runs(t *tile) {
	switch kn.isa {
	case avx512:
		runsAVX512(t)
	case avx2:
		runsAVX2(t)
	default:
		tilePortable(t, run)
	}
}

// gather copies n pixels to blocks; see gatherPortable. n is at least 1.
func (kn *kernel) gather(dst *float32, dstStep int, src *float32, srcStep, channels, n int) {
	switch kn.isa {
	case avx512:
		gatherAVX512(dst, dstStep, src, srcStep, channels, n)
	case avx2:
		gatherAVX2(dst, dstStep, src, srcStep, channels, n)
	default:
		gatherPortable(dst, dstStep, src, srcStep, channels, n)
	}
}
