package depthwise

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// eachKernel runs f with every kernel of this processor as the active one.
func eachKernel(t *testing.T, f func(t *testing.T)) {
	old := active
	defer func() { active = old }()
	for i := range available {
		active = &available[i]
		t.Run(active.name, f)
	}
}

func numbers(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// naive calls f for every product of an input pixel and a tap. x is the position of the pixel in
// c.X.Data; tap and out are the numbers of the tap and of the output pixel.
func (c *Conv) naive(f func(x, tap, out int)) {
	for n := range c.Batch {
		for oy := range c.V.Out {
			for ox := range c.H.Out {
				for ky := range c.V.Kernel {
					for kx := range c.H.Kernel {
						y, in1 := c.V.input(oy*c.V.Stride + ky*c.V.Dilation)
						x, in2 := c.H.input(ox*c.H.Stride + kx*c.H.Dilation)
						if in1 && in2 {
							f(n*c.X.Image+y*c.X.Row+x*c.X.Col, ky*c.H.Kernel+kx, (n*c.V.Out+oy)*c.H.Out+ox)
						}
					}
				}
			}
		}
	}
}

// compare compares got with sums in float64. magnitude holds the sums of the absolute products.
func compare(t *testing.T, what string, got []float32, want, magnitude []float64) {
	t.Helper()
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= 1e-6*(magnitude[i]+1)) {
			t.Fatalf("%s, element %d: %g, expected %g", what, i, got[i], w)
		}
	}
}

// axis returns a random axis with at least one output.
func axis(r *rand.Rand) Axis {
	for {
		a := Axis{In: 1 + r.IntN(20), Kernel: 1 + r.IntN(8), Pad: r.IntN(6) - 1, Stride: 1 + r.IntN(3)*r.IntN(2), Dilation: 1 + r.IntN(3)*r.IntN(2), InDilation: 1 + r.IntN(3)*r.IntN(2)}
		room := (a.In-1)*a.InDilation + 1 + a.Pad + r.IntN(6) - 1 - a.span(1)
		if room >= 0 {
			a.Out = room/a.Stride + 1
			return a
		}
	}
}

func TestConv(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		cases := []Conv{
			{Batch: 9, Channels: 32, V: Axis{7, 7, 7, 3, 1, 1, 1}, H: Axis{7, 7, 7, 3, 1, 1, 1}},
			// several bands
			{Batch: 1, Channels: 99, V: Axis{60, 7, 60, 3, 1, 1, 1}, H: Axis{61, 7, 61, 3, 1, 1, 1}},
			// filters wider than a tile
			{Batch: 1, Channels: 3, V: Axis{40, 31, 12, 1, 1, 1, 1}, H: Axis{40, 29, 14, 1, 1, 1, 1}},
		}
		for range 60 {
			cases = append(cases, Conv{Batch: 1 + r.IntN(10), Channels: 1 + r.IntN(40), V: axis(r), H: axis(r)})
		}
		for _, c := range cases {
			t.Run(fmt.Sprintf("%d×%d %v %v", c.Batch, c.Channels, c.V, c.H), func(t *testing.T) {
				// X is a slice of a larger tensor. Its data ends with its last element.
				c.X.Col = c.Channels + r.IntN(3)
				c.X.Row = c.H.In*c.X.Col + r.IntN(3)
				c.X.Image = c.V.In*c.X.Row + r.IntN(3)
				c.X.Data = guarded(t, numbers(r, (c.Batch-1)*c.X.Image+(c.V.In-1)*c.X.Row+(c.H.In-1)*c.X.Col+c.Channels))
				kernel := guarded(t, numbers(r, c.taps()*c.Channels))
				pixels := c.Batch * c.V.Out * c.H.Out
				dy := Images{Data: guarded(t, numbers(r, pixels*c.Channels)), Image: c.V.Out * c.H.Out * c.Channels, Row: c.H.Out * c.Channels, Col: c.Channels}
				for _, flip := range []bool{false, true} {
					want, magnitude := make([]float64, pixels*c.Channels), make([]float64, pixels*c.Channels)
					c.naive(func(x, tap, out int) {
						if flip {
							tap = c.taps() - 1 - tap
						}
						for i := range c.Channels {
							p := float64(c.X.Data[x+i]) * float64(kernel[tap*c.Channels+i])
							want[out*c.Channels+i] += p
							magnitude[out*c.Channels+i] += math.Abs(p)
						}
					})
					got := guarded(t, slices.Repeat([]float32{float32(math.NaN())}, len(want)))
					c.Run(got, kernel, flip)
					compare(t, fmt.Sprint("output, flip ", flip), got, want, magnitude)
				}
				want, magnitude := make([]float64, len(kernel)), make([]float64, len(kernel))
				c.naive(func(x, tap, out int) {
					for i := range c.Channels {
						p := float64(c.X.Data[x+i]) * float64(dy.Data[out*c.Channels+i])
						want[tap*c.Channels+i] += p
						magnitude[tap*c.Channels+i] += math.Abs(p)
					}
				})
				got := guarded(t, slices.Repeat([]float32{float32(math.NaN())}, len(want)))
				c.KernelGradient(got, dy)
				compare(t, "gradient", got, want, magnitude)
			})
		}
	})
}

// TestThreads checks that results have the same bits for any GOMAXPROCS.
func TestThreads(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	c := Conv{Batch: 3, Channels: 40, V: Axis{57, 7, 57, 3, 1, 1, 1}, H: Axis{57, 7, 57, 3, 1, 1, 1}}
	c.X = Images{numbers(r, 3*57*57*40), 57 * 57 * 40, 57 * 40, 40}
	kernel, dy := numbers(r, 49*40), Images{numbers(r, 3*57*57*40), 57 * 57 * 40, 57 * 40, 40}
	var first [2][]float32
	for _, n := range []int{1, 2, 3, 7} {
		old := runtime.GOMAXPROCS(n)
		out, grad := make([]float32, len(dy.Data)), make([]float32, len(kernel))
		c.Run(out, kernel, false)
		c.KernelGradient(grad, dy)
		runtime.GOMAXPROCS(old)
		if n == 1 {
			first = [2][]float32{out, grad}
		} else if !slices.Equal(out, first[0]) || !slices.Equal(grad, first[1]) {
			t.Errorf("the results with %d threads and with one thread differ", n)
		}
	}
}
