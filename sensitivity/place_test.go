package sensitivity

import "testing"

// TestPlace checks the block and the operation of tensors of several backbones.
func TestPlace(t *testing.T) {
	for _, c := range []struct {
		tensor           Tensor
		block, operation string
	}{
		{Tensor{Name: "blocks.11.mlp.fc2.weight", Shape: []int{2, 2}}, "blocks.11", "fc2"},
		{Tensor{Name: "blocks.11.mlp.fc2.bias", Shape: []int{2}}, "blocks.11", "bias"},
		{Tensor{Name: "blocks.0.norm2.bias", Shape: []int{2}, Norm: true}, "blocks.0", "norm"},
		{Tensor{Name: "blocks.0.ls1.gamma", Shape: []int{2}}, "blocks.0", "gamma"},
		{Tensor{Name: "norm.weight", Shape: []int{2}, Norm: true}, "norm", "norm"},
		{Tensor{Name: "layers.1.blocks.3.attn.relative_position_bias_table", Shape: []int{9, 2}}, "layers.1.blocks.3", "relative_position_bias_table"},
		{Tensor{Name: "layers.1.downsample.reduction.weight", Shape: []int{2, 4}}, "layers.1.downsample", "reduction"},
		{Tensor{Name: "stages.2.blocks.26.conv_dw.weight", Shape: []int{4, 1, 7, 7}}, "stages.2.blocks.26", "conv_dw"},
		{Tensor{Name: "stages.2.blocks.26.gamma", Shape: []int{4}}, "stages.2.blocks.26", "gamma"},
		{Tensor{Name: "weight", Shape: []int{2, 2}}, "weight", "weight"},
	} {
		if block, operation := c.tensor.Place(); block != c.block || operation != c.operation {
			t.Errorf("%s: block %q, operation %q, expected %q and %q", c.tensor.Name, block, operation, c.block, c.operation)
		}
	}
}
