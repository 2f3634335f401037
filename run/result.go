package run

import (
	"time"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// Candidate is the content of result.json of one budget that a run tried.
type Candidate struct {
	jsonfile.Header             // kind "candidate"; set by SaveResult
	Budget          plan.Budget `json:"budget,omitzero"`
	Counts          peft.Counts `json:"counts"`       // tuned parameters
	ValAccuracy     float64     `json:"val_accuracy"` // after the last epoch
	ValLoss         float64     `json:"val_loss"`     // after the last epoch
	Seconds         float64     `json:"seconds"`      // time spent in training
}

// Result is the content of result.json: what a run found. It is complete without the other files of
// the run.
type Result struct {
	jsonfile.Header           // kind "result"; set by SaveResult
	Spt             string    `json:"spt"`      // version of the program; set by SaveResult
	Finished        time.Time `json:"finished"` // UTC

	Model     ModelConfig   `json:"model"`
	Data      DataConfig    `json:"data"`
	Compute   ComputeConfig `json:"compute,omitzero"`
	Objective string        `json:"objective"`
	// names of the classes, in the order of the head's rows
	Classes []string `json:"classes"`
	Seed    uint64   `json:"seed"` // seed of the training

	Method method.Method `json:"method"`
	Budget plan.Budget   `json:"budget,omitzero"` // budget of the chosen candidate
	// rank of the structured modules; 0: there are none
	Rank       int         `json:"rank,omitempty"`
	Counts     peft.Counts `json:"counts"` // tuned parameters
	Candidates []Candidate `json:"candidates,omitempty"`
	// Val is the validation accuracy of the chosen candidate, which was trained without the
	// validation images.
	Val *float64 `json:"val_accuracy,omitempty"`
	// Test is the evaluation of the final training on the test split, done once.
	Test *objective.Evaluation `json:"test,omitempty"`
	// TestMax is the test-max (paper protocol): the largest test accuracy over all epochs.
	TestMax *float64 `json:"test_max,omitempty"`
	// splits of the final training: "train" or "train+val"
	TrainedOn string        `json:"trained_on"`
	Epochs    []train.Epoch `json:"epochs"`  // of the final training
	Seconds   float64       `json:"seconds"` // time spent in all trainings
	// images left out because they were missing or broken
	Skipped int `json:"skipped_images,omitempty"`
}
