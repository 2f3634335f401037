package peft_test

import (
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
)

// TestGroups checks the group of each tuned tensor of a selection with all kinds of them.
func TestGroups(t *testing.T) {
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}
	want := map[string]peft.Group{
		"head.weight": peft.HeadGroup, "head.bias": peft.HeadGroup,
		"cls_token": peft.OtherGroup, "blocks.0.norm1.bias": peft.NormGroup, "norm.weight": peft.NormGroup, "blocks.0.attn.q.bias": peft.BiasGroup,
		"blocks.1.mlp.fc1.weight.sparse_values": peft.EntryGroup, "blocks.1.norm2.bias.sparse_values": peft.EntryGroup,
	}
	for module, tensors := range map[string]map[string]peft.Group{
		"lora":    {"lora_A": peft.ModuleGroup, "lora_B": peft.OutputGroup},
		"adapter": {"adapter_down.weight": peft.ModuleGroup, "adapter_down.bias": peft.ModuleGroup, "adapter_up.weight": peft.OutputGroup, "adapter_up.bias": peft.ModuleGroup},
	} {
		tuning, err := peft.New(c, peft.Selection{Module: module, Rank: 2, Structured: []string{"blocks.0.mlp.fc1.weight"},
			Whole:   []string{"cls_token", "blocks.0.norm1.bias", "norm.weight", "blocks.0.attn.q.bias"},
			Entries: map[string][]int32{"blocks.1.mlp.fc1.weight": {3, 90}, "blocks.1.norm2.bias": {1}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range tuning.Params {
			group, ok := want[p.Name]
			if own, found := strings.CutPrefix(p.Name, "blocks.0.mlp.fc1."); found && !ok {
				group, ok = tensors[own]
			}
			if !ok || p.Group != group {
				t.Errorf("%s, %s: group %q, want %q", module, p.Name, p.Group, group)
			}
		}
	}
}
