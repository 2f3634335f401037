package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func scoreCommand(a *app) *cobra.Command {
	var c run.Config
	var o sensitivity.Options
	out := "scores.safetensors"
	cmd := &cobra.Command{
		Use: "score --model FILE --data DIR [flags]", Short: "Stage 1: give every weight of a backbone its sensitivity",
		Long: `Gives every weight of the backbone's blocks and final norm a sensitivity for a
data set: its squared gradient, summed over batches of training images, or what
another --criterion says. One short pass; the result serves any number of plans.`,
		Example: "  spt score --model vit_tiny.safetensors --data clothing --out clothing.scores.safetensors",
		Args:    cobra.NoArgs,
	}
	fs := cmd.Flags()
	modelFlags(fs, &c.Model)
	dataFlags(fs, &c.Data)
	computeFlags(fs, &c.Compute, true)
	fs.StringVar(&out, "out", out, "`FILE` to write, safetensors")
	scoreFlags(fs, &o)
	fs.Uint64Var(&o.Seed, "seed", 0, "seed of the fresh head, of the images' order, and of random scores")
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if err := takeRecipe(cmd, &c.Data); err != nil {
			return err
		}
		if err := o.Criterion.Validate(); err != nil {
			return &run.OptionError{Err: err}
		}
		task, report, err := a.openTask(ctx, &c)
		if err != nil {
			return err
		}
		fmt.Fprint(a.notes(), append(taskFacts(task.Model, report, task.Data), [2]string{"device", c.Compute.String()}))
		p := a.progress()
		defer p.close()
		if o.Criterion.Images() {
			if err := checkImages(ctx, task, p); err != nil {
				return err
			}
		}
		scores, err := task.Score(ctx, o, func(done, total int, loss float64) {
			p.event(spt.Event{Stage: "score", Done: done, Total: total, Loss: loss})
		})
		if err != nil {
			return err
		}
		p.close()
		if err := scores.Save(out); err != nil {
			return err
		}
		if a.json {
			return a.writeJSON(struct {
				Out       string                `json:"out"`
				Criterion sensitivity.Criterion `json:"criterion"`
				Images    int                   `json:"images"`
				Batches   int                   `json:"batches"`
				Tensors   int                   `json:"tensors"`
				MeanLoss  float64               `json:"mean_loss"`
				Backbone  string                `json:"backbone"` // fingerprint
				Skipped   []skippedImage        `json:"skipped,omitempty"`
			}{out, scores.Criterion, scores.Images, len(scores.Losses), len(scores.Tensors), scores.MeanLoss(), scores.Backbone, skipped(task.Data)})
		}
		var f facts
		if scores.Criterion.Images() {
			f.add("scored", "%d tensors on %d images, mean loss %.4f", len(scores.Tensors), scores.Images, scores.MeanLoss())
		} else {
			f.add("scored", "%d tensors by %s, on no images", len(scores.Tensors), scores.Criterion)
		}
		f.add("scores", "%s, %s", out, size(fileSize(out)))
		f.add("next", "%s", command("spt", "plan", "--scores", out, "--model", modelArgument(task.Model), "--budget", spt.DefaultBudget))
		return a.write(f.String())
	})
	return cmd
}
