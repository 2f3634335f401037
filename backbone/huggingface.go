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

// HuggingFace describes a backbone with its head as a model of Hugging Face transformers that
// computes the same. [Config.HuggingFace] returns it.
type HuggingFace struct {
	// Class is the class of the model, such as "ViTForImageClassification".
	Class string
	// Config holds the fields of config.json that describe the model, such as model_type.
	Config map[string]any

	// rules translate the names of the library to the canonical ones.
	rules checkpoint.Rules
	// prefix stands before the names of all tensors outside the head.
	prefix string
	// change turns the weights into those that the library expects, under canonical names. It may
	// change the map, but not the values. Nil means that they are the same.
	change func(weights checkpoint.StateDict)
	// extra holds tensors that the library expects and that do not change the output, by its names.
	extra checkpoint.StateDict
}

// HuggingFace returns the model of Hugging Face transformers that computes the same as a backbone
// with the configuration c and a head. The error says why there is no such model.
func (c Config) HuggingFace() (*HuggingFace, error) {
	a, err := architectureOf(c.Form)
	if err != nil {
		return nil, err
	}
	if a.HuggingFace == nil {
		return nil, fmt.Errorf("no model of Hugging Face transformers is known for the architecture %s", a.Name)
	}
	return a.HuggingFace(c.Form, c)
}

// Weights returns weights, which have canonical names and include the head, under the names of
// Hugging Face transformers before version 5. Newer versions read them too. The result shares
// values with weights.
func (h *HuggingFace) Weights(weights checkpoint.StateDict) (checkpoint.StateDict, error) {
	changed := maps.Clone(weights)
	if h.change != nil {
		h.change(changed)
	}
	out := maps.Clone(h.extra)
	if out == nil {
		out = checkpoint.StateDict{}
	}
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		names := h.rules.Names(name)
		if len(names) != 1 {
			return nil, fmt.Errorf("the tensor %q has no name in %s", name, h.Class)
		}
		own := names[0]
		if !hfHeads.Has(own) {
			own = h.prefix + own
		}
		out[own] = changed[name]
	}
	return out, nil
}

// hfHeads holds the names of the heads in Hugging Face transformers, which have no prefix.
var hfHeads = checkpoint.Union(hfHead, hfTeacher)

// The activations of Hugging Face transformers.
const (
	hfGELU      = "gelu"
	hfQuickGELU = "quick_gelu"
)

// huggingFace implements Architecture.HuggingFace.
func (v ViT) huggingFace(c Config) (*HuggingFace, error) {
	// The classifier of DINOv2 reads the class token and the mean of the patches.
	dino := v.LayerScale || v.Registers > 0 || v.Pooling == poolTokenAvg
	switch {
	case v.NoClassToken:
		return nil, errors.New("the backbone has no class token, which the ViTs of Hugging Face transformers have")
	case v.PreNorm:
		return nil, errors.New("the backbone has a norm before its first block, which the classifiers of Hugging Face transformers do not have")
	case v.QKNorm:
		return nil, errors.New("the backbone has norms of queries and keys, which the ViTs of Hugging Face transformers do not have")
	case v.FCNorm && v.Pooling == poolAvg:
		return nil, errors.New("the backbone has its final norm after the mean of the patches, but in the ViTs of Hugging Face transformers it comes before the head's input is chosen")
	case v.Pooling == poolAvg && !dino:
		return nil, errors.New("the head reads the mean of the patches, but that of ViTForImageClassification reads the class token")
	case v.SwiGLU && !dino:
		return nil, errors.New("the MLPs are gated, which in Hugging Face transformers only those of DINOv2 are")
	case v.DistToken && dino:
		return nil, errors.New("the backbone has a distillation token and layer scale or registers; no model of Hugging Face transformers has both")
	}
	h := &HuggingFace{
		Class: "ViTForImageClassification", rules: hfViT, prefix: "vit.",
		Config: map[string]any{
			"model_type": "vit", "hidden_size": v.EmbedDim, "num_hidden_layers": v.Depth, "num_attention_heads": c.NumHeads,
			"hidden_act": hfGELU, "layer_norm_eps": c.LayerNormEps, "image_size": c.ImageSize, "patch_size": v.PatchSize, "num_channels": 3,
			"qkv_bias": !v.NoQKVBias, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02,
		},
		change: func(w checkpoint.StateDict) { v.toHuggingFace(c, w, dino) },
	}
	if v.QuickGELU {
		h.Config["hidden_act"] = hfQuickGELU
	}
	switch {
	case dino:
		return h, v.asDINOv2(h)
	case v.DistToken:
		h.Class, h.prefix, h.Config["model_type"] = "DeiTForImageClassification", "deit.", "deit"
		if v.Pooling == poolTokenDist {
			h.Class, h.rules = "DeiTForImageClassificationWithTeacher", hfDeiTTeacher
		}
	}
	h.Config["intermediate_size"], h.Config["encoder_stride"] = v.HiddenDim, v.PatchSize
	return h, nil
}

// asDINOv2 makes h a DINOv2. Its width of the MLPs is a multiple of the width of the tokens.
func (v ViT) asDINOv2(h *HuggingFace) error {
	h.Class, h.rules, h.prefix, h.Config["model_type"] = "Dinov2ForImageClassification", hfDINOv2, "dinov2.", "dinov2"
	if v.Registers > 0 {
		h.Class, h.prefix, h.Config["model_type"] = "Dinov2WithRegistersForImageClassification", "dinov2_with_registers.", "dinov2_with_registers"
		h.Config["num_register_tokens"] = v.Registers
	}
	if v.SwiGLU {
		h.rules = hfGatedDINOv2
	}
	hidden := func(ratio int) int {
		if v.SwiGLU {
			return (v.EmbedDim*ratio*2/3 + 7) / 8 * 8 // Dinov2SwiGLUFFN
		}
		return v.EmbedDim * ratio
	}
	ratio := 1
	for hidden(ratio) < v.HiddenDim {
		ratio++
	}
	if hidden(ratio) != v.HiddenDim {
		return fmt.Errorf("the width %d of the MLPs does not follow from the width %d of the tokens by a whole mlp_ratio, which Hugging Face's DINOv2 needs", v.HiddenDim, v.EmbedDim)
	}
	h.Config["mlp_ratio"], h.Config["use_swiglu_ffn"], h.Config["drop_path_rate"] = ratio, v.SwiGLU, 0.0
	h.extra = checkpoint.StateDict{h.prefix + "embeddings.mask_token": checkpoint.NewTensor(1, v.EmbedDim)}
	return nil
}

// toHuggingFace changes weights, which have canonical names, into those of a ViT, DeiT or DINOv2 of
// Hugging Face transformers. The model computes the same with them.
func (v ViT) toHuggingFace(c Config, w checkpoint.StateDict, dino bool) {
	d := v.EmbedDim
	rename := func(from, to string) {
		if x, ok := w[from]; ok {
			delete(w, from)
			w[to] = x
		}
	}
	// The norm of a single token is the same before and after the pooling.
	rename("fc_norm.weight", "norm.weight")
	rename("fc_norm.bias", "norm.bias")
	if v.NoPatchBias {
		w["patch_embed.proj.bias"] = checkpoint.NewTensor(d)
	}
	if v.PatchPositions {
		// positions of zero for the class token and the distillation token
		pos := w["pos_embed"]
		front := v.prefixTokens() - v.Registers
		w["pos_embed"] = checkpoint.Tensor{Shape: []int{1, pos.Shape[1] + front, d}, Data: slices.Concat(make([]float32, front*d), pos.Data)}
	} else if v.Registers > 0 {
		// Registers have no positions there: they are added to the tokens.
		pos, tokens := w["pos_embed"], w["reg_token"]
		own := slices.Clone(tokens.Data)
		for i := range own {
			own[i] += pos.Data[d+i]
		}
		w["reg_token"] = checkpoint.Tensor{Shape: tokens.Shape, Data: own}
		w["pos_embed"] = checkpoint.Tensor{Shape: []int{1, pos.Shape[1] - v.Registers, d}, Data: slices.Concat(pos.Data[:d], pos.Data[(1+v.Registers)*d:])}
	}
	rename("reg_token", registers)
	if v.Pooling == poolTokenDist {
		maps.Copy(w, splitHeads(&Model{Config: c, Weights: w}))
	}
	if !dino {
		return
	}
	for n := range v.Depth {
		for _, name := range []string{"ls1", "ls2"} {
			name = fmt.Sprintf("blocks.%d.%s.gamma", n, name)
			if _, ok := w[name]; !ok {
				w[name] = checkpoint.Tensor{Shape: []int{d}, Data: slices.Repeat([]float32{1}, d)}
			}
		}
	}
	if v.Pooling == poolToken || v.Pooling == poolAvg {
		// The head reads both, with weights of zero for what it does not use.
		head := w["head.weight"]
		wide := checkpoint.NewTensor(c.NumClasses, 2*d)
		at := 0
		if v.Pooling == poolAvg {
			at = d
		}
		for i := range c.NumClasses {
			copy(wide.Data[2*i*d+at:], head.Data[i*d:(i+1)*d])
		}
		w["head.weight"] = wide
	}
}

// huggingFace implements Architecture.HuggingFace.
func (w Swin) huggingFace(c Config) (*HuggingFace, error) {
	ratio := float64(w.HiddenDim) / float64(w.EmbedDim)
	for i := range w.Depths {
		s := w.stage(c, i)
		switch {
		case s.window < w.WindowSize:
			return nil, fmt.Errorf("the map of stage %d has %d patches a side, fewer than the %d of a window, which Hugging Face transformers cannot compute; tune at a larger image size", i, s.window, w.WindowSize)
		case s.side%s.window != 0 && !w.PadsBeforeShift:
			return nil, fmt.Errorf("maps of %d patches a side are padded for windows of %d patches after the shift, as in timm, but Hugging Face transformers pads them before the shift; at an image size that needs no padding the results agree", s.side, s.window)
		case int(ratio*float64(w.EmbedDim<<i)) != w.HiddenDim<<i:
			return nil, fmt.Errorf("the width %d of the MLPs does not follow from the width %d of the tokens by a mlp_ratio", w.HiddenDim, w.EmbedDim)
		}
	}
	return &HuggingFace{
		Class: "SwinForImageClassification", rules: swinHuggingFace4, prefix: "swin.",
		Config: map[string]any{
			"model_type": "swin", "image_size": c.ImageSize, "patch_size": w.PatchSize, "num_channels": 3, "embed_dim": w.EmbedDim,
			"depths": w.Depths, "num_heads": w.StageHeads, "window_size": w.WindowSize, "mlp_ratio": ratio, "qkv_bias": true,
			"hidden_act": hfGELU, "use_absolute_embeddings": false, "layer_norm_eps": c.LayerNormEps, "hidden_dropout_prob": 0.0,
			"attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0, "initializer_range": 0.02,
			"hidden_size": w.numFeatures(),
		},
	}, nil
}

// hfConvNeXtEps is the eps of all norms but the last in Hugging Face's ConvNeXt. No field of
// config.json changes it.
const hfConvNeXtEps = 1e-6

// huggingFace implements Architecture.HuggingFace.
func (v ConvNeXt) huggingFace(c Config) (*HuggingFace, error) {
	switch {
	case v.HiddenSize > 0:
		return nil, errors.New("the backbone has a linear layer before its head, which ConvNextForImageClassification does not have")
	case math.Abs(c.LayerNormEps/hfConvNeXtEps-1) > 1e-6:
		return nil, fmt.Errorf("the norms have the eps %g, but those of Hugging Face's ConvNeXt always have %g", c.LayerNormEps, hfConvNeXtEps)
	}
	h := &HuggingFace{
		Class: "ConvNextForImageClassification", rules: convnextHuggingFace, prefix: "convnext.",
		Config: map[string]any{
			"model_type": "convnext", "num_channels": 3, "patch_size": v.PatchSize, "num_stages": len(v.Depths), "hidden_sizes": v.Dims,
			"depths": v.Depths, "hidden_act": hfGELU, "initializer_range": 0.02, "layer_norm_eps": cmp.Or(v.FinalNormEps, c.LayerNormEps),
			"layer_scale_init_value": 1e-6, "drop_path_rate": 0.0, "image_size": c.ImageSize,
		},
	}
	if v.ResponseNorm {
		h.Class, h.prefix, h.Config["model_type"] = "ConvNextV2ForImageClassification", "convnextv2.", "convnextv2"
		delete(h.Config, "layer_scale_init_value")
		h.change = func(w checkpoint.StateDict) {
			for name, x := range w {
				if strings.Contains(name, ".grn.") {
					x.Shape = []int{1, 1, 1, len(x.Data)}
					w[name] = x
				}
			}
		}
	}
	return h, nil
}

// CanonicalNames translates the names that a library gives to tensors of a backbone with the
// architecture of c, such as "encoder.layer.0.output.dense.weight". It takes the naming that has
// all names. A fused qkv keeps its name, such as "blocks.0.attn.qkv.weight". If no naming has all
// names, the error lists the first unknown one.
func (c Config) CanonicalNames(names []string) (map[string]string, error) {
	a, err := architectureOf(c.Form)
	if err != nil {
		return nil, err
	}
	known, unknown := -1, ""
	for _, n := range a.Namings {
		if n.Split != nil {
			continue
		}
		out := map[string]string{}
		var others []string
		for _, name := range names {
			canonical, ok := n.Canonical(name)
			if ok {
				out[name] = canonical
			} else {
				others = append(others, name)
			}
		}
		if others == nil {
			return out, nil
		}
		if len(out) > known {
			known, unknown = len(out), others[0]
		}
	}
	return nil, fmt.Errorf("the tensor %.200q does not belong to a backbone of the architecture %s in the names of any known library", unknown, a.Name)
}

// IsHead reports whether a library gives this name to the weight of the classification layer of a
// backbone.
func IsHead(name string) bool {
	registry.RLock()
	defer registry.RUnlock()
	for _, a := range registry.byName {
		for _, n := range a.Namings {
			if canonical, ok := n.Canonical(name); ok && n.Split == nil && canonical == a.Head+".weight" {
				return true
			}
		}
	}
	return false
}
