package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/report"
	"github.com/sptune/spt/run"
)

// tuneFolds is the command tune with --folds: a cross-validation.
func (a *app) tuneFolds(ctx context.Context, o *options, began time.Time) error {
	c := &o.config
	task, err := a.openRun(ctx, c, o.resume)
	if err != nil {
		return err
	}
	f := append(taskFacts(task.Model(), task.CheckpointReport(), task.Data()), [2]string{"device", c.Compute.String()})
	f.addObjective(c.Objective)
	f.addAugmentation(c.Data.Images)
	if c.Tune.Recipe == run.RecipeAuto {
		f.add("method", "%s; each fold chooses its options by its own training and validation images", c.Tune.Method)
	} else {
		f.add("method", "%s", describeMethod(c.Tune))
	}
	sets, err := task.Data().Folds(c.Folds.Number)
	if err != nil {
		return &run.OptionError{Option: "folds", Err: err}
	}
	for i, d := range sets {
		f.add(fmt.Sprintf("fold %d", i+1), "images: %d train, %d val, %d test", len(d.Train), len(d.Val), len(d.Test))
	}
	if notes, known := sets[0].Notes, len(task.Data().Notes); len(notes) > known {
		f.addNotes(notes[known:])
	}
	fmt.Fprint(a.notes(), f)
	if o.dryRun {
		if !a.json {
			return nil
		}
		return a.writeJSON(struct {
			Config run.Config `json:"config"`
		}{*c})
	}
	p := a.reporter()
	defer p.close()
	if err := a.beginTune(ctx, task, o, p); err != nil {
		return err
	}
	c.Tune.Began = began
	result, err := task.TuneFolds(ctx, c.Tune, c.Folds, o.out, p.event)
	p.close()
	if err != nil {
		return err
	}
	page := ""
	if !o.noReport {
		path := filepath.Join(o.out, run.ReportFile)
		made, err := a.foldsPage(ctx, run.Folder(o.out), *c, result)
		if err == nil {
			err = made.WriteFile(path)
		}
		if page, err = a.reportWritten(ctx, path, err, "spt report "+o.out); err != nil {
			return err
		}
	}
	return a.writeFolds(task, *c, o.out, page, result)
}

// foldsPage returns the page about a cross-validation. If its data set cannot be opened, a message
// says so, and the page has no pictures.
func (a *app) foldsPage(ctx context.Context, folder run.Folder, c run.Config, r *run.FoldsResult) (*report.Page, error) {
	page := &report.Page{Title: baseOf(string(folder)), Evaluated: &report.Evaluated{Facts: foldFacts(r)}}
	e := page.Evaluated
	if r.Metrics == nil {
		return nil, fmt.Errorf("the objective %s does not classify images with one label, so there is no page", c.Objective)
	}
	classes, ranked, err := evaluate.LoadRanked(folder.Path(run.PredictionsFile))
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	e.Evaluation = &report.Evaluation{Split: "all", Classes: classes, Images: ranked, Metrics: r.Metrics}
	data, err := c.Data.Open(ctx, nil)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, err
	default:
		a.message("note: no pictures of %s: %v", folder, err)
		return page, nil
	}
	from := report.Sources{Data: data, Workers: c.Data.Images.Workers}
	if e.Data, err = report.NewData(ctx, data, from.Workers); err == nil {
		err = e.Evaluation.AddPictures(ctx, from)
	}
	return page, err
}

// foldFacts returns the facts of the page about a cross-validation.
func foldFacts(r *run.FoldsResult) (list []report.Fact) {
	add := func(name, format string, args ...any) {
		list = append(list, report.Fact{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	add("accuracy of the folds", "%s", spread(r.Accuracy))
	add("balanced accuracy of the folds", "%s", spread(r.BalancedAccuracy))
	for i, f := range r.Folds {
		add(fmt.Sprintf("fold %d", i+1), "%s of %s", wording.Percent(f.Accuracy), wording.Count(f.Test, "image"))
	}
	return list
}

// spread returns a mean and a standard deviation in words.
func spread(s run.Spread) string {
	return fmt.Sprintf("%s ± %.2f points", wording.Percent(s.Mean), 100*s.Deviation)
}

// writeFolds prints the result of a cross-validation. page is the path of the report; it may be
// empty.
func (a *app) writeFolds(task *spt.Task, c run.Config, dir, page string, r *run.FoldsResult) error {
	if a.json {
		return a.writeJSON(struct {
			Run       string           `json:"run"`
			Config    run.Config       `json:"config"`
			Skipped   []skippedImage   `json:"skipped,omitempty"`
			DataNotes []string         `json:"data_notes,omitempty"`
			Page      string           `json:"report,omitempty"`
			Result    *run.FoldsResult `json:"result"`
		}{dir, c, skipped(task.Data()), task.Data().Notes, page, r})
	}
	text := "\n" + table(func(w io.Writer) {
		fmt.Fprintln(w, "fold\timages\taccuracy\tbalanced accuracy\tloss\timage size\tbudget\tlearning rate")
		for _, f := range r.Folds {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%.4f\t%d px\t%s\t%s\n", f.Folder, f.Test, wording.Percent(f.Accuracy), wording.Percent(f.BalancedAccuracy), f.Loss, f.ImageSize, budgetName(f.Budget.String()), textOf(f.LR))
		}
	}) + "\n"
	var f facts
	f.add("accuracy", "%s: mean of the folds ± standard deviation", spread(r.Accuracy))
	if m := r.Metrics; m != nil {
		f.add("balanced accuracy", "%s", spread(r.BalancedAccuracy))
		f.add("macro F1", "%s", spread(r.MacroF1))
		f.add("all folds together", "%s of %s, each tested once", wording.Percent(m.Top1), wording.Plural(m.Images, "image"))
		f.add("95% interval", "%s to %s", wording.Percent(m.Interval.Low), wording.Percent(m.Interval.High))
		f.add("predictions", "%s", filepath.Join(dir, run.PredictionsFile))
	}
	f.add("trained", "in %s", wording.Seconds(r.Seconds))
	if page != "" {
		f = append(f, reportFact(page)...)
	}
	if r.Final == "" {
		f.add("delta", "none: the folds measure; with --final, a last training on all images makes one")
		return a.write(text + f.String())
	}
	final := filepath.Join(dir, r.Final)
	f.add("delta", "%s, %s, trained on all images", final, wording.Bytes(delta.Size(final)))
	f.add("next", "%s", shell.Command("spt", "predict", "--delta", final)+" IMAGE…")
	return a.write(text + f.String())
}
