// Package catalogue lists published backbones that this library is known to load. It helps to
// choose a backbone: each row has the size of the backbone, its licence and its accuracy, and says
// for which tasks it is good.
//
// [All] returns the list, and [Find] finds a row by a name that a user gives.
package catalogue

import (
	"slices"

	"github.com/sptune/spt/backbone"
)

// Backbone is a published backbone. The facts about it are those of timm.
type Backbone struct {
	// Name is the short name, such as vit_tiny. It is timm's name of the architecture without the
	// sizes of patches, windows and images, unless they distinguish backbones.
	Name string
	// Timm is timm's name, such as vit_tiny_patch16_224.augreg_in21k_ft_in1k. The part after the
	// dot names the weights.
	Timm string
	// Licence is the SPDX identifier of the licence of the weights.
	Licence string
	// Top1 is the accuracy on the validation images of ImageNet-1k in percent, at the image size of
	// Config. Zero means that the weights have no head for ImageNet-1k.
	Top1 float64
	// Pretraining says how the weights were made.
	Pretraining Pretraining
	// Use says in a phrase for which tasks the backbone is good.
	Use string
	// Config holds the sizes. NumClasses is 1000, although some weights have no head or another
	// one.
	Config backbone.Config
}

// Pretraining says how weights were made.
type Pretraining string

// The kinds of pretraining.
const (
	// Supervised weights were trained on labelled images.
	Supervised Pretraining = "supervised"
	// SelfSupervised weights were trained on images without labels.
	SelfSupervised Pretraining = "self-supervised"
	// ImageText weights were trained on images with texts, and then on labelled images.
	ImageText Pretraining = "image-text"
)

// Reference returns the name for run.ModelConfig.Path: hf:timm/ and timm's name.
func (b Backbone) Reference() string { return "hf:timm/" + b.Timm }

// Parameters returns the number of parameters without the head.
func (b Backbone) Parameters() int { return b.Config.Size() }

// All returns all backbones, grouped by architecture, the smaller ones first.
func All() []Backbone { return slices.Clone(all) }

// Names returns the short names, in the order of [All].
func Names() []string {
	names := make([]string, len(all))
	for i, b := range all {
		names[i] = b.Name
	}
	return names
}

// Find returns the backbone with a short name, or with timm's name. ok is false if there is none.
func Find(name string) (b Backbone, ok bool) {
	i := slices.IndexFunc(all, func(b Backbone) bool { return name == b.Name || name == b.Timm })
	if i < 0 {
		return b, false
	}
	return all[i], true
}

// Licences of weights.
const (
	apache = "Apache-2.0"
	mit    = "MIT"
	byNC   = "CC-BY-NC-4.0"
)

// all is the table behind [All]. testdata/facts.py reads timm's names from this file and writes the
// facts with which TestFacts and TestLoad compare the table. Top1 comes from timm's
// results/results-imagenet.csv.
var all = []Backbone{
	{"vit_tiny", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", apache, 75.452, Supervised,
		"first trials; quick on a processor", vit(192, 16, 224)},
	{"vit_small", "vit_small_patch16_224.augreg_in21k_ft_in1k", apache, 81.402, Supervised,
		"a first choice on a processor", vit(384, 16, 224)},
	{"vit_small_patch32", "vit_small_patch32_224.augreg_in21k_ft_in1k", apache, 76.010, Supervised,
		"about the time of vit_tiny; coarse patches lose small details", vit(384, 32, 224)},
	{"vit_base", "vit_base_patch16_224.augreg2_in21k_ft_in1k", apache, 85.108, Supervised,
		"the usual size of papers; slow on a processor", vit(768, 16, 224)},
	{"vit_base_in21k", "vit_base_patch16_224.augreg_in21k", apache, 0, Supervised,
		"comparisons with the paper, which tunes these weights", vit(768, 16, 224)},
	{"deit_tiny", "deit_tiny_patch16_224.fb_in1k", apache, 72.190, Supervised,
		"comparisons with papers; vit_tiny has seen more images", vit(192, 16, 224)},
	{"deit_small", "deit_small_patch16_224.fb_in1k", apache, 79.856, Supervised,
		"comparisons with papers; deit3_small has seen more images", vit(384, 16, 224)},
	{"deit3_small", "deit3_small_patch16_224.fb_in22k_ft_in1k", apache, 83.082, Supervised,
		"the most accurate small ViT of the list", vit(384, 16, 224, deit3)},
	{"deit3_base", "deit3_base_patch16_224.fb_in22k_ft_in1k", apache, 85.728, Supervised,
		"the size of vit_base, more accurate; slow on a processor", vit(768, 16, 224, deit3)},
	{"vit_base_patch32_clip", "vit_base_patch32_clip_224.laion2b_ft_in12k_in1k", apache, 83.304, ImageText,
		"a quarter of the time of vit_base; coarse patches lose small details", vit(768, 32, 224, clip)},
	{"vit_base_clip", "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", apache, 86.204, ImageText,
		"the most accurate of the list; slow on a processor", vit(768, 16, 224, clip)},
	{"vit_small_dino", "vit_small_patch16_224.dino", apache, 0, SelfSupervised,
		"pretraining on ImageNet-1k without its labels", vit(384, 16, 224)},
	{"vit_base_dino", "vit_base_patch16_224.dino", apache, 0, SelfSupervised,
		"as vit_small_dino, larger", vit(768, 16, 224)},
	{"vit_small_dinov2", "vit_small_patch14_dinov2.lvd142m", apache, 0, SelfSupervised,
		"general features of 142 million images; slow at 518 px, so try 224", vit(384, 14, 518, dinov2)},
	{"vit_small_reg4_dinov2", "vit_small_patch14_reg4_dinov2.lvd142m", apache, 0, SelfSupervised,
		"as vit_small_dinov2, with four register tokens", vit(384, 14, 518, dinov2, registers)},
	{"vit_base_dinov2", "vit_base_patch14_dinov2.lvd142m", apache, 0, SelfSupervised,
		"as vit_small_dinov2, larger", vit(768, 14, 518, dinov2)},
	{"vit_base_mae", "vit_base_patch16_224.mae", byNC, 0, SelfSupervised,
		"comparisons with papers; features that a head alone reads badly", vit(768, 16, 224)},
	{"swin_tiny", "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", mit, 80.966, Supervised,
		"maps of four scales, at the time of vit_small", swin(96, 2, 2, 6, 2)},
	{"swin_base", "swin_base_patch4_window7_224.ms_in22k_ft_in1k", mit, 85.276, Supervised,
		"maps of four scales, at the time of vit_base", swin(128, 2, 2, 18, 2)},
	{"convnext_atto", "convnext_atto.d2_in1k", apache, 75.672, Supervised,
		"the quickest of the list", convNeXt(40, false, 2, 2, 6, 2)},
	{"convnext_nano", "convnext_nano.in12k_ft_in1k", apache, 82.306, Supervised,
		"about twice the time of vit_tiny, far more accurate", convNeXt(80, false, 2, 2, 8, 2)},
	{"convnext_tiny", "convnext_tiny.in12k_ft_in1k", apache, 84.192, Supervised,
		"more accurate than vit_small in the same time", convNeXt(96, false, 3, 3, 9, 3)},
	{"convnext_base", "convnext_base.fb_in22k_ft_in1k", apache, 85.814, Supervised,
		"the most accurate ConvNeXt of the list; slow on a processor", convNeXt(128, false, 3, 3, 27, 3)},
	{"convnextv2_atto", "convnextv2_atto.fcmae_ft_in1k", byNC, 76.644, Supervised,
		"as convnext_atto, not for commercial use", convNeXt(40, true, 2, 2, 6, 2)},
	{"convnextv2_nano", "convnextv2_nano.fcmae_ft_in22k_in1k", byNC, 82.038, Supervised,
		"as convnext_nano, not for commercial use", convNeXt(80, true, 2, 2, 8, 2)},
	{"convnextv2_tiny", "convnextv2_tiny.fcmae_ft_in22k_in1k", byNC, 83.904, Supervised,
		"as convnext_tiny, not for commercial use", convNeXt(96, true, 3, 3, 9, 3)},
}

// vit returns the configuration of a ViT with twelve blocks and heads of 64 channels. Each change
// makes it a variant.
func vit(width, patch, size int, changes ...func(*backbone.Config, *backbone.ViT)) backbone.Config {
	c := backbone.Config{ImageSize: size, NumClasses: 1000, NumHeads: width / 64, LayerNormEps: 1e-6}
	v := backbone.ViT{PatchSize: patch, EmbedDim: width, Depth: 12, HiddenDim: 4 * width}
	for _, change := range changes {
		change(&c, &v)
	}
	c.Form = v
	return c
}

// The variants of ViTs.
var (
	deit3     = func(_ *backbone.Config, v *backbone.ViT) { v.LayerScale, v.PatchPositions = true, true }
	dinov2    = func(_ *backbone.Config, v *backbone.ViT) { v.LayerScale = true }
	registers = func(_ *backbone.Config, v *backbone.ViT) { v.Registers, v.PatchPositions = 4, true }
	clip      = func(c *backbone.Config, v *backbone.ViT) { c.LayerNormEps, v.PreNorm, v.NoPatchBias = 1e-5, true, true }
)

// swin returns the configuration of a Swin Transformer for images of 224 px, with windows of 7 × 7
// patches and heads of 32 channels.
func swin(width int, depths ...int) backbone.Config {
	heads := make([]int, len(depths))
	for i := range heads {
		heads[i] = width / 32 << i
	}
	return backbone.Config{ImageSize: 224, NumClasses: 1000, LayerNormEps: 1e-5,
		Form: backbone.Swin{PatchSize: 4, EmbedDim: width, HiddenDim: 4 * width, Depths: depths, StageHeads: heads, WindowSize: 7}}
}

// convNeXt returns the configuration of a ConvNeXt, or of a ConvNeXt V2, for images of 224 px.
func convNeXt(width int, v2 bool, depths ...int) backbone.Config {
	dims := make([]int, len(depths))
	for i := range dims {
		dims[i] = width << i
	}
	return backbone.Config{ImageSize: 224, NumClasses: 1000, LayerNormEps: 1e-6,
		Form: backbone.ConvNeXt{PatchSize: 4, EmbedDim: width, Dims: dims, Depths: depths, ResponseNorm: v2}}
}
