package export

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/objective"
)

// The names of the files in a folder of timm, which Transformers reads too.
const (
	weightsFile = "model.safetensors"
	configFile  = "config.json"
	cardFile    = "README.md"
)

// timm is the format of timm's folders: the delta is merged into the weights, and config.json holds
// the arguments of the model and the transform of the images.
var timm = format{
	name:   "timm",
	reader: "timm and Transformers",
	check:  checkTimm,
	write:  writeTimm,
	load: func(_ *Classifier, dir string) string {
		return fmt.Sprintf(`import timm
model = timm.create_model(%s, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))`, python("local-dir:"+dir))
	},
}

// anyMethod ends the errors of formats that hold merged weights only.
const anyMethod = "; the format onnx holds every classifier"

// checkTimm implements format.check.
func checkTimm(c *Classifier, _ Options) error {
	if err := mergeable(c); err != nil {
		return err
	}
	_, err := timmModelOf(c.Model.Config)
	return err
}

// mergeable returns an error if the tuned parameters cannot be merged into the weights of the
// backbone, or if a class name is not text.
func mergeable(c *Classifier) error {
	if err := c.Tuned.Tuning.Mergeable(); err != nil {
		return fmt.Errorf("%w%s", err, anyMethod)
	}
	return textual(c.Delta.Classes)
}

// textual returns an error if a class name is not UTF-8, which JSON requires. A name with U+FFFD
// was not UTF-8 when it was read.
func textual(classes []string) error {
	for i, name := range classes {
		if !utf8.ValidString(name) || strings.ContainsRune(name, utf8.RuneError) {
			return fmt.Errorf("the name of class %d, %.100q, is not UTF-8; rename its folder or its label, and tune again", i, name)
		}
	}
	return nil
}

// writeTimm implements format.write.
func writeTimm(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error) {
	made, err := timmModelOf(c.Model.Config)
	if err != nil {
		return nil, err
	}
	weights, err := c.Tuned.Tuning.Merge(c.Model.Weights, c.Tuned.Tuned)
	if err != nil {
		return nil, err
	}
	merged := delta.Merged{Model: backbone.NewModel(c.Model.Config, c.Model.Preprocessing, weights), Transform: c.Delta.Transform,
		Objective: c.Delta.Objective, Thresholds: c.Delta.Thresholds}
	path := filepath.Join(dir, weightsFile)
	dtype := checkpoint.F32
	if o.Half {
		dtype = checkpoint.F16
	}
	if err := merged.Save(path, dtype, c.Delta.Classes); err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, configFile), timmConfigOf(c, made)); err != nil {
		return nil, err
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, cardFile), timmCard(c)); err != nil {
		return nil, err
	}
	read, err := made.open(path)
	if err != nil {
		return nil, err
	}
	e := &Exported{}
	differs := made.differs(c.Model.Config)
	if e.Images, e.Difference, err = c.compare(ctx, o, read); err != nil {
		if differs != "" {
			err = fmt.Errorf("%w; the cause may be that %s%s", err, differs, anyMethod)
		}
		return nil, err
	}
	if differs != "" {
		e.Notes = append(e.Notes, differs+"; the difference of the logits includes this")
	}
	if o.Half {
		e.Notes = append(e.Notes, halfNote)
	}
	return e, nil
}

// halfNote tells users of Transformers about float16.
const halfNote = "Transformers computes in float16 if the weights are float16; torch_dtype=torch.float32 makes it compute in float32"

// timmModel says how timm's create_model makes a model.
type timmModel struct {
	// architecture is a name that timm's create_model knows.
	architecture string
	// args holds all arguments of the model that determine its result, so that the defaults of the
	// architecture have no effect.
	args map[string]any
	// pool is the name of the pooling.
	pool string
	// stem and heads name the first convolution and the classification layers.
	stem  string
	heads []string
	// eps is the eps of all layer norms in timm's model.
	eps float64
}

// timmModelOf returns timm's model with the results of c. The error says why timm has none.
func timmModelOf(c backbone.Config) (m timmModel, err error) {
	if text := c.BeyondTimm(); text != "" {
		return m, fmt.Errorf("timm cannot compute this backbone: %s%s", text, anyMethod)
	}
	switch form := c.Form.(type) {
	case backbone.ViT:
		m, err = timmViT(c, form)
	case backbone.Swin:
		m, err = timmSwin(c, form)
	case backbone.ConvNeXt:
		m, err = timmConvNeXt(c, form)
	default:
		err = fmt.Errorf("it has no architecture %q", c.Architecture())
	}
	if err != nil {
		return m, fmt.Errorf("timm cannot compute this backbone: %w%s", err, anyMethod)
	}
	return m, nil
}

// vitSizes names the sizes of timm's Vision Transformers, by width, depth and number of heads.
var vitSizes = map[[3]int]string{
	{192, 12, 3}: "tiny", {384, 12, 6}: "small", {768, 12, 12}: "base", {1024, 24, 16}: "large", {1280, 32, 16}: "huge",
}

// vitNames lists timm's Vision Transformers that have a name of their own, by kind. In the name of
// a kind, %s stands for a size and %d for the side of the patches. The list has these two.
var vitNames = map[string][]string{
	"vit_%s_patch%d_224":                {"tiny16", "small8", "small16", "small32", "base8", "base16", "base32", "large14", "large16", "large32", "huge14"},
	"vit_%s_patch%d_dinov2":             {"small14", "base14", "large14"},
	"vit_%s_patch%d_reg4_dinov2":        {"small14", "base14", "large14"},
	"vit_%s_patch%d_clip_224":           {"base16", "base32", "large14", "huge14"},
	"vit_%s_patch%d_clip_quickgelu_224": {"base16", "base32", "large14", "huge14"},
	"deit_%s_distilled_patch%d_224":     {"tiny16", "small16", "base16"},
}

// timmViT returns timm's Vision Transformer with the results of v. The eps of the norms and the
// kind of the MLP are functions in timm, which config.json cannot hold, so the architecture must
// have the right ones. Every other argument is in args.
func timmViT(c backbone.Config, v backbone.ViT) (m timmModel, err error) {
	m = timmModel{pool: "token", stem: "patch_embed.proj", heads: []string{"head"}, eps: 1e-6}
	if v.Pooling == "avg" {
		m.pool = "avg"
	}
	switch {
	case v.PreNorm != v.NoPatchBias:
		return m, errors.New("there, the patch embedding has no bias exactly if a norm precedes the blocks")
	case v.DistToken && (m.pool == "avg" || v.Registers > 0 || v.PatchPositions || v.SwiGLU):
		return m, errors.New("there, a model with a distillation token reads both tokens, has no registers and no gated MLP, and all its tokens have a position embedding")
	}
	kind := "vit_%s_patch%d_224"
	switch {
	case v.DistToken:
		kind, m.architecture, m.heads = "deit_%s_distilled_patch%d_224", "deit_base_distilled_patch16_224", []string{"head", "head_dist"}
	case v.SwiGLU:
		kind, m.architecture = "", "vit_giant_patch14_dinov2"
	case c.LayerNormEps == 1e-5:
		m.architecture, m.eps = "vit_base_patch16_clip_224", 1e-5
		if kind = ""; v.PreNorm {
			kind = "vit_%s_patch%d_clip_224"
		}
		if v.PreNorm && v.QuickGELU {
			kind = "vit_%s_patch%d_clip_quickgelu_224"
		}
	case v.LayerScale && v.Registers == 4:
		kind, m.architecture = "vit_%s_patch%d_reg4_dinov2", "vit_base_patch16_224"
	case v.LayerScale:
		kind, m.architecture = "vit_%s_patch%d_dinov2", "vit_base_patch16_224"
	default:
		m.architecture = "vit_base_patch16_224"
	}
	size := vitSizes[[3]int{v.EmbedDim, v.Depth, c.NumHeads}]
	if slices.Contains(vitNames[kind], fmt.Sprint(size, v.PatchSize)) {
		m.architecture = fmt.Sprintf(kind, size, v.PatchSize)
	}
	scale := 0.0 // no layer scale
	if v.LayerScale {
		scale = 1e-5 // of a new model; the file holds the factors
	}
	m.args = map[string]any{
		"img_size": c.ImageSize, "patch_size": v.PatchSize, "embed_dim": v.EmbedDim, "depth": v.Depth, "num_heads": c.NumHeads,
		"global_pool": m.pool, "class_token": !v.NoClassToken, "reg_tokens": v.Registers, "no_embed_class": v.PatchPositions,
		"pre_norm": v.PreNorm, "fc_norm": v.FCNorm, "qkv_bias": !v.NoQKVBias, "qk_norm": v.QKNorm, "init_values": scale,
	}
	if v.SwiGLU {
		m.args["mlp_ratio"] = mlpRatio(2*v.HiddenDim, v.EmbedDim)
		return m, nil
	}
	m.args["mlp_ratio"], m.args["act_layer"] = mlpRatio(v.HiddenDim, v.EmbedDim), "gelu"
	if v.QuickGELU {
		m.args["act_layer"] = "quick_gelu"
	}
	return m, nil
}

// mlpRatio returns the factor by which timm multiplies the width of the tokens to get the width of
// an MLP. timm truncates the product.
func mlpRatio(hidden, width int) float64 {
	ratio := float64(hidden) / float64(width)
	if int(ratio*float64(width)) < hidden {
		ratio = math.Nextafter(ratio, math.Inf(1))
	}
	return ratio
}

// swinNames lists timm's Swin Transformers: depths, width, window and name.
var swinNames = []struct {
	depths        []int
	width, window int
	name          string
}{
	{[]int{2, 2, 6, 2}, 96, 7, "swin_tiny_patch4_window7_224"},
	{[]int{2, 2, 18, 2}, 96, 7, "swin_small_patch4_window7_224"},
	{[]int{2, 2, 18, 2}, 128, 7, "swin_base_patch4_window7_224"},
	{[]int{2, 2, 18, 2}, 128, 12, "swin_base_patch4_window12_384"},
	{[]int{2, 2, 18, 2}, 192, 7, "swin_large_patch4_window7_224"},
	{[]int{2, 2, 18, 2}, 192, 12, "swin_large_patch4_window12_384"},
}

// timmSwin returns timm's Swin Transformer with the results of w.
func timmSwin(c backbone.Config, w backbone.Swin) (timmModel, error) {
	m := timmModel{architecture: swinNames[0].name, pool: "avg", stem: "patch_embed.proj", heads: []string{"head.fc"}, eps: 1e-5}
	for _, row := range swinNames {
		if slices.Equal(row.depths, w.Depths) && row.width == w.EmbedDim && row.window == w.WindowSize {
			m.architecture = row.name
		}
	}
	m.args = map[string]any{
		"img_size": c.ImageSize, "patch_size": w.PatchSize, "window_size": w.WindowSize, "embed_dim": w.EmbedDim,
		"depths": w.Depths, "num_heads": w.StageHeads, "mlp_ratio": mlpRatio(w.HiddenDim, w.EmbedDim),
	}
	return m, nil
}

// convnextNames lists the sizes of timm's ConvNeXt: depths, width of the first stage and name.
var convnextNames = []struct {
	depths []int
	width  int
	names  []string
}{
	{[]int{2, 2, 6, 2}, 40, []string{"convnext_atto", "convnextv2_atto"}},
	{[]int{2, 2, 6, 2}, 48, []string{"convnext_femto", "convnextv2_femto"}},
	{[]int{2, 2, 6, 2}, 64, []string{"convnext_pico", "convnextv2_pico"}},
	{[]int{2, 2, 8, 2}, 80, []string{"convnext_nano", "convnextv2_nano"}},
	{[]int{3, 3, 9, 3}, 96, []string{"convnext_tiny", "convnextv2_tiny"}},
	{[]int{3, 3, 27, 3}, 96, []string{"convnext_small", "convnextv2_small"}},
	{[]int{3, 3, 27, 3}, 128, []string{"convnext_base", "convnextv2_base"}},
	{[]int{3, 3, 27, 3}, 192, []string{"convnext_large", "convnextv2_large"}},
	{[]int{3, 3, 27, 3}, 256, []string{"convnext_xlarge"}},
	{[]int{3, 4, 30, 3}, 384, []string{"convnext_xxlarge"}},
	{[]int{3, 3, 27, 3}, 352, []string{"", "convnextv2_huge"}},
}

// timmConvNeXt returns timm's ConvNeXt or ConvNeXt V2 with the results of v. The linear layers of
// the MLPs are written as matrices, not as convolutions.
func timmConvNeXt(c backbone.Config, v backbone.ConvNeXt) (timmModel, error) {
	m := timmModel{architecture: "convnext_tiny", pool: "avg", stem: "stem.0", heads: []string{"head.fc"}, eps: c.LayerNormEps}
	version := 0
	if v.ResponseNorm {
		// The models of V1 always have a layer scale, which an argument in JSON cannot remove.
		m.architecture, version = "convnextv2_tiny", 1
	}
	// timm halves the map before the first stage after a stem of stride 2, and keeps the map of the
	// last stages after a stem of a stride above 4.
	if len(v.Depths) != 4 || v.PatchSize == 2 || v.PatchSize > 4 {
		return m, fmt.Errorf("a ConvNeXt has four stages there, and a stem of 1, 3 or 4 px, but the backbone has %d stages and a stem of %d px", len(v.Depths), v.PatchSize)
	}
	for _, row := range convnextNames {
		if slices.Equal(row.depths, v.Depths) && row.width == v.EmbedDim && version < len(row.names) {
			m.architecture = cmp.Or(row.names[version], m.architecture)
		}
	}
	m.args = map[string]any{
		"depths": v.Depths, "dims": v.Dims, "patch_size": v.PatchSize, "use_grn": v.ResponseNorm, "conv_mlp": false, "norm_eps": c.LayerNormEps,
	}
	if v.HiddenSize > 0 {
		m.args["head_hidden_size"] = v.HiddenSize
	}
	return m, nil
}

// open reads the weights that writeTimm has written, and computes as timm does: with timm's eps.
func (m timmModel) open(path string) (*backbone.Model, error) {
	read, _, err := backbone.Load(path, backbone.LoadOptions{LayerNormEps: m.eps})
	if err != nil {
		return nil, err
	}
	if v, ok := read.Config.Form.(backbone.ConvNeXt); ok {
		v.FinalNormEps = 0 // timm has one eps
		read.Config.Form = v
	}
	return read, nil
}

// differs says how the eps of timm's layer norms differs from that of the backbone. It returns ""
// if it does not.
func (m timmModel) differs(c backbone.Config) string {
	eps := c.LayerNormEps
	if v, ok := c.Form.(backbone.ConvNeXt); ok {
		eps = cmp.Or(v.FinalNormEps, eps)
	}
	if eps == m.eps {
		return ""
	}
	return fmt.Sprintf("the layer norms of timm's %s have eps %g, but those of the backbone %g", m.architecture, m.eps, eps)
}

// timmConfig is the content of config.json. timm reads it, and Transformers as a TimmWrapperConfig.
type timmConfig struct {
	Architecture string         `json:"architecture"`
	NumClasses   int            `json:"num_classes"`
	GlobalPool   string         `json:"global_pool"`
	LabelNames   []string       `json:"label_names"`
	ModelArgs    map[string]any `json:"model_args"`
	Pretrained   pretrainedCfg  `json:"pretrained_cfg"`
	// Problem is severalProblem for several labels of an image, and else empty. timm does not read
	// it, but Transformers does. Thresholds are those of the labels, which no program reads.
	Problem    string    `json:"problem_type,omitempty"`
	Thresholds []float64 `json:"thresholds,omitempty"`
}

// severalProblem is the name of Transformers for images with several labels: its pipeline takes the
// sigmoid of the logits.
const severalProblem = "multi_label_classification"

// several reports whether an image may have several labels.
func (c *Classifier) several() bool {
	return objective.SeveralLabels(c.Tuned.Objective, c.Model.Config)
}

// pretrainedCfg is timm's description of weights and of the transform of images.
type pretrainedCfg struct {
	CustomLoad    bool       `json:"custom_load"`
	InputSize     [3]int     `json:"input_size"`
	FixedSize     bool       `json:"fixed_input_size"`
	Interpolation string     `json:"interpolation"`
	CropPct       float64    `json:"crop_pct"`
	CropMode      string     `json:"crop_mode"`
	Mean          [3]float32 `json:"mean"`
	Std           [3]float32 `json:"std"`
	NumClasses    int        `json:"num_classes"`
	FirstConv     string     `json:"first_conv"`
	// Classifier is a name or a list of names.
	Classifier any `json:"classifier"`
}

// printLabels returns the line of Python that prints the name of the predicted class, or the names
// of all predicted labels. names and logits are expressions of Python: the names of the classes and
// the logits of one image, a tensor [1, classes].
func (c *Classifier) printLabels(names, logits string) string {
	if !c.several() {
		return fmt.Sprintf("print(%s[%s.argmax().item()])", names, logits)
	}
	thresholds := c.Delta.Thresholds
	if thresholds == nil {
		thresholds = slices.Repeat([]float64{evaluate.DefaultThreshold}, len(c.Delta.Classes))
	}
	list, _ := json.Marshal(thresholds) // finite numbers
	return fmt.Sprintf("thresholds = %s\nprint([%s[i] for i, p in enumerate(%s[0].sigmoid().tolist()) if p >= thresholds[i]])", list, names, logits)
}

// timmConfigOf returns the content of config.json for a classifier.
func timmConfigOf(c *Classifier, m timmModel) timmConfig {
	config := c.Model.Config
	p := pretrainedCfg{
		InputSize: [3]int{3, config.ImageSize, config.ImageSize}, FixedSize: config.Architecture() != "convnext", Interpolation: c.Model.Preprocessing.Interpolation,
		Mean: c.Model.Preprocessing.Mean, Std: c.Model.Preprocessing.Std,
		NumClasses: config.NumClasses, FirstConv: m.stem, Classifier: m.heads[0],
	}
	if len(m.heads) > 1 {
		p.Classifier = m.heads
	}
	p.CropPct, p.CropMode = timmCrop(c.Transform)
	out := timmConfig{Architecture: m.architecture, NumClasses: config.NumClasses, GlobalPool: m.pool, LabelNames: c.Delta.Classes, ModelArgs: m.args, Pretrained: p}
	if c.several() {
		out.Problem, out.Thresholds = severalProblem, c.Delta.Thresholds
	}
	return out
}

// timmCrop returns timm's crop_pct and crop_mode for a transform. timm resizes to
// floor(size/crop_pct), so the result is a number for which this is exactly the size before the
// crop (transforms_imagenet_eval in timm/data/transforms_factory.py).
func timmCrop(t dataset.Transform) (pct float64, mode string) {
	t = t.WithDefaults()
	before := cmp.Or(t.ResizeTo, t.Size)
	pct, mode = float64(t.Size)/float64(before), "squash"
	if int(float64(t.Size)/pct) != before {
		pct = float64(t.Size) / (float64(before) + 0.5)
	}
	if t.Resize == "crop" {
		mode = "center"
	}
	return pct, mode
}

// writeJSON writes v as indented JSON. It keeps the characters <, > and & of class names.
func writeJSON(path string, v any) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, text.Bytes())
}

// python returns a string literal of Python. A literal of JSON is one.
func python(text string) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // never fails for a string
	return strings.TrimSpace(out.String())
}
