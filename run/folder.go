package run

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/train"
)

// The names of the files and folders in a run folder. docs/format.md describes the files.
const (
	ConfigFile       = "config.json"          // configuration of the run, a [Config]
	ScoresFile       = "scores.safetensors"   // result of stage 1
	PlanFile         = "plan.json"            // plan that was trained
	MetricsFile      = "metrics.jsonl"        // losses and accuracies, one line per epoch
	ResultFile       = "result.json"          // the [Result], or the [Candidate] of one budget
	TrainStateFile   = "training.safetensors" // state of an interrupted training
	PredictionsFile  = "predictions.jsonl"    // most probable classes of each image
	ReportFile       = "report.html"          // page about the run
	MLflowFile       = "mlflow.json"          // runs on MLflow servers, by package tracking
	candidatesFolder = "candidates"           // one folder for each budget that was tried
	probeFolder      = "probe"                // delta and result of the linear probe
	startFolder      = "start"                // copy of the delta from which the run starts
	FoldsFile        = "folds.json"           // result of a cross-validation, a [FoldsResult]
	foldFolder       = "fold-"                // and the number: the run of one fold
	finalFolder      = "final"                // the run on all images after a cross-validation
)

// Files returns the names of all files and folders that a run folder may hold.
func Files() []string {
	return []string{ConfigFile, ScoresFile, PlanFile, MetricsFile, ResultFile, candidatesFolder, probeFolder, startFolder, TrainStateFile, PredictionsFile, ReportFile, MLflowFile, FoldsFile, foldFolder + "1", finalFolder, delta.FileName, delta.TensorsName}
}

// The formats of the JSON files in a run folder.
var (
	configHeader    = jsonfile.Header{Kind: jsonfile.Run, Version: 1}
	resultHeader    = jsonfile.Header{Kind: jsonfile.Result, Version: 1}
	candidateHeader = jsonfile.Header{Kind: jsonfile.Candidate, Version: 1}
	epochHeader     = jsonfile.Header{Kind: jsonfile.Epoch, Version: 1}
	foldsHeader     = jsonfile.Header{Kind: jsonfile.Folds, Version: 1}
)

// Folder is the path of a run folder, or of the folder of one candidate in it. Its methods return
// paths in the folder, and read and write its files.
type Folder string

// Path returns the path of a file or folder in f.
func (f Folder) Path(elem ...string) string {
	return filepath.Join(append([]string{string(f)}, elem...)...)
}

// Candidate returns the folder of the candidate with that name. The name of a candidate is its
// budget or, for a method without a budget, the method. If the run tries several learning rates,
// the learning rate follows, as in "0.2M-lr-0.01".
func (f Folder) Candidate(name string) Folder { return Folder(f.Path(candidatesFolder, name)) }

// Probe returns the folder of the linear probe of the run.
func (f Folder) Probe() Folder { return Folder(f.Path(probeFolder)) }

// Start returns the folder with the copy of the delta from which the run starts; see
// TuneOptions.FromDelta.
func (f Folder) Start() Folder { return Folder(f.Path(startFolder)) }

// CheckNew returns an [*OptionError] if a new run cannot use the folder: f is a file, f holds a
// run, or f holds a file that a run would mistake for its own.
func (f Folder) CheckNew() error {
	if stat, err := os.Stat(string(f)); err == nil && !stat.IsDir() {
		return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s is a file, but a run needs a folder; choose another path", f)}
	}
	for _, name := range Files() {
		switch _, err := os.Stat(f.Path(name)); {
		case err == nil && name == ConfigFile:
			return f.occupied()
		case err == nil:
			return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds the file %s, which a new run would mistake for its own; choose another folder", f, name)}
		}
	}
	return nil
}

// Create makes the folder dir for a new run and writes config.json. It sets the kind and the
// versions in c. An unsuitable folder is an error; see [Folder.CheckNew].
func Create(dir string, c *Config) (Folder, error) {
	f := Folder(dir)
	if err := f.CheckNew(); err != nil {
		return f, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return f, fmt.Errorf("making the run folder: %w", err)
	}
	// If two runs begin in one folder at the same time, only one of them can create the file.
	c.Header, c.Spt = configHeader, version.Version
	err := jsonfile.Create(f.Path(ConfigFile), c)
	switch {
	case errors.Is(err, fs.ErrExist):
		return f, f.occupied()
	case err != nil:
		return f, fmt.Errorf("making the run folder: %w", err)
	}
	// The folder may hold a file of a program that was killed while it made the run.
	return f, f.RemoveLeftovers()
}

// occupied returns the error for a folder that holds a run.
func (f Folder) occupied() error {
	return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s already holds a run; resume that run or choose another folder", f)}
}

// Open reads the configuration of the run in dir. A folder without a run and a broken configuration
// are an [*InputError].
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

// Move records new paths of the backbone and of the data in config.json. m and d hold the new
// paths; data is the data set that was opened there. If it is not the data set of the run, the
// error is an [*InputError].
func (f Folder) Move(m ModelConfig, d DataConfig, data *dataset.Dataset) error {
	_, c, err := Open(string(f))
	if err != nil {
		return err
	}
	if c.Data.Path != d.Path {
		if err := f.CheckData(c.Data, data); err != nil {
			return err
		}
	}
	c.Model.Path, c.Model.Commit, c.Data.Path, c.Data.Commit = m.Path, m.Commit, d.Path, d.Commit
	return jsonfile.Write(f.Path(ConfigFile), c)
}

// RecordBroken records in config.json that the run skips bad images, and the images that data skips
// because they cannot be decoded.
func (f Folder) RecordBroken(data *dataset.Dataset) error {
	_, c, err := Open(string(f))
	if err != nil {
		return err
	}
	c.Data.SkipBadImages = c.Data.SkipBadImages || data.Options.SkipBadImages
	c.Data.RecordBroken(data)
	return jsonfile.Write(f.Path(ConfigFile), &c)
}

// CheckData returns an [*InputError] if data is not the data set of the run in f, whose
// configuration has the data c. The error is about names, labels and sizes of images, and about
// names of classes. The pixels are not compared.
func (f Folder) CheckData(c DataConfig, data *dataset.Dataset) error {
	if c.Samples == data.AsOpened().Fingerprint() {
		return nil
	}
	return &InputError{Err: fmt.Errorf("data set %s is not the data set of the run in %s: names, labels or sizes of its images, or names of its classes, differ; give the original data set, or begin a new run", cmp.Or(data.Root, data.Name), f)}
}

// LoadResult reads result.json in f: the [Result] in the folder of a run, or the [Candidate] in the
// folder of a candidate. It returns nil while the run or the candidate is unfinished. A broken file
// and a file of another kind are an [*InputError].
func LoadResult[T Result | Candidate](f Folder) (*T, error) { return readAs[*T](f.Path(ResultFile)) }

// Metrics reads the losses and accuracies of each epoch from metrics.jsonl. It returns no epochs if
// the file is missing. A broken file is an [*InputError].
func (f Folder) Metrics() ([]train.Epoch, error) {
	return readAs[[]train.Epoch](f.Path(MetricsFile))
}

// readAs reads a file of a run that must hold a T. If the file is missing, it returns the zero T.
func readAs[T any](path string) (T, error) {
	var zero T
	v, err := Read(path)
	switch found, ok := v.(T); {
	case errors.Is(err, fs.ErrNotExist):
		return zero, nil
	case err != nil:
		return zero, err
	case !ok:
		return zero, &InputError{Err: fmt.Errorf("reading %s: it holds %s, expected %s; remove the file to repeat this part of the run", path, describe(v), describe(zero))}
	default:
		return found, nil
	}
}

// describe returns the name of the kind of file whose content is v.
func describe(v any) string {
	switch v.(type) {
	case *Config:
		return "the configuration of a run"
	case *Result:
		return "the result of a run"
	case *Candidate:
		return "the result of a candidate"
	case *FoldsResult:
		return "the result of a cross-validation"
	default:
		return "the metrics of a training"
	}
}

// maxFile limits the size of a JSON file of a run, in bytes. A line of metrics.jsonl has 300 bytes.
const maxFile = 256 << 20

// Read reads a JSON file of a run. It returns a [*Config], a [*Result], a [*Candidate], a
// [*FoldsResult], or the metrics of a training as a []train.Epoch, depending on the kind that the
// file names. A broken file and a file of another kind are an [*InputError].
func Read(path string) (any, error) {
	data, err := regularfile.Read(path, maxFile)
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
		case foldsHeader.Kind:
			v, err = decode(data, foldsHeader, new(FoldsResult))
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

// decode decodes a JSON object with that header into v, and returns v.
func decode(data []byte, header jsonfile.Header, v any) (any, error) {
	return v, jsonfile.Decode(data, header, v)
}

// decodeEpochs decodes the lines of metrics.jsonl.
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

// RemoveLeftovers removes the files that a killed run left in the folder and in the folders of its
// candidates: temporary files, and the training state of a training whose result is stored.
func (f Folder) RemoveLeftovers() error {
	entries, err := os.ReadDir(f.Path(candidatesFolder))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	folders := []string{string(f), string(f.Probe())}
	for _, e := range entries {
		folders = append(folders, string(f.Candidate(e.Name())))
	}
	for _, dir := range folders {
		err = errors.Join(err, atomicfile.RemoveLeftovers(dir))
		if _, e := os.Stat(Folder(dir).Path(ResultFile)); e == nil {
			err = errors.Join(err, Folder(dir).removeState())
		}
	}
	if err != nil {
		return fmt.Errorf("removing what an interrupted run left in %s: %w", f, err)
	}
	return nil
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
	return f.removeState()
}

// removeState removes the training state, if there is one.
func (f Folder) removeState() error {
	if err := atomicfile.Remove(f.Path(TrainStateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the state of a finished training: %w", err)
	}
	return nil
}

// epochLine is one line of metrics.jsonl.
type epochLine struct {
	jsonfile.Header
	train.Epoch
}

// SaveMetrics replaces metrics.jsonl with one line for each epoch. It writes the whole file, so
// that no epoch appears twice after a resumed training.
func (f Folder) SaveMetrics(epochs []train.Epoch) error {
	lines := make([]epochLine, len(epochs))
	for i, e := range epochs {
		lines[i] = epochLine{epochHeader, e}
	}
	return jsonfile.WriteLines(f.Path(MetricsFile), lines)
}

// DefaultRoot is the parent folder of new run folders if the user names no folder. It is relative
// to the working folder.
const DefaultRoot = "runs"
