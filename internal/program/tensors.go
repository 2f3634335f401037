package program

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/gotype"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
)

// Tensor copies row-major values to be and returns them as a tensor of the given shape. Without a
// shape, data is one number and the tensor is a scalar.
func Tensor[T gotype.Supported](be backend.Backend, data []T, shape ...int) (*tensors.Tensor, error) {
	size := 1
	for _, n := range shape {
		size *= n
	}
	if len(data) != size {
		return nil, fmt.Errorf("placing a tensor of shape %v on %s: got %d values, expected %d", shape, backend.NameOf(be), len(data), size)
	}
	t := tensors.FromFlatDataAndDimensions(data, shape...)
	if err := t.MaterializeOnDevice(be, true, 0); err != nil {
		return nil, fmt.Errorf("placing a tensor of shape %s on %s: %w", t.Shape(), be.Name(), err)
	}
	t.FinalizeLocal() // keep only the copy on the backend
	return t, nil
}

// Frozen places float32 values that never change, such as a pretrained weight, on be. The tensor
// has the type dtype, which is float32 or bfloat16. Values are rounded to the nearest bfloat16. For
// float32, the processor does not copy data, so the caller must not change data afterwards. Other
// devices copy data.
func Frozen(be backend.Backend, dtype dtypes.DType, data []float32, shape ...int) (*tensors.Tensor, error) {
	switch {
	case dtype == dtypes.BFloat16:
		rounded := make([]bfloat16.BFloat16, len(data))
		for i, v := range data {
			rounded[i] = bfloat16.FromFloat32(v)
		}
		return Tensor(be, rounded, shape...)
	case dtype != dtypes.Float32:
		return nil, fmt.Errorf("placing a frozen tensor of shape %v: the type is %s; expected %s or %s", shape, dtype, dtypes.Float32, dtypes.BFloat16)
	case cpu.Is(be):
		buffer, err := cpu.Borrow(be, data, shape...)
		if err != nil {
			return nil, err
		}
		return tensors.FromBuffer(buffer)
	}
	return Tensor(be, data, shape...)
}

// Copy copies t from the first device of be to the device with the given number.
func Copy(be backend.Backend, t *tensors.Tensor, device int) (*tensors.Tensor, error) {
	c, err := t.OnDeviceClone(be, compute.DeviceNum(device))
	t.FinalizeLocal() // release the intermediate copy on the host
	if err != nil {
		return nil, fmt.Errorf("copying a tensor of shape %s to device %d of %s: %w", t.Shape(), device, backend.NameOf(be), err)
	}
	return c, nil
}

// Replicate copies tensors from the first device of be to all other devices of be. It returns one
// list of copies for each other device.
func Replicate(be backend.Backend, ts []*tensors.Tensor) (out [][]*tensors.Tensor, err error) {
	for d := 1; d < backend.Replicas(be); d++ {
		var copies []*tensors.Tensor
		for _, t := range ts {
			c, err := Copy(be, t, d)
			if err != nil {
				Free(append(copies, slices.Concat(out...)...)...)
				return nil, err
			}
			copies = append(copies, c)
		}
		out = append(out, copies)
	}
	return out, nil
}

// RandomState draws the random state of one forward pass from r, uint64 [3], and copies it to the
// backend. Package internal/drop draws its masks from such a state.
func RandomState(be backend.Backend, r *rand.Rand) (*tensors.Tensor, error) {
	return Tensor(be, []uint64{r.Uint64(), r.Uint64(), r.Uint64()}, 3)
}

// Float32s copies the values of a float32 tensor to the host, in row-major order.
func Float32s(t *tensors.Tensor) ([]float32, error) {
	v, err := tensors.CopyFlatData[float32](t)
	if err != nil {
		return nil, fmt.Errorf("reading a tensor of shape %s from its device: %w", t.Shape(), err)
	}
	return v, nil
}

// Number returns the value of a float32 tensor with one element.
func Number(t *tensors.Tensor) (float64, error) {
	v, err := Float32s(t)
	if err != nil {
		return 0, err
	}
	return float64(v[0]), nil
}

// Free releases the memory of tensors at once instead of at a later garbage collection. It ignores
// nil tensors.
func Free(ts ...*tensors.Tensor) {
	for _, t := range ts {
		if t != nil {
			_ = t.FinalizeAll() // FinalizeAll fails only if t was released before
		}
	}
}
