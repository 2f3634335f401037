package tracking

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/tracking/tensorboard"
	"github.com/sptune/spt/train"
)

// board writes a run into a folder of TensorBoard. Each training has a folder of its own below the
// folder of the run: candidates/NAME and final.
type board struct {
	dir  string // the log directory of TensorBoard
	root string // the folder of the run in dir; empty until the first write
	logs map[string]*trainingLog
}

// trainingLog is the event file of one training with the epochs that it holds.
type trainingLog struct {
	*tensorboard.Log
	epochs       []train.Epoch
	began, final bool // the file holds the hyper-parameters, the results
}

func (b *board) String() string { return "TensorBoard in " + b.dir }

// missing implements sink. A folder either takes everything or fails.
func (b *board) missing(*Record) string { return "the events since then" }

// notes implements sink.
func (b *board) notes() []string { return nil }

// send implements sink.
func (b *board) send(_ context.Context, r *Record) error {
	if b.root == "" {
		root := filepath.Join(b.dir, r.Name)
		// Runs in different folders may have the same name.
		foreign, err := tensorboard.Foreign(root, r.ID)
		if err != nil {
			return err
		}
		if foreign {
			root += "-" + r.ID
		}
		b.root, b.logs = root, map[string]*trainingLog{}
	}
	for i, t := range r.Trainings {
		if len(t.Epochs) == 0 {
			continue
		}
		l := b.logs[t.Name]
		if l == nil || len(t.Epochs) < len(l.epochs) || !slices.Equal(l.epochs, t.Epochs[:len(l.epochs)]) {
			l = &trainingLog{Log: tensorboard.New(filepath.Join(b.root, filepath.FromSlash(t.title())), r.ID, r.Config.Started)}
			b.logs[t.Name] = l
		}
		if err := l.add(r, i); err != nil {
			return err
		}
		if err := l.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// add adds what the log lacks of training i. The order depends on the run only, so that a log that
// is made again begins like the file: the hyper-parameters come first, unless the run chooses them
// among several candidates, and the matrix comes last.
func (l *trainingLog) add(r *Record, i int) error {
	t, final := r.Trainings[i], i == len(r.Trainings)-1
	begin := func() error {
		if l.began || t.Parameters == nil {
			return nil
		}
		l.began = true
		var parameters []tensorboard.Parameter
		for _, p := range t.Parameters {
			parameters = append(parameters, tensorboard.Parameter{Name: p.Name, Value: p.scalar()})
		}
		return l.Begin(strings.Join([]string{r.Name, t.title()}, "/"), parameters)
	}
	if !final || len(r.Trainings) <= 2 {
		if err := begin(); err != nil {
			return err
		}
	}
	l.scalars(r.Points(i, len(l.epochs)+1))
	l.epochs = t.Epochs
	if final && r.Result == nil || !r.Finished(t) {
		return nil
	}
	if err := begin(); err != nil {
		return err
	}
	if l.final {
		return nil
	}
	l.final = true
	if !final {
		l.End(r.Points(i, len(t.Epochs))[0].At)
		return nil
	}
	l.scalars(r.Final())
	l.End(r.Result.Finished)
	if r.matrix == nil {
		return nil
	}
	return l.PNG(r.Result.Finished, len(t.Epochs), matrixName, r.matrix)
}

// scalars adds points, which are sorted by step.
func (l *trainingLog) scalars(points []Point) {
	for len(points) > 0 {
		n := 1
		for n < len(points) && points[n].Step == points[0].Step {
			n++
		}
		var values []tensorboard.Scalar
		for _, p := range points[:n] {
			values = append(values, tensorboard.Scalar{Tag: p.Metric, Value: p.Value})
		}
		l.Scalars(points[0].At, points[0].Step, values...)
		points = points[n:]
	}
}
