package plan

import (
	"slices"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/sensitivity"
)

// The values of [Options.Rule] and [Plan.Rule].
const (
	// RandomPlaces makes the plan of SPT's rule, and then moves what the plan tunes to random
	// places: as many modules, vectors and entries as before, at the same cost. It is a control: it
	// tells what the choice of places is worth.
	RandomPlaces = "random-places"
	// PerNeuron is the rule of GPS (Zhang et al. 2024, arXiv 2312.10136). It tunes the weights with
	// the largest scores of each output neuron, one by one, and every bias whole. It needs
	// [Unstructured].
	PerNeuron = "per-neuron"
	// Gain gives each matrix a LoRA of its own rank, and takes what gains most for each parameter:
	// ranks, whole vectors and entries have one currency, the squared gradient. It has no α and no
	// β, and needs scores with the criterion sensitivity.SummedGradient. docs/method.md has the
	// formulas.
	Gain = "gain"
	// GainRandomPlaces makes the plan of [Gain], and then moves what it tunes to random places: the
	// same ranks on other matrices, as many vectors and entries. It is the control of [Gain].
	GainRandomPlaces = "gain-random-places"
)

// Rules returns all rules other than the default, which is SPT's rule and has no name.
func Rules() []string { return []string{RandomPlaces, PerNeuron, Gain, GainRandomPlaces} }

// ByGain reports whether the rule is [Gain], or makes its plan first. Such a rule gives each matrix
// a rank of its own and needs scores with the criterion sensitivity.SummedGradient.
func ByGain(rule string) bool { return rule == Gain || rule == GainRandomPlaces }

// validateRule returns an error if a plan cannot have the rule together with the other values.
func validateRule(rule, only, module, compat string) error {
	switch {
	case rule == "":
		return nil
	case !slices.Contains(Rules(), rule):
		return option.Unknown("plan-rule", "plan rule", rule, Rules())
	case compat != "":
		return option.Errorf("plan-rule", "plan rule %q contradicts compat mode %q, which has SPT's rule; leave out one of the two options", rule, compat)
	case rule == PerNeuron && only != Unstructured:
		return option.Errorf("plan-rule", "plan rule %q tunes single entries and vectors, but the plan has structured modules; choose a method without modules, such as spt-unstructured", rule)
	case ByGain(rule) && module != "lora":
		return option.Errorf("plan-rule", "plan rule %q knows the gain of the module lora only, but the plan has %q; choose spt-lora or spt-lora-structured", rule, module)
	}
	return nil
}

// needed returns the criterion that scores for the rule need, in words.
func needed(rule string) string {
	if ByGain(rule) {
		return string(sensitivity.SummedGradient)
	}
	return "one without signs, such as " + string(sensitivity.SquaredGradient)
}
