package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/inspect"
	"github.com/sptune/spt/internal/planreport"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/plan/published"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func planCommand(a *app) *cobra.Command {
	o := a.newOptions()
	model, chosen, planning := &o.config.Model, o.method, &o.config.Tune.Plan
	cmd := &cobra.Command{
		Use: "plan {--scores FILE --budget B | --import FILE | --compare A B} [flags]", Short: "Stage 2: choose the parameters to tune within a budget",
		Long: `Makes a plan from the scores of 'spt score' and a budget. The plan says which matrices get a
structured module, which vectors are tuned whole, and which single entries of the other
matrices are tuned. It uses as much of the budget as possible. With --model the budget can be
a share of the backbone, such as 0.5%. With several budgets it makes a plan for each of them; the
budget then follows the name of --out, as in plan-0.2M.json. The reach of a plan is the share of
the sum of all scores that is in the matrices, vectors and entries of the plan.

With --import the command makes a plan from a selection that the authors of the paper
published, or that their code saved: a .pth file. It checks the parameter counts that the file
states. With --model it also checks that the selection fits the backbone. If the selection has
modules, their parameter count tells whether they are LoRA or Adapter; otherwise --method
decides.

With --compare the command prints how plan B differs from plan A. A and B are plan files or
published selections. With --model, or if A or B is a published selection, it also prints the
parameter counts of both, which are their costs. With --scores it prints the reach of both in
these scores, which may be those of another task.`,
		Example: `  spt plan --scores scores.safetensors --budget 0.4M --explain
  spt plan --scores scores.safetensors --model vit_tiny.safetensors --budget 0.5% --method spt-adapter
  spt plan --scores scores.safetensors --budget 0.2M,0.4M,0.8M
  spt plan --import lora/cifar/param_req_0.4.pth --explain
  spt plan --compare plan.json lora/cifar/param_req_0.4.pth
  spt plan --compare birds.json cars.json --scores cars.safetensors`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !o.compare {
				return noArguments(cmd, args)
			}
			return arguments(2, 2, "two plans with --compare")(cmd, args)
		},
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if o.compare {
			return a.comparePlans(ctx, args[0], args[1], *model, o.scores)
		}
		if err := takeStructured(cmd, o.structured, chosen); err != nil {
			return err
		}
		row, err := lookup(*chosen)
		if err != nil {
			return err
		}
		if !row.Scores {
			return refuse("method %s needs no plan; give a method that plans, such as %s", *chosen, method.SPTLoRA)
		}
		if o.published != "" {
			if row.Only != "" {
				return refuse("a published selection tunes modules and entries, which %s does not; leave --method out, or give %s or %s", *chosen, method.SPTLoRA, method.SPTAdapter)
			}
			module := ""
			if cmd.Flags().Changed("method") || o.structured != "" {
				module = row.Module
			}
			return a.importPlan(ctx, o.published, module, *o.rank, *model, o.out, o.explain)
		}
		if err := checkMethod(cmd, row); err != nil {
			return err
		}
		if o.scores == "" || len(o.budgets) == 0 {
			return refuse("no scores or no budget given; give --scores FILE and --budget PARAMS, such as 0.4M, or a published selection with --import FILE")
		}
		planning.Module, planning.Only, planning.Rank = row.Module, row.Only, *o.rank
		return a.plan(ctx, o, *planning)
	})
	return cmd
}

// plan makes a plan for each budget from the scores, and writes all plans.
func (a *app) plan(ctx context.Context, o *options, planning plan.Options) error {
	inputs := []string{o.scores}
	if o.config.Model.Path != "" {
		inputs = append(inputs, o.config.Model.Path)
	}
	outs := make([]string, len(o.budgets))
	for i, b := range o.budgets {
		outs[i] = o.out
		if len(o.budgets) == 1 {
			continue
		}
		ext := filepath.Ext(o.out)
		outs[i] = fmt.Sprintf("%s-%s%s", strings.TrimSuffix(o.out, ext), b, ext)
		if err := keepInputs("out", outs[i], inputs...); err != nil {
			return err
		}
	}
	scores, err := loadScores(ctx, o.scores)
	if err != nil {
		return err
	}
	m, err := a.openScored(ctx, scores, o.config.Model)
	if err != nil {
		return err
	}
	backboneSize := 0
	if m != nil {
		backboneSize = m.Config.Size()
	} else {
		for _, t := range scores.Tensors {
			backboneSize += len(t.Scores)
		}
	}
	if err := distinctBudgets(o.budgets, backboneSize); err != nil {
		return err
	}
	plans := make([]*plan.Plan, len(o.budgets))
	for i, b := range o.budgets {
		if m != nil {
			plans[i], err = spt.Plan(ctx, m.Config, scores, b, planning)
		} else {
			plans[i], err = spt.PlanScores(ctx, scores, b, planning)
		}
		if err != nil {
			return err
		}
	}
	for i, p := range plans {
		if err := p.Save(outs[i]); err != nil {
			return err
		}
	}
	if len(plans) == 1 {
		return a.writePlan(plans[0], scores, m, outs[0], o.explain)
	}
	return a.writePlans(plans, scores, m, outs, o.explain)
}

// importPlan makes a plan from a published selection. If model names a backbone, it checks that the
// plan fits the backbone.
func (a *app) importPlan(ctx context.Context, path, module string, rank int, model run.ModelConfig, out string, explain bool) error {
	p, tensors, err := published.Import(path, module, rank)
	if err != nil {
		return &run.InputError{Err: err}
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
		tensors = sensitivity.Tensors(m.Config)
		if err := p.Validate(tensors, structured.Count); err != nil {
			return &run.InputError{Err: fmt.Errorf("%s does not fit %s: %w", path, m.Path, err)}
		}
	}
	if err := p.Save(out); err != nil {
		return err
	}
	return a.writePlan(p, &sensitivity.Scores{Tensors: tensors}, m, out, explain)
}

// loadScores reads a scores file. The error for a file of another kind names the kind.
func loadScores(ctx context.Context, path string) (*sensitivity.Scores, error) {
	scores, err := sensitivity.Load(path)
	return scores, explainScores(ctx, path, err)
}

// checkScoresFile reads the metadata of a scores file. The error for a file of another kind names
// the kind.
func checkScoresFile(ctx context.Context, path string) error {
	_, err := sensitivity.LoadHeader(path)
	return explainScores(ctx, path, err)
}

// explainScores returns err, the error of reading the scores file at path. If the file has another
// kind, the result names the kind.
func explainScores(ctx context.Context, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &run.InputError{Err: err}
	}
	if in, e := inspect.Open(ctx, path, nil); e == nil && in.Kind != "scores" {
		err = fmt.Errorf("its kind is %s; 'spt score' writes scores", in.Kind)
	}
	return &run.InputError{Err: fmt.Errorf("%s is not a scores file: %w", path, err)}
}

// openScored opens the backbone of scores. It returns nil if model names no backbone, and an error
// if the scores belong to another backbone.
func (a *app) openScored(ctx context.Context, scores *sensitivity.Scores, model run.ModelConfig) (*backbone.Model, error) {
	if model.Path == "" {
		return nil, nil
	}
	m, _, err := a.openModel(ctx, model, 1) // the head does not matter
	if err != nil {
		return nil, err
	}
	if err := scores.CheckBackbone(m); err != nil {
		return nil, &run.InputError{Err: err}
	}
	return m, nil
}

// planDocument is the JSON document of a plan.
type planDocument struct {
	Out    string     `json:"out"`
	Module string     `json:"module"`
	Rank   int        `json:"rank"`
	Compat string     `json:"compat,omitempty"`
	Only   string     `json:"only,omitempty"`
	Rule   string     `json:"rule,omitempty"`
	Budget int        `json:"budget"`
	Tau    int        `json:"tau"`
	Cost   plan.Cost  `json:"cost"`
	Reach  float64    `json:"reach,omitempty"` // absent in an imported plan
	Rows   []plan.Row `json:"rows"`
}

// documentOf returns the JSON document of the plan in the file out. The scores are those of the
// plan, or have tensors without scores if the plan was imported.
func documentOf(p *plan.Plan, scores *sensitivity.Scores, out string) (planDocument, error) {
	count, err := peft.CountOf(p.Module)
	if err != nil {
		return planDocument{}, err
	}
	reach, err := reachOf(p, scores)
	if err != nil {
		return planDocument{}, err
	}
	rows, err := p.Explain(scores.Tensors, count)
	return planDocument{out, p.Module, p.Rank, p.Compat, p.Only, p.Rule, p.Budget, p.Tau, p.Cost, reach, rows}, err
}

// reachOf returns the share of the sensitivity that the plan reaches, or 0 if the tensors have no
// scores.
func reachOf(p *plan.Plan, scores *sensitivity.Scores) (float64, error) {
	if len(scores.Tensors) == 0 || scores.Tensors[0].Scores == nil {
		return 0, nil
	}
	return p.Reach(scores)
}

// explainPlan writes how a plan divides its budget among blocks and operations.
func (a *app) explainPlan(p *plan.Plan, tensors []sensitivity.Tensor) error {
	count, err := peft.CountOf(p.Module)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := planreport.Explain(&b, p, tensors, count); err != nil {
		return err
	}
	return a.write(b.String() + "\n")
}

// writePlans prints several plans of the same scores, which are in the files outs.
func (a *app) writePlans(plans []*plan.Plan, scores *sensitivity.Scores, m *backbone.Model, outs []string, explain bool) error {
	var all struct {
		Plans []planDocument `json:"plans"`
	}
	for i, p := range plans {
		d, err := documentOf(p, scores, outs[i])
		if err != nil {
			return err
		}
		all.Plans = append(all.Plans, d)
	}
	if a.json {
		return a.writeJSON(all)
	}
	if explain {
		for _, p := range plans {
			if err := a.explainPlan(p, scores.Tensors); err != nil {
				return err
			}
		}
	}
	text := table(func(w io.Writer) {
		fmt.Fprintln(w, "budget\tcost\tmodules\tvectors\tentries\tclass token\trank\treach\tplan\t")
		for _, p := range all.Plans {
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t\n", p.Budget, p.Cost.Total, p.Cost.Structured, p.Cost.Vectors, p.Cost.Unstructured, p.Cost.ClassToken, p.Rank, wording.Percent(p.Reach), printable(p.Out))
		}
	})
	return a.write(text + "\n" + facts{{"next", trainPlan(outs[0], m)}}.String())
}

// trainPlan returns the command that trains the plan in the file out.
func trainPlan(out string, m *backbone.Model) string {
	model := "FILE"
	if m != nil {
		model = modelArgument(m)
	}
	return shell.Command("spt", "train", "--plan", out, "--model", model, "--data", "DIR")
}

// writePlan prints the plan in the file out.
func (a *app) writePlan(p *plan.Plan, scores *sensitivity.Scores, m *backbone.Model, out string, explain bool) error {
	if a.json {
		d, err := documentOf(p, scores, out)
		if err != nil {
			return err
		}
		return a.writeJSON(d)
	}
	if explain {
		if err := a.explainPlan(p, scores.Tensors); err != nil {
			return err
		}
	}
	reach, err := reachOf(p, scores)
	if err != nil {
		return err
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
	f.add("vectors", "%d parameters in %s", p.Cost.Vectors, wording.Plural(len(p.Vectors), "whole vector"))
	f.add("entries", "%d single parameters in %d tensors", entries, len(p.Entries))
	if p.Cost.CountedOnly > 0 {
		f.add("counted only", "%d entries of norms: part of the cost, as in the published code, but not tuned", p.Cost.CountedOnly)
	}
	f.add("class token", "%d parameters", p.Cost.ClassToken)
	if p.Tau > 0 { // an imported plan has no tau
		f.add("tau", "%d largest scores", p.Tau)
	}
	if reach > 0 {
		f.add("reach", "%s of the sum of all scores is in what the plan tunes", wording.Percent(reach))
	}
	f.add("plan", "%s, %s", out, wording.Bytes(fileSize(out)))
	f.add("next", "%s", trainPlan(out, m))
	return a.write(f.String())
}
