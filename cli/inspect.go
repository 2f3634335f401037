package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/inspect"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

func inspectCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Use: "inspect {PATH | hf:OWNER/NAME}", Short: "Describe a file or a run folder",
		Long: `Prints the kind and the contents of a file or folder: a checkpoint, scores, a plan, a selection
that the authors of the paper published, a delta, a training state, a run folder or one of its
files. The command recognises a file by its content, not by its name. Tensors with the same
name and shape in several blocks of a checkpoint share one line; --json lists every tensor. A
model of the Hugging Face Hub is downloaded first; --verify compares its files in the cache
with the checksums that the Hub stated.`,
		Example: `  spt inspect vit_tiny.safetensors
  spt inspect runs/clothing-spt-lora --json
  spt inspect --verify hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k`,
		Args: arguments(1, 1, "one path"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			p := a.reporter()
			defer p.close()
			if o.verify {
				return a.verifyDownload(ctx, args[0], p)
			}
			in, err := inspect.Open(ctx, args[0], p.event)
			p.close()
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(in)
			}
			var f facts
			f.add("kind", "%s", in.Kind)
			if in.Run != nil {
				runFacts(&f, in.Run, args[0])
			}
			if in.Delta != nil {
				deltaFacts(&f, in.Delta)
			}
			switch {
			case in.Checkpoint != nil:
				checkpointFacts(&f, in.Checkpoint)
			case in.Scores != nil:
				scoresFacts(&f, in.Scores)
			case in.Plan != nil:
				planFacts(&f, in.Plan)
			case in.Metrics != nil:
				last := in.Metrics[len(in.Metrics)-1]
				f.add("epochs", "%d", len(in.Metrics))
				f.add("last epoch", "%s", figures(last, objective.ScoreName("")))
			case in.Result != nil:
				f.add("method", "%s, trained on %s, %d epochs", printable(string(in.Result.Method)), printable(in.Result.TrainedOn), len(in.Result.Epochs))
				f.add("tuned", "%d parameters and a head of %d parameters", in.Result.Counts.Tuned(), in.Result.Counts.Head)
				resultFacts(&f, in.Result)
			case in.Folds != nil:
				foldsFacts(&f, in.Folds)
			case in.Candidate != nil:
				f.add("candidate", "budget %s, tunes %d parameters", printable(budgetName(in.Candidate.Budget.String())), in.Candidate.Counts.Tuned())
				score := objective.ScoreName("")
				if in.Candidate.LabelMetrics != nil {
					score = objective.ScoreName(objective.MultiLabel.Name())
				}
				f.add("validation "+score, "%s, loss %.4f", wording.Percent(in.Candidate.ValAccuracy), in.Candidate.ValLoss)
			case in.Predictions != nil:
				predictionsFacts(&f, in.Predictions)
			case in.Deliveries != nil:
				for _, d := range in.Deliveries {
					f.add("MLflow", "%s: run %s of experiment %s, %s", printable(d.Server), printable(d.Run), printable(d.Experiment), wording.Plural(len(d.Files), "file"))
				}
			}
			return a.write(f.String())
		}),
	}
	addFlags(cmd, o)
	return cmd
}

func predictionsFacts(f *facts, p *inspect.Predictions) {
	kept := "most probable class"
	if p.Kept != 1 {
		kept = fmt.Sprintf("%d most probable classes", p.Kept)
	}
	f.add("images", "%d, each with its %s", p.Images, kept)
	f.add("classes", "%s", list(p.Classes))
	if p.Labelled > 0 {
		f.add("correct", "%d of %d, %s", p.Correct, p.Labelled, wording.Percent(float64(p.Correct)/float64(p.Labelled)))
	}
}

// verifyDownload compares the files of a model of the Hub in the cache with their checksums.
func (a *app) verifyDownload(ctx context.Context, model string, p *reporter) error {
	c := run.ModelConfig{Path: model}
	path, origin, err := c.File(ctx, p.event)
	p.close()
	if err != nil {
		return err
	}
	if origin == "" {
		return refuse("--verify needs a model of the Hugging Face Hub, such as hf:OWNER/NAME; %s is a file", model)
	}
	verified, files, err := c.Verify(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(struct {
			Path     string `json:"path"`
			Origin   string `json:"origin"`
			Verified int    `json:"verified"`
			Files    int    `json:"files"`
		}{path, origin, verified, files})
	}
	return a.write(facts{{"model", origin}, {"verified", fmt.Sprintf("%d of %s have the checksum of the Hub", verified, wording.Plural(files, "file"))}}.String())
}

func checkpointFacts(f *facts, c *inspect.Checkpoint) {
	byType := map[string]int{}
	for _, t := range c.Tensors {
		byType[string(t.DType)]++
	}
	var types []string
	for _, name := range slices.Sorted(maps.Keys(byType)) {
		types = append(types, fmt.Sprintf("%d %s", byType[name], name))
	}
	f.add("format", "%s", printable(c.Format))
	f.add("tensors", "%d (%s), %d values, %s", len(c.Tensors), strings.Join(types, ", "), c.Values, wording.Bytes(c.Bytes))
	f.add("shapes", "%s", strings.TrimRight(tensorShapes(c.Tensors), "\n"))
	for _, key := range slices.Sorted(maps.Keys(c.Metadata)) {
		f.add("metadata", "%s: %.100s", printable(key), printable(c.Metadata[key]))
	}
	if c.Problem != "" {
		f.add("not a backbone", "%s", printable(c.Problem))
	}
	if c.Backbone == nil {
		return
	}
	f.add("backbone", "%s", describeConfig(*c.Backbone))
	if c.Head {
		f.add("head", "%d classes", c.Backbone.NumClasses)
	} else {
		f.add("head", "none")
	}
	switch {
	case c.Classes != nil:
		f.add("classes", "%s (%s)", list(c.Classes), printable(c.ClassesFrom))
	case c.ClassesFrom != "":
		f.add("classes", "unknown: %s", printable(c.ClassesFrom))
	}
	f.add("pixels", "%s", describePreprocessing(*c.Preprocessing))
	f.add("loading", "%s", describeReport(c.Report))
	f.addReportNotes(c.Report)
	f.add("fingerprint", "%s", c.Fingerprint)
}

// tensorShapes returns a line for each name and shape of a tensor. In a name, a star stands for the
// number of a block, so that equal blocks share a line.
func tensorShapes(tensors []checkpoint.TensorInfo) string {
	var order []string
	count := map[string]int{}
	for _, t := range tensors {
		parts := strings.Split(t.Name, ".")
		for i, p := range parts {
			if strings.Trim(p, "0123456789") == "" {
				parts[i] = "*"
			}
		}
		line := fmt.Sprintf("%s\t%s\t%v", printable(strings.Join(parts, ".")), t.DType, t.Shape)
		if count[line]++; count[line] == 1 {
			order = append(order, line)
		}
	}
	const most = 40
	return table(func(w io.Writer) {
		for i, line := range order {
			if i == most {
				fmt.Fprintf(w, "and %d more\n", len(order)-most)
				break
			}
			times := ""
			if n := count[line]; n > 1 {
				times = fmt.Sprintf("×%d", n)
			}
			fmt.Fprintf(w, "%s\t%s\n", line, times)
		}
	})
}

func scoresFacts(f *facts, s *inspect.Scores) {
	if s.Criterion.Images() {
		f.add("scores", "%d tensors from %d images, criterion %s, mean loss %.4f", len(s.Tensors), s.Images, s.Criterion, s.MeanLoss)
	} else {
		f.add("scores", "%d tensors, criterion %s", len(s.Tensors), s.Criterion)
	}
	f.add("backbone", "fingerprint %s", s.Backbone)
	top := slices.Clone(s.Tensors)
	slices.SortStableFunc(top, func(a, b inspect.ScoredTensor) int {
		switch {
		case a.Sum > b.Sum:
			return -1
		case a.Sum < b.Sum:
			return 1
		}
		return 0
	})
	for i, t := range top[:min(10, len(top))] {
		name := ""
		if i == 0 {
			name = "most sensitive"
		}
		f.add(name, "%s %v: %s of the sum", printable(t.Name), t.Shape, wording.Percent(t.Share))
	}
}

func planFacts(f *facts, p *plan.Plan) {
	compat := "exact"
	if p.Compat != "" {
		compat = "compat " + p.Compat
	}
	if p.Only != "" {
		compat += ", " + p.Only + " only"
	}
	if p.Rule != "" {
		compat += ", rule " + p.Rule
	}
	if p.Tau > 0 { // an imported plan has no tau
		compat += fmt.Sprintf(", tau %d", p.Tau)
	}
	f.add("plan", "%d parameters for a budget of %d, %s", p.Cost.Total, p.Budget, compat)
	f.add("modules", "%s", planModules(p))
	f.add("vectors", "%d parameters in %s", p.Cost.Vectors, wording.Plural(len(p.Vectors), "whole vector"))
	f.add("entries", "%d single parameters in %d tensors", p.Cost.Unstructured, len(p.Entries))
	if p.Cost.CountedOnly > 0 {
		f.add("counted only", "%d entries of norms: part of the cost, as in the published code, but not tuned", p.Cost.CountedOnly)
	}
	f.add("class token", "%d parameters", p.Cost.ClassToken)
}

// planModules describes the structured modules of a plan.
func planModules(p *plan.Plan) string {
	if p.Only == plan.Unstructured {
		return "none: the plan selects single entries and vectors only"
	}
	return fmt.Sprintf("%d parameters in %s modules of %s on %s", p.Cost.Structured, printable(p.Module), wording.Rank(p.Rank, p.Ranks), wording.Matrices(len(p.Matrices)))
}

func deltaFacts(f *facts, d *inspect.Delta) {
	f.add("delta", "%s: %d tuned parameters, %s of the backbone, and a head of %d parameters", printable(d.Method), d.Parameters, share(d.Parameters, d.Config), d.Head)
	f.addObjective(d.Objective)
	f.add("tuned on", "%s: %s", d.Backbone, describeConfig(d.Config))
	f.add("fingerprint", "%s", d.Backbone.Fingerprint)
	f.add("pixels", "%s; resize %s", describePreprocessing(d.Preprocessing), d.Transform.Resize)
	f.add("classes", "%s", list(d.Classes))
	if d.Plan != nil {
		f.add("budget", "%d parameters; the plan uses %d", d.Plan.Budget, d.Plan.Cost.Total)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Metrics)) {
		f.add("metric", "%s %.4f", printable(name), d.Metrics[name])
	}
}

func runFacts(f *facts, r *inspect.Run, dir string) {
	c := r.Config
	verb, chosen := "tune", describeMethod(c.Tune)
	if s := c.Train; s != nil {
		verb, chosen = "train", describeMethod(run.TuneOptions{Method: s.Method, Options: s.Options, Train: s.Train})
	}
	f.add("started", "%s, by spt %s %s", c.Started.Format("2006-01-02 15:04:05 MST"), printable(c.Spt), verb)
	commit := ""
	if c.Model.Commit != "" {
		commit = ", commit " + printable(c.Model.Commit)
	}
	f.add("backbone", "%s%s", printable(c.Model.Path), commit)
	if c.Data.Task != "" {
		f.add("task", "%s", printable(c.Data.Task))
	}
	if commit = ""; c.Data.Commit != "" {
		commit = ", commit " + printable(c.Data.Commit)
	}
	f.add("data", "%s%s (%s), %d classes; images: %d train, %d val, %d test; splits: %s", printable(c.Data.Path), commit, printable(c.Data.Layout), c.Data.Classes, c.Data.Train, c.Data.Val, c.Data.Test, printable(c.Data.Split))
	f.addObjective(c.Objective)
	if c.Folds.Number > 0 {
		f.add("method", "%s", printable(string(c.Tune.Method)))
		f.add("folds", "%d", c.Folds.Number)
		if r.Folds == nil {
			f.add("state", "unfinished; to continue: %s", shell.Command("spt", verb, "--resume", dir))
			return
		}
		f.add("state", "finished")
		foldsFacts(f, r.Folds)
		return
	}
	f.add("method", "%s", printable(chosen))
	if c.Tune.ValidationOnly {
		f.add("final training", "none: the run only validates its candidates")
	} else {
		f.add("final training", "%s done", wording.Plural(len(r.Epochs), "epoch"))
	}
	if r.Result == nil {
		f.add("state", "unfinished; to continue: %s", shell.Command("spt", verb, "--resume", dir))
		return
	}
	f.add("state", "finished")
	if c.Tune.ValidationOnly {
		f.add("best candidate", "%s, learning rate %g, %s", cmp.Or(printable(r.Result.Budget.String()), printable(string(r.Result.Method))), r.Result.LR, wording.Plural(r.Result.Counts.Tuned(), "parameter"))
	}
	resultFacts(f, r.Result)
}

// foldsFacts adds the result of a cross-validation.
func foldsFacts(f *facts, r *run.FoldsResult) {
	for _, fold := range r.Folds {
		f.add(printable(fold.Folder), "test accuracy %s of %s", wording.Percent(fold.Accuracy), wording.Plural(fold.Test, "image"))
	}
	f.add("accuracy", "%s: mean of the folds ± standard deviation", spread(r.Accuracy))
	if m := r.Metrics; m != nil {
		f.add("all folds together", "%s of %s", wording.Percent(m.Top1), wording.Plural(m.Images, "image"))
	}
}

func resultFacts(f *facts, r *run.Result) {
	if r.Val != nil {
		f.add("validation "+objective.ScoreName(r.Objective), "%s", wording.Percent(*r.Val))
	}
	if r.Test != nil {
		f.add("test "+objective.ScoreName(r.Objective), "%s", wording.Percent(r.Test.Accuracy))
	}
}
