package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/run"
)

// tuned is a classifier: a backbone with a delta, or a checkpoint with its own head.
type tuned struct {
	model     *backbone.Model
	delta     *delta.Delta // nil for a checkpoint with its own head
	run       *run.Config  // nil if the delta is not in a run folder
	report    *checkpoint.Report
	trained   *spt.Trained
	classes   []string // nil if the checkpoint does not name its classes
	transform dataset.Transform
	// objective is that of a checkpoint with its own head; nil for a delta, which names its own.
	objective objective.Objective
	// fitted has the temperature, or the thresholds and calibrations of labels, that are known.
	fitted evaluate.Posthoc
}

// deltaFolders returns the folders that --delta lists, separated by commas. A folder that exists
// with a comma in its name is one folder.
func deltaFolders(list string) []string {
	if _, err := os.Stat(list); err == nil {
		return []string{list}
	}
	return strings.Split(list, ",")
}

// openTuned loads the delta or the PEFT adapter in the folder dir, and its backbone. If dir is
// empty, it loads the checkpoint c with its own head.
func (a *app) openTuned(ctx context.Context, cmd *cobra.Command, dir string, c run.ModelConfig, images run.ImageOptions) (*tuned, error) {
	var t *tuned
	var err error
	switch {
	case dir == "":
		t, err = a.openCheckpoint(ctx, cmd, c, images)
	case delta.IsPEFT(dir):
		t, err = a.openPEFT(ctx, cmd, dir, c, images)
	default:
		t, err = a.openDelta(ctx, dir, c)
	}
	if err != nil {
		return nil, err
	}
	if cmd.Flags().Changed("test-flip") {
		t.transform.TestFlip = images.TestFlip
	}
	if t.trained, err = spt.Restore(t.model, t.delta); err == nil && t.objective != nil {
		t.trained.Objective = t.objective
	}
	return t, err
}

// openCheckpoint loads a checkpoint with its own head. --resize and --resize-to override the image
// options in the metadata of the checkpoint.
func (a *app) openCheckpoint(ctx context.Context, cmd *cobra.Command, c run.ModelConfig, images run.ImageOptions) (*tuned, error) {
	if c.Path == "" {
		return nil, &run.OptionError{Err: errors.New("no classifier given; give --delta DIR with the folder of a run, or --model FILE with a checkpoint that has a head")}
	}
	m, report, err := a.openModel(ctx, c, 0)
	if err != nil {
		return nil, err
	}
	t := &tuned{model: m, report: report}
	if c.Path != embedded.Name {
		f, err := checkpoint.Open(m.Path)
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		defer f.Close()
		named, err := backbone.ReadClasses(f, m.Config.NumClasses)
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		t.classes = named.Names
		if t.objective, t.fitted.Thresholds, err = delta.ObjectiveOf(f, m.Config.NumClasses); err != nil {
			return nil, &run.InputError{Err: err}
		}
		transform, err := delta.TransformOf(f)
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		fs := cmd.Flags()
		if transform.Resize != "" && (images.Resize == run.ModelResize || !fs.Changed("resize") && !fs.Changed("resize-to")) {
			t.transform = dataset.Transform{Size: m.Config.ImageSize, Resize: transform.Resize, ResizeTo: transform.ResizeTo, TestFlip: transform.TestFlip}
			if err := t.transform.Validate(); err != nil {
				return nil, &run.InputError{Err: fmt.Errorf("the metadata of %s: %w", m.Path, err)}
			}
			return t, nil
		}
	}
	if images, err = images.Resolve(m); err != nil {
		return nil, err
	}
	if note := images.Difference(m); note != "" && report != nil {
		report.Notes = append(report.Notes, note)
	}
	t.transform = dataset.Transform{Size: m.Config.ImageSize, Resize: images.Resize, ResizeTo: images.ResizeTo}
	return t, nil
}

// openDelta loads the delta in the folder dir and its backbone. If c names no backbone, it looks
// where run.OpenBackbone does.
func (a *app) openDelta(ctx context.Context, dir string, c run.ModelConfig) (*tuned, error) {
	d, err := delta.Load(dir)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	t := &tuned{delta: d, classes: d.Classes, transform: d.ImageTransform(), fitted: d.Posthoc}
	if t.run, err = runOf(dir); err != nil {
		return nil, err
	}
	p := a.reporter()
	defer p.close()
	if c.Path != "" {
		t.model, err = c.OpenTuned(ctx, d, p.event)
	} else {
		t.model, err = run.OpenBackbone(ctx, string(folderOf(dir)), d, t.run, c.WeightsKey, p.event)
	}
	return t, err
}

// runOf returns the configuration of the run in dir, the folder of a delta or a file in this
// folder. It returns nil if the folder holds no run.
func runOf(dir string) (*run.Config, error) {
	if _, err := os.Stat(folderOf(dir).Path(run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	_, c, err := run.Open(string(folderOf(dir)))
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// folderOf returns the folder dir, or the folder of the file dir.
func folderOf(dir string) run.Folder {
	if stat, err := os.Stat(dir); err == nil && !stat.IsDir() {
		dir = filepath.Dir(dir)
	}
	return run.Folder(dir)
}
