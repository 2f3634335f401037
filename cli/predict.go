package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

func predictCommand(a *app) *cobra.Command {
	o := a.newOptions()
	compute := &o.config.Compute
	cmd := &cobra.Command{
		Use: "predict {--delta DIR | --model FILE} PATH... [flags]", Short: "Predict the classes of images",
		Long: `Predicts the most probable classes of images. PATH is an image, a folder or an archive of images
(` + or(dataset.ArchiveNames()) + `), or a table (` + or(dataset.TableFormats()) + `)
with a column of image paths. If PATH is a dash, one path is read from each line
of standard input. The classifier is a delta on its backbone or, without --delta, a checkpoint
with its own head. The command prints one line for each image, with --json one JSON object. A
note lists the files of a folder that are left out. If images cannot be read, the command
predicts all others, lists the unreadable images and then fails with exit code 3, unless
--skip-bad-images is given.

With --out the command writes a table instead of the lines, after it has predicted all images.
The table has a row for each image, also for one that cannot be read. It begins with the
columns path, label and probability; label_2, probability_2 and so on hold the classes that
follow. In a CSV file, text that a spreadsheet would take for a formula begins with an
apostrophe.

If an image may have several labels, the command prints the labels whose probabilities are at
least their thresholds, which tuning has chosen on validation images, and "no label" if there
are none. With --json, top holds the most probable labels too, with their thresholds.

With --calibrated a probability says how often the class is right: the logits are divided by a
temperature, which tuning has fitted to validation images and stored in the delta. The order of
the classes does not change. With several labels, each label has a scale and an offset instead,
which also change its threshold, so the predicted labels stay the same.

With --reject-below P an image is unknown if no class has the probability P, such as an image of
something else. Its line says so before the classes; a table has the column unknown. 'spt eval'
prints how many images each P would answer, and how many of these answers are right. With several
labels, the thresholds of the labels do this: an image of something else gets no label.`,
		Example: `  spt predict --delta runs/clothing-spt-lora photo.jpg holiday/
  spt predict --delta runs/clothing-spt-lora --calibrated --out holiday.csv holiday/
  spt predict --delta runs/clothing-spt-lora --reject-below 0.8 holiday/
  spt predict --delta runs/clothing-spt-lora - < paths.txt
  spt predict --model merged.safetensors --top-k 1 --json photo.jpg`,
		Args: arguments(1, -1, "the paths of images, folders, archives or tables"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		if o.out != "" {
			if err := evaluate.CheckFormat(o.out); err != nil {
				return refuse("--out %w", err)
			}
		}
		if o.calibrated && o.delta == "" {
			return refuse("--calibrated needs the temperature of a delta, and a checkpoint has none; give --delta DIR, or leave --calibrated out")
		}
		images := &imageList{stdin: cmd.InOrStdin(), column: o.config.Data.ImageColumn}
		for _, arg := range args {
			if err := images.addArgument(ctx, arg); err != nil {
				return err
			}
		}
		if images.column != "" && images.tables == nil {
			return refuse("--image-column has no effect without a table; leave it out, or give a table: %s", or(dataset.TableFormats()))
		}
		// checkFlags knows the arguments, and not the paths in standard input and in patterns.
		if err := keepInputs("out", o.out, images.tables...); err != nil {
			return err
		}
		t, err := a.openTuned(ctx, cmd, o.delta, o.config.Model, o.config.Data.Images)
		if err != nil {
			return err
		}
		several := objective.SeveralLabels(t.trained.Objective, t.model.Config)
		if several && cmd.Flags().Changed("top-k") && (!a.json || o.out != "") {
			return refuse("--top-k has no effect on the labels above their thresholds, which the command prints for the objective %s; leave it out, or add --json without --out", t.trained.Objective.Name())
		}
		if several && o.rejectBelow > 0 {
			return refuse("--reject-below compares the probability of the one label of an image, and the objective of the delta is %s: each label has its own threshold, and an image without a label above its threshold gets no label; leave it out", t.trained.Objective.Name())
		}
		if o.calibrated && t.fitted.Temperature == 0 && t.fitted.LabelCalibration == nil {
			return refuse("--calibrated needs a calibration, and the delta in %s has none: it was tuned with too few validation images, or nothing fits them, such as when all of them are predicted correctly; tune with more validation images (--val-fraction), or leave --calibrated out", o.delta)
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
		c.RejectBelow, c.Thresholds = o.rejectBelow, t.fitted.Thresholds
		if o.calibrated || o.rejectBelow > 0 {
			c.Temperature, c.LabelCalibration = t.fitted.Temperature, t.fitted.LabelCalibration
		}
		if o.rejectBelow > 0 && c.Temperature == 0 {
			a.message("note: there is no temperature that calibrates the probabilities, so --reject-below compares those of the model, which are often too high")
		}
		if a.json && o.out == "" {
			if err := a.writeLeftOut(images); err != nil {
				return err
			}
		}
		a.noteLeftOut(images)
		p, total := a.reporter(), images.len()
		defer p.close()
		var rows []evaluate.Row // of the table
		var bad []error
		unknown := 0
		take := func(prediction spt.Prediction) error {
			if prediction.Err != nil {
				bad = append(bad, prediction.Err)
			}
			if prediction.Unknown {
				unknown++
			}
			if o.out == "" {
				return a.writePrediction(prediction)
			}
			rows = append(rows, tableRow(prediction))
			p.event(progress.Event{Stage: progress.Predict, Done: int64(len(rows)), Total: int64(total)})
			return nil
		}
		for prediction, err := range c.PredictSamples(ctx, images.samples, o.topK) {
			if err == nil {
				err = take(prediction)
			}
			if err != nil {
				return err
			}
		}
		for _, prediction := range images.unusable {
			if err := take(prediction); err != nil {
				return err
			}
		}
		p.close()
		if o.out != "" {
			if err := evaluate.WriteTop(o.out, c.Classes, rows, o.rejectBelow > 0); err != nil {
				return err
			}
			if err := a.writePredicted(o.out, images, len(bad), unknown); err != nil {
				return err
			}
		}
		if len(bad) == 0 {
			return nil
		}
		err = fmt.Errorf("%d of %s could not be read:\n%w", len(bad), wording.Plural(total, "image"), errors.Join(bad...))
		if o.config.Data.SkipBadImages {
			a.messages(err)
			return nil
		}
		return &run.InputError{Err: err}
	})
	return cmd
}

// tableRow returns the row of a prediction in the table of --out.
func tableRow(p spt.Prediction) evaluate.Row {
	row := evaluate.Row{Path: p.Path, Unknown: p.Unknown}
	if p.Err != nil {
		row.Error = p.Err.Error()
	}
	top := p.Top
	if p.Labels != nil {
		top = p.Labels
	}
	for _, t := range top {
		row.Top = append(row.Top, evaluate.ClassProbability{Class: t.Index, Probability: t.Probability})
	}
	return row
}

// writePredicted prints the result of --out. bad is the number of images that cannot be read, and
// unknown the number of those that are rejected.
func (a *app) writePredicted(out string, images *imageList, bad, unknown int) error {
	if a.json {
		return a.writeJSON(struct {
			Out        string         `json:"out"`
			Images     int            `json:"images"` // also those that cannot be read
			Unreadable int            `json:"unreadable"`
			Unknown    int            `json:"unknown,omitempty"`
			Bytes      int64          `json:"bytes"`
			LeftOut    []leftOutImage `json:"left_out,omitempty"`
			Ignored    []ignoredFiles `json:"ignored,omitempty"`
		}{out, images.len(), bad, unknown, fileSize(out), images.leftOutImages(), images.ignored})
	}
	var f facts
	f.add("images", "%d", images.len())
	if bad > 0 {
		f.add("unreadable", "%d of them", bad)
	}
	if unknown > 0 {
		f.add("unknown", "%d of them", unknown)
	}
	f.add("predictions", "%s, %s", printable(out), wording.Bytes(fileSize(out)))
	return a.write(f.String())
}

// writePrediction prints the line of an image.
func (a *app) writePrediction(p spt.Prediction) error {
	if a.json {
		line := struct {
			Path string `json:"path"`
			// Labels is absent unless an image may have several labels.
			Labels  *[]spt.Probability `json:"labels,omitempty"`
			Unknown bool               `json:"unknown,omitempty"`
			Top     []spt.Probability  `json:"top,omitempty"`
			Error   string             `json:"error,omitempty"`
		}{Path: jsonfile.Text(p.Path), Unknown: p.Unknown, Top: p.Top}
		if p.Labels != nil {
			line.Labels = &p.Labels
		}
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
	if p.Unknown {
		b.WriteString("\tunknown")
	}
	shown := p.Top
	if p.Labels != nil {
		if shown = p.Labels; len(shown) == 0 {
			b.WriteString("\tno label")
		}
	}
	for _, t := range shown {
		fmt.Fprintf(&b, "\t%s %s", printable(t.Class), wording.Percent(t.Probability))
	}
	return a.write(b.String() + "\n")
}
