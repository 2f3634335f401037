package onnx

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/gomlx/compute/dtypes/float16"

	"github.com/sptune/spt/internal/kernel/vector"
)

// array is a value while a model runs. Floating-point numbers are in f, all others in i.
type array struct {
	dims []int
	kind DataType
	f    []float32
	i    []int64
}

// Run computes the outputs of the model for n images, by name and in row-major order. images holds
// the pixels of the only input. Run knows the operators that [Recorder.Translate] emits, and
// computes them with plain loops. It is slower than other programs by a factor of about ten.
func (m *Model) Run(images []uint8, n int) (out map[string][]float32, err error) {
	defer func() {
		if r := recover(); r != nil { // an index of a damaged model is out of range
			out, err = nil, fmt.Errorf("running the ONNX model: %v", r)
		}
	}()
	if len(m.Inputs) != 1 || m.Inputs[0].Type != Uint8 || len(m.Inputs[0].Dims) == 0 {
		return nil, fmt.Errorf("running the ONNX model: expected one input of pixels")
	}
	dims := slices.Clone(m.Inputs[0].Dims)
	dims[0] = n
	if size(dims) != len(images) || slices.Min(dims) < 0 {
		return nil, fmt.Errorf("running the ONNX model: got %d pixels for the shape %v", len(images), dims)
	}
	values := map[string]*array{m.Inputs[0].Name: {dims: dims, kind: Uint8, i: integers(images)}}
	for _, w := range m.Weights {
		values[w.Name] = w.array()
	}
	last := map[string]int{} // the last node that reads a value
	for at, node := range m.Nodes {
		for _, name := range node.Inputs {
			last[name] = at
		}
	}
	for _, v := range m.Outputs {
		last[v.Name] = len(m.Nodes)
	}
	for at, node := range m.Nodes {
		var in []*array
		for _, name := range node.Inputs {
			v, ok := values[name]
			if !ok && name != "" {
				return nil, fmt.Errorf("running the ONNX model: node %d reads the value %q, which no earlier node computes", at, name)
			}
			in = append(in, v)
		}
		y, err := run(node, in)
		if err != nil {
			return nil, fmt.Errorf("running node %d of the ONNX model, %s: %w", at, node.Op, err)
		}
		values[node.Outputs[0]] = y
		for _, name := range node.Inputs {
			if last[name] == at {
				delete(values, name)
			}
		}
	}
	out = map[string][]float32{}
	for _, v := range m.Outputs {
		y, ok := values[v.Name]
		if !ok || y.kind != Float32 {
			return nil, fmt.Errorf("running the ONNX model: no node computes the float32 output %q", v.Name)
		}
		out[v.Name] = y.f
	}
	return out, nil
}

// integers converts integers to int64.
func integers[T uint8 | int32](v []T) []int64 {
	out := make([]int64, len(v))
	for i, n := range v {
		out[i] = int64(n)
	}
	return out
}

// array returns the values of a constant.
func (t *Tensor) array() *array {
	a := &array{dims: t.Dims, kind: t.Type()}
	switch data := t.Data.(type) {
	case []float32:
		a.f = data
	case []float16.Float16:
		a.f = make([]float32, len(data))
		for i, v := range data {
			a.f[i] = v.Float32()
		}
	case []int64:
		a.i = data
	case []int32:
		a.i = integers(data)
	case []uint8:
		a.i = integers(data)
	case []bool:
		a.i = make([]int64, len(data))
		for i, v := range data {
			a.i[i] = truth(v)
		}
	}
	return a
}

// truth returns 1 for true.
func truth(v bool) int64 {
	if v {
		return 1
	}
	return 0
}

// ints returns the values of an integer array.
func (a *array) ints() []int {
	out := make([]int, len(a.i))
	for i, v := range a.i {
		out[i] = int(v)
	}
	return out
}

// strides returns the distances between neighbours along each axis of a row-major array.
func strides(dims []int) []int {
	out := make([]int, len(dims))
	for axis, n := len(dims)-1, 1; axis >= 0; axis-- {
		out[axis] = n
		n *= dims[axis]
	}
	return out
}

// strided returns the elements of a at base + Σ index·step, in row-major order of the shape dims.
func (a *array) strided(base int, dims, steps []int) *array {
	check(dims)
	out := &array{dims: dims, kind: a.kind}
	if a.f != nil {
		out.f = gathered(a.f, base, dims, steps)
	} else {
		out.i = gathered(a.i, base, dims, steps)
	}
	return out
}

func gathered[T any](data []T, base int, dims, steps []int) []T {
	out := make([]T, 0, size(dims))
	offsets(base, dims, [][]int{steps}, func(at []int, n int, step []int) {
		for k := range n {
			out = append(out, data[at[0]+k*step[0]])
		}
	})
	return out
}

// offsets calls row for each row of the shape dims. at holds the offset of the first element of the
// row in each operand, n the length of the row, and step the distances between its elements. base
// is the offset of the first element of the first operand.
func offsets(base int, dims []int, steps [][]int, row func(at []int, n int, step []int)) {
	if size(dims) == 0 {
		return
	}
	at, step := make([]int, len(steps)), make([]int, len(steps))
	at[0] = base
	rank := len(dims)
	if rank == 0 {
		row(at, 1, step)
		return
	}
	for i := range steps {
		step[i] = steps[i][rank-1]
	}
	index := make([]int, rank-1)
	for {
		row(at, dims[rank-1], step)
		axis := rank - 2
		for ; axis >= 0; axis-- {
			index[axis]++
			for i := range steps {
				at[i] += steps[i][axis]
			}
			if index[axis] < dims[axis] {
				break
			}
			for i := range steps {
				at[i] -= steps[i][axis] * dims[axis]
			}
			index[axis] = 0
		}
		if axis < 0 {
			return
		}
	}
}

// broadcast returns the common shape of arrays, and the strides of each array in it.
func broadcast(in []*array) (dims []int, steps [][]int, err error) {
	rank := 0
	for _, a := range in {
		rank = max(rank, len(a.dims))
	}
	dims = slices.Repeat([]int{1}, rank)
	for _, a := range in {
		for i, n := range a.dims {
			d := &dims[rank-len(a.dims)+i]
			if *d == 1 {
				*d = n
			} else if n != 1 && n != *d {
				return nil, nil, fmt.Errorf("the shapes %v and %v do not fit", in[0].dims, a.dims)
			}
		}
	}
	for _, a := range in {
		own, all := strides(a.dims), make([]int, rank)
		for i, n := range a.dims {
			if n != 1 {
				all[rank-len(a.dims)+i] = own[i]
			}
		}
		steps = append(steps, all)
	}
	return dims, steps, nil
}

// unaries holds operators on one number.
var unaries = map[string]func(x float64) float64{
	"Abs": math.Abs, "Ceil": math.Ceil, "Cos": math.Cos, "Erf": math.Erf, "Exp": math.Exp, "Floor": math.Floor, "Log": math.Log,
	"Neg": func(x float64) float64 { return -x }, "Reciprocal": func(x float64) float64 { return 1 / x }, "Round": math.RoundToEven,
	"Sigmoid": func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, "Sin": math.Sin, "Sqrt": math.Sqrt, "Tanh": math.Tanh,
	"Sign": func(x float64) float64 {
		switch {
		case x > 0:
			return 1
		case x < 0:
			return -1
		}
		return x
	},
}

// binaries holds operators on two numbers.
var binaries = map[string]func(x, y float64) float64{
	"Add": func(x, y float64) float64 { return x + y }, "Div": func(x, y float64) float64 { return x / y }, "Max": math.Max, "Min": math.Min,
	"Mul": func(x, y float64) float64 { return x * y }, "Pow": math.Pow, "Sub": func(x, y float64) float64 { return x - y },
}

// comparisons holds operators on two numbers whose results are bool.
var comparisons = map[string]func(x, y float64) bool{
	"Equal": func(x, y float64) bool { return x == y }, "Greater": func(x, y float64) bool { return x > y }, "GreaterOrEqual": func(x, y float64) bool { return x >= y },
	"Less": func(x, y float64) bool { return x < y }, "LessOrEqual": func(x, y float64) bool { return x <= y },
	"And": func(x, y float64) bool { return x != 0 && y != 0 }, "Or": func(x, y float64) bool { return x != 0 || y != 0 }, "Xor": func(x, y float64) bool { return x != y },
}

// folds holds the reductions: the first value and the function that adds an element.
var folds = map[string]struct {
	first float64
	add   func(sum, x float64) float64
}{
	"ReduceSum": {0, binaries["Add"]}, "ReduceProd": {1, binaries["Mul"]}, "ReduceMax": {math.Inf(-1), math.Max}, "ReduceMin": {math.Inf(1), math.Min},
}

// at returns an element as a float64.
func (a *array) at(i int) float64 {
	if a.f != nil {
		return float64(a.f[i])
	}
	return float64(a.i[i])
}

// largestArray bounds the number of elements of a value, so that a damaged model cannot exhaust the
// memory.
const largestArray = 1 << 27

// check panics if no array can have the shape. Run returns the panic as an error.
func check(dims []int) {
	n := 1
	for _, d := range dims {
		if d < 0 || d > 0 && n > largestArray/d {
			panic(fmt.Sprintf("a value has the impossible shape %v", dims))
		}
		n *= max(d, 1)
	}
}

// newArray returns an array of zeros.
func newArray(kind DataType, dims []int) *array {
	check(dims)
	a := &array{dims: dims, kind: kind}
	if kind == Float32 || kind == Float16 {
		a.f = make([]float32, size(dims))
	} else {
		a.i = make([]int64, size(dims))
	}
	return a
}

// set stores an element.
func (a *array) set(i int, v float64) {
	if a.f != nil {
		a.f[i] = float32(v)
	} else {
		a.i[i] = int64(v)
	}
}

// run computes the result of a node.
func run(n *Node, in []*array) (*array, error) {
	if len(in) == 0 || in[0] == nil {
		return nil, fmt.Errorf("the node has no input")
	}
	x := in[0]
	rank := len(x.dims)
	if f, ok := unaries[n.Op]; ok {
		y := newArray(x.kind, x.dims)
		for i := range size(x.dims) {
			y.set(i, f(x.at(i)))
		}
		return y, nil
	}
	if f, ok := binaries[n.Op]; ok {
		return pointwise(x.kind, in, func(v []float64) float64 { return f(v[0], v[1]) })
	}
	if f, ok := comparisons[n.Op]; ok {
		return pointwise(Bool, in, func(v []float64) float64 { return float64(truth(f(v[0], v[1]))) })
	}
	if f, ok := folds[n.Op]; ok {
		return reduced(x, in[1].ints(), f.first, f.add), nil
	}
	switch n.Op {
	case "Not":
		return pointwise(Bool, in, func(v []float64) float64 { return 1 - v[0] })
	case "IsNaN":
		return pointwise(Bool, in, func(v []float64) float64 { return float64(truth(math.IsNaN(v[0]))) })
	case "Where":
		return pointwise(in[1].kind, in, func(v []float64) float64 {
			if v[0] != 0 {
				return v[1]
			}
			return v[2]
		})
	case "Cast":
		y := newArray(DataType(attribute(n, "to", 0)), x.dims)
		for i := range size(x.dims) {
			v := x.at(i)
			if y.kind == Bool {
				v = float64(truth(v != 0))
			}
			y.set(i, v)
		}
		return y, nil
	case "Shape":
		part := x.dims[attribute(n, "start", 0):min(rank, attribute(n, "end", rank))]
		y := newArray(Int64, []int{len(part)})
		for i, d := range part {
			y.i[i] = int64(d)
		}
		return y, nil
	case "Reshape":
		dims := in[1].ints()
		if unknown := slices.Index(dims, -1); unknown >= 0 {
			dims[unknown] = 1
			dims[unknown] = size(x.dims) / size(dims)
		}
		if size(dims) != size(x.dims) {
			return nil, fmt.Errorf("the shape %v cannot become %v", x.dims, dims)
		}
		return &array{dims: dims, kind: x.kind, f: x.f, i: x.i}, nil
	case "Expand":
		dims, steps, err := broadcast([]*array{x, {dims: in[1].ints()}})
		if err != nil {
			return nil, err
		}
		return x.strided(0, dims, steps[0]), nil
	case "Transpose":
		own, order := strides(x.dims), attribute(n, "perm", []int(nil))
		dims, steps := make([]int, rank), make([]int, rank)
		for i, axis := range order {
			dims[i], steps[i] = x.dims[axis], own[axis]
		}
		return x.strided(0, dims, steps), nil
	case "Slice":
		return sliced(x, in[1].ints(), in[2].ints(), in[3].ints(), in[4].ints()), nil
	case "Concat":
		return concatenated(in, attribute(n, "axis", 0))
	case "Pad":
		return padded(x, in[1].ints(), in[2].at(0)), nil
	case "MatMul":
		return product(x, in[1])
	case "Conv":
		return convolved(n, x, in[1])
	case "Softmax":
		axis := (attribute(n, "axis", -1) + rank) % rank
		y := newArray(Float32, x.dims)
		lines(x.dims, axis, func(base, count, step int) {
			most, sum := math.Inf(-1), 0.0
			for i := range count {
				most = math.Max(most, x.at(base+i*step))
			}
			for i := range count {
				sum += math.Exp(x.at(base+i*step) - most)
			}
			for i := range count {
				y.set(base+i*step, math.Exp(x.at(base+i*step)-most)/sum)
			}
		})
		return y, nil
	case "Gelu":
		phi := func(x float64) float64 { return math.Erf(x * math.Sqrt(0.5)) }
		if attribute(n, "approximate", "none") == "tanh" {
			phi = func(x float64) float64 { return math.Tanh(math.Sqrt(2/math.Pi) * (x + 0.044715*x*x*x)) }
		}
		return pointwise(Float32, in, func(v []float64) float64 { return 0.5 * v[0] * (1 + phi(v[0])) })
	case "LayerNormalization":
		axis := (attribute(n, "axis", -1) + rank) % rank
		width, y := size(x.dims[axis:]), newArray(Float32, x.dims)
		scale, epsilon := in[1], float64(attribute(n, "epsilon", float32(1e-5)))
		if size(scale.dims) != width || len(in) > 2 && size(in[2].dims) != width {
			return nil, fmt.Errorf("the scale has the shape %v, expected %v", scale.dims, x.dims[axis:])
		}
		for base := 0; base < len(x.f); base += width {
			row := x.f[base : base+width]
			mean, variance := 0.0, 0.0
			for _, v := range row {
				mean += float64(v) / float64(width)
			}
			for _, v := range row {
				variance += (float64(v) - mean) * (float64(v) - mean) / float64(width)
			}
			for i, v := range row {
				z := (float64(v) - mean) / math.Sqrt(variance+epsilon) * scale.at(i)
				if len(in) > 2 {
					z += in[2].at(i)
				}
				y.f[base+i] = float32(z)
			}
		}
		return y, nil
	}
	return nil, fmt.Errorf("this operator is unknown")
}

// pointwise computes a function of broadcast arrays.
func pointwise(kind DataType, in []*array, f func(v []float64) float64) (*array, error) {
	dims, steps, err := broadcast(in)
	if err != nil {
		return nil, err
	}
	y, done, v := newArray(kind, dims), 0, make([]float64, len(in))
	offsets(0, dims, steps, func(at []int, n int, step []int) {
		for k := range n {
			for i, a := range in {
				v[i] = a.at(at[i] + k*step[i])
			}
			y.set(done, f(v))
			done++
		}
	})
	return y, nil
}

// lines calls f for each line of elements along an axis of a row-major array.
func lines(dims []int, axis int, f func(base, count, step int)) {
	step := size(dims[axis+1:])
	for outer := range size(dims[:axis]) {
		for inner := range step {
			f(outer*dims[axis]*step+inner, dims[axis], step)
		}
	}
}

// reduced reduces the given axes and removes them.
func reduced(x *array, axes []int, first float64, add func(sum, x float64) float64) *array {
	var keep, reduce, keepSteps, reduceSteps []int
	own := strides(x.dims)
	for axis, n := range x.dims {
		if slices.Contains(axes, axis) {
			reduce, reduceSteps = append(reduce, n), append(reduceSteps, own[axis])
		} else {
			keep, keepSteps = append(keep, n), append(keepSteps, own[axis])
		}
	}
	y, done := newArray(x.kind, keep), 0
	offsets(0, keep, [][]int{keepSteps}, func(at []int, n int, step []int) {
		for k := range n {
			sum := first
			offsets(at[0]+k*step[0], reduce, [][]int{reduceSteps}, func(at []int, n int, step []int) {
				for k := range n {
					sum = add(sum, x.at(at[0]+k*step[0]))
				}
			})
			y.set(done, sum)
			done++
		}
	})
	return y
}

// sliced computes Slice.
func sliced(x *array, starts, ends, axes, steps []int) *array {
	own := strides(x.dims)
	dims, base := slices.Clone(x.dims), 0
	for i, axis := range axes {
		n, step := x.dims[axis], steps[i]
		clamp := func(v, low, high int) int {
			if v < 0 {
				v += n
			}
			return min(max(v, low), high)
		}
		start, end := clamp(starts[i], 0, n), clamp(ends[i], 0, n)
		if step < 0 {
			start, end = clamp(starts[i], 0, n-1), clamp(ends[i], -1, n-1)
		}
		dims[axis] = max(0, int(math.Ceil(float64(end-start)/float64(step))))
		base += start * own[axis]
		own[axis] *= step
	}
	return x.strided(base, dims, own)
}

// concatenated computes Concat.
func concatenated(in []*array, axis int) (*array, error) {
	dims := slices.Clone(in[0].dims)
	dims[axis] = 0
	for _, a := range in {
		dims[axis] += a.dims[axis]
		for i, n := range a.dims {
			if len(a.dims) != len(dims) || i != axis && n != dims[i] {
				return nil, fmt.Errorf("the shapes %v and %v do not fit", in[0].dims, a.dims)
			}
		}
	}
	y := &array{dims: dims, kind: in[0].kind}
	for outer := range size(dims[:axis]) {
		for _, a := range in {
			n := size(a.dims[axis:])
			if a.f != nil {
				y.f = append(y.f, a.f[outer*n:(outer+1)*n]...)
			} else {
				y.i = append(y.i, a.i[outer*n:(outer+1)*n]...)
			}
		}
	}
	return y, nil
}

// padded computes Pad with a constant. A negative number of elements removes elements.
func padded(x *array, pads []int, fill float64) *array {
	rank := len(x.dims)
	dims := make([]int, rank)
	for axis, n := range x.dims {
		dims[axis] = n + pads[axis] + pads[rank+axis]
	}
	y, own := newArray(x.kind, dims), strides(x.dims)
	for i := range size(dims) {
		rest, at, inside := i, 0, true
		for axis := rank - 1; axis >= 0; axis-- {
			index := rest%dims[axis] - pads[axis]
			rest /= dims[axis]
			inside = inside && index >= 0 && index < x.dims[axis]
			at += index * own[axis]
		}
		if inside {
			y.set(i, x.at(at))
		} else {
			y.set(i, fill)
		}
	}
	return y
}

// parallel calls f for 0 … n−1 on all processors.
func parallel(n int, f func(i int)) {
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	group.Wait()
}

// product computes MatMul. A vector on the left counts as one row.
func product(x, y *array) (*array, error) {
	if len(x.dims) == 0 || len(y.dims) < 2 || x.f == nil || y.f == nil {
		return nil, fmt.Errorf("the shapes %v and %v are not matrices of float32", x.dims, y.dims)
	}
	xd, yd := x.dims, y.dims
	if len(xd) == 1 {
		xd = []int{1, xd[0]}
	}
	rows, inner, columns := xd[len(xd)-2], xd[len(xd)-1], yd[len(yd)-1]
	if yd[len(yd)-2] != inner {
		return nil, fmt.Errorf("the shapes %v and %v do not fit", x.dims, y.dims)
	}
	outer, steps, err := broadcast([]*array{{dims: xd[:len(xd)-2]}, {dims: yd[:len(yd)-2]}})
	if err != nil {
		return nil, err
	}
	out := newArray(Float32, slices.Concat(outer, []int{rows, columns}))
	done, packed := 0, -1
	right := make([]float32, inner*columns) // transposed
	offsets(0, outer, steps, func(at []int, n int, step []int) {
		for k := range n {
			left := x.f[(at[0]+k*step[0])*rows*inner:][:rows*inner]
			if matrix := at[1] + k*step[1]; matrix != packed {
				packed = matrix
				from := y.f[matrix*inner*columns:][:inner*columns]
				parallel(columns, func(c int) {
					for i := range inner {
						right[c*inner+i] = from[i*columns+c]
					}
				})
			}
			to := out.f[done*rows*columns:][:rows*columns]
			// A block of columns stays in the cache while all rows pass by.
			const block = 64
			parallel((columns+block-1)/block, func(b int) {
				for r := range rows {
					for c := b * block; c < min(columns, (b+1)*block); c++ {
						to[r*columns+c] = vector.Dot(left[r*inner:(r+1)*inner], right[c*inner:(c+1)*inner])
					}
				}
			})
			done++
		}
	})
	if len(x.dims) == 1 {
		out.dims = slices.Delete(slices.Clone(out.dims), len(out.dims)-2, len(out.dims)-1)
	}
	return out, nil
}

// convolved computes Conv for images of two spatial axes.
func convolved(n *Node, x, w *array) (*array, error) {
	if len(x.dims) != 4 || len(w.dims) != 4 {
		return nil, fmt.Errorf("the shapes are %v and %v, expected four axes", x.dims, w.dims)
	}
	groups, pads := attribute(n, "group", 1), attribute(n, "pads", []int{0, 0, 0, 0})
	steps, dilations := attribute(n, "strides", []int{1, 1}), attribute(n, "dilations", []int{1, 1})
	batch, channels, filters, perGroup := x.dims[0], x.dims[1], w.dims[0], w.dims[1]
	if channels != perGroup*groups || filters%groups != 0 {
		return nil, fmt.Errorf("the shapes %v and %v do not fit %d groups", x.dims, w.dims, groups)
	}
	dims := []int{batch, filters, 0, 0}
	for i := range 2 {
		dims[2+i] = (x.dims[2+i]+pads[i]+pads[2+i]-dilations[i]*(w.dims[2+i]-1)-1)/steps[i] + 1
	}
	y := newArray(Float32, dims)
	height, width := x.dims[2], x.dims[3]
	parallel(batch*filters, func(plane int) {
		image, filter := plane/filters, plane%filters
		first := filter / (filters / groups) * perGroup
		for row := range dims[2] {
			for column := range dims[3] {
				sum := 0.0
				for c := range perGroup {
					from := x.f[(image*channels+first+c)*height*width:]
					kernel := w.f[(filter*perGroup+c)*w.dims[2]*w.dims[3]:]
					for i := range w.dims[2] {
						r := row*steps[0] - pads[0] + i*dilations[0]
						if r < 0 || r >= height {
							continue
						}
						for j := range w.dims[3] {
							if q := column*steps[1] - pads[1] + j*dilations[1]; q >= 0 && q < width {
								sum += float64(from[r*width+q]) * float64(kernel[i*w.dims[3]+j])
							}
						}
					}
				}
				y.f[(plane*dims[2]+row)*dims[3]+column] = float32(sum)
			}
		}
	})
	return y, nil
}
