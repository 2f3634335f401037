package backbone

import (
	"maps"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// Save writes the model as a safetensors file with timm's names, from which
// Load reads it back without a guess. dtype is F32, F16 or BF16; metadata goes
// beside [Model.Metadata] and may be nil.
func (m *Model) Save(path string, dtype checkpoint.DType, metadata map[string]string) error {
	own, err := m.Metadata()
	if err != nil {
		return err
	}
	maps.Copy(own, metadata)
	var entries []checkpoint.Entry
	for name, t := range splitHeads(m.Config, m.Weights).Fused() {
		shape := t.Shape
		if m.ConvMLP && (strings.HasSuffix(name, ".mlp.fc1.weight") || strings.HasSuffix(name, ".mlp.fc2.weight")) {
			shape = append(slices.Clone(shape), 1, 1)
		}
		entries = append(entries, checkpoint.Entry{Name: name, DType: dtype, Shape: shape, Data: t.Data})
	}
	return checkpoint.Save(path, entries, own)
}
