// Package delta stores the result of tuning. A [Delta] holds all tuned parameters and the head, but
// not the frozen weights of the backbone.
//
// Begin with [Load], which reads a delta, and [Delta.OpenBackbone], which loads its backbone. [New]
// and [Delta.Save] make and write a delta; [Delta.SaveHalf] writes a smaller one. [LoadPEFT] reads
// an adapter of Hugging Face's library PEFT, which becomes a Delta. [Delta.Check] returns an error
// for a backbone other than the one that was tuned. [Delta.Merge] merges the tuned parameters into
// a copy of the backbone and compares the logits before and after; [Merged.Save] then writes a
// checkpoint that timm can read. Some methods, such as adapters and prompts, cannot be merged.
//
// A delta consists of two files in one folder. "spt_delta.json" describes the tuned parameters and
// their use; its fields are the fields of Delta. "spt_delta.safetensors" holds the values: each
// tuned tensor as F32 under its peft.Param.Name, and the positions of the tuned entries of tensor
// NAME as I32 under NAME.sparse_indices. The JSON file holds the SHA-256 of the other file, so that
// Load detects mixed or damaged pairs. It also holds the fingerprint of the backbone.
package delta

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// header is the kind and the version of a spt_delta.json that [Delta.Save] writes.
var header = jsonfile.Header{Kind: jsonfile.Delta, Version: 1}

// The names of the two files of a delta.
const (
	FileName    = "spt_delta.json"
	TensorsName = "spt_delta.safetensors"
)

// Delta is the result of tuning a backbone on a task. A delta and its backbone together can
// predict.
type Delta struct {
	// Method is the name of the method, such as "spt-lora". It is for people only; Selection
	// defines the tuned parameters.
	Method string `json:"method"`
	// Objective is the name of the objective of the task, such as "single-label". See
	// objective.Get.
	Objective string `json:"objective"`
	// Classes holds the names of the classes, in the order of the rows of the head.
	Classes []string `json:"classes"`
	// Config is the configuration of the backbone, with NumClasses and ImageSize of the task.
	Config backbone.Config `json:"config"`
	// Preprocessing is the normalisation of the pixels during tuning.
	Preprocessing backbone.Preprocessing `json:"preprocessing"`
	// Transform configures how an image is resized to Config.ImageSize² pixels for evaluation.
	Transform Transform `json:"transform"`
	// Selection names the tuned parameters. Its Entries are stored in the safetensors file, not in
	// the JSON file.
	Selection peft.Selection `json:"selection"`
	// Plan sums up the plan and its cost. It is nil for a method without a plan.
	Plan *PlanSummary `json:"plan,omitempty"`
	// Backbone identifies the backbone.
	Backbone Backbone `json:"backbone"`
	// Posthoc has what validation images say about the reading of the logits: a temperature, or
	// thresholds and calibrations of labels.
	evaluate.Posthoc
	// Metrics holds results by name, such as "val_accuracy", which is a fraction from 0 to 1.
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Tuned holds the tuned tensors, including the head, by peft.Param.Name.
	Tuned checkpoint.StateDict `json:"-"`
}

// Transform is the part of dataset.Transform that predictions use.
type Transform struct {
	// Resize is "direct" (resize to the square), "direct-crop" (resize to the square of ResizeTo,
	// then cut out the centre) or "crop" (resize the shorter side to ResizeTo, then cut out the
	// centre).
	Resize string `json:"resize"`
	// ResizeTo is the size before the centre is cut out, in px. It has no effect with "direct".
	// Default: 256/224 of the image size, rounded.
	ResizeTo int `json:"resize_to,omitempty"`
	// TestFlip reports whether predictions average the logits of an image and its mirror image.
	TestFlip bool `json:"test_flip,omitempty"`
}

// PlanSummary holds the fields of a plan.Plan without the selection, which is in Delta.Selection.
type PlanSummary struct {
	Budget int       `json:"budget"`           // budget, in parameters without the head
	Tau    int       `json:"tau"`              // rank of the last score that changed the plan
	Compat string    `json:"compat,omitempty"` // plan.CompatRelease or empty
	Only   string    `json:"only,omitempty"`   // plan.Structured, plan.Unstructured or empty
	Rule   string    `json:"rule,omitempty"`   // one of plan.Rules, or empty
	Alpha  float64   `json:"alpha"`            // threshold for structured modules; see plan.Options
	Beta   float64   `json:"beta"`             // threshold for whole vectors; see plan.Options
	Cost   plan.Cost `json:"cost"`             // numbers of tuned parameters, by part
}

// Backbone identifies a backbone.
type Backbone struct {
	// Fingerprint is the hexadecimal SHA-256 of the weights without the head, from
	// backbone.Model.Fingerprint. It includes the position embedding, so it depends on the image
	// size with which the backbone was loaded.
	Fingerprint string `json:"fingerprint"`
	// File tells people which checkpoint to look for. It is the base name of a file, or
	// hf:OWNER/NAME@COMMIT on the Hugging Face Hub. It is empty for a backbone that was made in
	// memory.
	File string `json:"file,omitempty"`
	// Path is the absolute path of the checkpoint, which may have moved. [Delta.Save] writes it
	// relative to the folder of the delta if both lie below a common folder that is not the root of
	// the file system, so both can move together. It is empty if the checkpoint comes from the Hub
	// or from memory.
	Path string `json:"path,omitempty"`
	// WeightsKey is the place of the weights in the checkpoint; see backbone.Model.WeightsKey.
	WeightsKey string `json:"weights_key,omitempty"`
	// Parameters is the number of parameters without the head, from backbone.Config.Size.
	Parameters int `json:"parameters"`
}

// New returns a delta for the backbone m. It sets Config, Preprocessing and Backbone, and Plan from
// the plan p. p is nil for a method without a plan. The caller sets all other fields.
func New(m *backbone.Model, p *plan.Plan) *Delta {
	d := &Delta{Config: m.Config, Preprocessing: m.Preprocessing, Backbone: identify(m)}
	if p != nil {
		d.Plan = &PlanSummary{Budget: p.Budget, Tau: p.Tau, Compat: p.Compat, Only: p.Only, Rule: p.Rule, Alpha: p.Alpha, Beta: p.Beta, Cost: p.Cost}
	}
	return d
}

// identify returns the Backbone that identifies m.
func identify(m *backbone.Model) Backbone {
	b := Backbone{Fingerprint: m.Fingerprint(), WeightsKey: m.WeightsKey, Parameters: m.Config.Size()}
	switch {
	case m.Origin != "":
		b.File = m.Origin
	case m.Path != "":
		b.File = filepath.Base(m.Path)
		// An error means that the working folder is gone; then nobody finds the path again.
		b.Path, _ = filepath.Abs(m.Path)
	}
	return b
}

// String returns the quoted File, or a phrase if File is empty.
func (b Backbone) String() string {
	if b.File == "" {
		return "a backbone without a file"
	}
	return fmt.Sprintf("%.200q", b.File)
}

// ImageTransform returns the transform that resizes an image to the image size of the delta for
// evaluation.
func (d *Delta) ImageTransform() dataset.Transform {
	return dataset.Transform{Size: d.Config.ImageSize, Resize: d.Transform.Resize, ResizeTo: d.Transform.ResizeTo, TestFlip: d.Transform.TestFlip}
}

// maxRank is the largest rank that Load accepts, far above any useful rank. It keeps numbers in a
// hostile file from overflowing or exhausting the memory.
const maxRank = 1 << 16

// validate checks every rule of the format.
func (d *Delta) validate() error {
	if err := d.validateDescription(); err != nil {
		return err
	}
	if err := d.validateSelection(); err != nil {
		return err
	}
	t, err := peft.New(d.Config, d.Selection)
	if err != nil {
		return err
	}
	return d.validateTensors(t)
}

// validateDescription checks all fields except the selection and the tensors.
func (d *Delta) validateDescription() error {
	if d.Method == "" {
		return errors.New(`method is empty, expected the name of the method, such as "spt-lora"`)
	}
	if _, err := objective.Get(d.Objective); err != nil {
		return err
	}
	if err := d.Config.Validate(); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if d.Selection.Rank > maxRank {
		return fmt.Errorf("selection.rank is %d, expected at most %d", d.Selection.Rank, maxRank)
	}
	if len(d.Classes) != d.Config.NumClasses {
		return fmt.Errorf("classes has %d names, expected the %d of config.num_classes: one for each row of the head", len(d.Classes), d.Config.NumClasses)
	}
	if d.Transform.Resize == "" {
		return errors.New(`transform.resize is empty, expected "direct", "crop" or "direct-crop"`)
	}
	if err := d.ImageTransform().Validate(); err != nil {
		return fmt.Errorf("transform: %w", err)
	}
	p := d.Preprocessing
	for i := range 3 {
		if !finite(p.Mean[i]) || !finite(p.Std[i]) || p.Std[i] <= 0 {
			return fmt.Errorf("preprocessing has mean %v and std %v, expected finite numbers and std above 0", p.Mean, p.Std)
		}
	}
	if p.Interpolation != "bicubic" {
		return fmt.Errorf("preprocessing.interpolation is %q, expected %q", p.Interpolation, "bicubic")
	}
	if sum, err := hex.DecodeString(d.Backbone.Fingerprint); err != nil || len(sum) != 32 {
		return fmt.Errorf("backbone.fingerprint is %.80q, expected 64 hexadecimal digits", d.Backbone.Fingerprint)
	}
	if d.Backbone.Parameters != d.Config.Size() {
		return fmt.Errorf("backbone.parameters is %d, but a backbone with this config has %d parameters without the head", d.Backbone.Parameters, d.Config.Size())
	}
	if f := d.Backbone.File; f != "" && f != filepath.Base(f) {
		if _, err := hub.Parse(f); err != nil {
			return fmt.Errorf("backbone.file is %.200q, expected a file name without a folder, or a reference to the Hugging Face Hub", f)
		}
	}
	several := d.Thresholds != nil || d.LabelCalibration != nil
	if o, err := objective.Get(d.Objective); err == nil { // others are registered elsewhere
		several = objective.SeveralLabels(o, d.Config)
	}
	if err := d.Posthoc.Check(len(d.Classes), several); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(d.Metrics)) {
		if v := d.Metrics[name]; math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("metrics: %q is %v, expected a finite number; leave it out", name, v)
		}
	}
	return nil
}

// validateSelection checks the rules of the format that peft.New does not check.
func (d *Delta) validateSelection() error {
	listed := slices.Concat(d.Selection.Structured, d.Selection.Whole, slices.Collect(maps.Keys(d.Selection.Entries)))
	for _, p := range d.Config.Params() {
		if p.Role == backbone.Head && slices.Contains(listed, p.Name) {
			return fmt.Errorf("the selection lists %s; the head is always tuned and never listed", p.Name)
		}
	}
	for name, entries := range d.Selection.Entries {
		if len(entries) == 0 {
			return fmt.Errorf("the selection has no positions in %.200q; leave the tensor out", name)
		}
	}
	return nil
}

// validateTensors checks that the delta has exactly the tensors of t, with their shapes and with
// finite values.
func (d *Delta) validateTensors(t *peft.Tuning) error {
	for _, p := range t.Params {
		v, ok := d.Tuned[p.Name]
		switch {
		case !ok:
			return fmt.Errorf("the tuned tensor %q of shape %v is missing; the delta is incomplete: save it or fetch it again", p.Name, p.Shape)
		case !slices.Equal(v.Shape, p.Shape) || len(v.Data) != p.Size():
			return fmt.Errorf("the tuned tensor %q has shape %v and %d values, expected shape %v; the values belong to another selection or backbone", p.Name, v.Shape, len(v.Data), p.Shape)
		}
		for i, x := range v.Data {
			if !finite(x) {
				return fmt.Errorf("the tuned tensor %q holds %v at position %d, expected finite values; tune again, with a lower learning rate if training diverged", p.Name, x, i)
			}
		}
	}
	if len(d.Tuned) == len(t.Params) {
		return nil
	}
	known := map[string]bool{}
	for _, p := range t.Params {
		known[p.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(d.Tuned)) {
		if !known[name] {
			return fmt.Errorf("the tensor %.200q is not a tuned tensor of the selection; remove it, or add it to the selection", name)
		}
	}
	return nil
}

func finite(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }
