package run

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/progress"
)

// GivenPreprocessing is the value of ModelConfig.Preprocessing where the user gave Mean and Std.
// Other values say where in or beside the checkpoint they were found.
const GivenPreprocessing = "given"

// ModelConfig names a backbone and says how it is loaded. Zero fields take the values that the
// checkpoint or the files beside it give.
type ModelConfig struct {
	// Path is a checkpoint file, its folder, hf:OWNER/NAME[@REVISION][:FILE] for the Hugging Face
	// Hub, or "demo" for the embedded backbone.
	Path string `json:"path"`
	// Commit is the commit of the Hub's repository that Path stood for. If set, this commit is
	// fetched, whatever the revision is now.
	Commit string `json:"commit,omitempty"`
	// Fingerprint identifies the weights, see backbone.Model.Fingerprint. If set, Open refuses
	// other weights.
	Fingerprint  string     `json:"fingerprint"`
	ImageSize    int        `json:"image_size"`     // side of the images, px
	NumHeads     int        `json:"num_heads"`      // attention heads
	LayerNormEps float64    `json:"layer_norm_eps"` // epsilon of the layer norms
	Mean         [3]float32 `json:"mean"`           // of pixels scaled to 0…1, per channel
	Std          [3]float32 `json:"std"`
	// Preprocessing says where Mean and Std come from. Open uses them where it is
	// GivenPreprocessing.
	Preprocessing string `json:"preprocessing"`
}

// validate reports options that no backbone can meet.
func (c ModelConfig) validate() error {
	if c.Path == "" {
		return &OptionError{Option: "model", Err: fmt.Errorf("no backbone given: give a checkpoint file, hf:OWNER/NAME, or %s for the embedded backbone", embedded.Name)}
	}
	if c.Preprocessing == GivenPreprocessing {
		if !(c.Std[0] > 0 && c.Std[1] > 0 && c.Std[2] > 0) {
			return &OptionError{Option: "std", Err: fmt.Errorf("standard deviation %v of the pixels: expected numbers above 0", c.Std)}
		}
		if slices.Max(c.Mean[:]) > 1 || slices.Min(c.Mean[:]) < 0 || slices.Max(c.Std[:]) > 1 {
			return &OptionError{Option: "mean", Err: fmt.Errorf("mean %v and standard deviation %v of the pixels: expected numbers from 0 to 1; divide values of 0…255 by 255", c.Mean, c.Std)}
		}
	}
	if c.Path == embedded.Name && c.Fingerprint == "" && (c.ImageSize != 0 || c.NumHeads != 0 || c.LayerNormEps != 0 || c.Preprocessing != "") {
		return &OptionError{Option: "model", Err: errors.New("the embedded backbone takes no image size, number of heads, epsilon, mean or standard deviation; leave these out")}
	}
	return nil
}

// File returns the path of the checkpoint. A backbone of the Hugging Face Hub is first downloaded
// into the cache of Hugging Face's libraries; File sets Commit then, and origin is the reference
// with its commit, hf:OWNER/NAME@COMMIT. For other backbones origin is empty. If Commit is set,
// that commit is downloaded. A progress.Note says why the cache was used without asking the Hub.
// Errors other than that of ctx are an [*OptionError] or an [*InputError].
func (c *ModelConfig) File(ctx context.Context, report progress.Func) (path, origin string, err error) {
	if !hub.IsReference(c.Path) {
		return c.Path, "", nil
	}
	r, err := hub.Parse(c.Path)
	if err != nil {
		return "", "", &OptionError{Option: "model", Err: err}
	}
	if c.Commit != "" {
		if !hub.IsCommit(c.Commit) {
			return "", "", &InputError{Err: fmt.Errorf("backbone %s: the configuration has commit %.60q, expected 40 hexadecimal digits", c.Path, c.Commit)}
		}
		r.Revision = c.Commit
	}
	client, err := hub.New()
	if err != nil {
		return "", "", err
	}
	client.Progress = report
	s, err := client.Fetch(ctx, r)
	if err != nil {
		if ctx.Err() == nil {
			err = &InputError{Err: err}
		}
		return "", "", err
	}
	if s.Note != "" {
		report.Report(progress.Event{Stage: progress.Note, Item: c.Path + ": " + s.Note})
	}
	c.Commit, r.Revision = s.Commit, s.Commit
	return s.Path, r.String(), nil
}

// Open loads the backbone and fetches it first if it is one of the Hub. With numClasses above 0 the
// backbone gets a new head; 0 keeps the head of the checkpoint. The report lists the tensors of the
// checkpoint; the embedded backbone has none. Errors other than that of ctx are an [*OptionError]
// or an [*InputError].
func (c *ModelConfig) Open(ctx context.Context, numClasses int, report progress.Func) (*backbone.Model, *checkpoint.Report, error) {
	if err := c.validate(); err != nil {
		return nil, nil, err
	}
	if c.Path == embedded.Name {
		m, err := embedded.Model(numClasses)
		if err != nil {
			return nil, nil, err
		}
		return m, nil, c.check(m)
	}
	path, origin, err := c.File(ctx, report)
	if err != nil {
		return nil, nil, err
	}
	o := backbone.LoadOptions{NumClasses: numClasses, ImageSize: c.ImageSize, NumHeads: c.NumHeads, LayerNormEps: c.LayerNormEps}
	if c.Preprocessing == GivenPreprocessing {
		o.Mean, o.Std = &c.Mean, &c.Std
	}
	m, tensors, err := backbone.Load(path, o)
	if broken := (*checkpoint.FormatError)(nil); origin != "" && errors.As(err, &broken) {
		if blob, linked := filepath.EvalSymlinks(broken.File); linked == nil {
			err = fmt.Errorf("%w; if the cached copy is damaged, delete %s and it will be fetched again", err, blob)
		}
	}
	if err != nil {
		return nil, &tensors, &InputError{Err: err}
	}
	m.Origin = origin
	return m, &tensors, c.check(m)
}

// OpenTuned loads the backbone of a delta: the delta says how it is loaded. Errors are those of
// [ModelConfig.Open].
func (c *ModelConfig) OpenTuned(ctx context.Context, d *delta.Delta, report progress.Func) (*backbone.Model, error) {
	if c.Path == embedded.Name {
		return embedded.Model(d.Config.NumClasses)
	}
	path, origin, err := c.File(ctx, report)
	if err != nil {
		return nil, err
	}
	m, err := d.OpenBackbone(path)
	if err != nil {
		return nil, &InputError{Err: err}
	}
	m.Origin = origin
	return m, nil
}

// check reports a backbone other than the one with the fingerprint in c.
func (c ModelConfig) check(m *backbone.Model) error {
	if c.Fingerprint != "" && c.Fingerprint != m.Fingerprint() {
		return &InputError{Err: fmt.Errorf("backbone %s has changed since the run began: its weights have fingerprint %s, expected %s; put the original file back, or begin a new run", c.Path, m.Fingerprint(), c.Fingerprint)}
	}
	return nil
}

// Record replaces the request in c by what was loaded.
func (c *ModelConfig) Record(m *backbone.Model) {
	if c.Path == "" {
		c.Path = m.Path
	}
	c.Fingerprint = m.Fingerprint()
	if r, err := hub.Parse(m.Origin); err == nil {
		c.Commit = r.Revision
	}
	c.ImageSize, c.NumHeads, c.LayerNormEps = m.Config.ImageSize, m.Config.NumHeads, m.Config.LayerNormEps
	c.Mean, c.Std, c.Preprocessing = m.Preprocessing.Mean, m.Preprocessing.Std, m.Preprocessing.Source
}
