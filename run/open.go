package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/hub"
)

// GivenPreprocessing is ModelConfig.Preprocessing where Mean and Std were given
// by the user instead of found in or beside the checkpoint.
const GivenPreprocessing = "given"

// Fetch brings a backbone of the Hugging Face Hub into its cache, and sets
// Commit and [ModelConfig.File]. If Commit is set, as in a run's configuration,
// it is that commit whatever the revision is now. For other backbones it does
// nothing. progress, which may be nil, is called while files are downloaded. The
// note, if there is one, says why the cache was used without asking the Hub.
// Errors but those of ctx are *[OptionError] or *[InputError].
func (c *ModelConfig) Fetch(ctx context.Context, progress func(hub.Progress)) (note string, err error) {
	if !hub.IsReference(c.Path) {
		return "", nil
	}
	r, err := hub.Parse(c.Path)
	if err != nil {
		return "", &OptionError{Option: "model", Err: err}
	}
	if c.Commit != "" {
		if !hub.IsCommit(c.Commit) {
			return "", &InputError{fmt.Errorf("backbone %s: the configuration has commit %.60q, expected 40 digits in hex", c.Path, c.Commit)}
		}
		r.Revision = c.Commit
	}
	client, err := hub.New()
	if err != nil {
		return "", err
	}
	client.Progress = progress
	s, err := client.Fetch(ctx, r)
	if err != nil {
		if ctx.Err() == nil {
			err = &InputError{err}
		}
		return "", err
	}
	c.Commit, c.fetched = s.Commit, s.Path
	return s.Note, nil
}

// File is the path of the checkpoint: where Fetch put it, or Path.
func (c ModelConfig) File() string {
	if c.fetched != "" {
		return c.fetched
	}
	return c.Path
}

// Origin is the reference, with its commit, of a backbone that was fetched;
// else empty. It is what backbone.Model's is to be.
func (c ModelConfig) Origin() string {
	r, err := hub.Parse(c.Path)
	if c.fetched == "" || err != nil {
		return ""
	}
	r.Revision = c.Commit
	return r.String()
}

// Open loads the backbone; one of the Hub is fetched if [ModelConfig.Fetch] has
// not done it. numClasses is of a new head, 0 keeps the checkpoint's. Zero fields of c take what the checkpoint says; Mean and Std
// are used where Preprocessing is [GivenPreprocessing]. If c holds a
// fingerprint, as in a run's configuration, the backbone must have it. Errors
// are *[InputError].
func (c ModelConfig) Open(numClasses int) (*backbone.Model, checkpoint.Report, error) {
	o := backbone.LoadOptions{NumClasses: numClasses, ImageSize: c.ImageSize, NumHeads: c.NumHeads, LayerNormEps: c.LayerNormEps}
	if c.Preprocessing == GivenPreprocessing {
		o.Mean, o.Std = &c.Mean, &c.Std
	}
	if c.fetched == "" {
		if _, err := c.Fetch(context.Background(), nil); err != nil {
			return nil, checkpoint.Report{}, err
		}
	}
	m, report, err := backbone.Load(c.File(), o)
	if broken := (*checkpoint.FormatError)(nil); c.fetched != "" && errors.As(err, &broken) {
		if blob, linked := filepath.EvalSymlinks(broken.File); linked == nil {
			err = fmt.Errorf("%w; if the cached copy is damaged, delete %s and it will be fetched again", err, blob)
		}
	}
	if err == nil {
		m.Origin = c.Origin()
		err = c.Check(m)
	}
	if err != nil {
		return nil, report, &InputError{err}
	}
	return m, report, nil
}

// Check refuses a backbone that is not the one with c's fingerprint.
func (c ModelConfig) Check(m *backbone.Model) error {
	if c.Fingerprint != "" && c.Fingerprint != m.Fingerprint() {
		return &InputError{fmt.Errorf("backbone %s has changed since the run began: its weights have fingerprint %s, expected %s; put the first one back, or begin a new run", c.Path, m.Fingerprint(), c.Fingerprint)}
	}
	return nil
}

// Record notes how m was loaded, in the place of what was asked for.
func (c *ModelConfig) Record(m *backbone.Model) {
	c.Fingerprint = m.Fingerprint()
	if r, err := hub.Parse(m.Origin); err == nil {
		c.Commit = r.Revision
	}
	c.ImageSize, c.NumHeads, c.LayerNormEps = m.Config.ImageSize, m.Config.NumHeads, m.Config.LayerNormEps
	c.Mean, c.Std, c.Preprocessing = m.Preprocessing.Mean, m.Preprocessing.Std, m.Preprocessing.Source
}

// Open reads the data set. It must have as many classes as the task says, if
// one is given; and if c holds numbers of images, as in a run's configuration,
// still those. Errors are *[InputError], of an unknown task or layout *[OptionError].
func (c DataConfig) Open() (*dataset.Dataset, error) {
	o := dataset.OpenOptions{Layout: c.Layout, ImageColumn: c.ImageColumn, LabelColumn: c.LabelColumn, ValFraction: c.ValFraction, TestFraction: c.TestFraction, Seed: c.SplitSeed, SkipBadImages: c.SkipBadImages}
	if c.Task != "" {
		known, err := dataset.FindKnown(c.Task)
		if err != nil {
			return nil, &OptionError{Option: "task", Err: err}
		}
		o.Classes = known.Classes
	}
	if err := dataset.CheckLayout(c.Layout); err != nil {
		return nil, &OptionError{Option: "layout", Err: err}
	}
	d, err := dataset.Open(c.Path, o)
	if err != nil {
		if c.Task != "" {
			err = fmt.Errorf("task %s, of %d classes: %w", c.Task, o.Classes, err)
		}
		return nil, &InputError{err}
	}
	now, before := [4]int{len(d.Classes), len(d.Train), len(d.Val), len(d.Test)}, [4]int{c.Classes, c.Train, c.Val, c.Test}
	if c.Classes != 0 && now != before {
		return nil, &InputError{fmt.Errorf("data set %s has changed since the run began: classes, train, val and test images are %v, expected %v; put the images back, or begin a new run", c.Path, now, before)}
	}
	return d, nil
}

// Record notes what the data set turned out to be.
func (c *DataConfig) Record(d *dataset.Dataset) {
	c.Layout, c.Split, c.Samples = d.Layout, d.Split, d.Fingerprint()
	c.Classes, c.Train, c.Val, c.Test = len(d.Classes), len(d.Train), len(d.Val), len(d.Test)
}

// RunsDir is the folder of runs that were given no name, in the working folder.
const RunsDir = "runs"

// NewDir makes the folder for a run that was given no name: runs/NAME, or
// with -2, -3 … where that is taken. NAME is usually DATA-METHOD.
func NewDir(name string) (string, error) {
	if err := os.MkdirAll(RunsDir, 0o777); err != nil {
		return "", fmt.Errorf("making a run folder: %w", err)
	}
	for n := 1; ; n++ {
		dir := filepath.Join(RunsDir, name)
		if n > 1 {
			dir = fmt.Sprintf("%s-%d", dir, n)
		}
		err := os.Mkdir(dir, 0o777)
		if err == nil || !errors.Is(err, os.ErrExist) {
			return dir, err
		}
	}
}
