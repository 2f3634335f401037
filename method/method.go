package method

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// Method says what is tuned.
type Method string

// The methods. Those of SPT score and plan first. Their constructors in package
// peft, and peft.Module, say what each does.
const (
	Full        Method = "full"        // every weight
	Linear      Method = "linear"      // linear probe: the head alone
	Partial1    Method = "partial-1"   // the last block and what follows; partial-K: the last K
	MLP3        Method = "mlp-3"       // a head of three layers; mlp-K: of K
	BitFit      Method = "bitfit"      // every bias (Ben Zaken et al. 2022)
	VPTShallow  Method = "vpt-shallow" // prompts before the first block (Jia et al. 2022)
	VPTDeep     Method = "vpt-deep"    // prompts before every block
	Adapter     Method = "adapter"     // Adapter (Houlsby et al. 2019) on every matrix of every block
	AdaptFormer Method = "adaptformer" // a bottleneck beside every MLP (Chen et al. 2022)
	LoRA        Method = "lora"        // LoRA (Hu et al. 2022) on every matrix of every block
	SSF         Method = "ssf"         // every operation's output scaled and shifted (Lian et al. 2022)

	SPTLoRA    Method = "spt-lora"    // SPT (He et al. 2023) with LoRA as its structured module
	SPTAdapter Method = "spt-adapter" // SPT with Adapter as its structured module
	// SPTUnstructured is SPT without modules: matrices are tuned entry by entry.
	SPTUnstructured Method = "spt-unstructured"
	// SPTLoRAStructured is SPT without entries: matrices with a module, and whole
	// vectors.
	SPTLoRAStructured    Method = "spt-lora-structured"
	SPTAdapterStructured Method = "spt-adapter-structured"
)

// The parts of which methods' names consist.
const (
	sptPrefix        = "spt-"
	structuredSuffix = "-structured"
)

// SPT is the method with the registered structured module of that name.
func SPT(module string) Method { return Method(sptPrefix + module) }

// fixed are the methods without scores that do not come from a registered module.
var fixed = []Method{Full, Linear, Partial1, MLP3, BitFit, VPTShallow, VPTDeep, AdaptFormer, SSF}

// Methods lists the methods: the fixed ones, for every registered structured
// module NAME the methods NAME, spt-NAME and spt-NAME-structured, and of
// partial-K and mlp-K one each.
func Methods() []Method {
	out := slices.Clone(fixed)
	for _, n := range peft.Names() {
		out = append(out, Method(n))
	}
	for _, n := range peft.Names() {
		out = append(out, SPT(n))
	}
	out = append(out, SPTUnstructured)
	for _, n := range peft.Names() {
		out = append(out, SPT(n)+structuredSuffix)
	}
	return out
}

// Module is the structured module's name; empty for a method without one.
func (m Method) Module() string {
	if slices.Contains(fixed, m) || m == SPTUnstructured || m.count("partial-") != 0 || m.count("mlp-") != 0 {
		return ""
	}
	name := strings.TrimPrefix(string(m), sptPrefix)
	if m.Scores() {
		name = strings.TrimSuffix(name, structuredSuffix)
	}
	return name
}

// Only is the half of SPT to which the method keeps, as plan.Plan's Only says
// it; empty for both.
func (m Method) Only() string {
	switch {
	case m == SPTUnstructured:
		return plan.Unstructured
	case m.Scores() && strings.HasSuffix(string(m), structuredSuffix):
		return plan.Structured
	}
	return ""
}

// Scores reports whether the method needs stages 1 and 2.
func (m Method) Scores() bool { return strings.HasPrefix(string(m), sptPrefix) }

// Budgeted reports whether a budget decides what the method tunes: in SPT, and
// by the rank of a registered module.
func (m Method) Budgeted() bool { return m.Scores() || m.Module() != "" }

// Merges reports whether what the method tunes can be merged into the weights, on
// a backbone whose linear layers have biases.
func (m Method) Merges() bool {
	switch {
	case m == VPTShallow || m == VPTDeep || m == AdaptFormer || m.count("mlp-") > 1:
		return false
	case m.Module() == "":
		return true
	}
	module, err := peft.Lookup(m.Module())
	return err == nil && module.Merge != nil
}

// PlanMethod is the method that made a plan.
func PlanMethod(p *plan.Plan) Method {
	switch p.Only {
	case plan.Unstructured:
		return SPTUnstructured
	case plan.Structured:
		return SPT(p.Module) + structuredSuffix
	}
	return SPT(p.Module)
}

// count is K of a method PREFIXK; 0 if it is none.
func (m Method) count(prefix string) int {
	text, ok := strings.CutPrefix(string(m), prefix)
	k, err := strconv.Atoi(text)
	if !ok || err != nil || k < 1 || strconv.Itoa(k) != text {
		return 0
	}
	return k
}

// Validate says what is wrong with m, if anything.
func (m Method) Validate() error {
	if slices.Contains(Methods(), m) || m.count("partial-") > 0 || m.count("mlp-") > 1 {
		return nil
	}
	for prefix, least := range map[string]string{"partial-": "1, the last block", "mlp-": "2 layers; a head of one is linear"} {
		if k, ok := strings.CutPrefix(string(m), prefix); ok {
			return fmt.Errorf("method %q: %q is no number from %s", m, k, least)
		}
	}
	var names []string
	for _, n := range Methods() {
		names = append(names, string(n))
	}
	return fmt.Errorf("method %q is unknown; known: %s; and partial-K and mlp-K for other numbers", m, strings.Join(names, ", "))
}

// Sizes are what single methods have besides a rank. Zero values are the
// published defaults; a value that is not the method's is an error.
type Sizes struct {
	// Prompts is the number of VPT's prompts; 0: 100 for VPT-shallow, 50 for
	// VPT-deep, as in the comparison on CIFAR-100 by Lian et al. 2022 (table 3).
	Prompts int `json:"prompts,omitempty"`
	// Bottleneck is the width of AdaptFormer's; 0: 64, its paper's default.
	Bottleneck int `json:"bottleneck,omitempty"`
	// Scale is on what AdaptFormer's bottlenecks add; 0: 0.1, its paper's.
	Scale float64 `json:"scale,omitempty"`
}

// For is s with the defaults of m filled in.
func (s Sizes) For(m Method) Sizes {
	switch m {
	case VPTShallow:
		s.Prompts = cmp.Or(s.Prompts, 100)
	case VPTDeep:
		s.Prompts = cmp.Or(s.Prompts, 50)
	case AdaptFormer:
		s.Bottleneck, s.Scale = cmp.Or(s.Bottleneck, 64), cmp.Or(s.Scale, 0.1)
	}
	return s
}

func (s Sizes) Validate(m Method) error {
	switch {
	case s.Prompts != 0 && m != VPTShallow && m != VPTDeep:
		return fmt.Errorf("method %s has no prompts; leave their number out, or take %s or %s", m, VPTShallow, VPTDeep)
	case (s.Bottleneck != 0 || s.Scale != 0) && m != AdaptFormer:
		return fmt.Errorf("method %s has no bottleneck of a width and scale; leave them out, or take %s", m, AdaptFormer)
	}
	return nil
}

// BaselineOptions say how much a method without scores tunes.
type BaselineOptions struct {
	// Rank is that of LoRA, Adapter and other registered modules; 0: the largest
	// that Budget allows, or without a budget 8.
	Rank   int
	Budget string // see [plan.ParseBudget]; not beside a Rank
	Sizes
}

// Baseline is what a method without scores tunes.
func Baseline(c backbone.Config, m Method, o BaselineOptions) (peft.Selection, error) {
	if err := m.Validate(); err != nil {
		return peft.Selection{}, err
	}
	if err := o.Sizes.Validate(m); err != nil {
		return peft.Selection{}, err
	}
	if o.Budget != "" && !m.Budgeted() {
		return peft.Selection{}, fmt.Errorf("method %s takes no budget; leave it out", m)
	}
	if o.Rank != 0 && o.Budget != "" && !m.Scores() {
		return peft.Selection{}, fmt.Errorf("of method %s the rank, %d, and the budget, %s, say the same; leave one of them out", m, o.Rank, o.Budget)
	}
	s := o.Sizes.For(m)
	switch m {
	case Full:
		return peft.Full(c), nil
	case Linear:
		return peft.Linear(), nil
	case BitFit:
		return peft.BitFit(c), nil
	case VPTShallow, VPTDeep:
		return peft.VPT(s.Prompts, m == VPTDeep), nil
	case AdaptFormer:
		return peft.AdaptFormer(s.Bottleneck, s.Scale), nil
	case SSF:
		return peft.Scaled(), nil
	}
	if k := m.count("partial-"); k > 0 {
		return peft.Partial(c, k)
	}
	if k := m.count("mlp-"); k > 0 {
		return peft.MLPHead(k), nil
	}
	if m.Scores() {
		return peft.Selection{}, fmt.Errorf("method %s selects through a plan", m)
	}
	rank := o.Rank
	if o.Budget != "" {
		parameters, err := plan.ParseBudget(o.Budget, c.Size())
		if err != nil {
			return peft.Selection{}, err
		}
		if rank, _, err = peft.RankFor(c, m.Module(), parameters); err != nil {
			return peft.Selection{}, err
		}
	}
	if rank == 0 {
		rank = min(8, c.MaxRank())
	}
	if rank < 1 || rank > c.MaxRank() {
		return peft.Selection{}, fmt.Errorf("rank %d: expected 1 to %d, the shortest side of the backbone's matrices", rank, c.MaxRank())
	}
	return peft.Uniform(c, m.Module(), rank), nil
}

// Recipe is how a method is trained on VTAB-1k: SPT's recipe, train.VTAB, but
// for what is published for the method. AdamW is the only optimiser, so recipes
// for SGD (VPT's own, AdaptFormer's) are not taken over.
//
//   - full, partial-K: learning rate 1.25e-4, which is the 5e-4 for a batch of 256
//     among those that VPT searches for AdamW (Jia et al. 2022, tune_vtab.py).
//   - vpt-shallow, vpt-deep: learning rate 5e-3, as VPT is trained with AdamW in
//     NOAH (Zhang et al. 2022, arXiv 2206.04673, configs/VPT/VTAB); dropout 0.1 on
//     the prompts, as there.
//   - ssf: learning rate 5e-3, decay 5e-5, warm-up from 1e-7, down to 1e-8, no
//     drop-path (Lian et al. 2022, train_scripts/vit/vtab/cifar_100).
//   - adaptformer: dropout 0.1 in the bottleneck, no drop-path, no decay (Chen et
//     al. 2022, main_image.py); SPT's learning rate.
//   - linear, mlp-K: no drop-path; a head is fitted to the backbone as it is.
func Recipe(m Method) train.Options {
	o := train.VTAB()
	switch {
	case m == Full || m.count("partial-") > 0:
		o.LR = 1.25e-4
	case m == VPTShallow || m == VPTDeep:
		o.LR = 5e-3
	case m == SSF:
		o.LR, o.WeightDecay, o.WarmupLR, o.MinLR, o.DropPath = 5e-3, 5e-5, 1e-7, 1e-8, 0
	case m == AdaptFormer:
		o.DropPath, o.WeightDecay = 0, 0
	case m == Linear || m.count("mlp-") > 0:
		o.DropPath = 0
	}
	return o
}
