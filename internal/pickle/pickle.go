// Package pickle defines the Go types of the values in a Python pickle. [Value] lists them. Package
// checkpoint reads pickles and returns these values; package published uses them to read the
// selections of the authors of the paper. Nothing in a pickle is executed. [Check] protects against
// values that contain themselves or nest too deep.
package pickle

import (
	"fmt"
	"iter"
)

// Value is a value of a pickle. Its type is one of
//   - nil for None
//   - bool, float64 and []byte
//   - int64, or *[big.Int] for a number that int64 cannot hold
//   - string, which may be invalid UTF-8
//   - *[List] for a list or tuple, and *[Dict]
//   - [Tensor]
//   - any other type for a value that only Python code can build
//
// Lists and dicts do not contain themselves and nest at most [MaxHeight] deep. But the same value
// may occur in many places, so a loop over all values inside an untrusted Value may never end.
// Access only the values that you expect.
type Value any

// List is a Python list or tuple, or a torch.Size.
type List struct {
	// Items holds the elements.
	Items []Value

	nesting nesting
}

// String returns a short description for errors, such as "a list of 3 elements".
func (l *List) String() string { return fmt.Sprintf("a list of %d elements", len(l.Items)) }

// Dict is a Python dict or collections.OrderedDict. It keeps the order of its pairs. No two keys of
// a plain type (None, bool, int, float or string) are equal.
type Dict struct {
	keys, values []Value
	index        map[Value]int
	nesting      nesting
}

// Get returns the value of a key. ok is false if the dict has no such key.
func (d *Dict) Get(key string) (v Value, ok bool) {
	i, ok := d.index[key]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// Len returns the number of pairs.
func (d *Dict) Len() int { return len(d.keys) }

// All returns an iterator over the pairs of key and value, in order.
func (d *Dict) All() iter.Seq2[Value, Value] {
	return func(yield func(Value, Value) bool) {
		for i, key := range d.keys {
			if !yield(key, d.values[i]) {
				return
			}
		}
	}
}

// Add appends a pair. It is an error if the dict already has the key and the key has a plain type:
// None, bool, int, float or string.
func (d *Dict) Add(key, value Value) error {
	switch key.(type) {
	case nil, bool, int64, float64, string:
		if _, twice := d.index[key]; twice {
			return fmt.Errorf("a dict has the key %.100q twice", fmt.Sprint(key))
		}
		if d.index == nil {
			d.index = map[Value]int{}
		}
		d.index[key] = len(d.keys)
	}
	d.keys, d.values = append(d.keys, key), append(d.values, value)
	return nil
}

// String returns a short description for errors, such as "a dict of 3 pairs".
func (d *Dict) String() string { return fmt.Sprintf("a dict of %d pairs", d.Len()) }

// Tensor is a tensor of PyTorch or an array of NumPy in a pickle. The methods Float32 and Int64
// check it and read its values.
type Tensor interface {
	// Shape returns the dimensions, outermost first. They are empty for a scalar.
	Shape() []int
	// Float32 reads the values in row-major order. F32 values stay as they are, F16 and BF16 values
	// are widened exactly, and F64 values are rounded to the nearest float32. Any other element
	// type is an error.
	Float32() ([]float32, error)
	// Int64 reads the values of a tensor of whole numbers or of bools (as 0 and 1) in row-major
	// order. A value above the largest int64 and any other element type are errors.
	Int64() ([]int64, error)
}

// nesting holds what Check has found out about a list or dict.
type nesting struct {
	state  byte // 0: not visited, 1: its elements are being visited, 2: done
	height int  // one more than the largest height of a list or dict in it; 0 if it has none
}

// MaxHeight is the largest depth to which lists and dicts may nest. Those of PyTorch checkpoints
// nest about ten deep.
const MaxHeight = 200

// Check returns an error if a list or dict in v contains itself, or if lists and dicts nest more
// than [MaxHeight] deep. It visits each list and dict once, and it does not use recursion, so that
// a hostile value cannot overflow the stack of the program.
func Check(v Value) error {
	type frame struct {
		v    Value
		n    *nesting
		next int // index of the next element to visit; keys of a dict come before its values
	}
	var path []frame
	enter := func(v Value) error {
		var n *nesting
		switch v := v.(type) {
		case *List:
			n = &v.nesting
		case *Dict:
			n = &v.nesting
		default:
			return nil
		}
		if n.state == 0 {
			n.state = 1
			path = append(path, frame{v, n, 0})
		} else if n.state == 1 {
			return fmt.Errorf("%v contains itself", v)
		} else if len(path) > 0 {
			last := path[len(path)-1].n
			last.height = max(last.height, n.height+1)
		}
		if len(path) > MaxHeight || len(path) > 0 && path[len(path)-1].n.height > MaxHeight {
			return fmt.Errorf("lists and dicts nest more than %d deep", MaxHeight)
		}
		return nil
	}
	err := enter(v)
	for err == nil && len(path) > 0 {
		f := &path[len(path)-1]
		i := f.next
		f.next++
		switch v := f.v.(type) {
		case *List:
			if i < len(v.Items) {
				err = enter(v.Items[i])
				continue
			}
		case *Dict:
			if i < len(v.keys) {
				err = enter(v.keys[i])
				continue
			}
			if i -= len(v.keys); i < len(v.values) {
				err = enter(v.values[i])
				continue
			}
		}
		f.n.state = 2
		v := f.v
		path = path[:len(path)-1]
		if len(path) > 0 {
			err = enter(v) // its state is 2, so this call only updates the height of the parent
		}
	}
	return err
}
