package run

import (
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// Candidate is one budget that was tried.
type Candidate struct {
	Budget      string      `json:"budget,omitempty"`
	Counts      peft.Counts `json:"counts"`
	ValAccuracy float64     `json:"val_accuracy"` // of the last epoch
	ValLoss     float64     `json:"val_loss"`
	Seconds     float64     `json:"seconds"` // of training
}

// Result is what a run found.
type Result struct {
	Method     method.Method         `json:"method"`
	Budget     string                `json:"budget,omitempty"` // of the chosen candidate
	Counts     peft.Counts           `json:"counts"`           // tuned parameters
	Candidates []Candidate           `json:"candidates,omitempty"`
	Val        *float64              `json:"val_accuracy,omitempty"`   // of the chosen candidate, trained without val
	Test       *objective.Evaluation `json:"test,omitempty"`           // of the final training, tested once
	TestMax    *float64              `json:"test_max,omitempty"`       // test-max (paper protocol): greatest over epochs
	TrainedOn  string                `json:"trained_on"`               // "train+val" or "train"
	Epochs     []train.Epoch         `json:"epochs"`                   // of the final training
	Seconds    float64               `json:"seconds"`                  // of training, all trainings together
	Skipped    int                   `json:"skipped_images,omitempty"` // left out because they were broken
}
