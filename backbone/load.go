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
	"strconv"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// LoadOptions say what to make of a checkpoint. Zero values take what the
// checkpoint says.
type LoadOptions struct {
	NumClasses   int     // classes of a new head; 0 keeps the checkpoint's head
	ImageSize    int     // px; 0: what the checkpoint or the files beside it say, else the rule of the family; position embeddings and tables are resized to it
	NumHeads     int     // attention heads; 0: what the checkpoint says, else as published models of its width
	LayerNormEps float64 // 0: what the checkpoint says, else the default of the library that wrote it
	Mean, Std    *[3]float32
}

// Metadata keys of checkpoints that spt writes.
const (
	metadataConfig        = "spt_config"
	metadataPreprocessing = "spt_preprocessing"
)

// Load reads a backbone from a checkpoint, in any format, folder and naming that
// package checkpoint reads. The report lists every tensor as matched, unused, missing or of the wrong shape; a missing or
// misshapen tensor of the backbone is an error, and the report is valid then
// too.
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

// source is all that a checkpoint and its user say of a backbone.
type source struct {
	weights checkpoint.StateDict // canonical
	naming  checkpoint.Naming
	side    sideFiles
	options LoadOptions
	assumed *bool // set where the number of heads is a guess
}

// shape is the shape of a tensor that every backbone of the family has.
func (s source) shape(name string, rank int) ([]int, error) {
	t, ok := s.weights[name]
	if !ok {
		return nil, fmt.Errorf("the checkpoint (naming: %s) has no tensor %q, which every %s has", s.naming.Source, name, s.naming.Family)
	}
	if len(t.Shape) != rank {
		return nil, fmt.Errorf("tensor %q has shape %v, expected %d dimensions", name, t.Shape, rank)
	}
	return t.Shape, nil
}

// has reports whether the checkpoint has a tensor.
func (s source) has(name string) bool { _, ok := s.weights[name]; return ok }

// count is the number of blocks, or other numbered parts: one more than the
// greatest N among the names "PREFIX.N.…".
func (s source) count(prefix string) (n int, err error) {
	for name := range s.weights {
		rest, ok := strings.CutPrefix(name, prefix+".")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= maxDepth {
			return 0, fmt.Errorf("tensor %q: number out of range, expected below %d", name, maxDepth)
		}
		n = max(n, i+1)
	}
	return n, nil
}

// layerNormEps is what the user, the checkpoint or the files beside it say, or
// else the given value.
func (s source) layerNormEps(otherwise float64) float64 {
	if c := s.side.config; s.options.LayerNormEps == 0 && c != nil {
		return c.LayerNormEps
	}
	return cmp.Or(s.options.LayerNormEps, s.side.eps, otherwise)
}

// onlyGELU refuses a backbone whose MLPs have another activation, where the files
// beside the checkpoint tell.
func (s source) onlyGELU() error {
	if a := s.side.activation; s.side.config == nil && a != "" && a != "gelu" {
		return fmt.Errorf("config.json says that the MLP's activation is %q; supported: gelu", a)
	}
	return nil
}

// allKnown refuses a checkpoint that has more below some prefixes than the backbone's
// parameters: it would not be computed.
func allKnown(weights checkpoint.StateDict, params []Param, prefixes ...string) error {
	known := map[string]bool{}
	for _, p := range params {
		known[p.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if !known[name] && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return fmt.Errorf("tensor %q: the blocks of this checkpoint are not all alike, or its form is not supported; expected in each what the first has", name)
		}
	}
	return nil
}

// finite refuses weights that are no numbers, with which every result is none.
func finite(weights checkpoint.StateDict) error {
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		for i, v := range weights[name].Data {
			if v-v != 0 { // NaN, or infinite
				return fmt.Errorf("tensor %q: value %d is %v, expected finite numbers: the checkpoint is of a training that failed, or of a type beyond float32's range", name, i, v)
			}
		}
	}
	return nil
}

// ErrNoHead is that of a checkpoint without a head where [LoadOptions].NumClasses asks for none.
var ErrNoHead = errors.New("the checkpoint has no head; give the number of classes for a new one")

// FromFile is Load for an open file, as for one that is embedded in a binary.
func FromFile(f *checkpoint.File, o LoadOptions) (*Model, checkpoint.Report, error) {
	var none checkpoint.Report
	sd, naming, err := f.Canonical()
	if err != nil {
		return nil, none, err
	}
	side, err := readSideFiles(f)
	if err != nil {
		return nil, none, err
	}
	a, ok := architectures[naming.Family]
	if !ok {
		return nil, none, fmt.Errorf("it is a backbone of the family %q, which is not supported; supported: %s", naming.Family, supported())
	}
	if o.NumHeads < 0 || o.ImageSize < 0 || o.NumClasses < 0 || o.LayerNormEps != 0 && !(o.LayerNormEps > 0 && o.LayerNormEps < 1) {
		return nil, none, fmt.Errorf("attention heads %d, image size %d, classes %d and layer norm eps %g: expected positive numbers, eps below 1", o.NumHeads, o.ImageSize, o.NumClasses, o.LayerNormEps)
	}
	assumed := false
	own, err := a.configure(source{sd, naming, side, o, &assumed})
	if err != nil {
		return nil, none, err
	}
	own.Architecture = naming.Family
	switch head, ok := sd[a.head(own)+".weight"]; {
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
	if err := a.fit(own, c, sd); err != nil {
		return nil, none, err
	}
	var wanted []checkpoint.Wanted
	for _, p := range c.Params() {
		if p.Role == Head && o.NumClasses > 0 {
			continue // a new head is drawn, so the checkpoint's is reported as unused
		}
		wanted = append(wanted, checkpoint.Wanted{Name: p.Name, Shape: p.Shape})
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
	if err := finite(weights); err != nil {
		return nil, report, err
	}
	p := preprocessing(f, side, naming.Family)
	if o.Mean != nil {
		p.Mean, p.Source = *o.Mean, "given"
	}
	if o.Std != nil {
		p.Std, p.Source = *o.Std, "given"
	}
	for i := range 3 {
		if !(p.Std[i] > 0) || math.IsNaN(float64(p.Mean[i])) {
			return nil, report, fmt.Errorf("the preprocessing (%s) has mean %v and std %v, expected numbers and a positive std; give them (--mean, --std)", p.Source, p.Mean, p.Std)
		}
	}
	m := NewModel(c, p, weights)
	m.ConvMLP, m.HeadsAssumed = naming.ConvMLP, assumed
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

// readSideFiles reads spt's own metadata, timm's config.json and HF's
// config.json and preprocessor_config.json. What is absent stays zero.
func readSideFiles(f *checkpoint.File) (s sideFiles, err error) {
	meta := f.Metadata()
	if text, ok := meta[metadataConfig]; ok {
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

// preprocessing finds what the backbone was pretrained with: metadata or files
// beside it, then timm's tags in the file's name, then what its family has.
func preprocessing(f *checkpoint.File, side sideFiles, family string) Preprocessing {
	if side.preprocessing != nil {
		return *side.preprocessing
	}
	if family != "vit" {
		p := imageNet
		p.Source = "assumed: ImageNet mean and std, as all published backbones of the family " + family
		return p
	}
	name := strings.ToLower(filepath.Base(f.Name()))
	for _, tag := range []string{"deit", "mae", "dino", "moco"} {
		if strings.Contains(name, tag) {
			p := imageNet
			p.Source = fmt.Sprintf("%q in the file's name: ImageNet mean and std", tag)
			return p
		}
	}
	p := inception
	p.Source = "assumed: nothing in or beside the checkpoint says it"
	return p
}
