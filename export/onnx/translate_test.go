package onnx_test

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/export/onnx"
	"github.com/sptune/spt/internal/program"
)

var out = flag.String("onnx", "", "write the models of TestTranslate and the expected results into this folder, for testdata/check.py")

// The images of the tests have 4×4 pixels.
const side = 4

// pixels returns the pixels of n images.
func pixels(n int) []uint8 {
	out := make([]uint8, n*side*side*3)
	for i := range out {
		out[i] = uint8(i * 7919 >> 4)
	}
	return out
}

// floatShape returns a shape of float32 numbers.
func floatShape(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// record runs a graph function of float32 images, from −1 to 1, on a recorder, and returns its
// results for three images. weights is a second input, [3, 5].
func record(t *testing.T, f func(x, weights *Node) *Node) (*onnx.Recorder, []float32, error) {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	r := onnx.NewRecorder(be)
	p, err := program.New(r, "test", func(_ *Graph, in []*Node) []*Node {
		return []*Node{f(AddScalar(MulScalar(ConvertDType(in[1], dtypes.Float32), 2.0/255), -1), in[0])}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	values := make([]float32, 15)
	for i := range values {
		values[i] = float32(math.Sin(float64(i)))
	}
	weights, err := program.Tensor(r, values, 3, 5)
	if err != nil {
		t.Fatal(err)
	}
	var results []float32
	for _, n := range onnx.Batches {
		images, err := program.Tensor(r, pixels(n), n, side, side, 3)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Run(t.Context(), weights, images)
		if err != nil {
			return nil, nil, err
		}
		if results, err = program.Float32s(got[0]); err != nil {
			t.Fatal(err)
		}
	}
	return r, results, nil
}

// TestTranslate translates small programs, which together use every operation that has a
// translation.
func TestTranslate(t *testing.T) {
	flat := func(x *Node) *Node { return Reshape(x, x.Shape().Dim(0), x.Shape().Size()/x.Shape().Dim(0)) }
	unary := func(f func(x *Node) *Node) func(x, w *Node) *Node {
		return func(x, _ *Node) *Node { return flat(f(x)) }
	}
	positive := func(x *Node) *Node { return AddScalar(Abs(x), 0.1) }
	conv := func(axes compute.ConvolveAxesConfig, strides []int, pads [][2]int, dilations []int, groups int, kernel ...int) func(x, w *Node) *Node {
		return func(x, _ *Node) *Node {
			size := 1
			for _, d := range kernel {
				size *= d
			}
			k := Sin(Reshape(IotaFull(x.Graph(), floatShape(size)), kernel...))
			return flat(ConvGeneral(x, k, axes, strides, pads, nil, dilations, groups, 1))
		}
	}
	last := compute.ConvolveAxesConfig{InputSpatial: []int{1, 2}, InputChannels: 3, KernelOutputChannels: 0, KernelInputChannels: 1, KernelSpatial: []int{2, 3}, OutputSpatial: []int{1, 2}, OutputChannels: 3}
	for name, f := range map[string]func(x, w *Node) *Node{
		"abs": unary(Abs), "ceil": unary(Ceil), "cos": unary(Cos), "erf": unary(Erf), "exp": unary(Exp), "floor": unary(Floor), "neg": unary(Neg), "sigmoid": unary(Sigmoid), "sign": unary(Sign),
		"sin": unary(Sin), "tanh": unary(Tanh), "round": unary(func(x *Node) *Node { return Round(MulScalar(x, 3)) }),
		"log": unary(func(x *Node) *Node { return Log(positive(x)) }), "sqrt": unary(func(x *Node) *Node { return Sqrt(positive(x)) }), "rsqrt": unary(func(x *Node) *Node { return Rsqrt(positive(x)) }),
		"pow": unary(func(x *Node) *Node { return Pow(positive(x), positive(Reverse(x, 1))) }), "div": unary(func(x *Node) *Node { return Div(x, positive(Reverse(x, 1, 2))) }),
		"clamp": unary(func(x *Node) *Node {
			return Clip(x, Scalar(x.Graph(), dtypes.Float32, -0.5), Scalar(x.Graph(), dtypes.Float32, 0.25))
		}),
		"compare": unary(func(x *Node) *Node {
			y := Reverse(x, 2)
			a := LogicalAnd(GreaterThan(x, y), LogicalNot(LessThan(x, ScalarZero(x.Graph(), dtypes.Float32))))
			b := LogicalXor(LogicalOr(LessOrEqual(x, y), Equal(x, y)), LogicalOr(GreaterOrEqual(y, x), NotEqual(x, y)))
			return Add(Where(a, x, MulScalar(y, 2)), ConvertDType(b, dtypes.Float32))
		}),
		"not a number": unary(func(x *Node) *Node { return Where(IsNaN(Sqrt(x)), ZerosLike(x), x) }),
		"pad": unary(func(x *Node) *Node {
			return Pad(x, Scalar(x.Graph(), dtypes.Float32, 7), compute.PadAxis{}, compute.PadAxis{Start: 1, End: 2}, compute.PadAxis{Start: -1})
		}),
		"slice": unary(func(x *Node) *Node { return Slice(x, AxisRange(), AxisRange(1, 4), AxisRange().Stride(2)) }),
		"concatenate": func(x, w *Node) *Node {
			constant := BroadcastToDims(Reshape(w, 1, 5, 1, 3), x.Shape().Dim(0), 5, 4, 3)
			return flat(Concatenate([]*Node{constant, x, Zeros(x.Graph(), x.Shape())}, 1))
		},
		"batch in a broadcast": func(x, w *Node) *Node {
			// windows of an image as further images
			y := Reshape(x, 4*x.Shape().Dim(0), 4, 3)
			z := BroadcastToDims(Reshape(w, 1, 5, 3), 4*x.Shape().Dim(0), 5, 3)
			return Reshape(Concatenate([]*Node{y, z}, 1), x.Shape().Dim(0), 4*9*3)
		},
		"sums": func(x, _ *Node) *Node {
			return Concatenate([]*Node{ReduceSum(x, 1, 2), ReduceMax(x, 1, 2), ReduceMin(x, 1, 2), ReduceMultiply(x, 1, 2), ReduceMean(x, 1, 2)}, 1)
		},
		"of a row": unary(func(x *Node) *Node { return Sub(x, ReduceAndKeep(x, ReduceMax, -1)) }),
		"softmax":  unary(func(x *Node) *Node { return Add(Softmax(x, -1), Softmax(x, 1)) }),
		"gelu": unary(func(x *Node) *Node {
			y, _ := InternalFusedOpCaller(func() *Node { return BackendFusedGelu(x, false) }, func() *Node { return x }, false)
			return y
		}),
		"norm": func(x, w *Node) *Node {
			n := func(axis int, gamma *Node) *Node {
				y, _ := InternalFusedOpCaller(func() *Node { return BackendFusedLayerNorm(x, []int{axis}, 0.01, gamma, nil) }, func() *Node { return MulScalar(x, 3) }, false)
				return y
			}
			return flat(Add(n(3, Reshape(SliceAxis(w, 1, AxisElem(1)), 3)), n(1, nil)))
		},
		"product": func(x, w *Node) *Node { return flat(Dot(x, w).General([]int{3}, nil, []int{0}, nil)) },
		"product with a large constant": func(x, _ *Node) *Node {
			return flat(Dot(x, Sin(IotaFull(x.Graph(), floatShape(3, 400)))).General([]int{3}, nil, []int{0}, nil))
		},
		"product from the left": func(x, w *Node) *Node {
			// [5, 16·B]
			y := Dot(w, Reshape(x, x.Shape().Dim(0)*16, 3)).General([]int{0}, nil, []int{1}, nil)
			return Reshape(TransposeAllAxes(y, 1, 0), x.Shape().Dim(0), 16*5)
		},
		"product of two axes": func(x, w *Node) *Node {
			v := Sin(IotaFull(x.Graph(), floatShape(4, 3, 2)))
			return flat(Dot(x, v).General([]int{3, 1}, nil, []int{1, 0}, nil))
		},
		"product without free axes": func(x, w *Node) *Node {
			return flat(Dot(x, Reverse(x, 1)).General([]int{3}, []int{0, 1, 2}, []int{3}, []int{0, 1, 2}))
		},
		"product of images": func(x, _ *Node) *Node {
			return flat(Dot(x, Sin(x)).General([]int{1}, []int{0}, []int{2}, []int{0}))
		},
		"transposes":  unary(func(x *Node) *Node { return TransposeAllAxes(TransposeAllAxes(x, 0, 2, 3, 1), 0, 3, 1, 2) }),
		"convolution": conv(last, []int{2, 1}, [][2]int{{1, 0}, {0, 2}}, nil, 1, 2, 3, 2, 3), "depth-wise": conv(last, nil, [][2]int{{1, 1}, {1, 1}}, nil, 3, 6, 1, 3, 3),
		"dilated": conv(last, nil, nil, []int{1, 2}, 1, 2, 3, 2, 2),
		"other axes": conv(compute.ConvolveAxesConfig{InputSpatial: []int{3, 1}, InputChannels: 2, KernelOutputChannels: 3, KernelInputChannels: 0, KernelSpatial: []int{1, 2}, OutputBatch: 0, OutputSpatial: []int{2, 1}, OutputChannels: 3},
			nil, [][2]int{{1, 0}, {0, 0}}, nil, 1, 4, 2, 2, 5),
		"constants": func(x, w *Node) *Node {
			// Log1P and Gather have no translation, but this part does not depend on the images.
			y := Gather(Log1P(Abs(w)), Const(x.Graph(), [][]int32{{2}, {0}}))
			return flat(Mul(x, ExpandLeftToRank(Slice(ReduceSum(y, 0), AxisRange(0, 3)), 4)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, want, err := record(t, f)
			if err != nil {
				t.Fatal(err)
			}
			m, err := r.Translate(nil)
			if err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= 3; n++ {
				got, err := m.Run(pixels(n), n)
				if err != nil {
					t.Fatal(err)
				}
				logits := got[onnx.Logits]
				if len(logits) != len(want)/3*n {
					t.Fatalf("%d images: %d results, expected %d", n, len(logits), len(want)/3*n)
				}
				for i, v := range logits {
					if !(math.Abs(float64(v-want[i])) <= 1e-5*max(1, math.Abs(float64(want[i])))) {
						t.Fatalf("%d images: result %d is %g, expected %g", n, i, v, want[i])
					}
				}
			}
			if *out == "" {
				return
			}
			dir := filepath.Join(*out, "operation-"+strings.ReplaceAll(name, " ", "-"))
			text, err := json.Marshal(map[string]any{"size": side, "logits": want})
			if err == nil {
				err = os.MkdirAll(dir, 0o777)
			}
			for _, e := range []func() error{
				func() error { return m.Write(filepath.Join(dir, "model.onnx"), 100) },
				func() error { return os.WriteFile(filepath.Join(dir, "expected.json"), text, 0o666) },
				func() error { return os.WriteFile(filepath.Join(dir, "images.bin"), pixels(3), 0o666) },
			} {
				if err == nil {
					err = e()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTranslateRefuses checks that programs that a model cannot express are errors that say why.
func TestTranslateRefuses(t *testing.T) {
	flat := func(x *Node) *Node { return Reshape(x, x.Shape().Dim(0), x.Shape().Size()/x.Shape().Dim(0)) }
	for want, f := range map[string]func(x, w *Node) *Node{
		"ArgMinMax":  func(x, _ *Node) *Node { return flat(ConvertDType(ArgMax(x, 1), dtypes.Float32)) },
		"Log1p":      func(x, _ *Node) *Node { return flat(Log1P(x)) },
		"batch axis": func(x, _ *Node) *Node { return Add(flat(x), flat(SliceAxis(x, 0, AxisRange(0, 1)))) },
		"a constant of the program depends on the number of images": func(x, _ *Node) *Node {
			return flat(Mul(x, Const(x.Graph(), float32(x.Shape().Dim(0)))))
		},
		"a model must compute each image alone": func(x, _ *Node) *Node {
			y := Dot(flat(x), flat(x)).General([]int{1}, nil, []int{1}, nil) // [B, B]
			v := IotaFull(x.Graph(), floatShape(1, 1, 5))
			return flat(Dot(Reshape(y, y.Shape().Dim(0), y.Shape().Dim(0), 1, 1), v).General([]int{2, 3}, nil, []int{0, 1}, nil))
		},
		"multiple of the number of images": func(x, _ *Node) *Node {
			return flat(Concatenate([]*Node{x, SliceAxis(x, 0, AxisRange(0, 1))}, 0))
		},
		"Iota": func(x, _ *Node) *Node { return Add(flat(x), Iota(x.Graph(), flat(x).Shape(), 0)) },
		"not depend on the number": func(x, _ *Node) *Node {
			if x.Shape().Dim(0) == 2 {
				x = Neg(x)
			}
			return flat(x)
		},
		"the first axis must be that of the images": func(x, w *Node) *Node { return w },
	} {
		r, _, err := record(t, f)
		if err == nil {
			_, err = r.Translate(nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, expected one with %q", err, want)
		}
	}
}
