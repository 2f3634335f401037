package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/wording"
)

// benchScaling measures how time and memory grow and prints the curves.
func (a *app) benchScaling(ctx context.Context, o bench.ScalingOptions) error {
	o.Progress = func(line string) {
		if !a.quiet {
			fmt.Fprintln(a.stderr, line)
		}
	}
	r, err := bench.Scaling(ctx, o)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(r)
	}
	return a.write(scalingReport(r))
}

// scalingReport returns the report as text: a table for each curve, with the exponents below the
// columns to which they belong.
func scalingReport(r *bench.ScalingReport) string {
	var f facts
	f.add("machine", "%s, %s, %s, kernel %s", cmp.Or(r.Machine.CPU, "unknown processor"), r.Machine.Arch, wording.Plural(r.Machine.Threads, "thread"), r.Machine.Kernel)
	f.add("time", "%.0f s", r.Seconds)
	var b strings.Builder
	b.WriteString(f.String())
	for _, c := range r.Curves {
		fmt.Fprintf(&b, "\n%s: %s\n", c.Name, c.Y)
		if len(c.Points) > 0 {
			b.WriteString(table(func(w io.Writer) {
				fmt.Fprintf(w, "%s\t\ts\tprocessor time, s\tactivations, MB\tpeak memory, MB\n", c.X)
				for _, p := range c.Points {
					fmt.Fprintf(w, "%s\t%s\t%.4g\t%.4g\t%s\t%s\n", quantity(p.X), p.Label, p.Seconds, p.CPUSeconds, megabytes(p.ArenaMB), megabytes(p.PeakMB))
				}
				fmt.Fprintf(w, "exponent\t\t%s\t%s\t%s\t%s\n", exponent(c.Exponent), exponent(c.CPUExponent), exponent(c.ArenaExponent), exponent(c.PeakExponent))
			}))
		}
		for _, s := range c.Skipped {
			fmt.Fprintf(&b, "skipped: %s: %s", cmp.Or(s.Label, quantity(s.X)), s.Reason)
			if s.Option != "" {
				fmt.Fprintf(&b, "; --%s helps", s.Option)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// quantity returns an x of a curve: a share such as 0.25, or a whole number such as 5,526,436.
func quantity(x float64) string {
	if x != float64(int(x)) {
		return fmt.Sprintf("%g", x)
	}
	return wording.Thousands(int(x))
}

// megabytes returns a memory of a point. Zero means that it was not measured.
func megabytes(mb float64) string {
	if mb == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", mb)
}

// exponent returns an exponent of a curve. Nil means that there are too few points.
func exponent(b *float64) string {
	if b == nil {
		return "–"
	}
	return fmt.Sprintf("%.2f", *b)
}
