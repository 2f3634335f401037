package onnx

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// The names of the input and of the outputs of translated models.
const (
	Images        = "images"
	Logits        = "logits"
	Probabilities = "probabilities"
)

// Translate returns a model that computes what the recorded program computes, for any number of
// images. Its input is [Images], and its output is [Logits]. The program must have run twice, with
// the numbers of images in [Batches], and have one output. Its inputs other than the images become
// constants of the model, as does everything that depends on them alone. names maps the values of
// inputs to names that constants get, and may be nil; see [Sum].
func (r *Recorder) Translate(names map[[sha256.Size]byte]string) (*Model, error) {
	if len(r.programs) != 2 || r.programs[1].constants == nil {
		return nil, fmt.Errorf("translating to ONNX: the program was compiled %d times; run it once for each of %v images", len(r.programs), Batches)
	}
	f, err := newFlow(r.programs[0], r.programs[1])
	if err != nil {
		return nil, fmt.Errorf("translating to ONNX: %w", err)
	}
	t := &translation{flow: f, model: &Model{Name: "classifier"}, values: make([]*value, len(f.ops)), names: names, byContent: map[[sha256.Size]byte]*Tensor{}, taken: map[string]bool{Images: true, Logits: true, Probabilities: true, calibrated: true, temperature: true}}
	for _, o := range f.ops {
		if f.needed[o.id] {
			v, err := t.translate(o)
			if err != nil {
				return nil, fmt.Errorf("translating the operation %s to ONNX: %w", o.kind, err)
			}
			t.values[o.id] = v
		}
	}
	if err := t.finish(); err != nil {
		return nil, fmt.Errorf("translating to ONNX: %w", err)
	}
	return t.model, nil
}

// Sum returns the key of values in the map of [Recorder.Translate].
func Sum(values []float32) [sha256.Size]byte {
	return (&Tensor{Dims: []int{len(values)}, Data: values}).sum()
}

// sum returns a hash of the values of t, without the shape.
func (t *Tensor) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	fmt.Fprintln(h, t.Type())
	_ = t.write(h) // a hash never fails
	h.Sum(sum[:0])
	return sum
}

// translation is a model in the making.
type translation struct {
	*flow
	model  *Model
	values []*value // by op.id
	names  map[[sha256.Size]byte]string
	// The constants of the model, by a hash of shape and values.
	byContent map[[sha256.Size]byte]*Tensor
	taken     map[string]bool // names of values
	batch     string          // the value that holds the number of images, int64 [1]
}

// value is the translation of the result of an operation.
type value struct {
	// name is the name of the value. It is empty for a constant that no node uses yet.
	name string
	// dims holds the shape of the named value. Operators of ONNX broadcast axes of size 1, so an
	// axis may have the size 1 where the result of the operation is larger.
	dims  []dim
	dtype dtypes.DType
	// constant holds the values of a constant, of the shape dims.
	constant *Tensor
	// source and permutation say that the value is a transpose of another value.
	source      *value
	permutation []int
}

// node appends a node with one result, and returns the name of the result.
func (t *translation) node(op string, attributes []Attribute, inputs ...string) string {
	name := t.name(op, len(t.model.Nodes)+1)
	t.model.Nodes = append(t.model.Nodes, &Node{Op: op, Inputs: inputs, Outputs: []string{name}, Attributes: attributes})
	return name
}

// weight adds a constant to the model, unless it has one with the same shape and values, and
// returns its name.
func (t *translation) weight(w *Tensor) string {
	h := sha256.New()
	fmt.Fprintln(h, w.Dims, w.Type())
	_ = w.write(h)
	key := [sha256.Size]byte(h.Sum(nil))
	if first, ok := t.byContent[key]; ok {
		return first.Name
	}
	name := w.Name
	if name == "" || t.taken[name] {
		name = t.name(cmp.Or(name, "constant"), len(t.model.Weights)+1)
	}
	own := &Tensor{Name: name, Dims: w.Dims, Data: w.Data}
	t.taken[name], t.byContent[key] = true, own
	t.model.Weights = append(t.model.Weights, own)
	return name
}

// name returns a new name of a value, with a number that is at least n.
func (t *translation) name(base string, n int) string {
	name := ""
	for ; name == "" || t.taken[name]; n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	t.taken[name] = true
	return name
}

// int64s returns the name of a constant with the given integers.
func (t *translation) int64s(v []int) string {
	data := make([]int64, len(v))
	for i, n := range v {
		data[i] = int64(n)
	}
	return t.weight(&Tensor{Dims: []int{len(v)}, Data: data})
}

// use returns the name of a value, and adds a constant to the model.
func (t *translation) use(v *value) string {
	if v.name == "" {
		v.name = t.weight(v.constant)
	}
	return v.name
}

// operand returns the translation of operand i of o, with axes of size 1 where it broadcasts.
func (t *translation) operand(o *op, i int) *value { return t.values[o.in[i].id] }

// whole returns the translation of operand i of o in the shape of the operand.
func (t *translation) whole(o *op, i int) *value {
	v, want := t.operand(o, i), t.dims[o.in[i].id]
	if slices.Equal(v.dims, want) {
		return v
	}
	// Expand broadcasts in both directions, so an axis that already has its size may be 1.
	target := slices.Clone(want)
	for axis := range target {
		if v.dims[axis] == target[axis] {
			target[axis] = dim{n: 1}
		}
	}
	return &value{name: t.node("Expand", nil, t.use(v), t.shape(target)), dims: want, dtype: v.dtype}
}

// shape returns the name of a value, int64 [len(dims)], with the sizes of axes.
func (t *translation) shape(dims []dim) string {
	if !slices.ContainsFunc(dims, func(d dim) bool { return d.batch }) {
		v := make([]int, len(dims))
		for i, d := range dims {
			v[i] = d.n
		}
		return t.int64s(v)
	}
	if t.batch == "" {
		t.batch = t.node("Shape", []Attribute{{"start", 0}, {"end", 1}}, Images)
	}
	parts := make([]string, len(dims))
	for i, d := range dims {
		switch {
		case !d.batch:
			parts[i] = t.int64s([]int{d.n})
		case d.n == 1:
			parts[i] = t.batch
		default:
			parts[i] = t.node("Mul", nil, t.batch, t.int64s([]int{d.n}))
		}
	}
	return t.node("Concat", []Attribute{{"axis", 0}}, parts...)
}

// reshape returns v in another shape of the same size.
func (t *translation) reshape(v *value, dims []dim) *value {
	if slices.Equal(v.dims, dims) {
		return v
	}
	if v.constant != nil {
		return constantValue(&Tensor{Name: v.constant.Name, Dims: numbers(dims), Data: v.constant.Data}, v.dtype)
	}
	fixed, unknown := make([]int, len(dims)), 0
	for i, d := range dims {
		fixed[i] = d.n
		if d.batch {
			fixed[i] = -1
			unknown++
		}
	}
	shape := ""
	if unknown <= 1 {
		shape = t.int64s(fixed)
	} else {
		shape = t.shape(dims)
	}
	return &value{name: t.node("Reshape", nil, t.use(v), shape), dims: dims, dtype: v.dtype}
}

// numbers returns sizes that do not depend on the number of images.
func numbers(dims []dim) []int {
	out := make([]int, len(dims))
	for i, d := range dims {
		out[i] = d.n
	}
	return out
}

// fixed returns the sizes of a shape that does not depend on the number of images.
func fixed(shape []int) []dim {
	out := make([]dim, len(shape))
	for i, n := range shape {
		out[i] = dim{n: n}
	}
	return out
}

// constantValue returns the value of a constant.
func constantValue(w *Tensor, dtype dtypes.DType) *value {
	return &value{dims: fixed(w.Dims), dtype: dtype, constant: w}
}

// transpose returns v with its axes in another order.
func (t *translation) transpose(v *value, permutation []int) *value {
	if slices.IsSorted(permutation) {
		return v
	}
	dims := make([]dim, len(permutation))
	for i, axis := range permutation {
		dims[i] = v.dims[axis]
	}
	if v.constant != nil {
		w := transposed(v.constant, permutation)
		return constantValue(w, v.dtype)
	}
	if v.source != nil {
		both := make([]int, len(permutation))
		for i, axis := range permutation {
			both[i] = v.permutation[axis]
		}
		return t.transpose(v.source, both)
	}
	name := t.node("Transpose", []Attribute{{"perm", slices.Clone(permutation)}}, t.use(v))
	return &value{name: name, dims: dims, dtype: v.dtype, source: v, permutation: permutation}
}

// transposed returns a constant with its axes in another order.
func transposed(w *Tensor, permutation []int) *Tensor {
	dims := make([]int, len(permutation))
	for i, axis := range permutation {
		dims[i] = w.Dims[axis]
	}
	at := transposedIndex(w.Dims, permutation)
	out := &Tensor{Name: w.Name, Dims: dims}
	switch data := w.Data.(type) {
	case []float32:
		out.Data = picked(data, at)
	case []int32:
		out.Data = picked(data, at)
	case []int64:
		out.Data = picked(data, at)
	case []uint8:
		out.Data = picked(data, at)
	case []bool:
		out.Data = picked(data, at)
	}
	return out
}

// transposedIndex returns, for each element of a transpose, its position in the original of the
// shape dims.
func transposedIndex(dims, permutation []int) []int32 {
	strides := make([]int, len(dims))
	for axis, n := len(dims)-1, 1; axis >= 0; axis-- {
		strides[axis] = n
		n *= dims[axis]
	}
	at := []int32{0}
	for _, axis := range permutation {
		next := make([]int32, 0, len(at)*dims[axis])
		for _, base := range at {
			for i := range dims[axis] {
				next = append(next, base+int32(i*strides[axis]))
			}
		}
		at = next
	}
	return at
}

// picked returns the elements of data at the given positions.
func picked[T any](data []T, at []int32) []T {
	out := make([]T, len(at))
	for i, p := range at {
		out[i] = data[p]
	}
	return out
}

// elementwise maps operations to operators that broadcast their operands.
var elementwise = map[compute.OpType]string{
	compute.OpTypeAbs: "Abs", compute.OpTypeCeil: "Ceil", compute.OpTypeCos: "Cos", compute.OpTypeErf: "Erf", compute.OpTypeExp: "Exp",
	compute.OpTypeFloor: "Floor", compute.OpTypeIsNaN: "IsNaN", compute.OpTypeLog: "Log", compute.OpTypeLogicalNot: "Not",
	compute.OpTypeLogistic: "Sigmoid", compute.OpTypeNeg: "Neg", compute.OpTypeRound: "Round", compute.OpTypeSign: "Sign",
	compute.OpTypeSin: "Sin", compute.OpTypeSqrt: "Sqrt", compute.OpTypeTanh: "Tanh",

	compute.OpTypeAdd: "Add", compute.OpTypeDiv: "Div", compute.OpTypeEqual: "Equal", compute.OpTypeGreaterOrEqual: "GreaterOrEqual",
	compute.OpTypeGreaterThan: "Greater", compute.OpTypeLessOrEqual: "LessOrEqual", compute.OpTypeLessThan: "Less",
	compute.OpTypeLogicalAnd: "And", compute.OpTypeLogicalOr: "Or", compute.OpTypeLogicalXor: "Xor",
	compute.OpTypeMax: "Max", compute.OpTypeMin: "Min", compute.OpTypeMul: "Mul", compute.OpTypePow: "Pow", compute.OpTypeSub: "Sub",

	compute.OpTypeWhere: "Where",
}

// reductions maps operations to operators.
var reductions = map[compute.OpType]string{
	compute.OpTypeReduceMax: "ReduceMax", compute.OpTypeReduceMin: "ReduceMin", compute.OpTypeReduceProduct: "ReduceProd", compute.OpTypeReduceSum: "ReduceSum",
}

// errUnknown is the error for an operation without a translation.
var errUnknown = errors.New("there is no translation of this operation on values that depend on the images; compute the same with other operations")

// translate adds the nodes of an operation.
func (t *translation) translate(o *op) (*value, error) {
	dims, dtype := t.dims[o.id], o.shape.DType
	if o == t.images {
		kind, err := dataType(dtype)
		t.model.Inputs = []Value{{Images, kind, signature(dims)}}
		return &value{name: Images, dims: dims, dtype: dtype}, err
	}
	if t.constant[o.id] {
		w := t.program.constants[o]
		named := &Tensor{Dims: w.Dims, Data: w.Data}
		if o.kind == compute.OpTypeParameter && t.names != nil {
			named.Name = t.names[w.sum()]
		}
		_, err := dataType(dtype)
		return constantValue(named, dtype), err
	}
	if t.differs[o.id] {
		return nil, errors.New("a constant of the program depends on the number of images; compute it from the images")
	}
	if name, ok := elementwise[o.kind]; ok {
		return t.elementwise(name, o), nil
	}
	if name, ok := reductions[o.kind]; ok {
		x := t.whole(o, 0)
		axes := o.attrs.([]int)
		if len(axes) == 0 {
			for i := range x.dims {
				axes = append(axes, i)
			}
		}
		return &value{name: t.node(name, []Attribute{{"keepdims", 0}}, t.use(x), t.int64s(axes)), dims: dims, dtype: dtype}, nil
	}
	// result returns the value of one node with the operator op.
	result := func(op string, attributes []Attribute, inputs ...string) (*value, error) {
		return &value{name: t.node(op, attributes, inputs...), dims: dims, dtype: dtype}, nil
	}
	switch o.kind {
	case compute.OpTypeBroadcastInDim:
		// The operators that read the result broadcast it. Only axes are added here.
		x := t.operand(o, 0)
		axes := make([]dim, len(dims))
		for i := range axes {
			axes[i] = dim{n: 1}
		}
		for i, axis := range o.attrs.([]int) {
			axes[axis] = x.dims[i]
		}
		return t.reshape(x, axes), nil
	case compute.OpTypeNotEqual:
		equal := t.elementwise("Equal", o)
		equal.name = t.node("Not", nil, equal.name)
		return equal, nil
	case compute.OpTypeRsqrt:
		x := t.operand(o, 0)
		return &value{name: t.node("Reciprocal", nil, t.node("Sqrt", nil, t.use(x))), dims: x.dims, dtype: dtype}, nil
	case compute.OpTypeConvertDType:
		x := t.operand(o, 0)
		kind, err := dataType(dtype)
		if err != nil || dtype == x.dtype {
			return x, err
		}
		return &value{name: t.node("Cast", []Attribute{{"to", int(kind)}}, t.use(x)), dims: x.dims, dtype: dtype}, nil
	case compute.OpTypeTranspose:
		return t.transpose(t.operand(o, 0), o.attrs.([]int)), nil
	case compute.OpTypeConcatenate:
		var names []string
		for i := range o.in {
			x := t.whole(o, i)
			names = append(names, t.use(x))
		}
		return result("Concat", []Attribute{{"axis", o.attrs.(int)}}, names...)
	case compute.OpTypeDotGeneral:
		return t.dotGeneral(o)
	}

	// The other operations have one operand that may be broadcast, and constants.
	if len(o.in) == 0 {
		return nil, errUnknown
	}
	x := t.whole(o, 0)
	switch o.kind {
	case compute.OpTypeReshape:
		return t.reshape(x, dims), nil
	case compute.OpTypeClamp:
		// The operands are low, x and high.
		return result("Min", nil, t.node("Max", nil, t.use(t.operand(o, 1)), t.use(x)), t.use(t.operand(o, 2)))
	case compute.OpTypeSlice:
		return t.slice(o, x)
	case compute.OpTypeReverse:
		axes := o.attrs.([]int)
		all := func(n int) string { return t.int64s(slices.Repeat([]int{n}, len(axes))) }
		return result("Slice", nil, t.use(x), all(-1), all(math.MinInt64), t.int64s(axes), all(-1))
	case compute.OpTypePad:
		var starts, ends []int
		for _, a := range o.attrs.([]compute.PadAxis) {
			if a.Interior != 0 {
				return nil, errors.New("padding between elements has no translation; pad only before and after the elements")
			}
			starts, ends = append(starts, a.Start), append(ends, a.End)
		}
		none := make([]int, len(dims)-len(starts))
		return result("Pad", nil, t.use(x), t.int64s(slices.Concat(starts, none, ends, none)), t.use(t.operand(o, 1)))
	case compute.OpTypeConvGeneral:
		return t.convolution(o, x)
	case compute.OpTypeFusedSoftmax:
		return result("Softmax", []Attribute{{"axis", o.attrs.(int)}}, t.use(x))
	case compute.OpTypeFusedGelu:
		approximate := "tanh"
		if o.attrs.(bool) {
			approximate = "none"
		}
		return result("Gelu", []Attribute{{"approximate", approximate}}, t.use(x))
	case compute.OpTypeFusedLayerNorm:
		a, names := o.attrs.(norm), []string{t.use(x)}
		for i := 1; i < len(o.in) && o.in[i] != nil; i++ {
			w := t.whole(o, i)
			names = append(names, t.use(w))
		}
		return result("LayerNormalization", []Attribute{{"axis", -a.axes}, {"epsilon", float32(a.epsilon)}}, names...)
	}
	return nil, errUnknown
}

// elementwise adds an operator that broadcasts its operands.
func (t *translation) elementwise(name string, o *op) *value {
	names, dims := make([]string, len(o.in)), make([]dim, o.shape.Rank())
	for i := range dims {
		dims[i] = dim{n: 1}
	}
	for i := range o.in {
		x := t.operand(o, i)
		names[i] = t.use(x)
		for axis, d := range x.dims { // a scalar has no axes
			if dims[axis] == (dim{n: 1}) {
				dims[axis] = d
			}
		}
	}
	return &value{name: t.node(name, nil, names...), dims: dims, dtype: o.shape.DType}
}

// slice translates Slice.
func (t *translation) slice(o *op, x *value) (*value, error) {
	a := o.attrs.(slice)
	var starts, ends, axes, steps []int
	for axis, size := range o.in[0].shape.Dimensions {
		start, end, step := a.starts[axis], a.limits[axis], 1
		if len(a.strides) > 0 {
			step = a.strides[axis]
		}
		if start == 0 && end == size && step == 1 {
			continue
		}
		if x.dims[axis].batch {
			return nil, fmt.Errorf("the elements %d to %d of the batch axis %d are selected; a model must compute each image alone", start, end, axis)
		}
		starts, ends, axes, steps = append(starts, start), append(ends, end), append(axes, axis), append(steps, step)
	}
	if len(axes) == 0 {
		return x, nil
	}
	name := t.node("Slice", nil, t.use(x), t.int64s(starts), t.int64s(ends), t.int64s(axes), t.int64s(steps))
	return &value{name: name, dims: t.dims[o.id], dtype: x.dtype}, nil
}

// joined returns v with the axes order[0]…order[split−1] and the remaining axes of order joined
// into two axes after the first keep axes, unless each part has one axis already.
func (t *translation) joined(v *value, order []int, keep, split int) (*value, error) {
	v = t.transpose(v, order)
	dims := slices.Clone(v.dims[:keep])
	for _, part := range [][]dim{v.dims[keep:split], v.dims[split:]} {
		d := dim{n: 1}
		for _, p := range part {
			if d.batch && p.batch {
				return nil, errors.New("two axes that depend on the number of images are joined; a model must compute each image alone")
			}
			d = dim{d.n * p.n, d.batch || p.batch}
		}
		dims = append(dims, d)
	}
	return t.reshape(v, dims), nil
}

// dotGeneral translates DotGeneral to MatMul.
func (t *translation) dotGeneral(o *op) (*value, error) {
	a := o.attrs.(dot)
	x := t.whole(o, 0)
	y := t.whole(o, 1)
	free := func(rank int, used ...[]int) (axes []int) {
		for i := range rank {
			if !slices.Contains(slices.Concat(used...), i) {
				axes = append(axes, i)
			}
		}
		return axes
	}
	xFree, yFree := free(len(x.dims), a.left, a.leftBatch), free(len(y.dims), a.right, a.rightBatch)
	keep := len(a.leftBatch)
	xOrder, yOrder := slices.Concat(a.leftBatch, xFree, a.left), slices.Concat(a.rightBatch, a.right, yFree)
	// y becomes [batch…, contracted, free], and x [batch…, free, contracted]. Without batch axes
	// MatMul allows many free axes of x.
	var err error
	if keep == 0 && len(a.left) == 1 && len(xFree) > 0 {
		x = t.transpose(x, xOrder)
	} else if x, err = t.joined(x, xOrder, keep, keep+len(xFree)); err != nil {
		return nil, err
	}
	if y, err = t.joined(y, yOrder, keep, keep+len(a.right)); err != nil {
		return nil, err
	}
	dims := append(slices.Clone(x.dims[:len(x.dims)-1]), y.dims[len(y.dims)-1])
	product := &value{name: t.node("MatMul", nil, t.use(x), t.use(y)), dims: dims, dtype: x.dtype}
	if product = t.reshape(product, t.dims[o.id]); o.shape.DType == x.dtype {
		return product, nil
	}
	kind, err := dataType(o.shape.DType)
	return &value{name: t.node("Cast", []Attribute{{"to", int(kind)}}, product.name), dims: product.dims, dtype: o.shape.DType}, err
}

// convolution translates ConvGeneral to Conv, which wants the axes batch, channels, spatial.
func (t *translation) convolution(o *op, x *value) (*value, error) {
	a := o.attrs.(convolution)
	if a.batchGroups > 1 || slices.ContainsFunc(a.inputDilations, func(n int) bool { return n != 1 }) {
		return nil, errors.New("a convolution with groups of images or a dilated input has no translation; use a plain convolution")
	}
	kernel := t.whole(o, 1)
	x = t.transpose(x, slices.Concat([]int{a.axes.InputBatch, a.axes.InputChannels}, a.axes.InputSpatial))
	kernel = t.transpose(kernel, slices.Concat([]int{a.axes.KernelOutputChannels, a.axes.KernelInputChannels}, a.axes.KernelSpatial))
	n := len(a.axes.InputSpatial)
	ones, pads := slices.Repeat([]int{1}, n), make([]int, 2*n)
	for i, p := range a.paddings {
		pads[i], pads[n+i] = p[0], p[1]
	}
	or := func(v []int) []int {
		if len(v) == 0 {
			return ones
		}
		return v
	}
	attributes := []Attribute{{"dilations", or(a.kernelDilations)}, {"group", max(1, a.groups)}, {"kernel_shape", numbers(kernel.dims[2:])}, {"pads", pads}, {"strides", or(a.strides)}}
	order := slices.Concat([]int{a.axes.OutputBatch, a.axes.OutputChannels}, a.axes.OutputSpatial)
	dims, back := make([]dim, len(order)), make([]int, len(order))
	for i, axis := range order {
		dims[i], back[axis] = t.dims[o.id][axis], i
	}
	y := &value{name: t.node("Conv", attributes, t.use(x), t.use(kernel)), dims: dims, dtype: x.dtype}
	return t.transpose(y, back), nil
}

// signature returns a shape as a Value describes it.
func signature(dims []dim) []int {
	out := make([]int, len(dims))
	for i, d := range dims {
		out[i] = d.n
		if d.batch {
			out[i] = -1
		}
	}
	return out
}

// finish names the output, and removes what nothing reads.
func (t *translation) finish() error {
	o := t.outputs[0]
	v, dims := t.values[o.id], t.dims[o.id]
	if !slices.Equal(v.dims, dims) {
		return errors.New("the output does not depend on the images")
	}
	for i, d := range dims {
		if d.batch != (i == 0) || i == 0 && d.n != 1 {
			return fmt.Errorf("axis %d of the output, which has %d axes, does not have the expected size; the first axis must be that of the images, and no other", i, len(dims))
		}
	}
	last := slices.IndexFunc(t.model.Nodes, func(n *Node) bool { return n.Outputs[0] == v.name })
	if last < 0 {
		return errors.New("the output is an input")
	}
	for _, n := range t.model.Nodes {
		for i, name := range n.Inputs {
			if name == v.name {
				n.Inputs[i] = Logits
			}
		}
	}
	t.model.Nodes[last].Outputs[0] = Logits
	t.model.Outputs = []Value{{Logits, Float32, signature(dims)}}
	read := map[string]bool{Logits: true}
	var nodes []*Node
	for _, n := range slices.Backward(t.model.Nodes) {
		if read[n.Outputs[0]] {
			nodes = append(nodes, n)
			for _, name := range n.Inputs {
				read[name] = true
			}
		}
	}
	slices.Reverse(nodes)
	t.model.Nodes = nodes
	t.model.Weights = slices.DeleteFunc(t.model.Weights, func(w *Tensor) bool { return !read[w.Name] })
	return nil
}

// The names of the values between logits and probabilities.
const temperature, calibrated = "temperature", "calibrated"

// AddProbabilities adds the output [Probabilities], the softmax of the logits divided by divisor.
// The logits must have the shape [B, C].
func (m *Model) AddProbabilities(divisor float64) {
	in := Logits
	if divisor != 1 {
		m.Weights = append(m.Weights, &Tensor{Name: temperature, Data: []float32{float32(divisor)}})
		in = calibrated
		m.Nodes = append(m.Nodes, &Node{Op: "Div", Inputs: []string{Logits, temperature}, Outputs: []string{in}})
	}
	m.Nodes = append(m.Nodes, &Node{Op: "Softmax", Inputs: []string{in}, Outputs: []string{Probabilities}, Attributes: []Attribute{{"axis", 1}}})
	m.Outputs = append(m.Outputs, Value{Probabilities, Float32, slices.Clone(m.Outputs[0].Dims)})
}

// AddSigmoid adds the output [Probabilities], the sigmoid of the logits.
func (m *Model) AddSigmoid() {
	m.Nodes = append(m.Nodes, &Node{Op: "Sigmoid", Inputs: []string{Logits}, Outputs: []string{Probabilities}})
	m.Outputs = append(m.Outputs, Value{Probabilities, Float32, slices.Clone(m.Outputs[0].Dims)})
}
