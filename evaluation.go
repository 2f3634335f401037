package spt

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// KeptClasses is the number of classes of each image that the predictions of a run folder keep.
const KeptClasses = 5

// calibrationImages is the smallest number of validation images that a temperature is fitted to.
const calibrationImages = 50

// predictions collects the predictions of samples: the returned Predictions are complete when the
// sink has received all of them. They stay empty if the objective does not give one logit to each
// class of an image with one label.
func (t *Task) predictions(samples []dataset.Sample) (*evaluate.Predictions, train.Sink) {
	p := &evaluate.Predictions{Classes: t.data.Classes}
	classifies := len(t.objective.TargetShape(t.model.Config)) == 0 && !slices.ContainsFunc(samples, func(s dataset.Sample) bool {
		_, one := s.Target.(dataset.Class)
		return !one
	})
	return p, func(logits []float32, targets []int32) error {
		if !classifies || len(logits) != len(targets)*len(p.Classes) {
			return nil
		}
		paths := make([]string, len(targets))
		for i := range targets {
			paths[i] = ImageName(t.data, samples, p.Len()+i)
		}
		return p.Add(paths, targets, logits)
	}
}

// ImageName returns the path of image i of samples in evaluate.Predictions. It is the name that
// dataset.Dataset.NameOf returns. For an image in memory it is its number, such as "image 1".
func ImageName(d *dataset.Dataset, samples []dataset.Sample, i int) string {
	return cmp.Or(d.NameOf(samples[i]), fmt.Sprintf("image %d", i+1))
}

// keep writes predictions into a run folder or the folder of a candidate.
func keep(p *evaluate.Predictions, folder run.Folder) error {
	if p.Len() == 0 {
		return nil
	}
	return evaluate.SaveRanked(folder.Path(run.PredictionsFile), p.Classes, p.Ranked(KeptClasses, 1))
}

// validation returns the metrics of predictions of the validation images, and the temperature that
// calibrates them. Without predictions both are zero.
//
// The temperature is zero, which means unknown, for fewer than calibrationImages images, which say
// too little. It is also zero at a bound of evaluate.Predictions: then all predictions are right,
// or the logits say too little, and no temperature fits.
func validation(p *evaluate.Predictions) (*evaluate.Metrics, float64, error) {
	if p.Len() == 0 {
		return nil, 0, nil
	}
	m, err := p.Metrics(1)
	if err != nil || p.Len() < calibrationImages {
		return m, 0, err
	}
	temperature, err := p.Temperature()
	if temperature <= evaluate.MinTemperature || temperature >= evaluate.MaxTemperature {
		temperature = 0
	}
	return m, temperature, err
}

// setMetrics sets the metrics of a result to those of predictions of a split.
func setMetrics(p *evaluate.Predictions, split string, result *run.Result) error {
	if p.Len() == 0 {
		return nil
	}
	var err error
	result.MetricsOf = split
	if result.Metrics, err = p.Metrics(1); err != nil || result.Temperature == 0 {
		return err
	}
	m, err := p.Metrics(result.Temperature)
	if err == nil {
		result.Calibrated = &run.Calibrated{LogLoss: m.LogLoss, Calibration: m.Calibration}
	}
	return err
}
