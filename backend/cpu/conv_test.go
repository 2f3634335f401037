package cpu

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
)

// randomConv is a random convolution, with any order of axes and any strides, paddings, dilations
// and groups.
type randomConv struct {
	input, kernel          []int
	axes                   compute.ConvolveAxesConfig
	strides                []int
	paddings               [][2]int
	inDilations, dilations []int
	channels, batch        int // groups
}

// drawConv draws a random convolution whose output is not empty. form is one of "depth-wise",
// "gradient" (of depth-wise filters) and "general".
func drawConv(r *rand.Rand, form string) randomConv {
	for {
		spatial := 1 + r.IntN(3)
		if form != "general" {
			spatial = 1 + r.IntN(2)
		}
		c := randomConv{channels: 1, batch: 1}
		images, inChannels, outChannels := 1+r.IntN(4), 1+r.IntN(9), 1+r.IntN(40)
		kernelIn := inChannels
		switch form {
		case "depth-wise":
			inChannels = 2 + r.IntN(40)
			kernelIn, outChannels, c.channels = 1, inChannels, inChannels
		case "gradient":
			images = 2 + r.IntN(40)
			outChannels, c.batch = images, images
		default:
			switch r.IntN(3) {
			case 0:
				c.channels = 1 + r.IntN(3)
				kernelIn = inChannels
				inChannels *= c.channels
				outChannels *= c.channels
			case 1:
				c.batch = 1 + r.IntN(3)
				images *= c.batch
				outChannels *= c.batch
			}
		}
		perm := func() (first, second int, rest []int) {
			p := r.Perm(spatial + 2)
			return p[0], p[1], p[2:]
		}
		if r.IntN(2) == 0 { // channels last, as models have them
			perm = func() (first, second int, rest []int) { return 0, spatial + 1, span(1, spatial) }
		}
		a := &c.axes
		a.InputBatch, a.InputChannels, a.InputSpatial = perm()
		a.KernelInputChannels, a.KernelOutputChannels, a.KernelSpatial = perm()
		a.OutputBatch, a.OutputChannels, a.OutputSpatial = perm()
		if c.batch > 1 {
			// In compute v0.1.3, the Go backend reads the batch size of the output at the position
			// of the batch axis of the input.
			a.OutputBatch, a.OutputChannels, a.OutputSpatial = a.InputBatch, a.InputChannels, slices.Clone(a.InputSpatial)
		}
		c.input, c.kernel = make([]int, spatial+2), make([]int, spatial+2)
		c.input[a.InputBatch], c.input[a.InputChannels] = images, inChannels
		c.kernel[a.KernelInputChannels], c.kernel[a.KernelOutputChannels] = kernelIn, outChannels
		ok := true
		for i := range spatial {
			in, k := 1+r.IntN(12/spatial+3), 1+r.IntN(4)
			if form == "gradient" {
				k = 1 + r.IntN(in)
			}
			pad := [2]int{r.IntN(3), r.IntN(3)}
			stride, inDilation, dilation := 1+r.IntN(2)*r.IntN(3), 1+r.IntN(2)*r.IntN(3), 1+r.IntN(2)*r.IntN(3)
			c.input[a.InputSpatial[i]], c.kernel[a.KernelSpatial[i]] = in, k
			c.strides, c.paddings = append(c.strides, stride), append(c.paddings, pad)
			c.inDilations, c.dilations = append(c.inDilations, inDilation), append(c.dilations, dilation)
			ok = ok && (in-1)*inDilation+1+pad[0]+pad[1] >= (k-1)*dilation+1
		}
		if ok {
			return c
		}
	}
}

func (c *randomConv) graph(in []*Node) []*Node {
	return []*Node{ConvGeneral(in[0], in[1], c.axes, c.strides, c.paddings, c.inDilations, c.dilations, c.channels, c.batch)}
}

// TestConv compares convolutions of all three forms with the Go backend of GoMLX.
func TestConv(t *testing.T) {
	for form, step := range map[string]string{"depth-wise": "convolution depth-wise", "gradient": "convolution gradient of", "general": "convolution "} {
		t.Run(form, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, uint64(len(form))))
			be := newBackend(t)
			for range 60 {
				c := drawConv(r, form)
				x, k := normal(shapeOf(c.input).Size(), r.Uint64()), normal(shapeOf(c.kernel).Size(), r.Uint64())
				run := func(b compute.Backend) [][]float32 {
					return execute(t, compiled(t, b, c.graph, c.input, c.kernel), []compute.Buffer{upload(t, b, x, c.input...), upload(t, b, k, c.kernel...)}, nil)
				}
				be.startTimings()
				got := run(be)
				if steps := stepNames(be); !strings.Contains(steps, step) || strings.Contains(steps, "GoMLX") {
					t.Errorf("%+v: expected a step %q and nothing delegated:\n%s", c, step, steps)
				}
				near(t, fmt.Sprintf("%+v", c), got[0], run(be.plain)[0], 2e-6)
			}
		})
	}
}

// withGradient does the same as WithGradientOf of the package internal/graph.
func withGradient(forward func() *Node, carrier *Node) *Node {
	y, _ := InternalFusedOpCaller(forward, func() *Node { return Add(StopGradient(forward()), Sub(carrier, StopGradient(carrier))) }, true)
	return y
}

// depthwiseLayer computes a depth-wise convolution of x [batch, height, width, channels] with
// filters w [height, width, 1, channels]. The output has the size of x. The gradient of GoMLX would
// split the channels and convolve each separately. The gradient of this function is two
// convolutions.
func depthwiseLayer(x, w *Node) *Node {
	kh, kw, c := w.Shape().Dim(0), w.Shape().Dim(1), w.Shape().Dim(3)
	axes := compute.ConvolveAxesConfig{
		InputBatch: 0, InputSpatial: []int{1, 2}, InputChannels: 3,
		KernelSpatial: []int{0, 1}, KernelInputChannels: 2, KernelOutputChannels: 3,
		OutputBatch: 0, OutputSpatial: []int{1, 2}, OutputChannels: 3,
	}
	pad, back := [][2]int{{(kh - 1) / 2, kh / 2}, {(kw - 1) / 2, kw / 2}}, [][2]int{{kh / 2, (kh - 1) / 2}, {kw / 2, (kw - 1) / 2}}
	var dy *Node // the gradient of the result; set in the backward pass
	gx := IdentityWithCustomGradient(x, func(_, dy *Node) *Node {
		return ConvGeneral(dy, Reverse(w, 0, 1), axes, nil, back, nil, nil, c, 1)
	})
	gw := IdentityWithCustomGradient(w, func(_, _ *Node) *Node {
		// The batch axis holds the channels, and each channel is a group. The sum is over the
		// images. The batch axis of the result has size 1 and the position of the batch axis of the
		// input.
		dw := ConvGeneral(x, dy, compute.ConvolveAxesConfig{
			InputBatch: 3, InputSpatial: []int{1, 2}, InputChannels: 0,
			KernelSpatial: []int{1, 2}, KernelInputChannels: 0, KernelOutputChannels: 3,
			OutputBatch: 3, OutputSpatial: []int{0, 1}, OutputChannels: 2,
		}, nil, pad, nil, nil, 1, c)
		return Reshape(dw, kh, kw, 1, c)
	})
	carrier := Add(gx, BroadcastToDims(ReduceAllSum(gw), x.Shape().Dimensions...))
	return withGradient(func() *Node { return ConvGeneral(x, w, axes, nil, pad, nil, nil, c, 1) },
		IdentityWithCustomGradient(carrier, func(_, v *Node) *Node {
			dy = v
			return v
		}))
}

// shifted computes the same convolution as a sum of shifted products.
func shifted(x, w *Node) (y *Node) {
	kh, kw := w.Shape().Dim(0), w.Shape().Dim(1)
	h, v := x.Shape().Dim(1), x.Shape().Dim(2)
	border := func(x *Node, axis, start, end int) *Node { // Pad has no gradient
		zeros := func(n int) *Node {
			s := x.Shape().Clone()
			s.Dimensions[axis] = n
			return Zeros(x.Graph(), s)
		}
		return Concatenate([]*Node{zeros(start), x, zeros(end)}, axis)
	}
	padded := border(border(x, 1, (kh-1)/2, kh/2), 2, (kw-1)/2, kw/2)
	for i := range kh {
		for j := range kw {
			tap := Mul(Slice(padded, AxisRange(), AxisRange(i, i+h), AxisRange(j, j+v)), Slice(w, AxisRange(i, i+1), AxisRange(j, j+1)))
			if y == nil {
				y = tap
			} else {
				y = Add(y, tap)
			}
		}
	}
	return y
}

// TestDepthwise checks the value and both gradients of a depth-wise layer in the form that
// backbones use, and that no operation is delegated or copied.
func TestDepthwise(t *testing.T) {
	for _, d := range [][5]int{{2, 9, 9, 20, 7}, {3, 5, 8, 16, 3}, {1, 14, 14, 40, 7}, {2, 6, 6, 5, 4}, {9, 7, 7, 17, 7}} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			be := newBackend(t)
			x, w := []int{d[0], d[1], d[2], d[3]}, []int{d[4], d[4], 1, d[3]}
			run := func(b compute.Backend, layer func(x, w *Node) *Node) [][]float32 {
				return execute(t, compiled(t, b, func(in []*Node) []*Node {
					y := layer(in[0], in[1])
					return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, in[2])), in[0], in[1])...)
				}, x, w, x), []compute.Buffer{upload(t, b, normal(shapeOf(x).Size(), 1), x...), upload(t, b, normal(shapeOf(w).Size(), 2), w...), upload(t, b, normal(shapeOf(x).Size(), 3), x...)}, nil)
			}
			want := run(be.plain, shifted)
			be.startTimings()
			got := run(be, depthwiseLayer)
			calls := map[string]int{}
			for _, s := range be.stopTimings() {
				calls[s.Kind] += s.Calls
			}
			// the latter is dy
			if want := map[string]int{"convolution": 3, "element-wise": 1}; !maps.Equal(calls, want) {
				t.Errorf("steps of each kind: %v, expected %v", calls, want)
			}
			onGo := run(be.plain, depthwiseLayer)
			t.Setenv(FusionEnv, "false")
			unfused := run(be, depthwiseLayer)
			for i, what := range []string{"output", "gradient of x", "gradient of w"} {
				near(t, what, got[i], want[i], 2e-6)
				near(t, what+" on the Go backend of GoMLX", onGo[i], want[i], 2e-6)
				near(t, what+" without fusion", unfused[i], want[i], 2e-6)
			}
		})
	}
}

// TestConvThreads checks that convolutions of all forms and attention in windows give the same bits
// for any number of processors. Their sizes give many parts.
func TestConvThreads(t *testing.T) {
	be := newBackend(t)
	dims := [][]int{{3, 30, 30, 40}, {7, 7, 1, 40}, {3, 3, 40, 24}, {1, 4, 25, 25}, {36, 1, 25, 25}}
	exec := compiled(t, be, func(in []*Node) []*Node {
		x := depthwiseLayer(in[0], in[1])
		y := Convolve(x, in[2]).PadSame().Done()
		parts := Reshape(TransposeAllAxes(Reshape(x, 3, 6, 5, 6, 5, 40), 0, 1, 3, 2, 4, 5), 3*36, 25, 4, 10)
		z := windowAttention(parts, parts, parts, in[3], in[4])
		loss := Add(ReduceAllSum(Mul(y, Tanh(y))), ReduceAllSum(Mul(z, Tanh(z))))
		return append([]*Node{y, z}, Gradient(loss, in[:3]...)...)
	}, dims...)
	var in []compute.Buffer
	for i, d := range dims {
		in = append(in, upload(t, be, normal(shapeOf(d).Size(), uint64(i)), d...))
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	be.startTimings()
	want := execute(t, exec, in, nil)
	if steps := stepNames(be); strings.Contains(steps, "GoMLX") {
		t.Errorf("expected no delegated operation:\n%s", steps)
	}
	for _, procs := range []int{2, 3, 4} {
		runtime.GOMAXPROCS(procs)
		for i, got := range execute(t, exec, in, nil) {
			if !sameBits(got, want[i]) {
				t.Errorf("GOMAXPROCS %d, output %d: the bits differ from the bits with one processor", procs, i)
			}
		}
	}
}

// TestConvGradient checks that the gradients that GoMLX derives for strided and dilated
// convolutions are not delegated and equal the results of the Go backend of GoMLX.
func TestConvGradient(t *testing.T) {
	be := newBackend(t)
	x, w := []int{2, 11, 9, 6}, []int{3, 2, 6, 5}
	for name, config := range map[string]func(c *ConvolutionBuilder) *ConvolutionBuilder{
		"plain":   func(c *ConvolutionBuilder) *ConvolutionBuilder { return c },
		"same":    func(c *ConvolutionBuilder) *ConvolutionBuilder { return c.PadSame() },
		"strided": func(c *ConvolutionBuilder) *ConvolutionBuilder { return c.StridePerAxis(2, 3).PadSame() },
		"dilated": func(c *ConvolutionBuilder) *ConvolutionBuilder { return c.DilationPerAxis(2, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			run := func(b compute.Backend) [][]float32 {
				return execute(t, compiled(t, b, func(in []*Node) []*Node {
					y := config(Convolve(in[0], in[1])).Done()
					return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, Tanh(y))), in...)...)
				}, x, w), []compute.Buffer{upload(t, b, normal(shapeOf(x).Size(), 1), x...), upload(t, b, normal(shapeOf(w).Size(), 2), w...)}, nil)
			}
			be.startTimings()
			got := run(be)
			if steps := stepNames(be); strings.Contains(steps, "ConvGeneral") {
				t.Errorf("a convolution is delegated:\n%s", steps)
			}
			for i, want := range run(be.plain) {
				near(t, fmt.Sprint("output ", i), got[i], want, 5e-6)
			}
		})
	}
}

// TestConvOfNothing checks empty convolutions. Without images the result is empty. Without channels
// or taps the result is zero. The Go backend of GoMLX panics for these inputs.
func TestConvOfNothing(t *testing.T) {
	be := newBackend(t)
	for _, d := range [][2][]int{{{0, 5, 5, 3}, {3, 3, 3, 2}}, {{2, 5, 5, 0}, {3, 3, 0, 2}}, {{2, 0, 5, 3}, {1, 3, 3, 2}}} {
		got := execute(t, compiled(t, be, func(in []*Node) []*Node {
			return []*Node{Convolve(in[0], in[1]).PaddingPerDim([][2]int{{1, 1}, {1, 1}}).Done()}
		}, d[0], d[1]), []compute.Buffer{upload(t, be, normal(shapeOf(d[0]).Size(), 1), d[0]...), upload(t, be, normal(shapeOf(d[1]).Size(), 1), d[1]...)}, nil)[0]
		if slices.ContainsFunc(got, func(v float32) bool { return v != 0 }) || (d[0][0] == 0) != (len(got) == 0) {
			t.Errorf("%v: %v", d, got)
		}
	}
}

// TestConvNonFinite checks that NaN and infinities of the input reach only the outputs that depend
// on them.
func TestConvNonFinite(t *testing.T) {
	be := newBackend(t)
	x := normal(9*9*4, 1)
	x[(4*9+4)*4+1], x[(8*9)*4+2] = float32(math.NaN()), float32(math.Inf(1))
	w := normal(9*4, 2)
	run := func(b compute.Backend) []float32 {
		return execute(t, compiled(t, b, func(in []*Node) []*Node { return []*Node{depthwiseLayer(in[0], in[1])} }, []int{1, 9, 9, 4}, []int{3, 3, 1, 4}),
			[]compute.Buffer{upload(t, b, x, 1, 9, 9, 4), upload(t, b, w, 3, 3, 1, 4)}, nil)[0]
	}
	got := run(be)
	for i, want := range run(be.plain) {
		finite := func(v float32) bool { return v-v == 0 }
		if finite(got[i]) != finite(want) || !finite(want) && math.IsNaN(float64(got[i])) != math.IsNaN(float64(want)) {
			t.Errorf("element %d: %g, expected %g", i, got[i], want)
		}
	}
}
