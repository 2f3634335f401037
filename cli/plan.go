package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/inspect"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func planCommand(a *app) *cobra.Command {
	var model run.ModelConfig
	var o run.PlanOptions
	var scoresPath, published, budget, structured string
	var explain, compare bool
	chosen := method.SPTLoRA
	out := "plan.json"
	cmd := &cobra.Command{
		Use: "plan {--scores FILE --budget B | --import FILE | --compare A B} [flags]", Short: "Stage 2: choose under a budget what to tune",
		Long: `Chooses from scores what to tune under a budget of parameters: which matrices
get a structured module, which vectors are tuned whole, and which single entries.
The plan spends the most that fits. With the backbone given, budgets may be a
share of it.

--import makes a plan of a selection that the paper's authors published, or that
their code has saved (a .pth file). Its counts are checked, and with --model that
it fits. LoRA or Adapter is told from the counts where a matrix gets a module;
else it is LoRA unless --method says otherwise.

--compare says how plan B differs from plan A, each a plan file or a published
selection. It knows what is spent where if one of the two is a published
selection or the backbone is given.`,
		Example: `  spt plan --scores scores.safetensors --budget 0.4M --explain
  spt plan --scores scores.safetensors --model vit_tiny.safetensors --budget 0.5% --method spt-adapter
  spt plan --import lora/cifar/param_req_0.4.pth --explain
  spt plan --compare plan.json lora/cifar/param_req_0.4.pth`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !compare {
				return cobra.NoArgs(cmd, args)
			}
			if !cmd.Flags().Changed("out") {
				out = "" // nothing is written, so the plans may have this name
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&scoresPath, "scores", "", "scores, a `FILE` of 'spt score' or of a run")
	modelFlags(fs, &model)
	fs.StringVar(&out, "out", out, "`FILE` to write, JSON")
	fs.StringVar((*string)(&chosen), "method", string(chosen), "spt-NAME, by its structured module; spt-NAME-structured: no single entries; spt-unstructured: no modules")
	structuredFlag(fs, &structured)
	fs.Var((*budgetFlag)(&budget), "budget", "parameters to tune, such as 0.4M, 400k, or with --model 0.5%")
	fs.IntVar(&o.Rank, "rank", 0, "rank of the modules (default 8, in small budgets for backbones narrower than 768 in proportion to the width)")
	planFlags(fs, &o)
	fs.BoolVar(&explain, "explain", false, "print for each block and operation where the budget goes")
	fs.StringVar(&published, "import", "", "instead of scores: a published selection, a `FILE` of torch.save")
	fs.BoolVar(&compare, "compare", false, "say how two plans differ; write none")
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if compare {
			if err := alone(cmd, "compare", "scores", "import", "budget", "out", "method", "structured", "rank", "alpha", "beta", "compat", "explain"); err != nil {
				return err
			}
			return a.comparePlans(ctx, args[0], args[1], model)
		}
		if err := takeStructured(cmd, structured, &chosen); err != nil {
			return err
		}
		if err := chosen.Validate(); err != nil {
			return &run.OptionError{Err: err}
		}
		if !chosen.Scores() {
			return &run.OptionError{Err: fmt.Errorf("method %s needs no plan; plans are for spt-…, such as %s", chosen, method.SPTLoRA)}
		}
		if published != "" {
			if err := alone(cmd, "import", "scores", "budget", "alpha", "beta", "compat"); err != nil {
				return err
			}
			if chosen.Only() != "" {
				return &run.OptionError{Err: fmt.Errorf("a published selection tunes both modules and entries, not as %s does; leave --method out, or name %s or %s", chosen, method.SPTLoRA, method.SPTAdapter)}
			}
			module := ""
			if cmd.Flags().Changed("method") || structured != "" {
				module = chosen.Module()
			}
			return a.importPlan(ctx, published, module, o.Rank, model, out, explain)
		}
		if err := idleFlags(cmd, chosen); err != nil {
			return err
		}
		if scoresPath == "" || budget == "" {
			return &run.OptionError{Err: fmt.Errorf("give the scores (--scores FILE) and a budget (--budget 0.4M), or a published selection (--import FILE)")}
		}
		if model.Path == "" {
			if err := aloneWithout(cmd, "model", "image-size", "num-heads", "layer-norm-eps", "mean", "std"); err != nil {
				return err
			}
		}
		scores, err := loadScores(ctx, scoresPath)
		if err != nil {
			return err
		}
		o.Module, o.Only = chosen.Module(), chosen.Only()
		p, m, err := a.makePlan(ctx, scores, model, budget, o)
		if err != nil {
			return err
		}
		if err := p.Save(out); err != nil {
			return err
		}
		return a.writePlan(p, spt.Scored(scores), m, out, explain)
	})
	return cmd
}

// alone refuses flags that say nothing beside the one that is named.
func alone(cmd *cobra.Command, name string, others ...string) error {
	for _, other := range others {
		if cmd.Flags().Changed(other) {
			return &run.OptionError{Err: fmt.Errorf("--%s says nothing beside --%s; leave one of them out", other, name)}
		}
	}
	return nil
}

// aloneWithout refuses flags that say nothing without the one that is named.
func aloneWithout(cmd *cobra.Command, name string, others ...string) error {
	for _, other := range others {
		if cmd.Flags().Changed(other) {
			return &run.OptionError{Err: fmt.Errorf("--%s says nothing without --%s; leave it out, or give the other too", other, name)}
		}
	}
	return nil
}

// importPlan makes a plan of a published selection, for the backbone if one is
// given.
func (a *app) importPlan(ctx context.Context, path, module string, rank int, model run.ModelConfig, out string, explain bool) error {
	p, tensors, err := spt.ImportPlan(path, module, rank)
	if err != nil {
		return err
	}
	var m *backbone.Model
	if model.Path != "" {
		if m, _, err = a.openModel(ctx, model, 1); err != nil { // the head does not matter
			return err
		}
		structured, err := peft.Lookup(p.Module)
		if err != nil {
			return err
		}
		tensors = spt.Tensors(m.Config)
		if err := p.Validate(tensors, structured.Count); err != nil {
			return &run.InputError{Err: fmt.Errorf("%s does not fit %s: %w", path, m.Path, err)}
		}
	}
	if err := p.Save(out); err != nil {
		return err
	}
	return a.writePlan(p, tensors, m, out, explain)
}

// loadScores reads scores and says of another file what it is.
func loadScores(ctx context.Context, path string) (*sensitivity.Scores, error) {
	scores, err := sensitivity.Load(path)
	switch {
	case err == nil:
		return scores, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, &run.InputError{Err: err}
	}
	if in, e := inspect.Open(ctx, path, nil); e == nil && in.Kind != "scores" {
		err = fmt.Errorf("it is of the kind: %s; 'spt score' makes scores", in.Kind)
	}
	return nil, &run.InputError{Err: fmt.Errorf("%s is no scores file: %w", path, err)}
}

// makePlan plans with the backbone, or without where none is given.
func (a *app) makePlan(ctx context.Context, scores *sensitivity.Scores, model run.ModelConfig, budget string, o run.PlanOptions) (*plan.Plan, *backbone.Model, error) {
	if model.Path == "" {
		p, err := spt.PlanScores(ctx, scores, budget, o)
		return p, nil, err
	}
	m, _, err := a.openModel(ctx, model, 1) // the head does not matter
	if err != nil {
		return nil, nil, err
	}
	if scores.Backbone != m.Fingerprint() {
		return nil, nil, &run.InputError{Err: fmt.Errorf("the scores are of another backbone (fingerprint %s) than %s (%s); give the one that was scored, at the same --image-size, or score this one", scores.Backbone, m.Path, m.Fingerprint())}
	}
	p, err := spt.Plan(ctx, m.Config, scores, budget, o)
	return p, m, err
}

func (a *app) writePlan(p *plan.Plan, tensors []plan.Scored, m *backbone.Model, out string, explain bool) error {
	count, err := peft.CountOf(p.Module)
	if err != nil {
		return err
	}
	if a.json {
		rows, err := p.ExplainRows(tensors, count)
		if err != nil {
			return err
		}
		return a.writeJSON(struct {
			Out    string     `json:"out"`
			Module string     `json:"module"`
			Rank   int        `json:"rank"`
			Compat string     `json:"compat,omitempty"`
			Only   string     `json:"only,omitempty"`
			Budget int        `json:"budget"`
			Tau    int        `json:"tau"`
			Cost   plan.Cost  `json:"cost"`
			Rows   []plan.Row `json:"rows"`
		}{out, p.Module, p.Rank, p.Compat, p.Only, p.Budget, p.Tau, p.Cost, rows})
	}
	if explain {
		var b strings.Builder
		if err := p.Explain(&b, tensors, count); err != nil {
			return err
		}
		if err := a.write(b.String() + "\n"); err != nil {
			return err
		}
	}
	entries := 0
	for _, e := range p.Entries {
		entries += len(e)
	}
	var f facts
	of := ""
	if m != nil {
		of = fmt.Sprintf(", %s of the backbone's %d", share(p.Cost.Total, m.Config), m.Config.Size())
	}
	f.add("cost", "%d parameters for a budget of %d%s", p.Cost.Total, p.Budget, of)
	f.add("modules", "%s", planModules(p))
	f.add("vectors", "%d, whole, %d of them", p.Cost.Vectors, len(p.Vectors))
	f.add("entries", "%d, one by one, in %d tensors", entries, len(p.Entries))
	if p.Cost.CountedOnly > 0 {
		f.add("counted only", "%d entries of norms, not tuned", p.Cost.CountedOnly)
	}
	f.add("class token", "%d", p.Cost.ClassToken)
	if p.Tau > 0 { // an imported plan does not say it
		f.add("tau", "%d largest scores", p.Tau)
	}
	f.add("plan", "%s, %s", out, size(fileSize(out)))
	model := "FILE"
	if m != nil {
		model = modelArgument(m)
	}
	f.add("next", "%s", command("spt", "train", "--plan", out, "--model", model, "--data", "DIR"))
	return a.write(f.String())
}
