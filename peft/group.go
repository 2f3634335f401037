package peft

import (
	"reflect"
	"strings"

	"github.com/sptune/spt/backbone"
)

// Group is the name of a group of tuned tensors that can have a learning rate of its own.
type Group string

// The groups. Each tuned tensor is in one of them.
const (
	// HeadGroup holds the tensors of the head.
	HeadGroup Group = "head"
	// ModuleGroup holds the tensors of structured modules outside of OutputGroup.
	ModuleGroup Group = "modules"
	// OutputGroup holds the matrices of structured modules that start at zero: the last ones, such
	// as B of LoRA and the upper matrix of an Adapter. LoRA+ trains them faster (Hayou et al. 2024,
	// arXiv 2402.12354).
	OutputGroup Group = "module-outputs"
	// EntryGroup holds the entries that are tuned one by one.
	EntryGroup Group = "entries"
	// NormGroup holds the weights and biases of norms that are tuned whole.
	NormGroup Group = "norms"
	// BiasGroup holds the other biases that are tuned whole.
	BiasGroup Group = "biases"
	// OtherGroup holds all other tensors: class tokens, matrices that are tuned whole, SSF, prompts
	// and bottlenecks.
	OtherGroup Group = "others"
)

// Groups returns all groups.
func Groups() []Group {
	return []Group{HeadGroup, ModuleGroup, OutputGroup, EntryGroup, NormGroup, BiasGroup, OtherGroup}
}

// setGroups sets the group of each of t.Params.
func (t *Tuning) setGroups() {
	norms := map[string]bool{}
	for _, p := range t.Config.Params() {
		norms[p.Name] = p.Norm && p.Role != backbone.Head
	}
	for i, p := range t.Params {
		t.Params[i].Group = func() Group {
			switch {
			case p.Head:
				return HeadGroup
			case p.module && p.Decays && reflect.ValueOf(p.Init).Pointer() == reflect.ValueOf(Zero).Pointer():
				return OutputGroup
			case p.module:
				return ModuleGroup
			case strings.HasSuffix(p.Name, SparseValues("")):
				return EntryGroup
			case norms[p.Name]:
				return NormGroup
			case t.whole[p.Name] && strings.HasSuffix(p.Name, ".bias"):
				return BiasGroup
			}
			return OtherGroup
		}()
	}
}
