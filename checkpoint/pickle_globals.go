package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/pickle"
)

// storedTensor is a tensor of PyTorch or an array of NumPy in a pickle. It implements
// [pickle.Tensor]. Its methods check it against its storage and read its values.
type storedTensor struct {
	strided
	file   string
	locate func() (blob, error) // returns the storage
	fault  error                // why the values cannot be read; nil if they can
}

// Shape returns the shape. It is empty for a scalar.
func (t *storedTensor) Shape() []int { return slices.Clone(t.shape) }

// Float32 reads the values as [File.Float32] does.
func (t *storedTensor) Float32() ([]float32, error) {
	s, err := t.stored("")
	if err != nil {
		return nil, err
	}
	x, err := s.float32()
	return x.Data, err
}

// Int64 reads a tensor of whole numbers or of bools (as 0 and 1) in row-major order. A value above
// the largest int64 and any other dtype are errors.
func (t *storedTensor) Int64() ([]int64, error) {
	s, err := t.stored("")
	if err != nil {
		return nil, err
	}
	return s.int64()
}

// stored checks that the tensor lies in its storage, and returns it under name.
func (t *storedTensor) stored(name string) (stored, error) {
	fail := func(at int64, err error) (stored, error) {
		return stored{}, &FormatError{File: t.file, Offset: at, Tensor: name, Err: err}
	}
	if t.fault != nil {
		return fail(0, t.fault)
	}
	b, err := t.locate()
	if err != nil {
		return fail(0, err)
	}
	n, err := t.bytes(b.size)
	if err != nil {
		return fail(b.begin, err)
	}
	// A stride of 0 makes a tensor of any size from a few bytes, and so do strides that overlap.
	if want, err := byteSize(t.dtype, t.shape); err == nil && want > 1<<20+4*uint64(b.size) {
		return fail(b.begin, fmt.Errorf("a tensor of type %s and shape %v takes %d bytes, more than four times the %d bytes of its storage; save a clone of the tensor", t.dtype, t.shape, want, b.size))
	}
	info := TensorInfo{Name: name, DType: t.dtype, Shape: slices.Clone(t.shape)}
	return stored{info, t.file, b.begin, func() (io.ReadCloser, error) { return t.open(b, n) }}, nil
}

// storage is an array of PyTorch that holds the values of one or more tensors.
type storage struct {
	kind   string // such as "FloatStorage"
	size   int64  // in bytes
	locate func() (blob, error)
}

// storageTypes maps the storage types of PyTorch to the dtype and the size in bytes of an element.
// The dtype is empty if tensors with such a storage cannot be read.
var storageTypes = map[string]struct {
	dtype DType
	width int64
}{
	"FloatStorage": {F32, 4}, "HalfStorage": {F16, 2}, "BFloat16Storage": {BF16, 2}, "DoubleStorage": {F64, 8},
	"LongStorage": {"I64", 8}, "IntStorage": {I32, 4}, "ShortStorage": {"I16", 2}, "CharStorage": {"I8", 1},
	"ByteStorage": {U8, 1}, "BoolStorage": {"BOOL", 1}, "ComplexFloatStorage": {"C64", 8},
	"UntypedStorage": {"", 1}, "ComplexDoubleStorage": {"", 16},
	"QInt8Storage": {"", 1}, "QUInt8Storage": {"", 1}, "QInt32Storage": {"", 4}, "QUInt4x2Storage": {"", 1}, "QUInt2x4Storage": {"", 1},
}

// torchDTypes maps the dtypes of PyTorch to the dtypes of this package. The arguments of
// _rebuild_tensor_v3 contain them, because some have no storage type.
var torchDTypes = map[string]DType{
	"torch.float32": F32, "torch.float16": F16, "torch.bfloat16": BF16, "torch.float64": F64,
	"torch.int64": "I64", "torch.int32": I32, "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": U8, "torch.bool": "BOOL",
	"torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64", "torch.complex64": "C64",
	"torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2", "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
	"torch.float8_e5m2fnuz": "F8_E5M2FNUZ", "torch.float8_e8m0fnu": "F8_E8M0",
}

// storageOf returns the value for a persistent id of PyTorch, usually a storage. The id of a
// storage is ("storage", type, key, location, elements[, view]). PyTorch before 0.4 wrote a view
// (key, offset, elements), which is a part of the storage that tensors use as a storage. find
// returns a function that locates the storage of a key, given the size of an element and of the
// storage in bytes.
func storageOf(id []pickle.Value, find func(key string, width, size int64) func() (blob, error)) (pickle.Value, error) {
	if len(id) >= 2 && id[0] == "module" { // the class of a pickled module; its source text follows
		return id[1], nil
	}
	if len(id) < 5 || len(id) > 6 || id[0] != "storage" {
		return nil, errors.New("the persistent id does not belong to a storage")
	}
	class, isClass := id[1].(*opaque)
	key, isKey := id[2].(string)
	n, isNumber := id[4].(int64)
	if !isClass || !isKey || !isNumber || n < 0 {
		return nil, errors.New("the persistent id of a storage is not of the form (\"storage\", type, key, location, elements)")
	}
	kind := class.Global[strings.LastIndexByte(class.Global, '.')+1:]
	width := max(storageTypes[kind].width, 1)
	if n > math.MaxInt64/width {
		return nil, fmt.Errorf("a storage of %d elements is too large for a file", n)
	}
	s := &storage{kind: kind, size: n * width, locate: find(key, storageTypes[kind].width, n*width)}
	if len(id) == 6 && id[5] != nil {
		view, _ := id[5].(*pickle.List)
		if view == nil || len(view.Items) != 3 {
			return nil, errors.New("the view of a storage is not of the form (key, offset, elements)")
		}
		offset, ok := view.Items[1].(int64)
		count, also := view.Items[2].(int64)
		if !ok || !also || offset < 0 || count < 0 || offset > n || count > n-offset {
			return nil, fmt.Errorf("the view of a storage reaches beyond its %d elements", n)
		}
		whole := s.locate
		s.size = count * width
		s.locate = func() (blob, error) {
			b, err := whole()
			b.begin, b.size = b.begin+offset*width, count*width
			return b, err
		}
	}
	return &opaque{Global: class.Global, called: true, storage: s}, nil
}

// construct returns the result of a call of global with args, for the globals that are needed to
// read tensors. ok is false for any other global and for unknown arguments; the result is then an
// opaque value.
func (p *unpickler) construct(global string, args []pickle.Value) (v pickle.Value, ok bool, err error) {
	switch global {
	case "collections.OrderedDict":
		return p.orderedDict(args)
	case "torch.Size":
		if len(args) == 0 {
			return &pickle.List{}, true, nil
		}
		l, ok := args[0].(*pickle.List)
		return l, ok, nil
	case "torch.device":
		return p.device(args)
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3":
		return p.tensor(global, args)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		if len(args) == 0 {
			return nil, false, errors.New("a parameter has no data")
		}
		t, ok := args[0].(*storedTensor)
		return t, ok, nil
	case "torch._tensor._rebuild_from_type_v2":
		// A tensor with attributes: (function, class, arguments of the function, state).
		if len(args) != 4 {
			return nil, false, fmt.Errorf("it is called with %d arguments; expected 4", len(args))
		}
		function, _ := args[0].(*opaque)
		inner, _ := args[2].(*pickle.List)
		if function == nil || function.called || inner == nil || !strings.HasPrefix(function.Global, "torch._utils._rebuild_") {
			return nil, false, nil
		}
		return p.construct(function.Global, inner.Items)
	case "_codecs.encode": // protocol 2 writes bytes as a call of this function
		if len(args) != 2 || args[1] != "latin1" && args[1] != "latin-1" {
			return nil, false, nil
		}
		s, _ := args[0].(string)
		b := make([]byte, 0, len(s))
		for _, r := range s {
			if r > 0xff {
				return nil, false, fmt.Errorf("the character %q is not in Latin-1", r)
			}
			b = append(b, byte(r))
		}
		return b, true, p.charge(24 + len(s))
	case "builtins.bytes", "__builtin__.bytes":
		return []byte{}, len(args) == 0, nil
	case "numpy.dtype":
		if len(args) == 0 {
			return nil, false, nil
		}
		code, _ := args[0].(string)
		return &opaque{Global: global, called: true, descr: code}, len(code) <= 16, nil
	case "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar":
		return p.scalar(args)
	case "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct":
		return &storedTensor{file: p.file, fault: errors.New("the NumPy array has no state")}, true, p.charge(160)
	case "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer":
		// An array in protocol 5: (bytes, dtype, shape, order).
		if len(args) != 4 {
			return nil, false, nil
		}
		t := &storedTensor{file: p.file}
		if err := t.array(args[2], args[1], args[3] == "F", args[0]); err != nil {
			return nil, false, err
		}
		return t, true, p.charge(192 + 16*len(t.shape))
	}
	return nil, false, nil
}

// orderedDict returns a dict with the pairs in the first argument, or an empty dict without
// arguments.
func (p *unpickler) orderedDict(args []pickle.Value) (pickle.Value, bool, error) {
	d := &pickle.Dict{}
	if len(args) == 0 {
		return d, true, nil
	}
	pairs, ok := args[0].(*pickle.List) // Python 2 passes the pairs as an argument
	if !ok {
		return nil, false, nil
	}
	for _, pair := range pairs.Items {
		l, ok := pair.(*pickle.List)
		if !ok || len(l.Items) != 2 {
			return nil, false, fmt.Errorf("a dict is built from %s; expected pairs of a key and a value", describe(pair))
		}
		if err := p.set(d, l.Items); err != nil {
			return nil, false, err
		}
	}
	return d, true, nil
}

// device returns the name of a device of PyTorch, such as "cpu" or "cuda:0".
func (p *unpickler) device(args []pickle.Value) (pickle.Value, bool, error) {
	if len(args) == 0 || len(args) > 2 {
		return nil, false, nil
	}
	name, ok := args[0].(string)
	if len(args) == 2 {
		index, isInt := args[1].(int64)
		return fmt.Sprintf("%s:%d", name, index), ok && isInt, p.charge(32 + len(name))
	}
	return name, ok, nil
}

// maxRank is the largest number of dimensions of a tensor, as in PyTorch and NumPy. Without a
// limit, a hostile pickle could use a long shape again and again through the memo.
const maxRank = 64

// ints returns the numbers of v, which must be a tuple of at most maxRank whole numbers, none of
// them negative.
func ints(v pickle.Value) ([]int64, error) {
	l, ok := v.(*pickle.List)
	if !ok || len(l.Items) > maxRank {
		return nil, fmt.Errorf("a shape or stride is %s; expected a tuple of at most %d numbers", describe(v), maxRank)
	}
	out := make([]int64, len(l.Items))
	for i, x := range l.Items {
		n, ok := x.(int64)
		if !ok || n < 0 || bits.UintSize == 32 && n > math.MaxInt32 {
			return nil, errors.New("a shape or stride is not a tuple of whole numbers, or one of them is negative")
		}
		out[i] = n
	}
	return out, nil
}

// toInts converts a shape that ints returned to []int. ints has checked that the numbers fit.
func toInts(shape []int64) []int {
	out := make([]int, len(shape))
	for i, d := range shape {
		out[i] = int(d)
	}
	return out
}

// tensor returns the tensor that a call of global builds. The arguments of _rebuild_tensor are
// (storage, offset, size, stride). Version 2 of the function adds (requires_grad, hooks, …).
// Version 3 has the dtype as its seventh argument.
func (p *unpickler) tensor(global string, args []pickle.Value) (pickle.Value, bool, error) {
	if len(args) < 4 {
		return nil, false, fmt.Errorf("it is called with %d arguments; expected at least 4", len(args))
	}
	in, _ := args[0].(*opaque)
	if in == nil || in.storage == nil {
		return nil, false, nil
	}
	offset, ok := args[1].(int64)
	if !ok || offset < 0 {
		return nil, false, errors.New("the storage offset is not a whole number, or it is negative")
	}
	shape, err := ints(args[2])
	if err != nil {
		return nil, false, err
	}
	stride, err := ints(args[3])
	if err != nil {
		return nil, false, err
	}
	s := in.storage
	t := &storedTensor{strided: strided{storageTypes[s.kind].dtype, toInts(shape), stride, offset}, file: p.file, locate: s.locate}
	if strings.HasSuffix(global, "_v3") && len(args) > 6 {
		t.dtype = ""
		if g, ok := args[6].(*opaque); ok && !g.called {
			t.dtype = torchDTypes[g.Global]
		}
	}
	if t.dtype == "" {
		t.fault = fmt.Errorf("a tensor in a storage of type %s cannot be read; expected floats, whole numbers or bools", printable(s.kind))
	}
	return t, true, p.charge(192 + 16*len(shape))
}

// npyType returns the element type for descr, a dtype as NumPy writes it, such as "<f4". NumPy has
// no bfloat16. It stores such values as V2, two bytes of unknown meaning, and so do the checkpoints
// of Google's big_vision.
func npyType(descr string) (DType, error) {
	kinds := map[string]DType{
		"f8": F64, "f4": F32, "f2": F16, "V2": BF16, "b1": "BOOL", "c8": "C64",
		"i1": "I8", "i2": "I16", "i4": I32, "i8": "I64", "u1": U8, "u2": "U16", "u4": "U32", "u8": "U64",
	}
	code := strings.TrimLeft(descr, "<=|")
	if d, ok := kinds[code]; ok && len(descr)-len(code) <= 1 {
		return d, nil
	}
	return "", fmt.Errorf("NumPy dtype %.50q cannot be read; expected little-endian floats of 2, 4 or 8 bytes, whole numbers or bools", descr)
}

// scalar returns the value of a NumPy scalar, whose arguments are (dtype, bytes).
func (p *unpickler) scalar(args []pickle.Value) (pickle.Value, bool, error) {
	if len(args) != 2 {
		return nil, false, nil
	}
	g, _ := args[0].(*opaque)
	raw, isBytes := args[1].([]byte)
	if s, ok := args[1].(string); ok { // Python 2 has the bytes in a str
		raw, isBytes = []byte(s), len(s) <= 8
	}
	if g == nil || g.descr == "" || !isBytes {
		return nil, false, nil
	}
	dtype, err := npyType(g.descr)
	if err != nil || dtype == "C64" {
		return nil, false, nil
	}
	t := storedTensor{strided: strided{dtype: dtype}, file: p.file, locate: inMemory(raw)}
	if want := t.width(); int64(len(raw)) != want {
		return nil, false, fmt.Errorf("a scalar has %d bytes; expected %d", len(raw), want)
	}
	switch {
	case dtype == F64:
		return math.Float64frombits(binary.LittleEndian.Uint64(raw)), true, nil
	case dtype.readsAsFloat32():
		x, err := t.Float32()
		if err != nil {
			return nil, false, err
		}
		return float64(x[0]), true, nil
	case dtype == "BOOL":
		return raw[0] != 0, true, nil
	}
	x, err := t.Int64()
	if err != nil {
		return nil, false, nil // the value is above the largest int64
	}
	return x[0], true, nil
}

// inMemory returns a function that returns a blob of raw.
func inMemory(raw []byte) func() (blob, error) {
	return func() (blob, error) { return blob{r: bytes.NewReader(raw), size: int64(len(raw))}, nil }
}

// build sets the state of v, an object. Only the states of NumPy dtypes and arrays are read.
func build(v, state pickle.Value) error {
	s, _ := state.(*pickle.List)
	switch v := v.(type) {
	case *opaque:
		// The state of a dtype: (version, byte order, …).
		if v.descr == "" || s == nil || len(s.Items) < 2 {
			return nil
		}
		if order, ok := s.Items[1].(string); ok && len(order) == 1 {
			v.descr = order + strings.TrimLeft(v.descr, "<>=|")
		}
	case *storedTensor:
		if v.fault == nil { // a tensor with attributes, which are not read
			return nil
		}
		// The state of an array: ([version,] shape, dtype, true for column-major order, bytes).
		if s == nil || len(s.Items) < 4 {
			return nil
		}
		items := s.Items[len(s.Items)-4:]
		return v.array(items[0], items[1], items[2] == true, items[3])
	}
	return nil
}

// array makes t an array of NumPy with the values in data.
func (t *storedTensor) array(shape, dtype pickle.Value, fortran bool, data pickle.Value) error {
	dims, err := ints(shape)
	if err != nil {
		return err
	}
	t.shape = toInts(dims)
	g, _ := dtype.(*opaque)
	raw, isBytes := data.([]byte)
	if g == nil || !isBytes {
		t.fault = fmt.Errorf("a NumPy array with dtype %s and data %s cannot be read", describe(dtype), describe(data))
		return nil
	}
	if t.dtype, t.fault = npyType(g.descr); t.fault != nil {
		return nil
	}
	t.stride = rowMajor(t.shape)
	if fortran {
		t.stride = columnMajor(t.shape)
	}
	if n, err := t.bytes(int64(len(raw))); err != nil || n != int64(len(raw)) {
		t.fault = fmt.Errorf("a NumPy array of type %s and shape %v has %d bytes, which does not fit its shape", t.dtype, t.shape, len(raw))
		return nil
	}
	t.locate = inMemory(raw)
	return nil
}
