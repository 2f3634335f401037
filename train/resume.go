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
	"github.com/sptune/spt/peft"
)

// progress is where a run stands. Together with the tuned tensors and the
// optimiser's moments it is all that a run needs to go on to the same bits.
type progress struct {
	Version  int     `json:"version"`
	Identity string  `json:"identity"` // of the run, see identity
	Epoch    int     `json:"epoch"`    // from 0
	Step     int     `json:"step"`     // next step of the epoch, from 0
	Steps    int     `json:"steps"`    // optimiser steps taken in all
	LossSum  float64 `json:"loss_sum"` // of the epoch so far, over images
	Correct  int     `json:"correct"`  // of the epoch so far
	Seconds  float64 `json:"seconds"`  // of the epoch so far
	History  []Epoch `json:"history"`

	resumed *moments
}

type moments struct{ first, second checkpoint.StateDict }

func (p *progress) epochDone(o Options, batch, steps int) Epoch {
	images := float64(batch * steps)
	return Epoch{
		Epoch:           p.Epoch + 1,
		LR:              o.LearningRate(float64(p.Epoch) + float64(steps-1)/float64(steps)),
		TrainLoss:       p.LossSum / images,
		TrainAccuracy:   float64(p.Correct) / images,
		Seconds:         p.Seconds,
		ImagesPerSecond: images / p.Seconds,
	}
}

func (p *progress) next() {
	p.Epoch++
	p.Step, p.LossSum, p.Correct, p.Seconds = 0, 0, 0, 0
}

// stateVersion is that of checkpoints. In the first, a run's identity held the place of its data.
const stateVersion = 2

// MetadataKey is the metadata by which a training checkpoint is recognised.
const MetadataKey = "spt_progress"

// identity changes when a checkpoint must not be continued.
func (r *Run) identity() string {
	text, err := json.Marshal(struct {
		Options   Options
		Selection peft.Selection
		Backbone  string
		Size      int // of the images, which not every fingerprint says
		Precision backend.Precision
		Images    string
	}{r.Options, r.Tuning.Selection, r.Model.Fingerprint(), r.Model.Config.ImageSize, r.Model.Precision, r.Train.loader.Fingerprint()})
	if err != nil {
		// Every field is plain data; NaN options are refused by Validate.
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (r *Run) save(s *Stepper, p progress) error {
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
	p.Version, p.Identity = stateVersion, r.id
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("writing the training state to %s: %w", r.Checkpoint, err)
	}
	return checkpoint.Save(r.Checkpoint, entries, map[string]string{MetadataKey: string(text)})
}

// StateError says why a training cannot go on from its checkpoint.
type StateError struct {
	Path string
	Err  error
}

func (e *StateError) Error() string {
	text := fmt.Sprintf("resuming from %s: %v", e.Path, e.Err)
	if unread := (*fs.PathError)(nil); errors.As(e.Err, &unread) {
		return text // it may be whole
	}
	return text + "; remove it to begin this training anew"
}

// Unwrap returns the cause.
func (e *StateError) Unwrap() error { return e.Err }

// loadProgress reads a checkpoint of a run of that identity; its errors are *StateErrors.
func loadProgress(path string, t *peft.Tuning, identity string) (p progress, tuned checkpoint.StateDict, err error) {
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
	text, ok := f.Metadata()[MetadataKey]
	if !ok {
		return p, nil, fmt.Errorf("its metadata has no %q; is it a training checkpoint?", MetadataKey)
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, nil, fmt.Errorf("metadata %q: %w", MetadataKey, err)
	}
	if p.Version != stateVersion {
		return p, nil, fmt.Errorf("it is of version %d, and this program goes on from version %d", p.Version, stateVersion)
	}
	if p.Identity != identity {
		return p, nil, errors.New("it belongs to a run with other options, data, plan or backbone; give the same ones")
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
