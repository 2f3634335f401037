// Package inspect recognises files and folders of spt and describes their content.
//
// Its only function, [Open], reads a checkpoint, a training state, scores, a plan, a published
// selection, a delta, a run or a file of a run. It recognises the kind by the content, not by the
// name. It returns an [Inspection]; the field Kind tells which of the other fields is set.
package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/plan/published"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/tracking"
	"github.com/sptune/spt/train"
)

// Inspection describes a file or folder. Kind tells which of the other fields is set.
type Inspection struct {
	// Path is the path of the file or folder. For a checkpoint of the Hugging Face Hub it is the
	// path of the downloaded file.
	Path string `json:"path"`
	// Kind is "checkpoint", "training state", "scores", "plan", "published selection", "delta",
	// "run", "metrics", "result", "candidate", "folds", "predictions" or "deliveries".
	Kind string `json:"kind"`
	// Checkpoint describes a checkpoint or a training state.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	// Scores sums up the result of stage 1.
	Scores *Scores `json:"scores,omitempty"`
	// Plan is a plan, or the plan that a published selection stands for.
	Plan *plan.Plan `json:"plan,omitempty"`
	// Delta describes a delta, or the delta of a finished run.
	Delta *Delta `json:"delta,omitempty"`
	// Run describes the folder of a run.
	Run *Run `json:"run,omitempty"`
	// Metrics holds the epochs in metrics.jsonl of a run, at least one.
	Metrics []train.Epoch `json:"metrics,omitempty"`
	// Result is the content of result.json of a run.
	Result *run.Result `json:"result,omitempty"`
	// Candidate is the content of result.json of a candidate of a run.
	Candidate *run.Candidate `json:"candidate,omitempty"`
	// Folds is the content of folds.json of a cross-validation.
	Folds *run.FoldsResult `json:"folds,omitempty"`
	// Predictions sums up predictions.jsonl of a run.
	Predictions *Predictions `json:"predictions,omitempty"`
	// Deliveries holds the runs on MLflow servers in mlflow.json of a run, at least one.
	Deliveries []tracking.Delivery `json:"deliveries,omitempty"`
}

// Checkpoint describes a checkpoint or a training state. The fields from Backbone to Report are
// only set if the file is the checkpoint of a backbone.
type Checkpoint struct {
	// Format is the name of the file format, for people; see checkpoint.File.Format.
	Format string `json:"format"`
	// Tensors lists the tensors, sorted by name.
	Tensors []checkpoint.TensorInfo `json:"tensors"`
	// Values is the number of values of all tensors together.
	Values int `json:"values"`
	// Bytes is the size of all tensors together, in bytes.
	Bytes int64 `json:"bytes"`
	// Metadata holds the metadata of the file.
	Metadata map[string]string `json:"metadata,omitempty"`
	// Backbone is the configuration with which backbone.Load would load the file. NumClasses is 0
	// without a head.
	Backbone *backbone.Config `json:"backbone,omitempty"`
	// Head reports whether the file has a classification head.
	Head bool `json:"head"`
	// Preprocessing is the normalisation of the input of the backbone.
	Preprocessing *backbone.Preprocessing `json:"preprocessing,omitempty"`
	// Fingerprint identifies the weights; see backbone.Model.Fingerprint.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Report lists the tensors that the backbone uses, and the missing and unused tensors.
	Report *checkpoint.Report `json:"report,omitempty"`
	// Classes holds the names of the rows of the head; see backbone.ReadClasses. It is nil if the
	// rows have no names.
	Classes []string `json:"classes,omitempty"`
	// ClassesFrom says, for people, where Classes comes from, or why the names that the checkpoint
	// states cannot be used. It is empty if the checkpoint states no names.
	ClassesFrom string `json:"classes_from,omitempty"`
	// Problem is the reason why no backbone can be loaded from the checkpoint. It is empty for a
	// backbone and for a training state.
	Problem string `json:"problem,omitempty"`
}

// Scores sums up the result of stage 1.
type Scores struct {
	Images    int                   `json:"images"`    // number of images that were read
	Criterion sensitivity.Criterion `json:"criterion"` // scoring criterion
	Backbone  string                `json:"backbone"`  // fingerprint of the backbone
	MeanLoss  float64               `json:"mean_loss"` // mean loss of the mini-batches
	Tensors   []ScoredTensor        `json:"tensors"`   // in the order of the backbone
}

// ScoredTensor sums up the scores of one tensor.
type ScoredTensor struct {
	Name  string  `json:"name"`
	Shape []int   `json:"shape"`
	Sum   float64 `json:"sum"`   // sum of the sizes of the scores
	Share float64 `json:"share"` // Sum as a share of the sum over all tensors, 0 to 1
}

// Delta describes a delta.
type Delta struct {
	*delta.Delta
	Parameters int `json:"parameters"`      // number of tuned parameters without the head
	Head       int `json:"head_parameters"` // number of parameters of the head
}

// Run describes the folder of a run.
type Run struct {
	Config run.Config    `json:"config"`           // configuration of the run
	Epochs []train.Epoch `json:"epochs,omitempty"` // finished epochs of the final training
	Result *run.Result   `json:"result,omitempty"` // nil while the run is unfinished
	// Folds is the result of a cross-validation, nil while it is unfinished.
	Folds *run.FoldsResult `json:"folds,omitempty"`
}

// Predictions sums up the predictions of the images of a split.
type Predictions struct {
	Images   int      `json:"images"`   // number of images
	Labelled int      `json:"labelled"` // images whose class is known
	Correct  int      `json:"correct"`  // labelled images that are predicted correctly
	Kept     int      `json:"kept"`     // largest number of classes that are kept of an image
	Classes  []string `json:"classes"`  // names of the classes
}

// Open reads the file or folder at path and returns its description. path may also be hf:OWNER/NAME
// for a checkpoint on the Hugging Face Hub, which Open downloads; report receives the progress of
// the download. A file that is broken or not recognised is a [*run.InputError].
func Open(ctx context.Context, path string, report progress.Func) (*Inspection, error) {
	model := run.ModelConfig{Path: path}
	file, _, err := model.File(ctx, report)
	if err != nil {
		return nil, err
	}
	in, err := open(file)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	in.Path = file
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
	if !stat.Mode().IsRegular() { // opening a named pipe would block until a program writes to it
		return nil, fmt.Errorf("inspecting %s: it is neither a regular file nor a folder (mode %v)", path, stat.Mode())
	}
	isJSON, err := checkpoint.IsJSON(path)
	if err != nil {
		return nil, err // it names the file
	}
	if isJSON {
		return openJSON(path)
	}
	return openTensors(path)
}

func openFolder(path string) (*Inspection, error) {
	name := filepath.Join(path, run.ConfigFile)
	if stat, err := os.Stat(name); err == nil && stat.Mode().IsRegular() {
		config, err := regularfile.Read(name, maxJSON)
		if err != nil {
			return nil, err
		}
		header, err := jsonfile.HeaderOf(config)
		if err != nil {
			return nil, fmt.Errorf("inspecting %s: %w", name, err)
		}
		if header.Kind == jsonfile.Run {
			return openRun(path)
		}
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
	if c.Folds.Number > 0 {
		in.Run.Folds, err = run.LoadFolds(folder)
		return in, err
	}
	if in.Run.Epochs, err = folder.Metrics(); err != nil {
		return nil, err
	}
	result, err := run.LoadResult[run.Result](folder)
	if err != nil {
		return nil, err
	}
	if result == nil {
		return in, nil
	}
	in.Run.Result = result
	if c.Tune.ValidationOnly { // it has no delta
		return in, nil
	}
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
	t, err := peft.New(d.Config, d.Selection)
	if err != nil {
		return nil, err
	}
	return &Inspection{Kind: "delta", Delta: &Delta{d, t.Counts.Tuned(), t.Counts.Head}}, nil
}

// maxJSON limits the size of a JSON file in bytes. Plans are the largest of these files.
const maxJSON = 256 << 20

func openJSON(path string) (*Inspection, error) {
	data, err := regularfile.Read(path, maxJSON)
	if err != nil {
		return nil, fmt.Errorf("inspecting: %w", err)
	}
	header, err := jsonfile.HeaderOf(data)
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", path, err)
	}
	switch header.Kind {
	case "":
		var index map[string]json.RawMessage
		if err := json.Unmarshal(data, &index); err == nil && index["weight_map"] != nil {
			return openTensors(path) // the index of a checkpoint in several files
		}
	case jsonfile.Plan:
		p, err := plan.LoadFile(path)
		return &Inspection{Kind: "plan", Plan: p}, err
	case jsonfile.Delta:
		return openDelta(path)
	case jsonfile.Predictions:
		return openPredictions(path)
	case jsonfile.MLflow:
		deliveries, err := tracking.ReadDeliveries(path)
		return &Inspection{Kind: "deliveries", Deliveries: deliveries}, err
	default:
		v, err := run.Read(path)
		switch v := v.(type) {
		case *run.Config:
			return openRun(filepath.Dir(path))
		case *run.Result:
			return &Inspection{Kind: "result", Result: v}, nil
		case *run.Candidate:
			return &Inspection{Kind: "candidate", Candidate: v}, nil
		case *run.FoldsResult:
			return &Inspection{Kind: "folds", Folds: v}, nil
		case []train.Epoch:
			return &Inspection{Kind: "metrics", Metrics: v}, nil
		}
		return nil, err
	}
	return nil, fmt.Errorf("inspecting %s: found a JSON file that spt did not write, expected a plan, a delta, or a file of a run", path)
}

func openPredictions(path string) (*Inspection, error) {
	classes, all, err := evaluate.LoadRanked(path)
	if err != nil {
		return nil, err
	}
	p := &Predictions{Images: len(all), Classes: classes}
	for _, r := range all {
		p.Kept = max(p.Kept, len(r.Top))
		if r.Target == evaluate.Unknown {
			continue
		}
		p.Labelled++
		if r.Correct() {
			p.Correct++
		}
	}
	return &Inspection{Kind: "predictions", Predictions: p}, nil
}

func openTensors(path string) (*Inspection, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if slices.ContainsFunc(f.Tensors(), func(t checkpoint.TensorInfo) bool { return t.Name == "unstructured_indexes" }) {
		p, _, err := published.Import(path, "", 0)
		return &Inspection{Kind: "published selection", Plan: p}, err
	}
	meta := f.Metadata()
	kind := jsonfile.MetadataKind(meta)
	if kind == jsonfile.Scores {
		return openScores(f)
	}
	in := &Inspection{Kind: "checkpoint", Checkpoint: &Checkpoint{Format: f.Format(), Metadata: meta}}
	if kind == jsonfile.TrainingState {
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
		c.Tensors = append(c.Tensors, t)
	}
	if in.Kind == "training state" {
		return in, nil
	}
	m, report, err := backbone.FromFile(f, backbone.LoadOptions{})
	headless := errors.Is(err, backbone.ErrNoHead)
	if headless {
		m, report, err = backbone.FromFile(f, backbone.LoadOptions{NumClasses: 1})
	}
	if err != nil {
		c.Problem = fmt.Sprintf("loading backbone %s: %v", path, err)
		return in, nil
	}
	if c.Head = !headless; headless {
		m.Config.NumClasses = 0
	} else if classes, err := backbone.ReadClasses(f, m.Config.NumClasses); err != nil {
		c.ClassesFrom = err.Error()
	} else {
		c.Classes, c.ClassesFrom = classes.Names, classes.Source
	}
	c.Backbone, c.Preprocessing, c.Report, c.Fingerprint = &m.Config, &m.Preprocessing, &report, m.Fingerprint()
	return in, nil
}

func openScores(f *checkpoint.File) (*Inspection, error) {
	s, err := sensitivity.FromFile(f)
	if err != nil {
		return nil, err
	}
	out := &Scores{Images: s.Images, Criterion: s.Criterion, Backbone: s.Backbone, MeanLoss: s.MeanLoss()}
	total := 0.0
	for _, t := range s.Tensors {
		sum := 0.0
		for _, v := range t.Scores {
			sum += math.Abs(float64(v)) // a signed criterion has negative scores
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
