package train

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// position holds how far a training has progressed. The tuned tensors, the moments of the optimiser
// and a position are together the complete state of a training.
type position struct {
	Identity string  `json:"identity"` // identity of the training; see Run.identity
	Epoch    int     `json:"epoch"`    // epoch to continue with, from 0
	Step     int     `json:"step"`     // next step of the epoch, from 0
	Steps    int     `json:"steps"`    // optimiser steps taken so far, over all epochs
	LossSum  float64 `json:"loss_sum"` // sum of the losses of the images so far, in this epoch
	Correct  float64 `json:"correct"`  // number of correct predictions so far, in this epoch
	Seconds  float64 `json:"seconds"`  // time spent on this epoch so far
	// Waited is the part of Seconds in which the steps waited for mini-batches.
	Waited  float64 `json:"waited,omitempty"`
	History []Epoch `json:"history"` // finished epochs
	// Total is the number of optimiser steps of the training. It is smaller than Options.total if
	// the training had too little time for all steps.
	Total int `json:"total,omitempty"`

	// moments that were read from a checkpoint file; nil for a new training
	resumed *moments
	// tuned tensors after the epoch best(); nil without Options.Patience
	bestTuned checkpoint.StateDict
}

// possible reports whether a training of total steps, with the given number of steps in each epoch,
// can have the position.
func (p *position) possible(total, steps int) bool {
	finished := p.Epoch*steps + p.Step
	if p.Step == 0 && p.Steps == p.Total { // the last epoch may have fewer steps
		finished = min(finished, p.Total)
	}
	return p.Epoch >= 0 && p.Step >= 0 && p.Step <= steps && p.Steps == finished && p.Steps <= p.Total && p.Total <= total && len(p.History) == p.Epoch
}

// learningRate returns the learning rate of a step of the current epoch, which has the given number
// of steps. The schedule of o ends at the last step of the training.
func (p *position) learningRate(o Options, step, steps int) float64 {
	if p.Total == o.Epochs*steps {
		return o.learningRate(float64(p.Epoch) + float64(step)/float64(steps))
	}
	return o.learningRate(float64(o.Epochs) * float64(p.Epoch*steps+step) / float64(p.Total))
}

// epochs returns the number of epochs of the training, if an epoch has the given number of steps.
func (p *position) epochs(steps int) int { return (p.Total + steps - 1) / steps }

// best returns the index of the finished epoch with the best validation metric by; of equal ones it
// is the first with the lowest validation loss.
func (p *position) best(by objective.Selection) int {
	best := 0
	for i, e := range p.History {
		b := p.History[best]
		if cmp.Or(cmp.Compare(e.Selected(by), b.Selected(by)), cmp.Compare(b.ValLoss, e.ValLoss)) > 0 {
			best = i
		}
	}
	return best
}

// finished reports whether the training has taken all its steps, or stops early.
func (p *position) finished(o Options, validates bool) bool {
	// a Step above 0 means that the last epoch is trained, but not validated
	return p.Step == 0 && (p.Steps >= p.Total || validates && o.Patience > 0 && len(p.History)-1-p.best(o.Select) >= o.Patience)
}

// moments holds the moments of the optimiser, by peft.Param.Name.
type moments struct{ first, second checkpoint.StateDict }

// epochDone returns the figures of the epoch that has just ended. Its steps read the given number
// of images.
func (p *position) epochDone(o Options, steps, read int) Epoch {
	images := float64(read)
	e := Epoch{
		Epoch:         p.Epoch + 1,
		LR:            p.learningRate(o, p.Step-1, steps),
		TrainLoss:     p.LossSum / images,
		TrainAccuracy: p.Correct / images,
		Seconds:       p.Seconds,
	}
	// The clock of Windows advances in steps of up to 16 ms, so a short epoch may take no time.
	// JSON cannot hold infinity.
	if e.Seconds > 0 {
		e.ImagesPerSecond = images / e.Seconds
		e.WaitShare = min(p.Waited/e.Seconds, 1)
	}
	return e
}

// next moves p to the start of the next epoch.
func (p *position) next() {
	p.Epoch++
	p.Step, p.LossSum, p.Correct, p.Seconds, p.Waited = 0, 0, 0, 0, 0
}

// interrupted returns the error for a training that was interrupted at p.
func (p *position) interrupted(cause error) error {
	if p.Step == 0 {
		return fmt.Errorf("training stopped before the first step of epoch %d: %w", p.Epoch+1, cause)
	}
	return fmt.Errorf("training stopped in epoch %d after %d of its steps: %w", p.Epoch+1, p.Step, cause)
}

// bestGroup is the prefix of the tuned tensors of the best epoch in a training state file.
const bestGroup = "best"

// stateHeader is the kind and version of a training state file.
var stateHeader = jsonfile.Header{Kind: jsonfile.TrainingState, Version: 1}

// identity returns a hash of the inputs that decide the training, such as options, data and
// selection. A training may continue only from a state with the same identity.
func (r *Run) identity() string {
	text, err := json.Marshal(struct {
		Options   Options
		Objective string
		Selection peft.Selection
		Backbone  string
		Size      int // image size; the fingerprint of some backbones does not include it
		Precision backend.Precision
		Images    string
		Initial   string `json:",omitempty"`
	}{r.Options, r.Train.objective.Name(), r.Tuning.Selection, r.Model.Fingerprint(), r.Model.Config.ImageSize, r.Model.Precision, r.Train.loader.Fingerprint(), hashOf(r.Initial)})
	if err != nil {
		// This cannot happen: all fields are plain data, and Validate rejects options that are NaN.
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// hashOf returns a hash of the names and values of tensors. It is empty without tensors.
func hashOf(tensors checkpoint.StateDict) string {
	if len(tensors) == 0 {
		return ""
	}
	h := sha256.New() // its Write never fails
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		fmt.Fprintf(h, "%q %v\n", name, tensors[name].Shape)
		_ = binary.Write(h, binary.LittleEndian, tensors[name].Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// save writes the training state to the Checkpoint file. It does nothing if Checkpoint is empty.
func (r *Run) save(s *Stepper, p position) error {
	if r.Checkpoint == "" {
		return nil
	}
	tuned, first, second, err := s.save()
	if err != nil {
		return err
	}
	var entries []checkpoint.Entry
	for prefix, sd := range map[string]checkpoint.StateDict{"tuned.": tuned, "exp_avg.": first, "exp_avg_sq.": second, bestGroup + ".": p.bestTuned} {
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

// StateError reports that a training cannot continue from a checkpoint file. [Run.Do] returns it.
type StateError struct {
	Path string // path of the file
	Err  error  // cause
}

// Error returns a message with the path and the cause. The message advises to remove the file,
// unless the file could not be read.
func (e *StateError) Error() string {
	text := fmt.Sprintf("resuming from %s: %v", e.Path, e.Err)
	if unread := (*fs.PathError)(nil); errors.As(e.Err, &unread) {
		return text // the content of the file may be valid
	}
	return text + "; remove the file to start the training from the beginning"
}

// Unwrap returns Err.
func (e *StateError) Unwrap() error { return e.Err }

// loadState reads the training state from a file. The state must have the given identity. All
// errors are of type *StateError.
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
		return p, nil, errors.New("the file belongs to a training with other options, data, plan or backbone; give the same ones to continue it")
	}
	groups := map[string]checkpoint.StateDict{"tuned": {}, "exp_avg": {}, "exp_avg_sq": {}, bestGroup: {}}
	for _, info := range f.Tensors() {
		group, name, _ := strings.Cut(info.Name, ".")
		sd, ok := groups[group]
		if !ok {
			return p, nil, fmt.Errorf("the file has an unknown tensor %q", info.Name)
		}
		if sd[name], err = f.Float32(info.Name); err != nil {
			return p, nil, err
		}
	}
	if len(groups[bestGroup]) == 0 {
		delete(groups, bestGroup)
	}
	for _, q := range t.Params {
		for group, sd := range groups {
			if v, ok := sd[q.Name]; !ok || v.Size() != q.Size() {
				return p, nil, fmt.Errorf("tensor %s.%s has shape %v, expected %v", group, q.Name, v.Shape, q.Shape)
			}
		}
	}
	p.resumed, p.bestTuned = &moments{groups["exp_avg"], groups["exp_avg_sq"]}, groups[bestGroup]
	return p, groups["tuned"], nil
}
