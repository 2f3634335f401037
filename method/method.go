// Package method is the catalogue of methods: ways to tune a backbone for a task.
//
// A [Row] of the catalogue holds everything that is known about a method: what it tunes, how it is
// trained, which options it reads, whether it scores and plans first, and whether its result can be
// merged. Help texts, documentation and checks read the rows. [Lookup] returns the row of a method,
// [Catalogue] all rows, [Methods] the names of all methods.
//
// A structured module NAME that is registered with peft.Register adds the methods NAME, spt-NAME
// and spt-NAME-structured.
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

// Method is the name of a method, as options, files and the command line write it.
type Method string

// The methods that programs name most often; [Methods] lists all.
const (
	Full       Method = "full"
	Linear     Method = "linear"
	LoRA       Method = "lora"
	Adapter    Method = "adapter"
	SPTLoRA    Method = "spt-lora"
	SPTAdapter Method = "spt-adapter"
)

// SPT returns the method that is SPT with a structured module.
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

// Methods returns the names of all methods in the order of the catalogue. Of a family with a number
// K it has one.
func Methods() []Method {
	var out []Method
	for _, r := range rows {
		out = append(out, r.Methods()...)
	}
	return out
}

// Options configures a method. The zero value takes the published defaults. An option that a method
// does not read is an error: see [Row.Takes].
type Options struct {
	// Rank is the rank of structured modules. Default: for SPT as plan.Options.Rank says, for
	// others the largest that Budget allows, or without a Budget 8.
	Rank int `json:"rank"`
	// Budget is the number of parameters to tune, the head excluded. Methods without scores take it
	// instead of a Rank. Default: none.
	Budget plan.Budget `json:"budget,omitzero"`
	// Prompts is the number of prompts of VPT. Default 100 for vpt-shallow and 50 for vpt-deep, as
	// in the comparison on CIFAR-100 by Lian et al. 2022 (table 3).
	Prompts int `json:"prompts,omitempty"`
	// Bottleneck is the width of AdaptFormer's bottlenecks. Default 64, as in its paper.
	Bottleneck int `json:"bottleneck,omitempty"`
	// Scale is the factor on the output of AdaptFormer's bottlenecks. Default 0.1, as in its paper.
	Scale float64 `json:"scale,omitempty"`
}

// Lookup returns the row of a method, with the structured module or the number that its name holds.
// An unknown method is an error.
func Lookup(m Method) (Row, error) {
	for _, r := range rows {
		name, ok := r.match(string(m))
		if !ok {
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
				return Row{}, option.Errorf("method", "method %q: %q is no number from %d on; give one, as in %s", m, name, r.least, r.Methods()[0])
			}
			r.number = n
		}
		return r, nil
	}
	var numbered []string // the families of which Methods has one each
	for _, r := range rows {
		if r.isFamily(numberVariable) {
			numbered = append(numbered, r.Name)
		}
	}
	return Row{}, option.Errorf("method", "method %q is unknown; known: %s; and %s for other numbers", m, list(Methods()), strings.Join(numbered, " and "))
}

func moduleExists(name string) error {
	_, err := peft.Lookup(name)
	return err
}

// Catalogue returns the rows of all methods and families of methods.
func Catalogue() []Row { return slices.Clone(rows) }

// The variable parts of the names of families.
const (
	nameVariable   = "NAME" // a registered structured module
	numberVariable = "K"    // a positive number

	sptPrefix        = "spt-"
	structuredSuffix = "-structured"
)

// Row is a row of the catalogue: a method, or a family of methods whose names differ in one part.
type Row struct {
	// Name is the name of the method. In the name of a family, NAME stands for a registered
	// structured module and K for a number: "spt-NAME", "partial-K".
	Name string
	// Summary says in a few words what the method tunes.
	Summary string
	// Paper is where the method was published.
	Paper string
	// Recipe says in a few words how the recipe of the method differs from the recipe of SPT;
	// empty: not at all.
	Recipe string
	// Scores reports whether the method scores the weights and plans before it trains: stages 1 and
	// 2.
	Scores bool
	// Only is the half of SPT that the method keeps to: plan.Structured or plan.Unstructured;
	// empty: both.
	Only string

	// Method is the name of the method that Lookup found.
	Method Method
	// Module is the structured module of the method that Lookup found; empty for a method without
	// one.
	Module string

	number   int // K of the method that Lookup found
	least    int // least K
	usual    int // K in lists of methods
	options  []string
	defaults Options
	merges   bool
	change   func(*train.Options)
	tunes    func(r Row, c backbone.Config, o Options) (peft.Selection, error)
}

// Methods returns the methods of the row: of a family with a module one for every registered
// module, of a family with a number one.
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
		out = append(out, Method(strings.Replace(r.Name, nameVariable, name, 1)))
	}
	return out
}

func (r Row) isFamily(variable string) bool { return strings.Contains(r.Name, variable) }

// match reports whether a name has the form of the row's, and returns what stands for the variable
// part.
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
// "scale", "dropout", "module-drop-path", "criterion", "score-batches", "score-batch-size",
// "alpha", "beta" or "compat". Every method reads any other option.
func (r Row) Takes(option string) bool {
	return slices.Contains(r.options, option) || !slices.ContainsFunc(rows, func(other Row) bool { return slices.Contains(other.options, option) })
}

// list returns the names of methods, divided by commas.
func list(methods []Method) string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = string(m)
	}
	return strings.Join(names, ", ")
}

// Check reports options that the method does not read, or that contradict each other.
func (r Row) Check(o Options) error {
	for _, set := range []struct {
		name  string
		given bool
	}{{"rank", o.Rank != 0}, {"budget", !o.Budget.IsZero()}, {"prompts", o.Prompts != 0}, {"bottleneck", o.Bottleneck != 0}, {"scale", o.Scale != 0}} {
		if !set.given || r.Takes(set.name) {
			continue
		}
		var takers []Method
		for _, other := range rows {
			if other.Takes(set.name) {
				takers = append(takers, other.Methods()...)
			}
		}
		return option.Errorf(set.name, "method %s takes no %s; leave it out, or choose a method that does: %s", r.Method, set.name, list(takers))
	}
	if o.Rank != 0 && !o.Budget.IsZero() && !r.Scores {
		return fmt.Errorf("rank %d and budget %s both set the size of the modules of method %s; give one of them", o.Rank, o.Budget, r.Method)
	}
	return nil
}

// WithDefaults returns o with the defaults of the method for the options that are numbers of its
// own. It leaves Rank and Budget as they are.
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
// the changes that are published for the method. AdamW is the only optimiser, so published recipes
// for SGD (VPT's own, AdaptFormer's) are not taken over.
func (r Row) TrainOptions() train.Options {
	o := train.VTAB()
	if r.change != nil {
		r.change(&o)
	}
	return o
}

// Select returns what a method without scores tunes on a backbone. The selection of a method with
// scores comes from a plan.
func (r Row) Select(c backbone.Config, o Options) (peft.Selection, error) {
	switch {
	case r.Method == "":
		return peft.Selection{}, errors.New("the row stands for no method; look one up")
	case r.Scores:
		return peft.Selection{}, fmt.Errorf("method %s selects through a plan; make one", r.Method)
	}
	if err := r.Check(o); err != nil {
		return peft.Selection{}, err
	}
	return r.tunes(r, c, r.WithDefaults(o))
}

// uniform selects a structured module on every matrix.
func uniform(r Row, c backbone.Config, o Options) (peft.Selection, error) {
	rank := o.Rank
	if !o.Budget.IsZero() {
		parameters, err := o.Budget.Parameters(c.Size())
		if err != nil {
			return peft.Selection{}, err
		}
		if rank, _, err = rankFor(c, r.Module, parameters); err != nil {
			return peft.Selection{}, err
		}
	}
	if rank == 0 {
		rank = min(plan.DefaultRank, c.MaxRank())
	}
	if rank < 1 || rank > c.MaxRank() {
		return peft.Selection{}, option.Errorf("rank", "rank %d: expected 1 to %d, the shortest side of the backbone's matrices", rank, c.MaxRank())
	}
	return peft.Uniform(c, r.Module, rank), nil
}

// checkModuleName reports a name of a structured module with which one of the module's methods
// would have the name of another method.
func checkModuleName(name string) error {
	if strings.HasPrefix(name, sptPrefix) || strings.HasSuffix(name, structuredSuffix) {
		return fmt.Errorf("names that begin with %q or end with %q are reserved for methods of SPT", sptPrefix, structuredSuffix)
	}
	for _, r := range rows {
		if r.isFamily(nameVariable) {
			continue
		}
		for _, method := range []string{name, sptPrefix + name} {
			if _, ok := r.match(method); ok {
				return fmt.Errorf("it would have the name of the method %s", r.Name)
			}
		}
	}
	return nil
}
