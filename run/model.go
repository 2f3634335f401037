package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/progress"
)

// GivenPreprocessing is the value of ModelConfig.Preprocessing if the user gave Mean and Std. Other
// values name the place in the checkpoint, or the file beside it, that Mean and Std come from.
const GivenPreprocessing = "given"

// ModelConfig names a backbone and configures how it is loaded. Fields that are zero take their
// values from the checkpoint or from the files beside it.
type ModelConfig struct {
	// Path is a checkpoint file, its folder, hf:OWNER/NAME[@REVISION][:FILE] for the Hugging Face
	// Hub, a name of package catalogue such as vit_tiny, or "demo" for the embedded backbone. Open
	// replaces a name of the catalogue with the reference to the Hub.
	Path string `json:"path"`
	// Commit is the commit of the repository on the Hub. If it is set, Open downloads this commit
	// and ignores the revision in Path. Otherwise Open sets it.
	Commit string `json:"commit,omitempty"`
	// Fingerprint identifies the weights; see backbone.Model.Fingerprint. If it is set, other
	// weights are an error.
	Fingerprint string `json:"fingerprint"`
	// WeightsKey chooses the weights in a checkpoint that holds several models: the keys of their
	// dict and the prefix of their names, separated by dots. Empty takes the only model, or the one
	// that checkpoint.File.Canonical prefers. Record sets it.
	WeightsKey string `json:"weights_key,omitempty"`
	// ImageSize is the side of the images, in px.
	ImageSize int `json:"image_size"`
	// NumHeads is the number of attention heads.
	NumHeads int `json:"num_heads"`
	// LayerNormEps is the epsilon of the layer norms.
	LayerNormEps float64 `json:"layer_norm_eps"`
	// Mean and Std normalise the pixels, which are scaled to 0…1. They hold one value for each of
	// the channels red, green and blue.
	Mean [3]float32 `json:"mean"`
	Std  [3]float32 `json:"std"`
	// Preprocessing names the source of Mean and Std. Open uses the given Mean and Std only if it
	// is GivenPreprocessing.
	Preprocessing string `json:"preprocessing"`
}

// validate returns an error if no backbone can be loaded with c.
func (c ModelConfig) validate() error {
	if c.Path == "" {
		return &OptionError{Option: "model", Err: fmt.Errorf("no backbone given: give a checkpoint file, a name such as vit_tiny, hf:OWNER/NAME, or %s for the embedded backbone", embedded.Name)}
	}
	if c.Preprocessing == GivenPreprocessing {
		if !(c.Std[0] > 0 && c.Std[1] > 0 && c.Std[2] > 0) {
			return &OptionError{Option: "std", Err: fmt.Errorf("standard deviation %v of the pixels: expected numbers above 0", c.Std)}
		}
		if slices.Max(c.Mean[:]) > 1 || slices.Min(c.Mean[:]) < 0 || slices.Max(c.Std[:]) > 1 {
			return &OptionError{Option: "mean", Err: fmt.Errorf("mean %v and standard deviation %v of the pixels: expected numbers from 0 to 1; divide values of 0…255 by 255", c.Mean, c.Std)}
		}
	}
	if c.Path == embedded.Name && c.Fingerprint == "" && (c.WeightsKey != "" || c.ImageSize != 0 || c.NumHeads != 0 || c.LayerNormEps != 0 || c.Preprocessing != "") {
		return &OptionError{Option: "model", Err: errors.New("the embedded backbone takes no weights key, image size, number of heads, epsilon, mean or standard deviation; leave these out")}
	}
	return nil
}

// File returns the path of the checkpoint. It replaces c.Path with the result of [Locate] if this
// is a reference to the Hugging Face Hub. If the backbone is on the Hub, File first downloads it
// into the cache that the Hugging Face libraries use. It then sets c.Commit, and origin is the
// reference with this commit: hf:OWNER/NAME@COMMIT. If c.Commit was set, File downloads that
// commit. For other backbones origin is empty.
//
// If File uses the cache without asking the Hub, report receives a progress.Note with the reason. A
// reference that cannot be read is an [*OptionError]. A name that is neither a file nor published,
// a repository, revision or file that does not exist, that the user may not read, or that is not
// usable is an [*InputError]. Another failure of the download, such as a server that does not
// answer or a full disk, is neither.
func (c *ModelConfig) File(ctx context.Context, report progress.Func) (path, origin string, err error) {
	located, err := Locate(c.Path)
	switch {
	case err != nil && hub.IsReference(c.Path):
		return "", "", &OptionError{Option: "model", Err: err}
	case err != nil:
		return "", "", &InputError{Err: err}
	}
	if !hub.IsReference(located) {
		if note := overriding(c.Path); note != "" {
			report.Report(progress.Event{Stage: progress.Note, Item: note})
		}
		return c.Path, "", nil
	}
	c.Path = located
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
		if _, ok := errors.AsType[*hub.InputError](err); ok {
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

// Verify reads the files of a backbone from the Hugging Face Hub in the cache and compares them
// with the checksums that the Hub stated. It does not use the network. File or Open must have set
// c.Commit. A damaged file is an [*InputError]. verified is the number of files that have their
// checksum, and files the number of all files.
func (c ModelConfig) Verify(ctx context.Context) (verified, files int, err error) {
	r, err := hub.Parse(c.Path)
	if err != nil {
		return 0, 0, &OptionError{Option: "model", Err: err}
	}
	client, err := hub.New()
	if err != nil {
		return 0, 0, err
	}
	checks, err := client.Verify(ctx, r.Repo, c.Commit)
	var damaged []error
	for _, check := range checks {
		switch {
		case check.Err != nil:
			damaged = append(damaged, check.Err)
		case check.Sum != "":
			verified++
		}
	}
	if damaged != nil {
		err = &InputError{Err: fmt.Errorf("verifying %s: %w", c.Path, errors.Join(damaged...))}
	}
	return verified, len(checks), err
}

// Open loads the backbone, and downloads it first if it is on the Hugging Face Hub. With numClasses
// above 0 the backbone gets a new head for that many classes; with 0 it keeps the head of the
// checkpoint. The returned report lists the tensors of the checkpoint that were used, missing and
// unused; it is nil for the embedded backbone.
//
// With numClasses 0, a tensor that is not used but may change the output of the model is an error.
//
// If the file does not have the WeightsKey but c.Fingerprint is set, Open takes the model that the
// file has, because the fingerprint identifies it: the backbone may have moved to a file in another
// form. Every error is an [*OptionError] or an [*InputError], except the error of a cancelled ctx
// and that of a failed download; see File.
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
	o := backbone.LoadOptions{NumClasses: numClasses, ImageSize: c.ImageSize, NumHeads: c.NumHeads, LayerNormEps: c.LayerNormEps, WeightsKey: c.WeightsKey}
	if c.Preprocessing == GivenPreprocessing {
		o.Mean, o.Std = &c.Mean, &c.Std
	}
	m, tensors, err := backbone.Load(path, o)
	if _, ok := errors.AsType[*checkpoint.KeyError](err); ok && o.WeightsKey != "" && c.Fingerprint != "" {
		o.WeightsKey = ""
		m, tensors, err = backbone.Load(path, o)
	}
	if err == nil && numClasses == 0 {
		err = refuseUnknown(path, tensors.Unknown)
	}
	if broken := (*checkpoint.FormatError)(nil); origin != "" && errors.As(err, &broken) {
		if blob, linked := filepath.EvalSymlinks(broken.File); linked == nil {
			err = fmt.Errorf("%w; if the cached copy is damaged, delete %s, and the next attempt downloads it again", err, blob)
		}
	}
	if err != nil {
		return nil, &tensors, &InputError{Err: err}
	}
	m.Origin = origin
	return m, &tensors, c.check(m)
}

// refuseUnknown returns an error that lists the tensors, if there are any.
func refuseUnknown(path string, tensors []string) error {
	if len(tensors) == 0 {
		return nil
	}
	list := ""
	for _, name := range tensors[:min(len(tensors), 5)] {
		list += fmt.Sprintf(", %.200q", name)
	}
	if n := len(tensors) - 5; n > 0 {
		list += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("backbone %s: the checkpoint has tensors that spt does not use, so the output of its head would be wrong: %s; the checkpoint can be tuned, which makes a new head", path, list[2:])
}

// OpenTuned loads the backbone of the delta d, with the classes, image size, attention heads and
// normalisation of the delta. It uses only Path, Commit and WeightsKey of c; an empty WeightsKey
// stands for the key in the delta, or for the model that the file has if this key is not in the
// file. If the checkpoint is not the backbone of the delta, the error is an [*InputError]. Other
// errors are as for [ModelConfig.Open].
func (c *ModelConfig) OpenTuned(ctx context.Context, d *delta.Delta, report progress.Func) (*backbone.Model, error) {
	if c.Path == embedded.Name {
		if c.WeightsKey != "" {
			return nil, &OptionError{Option: "weights-key", Err: errors.New("the embedded backbone takes no weights key; leave it out")}
		}
		return embedded.Model(d.Config.NumClasses)
	}
	path, origin, err := c.File(ctx, report)
	if err != nil {
		return nil, err
	}
	own := *d
	own.Backbone.WeightsKey = cmp.Or(c.WeightsKey, d.Backbone.WeightsKey)
	m, err := own.OpenBackbone(path)
	if _, ok := errors.AsType[*checkpoint.KeyError](err); ok && c.WeightsKey == "" && d.Backbone.WeightsKey != "" {
		own.Backbone.WeightsKey = ""
		m, err = own.OpenBackbone(path)
	}
	if err != nil {
		return nil, &InputError{Err: err}
	}
	m.Origin = origin
	return m, nil
}

// OpenBackbone loads the backbone of the delta d in the folder dir, as [ModelConfig.OpenTuned]
// does. It looks for the backbone in these places, and takes the first that holds it:
//
//   - the path in the configuration c of the run in dir; c may be nil
//   - the path in the delta
//   - a file of the name in the delta, in dir
//   - the Hugging Face Hub or this program, if the delta names them
//
// weightsKey is ModelConfig.WeightsKey. If no place holds a file, the error is an [*OptionError]
// that lists the places. If only other files are found, it is the error about the first.
func OpenBackbone(ctx context.Context, dir string, d *delta.Delta, c *Config, weightsKey string, report progress.Func) (*backbone.Model, error) {
	var places []ModelConfig
	add := func(path, commit string) {
		if path != "" && !slices.ContainsFunc(places, func(p ModelConfig) bool { return p.Path == path }) {
			places = append(places, ModelConfig{Path: path, Commit: commit, WeightsKey: weightsKey})
		}
	}
	if c != nil {
		add(c.Model.Path, c.Model.Commit)
	}
	add(d.Backbone.Path, "")
	switch file := d.Backbone.File; {
	case file == "":
	case file == embedded.Name:
		add(file, "")
	case !hub.IsReference(file):
		add(filepath.Join(dir, file), "")
	case c == nil || !hub.IsReference(c.Model.Path): // otherwise it is the same commit
		add(file, "")
	}
	var first error
	var missing []string
	for _, p := range places {
		if p.Path != embedded.Name && !hub.IsReference(p.Path) {
			if _, err := os.Stat(p.Path); errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, fmt.Sprintf("%q", p.Path))
				continue
			}
		}
		m, err := p.OpenTuned(ctx, d, report)
		if err == nil {
			err = d.Check(m)
		}
		if err == nil || ctx.Err() != nil {
			return m, err
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		where := "; the delta names no file"
		if len(missing) > 0 {
			where = ": there is no " + strings.Join(missing, " and no ")
		}
		first = &OptionError{Option: "model", Err: fmt.Errorf("the backbone of the delta in %s, which was tuned on %s, was not found%s; give its path", dir, d.Backbone, where)}
	}
	return nil, first
}

// check returns an error if m is not the backbone with the fingerprint in c.
func (c ModelConfig) check(m *backbone.Model) error {
	if c.Fingerprint != "" && c.Fingerprint != m.Fingerprint() {
		return &InputError{Err: fmt.Errorf("backbone %s has changed since the run began: its weights have fingerprint %s, expected %s; put the original file back, or begin a new run", c.Path, m.Fingerprint(), c.Fingerprint)}
	}
	return nil
}

// Record replaces the settings in c with the settings of the loaded backbone m.
func (c *ModelConfig) Record(m *backbone.Model) {
	if c.Path == "" {
		c.Path = m.Path
	}
	c.Fingerprint = m.Fingerprint()
	if r, err := hub.Parse(m.Origin); err == nil {
		c.Commit = r.Revision
	}
	c.WeightsKey = m.WeightsKey
	c.ImageSize, c.NumHeads, c.LayerNormEps = m.Config.ImageSize, m.Config.NumHeads, m.Config.LayerNormEps
	c.Mean, c.Std, c.Preprocessing = m.Preprocessing.Mean, m.Preprocessing.Std, m.Preprocessing.Source
}
