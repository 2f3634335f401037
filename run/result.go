package run

import (
	"time"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// Candidate is the content of result.json in the folder of a candidate. A candidate is one budget
// and one learning rate that a run tried, or its linear probe.
type Candidate struct {
	jsonfile.Header             // kind "candidate"; set by SaveResult
	Budget          plan.Budget `json:"budget,omitzero"` // zero for a method without a budget
	LR              float64     `json:"lr"`              // learning rate of the training
	Counts          peft.Counts `json:"counts"`          // numbers of tuned parameters
	ValAccuracy     float64     `json:"val_accuracy"`    // after the last epoch
	ValLoss         float64     `json:"val_loss"`        // after the last epoch
	// ValMetric is train.Epoch.ValMetric of the result.
	ValMetric float64 `json:"val_metric,omitempty"`
	// Alpha says where the weights lie between the linear probe, 0, and the end of the training, 1.
	// It is 0 for the end of the training, and if the run did not interpolate.
	Alpha   float64 `json:"alpha,omitempty"`
	Seconds float64 `json:"seconds"` // time spent in training, in seconds
	// L2 is the regularisation of a linear probe, and HeadScale the factor of its head for the
	// start of scoring and training; see package probe. Both are 0 for other candidates.
	L2        float64 `json:"l2,omitempty"`
	HeadScale float64 `json:"head_scale,omitempty"`
	// BestEpoch is the epoch whose tuned tensors the candidate has, counted from 1, if it is not
	// the last; see train.Options.Patience.
	BestEpoch int `json:"best_epoch,omitempty"`
	// Posthoc has the temperature, or the thresholds and calibrations of labels, of the validation
	// images. It is zero if the objective does not classify, if there are too few images, and in
	// the candidates of a Result, which have only the temperature.
	evaluate.Posthoc
	// Metrics holds the metrics of the validation images, and LabelMetrics those of images with
	// several labels. Both are nil if the objective does not classify, and in the candidates of a
	// Result.
	Metrics      *evaluate.Metrics      `json:"metrics,omitempty"`
	LabelMetrics *evaluate.LabelMetrics `json:"label_metrics,omitempty"`
}

// Selected returns the value of the metric by which the run chooses, for the validation images
// after the last epoch: higher is better. by must be train.Options.Select of the run.
func (c *Candidate) Selected(by objective.Selection) float64 {
	return by.Restored(c.ValAccuracy, c.ValLoss, c.ValMetric)
}

// Result is the content of result.json in the folder of a finished run. It can be understood
// without the other files of the run.
type Result struct {
	// Header has the kind "result". SaveResult sets it.
	jsonfile.Header
	// Spt is the version of spt. SaveResult sets it.
	Spt string `json:"spt"`
	// Finished is the time when the run finished, in UTC.
	Finished time.Time `json:"finished"`

	// Model, Data and Compute describe the backbone, the data set and the device of the run.
	Model   ModelConfig   `json:"model"`
	Data    DataConfig    `json:"data"`
	Compute ComputeConfig `json:"compute,omitzero"`
	// Objective is the name of the objective.
	Objective string `json:"objective"`
	// Classes holds the names of the classes, in the order of the rows of the head.
	Classes []string `json:"classes"`
	// Seed is the seed of the trainings.
	Seed uint64 `json:"seed"`

	// Method is the name of the method of the delta. It is method.Linear if the delta is the linear
	// probe of a run of another method; see KeptProbe.
	Method method.Method `json:"method"`
	// Budget is the budget of the chosen candidate. It is zero for a method without a budget.
	Budget plan.Budget `json:"budget,omitzero"`
	// LR is the learning rate of the final training. If the run only validated, it is that of the
	// chosen candidate.
	LR float64 `json:"lr"`
	// Rank is the rank of the structured modules. It is 0 if there are no structured modules.
	Rank int `json:"rank,omitempty"`
	// Counts holds the numbers of tuned parameters.
	Counts peft.Counts `json:"counts"`
	// Probe is the linear probe on the features of the frozen backbone. Nil without
	// TuneOptions.Probe.
	Probe *Candidate `json:"probe,omitempty"`
	// ProbeTest is the evaluation of the probe on the test split. It is nil if the run did not test
	// the probe.
	ProbeTest *objective.Evaluation `json:"probe_test,omitempty"`
	// Candidates holds the results of all candidates. It is empty if the run did not validate.
	Candidates []Candidate `json:"candidates,omitempty"`
	// Val is the accuracy on the validation images of a training that did not use them. In a run of
	// all stages it is the accuracy of the chosen candidate. It is nil if the run did not validate.
	Val *float64 `json:"val_accuracy,omitempty"`
	// Test is the evaluation of the final training on the test split. It is nil if the run did not
	// test. If a time limit was over during the test, it covers the images before, in random order.
	Test *objective.Evaluation `json:"test,omitempty"`
	// Metrics holds the metrics of the test images or, if the run did not test, of the validation
	// images. MetricsOf is the name of this split, "test" or "val". Metrics is nil without such
	// images, and if the objective does not classify images with one label. LabelMetrics replaces
	// Metrics for images with several labels.
	Metrics      *evaluate.Metrics      `json:"metrics,omitempty"`
	LabelMetrics *evaluate.LabelMetrics `json:"label_metrics,omitempty"`
	MetricsOf    string                 `json:"metrics_of,omitempty"`
	// Posthoc has the temperature of the delta, or its thresholds and calibrations of labels. They
	// come from the validation images of a training that did not use them. It is zero without such
	// images.
	evaluate.Posthoc
	// Calibrated holds the metrics of the same images with calibrated probabilities. It is nil
	// without a calibration.
	Calibrated *Calibrated `json:"calibrated,omitempty"`
	// TestMax is the highest test accuracy over all epochs, "test-max (paper protocol)". It is nil
	// without TuneOptions.PaperProtocol.
	TestMax *float64 `json:"test_max,omitempty"`
	// TrainedOn names the splits of the final training: "train" or "train+val". It is "train" if
	// the run only validated.
	TrainedOn string `json:"trained_on"`
	// Epochs holds the losses and accuracies of each epoch of the final training. If the run only
	// validated, they are those of the chosen candidate.
	Epochs []train.Epoch `json:"epochs"`
	// Seconds is the time spent in all trainings, in seconds.
	Seconds float64 `json:"seconds"`
	// Changed lists the images and checkpoints that changed while the run used them, by size or
	// time. The result may then be wrong. It is empty if nothing changed.
	Changed []string `json:"changed_files,omitempty"`
	// Skipped is the number of images that were skipped because they were missing or broken.
	Skipped int `json:"skipped_images,omitempty"`
}

// TakeValidation sets the results on the validation images to those of c, the candidate that
// becomes the result. The metrics of a test replace its metrics.
func (r *Result) TakeValidation(c *Candidate) {
	r.Val, r.Posthoc = &c.ValAccuracy, c.Posthoc
	if c.Metrics != nil || c.LabelMetrics != nil {
		r.Metrics, r.LabelMetrics, r.MetricsOf = c.Metrics, c.LabelMetrics, "val"
	}
}

// KeptProbe reports whether the delta of a run by the recipe auto is its linear probe, because it
// was better on the validation images than every candidate.
func (r *Result) KeptProbe() bool {
	return r.Method == method.Linear && len(r.Candidates) > 0 && r.Candidates[0].Counts.Tuned() > 0
}

// WaitShare returns the share of the time of the epochs in which the steps waited for images, from
// 0 to 1.
func (r *Result) WaitShare() float64 {
	waited, seconds := 0.0, 0.0
	for _, e := range r.Epochs {
		waited, seconds = waited+e.WaitShare*e.Seconds, seconds+e.Seconds
	}
	if seconds == 0 {
		return 0
	}
	return waited / seconds
}

// Calibrated holds the metrics that depend on the calibration of the probabilities.
type Calibrated struct {
	LogLoss     float64              `json:"log_loss"` // with several labels, LabelMetrics.Loss
	Calibration evaluate.Calibration `json:"calibration"`
}

// CalibratedClasses returns the metrics with the temperature, or nil if it is 0.
func CalibratedClasses(p *evaluate.Predictions, temperature float64) (*Calibrated, error) {
	if temperature == 0 {
		return nil, nil
	}
	m, err := p.Metrics(temperature)
	if err != nil {
		return nil, err
	}
	return &Calibrated{LogLoss: m.LogLoss, Calibration: m.Calibration}, nil
}

// CalibratedLabels returns the metrics with calibrated labels, or nil without a calibration.
func CalibratedLabels(p *evaluate.LabelPredictions, calibration []evaluate.LabelCalibration) (*Calibrated, error) {
	if calibration == nil {
		return nil, nil
	}
	calibrated, err := p.Calibrated(calibration)
	if err != nil {
		return nil, err
	}
	m, err := calibrated.Metrics(nil)
	if err != nil {
		return nil, err
	}
	return &Calibrated{LogLoss: m.Loss, Calibration: m.Calibration}, nil
}
