package onnx

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// floats returns a float32 array.
func floats(dims []int, v ...float32) *array { return &array{dims: dims, kind: Float32, f: v} }

// ints64 returns an int64 array with one axis.
func ints64(v ...int64) *array { return &array{dims: []int{len(v)}, kind: Int64, i: v} }

// TestOperators compares operators with values computed by hand, from the definitions of the
// standard.
func TestOperators(t *testing.T) {
	x := floats([]int{2, 3}, 1, 2, 3, 4, 5, 6)
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		name string
		op   string
		at   []Attribute
		in   []*array
		want *array
	}{
		{"add a row", "Add", nil, []*array{x, floats([]int{3}, 10, 20, 30)}, floats([]int{2, 3}, 11, 22, 33, 14, 25, 36)},
		{"subtract a column", "Sub", nil, []*array{x, floats([]int{2, 1}, 1, 4)}, floats([]int{2, 3}, 0, 1, 2, 0, 1, 2)},
		{"scalar", "Mul", nil, []*array{floats(nil, 2), x}, floats([]int{2, 3}, 2, 4, 6, 8, 10, 12)},
		{"integers", "Mul", nil, []*array{ints64(3), ints64(4)}, ints64(12)},
		{"outer", "Max", nil, []*array{floats([]int{2, 1}, 1, 5), floats([]int{1, 2}, 3, 4)}, floats([]int{2, 2}, 3, 4, 5, 5)},
		{"divide", "Div", nil, []*array{floats([]int{2}, 1, -1), floats([]int{2}, 4, 0)}, floats([]int{2}, 0.25, -inf)},
		{"power", "Pow", nil, []*array{floats([]int{2}, 2, 9), floats([]int{2}, 10, 0.5)}, floats([]int{2}, 1024, 3)},
		{"round to even", "Round", nil, []*array{floats([]int{4}, 0.5, 1.5, 2.5, -1.5)}, floats([]int{4}, 0, 2, 2, -2)},
		{"sign", "Sign", nil, []*array{floats([]int{3}, -3, 0, 2)}, floats([]int{3}, -1, 0, 1)},
		{"reciprocal", "Reciprocal", nil, []*array{floats([]int{2}, 4, -0.5)}, floats([]int{2}, 0.25, -2)},
		{"sigmoid", "Sigmoid", nil, []*array{floats([]int{2}, 0, float32(math.Log(3)))}, floats([]int{2}, 0.5, 0.75)},
		{"where", "Where", nil, []*array{{dims: []int{2, 1}, kind: Bool, i: []int64{1, 0}}, x, floats(nil, -1)}, floats([]int{2, 3}, 1, 2, 3, -1, -1, -1)},
		{"greater", "Greater", nil, []*array{x, floats(nil, 4)}, &array{dims: []int{2, 3}, kind: Bool, i: []int64{0, 0, 0, 0, 1, 1}}},
		{"cast", "Cast", []Attribute{{"to", int(Float32)}}, []*array{{dims: []int{2}, kind: Uint8, i: []int64{0, 255}}}, floats([]int{2}, 0, 255)},
		{"transpose", "Transpose", []Attribute{{"perm", []int{1, 0}}}, []*array{x}, floats([]int{3, 2}, 1, 4, 2, 5, 3, 6)},
		{"transpose three axes", "Transpose", []Attribute{{"perm", []int{2, 0, 1}}}, []*array{floats([]int{2, 1, 3}, 1, 2, 3, 4, 5, 6)}, floats([]int{3, 2, 1}, 1, 4, 2, 5, 3, 6)},
		{"reshape", "Reshape", nil, []*array{x, ints64(3, -1)}, floats([]int{3, 2}, 1, 2, 3, 4, 5, 6)},
		{"expand", "Expand", nil, []*array{floats([]int{2, 1}, 1, 2), ints64(3, 1, 2)}, floats([]int{3, 2, 2}, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2)},
		{"shape", "Shape", []Attribute{{"start", 0}, {"end", 1}}, []*array{x}, ints64(2)},
		{"slice", "Slice", nil, []*array{x, ints64(1), ints64(3), ints64(1), ints64(1)}, floats([]int{2, 2}, 2, 3, 5, 6)},
		{"slice with a step", "Slice", nil, []*array{floats([]int{5}, 0, 1, 2, 3, 4), ints64(0), ints64(5), ints64(0), ints64(2)}, floats([]int{3}, 0, 2, 4)},
		{"reverse", "Slice", nil, []*array{x, ints64(-1), ints64(math.MinInt64), ints64(1), ints64(-1)}, floats([]int{2, 3}, 3, 2, 1, 6, 5, 4)},
		{"concatenate", "Concat", []Attribute{{"axis", 1}}, []*array{x, floats([]int{2, 1}, 7, 8)}, floats([]int{2, 4}, 1, 2, 3, 7, 4, 5, 6, 8)},
		{"pad and cut", "Pad", nil, []*array{x, ints64(1, 0, 0, -1), floats(nil, 9)}, floats([]int{3, 2}, 9, 9, 1, 2, 4, 5)},
		{"sum", "ReduceSum", nil, []*array{x, ints64(0)}, floats([]int{3}, 5, 7, 9)},
		{"sum of all", "ReduceSum", nil, []*array{x, ints64(0, 1)}, floats(nil, 21)},
		{"sum of two axes", "ReduceSum", nil, []*array{floats([]int{2, 2, 2}, 1, 2, 3, 4, 5, 6, 7, 8), ints64(0, 2)}, floats([]int{2}, 14, 22)},
		{"largest", "ReduceMax", nil, []*array{x, ints64(1)}, floats([]int{2}, 3, 6)},
		{"product", "ReduceProd", nil, []*array{x, ints64(1)}, floats([]int{2}, 6, 120)},
		{"matrix", "MatMul", nil, []*array{x, floats([]int{3, 2}, 1, 0, 0, 1, 1, 1)}, floats([]int{2, 2}, 4, 5, 10, 11)},
		{"vector", "MatMul", nil, []*array{floats([]int{2}, 1, 2), floats([]int{2, 2}, 1, 2, 3, 4)}, floats([]int{2}, 7, 10)},
		{"stack of matrices", "MatMul", nil, []*array{floats([]int{2, 1, 2}, 1, 2, 3, 4), floats([]int{2, 2, 1}, 1, 1, 2, 3)}, floats([]int{2, 1, 1}, 3, 18)},
		{"stack and one matrix", "MatMul", nil, []*array{floats([]int{2, 1, 2}, 1, 2, 3, 4), floats([]int{2, 1}, 1, 10)}, floats([]int{2, 1, 1}, 21, 43)},
		{"softmax", "Softmax", []Attribute{{"axis", 1}}, []*array{floats([]int{2, 2}, 0, float32(math.Log(3)), 1000, 1000)}, floats([]int{2, 2}, 0.25, 0.75, 0.5, 0.5)},
		{"softmax of columns", "Softmax", []Attribute{{"axis", 0}}, []*array{floats([]int{2, 2}, 0, 5, float32(math.Log(3)), 5)}, floats([]int{2, 2}, 0.25, 0.5, 0.75, 0.5)},
		// Φ(1) = 0.8413447461
		{"GELU", "Gelu", []Attribute{{"approximate", "none"}}, []*array{floats([]int{3}, 0, 1, -1)}, floats([]int{3}, 0, 0.8413447461, -0.1586552539)},
		// 0.5·(1 + tanh(√(2/π)·1.044715)) = 0.8411919906
		{"GELU with tanh", "Gelu", []Attribute{{"approximate", "tanh"}}, []*array{floats([]int{2}, 1, -1)}, floats([]int{2}, 0.8411919906, -0.1588080094)},
		// The mean is 3 and the variance is 4; with 5 added, the deviation is 3.
		{"layer norm", "LayerNormalization", []Attribute{{"axis", -1}, {"epsilon", float32(5)}}, []*array{floats([]int{1, 2}, 1, 5), floats([]int{2}, 3, 6), floats([]int{2}, 0, 1)}, floats([]int{1, 2}, -2, 5)},
		{"convolution", "Conv", []Attribute{{"pads", []int{0, 0, 0, 0}}}, []*array{floats([]int{1, 1, 2, 3}, 1, 2, 3, 4, 5, 6), floats([]int{1, 1, 2, 2}, 1, 0, 0, 10)}, floats([]int{1, 1, 1, 2}, 51, 62)},
		{"padded convolution with strides", "Conv", []Attribute{{"pads", []int{1, 0, 0, 1}}, {"strides", []int{2, 2}}}, []*array{floats([]int{1, 1, 2, 3}, 1, 2, 3, 4, 5, 6), floats([]int{1, 1, 2, 2}, 1, 2, 10, 20)}, floats([]int{1, 1, 1, 2}, 50, 30)},
		{"depth-wise convolution", "Conv", []Attribute{{"group", 2}}, []*array{floats([]int{1, 2, 1, 2}, 1, 2, 3, 4), floats([]int{2, 1, 1, 2}, 1, 1, 10, 1)}, floats([]int{1, 2, 1, 1}, 3, 34)},
		{"dilated convolution", "Conv", []Attribute{{"dilations", []int{1, 2}}}, []*array{floats([]int{1, 1, 1, 4}, 1, 2, 3, 4), floats([]int{1, 1, 1, 2}, 1, 10)}, floats([]int{1, 1, 1, 2}, 31, 42)},
		{"convolution of two channels", "Conv", nil, []*array{floats([]int{1, 2, 1, 1}, 3, 4), floats([]int{2, 2, 1, 1}, 1, 10, 2, 20)}, floats([]int{1, 2, 1, 1}, 43, 86)},
	} {
		got, err := run(&Node{Op: c.op, Attributes: c.at}, c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		same := slices.Equal(got.dims, c.want.dims) && got.kind == c.want.kind && slices.Equal(got.i, c.want.i) && len(got.f) == len(c.want.f)
		for i := range got.f {
			same = same && (got.f[i] == c.want.f[i] || math.Abs(float64(got.f[i]-c.want.f[i])) < 1e-6)
		}
		if !same {
			t.Errorf("%s: got %+v, expected %+v", c.name, *got, *c.want)
		}
	}
}

// TestRunRefuses checks that a model that makes no sense is an error.
func TestRunRefuses(t *testing.T) {
	images := []Value{{Images, Uint8, []int{-1, 2}}}
	logits := []Value{{Logits, Float32, []int{-1, 2}}}
	node := func(op string, at []Attribute, in ...string) []*Node {
		return []*Node{{Op: op, Inputs: in, Outputs: []string{Logits}, Attributes: at}}
	}
	weights := []*Tensor{{Name: "w", Dims: []int{3}, Data: []float32{1, 2, 3}}, {Name: "i", Dims: []int{1}, Data: []int64{5}}}
	for _, c := range []struct {
		m    Model
		want string
	}{
		{Model{Outputs: logits}, "one input"},
		{Model{Inputs: images, Outputs: logits}, "no node computes"},
		{Model{Inputs: images, Outputs: logits, Nodes: node("Identity", nil, Images)}, "unknown"},
		{Model{Inputs: images, Outputs: logits, Nodes: node("Neg", nil, "nowhere")}, `reads the value "nowhere"`},
		{Model{Inputs: images, Outputs: logits, Nodes: node("Neg", nil)}, "no input"},
		{Model{Inputs: images, Outputs: logits, Nodes: node("Add", nil, Images, "w"), Weights: weights}, "do not fit"},
		{Model{Inputs: images, Outputs: logits, Nodes: node("Transpose", []Attribute{{"perm", []int{0, 7}}}, Images)}, "out of range"},
		{Model{Inputs: images, Outputs: logits, Nodes: node("Reshape", nil, Images, "i"), Weights: weights}, "cannot become"},
		{Model{Inputs: images, Outputs: logits, Nodes: node("MatMul", nil, "w", "w"), Weights: weights}, "not matrices"},
	} {
		if _, err := c.m.Run(make([]uint8, 4), 2); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the error is %v, expected one with %q", err, c.want)
		}
	}
	m := Model{Inputs: images, Outputs: logits}
	if _, err := m.Run(make([]uint8, 3), 2); err == nil || !strings.Contains(err.Error(), "3 pixels") {
		t.Error(err)
	}
}
