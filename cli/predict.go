package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/run"
)

func predictCommand(a *app) *cobra.Command {
	var model run.ModelConfig
	var images run.ImageOptions
	var compute run.ComputeConfig
	var dir string
	var skip bool
	topK := 5
	cmd := &cobra.Command{
		Use: "predict {--delta DIR | --model FILE} PATH... [flags]", Short: "Name what is on images",
		Long: `Names the most probable classes of image files, and of all images in folders,
by a delta on its backbone or, without --delta, by a checkpoint with its own
head. One line for each image; with --json one object for each. Images that
cannot be read are reported at the end and make it fail, after all others were
predicted.`,
		Example: `  spt predict --delta runs/clothing-spt-lora photo.jpg holiday/
  spt predict --model merged.safetensors --top-k 1 --json photo.jpg`,
		Args: cobra.MinimumNArgs(1),
	}
	fs := cmd.Flags()
	deltaFlag(fs, &dir)
	modelFlags(fs, &model)
	imageFlags(fs, &images)
	computeFlags(fs, &compute, false)
	fs.IntVar(&topK, "top-k", topK, "classes for each image")
	fs.BoolVar(&skip, "skip-bad-images", false, "list images that cannot be read, and do not fail for them")
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		var files []string
		var unusable []spt.Prediction // paths that lead to no image
		for _, path := range args {
			found, err := dataset.ImageFiles(ctx, path)
			if err != nil {
				unusable = append(unusable, spt.Prediction{Path: path, Err: err})
			}
			files = append(files, found...)
		}
		t, err := a.openTuned(ctx, cmd, dir, model, images)
		if err != nil {
			return err
		}
		be, err := a.openDevice(&compute)
		if err != nil {
			return err
		}
		c, err := spt.NewClassifier(be, compute.Model(t.model), t.trained, t.classes, t.transform)
		if err != nil {
			return err
		}
		defer c.Close()
		var bad []error
		for p, err := range c.Predict(ctx, files, topK) {
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
		for _, p := range unusable {
			bad = append(bad, p.Err)
			if err := a.writePrediction(p); err != nil {
				return err
			}
		}
		if len(bad) == 0 {
			return nil
		}
		err = fmt.Errorf("%d of %s could not be read:\n%w", len(bad), plural(len(files)+len(unusable), "image"), errors.Join(bad...))
		if skip {
			fmt.Fprintf(a.stderr, "spt: %v\n", err)
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
		}{Path: p.Path, Top: p.Top}
		if p.Err != nil {
			line.Error = p.Err.Error()
		}
		text, err := json.Marshal(line)
		if err != nil {
			return fmt.Errorf("writing the prediction of %s: %w", p.Path, err)
		}
		return a.write(string(text) + "\n")
	}
	if p.Err != nil {
		return nil
	}
	var b strings.Builder
	b.WriteString(printable(p.Path))
	for _, t := range p.Top {
		fmt.Fprintf(&b, "\t%s %s", printable(t.Class), percent(t.Probability))
	}
	return a.write(b.String() + "\n")
}
