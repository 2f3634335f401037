package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// The numbers of images on which merge and export compare logits, in addition to the images of
// --probe.
const (
	randomProbes = 8  // random images
	dataProbes   = 16 // images of --data
)

func mergeCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Use: "merge --delta DIR --out FILE [flags]", Short: "Merge a delta into a copy of its backbone",
		Long: `Adds a delta to a copy of the weights of its backbone and writes the result as a checkpoint with
the tensor names of timm, which timm can load. Prediction with the merged checkpoint costs no
more than prediction with the backbone. The command compares the logits before and after the
merge, on random images and on images of --probe and --data. It fails if a logit differs by
more than --bound.

The deltas of these methods cannot be merged, because they compute something that no weight of
the backbone can express: ` + comma(unmergeable()) + `.`,
		Example: "  spt merge --delta runs/clothing-spt-lora --probe holiday/ --out merged.safetensors",
		Args:    noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if o.delta == "" || o.out == "" {
			return refuse("--delta or --out is missing: give --delta DIR and --out FILE")
		}
		t, err := a.openTuned(ctx, cmd, o.delta, o.config.Model, run.ImageOptions{})
		if err != nil {
			return err
		}
		// checkFlags cannot check this path: it may come from the run.
		if err := keepInputs("out", o.out, t.model.Path); err != nil {
			return err
		}
		if err := t.trained.Tuning.Mergeable(); err != nil {
			return &run.InputError{Err: err}
		}
		p := a.reporter()
		defer p.close()
		probes, unreadable, err := mergeProbes(ctx, t.transform, o.probe, t.probeData(o.config.Data), p.event)
		if err != nil {
			return err
		}
		be, _, err := backend.Open("cpu", 1)
		if err != nil {
			return err
		}
		merged, err := t.delta.Merge(ctx, be, t.model, probes, o.bound)
		if err != nil {
			return err
		}
		if err := merged.Save(o.out, checkpoint.F32, t.classes); err != nil {
			return err
		}
		beyond := merged.Model.Config.BeyondTimm()
		if a.json {
			return a.writeJSON(struct {
				Out    string `json:"out"`
				Bytes  int64  `json:"bytes"`
				Probes int    `json:"probes"`
				// Unreadable lists the images that could not be read, with the reasons.
				Unreadable []string `json:"unreadable,omitempty"`
				Difference float64  `json:"largest_logit_difference"`
				Bound      float64  `json:"bound"`
				// BeyondTimm says why timm does not compute the same with the file. Empty means
				// that timm computes the same.
				BeyondTimm string `json:"beyond_timm,omitempty"`
			}{o.out, fileSize(o.out), merged.Images, texted(unreadable), merged.LargestDifference, merged.Bound, beyond})
		}
		var f facts
		for _, err := range unreadable {
			f.add("skipped", "%s", printable(err.Error()))
		}
		f.add("largest logit difference", "%.3g on %d images, bound %g", merged.LargestDifference, merged.Images, merged.Bound)
		f.add("merged", "%s, %s", o.out, wording.Bytes(fileSize(o.out)))
		if beyond != "" {
			f.add("note", "timm does not compute the same with this file: %s", beyond)
		}
		f.add("next", "%s", shell.Command("spt", "predict", "--model", o.out)+" IMAGE…")
		return a.write(f.String())
	})
	return cmd
}

// unmergeable returns the names of the methods whose deltas cannot be merged.
func unmergeable() (names []string) {
	for _, row := range method.Catalogue() {
		methods := row.Methods()
		for _, m := range methods {
			switch {
			case rowOf(m).Merges():
			case len(methods) == 1:
				names = append(names, row.Name)
			default:
				names = append(names, string(m))
			}
		}
	}
	return names
}

// texted returns the texts of errors.
func texted(errs []error) (texts []string) {
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return texts
}

// probeData returns the data set with images on which logits are compared. The data set of the run
// is read with the layout and the columns of the run.
func (t *tuned) probeData(data run.DataConfig) run.DataConfig {
	if t.run != nil && data.Path == t.run.Data.Path {
		data = t.run.Data
		data.Classes = 0 // the probes may be other images than those of the run
	}
	return data
}

// mergeProbes returns the pixels of the images on which merge and export compare logits: random
// images, the images of the folder probe, and images of the data set, spread evenly over it. probe
// and data.Path may be empty. unreadable holds an error for each image that cannot be read, and for
// the files of probe that are left out.
func mergeProbes(ctx context.Context, t dataset.Transform, probe string, data run.DataConfig, report progress.Func) (pixels []uint8, unreadable []error, err error) {
	var samples []dataset.Sample
	var left []error
	if probe != "" {
		found, err := dataset.FindImages(ctx, probe)
		if err != nil {
			return nil, nil, &run.InputError{Err: err}
		}
		samples = found.Images
		for _, image := range found.Unsupported {
			left = append(left, fmt.Errorf("image %s: %s", image.Path, unsupported(image)))
		}
		if text := describeIgnored(found.Ignored); text != "" {
			left = append(left, fmt.Errorf("folder %s: %s", probe, text))
		}
	}
	if data.Path != "" {
		d, err := data.Open(ctx, report)
		if err != nil {
			return nil, nil, err
		}
		all := slices.Concat(d.Train, d.Val, d.Test)
		n := min(dataProbes, len(all))
		for i := range n {
			samples = append(samples, all[i*len(all)/n])
		}
	}
	pixels, unreadable, err = spt.Probes(t, randomProbes, samples)
	return pixels, append(left, unreadable...), err
}
