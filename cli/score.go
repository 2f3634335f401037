package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func scoreCommand(a *app) *cobra.Command {
	o := a.newOptions()
	c, scoring := &o.config, &o.config.Tune.Score
	cmd := &cobra.Command{
		Use: "score --model FILE --data DIR [flags]", Short: "Stage 1: score the weights of a backbone",
		Long: `Scores every weight in the blocks and the final norm of a backbone. The score of a weight tells
how sensitive the loss on the data set is to it: it is the squared gradient, summed over
mini-batches of training images, unless --criterion selects another score. Scoring reads a few
hundred images and changes no weight. 'spt plan' makes any number of plans from the scores.

The loss needs a head. By default it is random, as in the paper. With --probe-head it is that of a
linear probe, as in 'spt tune' with the recipe auto.`,
		Example: "  spt score --model vit_tiny.safetensors --data clothing --out clothing.scores.safetensors",
		Args:    noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if err := takeTask(cmd, &c.Data); err != nil {
			return err
		}
		if err := scoring.Criterion.Validate(); err != nil {
			return &run.OptionError{Option: "criterion", Err: err}
		}
		task, err := a.openTask(ctx, c)
		if err != nil {
			return err
		}
		f := append(taskFacts(task.Model(), task.CheckpointReport(), task.Data()), [2]string{"device", c.Compute.String()})
		f.addObjective(c.Objective)
		fmt.Fprint(a.notes(), f)
		p := a.reporter()
		defer p.close()
		if scoring.Criterion.Images() {
			if err := task.CheckImages(ctx, p.event); err != nil {
				return err
			}
		}
		score := task.Score
		if c.Tune.Probe {
			score = task.ScoreWithProbe
		}
		scores, err := score(ctx, *scoring, p.event)
		if err != nil {
			return err
		}
		p.close()
		if err := scores.Save(o.out); err != nil {
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
				// see dataset.Dataset.Notes
				Notes []string `json:"data_notes,omitempty"`
			}{o.out, scores.Criterion, scores.Images, len(scores.Losses), len(scores.Tensors), scores.MeanLoss(), scores.Backbone, skipped(task.Data()), task.Data().Notes})
		}
		f = nil
		if scores.Criterion.Images() {
			f.add("tensors", "%d, scored on %d images; mean loss %.4f", len(scores.Tensors), scores.Images, scores.MeanLoss())
		} else {
			f.add("tensors", "%d, scored with the criterion %s, which reads no images", len(scores.Tensors), scores.Criterion)
		}
		f.add("scores", "%s, %s", o.out, wording.Bytes(fileSize(o.out)))
		f.add("next", "%s", shell.Command("spt", "plan", "--scores", o.out, "--model", modelArgument(task.Model()), "--budget", spt.DefaultBudget.String()))
		return a.write(f.String())
	})
	return cmd
}
