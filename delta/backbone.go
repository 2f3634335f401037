package delta

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
)

// Check returns an error if m is not the backbone on which the delta was tuned.
// [Delta.OpenBackbone] opens a checkpoint with the right settings. The error names the difference:
// the configuration, the normalisation or the weights. The first call with a model takes longer,
// because it hashes all weights.
func (d *Delta) Check(m *backbone.Model) error {
	name := m.Path
	if name == "" {
		name = "in memory"
	}
	if differences := compare(m.Config, d.Config); len(differences) > 0 {
		return fmt.Errorf("the delta does not fit the backbone %s: %s; give the backbone on which it was tuned, %s, opened with the same settings, or tune again on this backbone",
			name, strings.Join(differences, ", "), d.Backbone)
	}
	if m.Preprocessing.Mean != d.Preprocessing.Mean || m.Preprocessing.Std != d.Preprocessing.Std {
		return fmt.Errorf("the delta does not fit the backbone %s: it was tuned on pixels normalised by mean %v and std %v, but the backbone was opened with %v and %v; open the backbone with the same settings",
			name, d.Preprocessing.Mean, d.Preprocessing.Std, m.Preprocessing.Mean, m.Preprocessing.Std)
	}
	if got := m.Fingerprint(); got != d.Backbone.Fingerprint {
		return fmt.Errorf("the delta does not fit the backbone %s: the shapes agree but the weights differ (found fingerprint %s, expected %s); give the checkpoint on which it was tuned, %s, or tune again on this backbone",
			name, got, d.Backbone.Fingerprint, d.Backbone)
	}
	return nil
}

// compare returns a phrase for each field in which two configurations differ. It uses the names of
// the fields in JSON.
func compare(got, want backbone.Config) (differences []string) {
	var g, w map[string]any
	for c, fields := range map[*backbone.Config]*map[string]any{&got: &g, &want: &w} {
		data, err := json.Marshal(c)
		if err == nil {
			err = json.Unmarshal(data, fields)
		}
		if err != nil {
			return []string{err.Error()}
		}
	}
	all := maps.Clone(g)
	maps.Copy(all, w)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, y := g[name], w[name]
		if reflect.DeepEqual(x, y) {
			continue
		}
		for _, v := range []*any{&x, &y} {
			if *v == nil {
				*v = "absent"
			}
		}
		differences = append(differences, fmt.Sprintf("%s is %v, expected %v", name, x, y))
	}
	return differences
}

// OpenBackbone loads the checkpoint at path with the settings that were used for tuning: the image
// size, the number of classes, the number of attention heads, the epsilon of the layer norms, the
// key of the weights and the normalisation in the delta. A checkpoint of another backbone is an
// error; see [Delta.Check].
func (d *Delta) OpenBackbone(path string) (*backbone.Model, error) {
	m, _, err := backbone.Load(path, backbone.LoadOptions{NumClasses: d.Config.NumClasses, ImageSize: d.Config.ImageSize,
		NumHeads: d.Config.NumHeads, LayerNormEps: d.Config.LayerNormEps, WeightsKey: d.Backbone.WeightsKey})
	if err != nil {
		return nil, fmt.Errorf("opening the backbone of a delta that was tuned on %s: %w", d.Backbone, err)
	}
	m.Preprocessing = d.Preprocessing
	if err := d.Check(m); err != nil {
		return nil, err
	}
	return m, nil
}
