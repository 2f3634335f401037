package cpu

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"

	"github.com/sptune/spt/internal/measure"
)

// stepTimes runs a program repeatedly. For each step whose name contains a key of flops, it reports
// the best rate in GFLOPS and the fraction of the peak rate, which it measures between the runs.
// For steps in bytes it also reports GB/s.
func stepTimes(b *testing.B, exec compute.Executable, be *backend, in []compute.Buffer, flops, bytes map[string]float64) {
	best, peak := map[string]float64{}, 0.0
	for b.Loop() {
		peak = max(peak, measure.PeakGFLOPS(runtime.GOMAXPROCS(0), false, 2*time.Millisecond))
		for range 3 {
			be.startTimings()
			out, err := exec.Execute(in, make([]bool, len(in)), 0)
			if err != nil {
				b.Fatal(err)
			}
			for _, o := range out {
				_ = o.Finalize()
			}
			for _, s := range be.stopTimings() {
				for key := range flops {
					if strings.Contains(s.Kind+" "+s.Detail, key) {
						if old, ok := best[key]; !ok || s.Seconds/float64(s.Calls) < old {
							best[key] = s.Seconds / float64(s.Calls)
						}
					}
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for key, f := range flops {
		if best[key] == 0 {
			b.Fatalf("no step %q ran", key)
		}
		name := strings.ReplaceAll(key, " ", "-")
		rate := f / best[key] / 1e9
		b.ReportMetric(best[key]*1e3, name+"-ms")
		b.ReportMetric(rate, name+"-GFLOPS")
		b.ReportMetric(100*rate/peak, name+"-%peak")
		if n := bytes[key]; n > 0 {
			b.ReportMetric(n/best[key]/1e9, name+"-GB/s")
		}
	}
}

// BenchmarkDepthwise measures the depth-wise layers of ConvNeXt-T and their gradients for 8 images
// of 224 px. Each tensor counts once in the bytes.
func BenchmarkDepthwise(b *testing.B) {
	for _, d := range [][2]int{{56, 96}, {28, 192}, {14, 384}, {7, 768}} {
		b.Run(fmt.Sprintf("%d×%d×%d", d[0], d[0], d[1]), func(b *testing.B) {
			be := newBackend(b)
			x, w := []int{8, d[0], d[0], d[1]}, []int{7, 7, 1, d[1]}
			size := shapeOf(x).Size()
			in := []compute.Buffer{upload(b, be, normal(size, 1), x...), upload(b, be, normal(shapeOf(w).Size(), 2), w...), upload(b, be, normal(size, 3), x...)}
			flops, bytes := 2*49*float64(size), 8*float64(size)
			exec := compiled(b, be, func(in []*Node) []*Node {
				y := depthwiseLayer(in[0], in[1])
				return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, in[2])), in[0], in[1])...)
			}, x, w, x)
			stepTimes(b, exec, be, in, map[string]float64{"depth-wise 7": flops, "filters": flops}, map[string]float64{"depth-wise 7": bytes, "filters": bytes})
		})
	}
}

// BenchmarkWindows measures attention in the 7×7 windows of Swin-T for 8 images of 224 px.
func BenchmarkWindows(b *testing.B) {
	for _, d := range [][2]int{{64, 3}, {16, 6}, {4, 12}, {1, 24}} {
		b.Run(fmt.Sprintf("%dwindows×%dheads", d[0], d[1]), func(b *testing.B) {
			be := newBackend(b)
			const images, tokens, width = 8, 49, 32
			qkv := []int{images * d[0], tokens, d[1], width}
			table, mask := []int{1, d[1], tokens, tokens}, []int{d[0], 1, tokens, tokens}
			size := shapeOf(qkv).Size()
			in := []compute.Buffer{upload(b, be, normal(size, 1), qkv...), upload(b, be, normal(size, 2), qkv...), upload(b, be, normal(size, 3), qkv...),
				upload(b, be, normal(shapeOf(table).Size(), 4), table...), upload(b, be, normal(shapeOf(mask).Size(), 5), mask...), upload(b, be, normal(size, 6), qkv...)}
			exec := compiled(b, be, func(in []*Node) []*Node {
				y := windowAttention(in[0], in[1], in[2], in[3], in[4])
				return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, in[5])), in[:3]...)...)
			}, qkv, qkv, qkv, table, mask, qkv)
			product := 2 * float64(images*d[0]*d[1]*tokens*tokens*width)
			stepTimes(b, exec, be, in, map[string]float64{"Attention [": 2 * product, "AttentionVJP": 5 * product}, nil)
		})
	}
}
