//go:build !amd64 && !arm64

package depthwise

// available lists the kernels. There is only the kernel in Go.
var available = []kernel{portableKernel}

func (*kernel) tile(t *tile) { tilePortable(t, 1) }

func (*kernel) runs(t *tile) { tilePortable(t, run) }

func (*kernel) gather(dst *float32, dstStep int, src *float32, srcStep, channels, n int) {
	gatherPortable(dst, dstStep, src, srcStep, channels, n)
}
