// Package onnx turns programs of GoMLX into ONNX models, writes and reads the models, and computes
// them.
//
// Begin with [NewRecorder], a backend that records each program that it runs, and
// [Recorder.Translate], which turns the recorded programs into a [Model] (record.go, translate.go).
// [Model.Write] writes the files (write.go), [Open] reads them (read.go), and [Model.Run] computes
// a model with plain loops, to verify what was written (run.go).
//
// The names, the numbers of fields and the meaning of the operators are those of the standard,
// https://onnx.ai/onnx.
package onnx

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/float16"
)

// The versions of the standard that all models have. IR version 9 belongs to opset 20 (ONNX 1.15),
// which is the first one with GELU.
const (
	irVersion = 9
	opset     = 20
)

// Batch is the name of the batch axis in the shapes of inputs and outputs.
const Batch = "batch"

// Model is an ONNX model: a list of nodes in the order in which they can be computed.
type Model struct {
	// Name is the name of the graph.
	Name string
	// Producer and ProducerVersion name the program that made the model.
	Producer, ProducerVersion string
	// Inputs and Outputs describe what a caller passes and gets.
	Inputs, Outputs []Value
	Nodes           []*Node
	// Weights holds the constants. No two have the same name.
	Weights []*Tensor
	// Metadata holds texts by name, in the order in which they are written.
	Metadata []Entry
}

// Entry is one text of the metadata of a model.
type Entry struct{ Key, Value string }

// Value describes an input or an output.
type Value struct {
	Name string
	Type DataType
	// Dims holds the shape. -1 is the batch axis.
	Dims []int
}

// Node computes one operator.
type Node struct {
	// Op is the name of the operator, such as "MatMul".
	Op string
	// Inputs and Outputs name values. An empty input name stands for an absent optional input.
	Inputs, Outputs []string
	// Attributes holds the attributes in the order in which they are written. A value is an int, a
	// float32, a string or an []int.
	Attributes []Attribute
}

// Attribute is one attribute of a node.
type Attribute struct {
	Name  string
	Value any
}

// attribute returns the value of an attribute of n, or fallback if n does not have it with the type
// of fallback.
func attribute[T any](n *Node, name string, fallback T) T {
	for _, a := range n.Attributes {
		if v, ok := a.Value.(T); ok && a.Name == name {
			return v
		}
	}
	return fallback
}

// Tensor is a constant.
type Tensor struct {
	Name string
	// Dims holds the shape. It is empty for a scalar.
	Dims []int
	// Data holds the values in row-major order: []float32, []float16.Float16, []int64, []int32,
	// []uint8 or []bool.
	Data any
}

// DataType is a type of numbers, as a number of the standard.
type DataType int

// The types of numbers that models use.
const (
	Float32 DataType = 1
	Uint8   DataType = 2
	Int32   DataType = 6
	Int64   DataType = 7
	Bool    DataType = 9
	Float16 DataType = 10
)

// size returns the number of bytes of a number.
func (d DataType) size() int {
	switch d {
	case Uint8, Bool:
		return 1
	case Float16:
		return 2
	case Float32, Int32:
		return 4
	}
	return 8
}

// dataTypes maps the types of GoMLX to those of the standard.
var dataTypes = map[dtypes.DType]DataType{
	dtypes.Float32: Float32, dtypes.Uint8: Uint8, dtypes.Int32: Int32, dtypes.Int64: Int64, dtypes.Bool: Bool, dtypes.Float16: Float16,
}

// dataType returns the type of the standard for a type of GoMLX.
func dataType(d dtypes.DType) (DataType, error) {
	t, ok := dataTypes[d]
	if !ok {
		return 0, fmt.Errorf("numbers of the type %s have no translation; use float32", d)
	}
	return t, nil
}

// Type returns the type of the values.
func (t *Tensor) Type() DataType {
	switch t.Data.(type) {
	case []float32:
		return Float32
	case []float16.Float16:
		return Float16
	case []int64:
		return Int64
	case []int32:
		return Int32
	case []uint8:
		return Uint8
	case []bool:
		return Bool
	}
	return 0
}

// size returns the number of elements of a shape.
func size(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

// bytes returns the size of the values, in bytes.
func (t *Tensor) bytes() int { return size(t.Dims) * t.Type().size() }

// largest16 is the largest finite float16.
const largest16 = 65504

// StoreHalf stores the matrices of m as float16. A node converts each matrix to float32 again, so
// that the model computes in float32. Vectors and matrices with numbers that float16 cannot hold
// stay float32. It returns the number of converted matrices.
func (m *Model) StoreHalf() (converted int) {
	var casts []*Node
	for i, t := range m.Weights {
		data, ok := t.Data.([]float32)
		if !ok || len(t.Dims) < 2 || len(data) < 64 {
			continue
		}
		half, fits := make([]float16.Float16, len(data)), true
		for j, v := range data {
			fits = fits && v >= -largest16 && v <= largest16 // false for NaN
			half[j] = float16.FromFloat32(v)
		}
		if !fits {
			continue
		}
		stored := t.Name + ".half"
		m.Weights[i] = &Tensor{stored, t.Dims, half}
		casts = append(casts, &Node{Op: "Cast", Inputs: []string{stored}, Outputs: []string{t.Name}, Attributes: []Attribute{{"to", int(Float32)}}})
	}
	m.Nodes = append(casts, m.Nodes...)
	return len(casts)
}
