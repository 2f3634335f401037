package onnx

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/gomlx/compute/dtypes/float16"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/littleendian"
)

// ExternalAbove is the size, in bytes, above which [Model.Write] writes constants into a second
// file. A protobuf message cannot be larger than 2 GiB.
const ExternalAbove = 1<<31 - 1<<24

// Constants of fewer bytes always stay in the model file.
const smallestExternal = 1024

// externalAlignment is the alignment of constants in the second file, in bytes. Programs can map
// pages of this size.
const externalAlignment = 4096

// Numbers of fields in onnx.proto3 of ONNX 1.15.
const (
	modelIRVersion, modelProducer, modelProducerVersion, modelGraph, modelOpset, modelMetadata = 1, 2, 3, 7, 8, 14
	opsetVersion                                                                               = 2
	entryKey, entryValue                                                                       = 1, 2
	graphNode, graphName, graphInitializer, graphInput, graphOutput                            = 1, 2, 5, 11, 12
	nodeInput, nodeOutput, nodeName, nodeOp, nodeAttribute                                     = 1, 2, 3, 4, 5
	attributeName, attributeF, attributeI, attributeS, attributeInts, attributeType            = 1, 2, 3, 4, 8, 20
	attributeIsFloat, attributeIsInt, attributeIsString, attributeIsInts                       = 1, 2, 3, 7
	tensorDims, tensorType, tensorName, tensorRaw, tensorExternal, tensorLocation              = 1, 2, 8, 9, 13, 14
	tensorIsExternal                                                                           = 1
	valueName, valueType, typeTensor, tensorElement, tensorShape                               = 1, 2, 1, 1, 2
	shapeDim, dimValue, dimParam                                                               = 1, 1, 2
)

// message is a protobuf message that is being written. The values of constants are not copied into
// it.
type message struct {
	parts []part
	size  int
}

// part is a piece of a message: bytes, or the values of a constant.
type part struct {
	bytes  []byte
	tensor *Tensor
}

// raw appends bytes.
func (m *message) raw(b []byte) {
	m.size += len(b)
	if n := len(m.parts); n > 0 && m.parts[n-1].tensor == nil {
		m.parts[n-1].bytes = append(m.parts[n-1].bytes, b...)
		return
	}
	m.parts = append(m.parts, part{bytes: b})
}

func (m *message) number(field protowire.Number, v int) {
	m.raw(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), uint64(v)))
}

func (m *message) text(field protowire.Number, s string) {
	m.raw(protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), s))
}

func (m *message) float(field protowire.Number, v float32) {
	m.raw(protowire.AppendFixed32(protowire.AppendTag(nil, field, protowire.Fixed32Type), math.Float32bits(v)))
}

// message appends a message that fill writes.
func (m *message) message(field protowire.Number, fill func(sub *message)) {
	var sub message
	fill(&sub)
	m.raw(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(sub.size)))
	for _, p := range sub.parts {
		if p.tensor == nil {
			m.raw(p.bytes)
			continue
		}
		m.parts, m.size = append(m.parts, p), m.size+p.tensor.bytes()
	}
}

// values appends the values of a constant.
func (m *message) values(field protowire.Number, t *Tensor) {
	m.raw(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(t.bytes())))
	m.parts, m.size = append(m.parts, part{tensor: t}), m.size+t.bytes()
}

// Write writes the model to path, and replaces a file at path as a whole. If the model takes more
// than externalAbove bytes, large constants go into a second file beside it, PATH.data, which is
// written first. Programs find it by its name. The bytes depend only on the model.
func (m *Model) Write(path string, externalAbove int64) error {
	total := int64(0)
	for _, t := range m.Weights {
		total += int64(t.bytes())
	}
	external := map[*Tensor]int64{} // offset of the values
	if total > externalAbove {
		end := int64(0)
		var stored []*Tensor
		for _, t := range m.Weights {
			if t.bytes() >= smallestExternal {
				end = (end + externalAlignment - 1) / externalAlignment * externalAlignment
				external[t], stored = end, append(stored, t)
				end += int64(t.bytes())
			}
		}
		err := atomicfile.Write(path+dataSuffix, func(w io.Writer) error {
			at := int64(0)
			for _, t := range stored {
				if _, err := w.Write(make([]byte, external[t]-at)); err != nil {
					return err
				}
				if err := t.write(w); err != nil {
					return err
				}
				at = external[t] + int64(t.bytes())
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("writing the weights of %s: %w", path, err)
		}
	}
	all := m.encode(filepath.Base(path)+dataSuffix, external)
	if all.size > math.MaxInt32 {
		return fmt.Errorf("writing %s: the model takes %d bytes without its large weights; a file holds at most %d", path, all.size, math.MaxInt32)
	}
	err := atomicfile.Write(path, func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 1<<20)
		for _, p := range all.parts {
			if p.tensor != nil {
				if err := p.tensor.write(buffered); err != nil {
					return err
				}
			} else if _, err := buffered.Write(p.bytes); err != nil {
				return err
			}
		}
		return buffered.Flush()
	})
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// dataSuffix is added to the name of a model to get the name of its second file.
const dataSuffix = ".data"

// encode returns the message of the model. external holds the offsets of the constants in the file
// of the name data.
func (m *Model) encode(data string, external map[*Tensor]int64) *message {
	all := new(message)
	all.number(modelIRVersion, irVersion)
	all.text(modelProducer, m.Producer)
	all.text(modelProducerVersion, m.ProducerVersion)
	all.message(modelGraph, func(g *message) {
		for i, n := range m.Nodes {
			g.message(graphNode, func(f *message) { n.encode(f, i) })
		}
		g.text(graphName, m.Name)
		for _, t := range m.Weights {
			g.message(graphInitializer, func(f *message) {
				for _, d := range t.Dims {
					f.number(tensorDims, d)
				}
				f.number(tensorType, int(t.Type()))
				f.text(tensorName, t.Name)
				offset, outside := external[t]
				if !outside {
					f.values(tensorRaw, t)
					return
				}
				for _, e := range []Entry{{"location", data}, {"offset", strconv.FormatInt(offset, 10)}, {"length", strconv.Itoa(t.bytes())}} {
					f.message(tensorExternal, e.encode)
				}
				f.number(tensorLocation, tensorIsExternal)
			})
		}
		for _, v := range m.Inputs {
			g.message(graphInput, v.encode)
		}
		for _, v := range m.Outputs {
			g.message(graphOutput, v.encode)
		}
	})
	all.message(modelOpset, func(f *message) { f.number(opsetVersion, opset) })
	for _, e := range m.Metadata {
		all.message(modelMetadata, e.encode)
	}
	return all
}

func (e Entry) encode(f *message) {
	f.text(entryKey, e.Key)
	f.text(entryValue, e.Value)
}

// encode writes the node with the given position in the graph.
func (n *Node) encode(f *message, position int) {
	for _, name := range n.Inputs {
		f.text(nodeInput, name)
	}
	for _, name := range n.Outputs {
		f.text(nodeOutput, name)
	}
	f.text(nodeName, fmt.Sprintf("%s_%d", n.Op, position))
	f.text(nodeOp, n.Op)
	for _, a := range n.Attributes {
		f.message(nodeAttribute, func(f *message) {
			f.text(attributeName, a.Name)
			switch v := a.Value.(type) {
			case int:
				f.number(attributeI, v)
				f.number(attributeType, attributeIsInt)
			case float32:
				f.float(attributeF, v)
				f.number(attributeType, attributeIsFloat)
			case string:
				f.text(attributeS, v)
				f.number(attributeType, attributeIsString)
			case []int:
				for _, i := range v {
					f.number(attributeInts, i)
				}
				f.number(attributeType, attributeIsInts)
			}
		})
	}
}

func (v Value) encode(f *message) {
	f.text(valueName, v.Name)
	f.message(valueType, func(f *message) {
		f.message(typeTensor, func(f *message) {
			f.number(tensorElement, int(v.Type))
			f.message(tensorShape, func(f *message) {
				for _, d := range v.Dims {
					f.message(shapeDim, func(f *message) {
						if d < 0 {
							f.text(dimParam, Batch)
						} else {
							f.number(dimValue, d)
						}
					})
				}
			})
		})
	})
}

// write writes the values of t, little-endian.
func (t *Tensor) write(w io.Writer) error {
	switch data := t.Data.(type) {
	case []uint8:
		_, err := w.Write(data)
		return err
	case []bool:
		return binary.Write(w, binary.LittleEndian, data)
	case []int32:
		return binary.Write(w, binary.LittleEndian, data)
	case []int64:
		return binary.Write(w, binary.LittleEndian, data)
	case []float32:
		return littleendian.Write(w, data)
	case []float16.Float16:
		var buffer []byte
		for chunk := range slices.Chunk(data, 1<<15) {
			buffer = buffer[:0]
			for _, v := range chunk {
				buffer = binary.LittleEndian.AppendUint16(buffer, uint16(v))
			}
			if _, err := w.Write(buffer); err != nil {
				return err
			}
		}
	}
	return nil
}
