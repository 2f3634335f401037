// Package checkpoint reads and writes model weights.
//
// A [File] is a checkpoint in any of the common formats, with its list of tensors checked in full:
// safetensors, whole or in shards, PyTorch's torch.save, and NumPy's npz. [Save] writes
// safetensors. [Unpickle] reads the plain values of a file of torch.save that is not a state dict.
//
// A [Naming] describes how checkpoints name the tensors of an architecture. [File.Canonical]
// recognises the naming of a file among those that it is given, and translates names and shapes to
// the canonical ones, which are timm's with q, k and v apart. [Match] compares the result with the
// tensors that a model needs. Everything in memory is float32; half-precision files are widened as
// they are read.
//
// Files are treated as hostile: a reader allocates no more than a small multiple of the file's own
// size, and each broken rule of the format is a [*FormatError].
package checkpoint

// Tensor is a dense row-major float32 array. A nil or empty Shape is a scalar with one value.
type Tensor struct {
	Shape []int
	Data  []float32 // Size() values
}

// Size returns the number of values that Shape calls for: 1 for a scalar, 0 if a dimension is not
// positive. It does not guard against a product beyond int; [Open] has checked the shapes of a
// [File] for that.
func (t Tensor) Size() int {
	n := 1
	for _, d := range t.Shape {
		n *= max(d, 0)
	}
	return n
}

// NewTensor returns a tensor of zeros with its own copy of shape.
func NewTensor(shape ...int) Tensor {
	t := Tensor{Shape: append([]int{}, shape...)}
	t.Data = make([]float32, t.Size())
	return t
}
