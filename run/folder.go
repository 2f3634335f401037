package run

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/train"
)

// The names in a run folder. docs/format.md describes the files.
const (
	ConfigFile       = "config.json"        // the effective configuration, a [Config]
	ScoresFile       = "scores.safetensors" // the result of stage 1
	PlanFile         = "plan.json"          // the plan that was trained
	MetricsFile      = "metrics.jsonl"      // one line for each epoch of a training
	ResultFile       = "result.json"        // the [Result], or the [Candidate] of one budget
	candidatesFolder = "candidates"         // one folder for each budget that was tried
	// the state from which an interrupted training continues
	TrainStateFile = "training.safetensors"
)

// Files returns the names of all files and folders that a run folder may hold.
func Files() []string {
	return []string{ConfigFile, ScoresFile, PlanFile, MetricsFile, ResultFile, candidatesFolder, TrainStateFile, delta.FileName, delta.TensorsName}
}

// The formats of the JSON files in a run folder.
var (
	configHeader    = jsonfile.Header{Kind: jsonfile.Run, Version: 1}
	resultHeader    = jsonfile.Header{Kind: jsonfile.Result, Version: 1}
	candidateHeader = jsonfile.Header{Kind: jsonfile.Candidate, Version: 1}
	epochHeader     = jsonfile.Header{Kind: jsonfile.Epoch, Version: 1}
)

// Folder is the path of a run folder, or of the folder of one candidate in it. Its methods name,
// read and write the files.
type Folder string

// Path returns the path of a file or folder in f.
func (f Folder) Path(elem ...string) string {
	return filepath.Join(append([]string{string(f)}, elem...)...)
}

// Candidate returns the folder of the candidate with that name: its budget, or for a method without
// a budget the method.
func (f Folder) Candidate(name string) Folder { return Folder(f.Path(candidatesFolder, name)) }

// CheckNew reports why no new run can use the folder, with an [*OptionError]: it is a file, it
// holds a run, or it holds a file that the run would take for its own.
func (f Folder) CheckNew() error {
	if _, err := os.Stat(f.Path(ConfigFile)); err == nil {
		return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a run already; resume that run or choose another folder", f)}
	}
	if stat, err := os.Stat(string(f)); err == nil && !stat.IsDir() {
		return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s is a file, but a run needs a folder; choose another path", f)}
	}
	for _, name := range Files() {
		if _, err := os.Stat(f.Path(name)); err == nil {
			return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds %s, which a new run would take for its own file; choose another folder", f, name)}
		}
	}
	return nil
}

// Create makes the folder of a new run in dir and writes config.json. It sets the kind and the
// versions in c. See [Folder.CheckNew] for the folders that it refuses.
func Create(dir string, c *Config) (Folder, error) {
	f := Folder(dir)
	if err := f.CheckNew(); err != nil {
		return f, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return f, fmt.Errorf("making the run folder: %w", err)
	}
	c.Header, c.Spt = configHeader, version.Version
	return f, jsonfile.Write(f.Path(ConfigFile), c)
}

// Open reads the configuration of the run in dir. A folder without a run, and a broken
// configuration, are an [*InputError].
func Open(dir string) (Folder, Config, error) {
	f := Folder(dir)
	c, err := readAs[*Config](f.Path(ConfigFile))
	if err == nil && c == nil {
		err = fmt.Errorf("%s holds no run: it has no file %s; give the folder of a run", dir, ConfigFile)
	}
	if err != nil {
		return f, Config{}, &InputError{Err: err}
	}
	return f, *c, nil
}

// Move records in config.json where the backbone and the data of the run are now. data is the data
// set, opened at the new place. A data set other than the one of the run is an [*InputError].
func (f Folder) Move(m ModelConfig, d DataConfig, data *dataset.Dataset) error {
	_, c, err := Open(string(f))
	if err != nil {
		return err
	}
	if c.Data.Path != d.Path && c.Data.Samples != data.Fingerprint() {
		return &InputError{Err: fmt.Errorf("data set %s is not the data set of the run in %s: names, labels or sizes of its images differ; give the original data set, or begin a new run", d.Path, f)}
	}
	c.Model.Path, c.Model.Commit, c.Data.Path = m.Path, m.Commit, d.Path
	return jsonfile.Write(f.Path(ConfigFile), c)
}

// LoadResult reads result.json in f: the [Result] of a run, or the [Candidate] of the folder of one
// budget. It returns nil while the run or the candidate is unfinished. Broken content, and a file
// of the other kind, are an [*InputError].
func LoadResult[T Result | Candidate](f Folder) (*T, error) { return readAs[*T](f.Path(ResultFile)) }

// Metrics reads the epochs in metrics.jsonl; none if the file is missing.
func (f Folder) Metrics() ([]train.Epoch, error) {
	return readAs[[]train.Epoch](f.Path(MetricsFile))
}

// readAs reads a file of a run that must hold a T. A missing file gives the zero T.
func readAs[T any](path string) (T, error) {
	var zero T
	v, err := Read(path)
	switch found, ok := v.(T); {
	case errors.Is(err, fs.ErrNotExist):
		return zero, nil
	case err != nil:
		return zero, err
	case !ok:
		return zero, &InputError{Err: fmt.Errorf("reading %s: it holds a %T, expected a %T; remove the file to repeat this part of the run", path, v, zero)}
	default:
		return found, nil
	}
}

// Read reads a JSON file of a run and tells by its kind what it is: a [*Config], a [*Result], a
// [*Candidate], or the metrics of a training, a []train.Epoch. Broken content, and a file of
// another kind, are an [*InputError].
func Read(path string) (any, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	header, err := jsonfile.HeaderOf(data)
	var v any
	if err == nil {
		switch header.Kind {
		case configHeader.Kind:
			v, err = decode(data, configHeader, new(Config))
		case resultHeader.Kind:
			v, err = decode(data, resultHeader, new(Result))
		case candidateHeader.Kind:
			v, err = decode(data, candidateHeader, new(Candidate))
		case epochHeader.Kind:
			v, err = decodeEpochs(data)
		default:
			err = fmt.Errorf("its kind is %q, expected a file of a run", header.Kind)
		}
	}
	if err != nil {
		advice := "if the run made this file, remove it to repeat that part of the run"
		switch {
		case header.Kind == configHeader.Kind || filepath.Base(path) == ConfigFile:
			advice = "without it the run cannot continue: restore it, or begin a new run"
		case header.Kind == jsonfile.Suite:
			advice = "give a file of a run"
		}
		return nil, &InputError{Err: fmt.Errorf("reading %s: %w; %s", path, err, advice)}
	}
	return v, nil
}

func decode(data []byte, header jsonfile.Header, v any) (any, error) {
	return v, jsonfile.Decode(data, header, v)
}

func decodeEpochs(data []byte) (epochs []train.Epoch, err error) {
	for line := range bytes.Lines(data) {
		var e epochLine
		if err := jsonfile.Decode(line, epochHeader, &e); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(epochs)+1, err)
		}
		epochs = append(epochs, e.Epoch)
	}
	return epochs, nil
}

// SaveResult writes result.json into f, the folder of a finished run or candidate, and removes the
// state of its training. It sets the kind and the versions in r.
func SaveResult[T Result | Candidate](f Folder, r *T) error {
	switch r := any(r).(type) {
	case *Result:
		r.Header, r.Spt = resultHeader, version.Version
	case *Candidate:
		r.Header = candidateHeader
	}
	if err := jsonfile.Write(f.Path(ResultFile), r); err != nil {
		return err
	}
	if err := os.Remove(f.Path(TrainStateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the state of a finished training: %w", err)
	}
	return nil
}

// epochLine is one line of metrics.jsonl.
type epochLine struct {
	jsonfile.Header
	train.Epoch
}

// SaveMetrics writes metrics.jsonl as a whole, so that a resumed run repeats no epoch.
func (f Folder) SaveMetrics(epochs []train.Epoch) error {
	lines := make([]epochLine, len(epochs))
	for i, e := range epochs {
		lines[i] = epochLine{epochHeader, e}
	}
	return jsonfile.WriteLines(f.Path(MetricsFile), lines)
}

// DefaultRoot is the folder, in the working folder, of runs whose folder was not named.
const DefaultRoot = "runs"
