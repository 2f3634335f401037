package run

import (
	"fmt"
	"math"
	"time"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/plan"
)

// FoldOptions makes a run a cross-validation. The run folder then holds a run for each fold.
type FoldOptions struct {
	// Number is the number of folds, 2 or more. Zero means no cross-validation.
	Number int `json:"number"`
	// Final trains once more after the folds, on all images, and delivers the delta of this
	// training in a run of its own. Default: false, and the folds alone have deltas.
	Final bool `json:"final,omitempty"`
	// AutoSize reports that the recipe auto chooses the image size of each fold. spt.Task.Create
	// sets it, because the recorded ModelConfig has an image size in any case.
	AutoSize bool `json:"auto_size,omitempty"`
}

// FoldsResult is the content of folds.json, the result of a cross-validation.
type FoldsResult struct {
	// Header has the kind "folds". SaveFolds sets it.
	jsonfile.Header
	// Spt is the version of spt. SaveFolds sets it.
	Spt string `json:"spt"`
	// Finished is the time when the cross-validation finished, in UTC.
	Finished time.Time `json:"finished"`
	// Classes holds the names of the classes, in the order of the rows of the head.
	Classes []string `json:"classes"`
	// Folds holds the results of the folds, in order.
	Folds []FoldResult `json:"folds"`
	// Accuracy, Loss, BalancedAccuracy and MacroF1 hold the means over the folds and their
	// deviations. The last two are zero if the objective does not classify images with one label.
	Accuracy         Spread `json:"accuracy"`
	Loss             Spread `json:"loss"`
	BalancedAccuracy Spread `json:"balanced_accuracy,omitzero"`
	MacroF1          Spread `json:"macro_f1,omitzero"`
	// Metrics holds the metrics of the predictions of all folds together, as predictions.jsonl
	// holds them. Each image was predicted by the training that did not see it. It is nil if the
	// objective does not classify images with one label.
	Metrics *evaluate.Metrics `json:"metrics,omitempty"`
	// Final is the name of the folder with the run on all images. It is empty without
	// FoldOptions.Final.
	Final string `json:"final,omitempty"`
	// Seconds is the time spent in all trainings, in seconds.
	Seconds float64 `json:"seconds"`
}

// FoldResult is the result of one fold.
type FoldResult struct {
	Folder    string      `json:"folder"` // name of the folder of the run
	Train     int         `json:"train"`  // number of training images
	Val       int         `json:"val"`    // number of validation images
	Test      int         `json:"test"`   // number of images of the fold
	ImageSize int         `json:"image_size"`
	Budget    plan.Budget `json:"budget,omitzero"`
	LR        float64     `json:"lr"`
	Accuracy  float64     `json:"accuracy"` // on the images of the fold
	Loss      float64     `json:"loss"`
	// BalancedAccuracy and MacroF1 are zero if the objective does not classify images with one
	// label.
	BalancedAccuracy float64 `json:"balanced_accuracy,omitempty"`
	MacroF1          float64 `json:"macro_f1,omitempty"`
}

// Spread is the mean of the results of folds and their standard deviation.
type Spread struct {
	Mean float64 `json:"mean"`
	// Deviation is the standard deviation of a sample, with n-1 degrees of freedom: of single
	// results, not of the mean. The folds share training images, so it says how much results vary,
	// and is no confidence interval.
	Deviation float64 `json:"deviation"`
}

// SpreadOf returns the spread of one value of each fold.
func SpreadOf(folds []FoldResult, value func(FoldResult) float64) Spread {
	var s Spread
	for _, f := range folds {
		s.Mean += value(f) / float64(len(folds))
	}
	if len(folds) < 2 {
		return s
	}
	for _, f := range folds {
		d := value(f) - s.Mean
		s.Deviation += float64(d*d) / float64(len(folds)-1)
	}
	s.Deviation = math.Sqrt(s.Deviation)
	return s
}

// Fold returns the folder of the run of fold i, counted from 1.
func (f Folder) Fold(i int) Folder { return Folder(f.Path(fmt.Sprint(foldFolder, i))) }

// Final returns the folder of the run on all images after a cross-validation.
func (f Folder) Final() Folder { return Folder(f.Path(finalFolder)) }

// LoadFolds reads folds.json. It returns nil while the cross-validation is unfinished. A broken
// file and a file of another kind are an [*InputError].
func LoadFolds(f Folder) (*FoldsResult, error) { return readAs[*FoldsResult](f.Path(FoldsFile)) }

// SaveFolds writes folds.json into f. It sets the kind and the versions in r.
func SaveFolds(f Folder, r *FoldsResult) error {
	r.Header, r.Spt = foldsHeader, version.Version
	return jsonfile.Write(f.Path(FoldsFile), r)
}
