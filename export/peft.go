package export

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/hub"
)

// peftFormat is the format of the folders of Hugging Face's library PEFT: LoRA on a model of timm.
var peftFormat = format{
	name:   "peft",
	reader: "PEFT, on a model of timm",
	check:  checkPEFT,
	write:  writePEFT,
	load: func(c *Classifier, dir string) string {
		made, err := timmModelOf(c.Model.Config)
		if err != nil {
			return "" // cannot happen: checkPEFT has refused
		}
		return loadPEFT(c, made, dir, basePath(c, dir))
	},
}

// checkPEFT implements format.check.
func checkPEFT(c *Classifier, _ Options) error {
	if err := textual(c.Delta.Classes); err != nil {
		return err
	}
	m, err := timmModelOf(c.Model.Config)
	if err != nil {
		return err
	}
	if len(m.heads) > 1 {
		return errors.New("the model of timm has two heads, one of which PEFT would not save" + instead)
	}
	_, err = peftTensorsOf(c)
	return err
}

// instead ends the errors about what a folder of PEFT cannot hold.
const instead = "; the formats timm and transformers hold the merged weights"

// peftTensors is the content of a folder of PEFT.
type peftTensors struct {
	c      *Classifier
	layers map[string]*peftLoRA // by timm's name of the layer
	saved  map[string]bool      // modules that are tuned whole
	bias   bool                 // whether any layer has a bias of its own
}

// peftLoRA is the LoRA of one linear layer of timm. A fused qkv has three parts.
type peftLoRA struct {
	parts []string // canonical names of the layers
}

// peftTensorsOf sorts the tuned parameters by the way in which PEFT holds them. The error says what
// would be lost.
func peftTensorsOf(c *Classifier) (*peftTensors, error) {
	s := c.Delta.Selection
	switch {
	case s.SSF:
		return nil, errors.New("PEFT has no scales and shifts of SSF, which would be lost" + instead)
	case s.FacT != nil:
		return nil, errors.New("PEFT has no factors of FacT, which would be lost" + instead)
	case s.BranchScales:
		return nil, errors.New("PEFT has no factors of DiffFit, which would be lost" + instead)
	case s.Prompts != nil || s.AdaptFormer != nil || s.PostAdapter != nil || s.Convpass != nil || s.MLPHead > 1:
		return nil, errors.New("PEFT has no prompts, bottlenecks of AdaptFormer, adapters of Adapter+, bypasses of Convpass or MLP heads for these backbones; they would be lost" + anyMethod)
	case len(s.Structured) > 0 && s.Module != "lora":
		return nil, fmt.Errorf("PEFT has no structured module %q, so the modules would be lost%s", s.Module, anyMethod)
	case len(s.Entries) > 0:
		n := 0
		for _, entries := range s.Entries {
			n += len(entries)
		}
		return nil, fmt.Errorf("LoRA of PEFT has no single entries of weights, so the %d tuned entries would be lost%s", n, instead)
	}
	p := &peftTensors{c: c, layers: map[string]*peftLoRA{}, saved: map[string]bool{c.Model.Config.Head(): true}}
	for _, weight := range s.Structured {
		p.addLayer(strings.TrimSuffix(weight, ".weight"))
	}
	params := map[string]backbone.Param{}
	for _, q := range c.Model.Config.Params() {
		params[q.Name] = q
	}
	for _, name := range s.Whole {
		i := strings.LastIndex(name, ".")
		module := name[:max(i, 0)]
		weight, linear := params[module+".weight"]
		linear = linear && len(weight.Shape) == 2
		switch {
		case linear && strings.HasSuffix(name, ".bias"):
			p.addLayer(module)
			p.bias = true
		case linear:
			return nil, fmt.Errorf("the whole matrix %s is tuned, which LoRA of PEFT does not hold%s", name, instead)
		case module == "" || slices.ContainsFunc(c.Model.Config.Params(), func(q backbone.Param) bool {
			rest, in := strings.CutPrefix(q.Name, module+".")
			return in && strings.Contains(rest, ".")
		}):
			return nil, fmt.Errorf("%s is tuned, which is a bare parameter in timm: PEFT saves and restores only modules, so it would be lost%s", name, instead)
		default:
			p.saved[module] = true
		}
	}
	if len(p.layers) == 0 {
		return nil, errors.New("no layer has a LoRA, and PEFT needs at least one" + instead)
	}
	return p, nil
}

// addLayer adds the layer with the canonical name to the layers of timm.
func (p *peftTensors) addLayer(layer string) {
	own := timmLayer(layer)
	if p.layers[own] != nil {
		return
	}
	l := &peftLoRA{parts: []string{layer}}
	if before, ok := strings.CutSuffix(own, "qkv"); ok {
		l.parts = []string{before + "q", before + "k", before + "v"}
	}
	p.layers[own] = l
}

// timmLayer returns timm's name of a layer.
func timmLayer(layer string) string {
	for _, part := range []string{".attn.q", ".attn.k", ".attn.v"} {
		if before, ok := strings.CutSuffix(layer, part); ok {
			return before + ".attn.qkv"
		}
	}
	return layer
}

// tensors returns A [r, in], B [out, r] and the bias [out] of the layer. The LoRAs of a fused qkv
// are stacked: A is that of q, k and v above each other, and B has their matrices B on its
// diagonal. A layer without LoRA gets one of rank 1 with zeros, which carries the bias.
func (l *peftLoRA) tensors(c *Classifier) (a, b, bias checkpoint.Tensor) {
	rank, in, out := 0, 0, 0
	for _, part := range l.parts {
		shape := c.Model.Weights[part+".weight"].Shape
		in, out = shape[1], out+shape[0]
		rank += len(c.Tuned.Tuned[part+".lora_A"].Data) / in
	}
	a, b, bias = checkpoint.NewTensor(max(rank, 1), in), checkpoint.NewTensor(out, max(rank, 1)), checkpoint.NewTensor(out)
	r, o := 0, 0
	for _, part := range l.parts {
		ownA, ownB := c.Tuned.Tuned[part+".lora_A"], c.Tuned.Tuned[part+".lora_B"]
		n, rows := len(ownA.Data)/in, c.Model.Weights[part+".weight"].Shape[0]
		copy(a.Data[r*in:], ownA.Data)
		for i := range rows {
			copy(b.Data[(o+i)*b.Shape[1]+r:], ownB.Data[i*n:(i+1)*n])
		}
		if tuned, ok := c.Tuned.Tuned[part+".bias"]; ok {
			for i, v := range tuned.Data {
				bias.Data[o+i] = v - c.Model.Weights[part+".bias"].Data[i]
			}
		}
		r, o = r+n, o+rows
	}
	return a, b, bias
}

// modules returns the modules of the backbone that PEFT saves, and their tensors. PEFT takes every
// module whose name ends with one of the listed names, so that there can be more of them than those
// that were tuned: "norm" also means "patch_embed.norm".
func (p *peftTensors) modules() (names []string, tensors checkpoint.StateDict) {
	names, tensors = slices.Sorted(maps.Keys(p.saved)), checkpoint.StateDict{}
	for _, q := range p.c.Model.Config.Params() {
		module := q.Name[:max(strings.LastIndex(q.Name, "."), 0)]
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(module, name) }) {
			continue
		}
		x, ok := p.c.Tuned.Tuned[q.Name]
		if !ok {
			x = p.c.Model.Weights[q.Name]
		}
		tensors[q.Name] = x
	}
	return names, tensors
}

// peftConfig is the content of adapter_config.json. Every other field has its default. The factor
// of each LoRA is lora_alpha/r, which is 1.
type peftConfig struct {
	Type          string         `json:"peft_type"`
	Base          *string        `json:"base_model_name_or_path"`
	Inference     bool           `json:"inference_mode"`
	Bias          string         `json:"bias"`
	LoRABias      bool           `json:"lora_bias,omitempty"`
	Rank          int            `json:"r"`
	Alpha         int            `json:"lora_alpha"`
	RankPattern   map[string]int `json:"rank_pattern"`
	AlphaPattern  map[string]int `json:"alpha_pattern"`
	Targets       []string       `json:"target_modules"`
	ModulesToSave []string       `json:"modules_to_save"`
}

// writePEFT implements format.write.
func writePEFT(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error) {
	made, err := timmModelOf(c.Model.Config)
	if err != nil {
		return nil, err
	}
	p, err := peftTensorsOf(c)
	if err != nil {
		return nil, err
	}
	config := peftConfig{
		Type: "LORA", Inference: true, Bias: "none", LoRABias: p.bias, Rank: max(c.Delta.Selection.Rank, 1),
		RankPattern: map[string]int{}, Targets: slices.Sorted(maps.Keys(p.layers)),
	}
	if r, err := hub.Parse(c.Delta.Backbone.File); err == nil {
		config.Base = &r.Repo
	}
	config.Alpha = config.Rank
	var entries []checkpoint.Entry
	add := func(name string, x checkpoint.Tensor) {
		entries = append(entries, checkpoint.Entry{Name: "base_model.model." + name, DType: checkpoint.F32, Shape: x.Shape, Data: x.Data})
	}
	for _, layer := range config.Targets {
		a, b, bias := p.layers[layer].tensors(c)
		if rank := a.Shape[0]; rank != config.Rank {
			config.RankPattern[regexp.QuoteMeta(layer)] = rank
		}
		add(layer+".lora_A.weight", a)
		add(layer+".lora_B.weight", b)
		if p.bias {
			add(layer+".lora_B.bias", bias)
		}
	}
	config.AlphaPattern = config.RankPattern
	var saved checkpoint.StateDict
	config.ModulesToSave, saved = p.modules()
	for name, x := range saved {
		add(name, x)
	}
	metadata, err := c.Delta.DescribePEFT(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, delta.PEFTTensorsName)
	if err := checkpoint.Save(path, entries, metadata); err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, delta.PEFTConfigName), config); err != nil {
		return nil, err
	}
	e := &Exported{}
	base := basePath(c, dir)
	if base != c.Model.TimmFile {
		without := backbone.NewModel(c.Model.Config, c.Model.Preprocessing, headless(c.Model))
		if err := without.Save(base, checkpoint.F32, nil); err != nil {
			return nil, err
		}
		e.Notes = append(e.Notes, delta.PEFTBaseName+" holds the weights of the backbone under timm's names, because timm cannot read its checkpoint as it is")
	}
	if p.bias {
		e.Notes = append(e.Notes, "tuned biases are lora_bias, which PEFT has from version 0.14")
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, cardFile), peftCard(c, made, filepath.Base(base))); err != nil {
		return nil, err
	}
	differs := made.differs(c.Model.Config)
	if e.Images, e.Difference, err = comparePEFT(ctx, c, o, made, dir); err != nil {
		if differs != "" {
			err = fmt.Errorf("%w (%s)", err, differs)
		}
		return nil, err
	}
	if differs != "" {
		e.Notes = append(e.Notes, differs+"; the difference of the logits includes this")
	}
	return e, nil
}

// basePath returns the path of a checkpoint of the backbone that timm can read: that of the
// backbone, or else a file in the folder dir.
func basePath(c *Classifier, dir string) string {
	return cmp.Or(c.Model.TimmFile, filepath.Join(dir, delta.PEFTBaseName))
}

// headless returns the weights of m without its head.
func headless(m *backbone.Model) checkpoint.StateDict {
	out := maps.Clone(m.Weights)
	maps.DeleteFunc(out, func(name string, _ checkpoint.Tensor) bool { return strings.HasPrefix(name, m.Config.Head()+".") })
	return out
}

// comparePEFT reads the folder back and compares its logits with those of the classifier.
func comparePEFT(ctx context.Context, c *Classifier, o Options, made timmModel, dir string) (images int, difference float64, err error) {
	p, err := delta.LoadPEFT(dir)
	if err != nil {
		return 0, 0, err
	}
	d, err := p.Delta(c.Model, c.Delta.Transform)
	if err != nil {
		return 0, 0, err
	}
	tuned, err := spt.Restore(c.Model, d)
	if err != nil {
		return 0, 0, err
	}
	got, err := c.logitsOf(ctx, made.like(c.Model), tuned, o.Probes)
	if err != nil {
		return 0, 0, err
	}
	return c.hold(ctx, o, got)
}

// like returns a copy of the backbone that computes as timm does: with timm's eps.
func (m timmModel) like(own *backbone.Model) *backbone.Model {
	config := own.Config
	config.LayerNormEps = m.eps
	if v, ok := config.Form.(backbone.ConvNeXt); ok {
		v.FinalNormEps = 0
		config.Form = v
	}
	return backbone.NewModel(config, own.Preprocessing, own.Weights)
}

// loadPEFT returns the code that loads the folder dir on the checkpoint of the backbone. dir and
// base are paths.
func loadPEFT(c *Classifier, made timmModel, dir, base string) string {
	args := ""
	for _, key := range slices.Sorted(maps.Keys(made.args)) {
		args += ", " + key + "=" + literal(made.args[key])
	}
	return fmt.Sprintf(`import timm
from peft import PeftModel
base = timm.create_model(%s, pretrained=True, num_classes=%d,
                         pretrained_cfg_overlay=dict(file=%s, num_classes=0, custom_load=False)%s)
model = PeftModel.from_pretrained(base, %s).eval()`, python(made.architecture), c.Model.Config.NumClasses, python(base), args, python(dir))
}

// literal returns the value of an argument in Python.
func literal(v any) string {
	switch v {
	case true:
		return "True"
	case false:
		return "False"
	}
	text, _ := json.Marshal(v) // never fails for the arguments of a timmModel
	return string(bytes.TrimSpace(text))
}

// peftCard returns the model card of a folder of PEFT. base is the name of the checkpoint of the
// backbone.
func peftCard(c *Classifier, made timmModel, base string) []byte {
	if base == delta.PEFTBaseName {
		base = "DIR/" + delta.PEFTBaseName
	}
	return modelCard(c, "peft", []string{"lora", "timm"}, []usage{
		{"PEFT and timm, with `DIR` the path of this folder and `" + code(base) + "` the checkpoint of the base model", "python", loadPEFT(c, made, "DIR", base)},
	})
}
