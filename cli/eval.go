package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/report"
	"github.com/sptune/spt/run"
)

func evalCommand(a *app) *cobra.Command {
	o := a.newOptions()
	data, compute := &o.config.Data, &o.config.Compute
	cmd := &cobra.Command{
		Use: "eval {--delta DIR[,DIR...] | --model FILE --data DIR} [flags]", Short: "Measure a delta, or a whole checkpoint, on a data set",
		Long: `Measures accuracy and loss of a classifier on one split of a data set. The classifier is a
delta on its backbone or, without --delta, a checkpoint with its own head, such as a file of
'spt merge'. The classes of the data set are matched with the classes of the head by name. If
the head has no names, the classes must be called 0, 1, 2 and so on, as its rows.

If the delta is in its run folder, the command uses the data set and the splits of the run;
give --data if the data set has moved. All images of another data set without splits are
measured, unless --split, a fraction or --split-seed is given. A note tells you if the delta
was trained on the measured images.

A table says which share of the images 'spt predict --reject-below' would answer at several
thresholds, and the accuracy of these answers. The command leaves a page with the confusion
matrix, the classes, the mistakes and the reliability of the probabilities, as 'spt report'
writes it. --predictions writes the
probabilities of all classes to a table for other programs. --against evaluates a second delta
on the same images and compares the two image by image. With several labels it compares the mean
average precision, that of each label, and the images whose labels are all right.

Several deltas, such as those of several seeds, are measured as an ensemble: the logits of an
image are the means of its logits. The command says what each delta reaches alone. The data set
and the splits are those of the run of the first one.`,
		Example: `  spt eval --delta runs/clothing-spt-lora
  spt eval --delta runs/clothing-spt-lora --against runs/clothing-lora
  spt eval --delta runs/seed0,runs/seed1,runs/seed2
  spt eval --delta runs/clothing-spt-lora --predictions predictions.parquet
  spt eval --model merged.safetensors --data clothing --per-class`,
		Args: noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if err := takeTask(cmd, data); err != nil {
			return err
		}
		if o.predictions != "" {
			if err := evaluate.CheckFormat(o.predictions); err != nil {
				return &run.OptionError{Option: "predictions", Err: err}
			}
		}
		folders := deltaFolders(o.delta)
		o.delta = folders[0]
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
		fetched := a.reporter()
		defer fetched.close()
		d, err := data.Open(ctx, fetched.event)
		split, whole := o.split, false
		if err == nil && d.Unsplit && !splitsChosen(cmd) && !ofRun(t, data, d) {
			split, whole = "all", true
			data.ValFraction, data.TestFraction = -1, -1
			d, err = data.Open(ctx, fetched.event)
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
		trained := trainedOn(t, opened, split)
		switch {
		case t.run != nil && whole:
			a.message("note: the images differ from the images of the run in %s; the delta may have been trained on some of them", o.delta)
		case t.run != nil:
			if now, then := dataSplits(opened), runSplits(t.run); now != then {
				a.message("note: the splits differ from the splits of the run in %s: now %s, in the run %s; the delta may have been trained on some of these images", o.delta, now, then)
			}
		}
		var splits []string // nil: all
		if split != "all" {
			splits = []string{split}
		}
		samples := func() []dataset.Sample { // CheckImages and SkipBroken change the splits
			return map[string][]dataset.Sample{"test": d.Test, "val": d.Val, "train": d.Train, "all": slices.Concat(d.Train, d.Val, d.Test)}[split]
		}
		if len(samples()) == 0 {
			return &run.InputError{Err: fmt.Errorf("data set %s has no %s images; choose another --split", d.Name, split)}
		}
		var other *tuned
		if o.against != "" {
			if other, err = a.openTuned(ctx, cmd, o.against, run.ModelConfig{}, data.Images); err != nil {
				return err
			}
		}
		p := a.reporter()
		defer p.close()
		newTask := func(t *tuned, d *dataset.Dataset) (*spt.Task, error) {
			options := []spt.Option{spt.WithObjective(t.trained.Objective), spt.WithCompute(*compute), spt.WithProgress(p.event),
				spt.WithImages(run.ImageOptions{Resize: t.transform.Resize, ResizeTo: t.transform.ResizeTo, TestFlip: t.transform.TestFlip, CacheBytes: data.Images.CacheBytes})}
			if o.predictions != "" {
				options = append(options, spt.WithAllLogits())
			}
			return spt.New(t.model, d, options...)
		}
		task, err := newTask(t, d)
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
		var e objective.Evaluation
		var predictions *spt.Predicted
		for again := true; again; {
			if e, predictions, err = task.Evaluate(ctx, t.trained, split, samples(), p.event); err == nil {
				break
			}
			var failed error
			if again, failed = task.SkipBroken(ctx, err, p.event, splits...); failed != nil {
				return failed
			}
		}
		if err != nil {
			return err
		}
		var members []member
		if len(folders) > 1 {
			members = []member{{o.delta, e.Accuracy, e.Loss}}
			all := []*evaluate.Predictions{predictions.Single}
			for _, folder := range folders[1:] {
				other, err := a.openTuned(ctx, cmd, folder, run.ModelConfig{}, data.Images)
				if err != nil {
					return err
				}
				e, second, err := a.evaluateOther(ctx, other, folder, opened, split, samples(), newTask)
				if err != nil {
					return err
				}
				if predictions.Single == nil || second.Single == nil {
					return refuse("an ensemble averages the logits of images with one label, and the objective %s has several or none; measure one delta", t.trained.Objective.Name())
				}
				members, all = append(members, member{folder, e.Accuracy, e.Loss}), append(all, second.Single)
			}
			if predictions.Single, err = evaluate.Mean(all); err != nil {
				return err
			}
			metrics := t.trained.Objective.NewMetrics(t.model.Config)
			if err := metrics.Add(predictions.Single.Logits, predictions.Single.Targets); err != nil {
				return err
			}
			e = metrics.Evaluation()
			t.fitted = evaluate.Posthoc{} // nothing is fitted to the ensemble
		}
		m := &measured{Evaluation: e, members: members, split: split, trained: trained, tuned: t, data: d, own: ofRun(t, data, opened), task: task}
		switch {
		case predictions.Empty():
		case predictions.Several != nil:
			m.page, err = report.NewLabelEvaluation(split, predictions.Several, t.fitted)
		default:
			m.page, err = report.NewEvaluation(split, predictions.Single, t.fitted.Temperature)
		}
		if err != nil {
			return err
		}
		if other != nil {
			if m.against, err = a.compareWith(ctx, o, t, other, opened, split, samples(), predictions, newTask); err != nil {
				return err
			}
		}
		p.close()
		if o.predictions != "" {
			if predictions.Empty() {
				return refuse("--predictions writes the probabilities of classes, and the objective %s has none; leave it out", t.trained.Objective.Name())
			}
			if p := predictions.Several; p != nil {
				err = p.Write(o.predictions, t.fitted.Thresholds, o.logits)
			} else {
				err = predictions.Single.Write(o.predictions, evaluate.WriteOptions{Logits: o.logits})
			}
			if err != nil {
				return err
			}
		}
		if m.page != nil && !o.noReport {
			if m.report, err = a.leaveEvaluation(ctx, o, m); err != nil {
				return err
			}
		}
		return a.writeEvaluation(m, o)
	})
	return cmd
}

// measured is the result of 'spt eval'.
type measured struct {
	objective.Evaluation
	split   string
	trained *bool // whether the delta was trained on the images; nil: unknown
	tuned   *tuned
	data    *dataset.Dataset
	task    *spt.Task
	own     bool               // whether data is the data set of the run of the delta
	members []member           // the deltas of an ensemble; nil for one delta
	page    *report.Evaluation // nil if the objective does not classify images
	against *report.Against    // nil without --against
	report  string             // path of the page; empty without one
}

// member is the result of one delta of an ensemble.
type member struct {
	Delta    string  `json:"delta"`
	Accuracy float64 `json:"accuracy"`
	Loss     float64 `json:"loss"`
}

// evaluateOther evaluates another classifier, from the given folder, on the images of a split.
// opened is the data set before its classes were matched with a head.
func (a *app) evaluateOther(ctx context.Context, other *tuned, folder string, opened *dataset.Dataset, split string, samples []dataset.Sample, newTask func(*tuned, *dataset.Dataset) (*spt.Task, error)) (objective.Evaluation, *spt.Predicted, error) {
	d, err := opened.ForHead(dataset.Head{Names: other.classes, Rows: other.model.Config.NumClasses, Subset: other.delta != nil})
	if err != nil {
		return objective.Evaluation{}, nil, &run.InputError{Err: fmt.Errorf("the delta in %s: %w", folder, err)}
	}
	task, err := newTask(other, d)
	if err != nil {
		return objective.Evaluation{}, nil, err
	}
	// the same images, with the class ids of the other head
	own := map[string]dataset.Sample{}
	for _, s := range slices.Concat(d.Train, d.Val, d.Test) {
		own[d.NameOf(s)] = s
	}
	matched := make([]dataset.Sample, len(samples))
	for i, s := range samples {
		matched[i] = own[d.NameOf(s)]
	}
	p := a.reporter()
	defer p.close()
	return task.Evaluate(ctx, other.trained, split+", "+baseOf(folder), matched, p.event)
}

// compareWith evaluates the delta of --against on the images of a split, and compares its
// predictions with those of the first one. The other arguments are as for evaluateOther.
func (a *app) compareWith(ctx context.Context, o *options, first, other *tuned, opened *dataset.Dataset, split string, samples []dataset.Sample, predictions *spt.Predicted, newTask func(*tuned, *dataset.Dataset) (*spt.Task, error)) (*report.Against, error) {
	_, second, err := a.evaluateOther(ctx, other, o.against, opened, split, samples, newTask)
	if err != nil {
		return nil, err
	}
	against := &report.Against{Other: o.against}
	switch {
	case predictions.Empty() || second.Empty():
		return nil, refuse("--against compares the predictions of images, and an objective has none; leave it out")
	case (predictions.Several != nil) != (second.Several != nil):
		return nil, refuse("--against compares deltas of the same kind, and only one of the two predicts several labels of an image; give another delta")
	case predictions.Several != nil:
		against.Labels, err = evaluate.CompareLabels(second.Several, predictions.Several, other.fitted.Thresholds, first.fitted.Thresholds)
	default:
		against.Comparison, err = evaluate.Compare(second.Single, predictions.Single)
	}
	return against, err
}

// leaveEvaluation writes the page of an evaluation. It returns its path, or "" if it could not be
// written.
func (a *app) leaveEvaluation(ctx context.Context, o *options, m *measured) (string, error) {
	name := "evaluation"
	if !m.own {
		name += "-" + spt.PortableName(m.data.Name)
	}
	folder := o.delta
	if stat, err := os.Stat(folder); err == nil && !stat.IsDir() {
		folder = filepath.Dir(folder) // --delta names a file of the delta
	}
	if m.members != nil {
		name = "ensemble-" + name
	}
	path := cmp.Or(o.out, filepath.Join(folder, name+"-"+m.split+".html"))
	p := a.reporter()
	defer p.close()
	from := report.Sources{Data: m.data, Progress: p.event}
	data, err := report.NewData(ctx, m.data, 0)
	// no single network explains an ensemble
	if err == nil && m.page.Wrong() > 0 && m.members == nil {
		if from.Classifier, err = spt.NewClassifier(m.task.Backend(), m.task.Model(), m.tuned.trained, m.data.Classes, m.tuned.transform); err == nil {
			defer from.Classifier.Close()
		}
	}
	if err == nil {
		err = m.page.AddPictures(ctx, from)
	}
	if err == nil {
		of := []report.Fact{{Name: "backbone", Value: modelName(m.tuned.model)}, {Name: "data", Value: describeData(m.data)}}
		for _, k := range m.members {
			of = append(of, report.Fact{Name: "part of the ensemble", Value: fmt.Sprintf("%s, alone %s", k.Delta, wording.Percent(k.Accuracy))})
		}
		page := &report.Page{Title: fmt.Sprintf("%s on %s", cmp.Or(baseOf(o.delta), modelName(m.tuned.model)), m.data.Name),
			Evaluated: &report.Evaluated{Evaluation: m.page, Against: m.against, Data: data,
				Facts: of}}
		err = page.WriteFile(path)
	}
	return a.reportWritten(ctx, path, err, "spt eval --out FILE")
}

// splitsChosen reports whether the user gives a split, or how splits are made.
func splitsChosen(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"split", "val-fraction", "test-fraction", "split-seed"}, cmd.Flags().Changed)
}

// ofRun reports whether d is the data set of the run of the delta: it is at the path in the run, or
// it has the same images and splits.
func ofRun(t *tuned, data *run.DataConfig, d *dataset.Dataset) bool {
	return t.run != nil && (data.Path == t.run.Data.Path || t.run.Data.Samples == d.AsOpened().Fingerprint())
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
		data.ImageRoot, data.ImageSuffix, data.Commit, data.Broken, data.Folds, data.Fold = "", "", "", nil, 0, 0
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

// dataSplits returns the splits of a data set as describeSplits does, with its broken images.
func dataSplits(d *dataset.Dataset) string {
	d = d.AsOpened()
	return describeSplits(d.Split, len(d.Train), len(d.Val), len(d.Test))
}

// runSplits returns the splits of a run as describeSplits does.
func runSplits(c *run.Config) string {
	return describeSplits(c.Data.Split, c.Data.Train, c.Data.Val, c.Data.Test)
}

// trainedOn reports whether the delta was trained on the images of a split. It returns nil if this
// is unknown: if the run of the delta is missing, or if the splits differ from the splits of the
// run.
func trainedOn(t *tuned, d *dataset.Dataset, split string) *bool {
	if t.run == nil || dataSplits(d) != runSplits(t.run) {
		return nil
	}
	withVal := t.run.Train == nil || t.run.Train.WithVal
	yes := split != "test" && (split != "val" || withVal)
	return &yes
}

// writeEvaluation prints the result of 'spt eval'.
func (a *app) writeEvaluation(m *measured, o *options) error {
	type class struct {
		Class    string   `json:"class"`
		Images   int      `json:"images"`
		Correct  int      `json:"correct"`
		Accuracy *float64 `json:"accuracy"` // nil without images
	}
	var classes []class
	var empty []string // classes without images
	for i, c := range m.Classes {
		row := class{Class: m.data.Classes[i], Images: c.Images, Correct: c.Correct}
		if c.Images > 0 {
			accuracy := float64(c.Correct) / float64(c.Images)
			row.Accuracy = &accuracy
		} else {
			empty = append(empty, row.Class)
		}
		classes = append(classes, row)
	}
	if a.json {
		document := struct {
			Split    string  `json:"split"`
			Images   int     `json:"images"`
			Accuracy float64 `json:"accuracy"`
			Loss     float64 `json:"loss"`
			// ObjectiveMetrics holds further metrics of the objective.
			ObjectiveMetrics map[string]float64 `json:"objective_metrics,omitempty"`
			// Metrics holds the metrics of package evaluate, and Calibrated those that depend on
			// the temperature of the delta. They are absent if the objective does not classify.
			Metrics *evaluate.Metrics `json:"metrics,omitempty"`
			// LabelMetrics replaces Metrics and Classes for images with several labels.
			LabelMetrics *labelMetrics `json:"label_metrics,omitempty"`

			Temperature float64         `json:"temperature,omitempty"`
			Calibrated  *run.Calibrated `json:"calibrated,omitempty"`
			// the other delta is the first one
			Compared       *evaluate.Comparison      `json:"compared,omitempty"`
			ComparedLabels *evaluate.LabelComparison `json:"compared_labels,omitempty"`
			// Members holds the deltas of an ensemble.
			Members []member `json:"members,omitempty"`
			// Trained reports whether the delta was trained on these images. It is absent if
			// unknown.
			Trained     *bool          `json:"trained_on_these,omitempty"`
			Classes     []class        `json:"classes,omitempty"`
			Skipped     []skippedImage `json:"skipped,omitempty"`
			Notes       []string       `json:"data_notes,omitempty"` // see dataset.Dataset.Notes
			Predictions string         `json:"predictions,omitempty"`
			Page        string         `json:"report,omitempty"`
			// Report lists the tensors of a checkpoint without a delta.
			Report *checkpoint.Report `json:"checkpoint_report,omitempty"`
		}{Split: m.split, Images: m.Images, Accuracy: m.Accuracy, Loss: m.Loss, ObjectiveMetrics: m.Metrics, Trained: m.trained, Classes: classes, Members: m.members,
			Skipped: skipped(m.data), Notes: m.data.Notes, Predictions: o.predictions, Page: m.report, Report: m.tuned.report}
		if e := m.page; e != nil {
			if e.Labels != nil {
				document.LabelMetrics = newLabelMetrics(e)
			}
			document.Metrics, document.Temperature, document.Calibrated = e.Metrics, e.Temperature, e.Calibrated
		}
		if m.against != nil {
			document.Compared, document.ComparedLabels = m.against.Comparison, m.against.Labels
		}
		return a.writeJSON(document)
	}
	text := ""
	if o.perClass && m.page != nil && m.page.Labels != nil {
		text = labelTable(m.page, m.against) + "\n"
	} else if o.perClass {
		text = table(func(w io.Writer) {
			fmt.Fprintln(w, "class\timages\tcorrect\taccuracy\tprecision\tF1")
			for i, c := range classes {
				accuracy, precision, f1 := "-", "-", "-"
				if c.Accuracy != nil {
					accuracy = wording.Percent(*c.Accuracy)
				}
				if m.page != nil {
					precision, f1 = wording.Percent(m.page.Metrics.Classes[i].Precision), wording.Percent(m.page.Metrics.Classes[i].F1)
				}
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", printable(c.Class), c.Images, c.Correct, accuracy, precision, f1)
			}
		}) + "\n"
	}
	var f facts
	for _, s := range m.data.Skipped {
		f.add("skipped", "%s (%s): %v", printable(s.Path), s.Where, s.Err)
	}
	prefix := m.split + " "
	if m.split == "all" {
		prefix = ""
	}
	f.add(prefix+objective.ScoreName(m.tuned.trained.Objective.Name()), "%s of %s", wording.Percent(m.Accuracy), wording.Plural(m.Images, "image"))
	f.add(prefix+"loss", "%.4f", m.Loss)
	for _, name := range slices.Sorted(maps.Keys(m.Metrics)) {
		if m.page != nil && m.page.Labels != nil {
			break // the metrics of the thresholds replace them
		}
		f.add(prefix+printable(name), "%.4f", m.Metrics[name])
	}
	if e := m.page; e != nil {
		f.addMetrics(e)
	}
	for _, k := range m.members {
		f.add("alone", "%s, loss %.4f: %s", wording.Percent(k.Accuracy), k.Loss, printable(k.Delta))
	}
	if len(m.members) > 0 {
		mean, best := 0.0, 0.0
		for _, k := range m.members {
			mean, best = mean+k.Accuracy/float64(len(m.members)), max(best, k.Accuracy)
		}
		f.add("ensemble", "%+.2f points beside the mean of the deltas, %+.2f beside the best", 100*(m.Accuracy-mean), 100*(m.Accuracy-best))
	}
	if m.against != nil {
		f.add("compared", "%s", m.against.Sentence())
	}
	if len(empty) > 0 {
		f.add("without images", "%s", list(empty))
	}
	if m.trained != nil && *m.trained {
		f.add("note", "the delta was trained on these images, so the accuracy on new images will be lower")
	}
	if o.predictions != "" {
		f.add("predictions", "%s, %s", printable(o.predictions), wording.Bytes(fileSize(o.predictions)))
	}
	if m.report != "" {
		f = append(f, reportFact(m.report)...)
	}
	text += f.String()
	if m.page != nil && m.page.Coverage() != nil {
		text += "\n" + coverageTable(m.page)
	}
	return a.write(text)
}

// shownThresholds lists the thresholds in the table of 'spt eval'.
var shownThresholds = []float64{0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99}

// coverageTable returns a table of what rejection at thresholds leaves unanswered and gains. The
// probabilities are those of 'spt predict --reject-below'.
func coverageTable(e *report.Evaluation) string {
	return table(func(w io.Writer) {
		fmt.Fprintln(w, "reject below\tanswered\taccuracy of answers")
		for _, c := range e.Coverage() {
			if !slices.Contains(shownThresholds, c.Threshold) {
				continue
			}
			accuracy := "-"
			if c.Images > 0 {
				accuracy = wording.Percent(c.Accuracy)
			}
			fmt.Fprintf(w, "%g\t%s\t%s\n", c.Threshold, wording.Percent(c.Share), accuracy)
		}
	})
}

// addMetrics adds the metrics of an evaluation beyond the accuracy and the loss.
func (f *facts) addMetrics(e *report.Evaluation) {
	if m := e.Labels; m != nil {
		f.add("macro F1", "%s", wording.Percent(m.Macro.F1))
		f.add("micro F1", "%s", wording.Percent(m.Micro.F1))
		f.add("exactly right", "%s of the images", wording.Percent(m.SubsetAccuracy))
		f.add("Hamming loss", "%s", wording.Percent(m.HammingLoss))
		calibration := wording.Percent(m.Calibration.ECE)
		if e.Calibrated != nil {
			calibration += fmt.Sprintf("; %s with the calibration of the delta", wording.Percent(e.Calibrated.Calibration.ECE))
		}
		f.add("calibration error", "%s", calibration)
		var absent []string
		for _, c := range m.Unsupported() {
			absent = append(absent, e.Classes[c])
		}
		if absent != nil {
			f.add("without images", "%s; no mean counts these labels", list(absent))
		}
		return
	}
	m := e.Metrics
	f.add("95% interval", "%s to %s", wording.Percent(m.Interval.Low), wording.Percent(m.Interval.High))
	if len(e.Classes) > 5 {
		f.add("top-5 accuracy", "%s", wording.Percent(m.Top5))
	}
	f.add("balanced accuracy", "%s", wording.Percent(m.BalancedAccuracy))
	f.add("macro F1", "%s", wording.Percent(m.Macro.F1))
	f.add("Cohen's kappa", "%.4f", m.Kappa)
	calibration := wording.Percent(m.Calibration.ECE)
	if e.Calibrated != nil {
		calibration += fmt.Sprintf("; %s with the temperature %.3f of the delta", wording.Percent(e.Calibrated.Calibration.ECE), e.Temperature)
	}
	f.add("calibration error", "%s", calibration)
}

// labelMetrics is the JSON document of the metrics of images with several labels.
type labelMetrics struct {
	*evaluate.LabelMetrics
	Labels []namedLabel `json:"labels"`
	Pairs  []namedPair  `json:"pairs,omitempty"`
}

// namedLabel and namedPair add the names of labels to their metrics.
type namedLabel struct {
	Name string `json:"label"`
	evaluate.Label
}

type namedPair struct {
	Labels [2]string `json:"labels"`
	evaluate.Pair
}

func newLabelMetrics(e *report.Evaluation) *labelMetrics {
	m := &labelMetrics{LabelMetrics: e.Labels}
	for c, l := range e.Labels.Labels {
		m.Labels = append(m.Labels, namedLabel{e.Classes[c], l})
	}
	for _, p := range e.Labels.Pairs {
		m.Pairs = append(m.Pairs, namedPair{[2]string{e.Classes[p.First], e.Classes[p.Second]}, p})
	}
	return m
}

// labelTable returns the table of --per-class for images with several labels. against may be nil.
func labelTable(e *report.Evaluation, against *report.Against) string {
	differences := map[string]evaluate.LabelDifference{}
	if against != nil {
		for _, d := range against.Labels.Labels {
			differences[d.Label] = d
		}
	}
	return table(func(w io.Writer) {
		fmt.Fprint(w, "label\timages\taverage precision\tprecision\trecall\tF1\tthreshold")
		if against != nil {
			fmt.Fprint(w, "\tdifference\t95% interval")
		}
		fmt.Fprintln(w)
		for c, l := range e.Labels.Labels {
			ap := "-"
			if l.AP != nil {
				ap = wording.Percent(*l.AP)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%.3f", printable(e.Classes[c]), l.Support, ap, wording.Percent(l.Precision), wording.Percent(l.Recall), wording.Percent(l.F1), l.Threshold)
			if d, ok := differences[e.Classes[c]]; ok {
				fmt.Fprintf(w, "\t%+.2f\t%+.2f to %+.2f", 100*d.Difference.Difference, 100*d.Interval.Low, 100*d.Interval.High)
			} else if against != nil {
				fmt.Fprint(w, "\t-\t-")
			}
			fmt.Fprintln(w)
		}
	})
}
