//go:build !amd64 && !arm64

package gemm

// available lists the kernels. There is only the kernel in Go.
var available = []kernel{portableKernel}

func (*kernel) run(t *tile) { tilePortable(t) }

func (*kernel) dots(t *tile) { dotsPortable(t) }

func (*kernel) pack(dst []float32, width int, src []float32, sl, sk, n, k int) {
	packPortable(dst, width, src, sl, sk, n, k)
}

func (*kernel) multiplyAdds(n int) int { return peakPortable(n) }
