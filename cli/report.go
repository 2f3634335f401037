package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/report"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sweep"
)

func reportCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Use: "report RUN... [flags]", Short: "Write a page about runs: results, curves, mistakes, what was tuned",
		Long: `Writes one HTML file about runs, which opens in any browser without a network. RUN is a run
folder, also of a run that is going on, or a sweep folder. Of a single run the page shows the
result, the curves of the trainings, the confusion matrix, a table of the classes, the images
that were predicted most wrongly, the reliability of the probabilities, where the budget went,
the data, and the configuration. Several runs are compared side by side; of a sweep the page
shows the table.

The command reads the data set of each run for its pictures. If the data set is not there, the
page has no pictures.

With --tensorboard and --mlflow the command also sends what these places lack of the runs, after
the page. Of a sweep it sends every job that is done.`,
		Example: `  spt report runs/clothing-spt-lora
  spt report runs/clothing-spt-lora runs/clothing-lora --out compared.html
  spt report methods --tensorboard logs`,
		Args: arguments(1, -1, "the folders of runs or of sweeps"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if o.live != "" {
			return a.reportLive(ctx, args, o.live)
		}
		if err := o.tracking.Validate(); err != nil {
			return err
		}
		page := &report.Page{}
		var rows []sweep.Row
		var runs []run.Folder
		for _, dir := range args {
			if isSweep(dir) {
				more, missing, err := sweep.Folder(dir).Collect()
				if err != nil {
					return err
				}
				rows, page.Missing = append(rows, more...), page.Missing+missing
				done, err := sweep.Folder(dir).Done()
				if err != nil {
					return err
				}
				runs = append(runs, done...)
				continue
			}
			r, err := report.Open(dir)
			if err != nil {
				return err
			}
			if len(args) <= report.MaxDetailed {
				if err := a.addImages(ctx, r); err != nil {
					return err
				}
			}
			page.Runs, runs = append(page.Runs, r), append(runs, r.Folder)
		}
		if rows != nil || len(page.Runs) == 0 {
			var err error
			if page.Sweep, err = sweep.NewTable(rows, sweep.TableOptions{}); err != nil {
				return err
			}
			page.Title = "Sweep " + baseOf(args[0])
		}
		out := o.out
		if out == "" {
			out = run.ReportFile
			if len(args) == 1 {
				out = filepath.Join(args[0], run.ReportFile)
			}
		}
		if err := page.WriteFile(out); err != nil {
			return err
		}
		if !a.json { // also if the runs cannot be sent
			if err := a.write(reportFact(out).String()); err != nil {
				return err
			}
		}
		if err := a.sendRuns(ctx, runs, o.tracking); err != nil || !a.json {
			return err
		}
		return a.writeJSON(struct {
			Report string `json:"report"`
			Bytes  int64  `json:"bytes"`
		}{out, fileSize(out)})
	})
	return cmd
}

// reportLive serves the page of a run until the program is interrupted. The run may go on in
// another process.
func (a *app) reportLive(ctx context.Context, args []string, addr string) error {
	if len(args) != 1 || isSweep(args[0]) {
		return refuse("--live serves the page of one run; give one run folder")
	}
	if _, err := report.Open(args[0]); err != nil {
		return err
	}
	page, err := a.serveLive(addr)
	if err != nil {
		return err
	}
	defer page.close("")
	page.follow(ctx, args[0])
	<-ctx.Done()
	return ctx.Err()
}

// reportFact returns the line about a report that was written.
func reportFact(path string) facts {
	return facts{{"report", fmt.Sprintf("%s, %s", printable(path), wording.Bytes(fileSize(path)))}}
}

// isSweep reports whether the folder holds a sweep.
func isSweep(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, sweep.JobsFile))
	return err == nil
}

// baseOf returns the last part of a path, also of ".".
func baseOf(dir string) string {
	if absolute, err := filepath.Abs(dir); err == nil {
		return filepath.Base(absolute)
	}
	return filepath.Base(dir)
}

// addImages opens the data set and the classifier of a run, and adds the pictures of the page. If
// they cannot be opened, a message says so and the page has no pictures.
func (a *app) addImages(ctx context.Context, r *report.Run) error {
	if r.Result == nil {
		return nil // a page of a run that is going on has no pictures
	}
	config := r.Config.Data
	config.NoTrain = true
	d, err := config.Open(ctx)
	if err == nil && config.Samples != "" && d.AsOpened().Fingerprint() != config.Samples {
		err = errors.New("names, labels or sizes of its images differ from those of the run")
	}
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		a.message("note: no pictures of %s: %v", r.Folder, err)
		return nil
	}
	from := report.Sources{Data: d, Workers: config.Images.Workers}
	if explainable(r) {
		p := a.reporter()
		defer p.close()
		from.Progress = p.event
		if from.Classifier, err = a.openClassifier(ctx, r); err != nil {
			if ctx.Err() != nil {
				return err
			}
			a.message("note: the mistakes of %s are not explained: %v", r.Folder, err)
		} else {
			defer from.Classifier.Close()
		}
	}
	return r.AddData(ctx, from)
}

// explainable reports whether a run has wrong predictions, and a delta that can explain them.
func explainable(r *report.Run) bool {
	return r.Evaluation != nil && r.Evaluation.Wrong() > 0 && r.DeltaBytes > 0
}

// openClassifier opens the classifier of a finished run. Close it.
func (a *app) openClassifier(ctx context.Context, r *report.Run) (*spt.Classifier, error) {
	t, err := a.openDelta(ctx, string(r.Folder), run.ModelConfig{})
	if err != nil {
		return nil, err
	}
	compute := r.Config.Compute
	be, err := a.openDevice(&compute)
	if err != nil {
		return nil, err
	}
	return newClassifier(be, t.model.In(compute.Precision, compute.CheckpointActivations), t.delta)
}

// newClassifier returns the classifier of a delta. Close it.
func newClassifier(be backend.Backend, m *backbone.Model, d *delta.Delta) (*spt.Classifier, error) {
	trained, err := spt.Restore(m, d)
	if err != nil {
		return nil, err
	}
	return spt.NewClassifier(be, m, trained, d.Classes, d.ImageTransform())
}

// leaveReport writes the page of a run of the task into its run folder. A failure is a message, not
// an error, because the run has succeeded. It returns the path of the page, or "" without one. A
// deadline limits the time in which predictions are explained; the zero time does not.
func (a *app) leaveReport(ctx context.Context, task *spt.Task, dir string, deadline time.Time) (string, error) {
	path := filepath.Join(dir, run.ReportFile)
	p := a.reporter()
	defer p.close()
	from := report.Sources{Data: task.Data(), Progress: p.event}
	if !deadline.IsZero() {
		from.ExplainTime = max(1, time.Until(deadline))
	}
	r, err := report.Open(dir)
	if err == nil && explainable(r) {
		var d *delta.Delta
		if d, err = delta.Load(dir); err == nil {
			from.Classifier, err = newClassifier(task.Backend(), task.Model(), d)
		}
		if err == nil {
			defer from.Classifier.Close()
		}
	}
	if err == nil {
		err = r.AddData(ctx, from)
	}
	if err == nil {
		err = (&report.Page{Runs: []*report.Run{r}}).WriteFile(path)
	}
	return a.reportWritten(ctx, path, err, "spt report "+dir)
}

// reportWritten turns the failure to write a report into a message. again is the command that
// writes the report later.
func (a *app) reportWritten(ctx context.Context, path string, err error, again string) (string, error) {
	switch {
	case err == nil:
		return path, nil
	case ctx.Err() != nil:
		return "", err
	}
	a.message("the report was not written: %v; '%s' writes it later", err, again)
	return "", nil
}
