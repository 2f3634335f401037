package backbone_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
)

// canonical returns the tensors of a fixture by canonical name.
func canonical(t *testing.T, f fixtures.Fixture) (checkpoint.StateDict, checkpoint.Translation) {
	t.Helper()
	sd, naming, err := f.Open(t).Canonical(backbone.AllNamings())
	if err != nil {
		t.Fatal(err)
	}
	return sd, naming
}

// differences lists the names of the tensors that are not exactly equal in got and want.
func differences(got, want checkpoint.StateDict) (list []string) {
	all := maps.Clone(got)
	maps.Copy(all, want)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a, inA := got[name]
		b, inB := want[name]
		switch {
		case !inA:
			list = append(list, "no "+name)
		case !inB:
			list = append(list, "unexpected "+name)
		case !slices.Equal(a.Shape, b.Shape):
			list = append(list, fmt.Sprintf("%s has shape %v, want %v", name, a.Shape, b.Shape))
		case !slices.Equal(a.Data, b.Data):
			list = append(list, name+" has other values")
		}
	}
	return list
}

// canonicalNames matches the documented names of each architecture.
var canonicalNames = map[string]*regexp.Regexp{
	"vit": regexp.MustCompile(`^(cls_token|dist_token|reg_token|pos_embed|(patch_embed\.proj|norm_pre|norm|fc_norm|head|head_dist)\.(weight|bias)|` +
		`blocks\.\d+\.((norm1|norm2|attn\.(q|k|v|proj|q_norm|k_norm)|mlp\.fc[12])\.(weight|bias)|ls[12]\.gamma))$`),
	"swin": regexp.MustCompile(`^((patch_embed\.(proj|norm)|norm|head\.fc)\.(weight|bias)|layers\.[1-9]\d*\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)|` +
		`layers\.\d+\.blocks\.\d+\.(attn\.relative_position_bias_table|(norm1|norm2|attn\.(q|k|v|proj)|mlp\.fc[12])\.(weight|bias)))$`),
	"convnext": regexp.MustCompile(`^((stem\.[01]|stages\.\d+\.downsample\.[01]|head\.norm|head\.pre_logits\.fc|head\.fc)\.(weight|bias)|` +
		`stages\.\d+\.blocks\.\d+\.(gamma|(conv_dw|norm|mlp\.fc[12]|mlp\.grn)\.(weight|bias)))$`),
}

// isCanonical reports whether a name is a documented name of the architecture. It is true for every
// name of an architecture that canonicalNames does not list.
func isCanonical(architecture, name string) bool {
	names, ok := canonicalNames[architecture]
	return !ok || names.MatchString(name)
}

// TestCanonicalFixtures compares every naming scheme with timm's file of the same weights: names,
// shapes and all values.
func TestCanonicalFixtures(t *testing.T) {
	for _, f := range fixtures.Backbones(t) {
		t.Run(f.Name, func(t *testing.T) {
			got, naming := canonical(t, f)
			if naming.Architecture != f.Family || naming.Source != f.Source {
				t.Errorf("recognised as %s with the names of %s, want %s with the names of %s", naming.Architecture, naming.Source, f.Family, f.Source)
			}
			if strings.HasSuffix(f.Weights, ".npz") {
				if shape := naming.Origin("blocks.0.attn.q.weight").Shape; len(shape) < 3 || shape[len(shape)-2] != 2 {
					t.Errorf("the kernel of the queries had the shape %v, expected 2 heads", shape)
				}
			}
			for name := range got {
				if !isCanonical(f.Family, name) {
					t.Errorf("%q is not a canonical name of the architecture %s", name, f.Family)
				}
			}
			want, _ := canonical(t, fixtures.Backbone(t, f.SameWeights))
			if f.OwnHead {
				for _, part := range []string{"weight", "bias"} {
					var err error
					if want["head."+part], err = f.Open(t).Float32("classifier." + part); err != nil {
						t.Fatal(err)
					}
				}
			} else if !f.HasLogits {
				delete(want, "head.weight")
				delete(want, "head.bias")
			}
			for _, d := range differences(got, want) {
				t.Error(d)
			}
		})
	}
}

// TestCanonicalTimmValues checks that timm's files differ from the canonical form only by the fused
// q, k and v: after fusing them again, the tensors equal those in the file. The other tests compare
// canonical tensors with each other, and this test ties them to the values in a file.
func TestCanonicalTimmValues(t *testing.T) {
	for _, f := range fixtures.Backbones(t) {
		if f.Naming != "timm" {
			continue
		}
		sd, naming := canonical(t, f)
		file := f.Open(t)
		raw := checkpoint.StateDict{}
		for _, info := range file.Tensors() {
			x, err := file.Float32(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			raw[info.Name] = x
		}
		for _, d := range differences(sd.Fused(), raw) {
			t.Errorf("%s: %s", f.Name, d)
		}
		if len(naming.Unused) > 0 {
			t.Errorf("%s: unused %q", f.Name, naming.Unused)
		}
	}
}

// TestCanonicalTwice checks that translating canonical tensors again changes nothing.
func TestCanonicalTwice(t *testing.T) {
	for _, f := range fixtures.Backbones(t) {
		once, first := canonical(t, f)
		twice, naming, err := once.Canonical(backbone.AllNamings())
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		if d := differences(twice, once); len(d) > 0 || naming.Architecture != first.Architecture || naming.Source != "timm" || len(naming.Unused) > 0 {
			t.Errorf("%s: the second translation gives %+v and changes %q", f.Name, naming, d)
		}
	}
}

// TestCanonicalPrefixes checks that any combination of wrapper prefixes gives the same tensors, in
// any map order.
func TestCanonicalPrefixes(t *testing.T) {
	for _, name := range []string{"vit-cls-timm", "vit-distilled-hf4", "vit-dinov2swiglu-hf5", "swin-even-original", "swin-even-hf5", "convnext-v2-facebook", "convnext-v1-hf"} {
		f := fixtures.Backbone(t, name)
		want, _ := canonical(t, f)
		file := f.Open(t)
		for _, prefix := range []string{"module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone.", "module.backbone.", "model."} {
			raw := checkpoint.StateDict{}
			for _, info := range file.Tensors() {
				x, err := file.Float32(info.Name)
				if err != nil { // relative_position_index
					continue
				}
				raw[prefix+info.Name] = x
			}
			got, naming, err := raw.Canonical(backbone.AllNamings())
			if err != nil {
				t.Errorf("%s after %s: %v", name, prefix, err)
				continue
			}
			if d := differences(got, want); len(d) > 0 || naming.Source != f.Source {
				t.Errorf("%s after %s: %s; %q", name, prefix, naming.Source, d)
			}
		}
	}
	// Hugging Face's models without a head have no prefix.
	for _, f := range fixtures.Backbones(t) {
		if !strings.HasPrefix(f.Naming, "hf") {
			continue
		}
		want, _ := canonical(t, f)
		maps.DeleteFunc(want, func(name string, _ checkpoint.Tensor) bool {
			return strings.HasPrefix(name, "head.") && !strings.HasPrefix(name, "head.norm.") && !strings.HasPrefix(name, "head.pre_logits.") || strings.HasPrefix(name, "head_dist.")
		})
		file := f.Open(t)
		raw := checkpoint.StateDict{}
		for _, info := range file.Tensors() {
			_, name, _ := strings.Cut(info.Name, ".")
			if x, err := file.Float32(info.Name); err == nil && !strings.Contains(info.Name, "classifier") {
				if f.Naming == "hf4bare" {
					name = info.Name
				}
				raw[name] = x
			}
		}
		got, naming, err := raw.Canonical(backbone.AllNamings())
		if d := differences(got, want); err != nil || len(d) > 0 || naming.Source != f.Source {
			t.Errorf("%s without a prefix: %s; %q, %v", f.Name, naming.Source, d, err)
		}
	}
}

func TestCanonicalUnused(t *testing.T) {
	for name, want := range map[string][]string{
		"vit-cls-hf4bare":     {"pooler.dense.bias", "pooler.dense.weight"},
		"vit-dinov2-hf5":      {"dinov2.embeddings.mask_token"},
		"vit-dinov2-facebook": {"mask_token"},
		"vit-cls-google":      {"pre_logits/bias", "pre_logits/kernel"},
		"vit-cls-deit":        nil,
		"swin-even-timmold": {
			"layers.0.blocks.0.attn.relative_position_index", "layers.1.blocks.0.attn.relative_position_index",
			"layers.1.blocks.1.attn.relative_position_index", "layers.2.blocks.0.attn.relative_position_index"},
	} {
		_, naming := canonical(t, fixtures.Backbone(t, name))
		if !slices.Equal(naming.Unused, want) {
			t.Errorf("%s: unused %q, want %q", name, naming.Unused, want)
		}
	}
	// Most tensors of a MoCo v3 file belong to the momentum encoder. They must not be taken for the
	// encoder.
	_, naming := canonical(t, fixtures.Backbone(t, "vit-cls-mocov3"))
	momentum := 0
	for _, name := range naming.Unused {
		if strings.Contains(name, "momentum_encoder.") {
			momentum++
		} else if !strings.Contains(name, "predictor.") && !strings.Contains(name, "base_encoder.head.") {
			t.Errorf("unused %q", name)
		}
	}
	if momentum < 30 {
		t.Errorf("%d tensors of the momentum encoder are unused", momentum)
	}
	sd, naming := canonical(t, fixtures.Backbone(t, "vit-cls-hf4bare"))
	report := checkpoint.Match(sd, []checkpoint.TensorInfo{{Name: "norm.weight", Shape: []int{12}}})
	if len(report.Matched) != 1 || !slices.Contains(naming.Unused, "pooler.dense.bias") || !slices.Contains(report.Unused, "norm.bias") {
		t.Errorf("report %+v, unused %q", report, naming.Unused)
	}
}

func zeros(shape ...int) checkpoint.Tensor { return checkpoint.NewTensor(shape...) }

func TestCanonicalErrors(t *testing.T) {
	m, b := zeros(2, 2), zeros(2)
	for name, c := range map[string]struct {
		sd   checkpoint.StateDict
		want []string // in the error
	}{
		"nothing":            {checkpoint.StateDict{}, []string{"the 0 tensors"}},
		"unknown names":      {checkpoint.StateDict{"layer1.0.conv1.weight": m, "fc.weight": m}, []string{`"fc.weight", "layer1.0.conv1.weight"`, "swin (timm", "big_vision"}},
		"control characters": {checkpoint.StateDict{"\x1b[31m": m}, []string{`"\x1b[31m"`}},
		"two namings": {checkpoint.StateDict{"blocks.0.norm1.weight": b, "encoder.layer.0.attention.attention.query.weight": m},
			[]string{"mixes two namings", "blocks.0.norm1.weight", "encoder.layer.0.attention.attention.query.weight"}},
		"two versions": {checkpoint.StateDict{"vit.encoder.layer.0.attention.attention.query.weight": m, "vit.layers.1.attention.q_proj.weight": m},
			[]string{"mixes two namings", "before 5", "from 5"}},
		"two families":           {checkpoint.StateDict{"stages.0.blocks.0.conv_dw.weight": m, "blocks.0.norm1.weight": b}, []string{"mixes two namings"}},
		"two wrappers":           {checkpoint.StateDict{"module.blocks.0.norm1.weight": b, "blocks.0.norm1.weight": b}, []string{"two models"}},
		"two heads":              {checkpoint.StateDict{"vit.layers.0.attention.q_proj.weight": m, "classifier.bias": b, "cls_classifier.bias": b}, []string{"classifier.bias", "head.bias"}},
		"two Swin heads":         {checkpoint.StateDict{"layers.0.blocks.0.attn.relative_position_bias_table": m, "head.bias": b, "head.fc.bias": b}, []string{"head.fc.bias"}},
		"both forms":             {checkpoint.StateDict{"blocks.0.attn.qkv.weight": zeros(6, 2), "blocks.0.attn.k.weight": m}, []string{`also has tensor "blocks.0.attn.k.weight"`}},
		"both forms, other kind": {checkpoint.StateDict{"blocks.0.attn.qkv.weight": zeros(6, 2), "blocks.0.attn.q.bias": b}, []string{`also has tensor "blocks.0.attn.q.bias"`}},
		"not three parts":        {checkpoint.StateDict{"blocks.0.attn.qkv.weight": zeros(7, 2)}, []string{"[7 2] cannot be split"}},
		"weight of rank 1":       {checkpoint.StateDict{"blocks.0.attn.qkv.weight": zeros(6)}, []string{"cannot be split"}},
		"bias of rank 0":         {checkpoint.StateDict{"blocks.0.attn.qkv.bias": zeros()}, []string{"cannot be split"}},
		"values missing":         {checkpoint.StateDict{"blocks.0.norm1.weight": {Shape: []int{2}, Data: make([]float32, 1)}}, []string{"1 values, but shape [2]"}},
		// Other architectures: apart from the named tensor, they look like a supported one.
		"BEiT":                       {checkpoint.StateDict{"blocks.0.attn.qkv.weight": zeros(6, 2), "blocks.0.attn.q_bias": b}, []string{"blocks.0.attn.q_bias", "another architecture"}},
		"hybrid":                     {checkpoint.StateDict{"blocks.0.norm1.weight": b, "patch_embed.backbone.stem.conv.weight": m}, []string{"another architecture"}},
		"Swin V2":                    {checkpoint.StateDict{"swin.encoder.layers.0.blocks.0.attention.self.query.weight": m, "swin.encoder.layers.0.blocks.0.attention.self.logit_scale": m}, []string{"logit_scale", "another architecture"}},
		"Swin with positions":        {checkpoint.StateDict{"layers.0.blocks.0.attn.relative_position_bias_table": m, "absolute_pos_embed": m}, []string{"another architecture"}},
		"ConvNeXt with norm_pre":     {checkpoint.StateDict{"stages.0.blocks.0.conv_dw.weight": m, "norm_pre.weight": b}, []string{"norm_pre.weight", "another architecture"}},
		"other spelling of a number": {checkpoint.StateDict{"blocks.0.norm1.weight": b, "blocks.00.norm1.weight": b}, []string{"blocks.00.norm1.weight", "another architecture"}},
		"merging at both ends": {checkpoint.StateDict{"layers.0.blocks.0.attn.relative_position_bias_table": m, "layers.1.blocks.0.attn.relative_position_bias_table": m,
			"layers.0.downsample.reduction.weight": m, "layers.1.downsample.reduction.weight": m}, []string{"layers.1.downsample", "no blocks"}},
		"gate alone": {checkpoint.StateDict{"dinov2.encoder.layer.0.attention.q_proj.weight": m, "dinov2.encoder.layer.0.mlp.gate_proj.weight": m}, []string{"up_proj"}},
		"up alone":   {checkpoint.StateDict{"dinov2.encoder.layer.0.attention.q_proj.weight": m, "dinov2.encoder.layer.0.mlp.up_proj.weight": m}, []string{"up_proj"}},
		"gate and fc1": {checkpoint.StateDict{"dinov2.encoder.layer.0.attention.q_proj.weight": m, "dinov2.encoder.layer.0.mlp.up_proj.weight": m,
			"dinov2.encoder.layer.0.mlp.gate_proj.weight": m, "dinov2.encoder.layer.0.mlp.fc1.weight": m}, []string{"gate_proj", "mlp.fc1"}},
		"position of another width": {checkpoint.StateDict{"blocks.0.norm1.weight": b, "register_tokens": zeros(1, 4, 2), "cls_token": zeros(1, 1, 2), "pos_embed": zeros(1, 5, 3)}, []string{"[1 5 3]"}},
		"only the class's position": {checkpoint.StateDict{"blocks.0.norm1.weight": b, "register_tokens": zeros(1, 4, 2), "cls_token": zeros(1, 1, 2), "pos_embed": zeros(1, 1, 2)}, []string{"[1 1 2]"}},
		"npz under two prefixes":    {checkpoint.StateDict{"Transformer/encoderblock_0/LayerNorm_0/scale": b, "params/Transformer/encoderblock_0/LayerNorm_0/scale": b}, []string{"two models"}},
		"npz, stacked and not":      {checkpoint.StateDict{"Transformer/encoderblock_0/LayerNorm_0/scale": b, "Transformer/encoderblock/LayerNorm_0/scale": m}, []string{"two models"}},
		"npz, unknown module":       {checkpoint.StateDict{"Transformer/encoderblock_0/Other_0/scale": b}, []string{"another architecture"}},
		"npz, unknown stack":        {checkpoint.StateDict{"Transformer/encoderblock/Other_0/scale": m}, []string{"[2 2] is not a stack"}},
		"npz, flat stack":           {checkpoint.StateDict{"Transformer/encoderblock/LayerNorm_0/scale": b}, []string{"[2] is not a stack"}},
		"npz, too many layers":      {checkpoint.StateDict{"Transformer/encoderblock/LayerNorm_0/scale": zeros(1025, 1)}, []string{"1 to 1024"}},
		"npz, no layers":            {checkpoint.StateDict{"Transformer/encoderblock/LayerNorm_0/scale": zeros(0, 1)}, []string{"1 to 1024"}},
		"npz, both norms":           {checkpoint.StateDict{"Transformer/encoderblock_0/LayerNorm_1/scale": b, "Transformer/encoderblock_0/LayerNorm_2/scale": b}, []string{"norm2"}},
		"npz, other heads": {checkpoint.StateDict{"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": zeros(4, 2, 2),
			"Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel": zeros(4, 1, 4)}, []string{"1 attention heads"}},
		"npz, kernel of rank 2":  {checkpoint.StateDict{"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": m}, []string{"expected 3 axes"}},
		"npz, bias of rank 1":    {checkpoint.StateDict{"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias": b}, []string{"[heads, D/heads]"}},
		"npz, patches of rank 2": {checkpoint.StateDict{"Transformer/encoderblock_0/LayerNorm_0/scale": b, "embedding/kernel": m}, []string{"[h, w, in, out]"}},
		"npz, dense of rank 1":   {checkpoint.StateDict{"Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": b}, []string{"expected 2 axes"}},
	} {
		_, _, err := c.sd.Canonical(backbone.AllNamings())
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want an error with %q", name, err, want)
			}
		}
	}
}

// TestCanonicalForms checks variants of checkpoints that no fixture has.
func TestCanonicalForms(t *testing.T) {
	x := func(v float32) checkpoint.Tensor { return checkpoint.Tensor{Shape: []int{1}, Data: []float32{v}} }
	mark := checkpoint.Tensor{Shape: []int{1, 1}, Data: []float32{9}}
	for name, c := range map[string]struct {
		sd   checkpoint.StateDict
		want map[string]float32
		from string // source
	}{
		"bare from 5": {checkpoint.StateDict{"layers.0.attention.q_proj.weight": mark, "layers.0.mlp.fc1.bias": x(1), "layernorm.bias": x(2), "pooler.dense.bias": x(3)},
			map[string]float32{"blocks.0.attn.q.weight": 9, "blocks.0.mlp.fc1.bias": 1, "norm.bias": 2}, "Hugging Face transformers from 5"},
		"MAE of Hugging Face": {checkpoint.StateDict{"vit.encoder.layer.0.attention.attention.query.weight": mark, "vit.layernorm.bias": x(1), "decoder.mask_token": x(2),
			"decoder.decoder_layers.0.layernorm_after.bias": x(3)},
			map[string]float32{"blocks.0.attn.q.weight": 9, "norm.bias": 1}, "Hugging Face transformers before 5"},
		"DeiT III": {checkpoint.StateDict{"blocks.3.norm1.bias": x(1), "blocks.3.gamma_1": x(2), "blocks.3.gamma_2": x(3)},
			map[string]float32{"blocks.3.norm1.bias": 1, "blocks.3.ls1.gamma": 2, "blocks.3.ls2.gamma": 3}, "the DeiT III authors"},
		"norms of q and k": {checkpoint.StateDict{"blocks.0.attn.q_norm.weight": x(1), "blocks.0.attn.k_norm.weight": x(2), "blocks.0.norm1.bias": x(3)},
			map[string]float32{"blocks.0.attn.q_norm.weight": 1, "blocks.0.attn.k_norm.weight": 2, "blocks.0.norm1.bias": 3}, "timm"},
		"fused and apart, in two blocks": {checkpoint.StateDict{"blocks.0.attn.qkv.bias": {Shape: []int{3}, Data: []float32{1, 2, 3}}, "blocks.1.attn.q.bias": x(4)},
			map[string]float32{"blocks.0.attn.q.bias": 1, "blocks.0.attn.k.bias": 2, "blocks.0.attn.v.bias": 3, "blocks.1.attn.q.bias": 4}, "timm"},
		"training state of Google": {checkpoint.StateDict{"opt/target/Transformer/encoderblock_11/LayerNorm_2/scale": x(1), "opt/target/cls": x(2), "opt/state/step": x(3)},
			map[string]float32{"blocks.11.norm2.weight": 1, "cls_token": 2}, "google-research/vision_transformer (npz)"},
		"Swin of one stage, old head": {checkpoint.StateDict{"layers.0.blocks.0.attn.relative_position_bias_table": mark, "head.bias": x(1)},
			map[string]float32{"layers.0.blocks.0.attn.relative_position_bias_table": 9, "head.fc.bias": 1}, "the Swin authors, or timm before 0.9"},
		"headless new Swin": {checkpoint.StateDict{"layers.0.blocks.0.attn.relative_position_bias_table": mark, "layers.1.blocks.0.attn.relative_position_bias_table": mark,
			"layers.1.downsample.norm.bias": x(1)},
			map[string]float32{"layers.0.blocks.0.attn.relative_position_bias_table": 9, "layers.1.blocks.0.attn.relative_position_bias_table": 9, "layers.1.downsample.norm.bias": 1}, "timm"},
		"empty npz kernel": {checkpoint.StateDict{"Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": {Shape: []int{1 << 40, 0}}, "embedding/kernel": {Shape: []int{0, 1 << 20, 1 << 20, 1}}},
			map[string]float32{"blocks.0.mlp.fc1.weight": 0, "patch_embed.proj.weight": 0}, "google-research/vision_transformer (npz)"},
	} {
		got, naming, err := c.sd.Canonical(backbone.AllNamings())
		if err != nil || naming.Source != c.from || len(got) != len(c.want) {
			t.Errorf("%s: %v, %+v, %v", name, got, naming, err)
			continue
		}
		for key, v := range c.want {
			if d := got[key].Data; len(got[key].Shape) == 0 || len(d) > 0 && d[0] != v {
				t.Errorf("%s: %s is %v, want %g", name, key, got[key], v)
			}
		}
	}
}

// canonicalises checks the guarantees of Canonical for any tensors: all names are canonical, no
// value is lost or duplicated, and translating the result again changes nothing. It reports whether
// Canonical accepted sd.
func canonicalises(t *testing.T, sd checkpoint.StateDict) bool {
	t.Helper()
	got, naming, err := sd.Canonical(backbone.AllNamings())
	if err != nil {
		return false
	}
	values, kept := 0, 0
	for name, x := range sd {
		values += len(x.Data)
		if strings.HasSuffix(name, "register_tokens") && !slices.Contains(naming.Unused, name) && got["pos_embed"].Shape != nil {
			values -= len(got["cls_token"].Data) // the position was added to the class token
		}
	}
	for _, name := range naming.Unused {
		values -= len(sd[name].Data)
	}
	for name, x := range got {
		kept += len(x.Data)
		if !isCanonical(naming.Architecture, name) || x.Size() != len(x.Data) {
			t.Fatalf("%q %v is not canonical in a %s", name, x.Shape, naming.Architecture)
		}
	}
	if kept != values {
		t.Fatalf("%d values of a %s with the names of %s became %d values", values, naming.Architecture, naming.Source, kept)
	}
	again, second, err := got.Canonical(backbone.AllNamings())
	if err != nil {
		// The remaining tensors may be too few to identify a naming scheme.
		if !strings.Contains(err.Error(), "unknown tensor names") {
			t.Fatal(err)
		}
		return true
	}
	if d := differences(again, got); len(d) > 0 || second.Architecture != naming.Architecture {
		t.Fatalf("the second translation changes %q", d)
	}
	return true
}

// FuzzCanonical reads one tensor from each line of the input. A line holds its name and its shape:
// "blocks.0.attn.qkv.bias 6".
func FuzzCanonical(f *testing.F) {
	for _, fixture := range fixtures.Backbones(f) {
		var lines strings.Builder
		for i, info := range fixture.Open(f).Tensors() {
			if i < 20 || strings.Contains(info.Name, "downsample") {
				fmt.Fprintln(&lines, info.Name, strings.Trim(fmt.Sprint(info.Shape), "[]"))
			}
		}
		f.Add(lines.String())
	}
	f.Fuzz(func(t *testing.T, text string) {
		sd := checkpoint.StateDict{}
		total := 0
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			shape := []int{}
			for _, w := range words[1:] {
				n, err := strconv.Atoi(w)
				if err != nil || n < 0 || n > 1<<40 {
					return
				}
				shape = append(shape, n)
			}
			size := 1
			for _, n := range shape {
				if n == 0 {
					size = 0
				}
				if size *= n; size > 1<<20 {
					return
				}
			}
			if total += size; total > 1<<20 {
				return
			}
			sd[words[0]] = checkpoint.Tensor{Shape: shape, Data: make([]float32, size)}
		}
		canonicalises(t, sd)
	})
}

// TestCanonicalMixed translates random mixtures of the tensors of one or two checkpoints.
func TestCanonicalMixed(t *testing.T) {
	var parts []checkpoint.StateDict
	for _, f := range fixtures.Backbones(t) {
		raw := checkpoint.StateDict{}
		file := f.Open(t)
		for _, info := range file.Tensors() {
			if x, err := file.Float32(info.Name); err == nil {
				raw[info.Name] = x
			}
		}
		parts = append(parts, raw)
	}
	r := rand.New(rand.NewPCG(1, 2))
	accepted, refused := 0, 0
	for range 2000 {
		sd := checkpoint.StateDict{}
		for range 1 + r.IntN(2) {
			from := parts[r.IntN(len(parts))]
			keep := r.Float64()
			for _, name := range slices.Sorted(maps.Keys(from)) {
				if r.Float64() < keep {
					sd[name] = from[name]
				}
			}
		}
		if canonicalises(t, sd) {
			accepted++
		} else {
			refused++
		}
	}
	if accepted < 200 || refused < 200 {
		t.Errorf("%d accepted, %d refused: the test shows little", accepted, refused)
	}
}

// A fault in one tensor says where in which file it lies.
func TestCanonicalFormatError(t *testing.T) {
	path := t.TempDir() + "/x.safetensors"
	err := checkpoint.Save(path, []checkpoint.Entry{
		{Name: "blocks.0.norm1.weight", DType: checkpoint.F32, Shape: []int{2}, Data: []float32{1, 2}},
		{Name: "module.blocks.0.attn.qkv.weight", DType: checkpoint.F32, Shape: []int{7, 1}, Data: make([]float32, 7)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _, err = f.Canonical(backbone.AllNamings())
	fault, ok := errors.AsType[*checkpoint.FormatError](err)
	if !ok || fault.File != path || fault.Tensor != "module.blocks.0.attn.qkv.weight" || fault.Offset <= 8 {
		t.Errorf("got %v", err)
	}
}

// TestNoFloats: a checkpoint of types that are not read is told by the type, not by its names.
func TestNoFloats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quantized.safetensors")
	if err := checkpoint.Save(path, []checkpoint.Entry{{Name: "blocks.0.attn.qkv.weight", DType: checkpoint.U8, Shape: []int{2}, Data: []uint8{1, 2}}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := f.Canonical(backbone.AllNamings()); err == nil || !strings.Contains(err.Error(), `none of its 1 tensors has one of the types F32, F16, BF16 and F64; the first, "blocks.0.attn.qkv.weight", has type U8`) {
		t.Errorf("%v", err)
	}
}
