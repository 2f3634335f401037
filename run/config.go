package run

import (
	"time"

	"github.com/sptune/spt/method"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Config is config.json: what a run was asked to do, enough to do it again.
type Config struct {
	Version int           `json:"version"` // 1
	Spt     string        `json:"spt"`     // the program's version
	Started time.Time     `json:"started"`
	Model   ModelConfig   `json:"model"`
	Data    DataConfig    `json:"data"`
	Compute ComputeConfig `json:"compute,omitzero"`
	Tune    TuneOptions   `json:"tune,omitzero"`
	// Single is set instead of Tune in the folder of [spt.Task.TrainRun].
	Single *TrainOptions `json:"train,omitempty"`
}

// ModelConfig names a backbone and how it was loaded.
type ModelConfig struct {
	Path          string     `json:"path"`             // a checkpoint, hf:OWNER/NAME[@REVISION][:FILE], or "demo" for the embedded one
	Commit        string     `json:"commit,omitempty"` // that hf:… stood for; it is what is fetched again
	Fingerprint   string     `json:"fingerprint"`
	ImageSize     int        `json:"image_size"`
	NumHeads      int        `json:"num_heads"`
	LayerNormEps  float64    `json:"layer_norm_eps"`
	Mean          [3]float32 `json:"mean"`
	Std           [3]float32 `json:"std"`
	Preprocessing string     `json:"preprocessing"` // where mean and std come from

	fetched string // by Fetch: the path of the weights in the cache
}

// DataConfig names a data set and how it was read.
type DataConfig struct {
	Path          string       `json:"path"`
	Task          string       `json:"task,omitempty"` // name of a benchmark's set, whose number of classes the data must have
	Layout        string       `json:"layout"`
	ImageColumn   string       `json:"image_column,omitempty"` // of parquet files and tables; empty: found
	LabelColumn   string       `json:"label_column,omitempty"`
	ValFraction   float64      `json:"val_fraction"`
	TestFraction  float64      `json:"test_fraction"`
	SplitSeed     uint64       `json:"split_seed"`
	SkipBadImages bool         `json:"skip_bad_images"`
	Split         string       `json:"split"` // how val and test came to be
	Classes       int          `json:"classes"`
	Train         int          `json:"train"` // numbers of images
	Val           int          `json:"val"`
	Test          int          `json:"test"`
	Samples       string       `json:"samples,omitempty"` // dataset.Dataset.Fingerprint
	Images        ImageOptions `json:"images"`
}

// TuneOptions are a whole run's. They are what config.json keeps.
type TuneOptions struct {
	Method  method.Method `json:"method"`
	Budgets []string      `json:"budgets"` // candidates; empty: DefaultBudget for SPT, none for others
	Rank    int           `json:"rank"`    // 0: by the budget, of SPT as plan.DefaultRank says; 8 for lora and adapter without a budget
	method.Sizes
	Score sensitivity.Options `json:"score"`
	Plan  PlanOptions         `json:"plan"` // Module, Only and Rank are set from Method and Rank
	Train train.Options       `json:"train"`
	// NoValidation skips the trainings on train alone. It needs a single
	// candidate; the result then has no validation accuracy.
	NoValidation bool `json:"no_validation"`
	// PaperProtocol also reports the greatest test accuracy over epochs, as the
	// reference release does, under the name test_max. Nothing is chosen by it.
	PaperProtocol bool `json:"paper_protocol"`
}

// TrainOptions are those of one training: of a plan, or of a method that
// needs none.
type TrainOptions struct {
	Method method.Method `json:"method"`
	Budget string        `json:"budget,omitempty"` // lora and adapter: the rank is what it allows
	Rank   int           `json:"rank,omitempty"`   // lora and adapter; 0: what the budget allows, or 8
	method.Sizes
	WithVal bool          `json:"with_val"` // train on val too; nothing is then validated
	Train   train.Options `json:"train"`
}
