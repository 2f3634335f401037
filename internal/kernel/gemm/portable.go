package gemm

import (
	"runtime"
	"unsafe"
)

// portableKernel is the kernel in Go. It keeps 4 × 4 sums, because some processors have only
// sixteen registers.
var portableKernel = kernel{portable, "portable", 4, 4, 4, 1, false}

// tilePortable is the micro-kernel in Go. It reads complete strips and panels. If mr or n is less
// than 4, it ignores the additional sums.
func tilePortable(t *tile) {
	var acc [4][4]float32
	for u := t; u != nil; u = u.next {
		for p := range u.k {
			x, y := (*[4]float32)(unsafe.Add(u.a, p*16)), (*[4]float32)(unsafe.Add(u.b, p*u.ldb))
			y0, y1, y2, y3 := y[0], y[1], y[2], y[3]
			for i := range acc {
				acc[i][0] += x[i] * y0
				acc[i][1] += x[i] * y1
				acc[i][2] += x[i] * y2
				acc[i][3] += x[i] * y3
			}
		}
	}
	for i := range t.mr {
		t.writeBack(i, acc[i][:t.n])
	}
}

// dotsPortable computes the same as kernel.dots in Go, for one row.
func dotsPortable(t *tile) {
	var acc [8]float32
	a := unsafe.Slice((*float32)(t.a), t.k)
	for j := range t.n {
		b := unsafe.Slice((*float32)(unsafe.Add(t.b, j*t.ldb)), t.k)
		for p, x := range a {
			acc[j] += x * b[p]
		}
	}
	t.writeBack(0, acc[:t.n])
}

// writeBack stores row i of a tile from its sums, which it changes.
func (t *tile) writeBack(i int, sums []float32) {
	for j := range sums {
		sums[j] *= t.alpha
	}
	if t.src != nil {
		for j, v := range t.row(t.src, i*t.lds) {
			sums[j] += t.gamma * v
		}
	}
	if t.bias != nil {
		for j, v := range t.row(t.bias, 0) {
			sums[j] += v
		}
	}
	if t.residual != nil {
		for j, v := range t.row(t.residual, i*t.ldr) {
			sums[j] += v
		}
	}
	copy(t.row(t.dst, i*t.ldd), sums)
}

// row returns the n numbers at the given offset in bytes.
func (t *tile) row(p unsafe.Pointer, offset int) []float32 {
	return unsafe.Slice((*float32)(unsafe.Add(p, offset)), t.n)
}

// packPortable writes dst[p*width+l] = src[l*sl+p*sk] for n lanes l and k steps p.
func packPortable(dst []float32, width int, src []float32, sl, sk, n, k int) {
	for l := range n {
		for p := range k {
			dst[p*width+l] = src[l*sl+p*sk]
		}
	}
}

// peakPortable runs n rounds of eight independent multiply-adds. It returns the number of
// floating-point operations.
func peakPortable(n int) int {
	var a, b, c, d, e, f, g, h float32
	x, y := float32(n), float32(0.5)
	for range n {
		a += x * y
		b += x * y
		c += x * y
		d += x * y
		e += x * y
		f += x * y
		g += x * y
		h += x * y
	}
	runtime.KeepAlive(a + b + c + d + e + f + g + h) // the sums must be computed
	return 16 * n
}
