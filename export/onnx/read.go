package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gomlx/compute/dtypes/float16"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sptune/spt/internal/regularfile"
)

// Open reads a model that [Model.Write] wrote, with its second file if it has one. A file of
// another program may hold parts of the standard that Open does not know; it returns an error for
// them.
func Open(path string) (*Model, error) {
	fail := func(err error) (*Model, error) { return nil, fmt.Errorf("reading the ONNX model %s: %w", path, err) }
	b, err := regularfile.Read(path, math.MaxInt32)
	if err != nil {
		return fail(err)
	}
	m := new(Model)
	var outside *os.File
	defer func() {
		if outside != nil {
			outside.Close()
		}
	}()
	external := func(name string) (*os.File, error) {
		if name != filepath.Base(path)+dataSuffix {
			return nil, fmt.Errorf("the weights are in the file %q, expected %q", name, filepath.Base(path)+dataSuffix)
		}
		if outside == nil {
			outside, _, err = regularfile.Open(path + dataSuffix)
		}
		return outside, err
	}
	if err := m.decode(b, external); err != nil {
		return fail(err)
	}
	return m, nil
}

// fields calls f for each field of a message. number holds the value of a varint or of a fixed
// number; value holds the value of any other field.
func fields(b []byte, f func(field protowire.Number, number uint64, value []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var number uint64
		var value []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			number = uint64(v)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(field, number, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (m *Model) decode(b []byte, external func(name string) (*os.File, error)) error {
	return fields(b, func(field protowire.Number, number uint64, value []byte) error {
		switch field {
		case modelIRVersion:
			if number != irVersion {
				return fmt.Errorf("the IR version is %d, expected %d", number, irVersion)
			}
		case modelProducer:
			m.Producer = string(value)
		case modelProducerVersion:
			m.ProducerVersion = string(value)
		case modelOpset:
			return fields(value, func(field protowire.Number, number uint64, _ []byte) error {
				if field != opsetVersion || number != opset {
					return fmt.Errorf("the operators are not those of opset %d", opset)
				}
				return nil
			})
		case modelMetadata:
			e, err := decodeEntry(value)
			m.Metadata = append(m.Metadata, e)
			return err
		case modelGraph:
			return m.decodeGraph(value, external)
		}
		return nil
	})
}

func decodeEntry(b []byte) (e Entry, err error) {
	err = fields(b, func(field protowire.Number, _ uint64, value []byte) error {
		switch field {
		case entryKey:
			e.Key = string(value)
		case entryValue:
			e.Value = string(value)
		}
		return nil
	})
	return e, err
}

func (m *Model) decodeGraph(b []byte, external func(name string) (*os.File, error)) error {
	return fields(b, func(field protowire.Number, _ uint64, value []byte) (err error) {
		switch field {
		case graphName:
			m.Name = string(value)
		case graphNode:
			n := new(Node)
			m.Nodes = append(m.Nodes, n)
			return n.decode(value)
		case graphInitializer:
			t, err := decodeTensor(value, external)
			m.Weights = append(m.Weights, t)
			return err
		case graphInput, graphOutput:
			var v Value
			list := &m.Inputs
			if field == graphOutput {
				list = &m.Outputs
			}
			err = v.decode(value)
			*list = append(*list, v)
		}
		return err
	})
}

func (n *Node) decode(b []byte) error {
	return fields(b, func(field protowire.Number, _ uint64, value []byte) error {
		switch field {
		case nodeInput:
			n.Inputs = append(n.Inputs, string(value))
		case nodeOutput:
			n.Outputs = append(n.Outputs, string(value))
		case nodeOp:
			n.Op = string(value)
		case nodeAttribute:
			a := Attribute{}
			var kind uint64
			var ints []int
			var text string
			var number, float uint64
			err := fields(value, func(field protowire.Number, v uint64, value []byte) error {
				switch field {
				case attributeName:
					a.Name = string(value)
				case attributeType:
					kind = v
				case attributeI:
					number = v
				case attributeF:
					float = v
				case attributeS:
					text = string(value)
				case attributeInts:
					ints = append(ints, int(v))
				}
				return nil
			})
			switch kind {
			case attributeIsInt:
				a.Value = int(number)
			case attributeIsFloat:
				a.Value = math.Float32frombits(uint32(float))
			case attributeIsString:
				a.Value = text
			case attributeIsInts:
				a.Value = ints
			default:
				err = errors.Join(err, fmt.Errorf("the attribute %q of a node has the unknown type %d", a.Name, kind))
			}
			n.Attributes = append(n.Attributes, a)
			return err
		}
		return nil
	})
}

func (v *Value) decode(b []byte) error {
	return fields(b, func(field protowire.Number, _ uint64, value []byte) error {
		switch field {
		case valueName:
			v.Name = string(value)
		case valueType:
			return fields(value, func(_ protowire.Number, _ uint64, value []byte) error {
				return fields(value, func(field protowire.Number, number uint64, value []byte) error {
					if field == tensorElement {
						v.Type = DataType(number)
						return nil
					}
					return fields(value, func(_ protowire.Number, _ uint64, value []byte) error {
						d := 0
						err := fields(value, func(field protowire.Number, number uint64, _ []byte) error {
							d = int(number)
							if field == dimParam {
								d = -1
							}
							return nil
						})
						v.Dims = append(v.Dims, d)
						return err
					})
				})
			})
		}
		return nil
	})
}

func decodeTensor(b []byte, external func(name string) (*os.File, error)) (*Tensor, error) {
	t := new(Tensor)
	var kind DataType
	var raw []byte
	place := map[string]string{}
	outside := false
	err := fields(b, func(field protowire.Number, number uint64, value []byte) error {
		switch field {
		case tensorDims:
			t.Dims = append(t.Dims, int(number))
		case tensorType:
			kind = DataType(number)
		case tensorName:
			t.Name = string(value)
		case tensorRaw:
			raw = value
		case tensorLocation:
			outside = number == tensorIsExternal
		case tensorExternal:
			e, err := decodeEntry(value)
			place[e.Key] = e.Value
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if outside {
		f, err := external(place["location"])
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		offset, err1 := strconv.ParseInt(place["offset"], 10, 64)
		length, err2 := strconv.ParseInt(place["length"], 10, 64)
		if err1 != nil || err2 != nil || offset < 0 || length < 0 || length > info.Size() || offset > info.Size()-length {
			return nil, fmt.Errorf("the weight %q is at byte %s and has %s bytes; the file has %d", t.Name, place["offset"], place["length"], info.Size())
		}
		raw = make([]byte, length)
		if _, err := f.ReadAt(raw, offset); err != nil {
			return nil, err
		}
	}
	n := 1
	for _, d := range t.Dims {
		if d < 0 || d > 0 && n > math.MaxInt32/d {
			return nil, fmt.Errorf("the weight %q has the impossible shape %v", t.Name, t.Dims)
		}
		n *= d
	}
	if len(raw) != n*kind.size() {
		return nil, fmt.Errorf("the weight %q of shape %v has %d bytes, expected %d", t.Name, t.Dims, len(raw), n*kind.size())
	}
	switch kind {
	case Float32:
		data := make([]float32, n)
		for i := range data {
			data[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		t.Data = data
	case Float16:
		data := make([]float16.Float16, n)
		for i := range data {
			data[i] = float16.Float16(binary.LittleEndian.Uint16(raw[2*i:]))
		}
		t.Data = data
	case Int32:
		data := make([]int32, n)
		for i := range data {
			data[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		t.Data = data
	case Int64:
		data := make([]int64, n)
		for i := range data {
			data[i] = int64(binary.LittleEndian.Uint64(raw[8*i:]))
		}
		t.Data = data
	case Uint8:
		t.Data = raw
	case Bool:
		data := make([]bool, n)
		for i := range data {
			data[i] = raw[i] != 0
		}
		t.Data = data
	default:
		return nil, fmt.Errorf("the weight %q has numbers of the unknown type %d", t.Name, kind)
	}
	return t, nil
}
