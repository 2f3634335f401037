package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sptune/spt"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
)

// deltaFormat is the delta alone, without its backbone and the other files of a run.
var deltaFormat = format{name: "delta", reader: "spt: the delta alone; with --half with float16 values", check: checkDelta, write: writeDelta, load: loadDelta}

// checkDelta refuses a classifier without a delta.
func checkDelta(c *Classifier, _ Options) error {
	if c.Delta == nil {
		return fmt.Errorf("the classifier has no delta: its weights are all in its checkpoint")
	}
	return nil
}

// writeDelta writes the two files of the delta, reads them and compares the logits.
func writeDelta(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error) {
	save := c.Delta.Save
	if o.Half {
		save = c.Delta.SaveHalf
	}
	if err := save(dir); err != nil {
		return nil, err
	}
	read, err := delta.Load(dir)
	if err != nil {
		return nil, err
	}
	tuned, err := spt.Restore(c.Model, read)
	if err != nil {
		return nil, err
	}
	logits, err := c.logitsOf(ctx, c.Model, tuned, o.Probes)
	if err != nil {
		return nil, err
	}
	e := &Exported{}
	if e.Images, e.Difference, err = c.hold(ctx, o, logits); err != nil {
		return nil, err
	}
	if o.Half {
		plain, err := plainBytes(c.Delta)
		if err != nil {
			return nil, err
		}
		e.Notes = append(e.Notes, fmt.Sprintf("with float32 values the delta has %s", wording.Bytes(plain)))
	}
	return e, nil
}

// plainBytes returns the size in bytes of the two files of a delta with float32 values.
func plainBytes(d *delta.Delta) (total int64, err error) {
	dir, err := os.MkdirTemp("", "spt-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := d.Save(dir); err != nil {
		return 0, err
	}
	for _, name := range []string{delta.FileName, delta.TensorsName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
}

// loadDelta returns the command that uses the delta in the folder dir.
func loadDelta(_ *Classifier, dir string) string {
	return shell.Command("spt", "predict", "--delta", dir) + " IMAGE…"
}
