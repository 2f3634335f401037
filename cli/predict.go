package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
)

func predictCommand(a *app) *cobra.Command {
	o := a.newOptions()
	compute := &o.config.Compute
	cmd := &cobra.Command{
		Use: "predict {--delta DIR | --model FILE} PATH... [flags]", Short: "Predict the classes of images",
		Long: `Predicts the most probable classes of images. PATH is an image, a folder of images, or a table
(` + or(dataset.TableFormats()) + `) with a column of image paths. If PATH is a dash, one path is read from each line
of standard input. The classifier is a delta on its backbone or, without --delta, a checkpoint
with its own head. The command prints one line for each image, with --json one JSON object. A
note lists the files of a folder that are left out. If images cannot be read, the command
predicts all others, lists the unreadable images and then fails with exit code 3, unless
--skip-bad-images is given.`,
		Example: `  spt predict --delta runs/clothing-spt-lora photo.jpg holiday/
  spt predict --delta runs/clothing-spt-lora - < paths.txt
  spt predict --model merged.safetensors --top-k 1 --json photo.jpg`,
		Args: arguments(1, -1, "the paths of images, folders or tables"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		images := &imageList{stdin: cmd.InOrStdin(), column: o.config.Data.ImageColumn}
		for _, arg := range args {
			if err := images.addArgument(ctx, arg); err != nil {
				return err
			}
		}
		if images.column != "" && images.tables == 0 {
			return refuse("--image-column has no effect without a table; leave it out, or give a table: %s", or(dataset.TableFormats()))
		}
		t, err := a.openTuned(ctx, cmd, o.delta, o.config.Model, o.config.Data.Images)
		if err != nil {
			return err
		}
		if r := t.report; r != nil && (r.WeightsKey != "" || len(r.Unused) > 0) {
			fmt.Fprint(a.notes(), facts{{"checkpoint", describeReport(r)}})
		}
		if t.report != nil && !a.quiet {
			for _, note := range t.report.Notes {
				a.message("note: %s", note)
			}
		}
		be, err := a.openDevice(compute)
		if err != nil {
			return err
		}
		c, err := spt.NewClassifier(be, t.model.In(compute.Precision, compute.CheckpointActivations), t.trained, t.classes, t.transform)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := a.writeLeftOut(images); err != nil {
			return err
		}
		var bad []error
		for p, err := range c.Predict(ctx, images.files, o.topK) {
			if err != nil {
				return err
			}
			if p.Err != nil {
				bad = append(bad, p.Err)
			}
			if err := a.writePrediction(p); err != nil {
				return err
			}
		}
		for _, p := range images.unusable {
			bad = append(bad, p.Err)
			if err := a.writePrediction(p); err != nil {
				return err
			}
		}
		if len(bad) == 0 {
			return nil
		}
		err = fmt.Errorf("%d of %s could not be read:\n%w", len(bad), wording.Plural(len(images.files)+len(images.unusable), "image"), errors.Join(bad...))
		if o.config.Data.SkipBadImages {
			a.messages(err)
			return nil
		}
		return &run.InputError{Err: err}
	})
	return cmd
}

func (a *app) writePrediction(p spt.Prediction) error {
	if a.json {
		line := struct {
			Path  string            `json:"path"`
			Top   []spt.Probability `json:"top,omitempty"`
			Error string            `json:"error,omitempty"`
		}{Path: jsonfile.Text(p.Path), Top: p.Top}
		if p.Err != nil {
			line.Error = p.Err.Error()
		}
		return a.writeLine(line)
	}
	if p.Err != nil {
		return nil
	}
	var b strings.Builder
	b.WriteString(printable(p.Path))
	for _, t := range p.Top {
		fmt.Fprintf(&b, "\t%s %s", printable(t.Class), wording.Percent(t.Probability))
	}
	return a.write(b.String() + "\n")
}
