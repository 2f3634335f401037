package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/train"
)

// The files of a run folder.
const (
	ConfigFile       = "config.json"          // the effective configuration
	ScoresFile       = "scores.safetensors"   // stage 1's result
	PlanFile         = "plan.json"            // the plan that was trained
	MetricsFile      = "metrics.jsonl"        // one line an epoch, of every training
	ResultFile       = "result.json"          // the Result
	CandidatesFolder = "candidates"           // a folder for each budget that was tried
	TrainStateFile   = "training.safetensors" // from which an interrupted training goes on
)

// Files are the names of a run's files and folders.
func Files() []string {
	return []string{ConfigFile, ScoresFile, PlanFile, MetricsFile, ResultFile, CandidatesFolder, TrainStateFile, delta.FileName, delta.TensorsName}
}

// CheckNew refuses what is no folder, a folder that holds a run already, or any file of one
// that a new run would take for its own, with an *[OptionError].
func CheckNew(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, ConfigFile)); err == nil {
		return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a run already; resume that run, or choose another folder", dir)}
	}
	if stat, err := os.Stat(dir); err == nil && !stat.IsDir() {
		return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s is a file, and a run needs a folder; choose another name", dir)}
	}
	for _, name := range Files() {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return &OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds %s, which a new run would take for its own; choose another folder", dir, name)}
		}
	}
	return nil
}

// Create writes config.json into a run folder, which it makes, and sets the
// versions in c. A folder that holds a run already is refused; see [CheckNew].
func Create(dir string, c *Config) error {
	if err := CheckNew(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	c.Version, c.Spt = 1, version.Version
	return WriteJSON(filepath.Join(dir, ConfigFile), c)
}

// Move notes in a run's config.json where its backbone and its data are now. data, opened
// there, must list the samples that the run began with, or it is an *[InputError].
func Move(dir string, m ModelConfig, d DataConfig, data *dataset.Dataset) error {
	c, err := LoadConfig(dir)
	if err != nil {
		return err
	}
	if c.Data.Path != d.Path && c.Data.Samples != data.Fingerprint() {
		return &InputError{fmt.Errorf("data set %s is not the one that the run in %s began with: names, labels or sizes of its images differ; give that one, or begin a new run", d.Path, dir)}
	}
	c.Model.Path, c.Model.Commit, c.Data.Path = m.Path, m.Commit, d.Path
	return WriteJSON(filepath.Join(dir, ConfigFile), c)
}

// LoadConfig reads config.json from a run folder.
func LoadConfig(dir string) (Config, error) {
	var c Config
	path := filepath.Join(dir, ConfigFile)
	found, err := ReadJSON(path, &c, "without it the run cannot go on: put it back, or begin a new run")
	switch {
	case err != nil:
		return c, err
	case !found:
		return c, fmt.Errorf("%s holds no run: there is no %s in it", dir, ConfigFile)
	case c.Version != 1:
		return c, fmt.Errorf("reading %s: version %d, this program reads version 1", path, c.Version)
	}
	return c, nil
}

// WriteJSON replaces a file as a whole, so that a stopped run leaves no half of one.
func WriteJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, append(data, '\n'))
}

// WriteMetrics writes metrics as JSON lines: the whole file each time, so that a
// resumed run repeats no epoch.
func WriteMetrics(path string, epochs []train.Epoch) error {
	var out []byte
	for _, e := range epochs {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		out = append(append(out, line...), '\n')
	}
	return atomicfile.WriteBytes(path, out)
}

// ReadJSON reads a file of a run folder, if it is there; advice says what helps if it is
// broken.
func ReadJSON(path string, v any, advice string) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, &InputError{fmt.Errorf("reading %s: %w; %s", path, err, advice)}
	}
	return true, nil
}

// Redo is what helps against a broken result.
const Redo = "remove it to do this part of the run again"

func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
