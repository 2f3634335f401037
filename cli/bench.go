package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
)

func benchCommand(a *app) *cobra.Command {
	var weights run.ModelConfig
	var planPath string
	var names []string
	for _, m := range bench.Methods() {
		names = append(names, string(m))
	}
	o := bench.Options{Name: "tiny", Method: bench.Method(method.SPTLoRA)}
	classes := 100
	var so bench.SuiteOptions
	var suite bool
	var device, out, only string
	cmd := &cobra.Command{
		Use: "bench [flags]", Short: "Measure how fast this machine tunes, and how far from its limit",
		Long: `Measures this machine's multiply-add peak, its memory's bandwidth and matrix
products of the backbone's shapes, and times steps of a method on a backbone: images
per second, their share of what the peak allows, and the memory taken. Images
are noise; so are weights and scores where none are given, always the same.

--suite does another thing, for GPUs: in eight minutes it holds what a device
computes against the processor, measures its matrix products and memory, steps of
several methods and precisions and a whole task, runs PyTorch beside them if it is
there, and leaves the report in two files, JSON and Markdown. It needs nothing but
this program; what fails or does not fit is said at the end.`,
		Example: `  spt bench
  spt bench --model base --method lora --batch 8 --json
  spt bench --device cuda --suite
  spt bench --weights vit_tiny.safetensors --plan plan.json --gemm=false`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	fs.Var((*benchModelFlag)(&o.Name), "model", "the backbone's `SIZE`, made-up weights at 224 px: "+strings.Join(bench.Sizes(), ", "))
	fs.Var((*modelFlag)(&weights.Path), "weights", "instead of made-up weights: a checkpoint `FILE` or its folder, hf:OWNER/NAME, or 'demo'")
	fs.StringVar((*string)(&o.Method), "method", string(o.Method), "what a step does: "+strings.Join(names, ", ")+"; the last two are prediction and stage 1")
	fs.Var((*budgetFlag)(&o.Budget), "budget", "parameters to tune, such as 0.4M, 400k or 0.5% (default for SPT 0.4M, 0.2M for a tiny ViT; for lora and adapter rank 8)")
	fs.StringVar(&planPath, "plan", "", "instead of a plan from made-up scores: a `FILE` of 'spt plan' or a published selection")
	fs.IntVar(&o.Batch, "batch", 8, "images in a step")
	fs.IntVar(&o.Steps, "steps", 5, "steps to time, after one more; the median counts")
	fs.IntVar(&classes, "classes", 100, "classes of the head")
	fs.BoolVar(&o.GEMM, "gemm", true, "measure matrix products too")
	fs.BoolVar(&o.Breakdown, "breakdown", false, "say what the time of a step goes to")
	fs.BoolVar(&suite, "suite", false, "check and measure a device as a whole; by default a base ViT in batches of 64")
	fs.StringVar(&device, "device", "", "with --suite: auto, cpu, cuda, cuda:N or xla:PLUGIN (default auto, the best there is)")
	fs.StringVar(&out, "out", "spt-suite", "with --suite: `NAME` of the report's files, NAME.json and NAME.md")
	fs.StringVar(&so.Python, "python", "", "with --suite: a Python with PyTorch, 'none' for none (default python3 if it has it)")
	fs.StringVar(&only, "only", "", "with --suite: only the items that match this `REGEXP`, such as 'timing lora'")
	fs.IntVar(&so.Epochs, "epochs", 100, "with --suite: epochs of the whole task")
	fs.DurationVar(&so.Within, "within", 8*time.Minute, "with --suite: time that it may take; what does not fit is skipped")
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		for _, name := range []string{"device", "out", "only", "python", "epochs", "within"} {
			if !suite && cmd.Flags().Changed(name) {
				return &run.OptionError{Err: fmt.Errorf("--%s belongs to --suite; without it bench measures the processor", name)}
			}
		}
		if suite {
			for _, name := range []string{"weights", "method", "budget", "plan", "steps", "classes", "gemm", "breakdown"} {
				if cmd.Flags().Changed(name) {
					return &run.OptionError{Err: fmt.Errorf("--suite measures a fixed list on made-up weights; leave --%s out", name)}
				}
			}
			so.Name, so.Batch = "base", 64
			if cmd.Flags().Changed("model") {
				so.Name = o.Name
			}
			if cmd.Flags().Changed("batch") {
				so.Batch = o.Batch
			}
			so.Compute.Device = device
			if only != "" {
				re, err := regexp.Compile(only)
				if err != nil {
					return &run.OptionError{Err: fmt.Errorf("--only: %w", err)}
				}
				so.Only = re
			}
			return a.benchSuite(ctx, so, out)
		}
		if err := o.Method.Validate(); err != nil {
			return err
		}
		m, err := a.benchModel(ctx, cmd, weights, classes, &o)
		if err != nil {
			return err
		}
		if err := benchSelection(ctx, cmd, m.Config, planPath, &o); err != nil {
			return err
		}
		progress := a.progress()
		defer progress.close()
		o.Progress = func(done, total int) {
			progress.event(spt.Event{Stage: "steps", Done: done, Total: total})
		}
		r, err := bench.Run(ctx, m, o)
		progress.close()
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

// benchModelFlag is one of bench.Sizes. Like the other verbs' --model it names
// the backbone, hence the type.
type benchModelFlag string

func (m *benchModelFlag) String() string { return string(*m) }
func (m *benchModelFlag) Type() string   { return "path" }
func (m *benchModelFlag) Set(s string) error {
	if !slices.Contains(bench.Sizes(), s) {
		return fmt.Errorf("expected %s; a checkpoint is given by --weights FILE", strings.Join(bench.Sizes(), ", "))
	}
	*m = benchModelFlag(s)
	return nil
}

// benchModel makes or loads the backbone and names it in o.
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
		return nil, &run.OptionError{Err: fmt.Errorf("--model %s contradicts --weights %s, which is a %s; leave one out", o.Name, weights.Path, describeConfig(c))}
	}
	o.Name = modelName(m)
	return m, nil
}

// benchSelection sets what o tunes: by the plan, or what its method and budget
// come to.
func benchSelection(ctx context.Context, cmd *cobra.Command, c backbone.Config, planPath string, o *bench.Options) (err error) {
	if planPath == "" {
		if o.Budget == "" && method.Method(o.Method).Scores() {
			o.Budget = bench.DefaultBudget(c)
		}
		o.Selection, err = bench.Select(ctx, c, o.Method, o.Budget)
		return err
	}
	p, _, err := spt.LoadPlan(planPath)
	if err != nil {
		return err
	}
	chosen := bench.Method(method.PlanMethod(p))
	if cmd.Flags().Changed("method") && o.Method != chosen && o.Method != bench.Forward || o.Budget != "" {
		return &run.OptionError{Err: fmt.Errorf("the plan %s says what is tuned (%s, %d parameters); leave out --budget, and --method but for %s", planPath, chosen, p.Cost.Total, bench.Forward)}
	}
	if o.Method != bench.Forward {
		o.Method = chosen
	}
	o.Budget = fmt.Sprint(p.Budget)
	o.Selection, err = bench.SelectPlan(c, p)
	return err
}

// writeBench writes the report for people.
func (a *app) writeBench(r *bench.Report, c backbone.Config, s peft.Selection) error {
	cpu := r.Machine.CPU
	if cpu == "" {
		cpu = "unknown processor"
	}
	var f facts
	f.add("machine", "%s, %s, %s, kernel %s", cpu, r.Machine.Arch, plural(r.Machine.Threads, "thread"), r.Machine.Kernel)
	f.add("FMA peak", "%.0f GFLOPS", r.PeakGFLOPS)
	f.add("memory", "%.1f GB/s", r.BandwidthGB)
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
	if r.Budget != "" {
		chosen += ", budget " + r.Budget
	}
	f.add("method", "%s", chosen)
	entries := 0
	for _, e := range s.Entries {
		entries += len(e)
	}
	f.add("tuned", "%d parameters besides the head: %s, %s whole, %d entries", r.TunedParams, plural(len(s.Structured), "module"), plural(len(s.Whole), "tensor"), entries)
	f.add("step", "%.4g s for %s, median of %d", r.SecondsPerStep, plural(r.Batch, "image"), r.Steps)
	f.add("speed", "%.2f images/s, %.0f%% of the %.2f that %.2f GFLOP an image allow", r.ImgPerS, 100*r.LimitFraction, r.LimitImgPerS, r.GFLOPPerImage)
	f.add("held", "%.1f MB of weights, %.1f MB of them packed once more, %.1f MB of activations, %.1f MB of optimizer state", r.WeightsMB, r.PackedMB, r.ActivationsMB, r.OptimizerMB)
	if r.PeakRSSMB > 0 {
		f.add("peak memory", "%.0f MB resident", r.PeakRSSMB)
	}
	return a.write(text + f.String() + breakdown(r))
}

// breakdown is a table of a step's time by kind, and of its longest parts.
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
		fmt.Fprintln(w, "of a step\tms\tshare")
		for _, k := range order {
			fmt.Fprintf(w, "%s\t%.1f\t%.1f%%\n", k, 1000*kinds[k], share(kinds[k]))
		}
		fmt.Fprintf(w, "between operations\t%.1f\t%.1f%%\n", 1000*rest, share(rest))
	}) + "\n" + table(func(w io.Writer) {
		fmt.Fprintln(w, "longest\tcalls\tms\tshare\twhat")
		for _, p := range r.Breakdown[:min(len(r.Breakdown), 24)] {
			fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.1f%%\t%s\n", p.Kind, p.Calls, 1000*p.Seconds, share(p.Seconds), p.Detail)
		}
	})
}
