package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/report"
)

// demoNext is the text that demo prints after the table. It has the number of training images of
// each class.
const demoNext = `
Each method trained once on %d images of each class; the table shows its last
epoch. More epochs and the other methods and tasks: spt demo --help
Your own images, with a pretrained ViT from a safetensors file:
  spt tune --model vit.safetensors --data DIR
What SPT tuned, block by block: spt tune … --explain, or spt plan --explain
`

func demoCommand(a *app) *cobra.Command {
	flags := a.newOptions()
	cmd := &cobra.Command{
		Use: "demo [flags]", Short: "Compare the methods on a synthetic task; needs no files",
		Long: `Tunes the embedded backbone, a small pretrained ViT, on a synthetic task with one method after
the other, and compares accuracy, tuned parameters and time. The command needs no files. It
leaves a page with the curves, the mistakes and the tuned parameters of each method.`,
		Example: "  spt demo --task silhouettes --method linear,spt-lora",
		Args:    noArguments,
	}
	addFlags(cmd, flags)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		o := flags.demo
		o.Compute = flags.config.Compute
		m, err := embedded.Model(0)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.notes(), "%s, embedded in this program; task %q\n", describeConfig(m.Config), o.Task)
		p := a.reporter()
		defer p.close()
		rows, err := demo.Run(ctx, o, func(m method.Method, e progress.Event) {
			p.label = string(m)
			p.event(e)
		})
		p.close()
		if err != nil {
			return err
		}
		page := ""
		if !flags.noReport {
			if page, err = a.leaveDemo(ctx, rows, o, flags.out); err != nil {
				return err
			}
		}
		if a.json {
			return a.writeJSON(struct {
				Task       string      `json:"task"`
				Epochs     int         `json:"epochs"`
				Budget     plan.Budget `json:"budget"`
				Seed       uint64      `json:"seed"`
				Parameters int         `json:"backbone_parameters"`
				Rows       []demo.Row  `json:"rows"`
				Report     string      `json:"report,omitempty"`
			}{o.Task, o.Epochs, o.Budget, o.Seed, m.Config.Size(), rows, page})
		}
		text := table(func(w io.Writer) {
			fmt.Fprintln(w, "method\ttuned parameters\tof backbone\tvalidation accuracy\ttest accuracy\tseconds")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%.1f\n", r.Method, r.Counts.Tuned(), share(r.Counts.Tuned(), m.Config), wording.Percent(r.ValAccuracy), wording.Percent(r.TestAccuracy), r.Seconds)
			}
		})
		if page != "" {
			text += "\n" + reportFact(page).String()
		}
		return a.write(text + fmt.Sprintf(demoNext, demo.TrainPerClass))
	})
	return cmd
}

// leaveDemo writes the page of the demo to path. It returns the path, or "" if the page could not
// be written.
func (a *app) leaveDemo(ctx context.Context, rows []demo.Row, o demo.Options, path string) (string, error) {
	page := &report.Page{Title: "spt demo: " + o.Task}
	for _, row := range rows {
		page.Runs = append(page.Runs, row.Run)
	}
	return a.reportWritten(ctx, path, page.WriteFile(path), "spt demo")
}
