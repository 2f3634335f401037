package bench

import (
	"context"
	"fmt"
	"math"
	"time"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/internal/program"
)

// peak holds the greatest speed of a device for matrix products or for memory. It is measured with
// compiled graphs, as training uses them.
type peak struct {
	What   string  `json:"what"` // "matrix product 8192³" or "memory"
	DType  string  `json:"dtype"`
	TFLOPS float64 `json:"tflops,omitempty"`   // 10¹² operations per second; a multiply-add is two
	GB     float64 `json:"gb_per_s,omitempty"` // 10⁹ bytes read and written per second
	Millis float64 `json:"milliseconds"`       // for one product, or for one pass over the memory
	Warm   float64 `json:"warm_up_seconds"`    // for compilation and the first run
}

// peakTime is the time for measuring a peak after the warm-up.
const peakTime = time.Second

// chain is the number of products that one program runs in sequence. With several products, the
// time to start the program matters little.
const chain = 8

// greatestPeak measures products of matrices of increasing size, until a product takes long enough.
// It returns the greatest speed.
func greatestPeak(ctx context.Context, be backend.Backend, dtype dtypes.DType) (best peak, err error) {
	const slow, fast = 50, 1 // milliseconds for a product; a CPU is slow, a GPU is fast
	for n := 1024; n <= 8192; n *= 2 {
		p, err := matrixPeak(ctx, be, n, dtype)
		if err != nil {
			return best, err
		}
		if p.TFLOPS > best.TFLOPS {
			best = p
		}
		if p.Millis > slow {
			break
		}
		if p.Millis < fast {
			n = max(n, 4096)
		}
	}
	return best, nil
}

// matrixPeak measures products of two [n, n] matrices of random numbers.
func matrixPeak(ctx context.Context, be backend.Backend, n int, dtype dtypes.DType) (p peak, err error) {
	p = peak{What: fmt.Sprintf("matrix product %d³", n), DType: dtype.String()}
	// All numbers differ: with constants a processor draws less power and runs faster.
	seconds, warm, err := timeProgram(ctx, be, p.What, func(g *Graph, in []*Node) []*Node {
		x, w := scattered(g, n, n, 12.9898, 78.233), scattered(g, n, n, 39.3468, 11.135)
		w = MulScalar(w, math.Sqrt(2/float64(n))) // keeps the scale of the values
		return []*Node{ConvertDType(x, dtype), ConvertDType(w, dtype)}
	}, func(g *Graph, in []*Node) []*Node {
		x := in[0]
		for range chain {
			x = Dot(x, in[1]).Product()
		}
		return []*Node{ConvertDType(ReduceAllSum(x), dtypes.Float32)}
	})
	p.Millis, p.Warm = 1000*seconds/chain, warm
	if err == nil {
		p.TFLOPS = chain * 2 * math.Pow(float64(n), 3) / seconds / 1e12
	}
	return p, err
}

// scattered returns a matrix of irregular numbers between -1 and 1. They are sines of large angles,
// so no random generator is needed.
func scattered(g *Graph, rows, columns int, a, b float64) *Node {
	shape := shapes.Make(dtypes.Float32, rows, columns)
	return Sin(Add(MulScalar(Iota(g, shape, 0), a), MulScalar(Iota(g, shape, 1), b)))
}

// memoryPeak measures the memory bandwidth by computing x+1 for an array of n float32.
func memoryPeak(ctx context.Context, be backend.Backend, n int) (p peak, err error) {
	p = peak{What: "memory", DType: dtypes.Float32.String()}
	seconds, warm, err := timeProgram(ctx, be, p.What, func(g *Graph, in []*Node) []*Node {
		return []*Node{scattered(g, n/1024, 1024, 12.9898, 78.233)}
	}, func(g *Graph, in []*Node) []*Node {
		// The result stays on the device. Only its first value is read back, to wait for the
		// result.
		y := AddScalar(in[0], 1)
		return []*Node{Slice(y, AxisRange(0, 1), AxisRange(0, 1)), y}
	})
	p.Millis, p.Warm = 1000*seconds, warm
	if err == nil {
		p.GB = 8 * float64(n) / seconds / 1e9
	}
	return p, err
}

// timeProgram makes inputs on the device with one graph and times another graph on them. It reads
// back the first output. seconds is the median time of a run, and warm is the time of compilation
// and the first run.
func timeProgram(ctx context.Context, be backend.Backend, name string, inputs, run program.Build) (seconds, warm float64, err error) {
	prepare, err := program.New(be, name+": inputs", inputs)
	if err != nil {
		return 0, 0, err
	}
	defer prepare.Close()
	compiled, err := program.New(be, name, run)
	if err != nil {
		return 0, 0, err
	}
	defer compiled.Close()
	one, err := program.Tensor(be, []float32{1}) // a program needs an input
	if err != nil {
		return 0, 0, err
	}
	defer program.Free(one)
	x, err := prepare.Run(ctx, one)
	if err != nil {
		return 0, 0, err
	}
	defer program.Free(x...)
	args := make([]any, len(x))
	for i := range x {
		args[i] = x[i]
	}
	// repeat runs the program n times, waits for the last run and returns the seconds per run.
	repeat := func(n int) (seconds float64, err error) {
		start := time.Now()
		for i := range n {
			out, err := compiled.Run(ctx, args...)
			if err != nil {
				return 0, err
			}
			if i == n-1 {
				_, err = program.Float32s(out[0])
			}
			program.Free(out...)
			if err != nil {
				return 0, err
			}
		}
		return time.Since(start).Seconds() / float64(n), nil
	}
	if warm, err = repeat(1); err != nil {
		return 0, 0, err
	}
	n := 1
	if seconds, err = repeat(1); err != nil {
		return 0, 0, err
	}
	if seconds < 0.05 { // for short runs, waiting after each run would distort the time
		n = 10
	}
	var all []float64
	for began := time.Now(); len(all) < 3 || time.Since(began) < peakTime; {
		if seconds, err = repeat(n); err != nil {
			return 0, warm, err
		}
		all = append(all, seconds)
	}
	return measure.Median(all), warm, nil
}
