package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/run"
)

func evalCommand(a *app) *cobra.Command {
	o := a.newOptions()
	data, compute := &o.config.Data, &o.config.Compute
	cmd := &cobra.Command{
		Use: "eval {--delta DIR | --model FILE --data DIR} [flags]", Short: "Measure a delta, or a whole checkpoint, on a data set",
		Long: `Measures accuracy and loss of a classifier on one split of a data set. The classifier is a
delta on its backbone or, without --delta, a checkpoint with its own head, such as a file of
'spt merge'. The classes of the data set are matched with the classes of the head by name. If
the head has no names, the classes must be called 0, 1, 2 and so on, as its rows.

If the delta is in its run folder, the command uses the data set and the splits of the run;
give --data if the data set has moved. All images of another data set without splits are
measured, unless --split, a fraction or --split-seed is given. A note tells you if the delta
was trained on the measured images.`,
		Example: `  spt eval --delta runs/clothing-spt-lora
  spt eval --model merged.safetensors --data clothing --per-class`,
		Args: noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if err := takeRecipe(cmd, data); err != nil {
			return err
		}
		t, err := a.openTuned(ctx, cmd, o.delta, o.config.Model, data.Images)
		if err != nil {
			return err
		}
		if t.run != nil {
			if err := takeRunData(cmd, data, t.run.Data, o.delta); err != nil {
				return err
			}
		}
		data.NoTrain = true
		d, err := data.Open(ctx)
		split, whole := o.split, false
		if err == nil && d.Unsplit && !splitsChosen(cmd) && !ofRun(t, data, d) {
			split, whole = "all", true
			data.ValFraction, data.TestFraction = -1, -1
			d, err = data.Open(ctx)
		}
		if err != nil {
			switch moved := t.run != nil && data.Path != t.run.Data.Path; {
			case moved && !cmd.Flags().Changed("layout"):
				err = fmt.Errorf("%w (it was read in the layout %s, as in the run; if its layout is different, give --layout)", err, data.Layout)
			case t.run != nil && !moved && errors.Is(err, fs.ErrNotExist):
				err = fmt.Errorf("%w (this is the path in the run %s; if the data set has moved, give its path with --data DIR)", err, o.delta)
			}
			return err
		}
		opened := d
		if d, err = d.ForHead(dataset.Head{Names: t.classes, Rows: t.model.Config.NumClasses, Subset: t.delta != nil}); err != nil {
			return &run.InputError{Err: err}
		}
		trained := trainedOn(t, d, split)
		switch {
		case t.run != nil && whole:
			a.message("note: the images differ from the images of the run in %s; the delta may have been trained on some of them", o.delta)
		case t.run != nil:
			if now, then := describeSplits(d.Split, len(d.Train), len(d.Val), len(d.Test)), runSplits(t.run); now != then {
				a.message("note: the splits differ from the splits of the run in %s: now %s, in the run %s; the delta may have been trained on some of these images", o.delta, now, then)
			}
		}
		samples := func() []dataset.Sample { // CheckImages changes the splits
			return map[string][]dataset.Sample{"test": d.Test, "val": d.Val, "train": d.Train, "all": slices.Concat(d.Train, d.Val, d.Test)}[split]
		}
		if len(samples()) == 0 {
			return &run.InputError{Err: fmt.Errorf("data set %s has no %s images; choose another --split", d.Name, split)}
		}
		p := a.reporter()
		defer p.close()
		task, err := spt.New(t.model, d, spt.WithObjective(t.trained.Objective), spt.WithCompute(*compute), spt.WithProgress(p.event),
			spt.WithImages(run.ImageOptions{Resize: t.transform.Resize, ResizeTo: t.transform.ResizeTo, CacheBytes: data.Images.CacheBytes}))
		if err != nil {
			return err
		}
		f := append(taskFacts(t.model, t.report, opened), [2]string{"device", task.Compute().String()})
		f.addObjective(t.trained.Objective.Name())
		if whole {
			f.add("note", "the data set has no splits, so all its images are measured, also images on which the model may have been trained; --split test measures the images that training leaves out by default")
		}
		fmt.Fprint(a.notes(), f)
		if data.SkipBadImages {
			if err := task.CheckImages(ctx, p.event); err != nil {
				return err
			}
		}
		e, _, err := task.Evaluate(ctx, t.trained, split, samples(), p.event)
		if err != nil {
			return err
		}
		p.close()
		return a.writeEvaluation(split, e, t, d, trained, o.perClass)
	})
	return cmd
}

// splitsChosen reports whether the user gives a split, or how splits are made.
func splitsChosen(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"split", "val-fraction", "test-fraction", "split-seed"}, cmd.Flags().Changed)
}

// ofRun reports whether d is the data set of the run of the delta: it is at the path in the run, or
// it has the same images and splits.
func ofRun(t *tuned, data *run.DataConfig, d *dataset.Dataset) bool {
	return t.run != nil && (data.Path == t.run.Data.Path || t.run.Data.Samples == d.Fingerprint())
}

// takeRunData sets data to the data set that the run of a delta has stored. Without another path in
// --data, it returns an error for a data flag that contradicts the run: other splits would test on
// images on which the delta was trained. With another path, which may hold another data set, data
// flags override the stored options.
func takeRunData(cmd *cobra.Command, data *run.DataConfig, recorded run.DataConfig, dir string) error {
	before, path := given(cmd), data.Path
	*data = recorded
	elsewhere := path != "" && path != recorded.Path
	_, skip := before["skip-bad-images"] // an image may have become unreadable since the run
	if skip || elsewhere {
		data.Classes = 0 // the numbers of images may differ
	}
	if elsewhere { // the place of the images of another table is another one
		data.ImageRoot, data.ImageSuffix = "", ""
	}
	err := setAgain(cmd, before, func(f flagRow) bool { return f.local || elsewhere && f.group == dataGroup })
	if err != nil || elsewhere {
		return err
	}
	return refuseContradictions(cmd, before, dir, "or give other images (--data)")
}

// describeSplits returns the sizes of the splits and how they were made, in words.
func describeSplits(how string, train, val, test int) string {
	return fmt.Sprintf("%d train, %d val, %d test (%s)", train, val, test, how)
}

// runSplits returns the splits of a run as describeSplits does.
func runSplits(c *run.Config) string {
	return describeSplits(c.Data.Split, c.Data.Train, c.Data.Val, c.Data.Test)
}

// trainedOn reports whether the delta was trained on the images of a split. It returns nil if this
// is unknown: if the run of the delta is missing, or if the splits differ from the splits of the
// run.
func trainedOn(t *tuned, d *dataset.Dataset, split string) *bool {
	if t.run == nil || describeSplits(d.Split, len(d.Train), len(d.Val), len(d.Test)) != runSplits(t.run) {
		return nil
	}
	withVal := t.run.Train == nil || t.run.Train.WithVal
	yes := split != "test" && (split != "val" || withVal)
	return &yes
}

func (a *app) writeEvaluation(split string, e objective.Evaluation, t *tuned, d *dataset.Dataset, trained *bool, perClass bool) error {
	type class struct {
		Class    string   `json:"class"`
		Images   int      `json:"images"`
		Correct  int      `json:"correct"`
		Accuracy *float64 `json:"accuracy"` // nil without images
	}
	var classes []class
	var empty []string // classes without images
	for i, c := range e.Classes {
		row := class{Class: d.Classes[i], Images: c.Images, Correct: c.Correct}
		if c.Images > 0 {
			accuracy := float64(c.Correct) / float64(c.Images)
			row.Accuracy = &accuracy
		} else {
			empty = append(empty, row.Class)
		}
		classes = append(classes, row)
	}
	if a.json {
		return a.writeJSON(struct {
			Split    string  `json:"split"`
			Images   int     `json:"images"`
			Accuracy float64 `json:"accuracy"`
			Loss     float64 `json:"loss"`
			// Metrics holds further metrics of the objective.
			Metrics map[string]float64 `json:"metrics,omitempty"`
			// Trained reports whether the delta was trained on these images. It is absent if
			// unknown.
			Trained *bool          `json:"trained_on_these,omitempty"`
			Classes []class        `json:"classes"`
			Skipped []skippedImage `json:"skipped,omitempty"`
			Notes   []string       `json:"data_notes,omitempty"` // see dataset.Dataset.Notes
			// Report lists the tensors of a checkpoint without a delta.
			Report *checkpoint.Report `json:"checkpoint_report,omitempty"`
		}{split, e.Images, e.Accuracy, e.Loss, e.Metrics, trained, classes, skipped(d), d.Notes, t.report})
	}
	text := ""
	if perClass {
		text = table(func(w io.Writer) {
			fmt.Fprintln(w, "class\timages\tcorrect\taccuracy")
			for _, c := range classes {
				accuracy := "-"
				if c.Accuracy != nil {
					accuracy = wording.Percent(*c.Accuracy)
				}
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", printable(c.Class), c.Images, c.Correct, accuracy)
			}
		}) + "\n"
	}
	var f facts
	for _, s := range d.Skipped {
		f.add("skipped", "%s (%s): %v", printable(s.Path), s.Where, s.Err)
	}
	prefix := split + " "
	if split == "all" {
		prefix = ""
	}
	f.add(prefix+"accuracy", "%s of %s", wording.Percent(e.Accuracy), wording.Plural(e.Images, "image"))
	f.add(prefix+"loss", "%.4f", e.Loss)
	for _, name := range slices.Sorted(maps.Keys(e.Metrics)) {
		f.add(prefix+printable(name), "%.4f", e.Metrics[name])
	}
	if len(empty) > 0 {
		f.add("without images", "%s", list(empty))
	}
	if trained != nil && *trained {
		f.add("note", "the delta was trained on these images, so the accuracy on new images will be lower")
	}
	return a.write(text + f.String())
}
