package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
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
		Use: "merge --delta DIR[,DIR...] --out FILE [flags]", Short: "Merge a delta into a copy of its backbone",
		Long: `Adds a delta to a copy of the weights of its backbone and writes the result as a checkpoint with
the tensor names of timm, which timm can load. Prediction with the merged checkpoint costs no
more than prediction with the backbone. The command compares the logits before and after the
merge, on random images and on images of --probe and --data. It fails if a logit differs by
more than --bound.

With several deltas, such as those of several seeds, the command merges each of them and averages
the weights. It writes nothing if the average is worse on the validation images than the best of
the deltas. --alpha moves the merged weights towards those of the backbone, which often helps on
images of another kind than the training images. The validation images are those of the run;
if the data set has moved, give --data.

The deltas of these methods cannot be merged, because they compute something that no weight of
the backbone can express: ` + comma(unmergeable()) + `.`,
		Example: `  spt merge --delta runs/clothing-spt-lora --probe holiday/ --out merged.safetensors
  spt merge --delta runs/seed0,runs/seed1,runs/seed2 --out average.safetensors`,
		Args: noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if o.delta == "" || o.out == "" {
			return refuse("--delta or --out is missing: give --delta DIR and --out FILE")
		}
		p := a.reporter()
		defer p.close()
		parts, probed, err := a.mergeParts(ctx, cmd, o, p.event)
		if err != nil {
			return err
		}
		merged := parts[0].merged
		if len(parts) > 1 {
			all := make([]*delta.Merged, len(parts))
			for i := range parts {
				all[i] = parts[i].merged
			}
			if merged, err = delta.Average(all); err != nil {
				return &run.InputError{Err: err}
			}
		}
		if o.alpha != 1 {
			if merged, err = merged.Interpolate(parts[0].model, o.alpha); err != nil {
				return err
			}
		}
		var checked *validated
		if len(parts) > 1 || o.alpha != 1 {
			if checked, err = validateMerged(ctx, parts, merged, o, p.event); err != nil {
				return err
			}
		}
		if err := merged.Save(o.out, checkpoint.F32, parts[0].classes); err != nil {
			return err
		}
		largest := slices.MaxFunc(parts, func(a, b part) int { return cmp.Compare(a.merged.LargestDifference, b.merged.LargestDifference) }).merged
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
				// Validated is absent for one delta with an alpha of 1.
				Validated *validated `json:"validated,omitempty"`
			}{o.out, fileSize(o.out), largest.Images, texted(probed), largest.LargestDifference, largest.Bound, beyond, checked})
		}
		var f facts
		for _, err := range probed {
			f.add("skipped", "%s", printable(err.Error()))
		}
		f.add("largest logit difference", "%.3g on %d images, bound %g", largest.LargestDifference, largest.Images, largest.Bound)
		if checked != nil {
			for i, e := range checked.Deltas {
				f.add("validation "+objective.ScoreName(merged.Objective), "%s, %s", wording.Percent(e.Accuracy), printable(parts[i].folder))
			}
			f.add("validation "+objective.ScoreName(merged.Objective), "%s of %s, the result", wording.Percent(checked.Result.Accuracy), wording.Plural(checked.Result.Images, "image"))
		}
		f.add("merged", "%s, %s", o.out, wording.Bytes(fileSize(o.out)))
		if beyond != "" {
			f.add("note", "timm does not compute the same with this file: %s", beyond)
		}
		f.add("next", "%s", shell.Command("spt", "predict", "--model", o.out)+" IMAGE…")
		return a.write(f.String())
	})
	return cmd
}

// part is one of the deltas that are merged.
type part struct {
	*tuned
	folder string
	merged *delta.Merged
}

// mergeParts merges each delta of --delta into a copy of its backbone. unreadable holds the errors
// of mergeProbes.
func (a *app) mergeParts(ctx context.Context, cmd *cobra.Command, o *options, report progress.Func) (parts []part, unreadable []error, err error) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		return nil, nil, err
	}
	for _, folder := range deltaFolders(o.delta) {
		t, err := a.openTuned(ctx, cmd, folder, o.config.Model, run.ImageOptions{})
		if err != nil {
			return nil, nil, err
		}
		// checkFlags cannot check this path: it may come from the run.
		if err := keepInputs("out", o.out, t.model.Path, folder); err != nil {
			return nil, nil, err
		}
		if err := t.trained.Tuning.Mergeable(); err != nil {
			return nil, nil, &run.InputError{Err: err}
		}
		if len(parts) > 0 {
			first := parts[0]
			if t.model.Fingerprint() != first.model.Fingerprint() || !slices.Equal(t.classes, first.classes) {
				return nil, nil, &run.InputError{Err: fmt.Errorf("the deltas in %s and %s have different backbones or classes; average deltas of one task on one backbone", first.folder, folder)}
			}
			t.model = first.model // one copy in memory
		}
		probes, left, err := mergeProbes(ctx, t.transform, o.probe, t.probeData(o.config.Data), report)
		if err != nil {
			return nil, nil, err
		}
		merged, err := t.delta.Merge(ctx, be, t.model, probes, o.bound)
		if err != nil {
			return nil, nil, fmt.Errorf("the delta in %s: %w", folder, err)
		}
		parts, unreadable = append(parts, part{t, folder, merged}), left
	}
	return parts, unreadable, nil
}

// validated holds the evaluations of merged deltas on the validation images.
type validated struct {
	Deltas []objective.Evaluation `json:"deltas"` // of each delta alone
	Result objective.Evaluation   `json:"result"` // of the written weights
}

// validateMerged evaluates each delta and the result on the validation images of the run of the
// first delta, or of --data. It sets the thresholds of the labels of the result. An average that is
// worse than the best of its deltas is an error. One delta without validation images is not
// validated.
func validateMerged(ctx context.Context, parts []part, merged *delta.Merged, o *options, report progress.Func) (*validated, error) {
	data := o.config.Data
	if t := parts[0].tuned; t.run != nil && (data.Path == "" || data.Path == t.run.Data.Path) {
		data = t.run.Data
	}
	missing := fmt.Errorf("averaging %s needs validation images, to see whether the average is better, and there are none; give --data DIR with a data set that has some", wording.Plural(len(parts), "delta"))
	if data.Path == "" {
		if len(parts) == 1 {
			return nil, nil
		}
		return nil, &run.OptionError{Option: "data", Err: missing}
	}
	data.NoTrain = true
	opened, err := data.Open(ctx, report)
	if err != nil {
		return nil, err
	}
	d, err := opened.ForHead(dataset.Head{Names: parts[0].classes, Rows: merged.Model.Config.NumClasses, Subset: true})
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	if len(d.Val) == 0 {
		if len(parts) == 1 {
			return nil, nil
		}
		return nil, &run.OptionError{Option: "data", Err: missing}
	}
	evaluate := func(m *delta.Merged) (e objective.Evaluation, p *spt.Predicted, err error) {
		restored, err := spt.Restore(m.Model, nil)
		if err != nil {
			return e, nil, err
		}
		restored.Objective = parts[0].trained.Objective
		task, err := spt.New(m.Model, d, spt.WithObjective(restored.Objective), spt.WithProgress(report),
			spt.WithImages(run.ImageOptions{Resize: m.Transform.Resize, ResizeTo: m.Transform.ResizeTo, TestFlip: m.Transform.TestFlip}))
		if err != nil {
			return e, nil, err
		}
		return task.Evaluate(ctx, restored, "val", d.Val, report)
	}
	v := &validated{}
	for _, p := range parts {
		e, _, err := evaluate(p.merged)
		if err != nil {
			return nil, err
		}
		v.Deltas = append(v.Deltas, e)
	}
	e, predictions, err := evaluate(merged)
	if err != nil {
		return nil, err
	}
	v.Result = e
	if predictions.Several != nil {
		merged.Thresholds = predictions.Several.Thresholds()
	}
	best := slices.MaxFunc(v.Deltas, func(a, b objective.Evaluation) int { return cmp.Compare(a.Accuracy, b.Accuracy) })
	if len(parts) > 1 && e.Accuracy < best.Accuracy {
		return nil, &run.InputError{Err: fmt.Errorf("the average of %s reaches %s on %s, but the best of the deltas alone %s; merge that delta, or average predictions with spt eval", wording.Plural(len(parts), "delta"), wording.Percent(e.Accuracy), wording.Plural(e.Images, "validation image"), wording.Percent(best.Accuracy))}
	}
	return v, nil
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
