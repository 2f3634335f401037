package depthwise

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkConv measures the depthwise layers of ConvNeXt-T for 8 images of 224×224 pixels.
func BenchmarkConv(b *testing.B) {
	for _, d := range [][2]int{{56, 96}, {28, 192}, {14, 384}, {7, 768}} {
		n, ch := d[0], d[1]
		a := Axis{n, 7, n, 3, 1, 1, 1}
		c := Conv{Batch: 8, Channels: ch, V: a, H: a}
		r := rand.New(rand.NewPCG(1, 2))
		c.X = Images{numbers(r, 8*n*n*ch), n * n * ch, n * ch, ch}
		kernel, out := numbers(r, 49*ch), make([]float32, len(c.X.Data))
		dy := Images{numbers(r, len(out)), n * n * ch, n * ch, ch}
		measure := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", name, n, n, ch), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(2*49*float64(len(out))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
			})
		}
		measure("forward", func() { c.Run(out, kernel, false) })
		measure("filters", func() { c.KernelGradient(kernel, dy) })
	}
}
