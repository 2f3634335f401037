// Package run holds a run as it lies on disk: what it was asked to do, the folder that keeps its
// files, and its result.
//
// A [Config] describes a run completely: the backbone ([ModelConfig]), the images ([DataConfig]),
// the device ([ComputeConfig]) and the options of tuning ([TuneOptions]) or of one training
// ([TrainOptions]). [Create] makes a run [Folder] and writes the Config into it; [Open] reads it
// back. Package spt does the work and writes its files through the Folder; a program that only
// looks at results needs this package alone.
package run

import (
	"time"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Config is the content of config.json: what a run was asked to do, complete enough to repeat it.
type Config struct {
	jsonfile.Header           // kind "run"; set by Create
	Spt             string    `json:"spt"`     // version of the program; set by Create
	Started         time.Time `json:"started"` // when the run began, UTC

	Model     ModelConfig   `json:"model"`
	Data      DataConfig    `json:"data"`
	Compute   ComputeConfig `json:"compute,omitzero"`
	Objective string        `json:"objective"`       // name of the objective; empty: single-label
	Tune      TuneOptions   `json:"tune,omitzero"`   // options of a run of all stages
	Train     *TrainOptions `json:"train,omitempty"` // options of one training; set instead of Tune
}

// TuneOptions configures a run of all stages.
type TuneOptions struct {
	// Method says what is tuned.
	Method method.Method `json:"method"`
	// Budgets are the candidates: numbers of parameters to tune. Empty: 0.5 % of the backbone for a
	// method that plans, none for other methods.
	Budgets []plan.Budget `json:"budgets"`
	// Options configures the method. Its Budget must be zero: Budgets takes its place.
	method.Options
	Score sensitivity.Options `json:"score"`
	// Plan configures stage 2. Its Module, Only and Rank follow from Method and Rank.
	Plan  plan.Options  `json:"plan"`
	Train train.Options `json:"train"`
	// NoValidation skips the trainings on the train split alone. It needs a single candidate; the
	// result has no validation accuracy then.
	NoValidation bool `json:"no_validation"`
	// PaperProtocol also reports the largest test accuracy over all epochs, as the reference
	// release does, under the name test_max. Nothing is chosen by it.
	PaperProtocol bool `json:"paper_protocol"`
}

// TrainOptions configures one training: of a plan, or of a method that needs none.
type TrainOptions struct {
	// Method says what is tuned. For a plan it is the method that made the plan.
	Method method.Method `json:"method"`
	// Options configures the method. It must be zero for a plan.
	method.Options
	// WithVal trains on the validation images too. Nothing is validated then.
	WithVal bool          `json:"with_val"`
	Train   train.Options `json:"train"`
}
