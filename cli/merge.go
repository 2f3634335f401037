package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

// The probes of a merge besides those that the user names.
const (
	randomProbes = 8
	dataProbes   = 16
)

func mergeCommand(a *app) *cobra.Command {
	var model run.ModelConfig
	var data run.DataConfig
	var dir, probe, out string
	bound := delta.DefaultBound
	cmd := &cobra.Command{
		Use: "merge --delta DIR --out FILE [flags]", Short: "Fold a delta into a copy of its backbone",
		Long: `Folds a delta into a copy of its backbone's weights, so that it costs nothing at
prediction, and writes a checkpoint with timm's names. It compares the logits
before and after on probe images, random ones and those of --probe or --data,
and refuses if one differs by more than --bound. Adapters, AdaptFormer, visual
prompts and MLP heads cannot be merged: no weight of the backbone can do as they
do.`,
		Example: "  spt merge --delta runs/clothing-spt-lora --probe holiday/ --out merged.safetensors",
		Args:    cobra.NoArgs,
	}
	fs := cmd.Flags()
	deltaFlag(fs, &dir)
	fs.Var((*modelFlag)(&model.Path), "model", "the backbone that the delta was tuned on: a `FILE`, hf:OWNER/NAME, or 'demo'")
	fs.StringVar(&out, "out", "", "`FILE` to write, safetensors")
	fs.StringVar(&probe, "probe", "", "compare on the images in `DIR` too")
	fs.Var((*pathFlag)(&data.Path), "data", fmt.Sprintf("compare on %d images of the data set in `DIR` too", dataProbes))
	fs.Float64Var(&bound, "bound", bound, "greatest difference of a logit")
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if dir == "" || out == "" {
			return &run.OptionError{Err: fmt.Errorf("give the delta (--delta DIR) and the file to write (--out FILE)")}
		}
		t, err := a.openTuned(ctx, cmd, dir, model, run.ImageOptions{})
		if err != nil {
			return err
		}
		if err := keepInputs("out", out, t.model.Path); err != nil { // --model may have been left out
			return err
		}
		if err := t.trained.Tuning.Mergeable(); err != nil {
			return &run.InputError{Err: err}
		}
		if t.run != nil && data.Path == t.run.Data.Path {
			data = t.run.Data // with its layout and columns
		}
		probes, unreadable, err := mergeProbes(ctx, t.transform, probe, data)
		if err != nil {
			return err
		}
		be, err := backend.New()
		if err != nil {
			return err
		}
		merged, err := t.delta.Merge(ctx, be, t.model, probes, bound)
		if err != nil {
			return err
		}
		if err := merged.Save(out, t.classes); err != nil {
			return err
		}
		beyond := merged.Model.Config.BeyondTimm()
		if a.json {
			var left []string
			for _, err := range unreadable {
				left = append(left, err.Error())
			}
			return a.writeJSON(struct {
				Out        string   `json:"out"`
				Bytes      int64    `json:"bytes"`
				Probes     int      `json:"probes"`
				Unreadable []string `json:"unreadable,omitempty"` // left out of the probes
				Difference float64  `json:"largest_logit_difference"`
				Bound      float64  `json:"bound"`
				BeyondTimm string   `json:"beyond_timm,omitempty"` // why timm computes something else with it
			}{out, fileSize(out), merged.Images, left, merged.LargestDifference, merged.Bound, beyond})
		}
		var f facts
		for _, err := range unreadable {
			f.add("left out", "%s", printable(err.Error()))
		}
		f.add("largest logit difference", "%.3g on %d images, bound %g", merged.LargestDifference, merged.Images, merged.Bound)
		f.add("merged", "%s, %s", out, size(fileSize(out)))
		if beyond != "" {
			f.add("note", "not for timm: %s", beyond)
		}
		f.add("next", "%s", command("spt", "predict", "--model", out)+" IMAGE…")
		return a.write(f.String())
	})
	return cmd
}

// mergeProbes are random pixels and, where given, images of a folder and of a
// data set, a few from all over it. What cannot be read proves nothing, and is left out.
func mergeProbes(ctx context.Context, t dataset.Transform, probe string, data run.DataConfig) (pixels []uint8, unreadable []error, err error) {
	var samples []dataset.Sample
	if probe != "" {
		files, err := dataset.ImageFiles(ctx, probe)
		if err != nil {
			return nil, nil, &run.InputError{Err: err}
		}
		for _, path := range files {
			samples = append(samples, dataset.Sample{Path: path})
		}
	}
	if data.Path != "" {
		d, err := data.Open(ctx)
		if err != nil {
			return nil, nil, err
		}
		all := append(d.TrainVal(), d.Test...)
		n := min(dataProbes, len(all))
		for i := range n {
			samples = append(samples, all[i*len(all)/n])
		}
	}
	return spt.Probes(t, randomProbes, samples)
}
