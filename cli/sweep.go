package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/report"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sweep"
)

// sweepOptions holds the values of the flags of 'spt sweep' and 'spt table'.
type sweepOptions struct {
	index, of, workers, workerOf, attempts int
	list, engine                           string
	where                                  sweep.Filter
	submit                                 sweep.SubmitOptions
	table                                  sweep.TableOptions
	format                                 string
}

// whereFlags returns the flags --where.
func (s *sweepOptions) whereFlags() (flags []string) {
	for _, condition := range s.where.Conditions() {
		flags = append(flags, "--where", condition)
	}
	return flags
}

func sweepCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "sweep", Short: "Run many runs: tasks, methods, budgets and seeds",
		Long: `Runs the runs of a specification: a YAML file that lists data sets, backbones, methods,
budgets and seeds, and settings to choose on validation data. 'spt sweep plan' makes the jobs,
'spt sweep run' runs them on this machine and 'spt sweep submit' on a cluster. Any number of
processes can run the jobs of one folder at the same time. A stopped job is resumed.
'spt sweep status' tells how far the jobs are, 'spt sweep collect' writes their results as
CSV, and 'spt table' makes tables of means and standard deviations.`,
		Example: `  spt sweep plan methods.yaml --out methods
  spt sweep run methods
  spt table methods --baseline linear`,
		Args: noSuchCommand,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	for _, verb := range []func(*app) *cobra.Command{sweepPlanCommand, sweepRunCommand, sweepSubmitCommand, sweepStatusCommand, sweepCollectCommand} {
		c := verb(a)
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func sweepPlanCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Annotations: under("sweep"),
		Use:         "plan SPEC --out DIR", Short: "Make the jobs of a specification",
		Long: `Reads a specification and makes its jobs: one line of DIR/jobs.jsonl for each run. The command
opens every data set and every backbone and checks the options of every run, so that errors
appear before anything runs. It computes nothing on images.

If DIR holds the jobs of an earlier form of the specification, the command adds the new jobs.
The results of jobs that are in both stay.`,
		Example: `  spt sweep plan methods.yaml --out methods`,
		Args:    arguments(1, 1, "one specification"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if o.out == "" {
			return refuse("no sweep folder given; give one with --out DIR")
		}
		spec, err := sweep.ReadSpec(args[0])
		if err != nil {
			return err
		}
		p := a.reporter()
		defer p.close()
		jobs, err := sweep.Make(ctx, spec, p.event)
		p.close()
		if err != nil {
			return err
		}
		saved, err := sweep.Folder(o.out).Save(jobs)
		if err != nil {
			return err
		}
		selections := 0
		for _, j := range jobs.All {
			if j.Stage == sweep.Select {
				selections++
			}
		}
		if a.json {
			return a.writeJSON(struct {
				Folder  string   `json:"folder"`
				Jobs    int      `json:"jobs"`
				Select  int      `json:"select_jobs"`
				Final   int      `json:"final_jobs"`
				New     int      `json:"new_jobs"`
				Done    int      `json:"done"`
				Removed int      `json:"removed_jobs"`
				Missing []string `json:"missing,omitempty"`
			}{o.out, saved.Jobs, selections, saved.Jobs - selections, saved.New, saved.Done, saved.Removed, jobs.Missing})
		}
		var f facts
		if selections > 0 {
			f.add("jobs", "%d: %d to choose settings on validation data, %d final", saved.Jobs, selections, saved.Jobs-selections)
		} else {
			f.add("jobs", "%d", saved.Jobs)
		}
		if saved.New < saved.Jobs {
			f.add("new", "%d", saved.New)
		}
		f.add("done", "%d", saved.Done)
		if saved.Removed > 0 {
			f.add("removed", "%d that the specification no longer has; their runs stay in the folder", saved.Removed)
		}
		if len(jobs.Missing) > 0 {
			f.add("missing", "%s of suite %s: %s", wording.Plural(len(jobs.Missing), "data set"), spec.Suite, comma(jobs.Missing))
		}
		f.add("next", "%s", shell.Command("spt", "sweep", "run", o.out))
		return a.write(f.String())
	})
	return cmd
}

func sweepRunCommand(a *app) *cobra.Command {
	o := a.newOptions()
	s := &o.sweep
	cmd := &cobra.Command{
		Annotations: under("sweep"),
		Use:         "run DIR [flags]", Short: "Run the jobs of a sweep folder on this machine",
		Long: `Runs the jobs of a sweep folder that are not done. Several commands can run the jobs of one
folder at the same time, also on different machines: each job is run by one of them.

An interrupted command saves the state of its job. A job that was interrupted or killed, or
that failed for a reason that may pass (exit code 1), is resumed, at most --attempts times. An
interrupt that saved the state does not count. A job with wrong options or bad inputs (exit
codes 2 and 3), or whose loss is no number, is not run again. A job that fails stops no other
job. The command ends with exit code 3 if a job failed.`,
		Example: `  spt sweep run methods
  spt sweep run methods --workers 2
  spt sweep run methods --where method=lora --where seed=0
  spt sweep run methods --index 0 --of 4`,
		Args: arguments(1, 1, "one sweep folder"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if s.workers > 1 {
			return a.sweepWorkers(ctx, args[0], *s)
		}
		return a.sweepRun(ctx, args[0], *s)
	})
	return cmd
}

// sweepRun runs the jobs of a sweep folder in this process.
func (a *app) sweepRun(ctx context.Context, dir string, s sweepOptions) error {
	o := sweep.Options{Index: s.index, Of: s.of, List: s.list, Where: s.where, Attempts: s.attempts}
	if s.workerOf > 0 {
		// A worker ends when its parent ends or closes the pipe.
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
		o.Processes = s.workerOf
	}
	p := a.reporter()
	defer p.close()
	// The lines of each epoch would hide the lines of the jobs.
	o.Progress = a.watch(func(e progress.Event) {
		if e.Stage == progress.Note || a.terminal && s.workerOf == 0 {
			p.event(e)
		}
	})
	line := func(t sweep.Turn, format string, args ...any) {
		if !a.quiet {
			p.close()
			fmt.Fprintf(a.stderr, "job %d of %d, %s, %s: %s\n", t.Number, t.Of, t.ID, printable(t.String()), fmt.Sprintf(format, args...))
		}
	}
	o.Started = func(t sweep.Turn) { line(t, "begins") }
	o.Ended = func(t sweep.Turn, r *run.Result, err error) {
		switch {
		case err != nil:
			line(t, "failed: %s", printable(err.Error()))
		case r.Test != nil:
			line(t, "test %s %s, %s", objective.ScoreName(r.Objective), wording.Percent(r.Test.Accuracy), wording.Seconds(r.Seconds))
		case r.Val != nil:
			line(t, "validation %s %s, %s", objective.ScoreName(r.Objective), wording.Percent(*r.Val), wording.Seconds(r.Seconds))
		default:
			line(t, "done, %s", wording.Seconds(r.Seconds))
		}
	}
	// Without jobs there is nothing to continue.
	if _, err := os.Stat(filepath.Join(dir, sweep.JobsFile)); err == nil {
		a.resumeWith(append([]string{"spt", "sweep", "run", dir}, s.whereFlags()...)...)
	}
	sum, err := sweep.Folder(dir).Run(ctx, o)
	p.close()
	if err != nil {
		return err
	}
	if s.workerOf > 0 {
		return nil
	}
	return a.sweepEnd(dir, sum.Done, sum.Failed)
}

// sweepEnd prints how many jobs are done. Failed jobs are an error.
func (a *app) sweepEnd(dir string, done, failed int) error {
	a.resume.Store(nil) // the jobs that are left would fail again
	if a.json {
		err := a.writeJSON(struct {
			Done   int `json:"done"`
			Failed int `json:"failed"`
		}{done, failed})
		if err != nil {
			return err
		}
	} else {
		var f facts
		f.add("done", "%s", wording.Plural(done, "job"))
		f.add("next", "%s", shell.Command("spt", "table", dir))
		if err := a.write(f.String()); err != nil {
			return err
		}
	}
	if failed > 0 {
		return &run.InputError{Err: fmt.Errorf("%s failed; '%s' tells why", wording.Plural(failed, "job"), shell.Command("spt", "sweep", "status", dir))}
	}
	return nil
}

// sweepWorkers runs the jobs of a sweep folder in several processes of this program, which share
// the cores and the memory for images.
func (a *app) sweepWorkers(ctx context.Context, dir string, s sweepOptions) error {
	if _, err := sweep.Folder(dir).Jobs(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting workers: %w", err)
	}
	args := []string{"sweep", "run", dir, "--worker-of", strconv.Itoa(s.workers), "--attempts", strconv.Itoa(s.attempts)}
	if s.of > 0 {
		args = append(args, "--index", strconv.Itoa(s.index), "--of", strconv.Itoa(s.of))
	}
	if s.list != "" {
		args = append(args, "--list", s.list)
	}
	args = append(args, s.whereFlags()...)
	if a.quiet {
		args = append(args, "--quiet")
	}
	a.resumeWith(append([]string{"spt", "sweep", "run", dir, "--workers", strconv.Itoa(s.workers)}, s.whereFlags()...)...)
	a.training.Store(true) // an interrupted worker may save a state
	errs := make([]error, s.workers)
	var all sync.WaitGroup
	for i := range s.workers {
		// The cores that do not divide evenly go to the first workers.
		cores := max(1, (runtime.GOMAXPROCS(0)+s.workers-1-i)/s.workers)
		all.Go(func() { errs[i] = a.sweepWorker(ctx, self, args, cores) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	status, err := sweep.Folder(dir).Status(s.attempts, s.where)
	if err != nil {
		return err
	}
	return a.sweepEnd(dir, status.Done, status.Failed+status.Blocked)
}

// maxRestarts limits how often a worker that died is started again. Each death counts as an attempt
// of the job that the worker ran.
const maxRestarts = 1000

// sweepWorker runs a worker process until it ends by itself. If the system kills the process, for
// example because memory is short, sweepWorker starts it again.
func (a *app) sweepWorker(ctx context.Context, self string, args []string, cores int) error {
	for range maxRestarts {
		c := exec.Command(self, args...)
		c.Stderr = a.stderr
		c.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(cores))
		// The worker ends when the pipe is closed: by us, or because this process has died.
		pipe, err := c.StdinPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			return fmt.Errorf("starting a worker: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { _ = pipe.Close() })
		err = c.Wait()
		stop()
		if ctx.Err() != nil {
			return nil // the caller reports the interrupt
		}
		code := c.ProcessState.ExitCode()
		switch {
		case err == nil:
			return nil
		case code == run.ExitUsage || code == run.ExitInput || code == run.ExitFailed:
			return fmt.Errorf("a worker failed with exit code %d; its message is above", code)
		}
		a.message("a worker ended with %s; starting it again", strings.TrimPrefix(c.ProcessState.String(), "signal: "))
	}
	return fmt.Errorf("a worker was killed %d times", maxRestarts)
}

func sweepStatusCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Annotations: under("sweep"),
		Use:         "status DIR [flags]", Short: "Tell how far the jobs of a sweep folder are",
		Long: `Prints how many jobs of a sweep folder are done, running, interrupted, failed, blocked by a
failed job, and open, and names each failure with the last line of its error. The command
reads files only, so it works while jobs run, on any machine that sees the folder.`,
		Example: `  spt sweep status methods`,
		Args:    arguments(1, 1, "one sweep folder"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(_ context.Context, args []string) error {
		s, err := sweep.Folder(args[0]).Status(o.sweep.attempts, o.sweep.where)
		if err != nil {
			return err
		}
		if a.json {
			return a.writeJSON(s)
		}
		var f facts
		for _, line := range []struct {
			name string
			n    int
		}{{"jobs", s.Jobs}, {"done", s.Done}, {"running", s.Running}, {"interrupted", s.Interrupted}, {"failed", s.Failed}, {"blocked", s.Blocked}, {"open", s.Open}} {
			f.add(line.name, "%d", line.n)
		}
		text := f.String()
		if len(s.Failures) > 0 {
			text += "\n" + table(func(w io.Writer) {
				fmt.Fprintln(w, "failed job\trun\tattempts\texit code\terror")
				for _, failure := range s.Failures {
					code := strconv.Itoa(failure.Code)
					if failure.Code == 0 {
						code = "killed"
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", failure.ID, printable(failure.Job), failure.Attempts, code, printable(failure.Error))
				}
			})
		}
		return a.write(text)
	})
	return cmd
}

func sweepCollectCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Annotations: under("sweep"),
		Use:         "collect DIR [--out FILE]", Short: "Write the results of a sweep as CSV",
		Long: `Writes the results of the final jobs of a sweep folder as CSV: a line for each run, with its
task, method, budget, chosen settings, seed, accuracies, actual number of tuned parameters and
training time. Accuracies are shares from 0 to 1. 'spt table' reads the file.`,
		Example: `  spt sweep collect methods --out methods.csv`,
		Args:    arguments(1, 1, "one sweep folder"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		rows, missing, err := sweep.Folder(args[0]).Collect()
		if err != nil {
			return err
		}
		if missing > 0 {
			a.message("%s no result yet", has(missing, "final job"))
		}
		if len(rows) > 0 && !o.noReport {
			page := &report.Page{Title: "Sweep " + baseOf(args[0]), Missing: missing}
			path := filepath.Join(args[0], run.ReportFile)
			if page.Sweep, err = sweep.NewTable(rows, sweep.TableOptions{}); err == nil {
				err = page.WriteFile(path)
			}
			if path, err = a.reportWritten(ctx, path, err, "spt report "+args[0]); err != nil {
				return err
			}
			if path != "" {
				a.message("report: %s", path)
			}
		}
		if a.json {
			return a.writeJSON(rows)
		}
		var b strings.Builder
		if err := sweep.WriteCSV(&b, rows); err != nil {
			return err
		}
		return a.writeOut(o.out, b.String())
	})
	return cmd
}

// writeOut writes a text to the file at path, or to standard output if path is empty.
func (a *app) writeOut(path, text string) error {
	if path != "" {
		return atomicfile.WriteBytes(path, []byte(text))
	}
	return a.write(text)
}

// has returns a number with its noun and the verb: "1 job has", "2 jobs have".
func has(n int, thing string) string {
	if n == 1 {
		return "1 " + thing + " has"
	}
	return wording.Plural(n, thing) + " have"
}

func tableCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Use: "table {DIR | FILE.csv}... [flags]", Short: "Make a table of the results of sweeps",
		Long: `Makes a table from the results of sweep folders, or from CSV files of 'spt sweep collect'. The
table has a line for each method and budget and a column for each task. A cell is the mean
accuracy over seeds, with the standard deviation if there are several seeds. "tuned" is the
mean of the actual numbers of tuned parameters, without the head. Means over tasks appear only
if every task has a result; their deviations are those of the mean, sqrt(Σ sd²)/n.

With --baseline a second table compares each method with the baseline, run by run: the mean
difference on equal tasks and seeds, with its standard error over the pairs and over the means of
the seeds.`,
		Example: `  spt table methods --baseline linear
  spt table docs/results/methods.csv --format markdown
  spt table methods --where budget=0.2M`,
		Args: arguments(1, -1, "sweep folders or CSV files"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(_ context.Context, args []string) error {
		var rows []sweep.Row
		for _, path := range args {
			more, err := a.rowsOf(path)
			if err != nil {
				return err
			}
			rows = append(rows, more...)
		}
		o.sweep.table.Where = o.sweep.where
		t, err := sweep.NewTable(rows, o.sweep.table)
		if err != nil {
			return err
		}
		format := sweep.Format(o.sweep.format)
		if a.json {
			format = "json"
		}
		var b strings.Builder
		if err := t.Write(&b, format); err != nil {
			return err
		}
		return a.writeOut(o.out, b.String())
	})
	return cmd
}

// rowsOf reads the results of a sweep folder or of a CSV file.
func (a *app) rowsOf(path string) ([]sweep.Row, error) {
	if stat, err := os.Stat(path); err == nil && stat.IsDir() {
		rows, missing, err := sweep.Folder(path).Collect()
		if missing > 0 {
			a.message("%s: %s no result yet", path, has(missing, "final job"))
		}
		return rows, err
	}
	return sweep.ReadCSV(path)
}

func sweepSubmitCommand(a *app) *cobra.Command {
	o := a.newOptions()
	s := &o.sweep
	cmd := &cobra.Command{
		Annotations: under("sweep"),
		Use:         "submit DIR --engine ENGINE [flags] [-- SITE OPTIONS]", Short: "Submit the jobs of a sweep folder to a cluster",
		Long: `Submits the jobs of a sweep folder that are not done to a cluster, and returns at once. The
machines of the cluster must see the folder, the data sets and the backbones under the same
paths. 'spt sweep status' tells how far the jobs are. A second submission takes only the jobs
that are not done, do not run and have not failed.

  slurm       one array with sbatch; the site options are options of sbatch. An
              element saves its state two minutes before its time limit and is
              queued again.
  kubernetes  the manifest of an Indexed Job, for Kubernetes 1.29 or later; with
              --apply it is handed to kubectl. The volume claim holds the sweep
              folder and its inputs.
  ray         a Ray job for each element; the site options are fields of the
              request, such as entrypoint_num_gpus=1. Ray runs a job once, and a
              job that waits 15 minutes for CPUs fails: submit again what is
              missing.`,
		Example: `  spt sweep submit methods --engine slurm --concurrency 8 -- --partition=gpu --gres=gpu:1
  spt sweep submit methods --engine kubernetes --image registry/spt:1 --claim work --apply
  spt sweep submit methods --engine ray --address http://head:8265`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				args = args[:dash]
			}
			return arguments(1, 1, "one sweep folder")(cmd, args)
		},
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if s.engine == "" {
			return refuse("no engine given; give one with --engine: %s", or(texts(sweep.Engines())))
		}
		s.submit.Options, s.submit.Attempts, s.submit.Where = args[1:], s.attempts, s.where
		// The path of this program means nothing in the image of a container.
		if s.submit.Program == "" && s.engine != "kubernetes" {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program: %w; give its path with --program", err)
			}
			s.submit.Program = self
		}
		made, err := sweep.Folder(args[0]).Submit(ctx, sweep.Engine(s.engine), s.submit)
		if err != nil {
			return err
		}
		if a.json {
			return a.writeJSON(made)
		}
		var f facts
		if made == nil {
			f.add("submitted", "nothing: every job is done, runs or has failed")
		} else {
			f.add("submitted", "%s in %s", wording.Plural(made.Jobs, "job"), wording.Plural(made.Elements, "element"))
			f.add(s.engine, "%s", list(made.IDs))
			if made.File != "" {
				f.add("file", "%s", made.File)
			}
			f.add("output", "%s", made.Folder)
		}
		f.add("next", "%s", shell.Command("spt", "sweep", "status", args[0]))
		return a.write(f.String())
	})
	return cmd
}
