package backbone

import (
	"maps"

	"github.com/sptune/spt/checkpoint"
)

// Save writes the model to a safetensors file with timm's tensor names. The metadata hold the
// configuration and the preprocessing, so [Load] reads the file back without assumptions. dtype is
// F32, F16 or BF16. The entries of metadata are added to the file's metadata; metadata may be nil.
func (m *Model) Save(path string, dtype checkpoint.DType, metadata map[string]string) error {
	a, err := architectureOf(m.Config.Form)
	if err != nil {
		return err
	}
	own, err := m.metadata()
	if err != nil {
		return err
	}
	maps.Copy(own, metadata)
	weights := m.Weights
	if a.Export != nil {
		weights = a.Export(m)
	}
	var entries []checkpoint.Entry
	for name, t := range weights.Fused() {
		entries = append(entries, checkpoint.Entry{Name: name, DType: dtype, Shape: t.Shape, Data: t.Data})
	}
	return checkpoint.Save(path, entries, own)
}
