package delta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// The names of the files in a folder of PEFT. Older versions wrote a torch file.
const (
	PEFTConfigName  = "adapter_config.json"
	PEFTTensorsName = "adapter_model.safetensors"
	peftTorchName   = "adapter_model.bin"
)

// PEFTBaseName is the name of the checkpoint of the backbone in a folder that spt exported. It
// exists if timm cannot read the original checkpoint.
const PEFTBaseName = "base.safetensors"

// peftDescription is the metadata key in PEFTTensorsName under which spt describes the delta that
// it exported. The value is the JSON of a [Delta] with an empty selection.
const peftDescription = "spt_delta"

// peftPrefix stands before every name of a tensor in a folder of PEFT.
const peftPrefix = "base_model.model."

// maxPEFTConfig limits the size of adapter_config.json, in bytes.
const maxPEFTConfig = 1 << 20

// PEFT is a folder of Hugging Face's library PEFT with LoRA for layers of a backbone, and usually
// with a head. [LoadPEFT] reads it. Load the backbone with [PEFT.NumClasses] classes; [PEFT.Delta]
// then turns the folder into a Delta.
type PEFT struct {
	// Base names the backbone, as PEFT recorded it: a repository on the Hugging Face Hub or a path.
	// It is empty for a model of timm.
	Base string
	// Described describes the delta that spt exported as this folder, with the classes, the
	// transform and the backbone, but without a selection and tensors. It is nil for a folder of
	// another program.
	Described *Delta

	dir    string
	config peftConfig
	layers map[string]*peftLayer // by the name of the layer
	saved  checkpoint.StateDict  // tensors that were tuned whole, and the head
	names  func(rows int) (backbone.ClassNames, error)
}

// peftLayer is the LoRA of one layer. In a convolution, A is [r, in, height, width] and B is
// [out, r, 1, 1].
type peftLayer struct{ a, b, bias checkpoint.Tensor }

// peftConfig holds the fields of adapter_config.json that determine the result.
type peftConfig struct {
	Type          string   `json:"peft_type"`
	Base          *string  `json:"base_model_name_or_path"`
	Rank          *int     `json:"r"`
	Alpha         *float64 `json:"lora_alpha"`
	RSLoRA        bool     `json:"use_rslora"`
	Bias          *string  `json:"bias"`
	ModulesToSave []string `json:"modules_to_save"`
	// InitLoRA is true, false or the name of a scheme.
	InitLoRA     any      `json:"init_lora_weights"`
	RankPattern  patterns `json:"rank_pattern"`
	AlphaPattern patterns `json:"alpha_pattern"`
}

// inertPEFT lists the other fields of adapter_config.json that do not change the result. The
// tensors in the folder show which layers have a LoRA.
var inertPEFT = []string{
	"task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "target_modules", "exclude_modules", "lora_dropout",
	"fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "loftq_config", "eva_config",
	"lora_bias", "ensure_weight_tying", "runtime_config",
}

// IsPEFT reports whether path is a folder of PEFT or one of its files. A folder that also holds a
// delta of spt counts as that delta.
func IsPEFT(path string) bool {
	if base := filepath.Base(path); base == PEFTConfigName || base == PEFTTensorsName || base == peftTorchName {
		return true
	}
	_, err := os.Stat(filepath.Join(path, PEFTConfigName))
	_, own := os.Stat(filepath.Join(path, FileName))
	return err == nil && errors.Is(own, fs.ErrNotExist)
}

// LoadPEFT reads a folder of PEFT. path is the folder or one of its files. An adapter of another
// kind than LoRA is an error, and so is a variant of LoRA or an option that spt cannot represent.
func LoadPEFT(path string) (*PEFT, error) {
	if stat, err := os.Stat(path); err == nil && !stat.IsDir() {
		path = filepath.Dir(path)
	}
	p, err := loadPEFT(path)
	if err != nil {
		return nil, fmt.Errorf("loading the PEFT adapter %s: %w", path, err)
	}
	return p, nil
}

func loadPEFT(dir string) (*PEFT, error) {
	text, err := regularfile.Read(filepath.Join(dir, PEFTConfigName), maxPEFTConfig)
	if err != nil {
		return nil, err
	}
	p := &PEFT{dir: dir}
	if err := p.config.read(text); err != nil {
		return nil, fmt.Errorf("%s: %w", PEFTConfigName, err)
	}
	if p.config.Base != nil {
		p.Base = *p.config.Base
	}
	// Opening a path on another machine would send the name of the user to this machine.
	if strings.HasPrefix(p.Base, "//") || strings.HasPrefix(p.Base, `\\`) {
		return nil, fmt.Errorf("%s: base_model_name_or_path is %.200q, expected a path on this machine or a name on the Hugging Face Hub", PEFTConfigName, p.Base)
	}
	name := PEFTTensorsName
	if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
		name = peftTorchName
	}
	file := filepath.Join(dir, name)
	stat, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no %s beside %s; copy the whole folder that save_pretrained wrote", PEFTTensorsName, PEFTConfigName)
	case err != nil:
		return nil, err
	case stat.Size() > maxTensors:
		return nil, fmt.Errorf("%s has %d bytes, expected at most %d bytes: is it an adapter?", name, stat.Size(), int64(maxTensors))
	}
	f, err := checkpoint.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := p.readTensors(f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := p.readDescription(f); err != nil {
		return nil, fmt.Errorf("%s: metadata %q: %w", name, peftDescription, err)
	}
	rows := p.NumClasses()
	classes, err := backbone.ReadClasses(f, rows)
	p.names = func(n int) (backbone.ClassNames, error) {
		if rows != n { // the head is that of the backbone
			return backbone.ClassNames{}, nil
		}
		return classes, err
	}
	return p, nil
}

// read reads adapter_config.json and returns an error for what spt cannot represent.
func (c *peftConfig) read(text []byte) error {
	if err := json.Unmarshal(text, c); err != nil {
		return jsonfile.Explain(text, err)
	}
	if c.Type != "LORA" {
		return fmt.Errorf("the type of the adapter is %.60q; spt reads LORA", c.Type)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return jsonfile.Explain(text, err)
	}
	read := []string{"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "bias", "modules_to_save", "init_lora_weights", "rank_pattern", "alpha_pattern"}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if slices.Contains(read, key) || slices.Contains(inertPEFT, key) {
			continue
		}
		if value := string(bytes.TrimSpace(fields[key])); !slices.Contains([]string{"null", "false", "0", "0.0", `""`, "[]", "{}"}, value) {
			return fmt.Errorf("%.60q is %.60s, which spt does not read; merge the adapter into its model with PEFT (merge_and_unload), and give the saved model with --model", key, value)
		}
	}
	switch init := c.InitLoRA.(type) {
	case nil, bool:
	case string:
		// The other schemes also change the weights of the backbone.
		if !slices.Contains([]string{"gaussian", "orthogonal", "eva"}, init) {
			return fmt.Errorf("\"init_lora_weights\" is %.60q, which changes the weights of the backbone; save the adapter with path_initial_model_for_weight_conversion of PEFT, which turns it into a plain LoRA", init)
		}
	default:
		return fmt.Errorf("\"init_lora_weights\" is %.60v, expected true, false or a name", init)
	}
	if c.Bias != nil && !slices.Contains([]string{"none", "all", "lora_only"}, *c.Bias) {
		return fmt.Errorf("\"bias\" is %.60q, expected none, all or lora_only", *c.Bias)
	}
	if c.Rank != nil && (*c.Rank < 1 || *c.Rank > maxRank) {
		return fmt.Errorf("\"r\" is %d, expected 1 to %d", *c.Rank, maxRank)
	}
	return nil
}

// patterns holds numbers by the patterns of names of layers, in the order of the file. PEFT takes
// the first pattern that matches.
type patterns []struct {
	pattern *regexp.Regexp
	value   float64
}

// UnmarshalJSON reads an object from patterns to numbers.
func (p *patterns) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	start, err := d.Token()
	if err != nil || start == nil {
		return err
	}
	if start != json.Delim('{') {
		return fmt.Errorf("found %v, expected an object from patterns to numbers", start)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		var value float64
		if err := d.Decode(&value); err != nil {
			return err
		}
		// as in peft.utils.get_pattern_key
		pattern, err := regexp.Compile(fmt.Sprintf(`^(.*\.)?(%s)$`, key))
		if err != nil {
			return fmt.Errorf("the pattern %.100q of layer names: %w", key, err)
		}
		*p = append(*p, struct {
			pattern *regexp.Regexp
			value   float64
		}{pattern, value})
	}
	return nil
}

// of returns the number for a layer, or otherwise.
func (p patterns) of(layer string, otherwise float64) float64 {
	for _, row := range p {
		if row.pattern.MatchString(layer) {
			return row.value
		}
	}
	return otherwise
}

// scale returns the factor of the LoRA of a layer, whose matrix A has rank rows.
func (c *peftConfig) scale(layer string, rank int) (float64, error) {
	const usual = 8 // of r and lora_alpha
	alpha, r := float64(usual), float64(usual)
	if c.Alpha != nil {
		alpha = *c.Alpha
	}
	if c.Rank != nil {
		r = float64(*c.Rank)
	}
	alpha, r = c.AlphaPattern.of(layer, alpha), c.RankPattern.of(layer, r)
	if r != float64(rank) {
		return 0, fmt.Errorf("the LoRA of the layer %.200q has rank %d, but %s says %g; the two files belong to two adapters", layer, rank, PEFTConfigName, r)
	}
	if c.RSLoRA {
		return alpha / math.Sqrt(r), nil
	}
	return alpha / r, nil
}

// readTensors reads the tensors under names without the parts that PEFT adds.
func (p *PEFT) readTensors(f *checkpoint.File) error {
	p.layers, p.saved = map[string]*peftLayer{}, checkpoint.StateDict{}
	for _, info := range f.Tensors() {
		name, ok := strings.CutPrefix(info.Name, peftPrefix)
		if !ok {
			return fmt.Errorf("the name of the tensor %.200q does not begin with %q, as PEFT writes it", info.Name, peftPrefix)
		}
		if strings.Contains(name, ".original_module.") {
			continue // a frozen tensor that bias "all" stores too
		}
		name = strings.TrimPrefix(name, "timm_model.") // a model of timm in transformers
		for _, part := range []string{".modules_to_save", ".base_layer"} {
			name = strings.ReplaceAll(name, part+".", ".")
		}
		x, err := f.Float32(info.Name)
		if err != nil {
			return err
		}
		layer, part, ok := strings.Cut(name, ".lora_")
		if !ok {
			if other, ok := p.saved[name]; ok && !slices.Equal(other.Data, x.Data) {
				return fmt.Errorf("the folder holds two tensors %.200q with different values; save the adapter again", name)
			}
			p.saved[name] = x
			continue
		}
		l := p.layers[layer]
		if l == nil {
			l = new(peftLayer)
			p.layers[layer] = l
		}
		switch part {
		case "A.weight":
			l.a = x
		case "B.weight":
			l.b = x
		case "B.bias":
			l.bias = x
		default:
			return fmt.Errorf("spt does not read the tensor %.200q, a part of a variant of LoRA; merge the adapter into its model with PEFT (merge_and_unload)", info.Name)
		}
	}
	for _, layer := range slices.Sorted(maps.Keys(p.layers)) {
		if err := p.layers[layer].check(); err != nil {
			return fmt.Errorf("the LoRA of the layer %.200q: %w", layer, err)
		}
	}
	for _, module := range p.config.ModulesToSave {
		if module == "" || !slices.ContainsFunc(slices.Collect(maps.Keys(p.saved)), func(name string) bool {
			return strings.Contains("."+name, module+".")
		}) {
			return fmt.Errorf("there is no tensor of the module %.200q, which modules_to_save lists; the folder is incomplete", module)
		}
	}
	return nil
}

// check returns an error if the tensors of a LoRA do not fit each other.
func (l *peftLayer) check() error {
	a, b := l.a.Shape, l.b.Shape
	switch {
	case len(a) == 2 && len(b) == 2, len(a) == 4 && len(b) == 4 && b[2] == 1 && b[3] == 1:
	default:
		return fmt.Errorf("lora_A has shape %v and lora_B %v, expected [r, in] and [out, r], or [r, in, height, width] and [out, r, 1, 1]", a, b)
	}
	if a[0] < 1 || a[0] > maxRank || a[0] != b[1] || len(l.bias.Data) != 0 && !slices.Equal(l.bias.Shape, b[:1]) {
		return fmt.Errorf("lora_A has shape %v, lora_B %v and its bias %v, expected the same rank, and a bias for each output", a, b, l.bias.Shape)
	}
	return nil
}

// readDescription reads the metadata that spt writes when it exports a delta.
func (p *PEFT) readDescription(f *checkpoint.File) error {
	text, ok := f.Metadata()[peftDescription]
	if !ok {
		return nil
	}
	p.Described = new(Delta)
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(p.Described); err != nil {
		return jsonfile.Explain([]byte(text), err)
	}
	if err := p.Described.Backbone.validatePath(); err != nil {
		return err
	}
	if err := p.Described.validateDescription(); err != nil {
		return err
	}
	var err error
	p.Described.Backbone.Path, err = localPath(p.dir, p.Described.Backbone.Path)
	return err
}

// DescribePEFT returns the metadata of an adapter into which d was exported, for the folder dir.
func (d *Delta) DescribePEFT(dir string) (map[string]string, error) {
	described := *d
	described.Selection = peft.Selection{}
	described.Backbone.Path = portablePath(dir, d.Backbone.Path)
	text, err := json.Marshal(described)
	return map[string]string{"format": "pt", peftDescription: string(text)}, err
}

// NumClasses returns the number of rows of the head in the folder, for backbone.LoadOptions. It
// returns 0 if the folder has no head, so that the head of the backbone is used.
func (p *PEFT) NumClasses() int {
	for name, x := range p.saved {
		if backbone.IsHead(name) && len(x.Shape) == 2 {
			return x.Shape[0]
		}
	}
	return 0
}

// Delta returns the delta of the folder for the backbone m. t configures how images are resized; it
// has no effect if spt exported the folder, which then states the transform. A LoRA on a tensor
// that takes no structured module in spt, such as a convolution, becomes a tensor that is tuned
// whole. The ranks become the largest of them. Delta returns an error if the tensors do not fit m.
func (p *PEFT) Delta(m *backbone.Model, t Transform) (*Delta, error) {
	d, err := p.delta(m, t)
	if err != nil {
		return nil, fmt.Errorf("reading the PEFT adapter %s on the backbone %s: %w", p.dir, m.Path, err)
	}
	return d, nil
}

func (p *PEFT) delta(m *backbone.Model, t Transform) (*Delta, error) {
	d := New(m, nil)
	d.Method, d.Objective, d.Transform = "lora", objective.SingleLabel.Name(), t
	if own := p.Described; own != nil {
		if err := own.Check(m); err != nil {
			return nil, err
		}
		*d = *own
	} else {
		named, err := p.names(m.Config.NumClasses)
		if err != nil {
			return nil, err
		}
		if d.Classes = named.Names; d.Classes == nil {
			for i := range m.Config.NumClasses {
				d.Classes = append(d.Classes, fmt.Sprint(i))
			}
		}
	}
	c := &peftConversion{m: m, params: map[string]backbone.Param{}, whole: checkpoint.StateDict{}, low: map[string]peftLayer{}}
	for _, q := range m.Config.Params() {
		c.params[q.Name] = q
	}
	if err := c.convert(p); err != nil {
		return nil, err
	}
	if err := c.fill(d); err != nil {
		return nil, err
	}
	return d, d.validate()
}

// peftConversion turns a folder of PEFT into a selection with its tensors.
type peftConversion struct {
	m      *backbone.Model
	params map[string]backbone.Param
	whole  checkpoint.StateDict // tensors that are tuned whole, and those of the head
	low    map[string]peftLayer // LoRA by the canonical name of the weight; A and B are matrices
}

// convert reads the tensors of p under canonical names.
func (c *peftConversion) convert(p *PEFT) error {
	names := slices.Collect(maps.Keys(p.saved))
	for layer := range p.layers {
		names = append(names, layer+".weight")
	}
	slices.Sort(names)
	canonical, err := c.m.Config.CanonicalNames(names)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.saved)) {
		x := p.saved[name]
		for i, own := range parts(canonical[name]) {
			part, err := rows(x, i, len(parts(canonical[name])))
			if err == nil {
				err = c.tuneWhole(own, part)
			}
			if err != nil {
				return fmt.Errorf("the tensor %.200q: %w", name, err)
			}
		}
	}
	for _, layer := range slices.Sorted(maps.Keys(p.layers)) {
		l := p.layers[layer]
		scale, err := p.config.scale(layer, l.a.Shape[0])
		if err != nil {
			return err
		}
		targets := parts(canonical[layer+".weight"])
		for i, target := range targets {
			b, err := rows(l.b, i, len(targets))
			if err != nil {
				return fmt.Errorf("the LoRA of the layer %.200q: %w", layer, err)
			}
			own := peftLayer{a: l.a, b: b}
			if len(l.bias.Data) > 0 {
				if own.bias, err = rows(l.bias, i, len(targets)); err != nil {
					return fmt.Errorf("the LoRA of the layer %.200q: %w", layer, err)
				}
			}
			if err := c.addLoRA(target, own, float32(scale)); err != nil {
				return fmt.Errorf("the LoRA of the layer %.200q: %w", layer, err)
			}
		}
	}
	return nil
}

// parts returns the canonical names of the parts of a fused qkv, or the name itself.
func parts(canonical string) []string {
	before, leaf, ok := strings.Cut(canonical, ".attn.qkv.")
	if !ok {
		return []string{canonical}
	}
	return []string{before + ".attn.q." + leaf, before + ".attn.k." + leaf, before + ".attn.v." + leaf}
}

// rows returns the rows of part i of n.
func rows(x checkpoint.Tensor, i, n int) (checkpoint.Tensor, error) {
	if n == 1 {
		return x, nil
	}
	if len(x.Shape) == 0 || x.Shape[0]%n != 0 {
		return x, fmt.Errorf("the shape %v cannot be split into q, k and v", x.Shape)
	}
	shape, size := slices.Clone(x.Shape), len(x.Data)/n
	shape[0] /= n
	return checkpoint.Tensor{Shape: shape, Data: x.Data[i*size : (i+1)*size : (i+1)*size]}, nil
}

// tuneWhole adds a tensor that is tuned whole, or one of the head.
func (c *peftConversion) tuneWhole(name string, x checkpoint.Tensor) error {
	q, ok := c.params[name]
	switch {
	case !ok:
		return fmt.Errorf("the backbone has no tensor %q", name)
	case !slices.Equal(x.Shape, q.Shape):
		return fmt.Errorf("its shape is %v, but %s of the backbone has %v; give the backbone on which the adapter was trained", x.Shape, name, q.Shape)
	}
	c.whole[name] = x
	return nil
}

// addLoRA adds the LoRA of the weight with the canonical name target. The factor scale becomes a
// part of B.
func (c *peftConversion) addLoRA(target string, l peftLayer, scale float32) error {
	q, ok := c.params[target]
	if !ok {
		return fmt.Errorf("the backbone has no weight %q with these rows", target)
	}
	shape := append([]int{l.b.Shape[0]}, l.a.Shape[1:]...)
	if !slices.Equal(shape, q.Shape) {
		return fmt.Errorf("it is for a weight of shape %v, but %s of the backbone has %v; give the backbone on which the adapter was trained", shape, target, q.Shape)
	}
	if _, ok := c.whole[target]; ok {
		return fmt.Errorf("%s is also saved whole; save the adapter with one of the two", target)
	}
	if slices.ContainsFunc(l.bias.Data, func(v float32) bool { return v != 0 }) {
		name := strings.TrimSuffix(target, "weight") + "bias"
		bias, err := c.value(name)
		if err != nil {
			return err
		}
		sum := slices.Clone(bias.Data)
		for i := range sum {
			sum[i] += scale * l.bias.Data[i]
		}
		c.whole[name] = checkpoint.Tensor{Shape: bias.Shape, Data: sum}
	}
	l = l.scaled(scale)
	if l.a.Shape[0] == 0 {
		return nil
	}
	if rank := l.a.Shape[0]; q.Matrix() && rank <= c.m.Config.MaxRank() {
		c.low[target] = l
		return nil
	}
	w, err := c.value(target)
	if err != nil {
		return err
	}
	c.whole[target] = checkpoint.Tensor{Shape: w.Shape, Data: l.addedTo(w.Data)}
	return nil
}

// value returns a tensor of the backbone, or the one that replaces it.
func (c *peftConversion) value(name string) (checkpoint.Tensor, error) {
	if x, ok := c.whole[name]; ok {
		return x, nil
	}
	x, ok := c.m.Weights[name]
	if !ok {
		return x, fmt.Errorf("neither the adapter nor the backbone has the tensor %q", name)
	}
	return x, nil
}

// scaled returns the LoRA as matrices with the factor scale in B, without components of zero. A
// fused qkv of separate LoRAs has such components. The rank of the result may be 0.
func (l peftLayer) scaled(scale float32) peftLayer {
	rank := l.a.Shape[0]
	in, out := len(l.a.Data)/rank, len(l.b.Data)/rank
	var keep []int
	for r := range rank {
		a := slices.ContainsFunc(l.a.Data[r*in:(r+1)*in], func(v float32) bool { return v != 0 })
		b := false
		for o := range out {
			b = b || l.b.Data[o*rank+r] != 0
		}
		if a && b {
			keep = append(keep, r)
		}
	}
	a, b := checkpoint.NewTensor(len(keep), in), checkpoint.NewTensor(out, len(keep))
	for i, r := range keep {
		copy(a.Data[i*in:], l.a.Data[r*in:(r+1)*in])
		for o := range out {
			b.Data[o*len(keep)+i] = scale * l.b.Data[o*rank+r]
		}
	}
	return peftLayer{a: a, b: b}
}

// addedTo returns w + B·A.
func (l peftLayer) addedTo(w []float32) []float32 {
	rank := l.a.Shape[0]
	in, sum := len(l.a.Data)/rank, slices.Clone(w)
	for i := range sum {
		v := float64(sum[i])
		for r := range rank {
			v += float64(l.b.Data[i/in*rank+r]) * float64(l.a.Data[r*in+i%in])
		}
		sum[i] = float32(v)
	}
	return sum
}

// fill sets the selection and the tensors of d. All LoRAs get the largest rank, with zeros.
func (c *peftConversion) fill(d *Delta) error {
	d.Tuned = checkpoint.StateDict{}
	for _, q := range c.m.Config.Params() {
		if x, ok := c.whole[q.Name]; ok {
			d.Tuned[q.Name] = x
			if q.Role != backbone.Head {
				d.Selection.Whole = append(d.Selection.Whole, q.Name)
			}
		} else if q.Role == backbone.Head {
			x, err := c.value(q.Name)
			if err != nil {
				return fmt.Errorf("%w; give a backbone with the head of the task, or save the adapter with the head in modules_to_save", err)
			}
			d.Tuned[q.Name] = x
		}
		if l, ok := c.low[q.Name]; ok {
			d.Selection.Module = "lora"
			d.Selection.Rank = max(d.Selection.Rank, l.a.Shape[0])
			d.Selection.Structured = append(d.Selection.Structured, q.Name)
		}
	}
	for _, name := range d.Selection.Structured {
		l := c.low[name]
		rank, in, out := d.Selection.Rank, l.a.Shape[1], l.b.Shape[0]
		a, b := checkpoint.NewTensor(rank, in), checkpoint.NewTensor(out, rank)
		copy(a.Data, l.a.Data)
		for o := range out {
			copy(b.Data[o*rank:], l.b.Data[o*l.b.Shape[1]:(o+1)*l.b.Shape[1]])
		}
		layer := strings.TrimSuffix(name, "weight")
		d.Tuned[layer+"lora_A"], d.Tuned[layer+"lora_B"] = a, b
	}
	return nil
}
