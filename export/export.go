// Package export writes a tuned classifier in the formats of other programs. Each format is a row
// of a table: whether the classifier can be written in it without a loss, and the function that
// writes and verifies it.
//
// Begin with [Write]. It makes a new folder, writes the classifier in each of the wanted formats,
// compares the logits of probe images with those of the classifier, and returns how other programs
// load the result.
package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// Classifier is what is exported: a backbone with its tuned parameters and all that belongs to
// them.
type Classifier struct {
	// Model is the backbone.
	Model *backbone.Model
	// Delta holds the tuned parameters.
	Delta *delta.Delta
	// Tuned holds them in the form that computes, from spt.Restore.
	Tuned *spt.Trained
	// Transform resizes an image to the input of the model, as it did in the training.
	Transform dataset.Transform
	// Config and Result describe the run, for a model card. They are nil if the delta is not in a
	// run folder.
	Config *run.Config
	Result *run.Result
	// Backend computes the logits that an export is compared with. Nil means the CPU.
	Backend backend.Backend
}

// Options configures an export.
type Options struct {
	// Half stores weights as float16, in the formats that allow it.
	Half bool
	// Probabilities makes an ONNX model return probabilities beside the logits.
	Probabilities bool
	// Probes holds the pixels of images, [n, Size, Size, 3], on which logits are compared. See
	// spt.Probes.
	Probes []uint8
	// Bound is the largest accepted difference of a logit. Default: delta.DefaultBound, or
	// HalfBound with Half.
	Bound float64
	// Progress receives the events of long work. Default: no events.
	Progress progress.Func
}

// HalfBound is the default of Options.Bound with Half. Float16 has eleven significant bits, so
// rounding moves each weight by up to one part in 4096.
const HalfBound = 0.05

// Exported describes a classifier in one format.
type Exported struct {
	// Format is the name of the format, and Dir its folder.
	Format string `json:"format"`
	Dir    string `json:"dir"`
	// Bytes is the total size of the files.
	Bytes int64 `json:"bytes"`
	// Images is the number of probe images, and Difference the largest difference of a logit.
	Images     int     `json:"images"`
	Difference float64 `json:"difference"`
	// Load is the code or the command that loads the folder.
	Load string `json:"load"`
	// Notes says what a user should know.
	Notes []string `json:"notes,omitempty"`
}

// format is a row of the table of formats.
type format struct {
	name string
	// reader names the programs that read the format, for the help.
	reader string
	// check returns an error that says what would be lost, if the classifier cannot be written. It
	// does no costly work.
	check func(c *Classifier, o Options) error
	// write writes the files into the empty folder dir and verifies them. It sets Images,
	// Difference and Notes, and Load if load is nil.
	write func(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error)
	// load returns the code or the command that loads the finished folder dir of a classifier.
	load func(c *Classifier, dir string) string
}

// formats is the table of formats.
var formats = []format{timm, transformers, onnxFormat, peftFormat, deltaFormat}

// Formats returns the names of all formats.
func Formats() (names []string) {
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

// Reader returns the names of the programs that read a format. It returns "" for an unknown format.
func Reader(name string) string {
	if i := slices.Index(Formats(), name); i >= 0 {
		return formats[i].reader
	}
	return ""
}

// withDefaults returns o with the default of Bound.
func (o Options) withDefaults() Options {
	switch {
	case o.Bound != 0:
	case o.Half:
		o.Bound = HalfBound
	default:
		o.Bound = delta.DefaultBound
	}
	return o
}

// Check returns the error that [Write] returns before it does costly work. The probe images in o
// are not needed.
func Check(c *Classifier, names []string, out string, o Options) error {
	_, err := check(c, names, out, o.withDefaults())
	return err
}

// check returns the rows of the formats. Its errors are those of Write.
func check(c *Classifier, names []string, out string, o Options) (rows []format, err error) {
	for i, name := range names {
		at := slices.Index(Formats(), name)
		switch {
		case at < 0:
			return nil, &run.OptionError{Option: "format", Err: option.Unknown("format", "format", name, Formats())}
		case slices.Contains(names[:i], name):
			return nil, &run.OptionError{Option: "format", Err: fmt.Errorf("the format %s is given twice; give it once", name)}
		}
		rows = append(rows, formats[at])
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s exists; choose a new folder", out)
		}
		return nil, &run.OptionError{Option: "out", Err: err}
	}
	for _, f := range rows {
		if err := f.check(c, o); err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("exporting to %s: %w", f.name, err)}
		}
	}
	return rows, nil
}

// Write exports a classifier in one or several formats into the new folder out. With one format the
// files are in out, with several in a folder for each format in out. If a format fails, Write
// leaves nothing behind. An unknown format and a folder that exists are a [*run.OptionError]; a
// classifier that a format cannot hold is a [*run.InputError].
func Write(ctx context.Context, c *Classifier, names []string, out string, o Options) ([]*Exported, error) {
	o = o.withDefaults()
	rows, err := check(c, names, out, o)
	if err != nil {
		return nil, err
	}
	var all []*Exported
	err = atomicfile.CreateFolder(out, func(dir string) error {
		all, err = write(ctx, c, rows, dir, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, e := range all {
		e.Dir = out
		if len(rows) > 1 {
			e.Dir = filepath.Join(out, e.Format)
		}
		if load := rows[i].load; load != nil {
			e.Load = load(c, e.Dir)
		}
	}
	return all, nil
}

// write writes all formats below the folder dir.
func write(ctx context.Context, c *Classifier, rows []format, dir string, o Options) (all []*Exported, err error) {
	for _, f := range rows {
		own := dir
		if len(rows) > 1 {
			own = filepath.Join(dir, f.name)
			if err := os.Mkdir(own, 0o777); err != nil {
				return nil, fmt.Errorf("exporting: %w", err)
			}
		}
		e, err := f.write(ctx, c, o, own)
		if err != nil {
			return nil, fmt.Errorf("exporting to %s: %w", f.name, err)
		}
		e.Format = f.name
		err = filepath.WalkDir(own, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				var info fs.FileInfo
				if info, err = d.Info(); err == nil {
					e.Bytes += info.Size()
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("exporting to %s: %w", f.name, err)
		}
		all = append(all, e)
	}
	return all, nil
}
