// Package pickle holds the values of Python's pickles, as package checkpoint reads them. It only
// holds them: nothing that a pickle asks for is executed.
package pickle

import (
	"fmt"
	"iter"
)

// Value is a value of a pickle: nil (None), bool, int64, *[big.Int] (a number beyond int64),
// float64, string (which may be invalid UTF-8), []byte, *[List], *[Dict], [Tensor], or a value of
// another type that stands for what only Python code could build. Lists and dicts hold no cycle and
// nest at most 200 deep, but one value may stand in many places. To walk an untrusted Value to its
// leaves can take forever, so look only for the values that are expected.
type Value any

// List is a Python list or tuple, or a torch.Size.
type List struct {
	Items []Value

	nesting nesting
}

// String returns a few words for an error: "a list of 3".
func (l *List) String() string { return fmt.Sprintf("a list of %d", len(l.Items)) }

// Dict is a Python dict or collections.OrderedDict in its order. No two keys are the same.
type Dict struct {
	keys, values []Value
	index        map[Value]int
	nesting      nesting
}

// Get returns the value under a key; false if there is none.
func (d *Dict) Get(key string) (Value, bool) {
	i, ok := d.index[key]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// Len returns the number of pairs.
func (d *Dict) Len() int { return len(d.keys) }

// All iterates over the pairs, in order.
func (d *Dict) All() iter.Seq2[Value, Value] {
	return func(yield func(Value, Value) bool) {
		for i, key := range d.keys {
			if !yield(key, d.values[i]) {
				return
			}
		}
	}
}

// Add appends a pair. A key of a plain type that the dict has already is an error.
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

// String returns a few words for an error: "a dict of 3".
func (d *Dict) String() string { return fmt.Sprintf("a dict of %d", d.Len()) }

// Tensor is a tensor of PyTorch or an array of NumPy in a pickle. Its values are read and checked
// when they are asked for.
type Tensor interface {
	// Shape returns the shape; empty for a scalar.
	Shape() []int
	// Float32 reads the values in row-major order: F32 as they are, F16 and BF16 widened exactly,
	// F64 rounded to the nearest. Another element type is an error.
	Float32() ([]float32, error)
	// Int64 reads the values of integers, signed or unsigned, or of bools (0 and 1), in row-major
	// order. An unsigned value beyond int64 is an error, as is another element type.
	Int64() ([]int64, error)
}

// nesting is what Check knows of a list or dict.
type nesting struct {
	state  byte // 0: not met, 1: being walked through, 2: done
	height int  // of the tallest value in it, plus one
}

// MaxHeight bounds how deep values nest. Checkpoints of PyTorch nest about ten deep.
const MaxHeight = 200

// Check returns an error if a list or dict in v holds itself, or if values nest more than
// [MaxHeight] deep. It walks through all lists and dicts, each once and without recursion.
func Check(v Value) error {
	type frame struct {
		v    Value
		n    *nesting
		next int // of the children
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
			return fmt.Errorf("%v holds itself", v)
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
			err = enter(v) // notes its height in its parent
		}
	}
	return err
}
