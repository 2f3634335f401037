package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/plan/published"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

func benchCommand(a *app) *cobra.Command {
	flags := a.newOptions()
	o, so := &flags.bench, &flags.suite
	cmd := &cobra.Command{
		Use: "bench [flags]", Short: "Measure the speed of tuning on this machine",
		Long: `Measures the speed of tuning on this machine: the peak of the processor in multiply-adds, the
bandwidth of the memory, matrix products with the shapes of the backbone, and training steps of
a method. It prints images per second, their share of the limit that the peak sets, and the
memory used. The images are random, and so are the weights without --weights and the scores
without --plan. They are the same in every call.

--suite checks and measures a GPU within the time of --within. It compares the results of the
GPU with the results of the processor. It measures matrix products, memory, steps of several
methods and precisions, and a whole task from scoring to the test. It also runs PyTorch for
comparison, if PyTorch is installed. The report is written to two files, JSON and Markdown,
and lists the items that failed or were skipped.

--scaling measures how time and memory grow with one quantity at a time: steps with the images of
a mini-batch, the tokens, the depth, the classes and the budget; scoring and planning with the
backbone; opening a data set with its images. For each curve it prints a table, and the exponent
b of the power law y = a·x^b that fits the points best. Points that do not fit into the time or
the memory are skipped, with the reason.`,
		Example: `  spt bench
  spt bench --model base --method lora --batch 8 --json
  spt bench --device cuda --suite
  spt bench --scaling --only 'step over'
  spt bench --weights vit_tiny.safetensors --plan plan.json --gemm=false`,
		Args: noArguments,
	}
	addFlags(cmd, flags)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		var only *regexp.Regexp
		if flags.only != "" {
			var err error
			if only, err = regexp.Compile(flags.only); err != nil {
				return refuse("--only: %w", err)
			}
		}
		if flags.runScaling {
			flags.scaling.Only, flags.scaling.Within = only, so.Within
			return a.benchScaling(ctx, flags.scaling)
		}
		if flags.runSuite {
			so.Name, so.Batch = "base", 64
			if cmd.Flags().Changed("model") {
				so.Name = o.Name
			}
			if cmd.Flags().Changed("batch") {
				so.Batch = o.Batch
			}
			so.Only = only
			return a.benchSuite(ctx, *so, flags.out)
		}
		if err := o.Method.Validate(); err != nil {
			return err
		}
		m, err := a.benchModel(ctx, cmd, flags.config.Model, flags.classes, o)
		if err != nil {
			return err
		}
		if err := benchSelection(ctx, cmd, m.Config, flags.plan, o); err != nil {
			return err
		}
		p := a.reporter()
		defer p.close()
		o.Progress = func(done, total int) {
			p.event(progress.Event{Stage: "steps", Done: int64(done), Total: int64(total)})
		}
		r, err := bench.Run(ctx, m, *o)
		p.close()
		if err != nil {
			return err
		}
		if a.json {
			return a.writeJSON(r)
		}
		return a.writeBench(r, m.Config, o.Selection)
	})
	return cmd
}

// benchModel makes a random backbone of the size o.Name, or loads the backbone that weights names
// and sets o.Name to its name.
func (a *app) benchModel(ctx context.Context, cmd *cobra.Command, weights run.ModelConfig, classes int, o *bench.Options) (*backbone.Model, error) {
	size, err := bench.Config(o.Name, classes)
	if err != nil {
		return nil, err
	}
	if weights.Path == "" {
		return bench.Model(size), nil
	}
	m, _, err := a.openModel(ctx, weights, classes)
	if err != nil {
		return nil, err
	}
	c := m.Config
	if cmd.Flags().Changed("model") && !bench.SameSize(c, size) {
		return nil, refuse("--model %s contradicts --weights %s, which is a %s; leave one of them out", o.Name, weights.Path, describeConfig(c))
	}
	o.Name = modelName(m)
	return m, nil
}

// benchSelection sets o.Selection, the parameters to tune. They come from the plan file, or without
// a plan from o.Method and o.Budget.
func benchSelection(ctx context.Context, cmd *cobra.Command, c backbone.Config, planPath string, o *bench.Options) (err error) {
	if planPath == "" {
		if o.Budget.IsZero() && o.Method.Scores() {
			o.Budget = bench.DefaultBudget(c)
		}
		o.Selection, err = bench.Select(ctx, c, o.Method, o.Budget)
		return err
	}
	p, _, err := published.LoadPlan(planPath)
	if err != nil {
		return &run.InputError{Err: err}
	}
	chosen := bench.Method(method.Of(p))
	if cmd.Flags().Changed("method") && o.Method != chosen && o.Method != bench.Forward || !o.Budget.IsZero() {
		return refuse("the plan %s sets the method and the budget (%s, %d parameters); leave out --budget, and --method unless it is %s", planPath, chosen, p.Cost.Total, bench.Forward)
	}
	if o.Method != bench.Forward {
		o.Method = chosen
	}
	o.Budget = plan.MustParseBudget(fmt.Sprint(p.Budget))
	o.Selection, err = bench.SelectPlan(c, p)
	return err
}

// writeBench prints the report.
func (a *app) writeBench(r *bench.Report, c backbone.Config, s peft.Selection) error {
	cpu := r.Machine.CPU
	if cpu == "" {
		cpu = "unknown processor"
	}
	var f facts
	f.add("machine", "%s, %s, %s, kernel %s", cpu, r.Machine.Arch, wording.Plural(r.Machine.Threads, "thread"), r.Machine.Kernel)
	peak := "FMA peak"
	if r.Precision == backend.BF16 {
		peak = "bf16 peak"
	}
	f.add(peak, "%.0f GFLOPS", r.PeakGFLOPS)
	f.add("memory bandwidth", "%.1f GB/s", r.BandwidthGB)
	text := f.String() + "\n"
	if len(r.GEMM) > 0 {
		text += table(func(w io.Writer) {
			fmt.Fprintln(w, "matrix product\tm\tk\tn\tGFLOPS\tof the peak")
			for _, g := range r.GEMM {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.0f\t%.0f%%\n", g.Name, g.M, g.K, g.N, g.GFLOPS, 100*g.GFLOPS/r.PeakGFLOPS)
			}
		}) + "\n"
	}
	f = nil
	f.add("backbone", "%s: %s", r.Model, describeConfig(c))
	chosen := string(r.Method)
	if !r.Budget.IsZero() {
		chosen += ", budget " + r.Budget.String()
	}
	f.add("method", "%s", chosen)
	entries := 0
	for _, e := range s.Entries {
		entries += len(e)
	}
	f.add("tuned", "%d parameters besides the head: %s, %s whole, %d entries", r.TunedParams, wording.Plural(len(s.Structured), "module"), wording.Plural(len(s.Whole), "tensor"), entries)
	f.add("step", "%.4g s for %s, median of %d", r.SecondsPerStep, wording.Plural(r.Batch, "image"), r.Steps)
	f.add("speed", "%.2f images/s, %.0f%% of the limit of %.2f images/s (%.2f GFLOP for each image)", r.ImgPerS, 100*r.LimitFraction, r.LimitImgPerS, r.GFLOPPerImage)
	f.add("memory used", "%.1f MB of weights, %.1f MB of packed copies of them, %.1f MB of activations, %.1f MB of optimizer state", r.WeightsMB, r.PackedMB, r.ActivationsMB, r.OptimizerMB)
	if r.PeakRSSMB > 0 {
		f.add("peak memory", "%.0f MB resident", r.PeakRSSMB)
	}
	return a.write(text + f.String() + breakdown(r))
}

// breakdown returns two tables of the time of a step: one by kinds of operations, one of the
// longest operations. It returns "" if the report has no breakdown.
func breakdown(r *bench.Report) string {
	if len(r.Breakdown) == 0 {
		return ""
	}
	kinds, order, rest := map[string]float64{}, []string(nil), r.SecondsPerStep
	for _, p := range r.Breakdown {
		if kinds[p.Kind] == 0 {
			order = append(order, p.Kind)
		}
		kinds[p.Kind] += p.Seconds
		rest -= p.Seconds
	}
	slices.SortStableFunc(order, func(x, y string) int { return cmp.Compare(kinds[y], kinds[x]) })
	share := func(s float64) float64 { return 100 * s / r.SecondsPerStep }
	return "\n" + table(func(w io.Writer) {
		fmt.Fprintln(w, "part of a step\tms\tshare")
		for _, k := range order {
			fmt.Fprintf(w, "%s\t%.1f\t%.1f%%\n", k, 1000*kinds[k], share(kinds[k]))
		}
		fmt.Fprintf(w, "between operations\t%.1f\t%.1f%%\n", 1000*rest, share(rest))
	}) + "\n" + table(func(w io.Writer) {
		fmt.Fprintln(w, "longest operations\tcalls\tms\tshare\tshapes")
		for _, p := range r.Breakdown[:min(len(r.Breakdown), 24)] {
			fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.1f%%\t%s\n", p.Kind, p.Calls, 1000*p.Seconds, share(p.Seconds), p.Detail)
		}
	})
}
