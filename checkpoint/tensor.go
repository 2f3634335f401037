// Package checkpoint reads and writes files of model weights.
//
// Begin with [Open], which opens a checkpoint in any of the common formats: safetensors in one file
// or in shards, files of PyTorch's torch.save, and .npz files of NumPy. It returns a [File] with
// the list of tensors. [File.Float32] reads the values of one tensor. [Save] writes a safetensors
// file. [Unpickle] reads a file of torch.save that is not a state dict.
//
// The libraries name the tensors of the same architecture differently. A [Naming] describes the
// names that one library uses. [File.Canonical] reads a whole file, recognises its naming and
// returns a [StateDict] with canonical names and shapes: those of timm, but with q, k and v in
// separate tensors. [Match] compares the StateDict with the tensors that a model needs. The steps
// are, in the order of the data: Open, File.Canonical, Match.
//
// All weights in memory are float32. F16 and BF16 weights are widened, and F64 weights are rounded,
// when they are read.
//
// Files may come from anywhere, so the readers treat them as hostile. They execute no code of a
// file. They use no more memory than a small multiple of the size of the file. A file that breaks a
// rule of its format is a [*FormatError].
package checkpoint

// Tensor is an array of float32 values in row-major order. A Tensor with a nil or empty Shape is a
// scalar and has one value.
type Tensor struct {
	// Shape holds the dimensions, outermost first.
	Shape []int
	// Data holds the values. Their number is Size().
	Data []float32
}

// Size returns the number of values that Shape requires: the product of the dimensions. It is 1 for
// a scalar and 0 if a dimension is not positive. Size does not detect overflow; [Open] has checked
// the shapes of the tensors of a [File].
func (t Tensor) Size() int {
	n := 1
	for _, d := range t.Shape {
		n *= max(d, 0)
	}
	return n
}

// NewTensor returns a tensor of zeros with a copy of shape.
func NewTensor(shape ...int) Tensor {
	t := Tensor{Shape: append([]int{}, shape...)}
	t.Data = make([]float32, t.Size())
	return t
}
