package backbone

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// LoadOptions configures [Load]. Zero fields take what the checkpoint says.
type LoadOptions struct {
	// NumClasses is the number of classes of a new head. 0 keeps the checkpoint's head.
	NumClasses int
	// ImageSize is the side of the input images, px. Position embeddings and relative-position
	// tables are resized to it. 0 takes the size that the checkpoint or a file beside it names,
	// else that of the published models.
	ImageSize int
	// NumHeads is the number of attention heads of every block. 0 takes the number that the
	// checkpoint or a file beside it names, else that of published models of the same width.
	NumHeads int
	// LayerNormEps is added to the variance by layer norms. 0 takes the value that the checkpoint
	// or a file beside it names, else the default of the library that wrote the checkpoint.
	LayerNormEps float64
	// Mean and Std normalise pixels that are scaled to [0, 1], for each channel. nil takes the
	// values that the checkpoint or a file beside it names, else those of published models.
	Mean, Std *[3]float32
}

// Metadata keys of checkpoints that spt writes.
const (
	metadataKind          = "kind"              // always "checkpoint"
	metadataVersion       = "version"           // of the keys below, always "1"
	metadataConfig        = "spt_config"        // a Config in JSON
	metadataPreprocessing = "spt_preprocessing" // a Preprocessing in JSON
)

// Values of metadataKind and metadataVersion.
const (
	checkpointKind    = "checkpoint"
	checkpointVersion = "1"
)

// Load reads a backbone from a checkpoint: a file or a folder, in any format and naming that is
// known. The report lists every tensor as matched, unused, missing or of the wrong shape. A missing
// or misshapen tensor of the backbone is an error, and the report is valid then too.
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
	return m, report, nil
}

// refuseUnknown returns an error if the checkpoint has a tensor below one of the prefixes that the
// backbone does not have: the graph would leave it out.
func refuseUnknown(weights checkpoint.StateDict, params []Param, prefixes ...string) error {
	known := map[string]bool{}
	for _, p := range params {
		known[p.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if !known[name] && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return fmt.Errorf("tensor %q: the blocks of this checkpoint are not all alike, or its form is not supported; expected the same tensors in every block", name)
		}
	}
	return nil
}

// refuseNaN returns an error for weights that are not finite numbers.
func refuseNaN(weights checkpoint.StateDict) error {
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		for i, v := range weights[name].Data {
			if v-v != 0 { // NaN, or infinite
				return fmt.Errorf("tensor %q: value %d is %v, expected finite numbers: the training of this checkpoint has diverged, or its type has a wider range than float32; take another checkpoint", name, i, v)
			}
		}
	}
	return nil
}

// ErrNoHead is returned for a checkpoint without a head if [LoadOptions].NumClasses asks for none.
var ErrNoHead = errors.New("the checkpoint has no head; give the number of classes for a new one")

// FromFile reads a backbone from an open file, such as one that is embedded in a binary. See
// [Load].
func FromFile(f *checkpoint.File, o LoadOptions) (*Model, checkpoint.Report, error) {
	var none checkpoint.Report
	sd, naming, err := f.Canonical(namings())
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
		return nil, none, fmt.Errorf("its metadata %q describe a %s, but its tensors are those of a %s", metadataConfig, side.config.Architecture(), a.Name)
	}
	if o.NumHeads < 0 || o.ImageSize < 0 || o.NumClasses < 0 || o.LayerNormEps != 0 && !(o.LayerNormEps > 0 && o.LayerNormEps < 1) {
		return nil, none, fmt.Errorf("attention heads %d, image size %d, classes %d and layer norm eps %g: expected positive numbers, eps below 1", o.NumHeads, o.ImageSize, o.NumClasses, o.LayerNormEps)
	}
	s := &Source{Weights: sd, Options: o, Config: side.config, naming: naming, side: side}
	own, err := a.Configure(s)
	if err != nil {
		return nil, none, err
	}
	if got := own.Architecture(); got != a.Name {
		return nil, none, fmt.Errorf("the architecture %q has made a configuration of the architecture %q", a.Name, got)
	}
	if o.NumHeads > 0 && own.NumHeads == 0 {
		return nil, none, fmt.Errorf("a number of attention heads, %d, is given, but a %s takes none; leave it out", o.NumHeads, a.Name)
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
			continue // a new head is drawn, so the checkpoint's is reported as unused
		}
		wanted = append(wanted, checkpoint.TensorInfo{Name: p.Name, Shape: p.Shape})
	}
	report := checkpoint.Match(sd, wanted)
	report.Unused = append(report.Unused, naming.Unused...)
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
	p := a.preprocessing(f, side)
	if o.Mean != nil {
		p.Mean, p.Source = *o.Mean, "given"
	}
	if o.Std != nil {
		p.Std, p.Source = *o.Std, "given"
	}
	for i := range 3 {
		if !(p.Std[i] > 0) || math.IsNaN(float64(p.Mean[i])) {
			return nil, report, fmt.Errorf("the preprocessing (%s) has mean %v and std %v, expected numbers and a positive std; give both", p.Source, p.Mean, p.Std)
		}
	}
	m := NewModel(c, p, weights)
	m.convMLP, m.HeadsAssumed = s.convMLP, s.headsAssumed
	return m, report, nil
}

// sideFiles is what the files beside a checkpoint, or its metadata, say of it.
type sideFiles struct {
	config        *Config
	preprocessing *Preprocessing
	heads         int
	eps           float64
	pool          string // timm's global_pool: "token", "avg", "map", …
	architecture  string // timm's name of the model, of config.json
	name          string // the same, or the file's name up to the first dot
	activation    string // of the MLPs: "gelu", "quick_gelu", …
	imageSize     int    // px
}

// readSideFiles reads spt's own metadata, timm's config.json and HF's config.json and
// preprocessor_config.json. What is absent stays zero.
func readSideFiles(f *checkpoint.File) (s sideFiles, err error) {
	meta := f.Metadata()
	if text, ok := meta[metadataConfig]; ok {
		if v := meta[metadataVersion]; v != "" && v != checkpointVersion {
			return s, fmt.Errorf("reading the metadata of %s: they have version %q, expected %q; use the version of spt that wrote the file, or a newer one", f.Name(), v, checkpointVersion)
		}
		s.config = new(Config)
		if err := json.Unmarshal([]byte(text), s.config); err != nil {
			return s, fmt.Errorf("reading the metadata %q of %s: %w", metadataConfig, f.Name(), err)
		}
	}
	if text, ok := meta[metadataPreprocessing]; ok {
		s.preprocessing = new(Preprocessing)
		if err := json.Unmarshal([]byte(text), s.preprocessing); err != nil {
			return s, fmt.Errorf("reading the metadata %q of %s: %w", metadataPreprocessing, f.Name(), err)
		}
		return s, nil
	}
	if mean, std := meta["input_mean"], meta["input_std"]; mean != "" || std != "" {
		s.preprocessing = &Preprocessing{Interpolation: "bicubic", Source: "the checkpoint's metadata"}
		m, d := &s.preprocessing.Mean, &s.preprocessing.Std
		if _, err := fmt.Sscanf(mean+" "+std, "%g,%g,%g %g,%g,%g", &m[0], &m[1], &m[2], &d[0], &d[1], &d[2]); err != nil {
			return s, fmt.Errorf("reading the metadata input_mean %q and input_std %q of %s: expected three numbers divided by commas each", mean, std, f.Name())
		}
	}
	folder := filepath.Dir(f.Name())
	var config struct {
		Heads        int     `json:"num_attention_heads"`
		Eps          float64 `json:"layer_norm_eps"`
		Activation   string  `json:"hidden_act"`
		Pool         string  `json:"global_pool"`
		Architecture string  `json:"architecture"`
		ModelArgs    struct {
			Heads json.RawMessage `json:"num_heads"` // a number, or a list with one for each stage
		} `json:"model_args"`
		ImageSize     any `json:"image_size"` // Hugging Face's: a number, or height and width
		PretrainedCfg struct {
			Mean, Std []float32
			InputSize []int `json:"input_size"` // [3, height, width]
		} `json:"pretrained_cfg"`
		Mean, Std []float32 // older timm files are flat
		InputSize []int     `json:"input_size"`
	}
	found, err := readJSON(filepath.Join(folder, "config.json"), &config)
	if err != nil {
		return s, err
	}
	if found {
		s.heads, s.eps, s.activation, s.pool = config.Heads, config.Eps, config.Activation, config.Pool
		var heads int
		if json.Unmarshal(config.ModelArgs.Heads, &heads) == nil {
			s.heads = cmp.Or(s.heads, heads)
		}
		s.architecture = config.Architecture
		if side, ok := config.ImageSize.(float64); ok {
			s.imageSize = int(side)
		}
		for _, size := range [][]int{config.PretrainedCfg.InputSize, config.InputSize} {
			if len(size) == 3 && size[1] == size[2] {
				s.imageSize = size[1]
			}
		}
	}
	own, _, _ := strings.Cut(filepath.Base(f.Name()), ".")
	s.name = cmp.Or(s.architecture, own)
	if strings.Contains(s.name, "quickgelu") { // timm says it in the name alone
		s.activation = "quick_gelu"
	}
	if s.preprocessing != nil {
		return s, nil
	}
	if found {
		for _, v := range [][2][]float32{{config.PretrainedCfg.Mean, config.PretrainedCfg.Std}, {config.Mean, config.Std}} {
			if len(v[0]) == 3 && len(v[1]) == 3 {
				s.preprocessing = &Preprocessing{Mean: [3]float32(v[0]), Std: [3]float32(v[1]), Interpolation: "bicubic", Source: filepath.Join(folder, "config.json")}
				return s, nil
			}
		}
	}
	var processor struct {
		Mean []float32 `json:"image_mean"`
		Std  []float32 `json:"image_std"`
	}
	path := filepath.Join(folder, "preprocessor_config.json")
	if found, err = readJSON(path, &processor); err != nil {
		return s, err
	}
	if found && len(processor.Mean) == 3 && len(processor.Std) == 3 {
		s.preprocessing = &Preprocessing{Mean: [3]float32(processor.Mean), Std: [3]float32(processor.Std), Interpolation: "bicubic", Source: path}
	}
	return s, nil
}

func readJSON(path string, v any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("reading %s, which lies beside the checkpoint: %w", path, err)
	}
	return true, nil
}

// preprocessing returns what was done to pixels in pretraining, as the metadata, a file beside the
// checkpoint or the architecture says.
func (a Architecture[F]) preprocessing(f *checkpoint.File, side sideFiles) Preprocessing {
	if side.preprocessing != nil {
		return *side.preprocessing
	}
	if a.Preprocessing != nil {
		return a.Preprocessing(filepath.Base(f.Name()))
	}
	p := imageNet
	p.Source = "assumed: ImageNet mean and std, as all published backbones of the family " + a.Name
	return p
}
