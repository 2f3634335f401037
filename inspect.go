package spt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Inspection is what a file or folder turned out to be. One of the fields is
// set, by Kind; for a run the delta too, once there is one.
type Inspection struct {
	Path       string               `json:"path"`
	Kind       string               `json:"kind"` // "checkpoint", "training state", "scores", "plan", "published selection", "delta", "run", "metrics", "result" or "candidate"
	Checkpoint *InspectedCheckpoint `json:"checkpoint,omitempty"`
	Scores     *InspectedScores     `json:"scores,omitempty"`
	Plan       *plan.Plan           `json:"plan,omitempty"` // of a published selection too
	Delta      *InspectedDelta      `json:"delta,omitempty"`
	Run        *InspectedRun        `json:"run,omitempty"`
	Metrics    []train.Epoch        `json:"metrics,omitempty"`   // of a run's metrics.jsonl, at least one
	Result     *run.Result          `json:"result,omitempty"`    // of a run's result.json
	Candidate  *run.Candidate       `json:"candidate,omitempty"` // of the result.json of one budget
}

// InspectedCheckpoint describes a checkpoint.
type InspectedCheckpoint struct {
	Format   string            `json:"format"`  // in words
	Tensors  []InspectedTensor `json:"tensors"` // sorted by name
	Values   int               `json:"values"`  // of all tensors
	Bytes    int64             `json:"bytes"`   // of all tensors
	Metadata map[string]string `json:"metadata,omitempty"`
	// Backbone is what Load makes of the file; nil where Problem says why it is
	// none.
	Backbone      *backbone.Config        `json:"backbone,omitempty"`
	Head          bool                    `json:"head"` // the file has a classification head
	Preprocessing *backbone.Preprocessing `json:"preprocessing,omitempty"`
	Fingerprint   string                  `json:"fingerprint,omitempty"`
	Report        *checkpoint.Report      `json:"report,omitempty"`
	Classes       []string                `json:"classes,omitempty"`
	Problem       string                  `json:"problem,omitempty"`
}

// InspectedTensor is one tensor of a file.
type InspectedTensor struct {
	Name  string           `json:"name"`
	DType checkpoint.DType `json:"dtype"`
	Shape []int            `json:"shape"`
}

// InspectedScores describes stage 1's result.
type InspectedScores struct {
	Images    int                   `json:"images"`
	Criterion sensitivity.Criterion `json:"criterion"`
	Backbone  string                `json:"backbone"` // fingerprint
	MeanLoss  float64               `json:"mean_loss"`
	Tensors   []ScoredSummary       `json:"tensors"` // in the backbone's order
}

// ScoredSummary sums up the scores of one tensor.
type ScoredSummary struct {
	Name  string  `json:"name"`
	Shape []int   `json:"shape"`
	Sum   float64 `json:"sum"`
	Share float64 `json:"share"` // of the sum over all tensors
}

// InspectedDelta describes a delta.
type InspectedDelta struct {
	*delta.Delta
	Parameters int `json:"parameters"` // tuned, the head not counted
	Head       int `json:"head_parameters"`
}

// InspectedRun describes a run's folder.
type InspectedRun struct {
	Config run.Config    `json:"config"`
	Epochs []train.Epoch `json:"epochs,omitempty"` // of the final training, as far as it is
	Result *run.Result   `json:"result,omitempty"` // nil while the run is unfinished
}

// Inspect recognises a checkpoint, scores, a plan, a selection that the paper's
// authors published, a delta, a run's folder, or a file of one, by what is in it, not by its name. What cannot be recognised, or is broken, is
// an *[run.InputError].
func Inspect(path string) (*Inspection, error) {
	in, err := inspect(path)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	in.Path = path
	return in, nil
}

func inspect(path string) (*Inspection, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("inspecting: %w", err)
	}
	if stat.IsDir() {
		return inspectFolder(path)
	}
	if !stat.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, fmt.Errorf("inspecting %s: it is neither a regular file nor a folder (mode %v)", path, stat.Mode())
	}
	kind, err := checkpoint.Sniff(path)
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", path, err)
	}
	if kind == checkpoint.JSON {
		return inspectJSON(path)
	}
	return inspectTensors(path)
}

func inspectFolder(path string) (*Inspection, error) {
	keys, err := jsonKeys(filepath.Join(path, run.ConfigFile))
	if err != nil {
		return nil, err
	}
	if slices.Contains(keys, "spt") {
		return inspectRun(path)
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	if exists(delta.FileName) || exists(delta.TensorsName) {
		return inspectDelta(path)
	}
	if file, err := checkpoint.Find(path); err == nil {
		return inspectTensors(file)
	}
	return nil, fmt.Errorf("inspecting %s: the folder holds neither a run (%s of spt), nor a delta (%s), nor a checkpoint (model.safetensors or pytorch_model.bin, or the index of either); give one of these, or a file", path, run.ConfigFile, delta.FileName)
}

func inspectRun(path string) (*Inspection, error) {
	c, err := run.LoadConfig(path)
	if err != nil {
		return nil, err
	}
	in := &Inspection{Kind: "run", Run: &InspectedRun{Config: c}}
	if in.Run.Epochs, err = readLines(filepath.Join(path, run.MetricsFile)); err != nil {
		return nil, err
	}
	result := new(run.Result)
	found, err := run.ReadJSON(filepath.Join(path, run.ResultFile), result, run.Redo)
	if err != nil {
		return nil, err
	}
	if !found {
		return in, nil
	}
	in.Run.Result = result
	d, err := inspectDelta(path)
	if err != nil {
		return nil, err
	}
	in.Delta = d.Delta
	return in, nil
}

// readLines reads metrics; a file that is not there has none.
func readLines(path string) (epochs []train.Epoch, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for line := range bytes.Lines(data) {
		var e train.Epoch
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("reading %s: line %d: %w", path, len(epochs)+1, err)
		}
		epochs = append(epochs, e)
	}
	return epochs, err
}

func inspectDelta(path string) (*Inspection, error) {
	d, err := delta.Load(path)
	if err != nil {
		return nil, err
	}
	t, err := d.Tuning()
	if err != nil {
		return nil, err
	}
	return &Inspection{Kind: "delta", Delta: &InspectedDelta{d, t.Counts.Tuned(), t.Counts.Head}}, nil
}

// jsonKeys are the keys of the first JSON object in a file; nil if there is no
// regular file.
func jsonKeys(path string) ([]string, error) {
	if stat, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && !stat.Mode().IsRegular() {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var fields map[string]json.RawMessage
	if err := json.NewDecoder(f).Decode(&fields); err != nil {
		return nil, fmt.Errorf("inspecting %s: broken JSON: %w", path, err)
	}
	return slices.Collect(maps.Keys(fields)), nil
}

func inspectJSON(path string) (*Inspection, error) {
	keys, err := jsonKeys(path)
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(keys, "tau"):
		p, err := plan.LoadFile(path)
		return &Inspection{Kind: "plan", Plan: p}, err
	case slices.Contains(keys, "weight_map"):
		return inspectTensors(path)
	case slices.Contains(keys, "tensors_sha256"):
		return inspectDelta(path)
	case slices.Contains(keys, "spt"):
		return inspectRun(filepath.Dir(path))
	case slices.Contains(keys, "train_loss"):
		epochs, err := readLines(path)
		return &Inspection{Kind: "metrics", Metrics: epochs}, err
	case slices.Contains(keys, "trained_on"):
		r := new(run.Result)
		_, err := run.ReadJSON(path, r, run.Redo)
		return &Inspection{Kind: "result", Result: r}, err
	case slices.Contains(keys, "counts") && slices.Contains(keys, "val_loss"):
		c := new(run.Candidate)
		_, err := run.ReadJSON(path, c, run.Redo)
		return &Inspection{Kind: "candidate", Candidate: c}, err
	}
	return nil, fmt.Errorf("inspecting %s: this JSON is no plan, delta, configuration, metrics or result of spt", path)
}

func inspectTensors(path string) (*Inspection, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if slices.ContainsFunc(f.Tensors(), func(t checkpoint.TensorInfo) bool { return t.Name == "unstructured_indexes" }) {
		p, _, err := ImportPlan(path, "", 0)
		return &Inspection{Kind: "published selection", Plan: p}, err
	}
	meta := f.Metadata()
	if _, ok := meta[sensitivity.MetadataKey]; ok {
		return inspectScores(path)
	}
	in := &Inspection{Kind: "checkpoint", Checkpoint: &InspectedCheckpoint{Format: f.Format(), Metadata: meta}}
	if _, ok := meta[train.MetadataKey]; ok {
		in.Kind = "training state"
	}
	c := in.Checkpoint
	for _, t := range f.Tensors() {
		values := 1
		for _, d := range t.Shape {
			values *= d
		}
		c.Values += values
		c.Bytes += t.Bytes()
		c.Tensors = append(c.Tensors, InspectedTensor{t.Name, t.DType, t.Shape})
	}
	if in.Kind == "training state" {
		return in, nil
	}
	if c.Classes, err = delta.Classes(f); err != nil {
		return nil, err
	}
	m, report, err := backbone.Load(path, backbone.LoadOptions{})
	headless := errors.Is(err, backbone.ErrNoHead)
	if headless {
		m, report, err = backbone.Load(path, backbone.LoadOptions{NumClasses: 1})
	}
	if err != nil {
		c.Problem = err.Error()
		return in, nil
	}
	if c.Head = !headless; headless {
		m.Config.NumClasses = 0
	}
	c.Backbone, c.Preprocessing, c.Report, c.Fingerprint = &m.Config, &m.Preprocessing, &report, m.Fingerprint()
	return in, nil
}

func inspectScores(path string) (*Inspection, error) {
	s, err := sensitivity.Load(path)
	if err != nil {
		return nil, err
	}
	out := &InspectedScores{Images: s.Images, Criterion: s.Criterion, Backbone: s.Backbone, MeanLoss: s.MeanLoss()}
	total := 0.0
	for _, t := range s.Tensors {
		sum := 0.0
		for _, v := range t.Scores {
			sum += float64(v)
		}
		total += sum
		out.Tensors = append(out.Tensors, ScoredSummary{Name: t.Name, Shape: t.Shape, Sum: sum})
	}
	for i := range out.Tensors {
		if total > 0 {
			out.Tensors[i].Share = out.Tensors[i].Sum / total
		}
	}
	return &Inspection{Kind: "scores", Scores: out}, nil
}
