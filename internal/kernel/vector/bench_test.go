package vector

import (
	"fmt"
	"testing"

	"github.com/sptune/spt/internal/cputime"
)

// benchmark is a call of a function on 1024 elements, which stay in the first-level cache.
type benchmark struct {
	name string
	f    func()
}

// benchmarks returns one benchmark for each function.
func benchmarks() []benchmark {
	const n = l1
	x, y, z, dst := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
	mask, words, halves, small := make([]bool, n), make([]uint32, n), make([]uint16, n), make([]uint8, n)
	ints, lse, grad := make([]int32, n), make([]float32, n), make([]float32, n)
	for i := range n {
		x[i], y[i], z[i] = float32(i%97)/16-3, float32(i%89)/16-2, float32(i%83)/16+0.5
		mask[i] = i%3 == 0
	}
	var key [2]uint32
	var counter [4]uint32
	return []benchmark{
		{"Add", func() { Add(dst, x, y) }},
		{"Div", func() { Div(dst, x, z) }},
		{"Max", func() { Max(dst, x, y) }},
		{"MulScalar", func() { MulScalar(dst, x, 3) }},
		{"Axpy", func() { Axpy(dst, x, 0) }},
		{"Fill", func() { Fill(dst, 1) }},
		{"Sqrt", func() { Sqrt(dst, z) }},
		{"Rsqrt", func() { Rsqrt(dst, z) }},
		{"Exp", func() { Exp(dst, x) }},
		{"Log", func() { Log(dst, z) }},
		{"Tanh", func() { Tanh(dst, x) }},
		{"Erf", func() { Erf(dst, x) }},
		{"Logistic", func() { Logistic(dst, x) }},
		{"GELU", func() { GELU(dst, x) }},
		{"GELUGrad", func() { GELUGrad(dst, x, y) }},
		{"GELUTanh", func() { GELUTanh(dst, x) }},
		{"Less", func() { Less(mask, x, y) }},
		{"Where", func() { Where(dst, mask, x, y) }},
		{"Sum", func() { Sum(x) }},
		{"Dot", func() { Dot(x, y) }},
		{"sumCentered2", func() { sumCentered2(x, 1) }},
		{"MaxOf", func() { MaxOf(x) }},
		{"SoftmaxRow", func() { SoftmaxRow(dst, x, 0.125) }},
		{"SoftmaxRows", func() { copy(dst, x); SoftmaxRows(dst, lse[:8], 128, 128, 0.125, Addend{}, Addend{}) }},
		{"SoftmaxGradRows", func() {
			copy(dst, x)
			copy(grad, y)
			SoftmaxGradRows(dst, grad, lse[:8], z, 128, 128, 0.125, Addend{}, Addend{})
		}},
		{"LayerNormRow", func() { LayerNormRow(dst, x, y, z, 1e-6) }},
		{"LayerNormGradRow", func() { LayerNormGradRow(dst, x, y, 1, 2) }},
		{"AddRows", func() { AddRows(dst[:32], x, 32, 32, 32) }},
		{"FromFloat16", func() { FromFloat16(dst, halves) }},
		{"FromBFloat16", func() { FromBFloat16(dst, halves) }},
		{"FromUint8", func() { FromUint8(dst, small) }},
		{"FromInt32", func() { FromInt32(dst, ints) }},
		{"FromUint32", func() { FromUint32(dst, words) }},
		{"Philox", func() { Philox(words, key, counter) }},
		{"Dropout", func() { Dropout(dst, x, 1.25, 1<<31, key, counter) }},
		{"Transpose", func() { Transpose(dst, 32, x, 32, 32, 32) }},
	}
}

// l1 is the number of elements of [benchmarks].
const l1 = 1024

// BenchmarkL1 measures each function. It reports elements per nanosecond, and the processor time of
// an element, which other programs on the machine change less.
func BenchmarkL1(b *testing.B) {
	for _, test := range benchmarks() {
		eachLevel(func() {
			b.Run(test.name+"/"+levelName(), func(b *testing.B) {
				began := cputime.Used(b)
				for b.Loop() {
					test.f()
				}
				elements := l1 * float64(b.N)
				b.ReportMetric(float64(cputime.Used(b)-began)/elements, "cpu-ns/element")
				b.ReportMetric(elements/float64(b.Elapsed().Nanoseconds()), "elements/ns")
			})
		})
	}
}

// BenchmarkTranspose measures matrices with the shapes of weights and of attention heads.
func BenchmarkTranspose(b *testing.B) {
	for _, size := range [][2]int{{768, 3072}, {197, 64}, {1576, 768}, {1024, 1024}} {
		rows, cols := size[0], size[1]
		src, dst := make([]float32, rows*cols), make([]float32, rows*cols)
		b.Run(fmt.Sprintf("%dx%d", rows, cols), func(b *testing.B) {
			b.SetBytes(int64(8 * rows * cols))
			for b.Loop() {
				Transpose(dst, rows, src, cols, rows, cols)
			}
		})
	}
}
