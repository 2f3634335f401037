package train

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/peft"
)

// position is where a training stands. Together with the tuned tensors and the optimiser's moments
// it is all that a training needs to continue to the same bits.
type position struct {
	Identity string  `json:"identity"` // of the training; see identity
	Epoch    int     `json:"epoch"`    // epoch to continue with, from 0
	Step     int     `json:"step"`     // next step of the epoch, from 0
	Steps    int     `json:"steps"`    // optimiser steps taken so far, over all epochs
	LossSum  float64 `json:"loss_sum"` // sum of the losses of the epoch's images so far
	Correct  float64 `json:"correct"`  // right predictions of the epoch so far
	Seconds  float64 `json:"seconds"`  // time spent in the epoch so far
	History  []Epoch `json:"history"`  // finished epochs

	resumed *moments // nil at the start of a training
}

type moments struct{ first, second checkpoint.StateDict }

// epochDone returns the figures of the epoch that has ended.
func (p *position) epochDone(o Options, batch, steps int) Epoch {
	images := float64(batch * steps)
	return Epoch{
		Epoch:           p.Epoch + 1,
		LR:              o.learningRate(float64(p.Epoch) + float64(steps-1)/float64(steps)),
		TrainLoss:       p.LossSum / images,
		TrainAccuracy:   p.Correct / images,
		Seconds:         p.Seconds,
		ImagesPerSecond: images / p.Seconds,
	}
}

// next moves to the start of the next epoch.
func (p *position) next() {
	p.Epoch++
	p.Step, p.LossSum, p.Correct, p.Seconds = 0, 0, 0, 0
}

// interrupted returns the error of a training that ended here.
func (p *position) interrupted(cause error) error {
	return fmt.Errorf("training stopped in epoch %d at step %d: %w", p.Epoch+1, p.Step, cause)
}

// stateHeader is the kind and version of a training state file.
var stateHeader = jsonfile.Header{Kind: jsonfile.TrainingState, Version: 1}

// identity returns a hash that differs between trainings that must not continue from each other's
// state.
func (r *Run) identity() string {
	text, err := json.Marshal(struct {
		Options   Options
		Objective string
		Selection peft.Selection
		Backbone  string
		Size      int // image size, which the fingerprint of some backbones leaves out
		Precision backend.Precision
		Images    string
	}{r.Options, r.Train.objective.Name(), r.Tuning.Selection, r.Model.Fingerprint(), r.Model.Config.ImageSize, r.Model.Precision, r.Train.loader.Fingerprint()})
	if err != nil {
		// Every field is plain data; Validate refuses options that are NaN.
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// save writes the training state, if the run keeps one.
func (r *Run) save(s *Stepper, p position) error {
	if r.Checkpoint == "" {
		return nil
	}
	tuned, first, second, err := s.save()
	if err != nil {
		return err
	}
	var entries []checkpoint.Entry
	for prefix, sd := range map[string]checkpoint.StateDict{"tuned.": tuned, "exp_avg.": first, "exp_avg_sq.": second} {
		for name, v := range sd {
			entries = append(entries, checkpoint.Entry{Name: prefix + name, DType: "F32", Shape: v.Shape, Data: v.Data})
		}
	}
	p.Identity = r.id
	metadata, err := stateHeader.Metadata(p)
	if err != nil {
		return fmt.Errorf("writing the training state to %s: %w", r.Checkpoint, err)
	}
	return checkpoint.Save(r.Checkpoint, entries, metadata)
}

// StateError reports a training state file from which a training cannot continue.
type StateError struct {
	Path string // path of the file
	Err  error  // cause
}

// Error names the file and the cause. It says to remove the file, unless the file could not be
// read.
func (e *StateError) Error() string {
	text := fmt.Sprintf("resuming from %s: %v", e.Path, e.Err)
	if unread := (*fs.PathError)(nil); errors.As(e.Err, &unread) {
		return text // the content of the file may be good
	}
	return text + "; remove it to begin this training anew"
}

// Unwrap returns the cause.
func (e *StateError) Unwrap() error { return e.Err }

// loadState reads the training state of the training with that identity. Its errors are of type
// *StateError.
func loadState(path string, t *peft.Tuning, identity string) (p position, tuned checkpoint.StateDict, err error) {
	defer func() {
		if err != nil {
			err = &StateError{path, err}
		}
	}()
	f, err := checkpoint.Open(path)
	if err != nil {
		return p, nil, err
	}
	defer f.Close()
	if err := stateHeader.ReadMetadata(f.Metadata(), &p); err != nil {
		return p, nil, err
	}
	if p.Identity != identity {
		return p, nil, errors.New("it belongs to a training with other options, data, plan or backbone; give the same ones")
	}
	groups := map[string]checkpoint.StateDict{"tuned": {}, "exp_avg": {}, "exp_avg_sq": {}}
	for _, info := range f.Tensors() {
		group, name, _ := strings.Cut(info.Name, ".")
		sd, ok := groups[group]
		if !ok {
			return p, nil, fmt.Errorf("unknown tensor %q", info.Name)
		}
		if sd[name], err = f.Float32(info.Name); err != nil {
			return p, nil, err
		}
	}
	for _, q := range t.Params {
		for group, sd := range groups {
			if v, ok := sd[q.Name]; !ok || v.Size() != q.Size() {
				return p, nil, fmt.Errorf("%s.%s has shape %v, expected %v", group, q.Name, v.Shape, q.Shape)
			}
		}
	}
	p.resumed = &moments{groups["exp_avg"], groups["exp_avg_sq"]}
	return p, groups["tuned"], nil
}
