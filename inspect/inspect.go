// Package inspect says what a file or folder of this program is, and what is in it: a checkpoint, a
// training state, scores, a plan, a published selection, a delta, a run or a file of one.
package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Inspection describes a file or folder. Kind says which of the other fields is set; a finished run
// has its delta too.
type Inspection struct {
	Path       string         `json:"path"`
	Kind       string         `json:"kind"` // "checkpoint", "training state", "scores", "plan", "published selection", "delta", "run", "metrics", "result" or "candidate"
	Checkpoint *Checkpoint    `json:"checkpoint,omitempty"`
	Scores     *Scores        `json:"scores,omitempty"`
	Plan       *plan.Plan     `json:"plan,omitempty"` // of a published selection too
	Delta      *Delta         `json:"delta,omitempty"`
	Run        *Run           `json:"run,omitempty"`
	Metrics    []train.Epoch  `json:"metrics,omitempty"`   // of a run's metrics.jsonl, at least one
	Result     *run.Result    `json:"result,omitempty"`    // of a run's result.json
	Candidate  *run.Candidate `json:"candidate,omitempty"` // of the result.json of one budget
}

// Checkpoint describes a checkpoint.
type Checkpoint struct {
	Format   string            `json:"format"`  // in words
	Tensors  []Tensor          `json:"tensors"` // sorted by name
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

// Tensor is one tensor of a file.
type Tensor struct {
	Name  string           `json:"name"`
	DType checkpoint.DType `json:"dtype"`
	Shape []int            `json:"shape"`
}

// Scores describes stage 1's result.
type Scores struct {
	Images    int                   `json:"images"`
	Criterion sensitivity.Criterion `json:"criterion"`
	Backbone  string                `json:"backbone"` // fingerprint
	MeanLoss  float64               `json:"mean_loss"`
	Tensors   []ScoredTensor        `json:"tensors"` // in the backbone's order
}

// ScoredTensor sums up the scores of one tensor.
type ScoredTensor struct {
	Name  string  `json:"name"`
	Shape []int   `json:"shape"`
	Sum   float64 `json:"sum"`
	Share float64 `json:"share"` // of the sum over all tensors
}

// Delta describes a delta.
type Delta struct {
	*delta.Delta
	Parameters int `json:"parameters"` // tuned, the head not counted
	Head       int `json:"head_parameters"`
}

// Run describes a run's folder.
type Run struct {
	Config run.Config    `json:"config"`
	Epochs []train.Epoch `json:"epochs,omitempty"` // of the final training, as far as it is
	Result *run.Result   `json:"result,omitempty"` // nil while the run is unfinished
}

// Open recognises what path holds by its content, not by its name, and reads it. A file that is not
// recognised or is broken is a [*run.InputError].
func Open(path string) (*Inspection, error) {
	in, err := open(path)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	in.Path = path
	return in, nil
}

func open(path string) (*Inspection, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("inspecting: %w", err)
	}
	if stat.IsDir() {
		return openFolder(path)
	}
	if !stat.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, fmt.Errorf("inspecting %s: it is neither a regular file nor a folder (mode %v)", path, stat.Mode())
	}
	start, err := head(path)
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", path, err)
	}
	// A safetensors file begins with the length of its header, of which the first byte may be a brace too.
	if text := bytes.TrimLeft(start, " \t\r\n"); len(text) > 0 && text[0] == '{' && !(len(start) > 8 && start[8] == '{' && start[7] == 0) {
		return openJSON(path)
	}
	return openTensors(path)
}

// head is a file's first bytes.
func head(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	start := make([]byte, 64)
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return start[:n], nil
}

func openFolder(path string) (*Inspection, error) {
	header, err := jsonfile.HeaderOf(filepath.Join(path, run.ConfigFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if header.Kind == jsonfile.Run {
		return openRun(path)
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	if exists(delta.FileName) || exists(delta.TensorsName) {
		return openDelta(path)
	}
	if file, err := checkpoint.Find(path); err == nil {
		return openTensors(file)
	}
	return nil, fmt.Errorf("inspecting %s: the folder holds neither a run (%s of spt), nor a delta (%s), nor a checkpoint (model.safetensors or pytorch_model.bin, or the index of either); give one of these, or a file", path, run.ConfigFile, delta.FileName)
}

func openRun(path string) (*Inspection, error) {
	folder, c, err := run.Open(path)
	if err != nil {
		return nil, err
	}
	in := &Inspection{Kind: "run", Run: &Run{Config: c}}
	if in.Run.Epochs, err = folder.Metrics(); err != nil {
		return nil, err
	}
	result, err := folder.Result()
	if err != nil {
		return nil, err
	}
	if result == nil {
		return in, nil
	}
	in.Run.Result = result
	d, err := openDelta(path)
	if err != nil {
		return nil, err
	}
	in.Delta = d.Delta
	return in, nil
}

func openDelta(path string) (*Inspection, error) {
	d, err := delta.Load(path)
	if err != nil {
		return nil, err
	}
	t, err := d.Tuning()
	if err != nil {
		return nil, err
	}
	return &Inspection{Kind: "delta", Delta: &Delta{d, t.Counts.Tuned(), t.Counts.Head}}, nil
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

func openJSON(path string) (*Inspection, error) {
	keys, err := jsonKeys(path)
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(keys, "tau"):
		p, err := plan.LoadFile(path)
		return &Inspection{Kind: "plan", Plan: p}, err
	case slices.Contains(keys, "weight_map"):
		return openTensors(path)
	case slices.Contains(keys, "tensors_sha256"):
		return openDelta(path)
	}
	header, err := jsonfile.HeaderOf(path)
	if err != nil {
		return nil, err
	}
	switch header.Kind {
	case jsonfile.Run:
		return openRun(filepath.Dir(path))
	case jsonfile.Epoch:
		epochs, err := run.LoadMetrics(path)
		return &Inspection{Kind: "metrics", Metrics: epochs}, err
	case jsonfile.Result:
		r, err := run.LoadResult(path)
		return &Inspection{Kind: "result", Result: r}, err
	case jsonfile.Candidate:
		c, err := run.LoadCandidate(path)
		return &Inspection{Kind: "candidate", Candidate: c}, err
	}
	return nil, fmt.Errorf("inspecting %s: this JSON is no plan, delta, configuration, metrics or result of spt", path)
}

func openTensors(path string) (*Inspection, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if slices.ContainsFunc(f.Tensors(), func(t checkpoint.TensorInfo) bool { return t.Name == "unstructured_indexes" }) {
		p, _, err := spt.ImportPlan(path, "", 0)
		return &Inspection{Kind: "published selection", Plan: p}, err
	}
	meta := f.Metadata()
	if _, ok := meta[sensitivity.MetadataKey]; ok {
		return openScores(path)
	}
	in := &Inspection{Kind: "checkpoint", Checkpoint: &Checkpoint{Format: f.Format(), Metadata: meta}}
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
		c.Tensors = append(c.Tensors, Tensor{t.Name, t.DType, t.Shape})
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

func openScores(path string) (*Inspection, error) {
	s, err := sensitivity.Load(path)
	if err != nil {
		return nil, err
	}
	out := &Scores{Images: s.Images, Criterion: s.Criterion, Backbone: s.Backbone, MeanLoss: s.MeanLoss()}
	total := 0.0
	for _, t := range s.Tensors {
		sum := 0.0
		for _, v := range t.Scores {
			sum += float64(v)
		}
		total += sum
		out.Tensors = append(out.Tensors, ScoredTensor{Name: t.Name, Shape: t.Shape, Sum: sum})
	}
	for i := range out.Tensors {
		if total > 0 {
			out.Tensors[i].Share = out.Tensors[i].Sum / total
		}
	}
	return &Inspection{Kind: "scores", Scores: out}, nil
}
