package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// Evaluation holds the predictions of a split and their metrics.
type Evaluation struct {
	// Split is the name of the split: "test", "val", "train" or "all".
	Split string
	// Classes holds the names of the classes, in the order of the rows of the head.
	Classes []string
	// Images holds the predictions of the images. It is empty if they were not kept.
	Images []evaluate.Ranked
	// Metrics holds the metrics of images with one label each. Labels holds those of images with
	// several labels. One of them is set.
	Metrics *evaluate.Metrics
	Labels  *evaluate.LabelMetrics
	// Temperature is the temperature of the delta; it is 0 without one, and with several labels.
	// Calibrated holds the metrics with calibrated probabilities. It is nil if the delta has no
	// calibration.
	Temperature float64
	Calibrated  *run.Calibrated
	// Pictures holds pictures of images, by their path in Images.
	Pictures map[string]Picture
}

// NewEvaluation returns the evaluation of the predictions of a split. temperature is the
// temperature of the delta, or 0.
func NewEvaluation(split string, p *evaluate.Predictions, temperature float64) (*Evaluation, error) {
	e := &Evaluation{Split: split, Classes: p.Classes, Temperature: temperature}
	var err error
	if e.Metrics, err = p.Metrics(1); err != nil {
		return nil, err
	}
	if e.Calibrated, err = run.CalibratedClasses(p, temperature); err != nil {
		return nil, err
	}
	e.Images = p.Ranked(spt.KeptClasses, 1)
	return e, nil
}

// NewLabelEvaluation returns the evaluation of the predictions of a split whose images have any
// number of labels. fitted has the thresholds and the calibration of the delta, if there are any.
func NewLabelEvaluation(split string, p *evaluate.LabelPredictions, fitted evaluate.Posthoc) (*Evaluation, error) {
	m, err := p.Metrics(fitted.Thresholds)
	if err != nil {
		return nil, err
	}
	e := &Evaluation{Split: split, Classes: p.Classes, Labels: m}
	e.Calibrated, err = run.CalibratedLabels(p, fitted.LabelCalibration)
	return e, err
}

// readEvaluation reads the predictions that the run has kept. In a run that did not test, they are
// those of the chosen candidate, and while the run goes on those of the last finished candidate.
func (r *Run) readEvaluation() error {
	e := &Evaluation{}
	if r.Result != nil {
		e.Labels = r.Result.LabelMetrics
		e.Split, e.Metrics, e.Temperature, e.Calibrated = r.Result.MetricsOf, r.Result.Metrics, r.Result.Temperature, r.Result.Calibrated
	}
	place := r.Folder
	for _, f := range candidates(r.Folder, r.Config) {
		c, err := run.LoadResult[run.Candidate](f)
		if err != nil {
			return err
		}
		switch {
		case c == nil:
		case c.LabelMetrics != nil:
			if r.Result == nil {
				e.Split, e.Labels = "val", c.LabelMetrics
			}
		case c.Metrics == nil:
		case r.Result == nil:
			e.Split, e.Metrics, place = "val", c.Metrics, f
		case e.Split == "val" && c.Budget == r.Result.Budget && c.LR == r.Result.LR:
			place = f
		}
	}
	if e.Labels != nil {
		// the names of the classes are not known while the run goes on
		if e.Classes = r.classes(); len(e.Classes) == len(e.Labels.Labels) {
			r.Evaluation = e
		}
		return nil
	}
	if e.Metrics == nil {
		return nil
	}
	path := place.Path(run.PredictionsFile)
	var err error
	e.Classes, e.Images, err = evaluate.LoadRanked(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if e.Classes = r.classes(); len(e.Classes) != len(e.Metrics.Classes) {
			return nil
		}
	case err != nil:
		return &run.InputError{Err: err}
	case len(e.Classes) != len(e.Metrics.Classes):
		return &run.InputError{Err: fmt.Errorf("reading %s: it has %d classes, but the metrics of the run have %d; the files belong to different runs", path, len(e.Classes), len(e.Metrics.Classes))}
	}
	r.Evaluation = e
	return nil
}

// classes returns the names of the classes, or nil while they are not known.
func (r *Run) classes() []string {
	if r.Result != nil {
		return r.Result.Classes
	}
	return nil
}

// Coverage returns how rejection at thresholds changes the accuracy, with the temperature of the
// delta if there is one. It is nil for runs that did not compute it.
func (e *Evaluation) Coverage() []evaluate.Coverage {
	switch {
	case e.Calibrated != nil:
		return e.Calibrated.Calibration.Coverage
	case e.Metrics == nil: // images with several labels
		return nil
	}
	return e.Metrics.Calibration.Coverage
}

// Wrong returns the number of wrong predictions that a page shows.
func (e *Evaluation) Wrong() int { return len(e.wrong(single.images)) }

// wrong returns the n most confidently wrong images, and unsure the n least confident of those that
// wrong does not return.
func (e *Evaluation) wrong(n int) []evaluate.Ranked {
	return evaluate.MostConfidentlyWrong(e.Images, n)
}

func (e *Evaluation) unsure(n int) []evaluate.Ranked {
	shown := map[string]bool{}
	for _, r := range e.wrong(n) {
		shown[r.Path] = true
	}
	others := slices.DeleteFunc(slices.Clone(e.Images), func(r evaluate.Ranked) bool { return shown[r.Path] })
	return evaluate.LeastConfident(others, n)
}

// explainTime is the default of Sources.ExplainTime. An explanation takes 62 predictions, which is
// a second for a ViT-Ti and ten for a ViT-B on two cores.
const explainTime = 20 * time.Second

// AddPictures adds pictures of the images that the page shows: the most confidently wrong and the
// least sure ones. With a classifier it also explains the wrong predictions, as many as it can in
// from.ExplainTime.
func (e *Evaluation) AddPictures(ctx context.Context, from Sources) error {
	d := from.Data
	samples := map[string]dataset.Sample{}
	for split, list := range map[string][]dataset.Sample{"train": d.Train, "val": d.Val, "test": d.Test} {
		for i, s := range list {
			// images in memory have the same names in all splits
			if s.Image == nil || split == e.Split {
				samples[spt.ImageName(d, list, i)] = s
			}
		}
	}
	e.Pictures = map[string]Picture{}
	for _, r := range slices.Concat(e.wrong(single.images), e.unsure(single.images)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, ok := samples[r.Path]
		if !ok {
			e.Pictures[r.Path] = Picture{Missing: "not in the data set"}
			continue
		}
		p, err := newPicture(s)
		if err != nil {
			p.Missing = "cannot be read"
		}
		e.Pictures[r.Path] = p
	}
	if from.Classifier == nil {
		return nil
	}
	wrong := e.wrong(single.images)
	end, each := time.Now().Add(cmp.Or(from.ExplainTime, explainTime)), time.Duration(0)
	for i := 0; i < len(wrong) && time.Until(end) > each; i++ {
		start := time.Now()
		if s, ok := samples[wrong[i].Path]; ok {
			if err := e.explain(ctx, from.Classifier, s, wrong[i]); err != nil {
				return err
			}
		}
		each = time.Since(start)
		from.Progress.Report(progress.Event{Stage: progress.Explain, Done: int64(i + 1), Total: int64(len(wrong))})
	}
	return nil
}

// explain adds the map of a wrong prediction to the picture of its image.
func (e *Evaluation) explain(ctx context.Context, c *spt.Classifier, s dataset.Sample, r evaluate.Ranked) error {
	pixels, err := c.Transform.SamplePixels(s)
	if err != nil {
		return nil // the picture says that the image cannot be read
	}
	maps, err := c.Explain(ctx, pixels, []int{r.Top[0].Class})
	if err != nil || maps[0] == (spt.Saliency{}) {
		return err
	}
	p := e.Pictures[r.Path]
	if p.Map, err = dataURL(shrunk(maps[0].Overlay(pixels))); err != nil {
		return err
	}
	e.Pictures[r.Path] = p
	return nil
}
