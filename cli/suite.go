package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/jsonfile"
)

// benchSuite runs the suite. After every item it writes the report to the files name.json and
// name.md. It returns an error if an item failed or a result is wrong.
func (a *app) benchSuite(ctx context.Context, o bench.SuiteOptions, name string) (err error) {
	if o.Backend, err = a.openDevice(&o.Compute); err != nil {
		return err
	}
	o.Progress = func(line string) {
		if !a.quiet {
			fmt.Fprintln(a.stderr, line)
		}
	}
	o.Keep = func(r *bench.SuiteReport) error {
		if err := jsonfile.Write(name+".json", r); err != nil {
			return err
		}
		return atomicfile.WriteBytes(name+".md", []byte(suiteReport(r)))
	}
	r, err := bench.Suite(ctx, o)
	if err != nil {
		return err
	}
	if a.json {
		err = a.writeJSON(r)
	} else {
		err = a.write(suiteReport(r))
	}
	if err == nil && !r.OK() {
		err = fmt.Errorf("checks or items of the suite failed; the report %s.md lists them", name)
	}
	return err
}

// suiteReport returns the report in Markdown.
func suiteReport(r *bench.SuiteReport) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# spt %s on %s\n", r.Spt, r.Device)
	line("%s. Started %s, %.0f s. Default precision %s.\n", r.Description, r.Started.Format("2006-01-02 15:04 MST"), r.Seconds, r.Precision)
	line("| peak | type | |\n|---|---|---|")
	for _, p := range r.Peaks {
		if p.TFLOPS > 0 {
			line("| %s | %s | %.1f TFLOP/s |", p.What, p.DType, p.TFLOPS)
		} else {
			line("| %s | %s | %.0f GB/s |", p.What, p.DType, p.GB)
		}
	}
	line("\n| compared with the processor | precision | relative difference | bound | |\n|---|---|---|---|---|")
	for _, c := range r.Checks {
		verdict := "ok"
		if !c.OK {
			verdict = "WRONG"
		}
		line("| %s | %s | %.2g | %g | %s |", c.What, c.Precision, c.Difference, c.Bound, verdict)
	}
	line("\n| step | precision | batch | img/s | ms | TFLOP/s | of the peak | first step, s |\n|---|---|---|---|---|---|---|---|")
	for _, s := range r.Steps {
		line("| %s | %s | %d | %.1f | %.2f | %.2f | %.0f %% | %.1f |", s.Name, s.Precision, s.Batch, s.ImgPerS, 1000*s.SecondsPerStep, s.TFLOPS, 100*s.PeakFraction, s.WarmUpSeconds)
	}
	if len(r.PyTorch) > 0 {
		line("\nPyTorch, for comparison:\n")
		for _, p := range r.PyTorch {
			line("    %s", p)
		}
	}
	if t := r.Task; t != nil {
		line("\nA whole task, %s: %d images for %d epochs, tested on %d, %.1f s; test accuracy %.1f %% with random weights.\n\n| stage | s | until its first progress event, s |\n|---|---|---|", t.Data, t.Images, t.Epochs, t.Tested, t.Seconds, 100*t.TestAccuracy)
		for _, stage := range t.Stages {
			line("| %s | %.1f | %.1f |", stage.Name, stage.Seconds, stage.First)
		}
	}
	for _, f := range r.Failed {
		line("\nFAILED: %s", f)
	}
	for _, s := range r.Skipped {
		line("\nSkipped: %s", s)
	}
	return b.String()
}
