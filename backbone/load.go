package backbone

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// LoadOptions configures [Load]. Zero fields take the values that the checkpoint states or implies.
type LoadOptions struct {
	// NumClasses is the number of classes of a new head. Zero keeps the head of the checkpoint.
	NumClasses int
	// ImageSize is the side length of the input images, in pixels. Position embeddings and
	// relative-position tables are resized to fit it. Zero takes the size that the checkpoint or a
	// file beside it states, or else the size of the published models.
	ImageSize int
	// NumHeads is the number of attention heads of every block. Zero takes the number that the
	// checkpoint or a file beside it states, or else the number of published models with the same
	// width. [Model].HeadsAssumed reports the latter.
	NumHeads int
	// LayerNormEps is the value that layer norms add to the variance. Zero takes the value that the
	// checkpoint or a file beside it states, or else the default of the library that wrote the
	// checkpoint.
	LayerNormEps float64
	// Mean and Std are the mean and the standard deviation of each channel, for pixels scaled to
	// [0, 1]. Nil takes the values that the checkpoint or a file beside it states, or else those of
	// the published models.
	Mean, Std *[3]float32
	// WeightsKey chooses the weights in a checkpoint that holds several models; see
	// checkpoint.File.CanonicalAt. Empty takes the only model, or the one that programs of the same
	// kind evaluate. [Model].WeightsKey reports the choice.
	WeightsKey string
}

// Metadata keys of the checkpoints that spt writes.
const (
	metadataKind          = "kind"              // always "checkpoint"
	metadataVersion       = "version"           // version of the keys below, always "1"
	metadataConfig        = "spt_config"        // a Config in JSON
	metadataPreprocessing = "spt_preprocessing" // a Preprocessing in JSON
)

// Values of metadataKind and metadataVersion.
const (
	checkpointKind    = "checkpoint"
	checkpointVersion = "1"
)

// Load reads a backbone from a checkpoint. path is a file or a folder, in any format that package
// checkpoint reads, and with the tensor names of any registered [Architecture].
//
// The report lists every tensor as matched, unused, missing or of the wrong shape. Load returns an
// error if a tensor of the backbone is missing or has the wrong shape, and the report is valid in
// this case too. It returns [ErrNoHead] if the checkpoint has no head and o.NumClasses is zero. If
// o.WeightsKey is needed, or there are no weights under it, the error is a [*checkpoint.KeyError].
func Load(path string, o LoadOptions) (*Model, checkpoint.Report, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, checkpoint.Report{}, err
	}
	defer f.Close()
	m, report, err := FromFile(f, o)
	if err != nil {
		return nil, report, fmt.Errorf("loading backbone %s: %w", path, err)
	}
	m.Path = path
	if files := f.Files(); m.asTimm && len(files) == 1 {
		m.TimmFile = files[0]
	}
	return m, report, nil
}

// refuseUnknown returns an error if the checkpoint has a tensor whose name begins with one of the
// prefixes and that is not in params. The graph would ignore such a tensor and give wrong results.
func refuseUnknown(weights checkpoint.StateDict, params []Param, prefixes ...string) error {
	known := map[string]bool{}
	for _, p := range params {
		known[p.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if !known[name] && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return fmt.Errorf("the tensor %q is not part of the backbone: the blocks of the checkpoint are not all alike, or its variant is not supported; use a checkpoint with the same tensors in every block", name)
		}
	}
	return nil
}

// refuseNaN returns an error if a weight is not a finite number.
func refuseNaN(weights checkpoint.StateDict) error {
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		for i, v := range weights[name].Data {
			if v-v != 0 { // NaN, or infinite
				return fmt.Errorf("tensor %q: value %d is %v, expected a finite number: the training of this checkpoint diverged, or the value is outside the range of float32; use another checkpoint", name, i, v)
			}
		}
	}
	return nil
}

// ErrNoHead is the error for a checkpoint that has no head if [LoadOptions].NumClasses is zero.
var ErrNoHead = errors.New("the checkpoint has no head; give the number of classes to create a new head")

// FromFile reads a backbone from an open file, such as a file that is embedded in the program. It
// works like [Load], but leaves [Model].Path empty.
func FromFile(f *checkpoint.File, o LoadOptions) (*Model, checkpoint.Report, error) {
	var none checkpoint.Report
	sd, naming, err := f.CanonicalAt(namings(), o.WeightsKey)
	if err != nil {
		return nil, none, err
	}
	side, err := readSideFiles(f)
	if err != nil {
		return nil, none, err
	}
	a, err := architecture(naming.Architecture)
	if err != nil {
		return nil, none, err
	}
	if side.config != nil && side.config.Architecture() != a.Name {
		return nil, none, fmt.Errorf("its metadata %q describe a %s, but its tensors are those of a %s; use another copy of the file", metadataConfig, side.config.Architecture(), a.Name)
	}
	if o.NumHeads < 0 || o.ImageSize < 0 || o.NumClasses < 0 || o.LayerNormEps != 0 && !(o.LayerNormEps > 0 && o.LayerNormEps < 1) {
		return nil, none, fmt.Errorf("%d attention heads, image size %d px, %d classes and layer norm eps %g: expected positive numbers, and an eps below 1", o.NumHeads, o.ImageSize, o.NumClasses, o.LayerNormEps)
	}
	s := &Source{Weights: sd, Options: o, Config: side.config, naming: naming, side: side}
	own, err := a.Configure(s)
	if err != nil {
		return nil, none, err
	}
	if got := own.Architecture(); got != a.Name {
		return nil, none, fmt.Errorf("the function Configure of the architecture %q returned a configuration of the architecture %q", a.Name, got)
	}
	if o.NumHeads > 0 && own.NumHeads == 0 {
		return nil, none, fmt.Errorf("%d attention heads are given, but a %s takes no number of heads; leave it out", o.NumHeads, a.Name)
	}
	switch head, ok := sd[own.Head()+".weight"]; {
	case o.NumClasses > 0:
		own.NumClasses = o.NumClasses
	case ok && len(head.Shape) == 2:
		own.NumClasses = head.Shape[0]
	default:
		return nil, none, ErrNoHead
	}
	c := own
	c.ImageSize = cmp.Or(o.ImageSize, own.ImageSize)
	if err := c.Validate(); err != nil {
		return nil, none, err
	}
	if a.Fit != nil {
		if err := a.Fit(own, c, sd); err != nil {
			return nil, none, err
		}
	}
	var wanted []checkpoint.TensorInfo
	for _, p := range c.Params() {
		if p.Role == Head && o.NumClasses > 0 {
			continue // a new head replaces the checkpoint's head, which is reported as unused
		}
		wanted = append(wanted, checkpoint.TensorInfo{Name: p.Name, Shape: p.Shape})
	}
	report := checkpoint.Match(sd, wanted)
	if o.NumClasses == 0 {
		report.Unknown = unknown(naming, report.Unused)
	}
	report.Unused = append(report.Unused, naming.Unused...)
	if naming.Key != checkpoint.RootKey {
		report.WeightsKey = naming.Key
	}
	slices.Sort(report.Unused)
	if err := report.Err(f.Name()); err != nil {
		return nil, report, err
	}
	weights := checkpoint.StateDict{}
	for _, w := range wanted {
		weights[w.Name] = sd[w.Name]
	}
	if err := refuseNaN(weights); err != nil {
		return nil, report, err
	}
	p := a.preprocessing(f, s.side)
	if o.Mean != nil {
		p.Mean, p.Source = *o.Mean, "given"
	}
	if o.Std != nil {
		p.Std, p.Source = *o.Std, "given"
	}
	for i := range 3 {
		if !(p.Std[i] > 0) || math.IsNaN(float64(p.Mean[i])) {
			return nil, report, fmt.Errorf("the normalisation of pixels (source: %s) has mean %v and std %v, expected numbers and a positive std; give mean and std", p.Source, p.Mean, p.Std)
		}
	}
	m := NewModel(c, p, weights)
	m.Resizing = s.side.resizing(c.ImageSize)
	report.Notes = s.side.notes
	m.convMLP, m.HeadsAssumed, m.WeightsKey = s.convMLP, s.headsAssumed, report.WeightsKey
	m.asTimm = naming.Source == "timm" && own.ImageSize == c.ImageSize && !m.convMLP && m.WeightsKey == ""
	return m, report, nil
}

// harmless lists parts of the names of tensors on which the output of a classifier does not depend:
// buffers that are computed again, counters, and what is used in pretraining only.
var harmless = []string{
	"relative_position_index", "attn_mask", "position_ids", "num_batches_tracked", "n_averaged", "step", "global_step", "epoch", "queue", "queue_ptr",
	"mask_token", "decoder", "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred", "decoder_pos_embed", "predictor", "projector", "momentum_encoder",
}

// unknown returns the unused tensors with which the model in the checkpoint may compute its output,
// under their names in the checkpoint. unused lists canonical names that the graph does not use.
func unknown(naming checkpoint.Translation, unused []string) (list []string) {
	for _, name := range unused {
		list = append(list, naming.Origin(name).Name)
	}
	for _, name := range naming.Unknown {
		if !slices.ContainsFunc(strings.Split(name, "."), func(part string) bool { return slices.Contains(harmless, part) }) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return slices.Compact(list) // a fused tensor is the origin of three
}
