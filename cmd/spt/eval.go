package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/train"
)

func evalCommand(a *app) *cobra.Command {
	var model spt.ModelConfig
	var data spt.DataConfig
	var dir string
	var perClass bool
	split := "test"
	cmd := &cobra.Command{
		Use: "eval {--delta DIR | --model FILE} --data DIR [flags]", Short: "Measure a delta, or a whole checkpoint, on a data set",
		Long: `Measures accuracy and loss on one split of a data set: of a delta on its
backbone, or, without --delta, of a checkpoint with its own head, such as one
that 'spt merge' wrote. For a delta in its run's folder, the data set and its
splits are those of the run unless --data names another one.`,
		Example: `  spt eval --delta runs/clothing-spt-lora
  spt eval --model merged.safetensors --data clothing --per-class`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	deltaFlag(fs, &dir)
	modelFlags(fs, &model)
	dataFlags(fs, &data)
	fs.StringVar(&split, "split", split, "test, val or train")
	fs.BoolVar(&perClass, "per-class", false, "print each class")
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if !slices.Contains([]string{"test", "val", "train"}, split) {
			return &spt.OptionError{Err: fmt.Errorf("split %q is unknown; known: test, val, train", split)}
		}
		t, err := openTuned(cmd, dir, model, data.Images)
		if err != nil {
			return err
		}
		if t.run != nil && (data.Path == "" || data.Path == t.run.Data.Path) {
			// Splits other than the run's would test on images that it trained on.
			before := given(cmd)
			delete(before, "cache")
			data = t.run.Data
			if err := refuseContradictions(cmd, before, dir); err != nil {
				return err
			}
		}
		d, err := openData(data)
		if err != nil {
			return err
		}
		if err := sameClasses(t, d); err != nil {
			return err
		}
		samples := map[string][]dataset.Sample{"test": d.Test, "val": d.Val, "train": d.Train}
		if len(samples[split]) == 0 {
			return &spt.InputError{Err: fmt.Errorf("data set %s has no %s images; choose another --split", d.Name, split)}
		}
		task, err := spt.NewTask(t.model, d, spt.TaskOptions{Resize: t.transform.Resize, ResizeTo: t.transform.ResizeTo, CacheBytes: data.Images.CacheBytes})
		if err != nil {
			return err
		}
		fmt.Fprint(a.notes(), taskFacts(t.model, t.report, d))
		p := a.progress()
		defer p.close()
		if data.SkipBadImages {
			if err := checkImages(ctx, task, p); err != nil {
				return err
			}
			samples = map[string][]dataset.Sample{"test": d.Test, "val": d.Val, "train": d.Train}
		}
		n := len(samples[split])
		e, err := task.Evaluate(ctx, t.trained, samples[split], func(done int) { p.event(spt.Event{Stage: "test", Done: done, Total: n}) })
		if err != nil {
			return err
		}
		p.close()
		return a.writeEvaluation(split, e, d, perClass)
	})
	return cmd
}

// sameClasses refuses a data set whose labels mean something else than the head's rows.
func sameClasses(t *tuned, d *dataset.Dataset) error {
	if rows := t.model.Config.NumClasses; rows != len(d.Classes) {
		return &spt.InputError{Err: fmt.Errorf("data set %s has %d classes, the head has %d; give the data set that the head was trained for", d.Name, len(d.Classes), rows)}
	}
	for i, name := range t.classes {
		if name != d.Classes[i] {
			return &spt.InputError{Err: fmt.Errorf("class %d is %q in the data set %s and %q in the head; give the data set that the head was trained for", i, d.Classes[i], d.Name, name)}
		}
	}
	return nil
}

func (a *app) writeEvaluation(split string, e train.Evaluation, d *dataset.Dataset, perClass bool) error {
	type class struct {
		Class    string  `json:"class"`
		Images   int     `json:"images"`
		Correct  int     `json:"correct"`
		Accuracy float64 `json:"accuracy"` // 0 without images
	}
	var classes []class
	for i, c := range e.Classes {
		classes = append(classes, class{d.Classes[i], c.Images, c.Correct, float64(c.Correct) / float64(max(c.Images, 1))})
	}
	if a.json {
		return a.writeJSON(struct {
			Split    string         `json:"split"`
			Images   int            `json:"images"`
			Accuracy float64        `json:"accuracy"`
			Loss     float64        `json:"loss"`
			Classes  []class        `json:"classes"`
			Skipped  []skippedImage `json:"skipped,omitempty"`
		}{split, e.Images, e.Accuracy, e.Loss, classes, skipped(d)})
	}
	text := ""
	if perClass {
		text = table(func(w io.Writer) {
			fmt.Fprintln(w, "class\timages\tcorrect\taccuracy")
			for _, c := range classes {
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", printable(c.Class), c.Images, c.Correct, percent(c.Accuracy))
			}
		}) + "\n"
	}
	var f facts
	for _, s := range d.Skipped {
		f.add("left out", "%s (%s): %v", printable(s.Path), s.Where, s.Err)
	}
	f.add(split+" accuracy", "%s of %d images", percent(e.Accuracy), e.Images)
	f.add(split+" loss", "%.4f", e.Loss)
	return a.write(text + f.String())
}
