package spt

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// KeptClasses is the number of classes of each image that the predictions of a run folder keep.
const KeptClasses = 5

// calibrationImages is the smallest number of validation images that a calibration is fitted to.
const calibrationImages = 50

// Predicted holds the predictions of a split. One of its fields is set, by the kind of objective.
// Both are nil if the objective does not give one logit to each class of an image.
type Predicted struct {
	// Single holds the predictions of images with one label each.
	Single *evaluate.Predictions
	// Several holds the predictions of images with any number of labels.
	Several *evaluate.LabelPredictions
}

// Empty reports whether there are no predictions.
func (p Predicted) Empty() bool {
	return (p.Single == nil || p.Single.Len() == 0) && (p.Several == nil || p.Several.Len() == 0)
}

// losses returns the loss of each image, or nil without predictions.
func (p Predicted) losses() ([]float64, error) {
	switch {
	case p.Single != nil:
		return p.Single.Losses()
	case p.Several != nil:
		return p.Several.Losses(), nil
	}
	return nil, nil
}

// predictions collects the predictions of samples: the returned Predicted is complete when the sink
// has received all of them. Of many images of many classes it keeps the largest logits only; see
// evaluate.Predictions.Keep.
func (t *Task) predictions(samples []dataset.Sample) (*Predicted, train.Sink) {
	classes := t.data.Classes
	names := func(from, n int) []string {
		paths := make([]string, n)
		for i := range paths {
			paths[i] = ImageName(t.data, samples, from+i)
		}
		return paths
	}
	if objective.SeveralLabels(t.objective, t.model.Config) {
		p := &evaluate.LabelPredictions{Classes: classes}
		return &Predicted{Several: p}, func(logits []float32, targets []int32) error {
			if len(logits) != len(targets) {
				return nil
			}
			return p.Add(names(p.Len(), len(targets)/len(classes)), targets, logits)
		}
	}
	p := &evaluate.Predictions{Classes: classes}
	if !t.allLogits && len(samples)*len(classes) > evaluate.MaxLogits {
		p.Keep = evaluate.KeptLogits
	}
	classifies := len(t.objective.TargetShape(t.model.Config)) == 0 && !slices.ContainsFunc(samples, func(s dataset.Sample) bool {
		_, one := s.Target.(dataset.Class)
		return !one
	})
	return &Predicted{Single: p}, func(logits []float32, targets []int32) error {
		if !classifies || len(logits) != len(targets)*len(classes) {
			return nil
		}
		return p.Add(names(p.Len(), len(targets)), targets, logits)
	}
}

// ImageName returns the path of image i of samples in evaluate.Predictions. It is the name that
// dataset.Dataset.NameOf returns. For an image in memory it is its number, such as "image 1".
func ImageName(d *dataset.Dataset, samples []dataset.Sample, i int) string {
	return cmp.Or(d.NameOf(samples[i]), fmt.Sprintf("image %d", i+1))
}

// keep writes predictions into a run folder or the folder of a candidate. Those of images with
// several labels are not kept.
func keep(p *Predicted, folder run.Folder) error {
	if p.Single == nil || p.Single.Len() == 0 {
		return nil
	}
	return evaluate.SaveRanked(folder.Path(run.PredictionsFile), p.Single.Classes, p.Single.Ranked(KeptClasses, 1))
}

// validate sets the metrics of a candidate to those of predictions of the validation images, and
// also its Posthoc. Without predictions it sets nothing. o holds the options of the training.
//
// There is no calibration for fewer than calibrationImages images, which say too little. There is
// no temperature at a bound of evaluate.Predictions either: then all predictions are right, or the
// logits say too little, and no temperature fits.
func validate(p *Predicted, o train.Options, c *run.Candidate) (err error) {
	switch {
	case p.Empty():
		return nil
	case p.Several != nil:
		c.Thresholds = p.Several.Thresholds()
		if p.Several.Len() >= calibrationImages {
			c.LabelCalibration = p.Several.Calibration(o.Weights())
		}
		c.LabelMetrics, err = p.Several.Metrics(c.Thresholds)
		return err
	}
	if c.Metrics, err = p.Single.Metrics(1); err != nil || p.Single.Len() < calibrationImages {
		return err
	}
	c.Temperature, err = p.Single.Temperature()
	if c.Temperature <= evaluate.MinTemperature || c.Temperature >= evaluate.MaxTemperature {
		c.Temperature = 0
	}
	return err
}

// listed returns a candidate as the list of a result holds it, without what its folder has.
func listed(c run.Candidate) run.Candidate {
	c.Metrics, c.LabelMetrics, c.Thresholds, c.LabelCalibration = nil, nil, nil, nil
	return c
}

// setMetrics sets the metrics of a result to those of predictions of a split. The Posthoc of the
// result is set.
func setMetrics(p *Predicted, split string, result *run.Result) (err error) {
	if p.Empty() {
		return nil
	}
	result.MetricsOf = split
	if p.Several != nil {
		if result.LabelMetrics, err = p.Several.Metrics(result.Thresholds); err == nil {
			result.Calibrated, err = run.CalibratedLabels(p.Several, result.LabelCalibration)
		}
		return err
	}
	if result.Metrics, err = p.Single.Metrics(1); err == nil {
		result.Calibrated, err = run.CalibratedClasses(p.Single, result.Temperature)
	}
	return err
}
