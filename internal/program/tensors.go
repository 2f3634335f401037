package program

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/gotype"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
)

// Tensor copies row-major values of the given shape to be. Without a shape, data is one number.
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
	t.FinalizeLocal() // one copy is enough
	return t, nil
}

// Frozen places float32 values on be that do not change any more, such as a pretrained weight. The
// tensor has the type dtype, float32 or bfloat16. A bfloat16 is the nearest one. The processor uses
// a float32 array itself, so the array must not change; other devices copy it.
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

// Copy copies t from the first device of be to another of its devices.
func Copy(be backend.Backend, t *tensors.Tensor, device int) (*tensors.Tensor, error) {
	c, err := t.OnDeviceClone(be, compute.DeviceNum(device))
	t.FinalizeLocal() // the copy went through the host
	if err != nil {
		return nil, fmt.Errorf("copying a tensor of shape %s to device %d of %s: %w", t.Shape(), device, backend.NameOf(be), err)
	}
	return c, nil
}

// Replicate copies tensors from the first device of be to each of its other devices. It returns one
// list per other device.
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

// Float32s copies the values of a float32 tensor to the host, row-major.
func Float32s(t *tensors.Tensor) ([]float32, error) {
	v, err := tensors.CopyFlatData[float32](t)
	if err != nil {
		return nil, fmt.Errorf("reading a tensor of shape %s from its device: %w", t.Shape(), err)
	}
	return v, nil
}

// Number copies one float32 number to the host.
func Number(t *tensors.Tensor) (float64, error) {
	v, err := Float32s(t)
	if err != nil {
		return 0, err
	}
	return float64(v[0]), nil
}

// Free releases tensors now instead of at the next garbage collection. It ignores nil.
func Free(ts ...*tensors.Tensor) {
	for _, t := range ts {
		if t != nil {
			_ = t.FinalizeAll() // fails only if t was released before
		}
	}
}
