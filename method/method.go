// Package method is the catalogue of tuning methods, such as "spt-lora", "lora", "bitfit" and
// "full".
//
// Begin with [Lookup], which returns the [Row] of a method. The row tells which parameters the
// method tunes ([Row.Select]), its training recipe ([Row.TrainOptions]), the options that it reads
// ([Row.Takes]), whether it scores and plans first (Row.Scores), and whether its result can be
// merged ([Row.Merges]). [Methods] returns the names of all methods, and [Catalogue] all rows. Help
// texts, documentation and checks read the catalogue.
//
// A structured module that is registered with peft.Register under a NAME adds the methods NAME,
// NAME+vectors, spt-NAME and spt-NAME-structured. For a module whose paper puts it elsewhere than
// on every matrix, the method NAME can be a row of its own, with the places of the paper.
package method

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// Method is the name of a method, as in options, files and commands.
type Method string

// The methods that programs use most often. [Methods] returns all methods.
const (
	Full       Method = "full"
	Linear     Method = "linear"
	LoRA       Method = "lora"
	Adapter    Method = "adapter"
	SPTLoRA    Method = "spt-lora"
	SPTAdapter Method = "spt-adapter"
)

// SPT returns the method that uses SPT with the structured module of that name, such as "lora".
func SPT(module string) Method { return Method(sptPrefix + module) }

// Of returns the method that made a plan.
func Of(p *plan.Plan) Method {
	for _, r := range rows {
		if r.Scores && r.Only == p.Only {
			return Method(strings.Replace(r.Name, nameVariable, p.Module, 1))
		}
	}
	return SPT(p.Module) // not reached: plan.Options.Only has no other values
}

// Methods returns the names of all methods in the order of the catalogue. For a family with a
// number K, such as partial-K, it returns one method with the usual number.
func Methods() []Method {
	var out []Method
	for _, r := range rows {
		out = append(out, r.Methods()...)
	}
	return out
}

// Options configures a method. Zero fields take the published defaults of the method. Setting an
// option that the method does not read is an error; see [Row.Takes].
type Options struct {
	// Rank is the rank of the structured modules. Default for SPT: see plan.Options.Rank. Default
	// for other methods: the largest rank that Budget allows, or 8 without a Budget. Default for
	// FacT: 16.
	Rank int `json:"rank"`
	// Budget is the number of parameters to tune, without the head. A method with structured
	// modules and without scores takes either a Budget or a Rank. Default: none.
	Budget plan.Budget `json:"budget,omitzero"`
	// Prompts is the number of prompt tokens of VPT. Default: 100 for vpt-shallow and 50 for
	// vpt-deep, as in the comparison on CIFAR-100 by Lian et al. 2022 (table 3).
	Prompts int `json:"prompts,omitempty"`
	// Bottleneck is the width of the bottlenecks of AdaptFormer, Adapter+ and Convpass. Default: 64
	// for AdaptFormer, and 8 for Adapter+ and Convpass, as in their papers.
	Bottleneck int `json:"bottleneck,omitempty"`
	// Scale is the factor on the output of the bottlenecks of AdaptFormer and Convpass, or of the
	// factors of FacT. Default: 0.1 for AdaptFormer, as in its paper, and 1 for the others.
	Scale float64 `json:"scale,omitempty"`
	// TargetModules names the layers of a block that get a structured module, as in PEFT: by the
	// last part of the name of the layer, such as "q" or "fc1", or by more of it, such as
	// "attn.proj". Default: the layers of the method; for NAME all linear layers of the blocks.
	TargetModules []string `json:"target_modules,omitempty"`
	// FromBlock is the first block that is tuned, if it is not 0; see peft.Selection. Blocks are
	// numbered from 0. A training computes the tokens that enter this block only once for each
	// image, so a step costs only this block and the later blocks. A method with scores spends the
	// whole Budget on them. Default: 0, the whole backbone.
	FromBlock int `json:"from_block,omitempty"`
}

// Lookup returns the row of a method. For a method of a family, it takes the structured module or
// the number K from the name. The error for an unknown method lists the known methods.
func Lookup(m Method) (Row, error) {
	for _, r := range rows {
		name, ok := r.match(string(m))
		if !ok || r.Name == nameVariable && hasOwnRow(name) {
			continue
		}
		r.Method = m
		switch {
		case r.isFamily(nameVariable):
			var err error
			if r.Module, err = name, moduleExists(name); err != nil {
				continue
			}
		case r.isFamily(numberVariable):
			n, err := strconv.Atoi(name)
			if err != nil || n < r.least || strconv.Itoa(n) != name {
				return Row{}, option.Errorf("method", "method %q: %q is not a whole number of at least %d; give such a number, as in %s", m, name, r.least, r.Methods()[0])
			}
			r.number = n
		}
		return r, nil
	}
	var numbered []string // the families with a number K
	for _, r := range rows {
		if r.isFamily(numberVariable) {
			numbered = append(numbered, r.Name)
		}
	}
	return Row{}, fmt.Errorf("%w; %s take other numbers too", option.Unknown("method", "method", m, Methods()), strings.Join(numbered, " and "))
}

// moduleExists returns an error if no structured module of that name is registered.
func moduleExists(name string) error {
	_, err := peft.Lookup(name)
	return err
}

// Catalogue returns the rows of all methods and families of methods.
func Catalogue() []Row { return slices.Clone(rows) }

// The variable parts of the names of families, and the fixed parts of the names of SPT methods.
const (
	nameVariable   = "NAME" // a registered structured module
	numberVariable = "K"    // a positive number

	sptPrefix        = "spt-"
	structuredSuffix = "-structured"
	vectorsSuffix    = "+vectors"
)

// Row is a row of the catalogue. It describes a method, or a family of methods whose names differ
// in one part.
type Row struct {
	// Name is the name of the method. In the name of a family, NAME stands for a registered
	// structured module and K for a number: "spt-NAME", "partial-K".
	Name string
	// Summary names the tuned parameters in a short phrase.
	Summary string
	// Paper cites the publication of the method. It is empty for linear and full.
	Paper string
	// Recipe names the differences from the recipe of SPT in a short phrase. Empty: the recipes are
	// equal.
	Recipe string
	// LearningRates lists the learning rates among which a run of all stages chooses on validation
	// data if the user gives no learning rate. Nil: the learning rate of the recipe.
	LearningRates []float64
	// Scores reports whether the method runs stages 1 and 2 before it trains: it scores the weights
	// and makes a plan.
	Scores bool
	// Only restricts SPT to one kind of tuning, plan.Structured or plan.Unstructured. Empty: both
	// kinds.
	Only string

	// Method is the name of the method. Only Lookup sets it.
	Method Method
	// Module is the structured module of the method. It is empty for a method without structured
	// modules, and in the row of a family, for which Lookup sets it.
	Module string

	number   int      // K of the method; only Lookup sets it
	least    int      // smallest K
	usual    int      // K in lists of methods
	options  []string // options that the method reads and some other methods do not; see Takes
	defaults Options
	places   []string             // operations whose matrices get the module; nil: every matrix
	vectors  bool                 // every bias and norm is tuned in addition to the modules
	inPaper  bool                 // the row replaces the row NAME for the module of the same name
	merges   bool                 // result of Merges for a method without a structured module
	change   func(*train.Options) // changes the recipe of SPT to the recipe of the method
	tunes    func(r Row, c backbone.Config, o Options) (peft.Selection, error)
}

// Methods returns the names of the methods of the row. A family with a structured module has one
// method for every registered module. For a family with a number K, Methods returns one method with
// the usual number.
func (r Row) Methods() []Method {
	switch {
	case r.Method != "":
		return []Method{r.Method}
	case r.isFamily(numberVariable):
		return []Method{Method(strings.Replace(r.Name, numberVariable, strconv.Itoa(r.usual), 1))}
	case !r.isFamily(nameVariable):
		return []Method{Method(r.Name)}
	}
	var out []Method
	for _, name := range peft.Names() {
		if r.Name == nameVariable && hasOwnRow(name) {
			continue
		}
		out = append(out, Method(strings.Replace(r.Name, nameVariable, name, 1)))
	}
	return out
}

// hasOwnRow reports whether the method that is named after a module is a row of its own, which
// puts the module where its paper does.
func hasOwnRow(module string) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return r.inPaper && r.Name == module })
}

// isFamily reports whether the row is a family with that variable part in its name.
func (r Row) isFamily(variable string) bool { return strings.Contains(r.Name, variable) }

// match reports whether name is a name of the row, and returns the part of name that replaces the
// variable.
func (r Row) match(name string) (variable string, ok bool) {
	for _, v := range []string{nameVariable, numberVariable} {
		if before, after, found := strings.Cut(r.Name, v); found {
			variable, hasPrefix := strings.CutPrefix(name, before)
			variable, hasSuffix := strings.CutSuffix(variable, after)
			return variable, hasPrefix && hasSuffix
		}
	}
	return "", name == r.Name
}

// Takes reports whether the method reads an option: "rank", "budget", "prompts", "bottleneck",
// "scale", "target-modules", "from-block", "drop-path", "dropout", "module-drop-path", "init",
// "head-learning-rate", "scores-file", "keep-scores", "criterion", "score-batches",
// "score-batch-size", "plan-rule", "alpha", "beta" or "compat". Every method reads all options that
// are not in this list. A method with a structured module reads an option of modules only if the
// option has an effect on the module.
func (r Row) Takes(option string) bool {
	if !slices.Contains(r.options, option) {
		return !slices.ContainsFunc(rows, func(other Row) bool { return slices.Contains(other.options, option) })
	}
	acts := map[string]func(peft.Uses) bool{
		"dropout":          func(u peft.Uses) bool { return u.Dropout },
		"module-drop-path": func(u peft.Uses) bool { return u.DropPath },
		"init":             func(u peft.Uses) bool { return u.Scheme },
	}[option]
	if r.Module == "" || acts == nil { // a family has no module
		return true
	}
	m, err := peft.Lookup(r.Module)
	if err != nil {
		return true // the selection reports the error
	}
	uses, err := m.Uses()
	return err != nil || acts(uses) // the selection reports the error
}

// Takers returns the methods that read an option, in the order of [Methods].
func Takers(option string) (takers []Method) {
	for _, m := range Methods() {
		if r, err := Lookup(m); err == nil && r.Takes(option) {
			takers = append(takers, m)
		}
	}
	return takers
}

// CheckTakes returns an error if the method does not read an option.
func (r Row) CheckTakes(name string) error {
	if r.Takes(name) {
		return nil
	}
	return option.Errorf(name, "method %s takes no %s; leave it out, or choose a method that does: %s", r.Method, strings.ReplaceAll(name, "-", " "), list(Takers(name)))
}

// list returns the names of methods, separated by commas.
func list(methods []Method) string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = string(m)
	}
	return strings.Join(names, ", ")
}

// Check returns an error for options that the method does not read or that contradict each other.
func (r Row) Check(o Options) error {
	for _, set := range []struct {
		name  string
		given bool
	}{{"rank", o.Rank != 0}, {"budget", !o.Budget.IsZero()}, {"prompts", o.Prompts != 0}, {"bottleneck", o.Bottleneck != 0}, {"scale", o.Scale != 0}, {"target-modules", len(o.TargetModules) > 0}, {"from-block", o.FromBlock != 0}} {
		if set.given {
			if err := r.CheckTakes(set.name); err != nil {
				return err
			}
		}
	}
	if o.Rank != 0 && !o.Budget.IsZero() && !r.Scores {
		return fmt.Errorf("rank %d and budget %s both set the size of the modules of method %s; give one of them", o.Rank, o.Budget, r.Method)
	}
	return nil
}

// WithDefaults returns o with the defaults of the method for Prompts, Bottleneck and Scale. It does
// not change Rank and Budget.
func (r Row) WithDefaults(o Options) Options {
	if o.Prompts == 0 {
		o.Prompts = r.defaults.Prompts
	}
	if o.Bottleneck == 0 {
		o.Bottleneck = r.defaults.Bottleneck
	}
	if o.Scale == 0 {
		o.Scale = r.defaults.Scale
	}
	return o
}

// Merges reports whether the result of the method can be merged into the weights of a backbone
// whose linear layers have biases.
func (r Row) Merges() bool {
	if r.Module == "" {
		return r.merges
	}
	m, err := peft.Lookup(r.Module)
	return err == nil && m.Merge != nil
}

// TrainOptions returns the recipe of the method for VTAB-1k: the recipe of SPT, train.VTAB, with
// the published changes for the method. AdamW is the only optimiser, so the published recipes of
// VPT and AdaptFormer for SGD are not used.
func (r Row) TrainOptions() train.Options {
	o := train.VTAB()
	if r.change != nil {
		r.change(&o)
	}
	return o
}

// Select returns the selection of a method without scores on the backbone c. A method with scores
// selects its parameters through a plan, so Select returns an error for it.
func (r Row) Select(c backbone.Config, o Options) (peft.Selection, error) {
	switch {
	case r.Method == "":
		return peft.Selection{}, errors.New("selecting the tuned parameters: the row of the catalogue names no method; get the row from Lookup")
	case r.Scores:
		return peft.Selection{}, fmt.Errorf("method %s selects its parameters through a plan; make a plan first", r.Method)
	}
	if err := r.Check(o); err != nil {
		return peft.Selection{}, err
	}
	s, err := r.tunes(r, c, r.WithDefaults(o))
	if o.FromBlock != 0 {
		s = s.From(c, o.FromBlock)
	}
	return s, err
}

// checkModuleName returns an error if a structured module of that name would add a method whose
// name is already used.
func checkModuleName(name string) error {
	if strings.HasPrefix(name, sptPrefix) || strings.HasSuffix(name, structuredSuffix) || strings.HasSuffix(name, vectorsSuffix) {
		return fmt.Errorf("names that begin with %q, or end with %q or %q, are reserved for methods that use modules", sptPrefix, structuredSuffix, vectorsSuffix)
	}
	for _, r := range rows {
		if r.isFamily(nameVariable) {
			continue
		}
		for _, method := range []string{name, sptPrefix + name} {
			if _, ok := r.match(method); ok && !(r.inPaper && r.Name == name) {
				return fmt.Errorf("it would add a method with the same name as the method %s", r.Name)
			}
		}
	}
	return nil
}
