package report

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
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
	// Metrics holds the metrics of the images.
	Metrics *evaluate.Metrics
	// Temperature is the temperature of the delta, and Calibrated holds the metrics that depend on
	// it. They are zero and nil if the delta has no temperature.
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
	if temperature > 0 {
		m, err := p.Metrics(temperature)
		if err != nil {
			return nil, err
		}
		e.Calibrated = &run.Calibrated{LogLoss: m.LogLoss, Calibration: m.Calibration}
	}
	e.Images = p.Ranked(spt.KeptClasses, 1)
	return e, nil
}

// readEvaluation reads the predictions that the run has kept. In a run that did not test, they are
// those of the chosen candidate, and while the run goes on those of the last finished candidate.
func (r *Run) readEvaluation() error {
	e := &Evaluation{}
	if r.Result != nil {
		e.Split, e.Metrics, e.Temperature, e.Calibrated = r.Result.MetricsOf, r.Result.Metrics, r.Result.Temperature, r.Result.Calibrated
	}
	folders, err := r.candidates()
	if err != nil {
		return err
	}
	place := r.Folder
	for _, f := range folders {
		c, err := run.LoadResult[run.Candidate](f)
		if err != nil {
			return err
		}
		switch {
		case c == nil || c.Metrics == nil:
		case r.Result == nil:
			e.Split, e.Metrics, place = "val", c.Metrics, f
		case e.Split == "val" && c.Budget == r.Result.Budget && c.LR == r.Result.LR:
			place = f
		}
	}
	if e.Metrics == nil {
		return nil
	}
	path := place.Path(run.PredictionsFile)
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

// wrong returns the most confidently wrong images, and unsure the least confident of the others.
func (e *Evaluation) wrong() []evaluate.Ranked {
	return evaluate.MostConfidentlyWrong(e.Images, mistakeImages)
}

func (e *Evaluation) unsure() []evaluate.Ranked {
	shown := map[string]bool{}
	for _, r := range e.wrong() {
		shown[r.Path] = true
	}
	others := slices.DeleteFunc(slices.Clone(e.Images), func(r evaluate.Ranked) bool { return shown[r.Path] })
	return evaluate.LeastConfident(others, mistakeImages)
}

// AddPictures adds pictures of the images that the page shows: the most confidently wrong and the
// least sure ones. d is the data set of the images.
func (e *Evaluation) AddPictures(ctx context.Context, d *dataset.Dataset) error {
	samples := map[string]dataset.Sample{}
	for split, list := range map[string][]dataset.Sample{"train": d.Train, "val": d.Val, "test": d.Test} {
		for i, s := range list {
			if s.Image == nil || split == e.Split { // images in memory have the same names in all splits
				samples[spt.ImageName(d, list, i)] = s
			}
		}
	}
	e.Pictures = map[string]Picture{}
	for _, r := range slices.Concat(e.wrong(), e.unsure()) {
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
	return nil
}
