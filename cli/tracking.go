package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/tracking"
	"github.com/sptune/spt/tracking/mlflow"
)

// track returns the function that passes the events of the run in dir to the places of o and to
// report, and the function that ends this. A command defers the second function, so that the result
// does not wait for a server.
func (a *app) track(ctx context.Context, dir string, o tracking.Options, report progress.Func) (progress.Func, func(), error) {
	t, err := tracking.New(dir, o)
	if err != nil {
		return nil, nil, err
	}
	return t.Watch(report), func() {
		if ctx.Err() != nil {
			// Tell the server that the run was interrupted, but end in time.
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), interruptGrace/3)
			defer cancel()
		}
		a.undelivered(t.Close(ctx), dir, o)
	}, nil
}

// sendRuns sends runs to the places of o. A place that does not take a run gets no further runs,
// because a server that is away would delay each of them. The error joins those of the places.
func (a *app) sendRuns(ctx context.Context, runs []run.Folder, o tracking.Options) error {
	p := a.reporter()
	defer p.close()
	var failed error
	for _, place := range []tracking.Options{{TensorBoard: o.TensorBoard}, {MLflow: o.MLflow}} {
		if place == (tracking.Options{}) {
			continue
		}
		for i, folder := range runs {
			err := tracking.Send(ctx, string(folder), place, p.event)
			if err == nil {
				fmt.Fprintf(a.notes(), "sent %s to %s\n", printable(string(folder)), printable(placeName(place)))
				continue
			}
			if _, undelivered := errors.AsType[*tracking.DeliveryError](err); !undelivered || ctx.Err() != nil {
				return err
			}
			err = fmt.Errorf("sending %s: %w", folder, err)
			if left := len(runs) - i - 1; left > 0 {
				err = fmt.Errorf("%w; not sent: %s", err, wording.Plural(left, "more run"))
			}
			failed = errors.Join(failed, err)
			break
		}
	}
	if failed != nil {
		failed = errors.Join(failed, errors.New("the same command sends what is missing"))
	}
	return failed
}

// placeName returns the only place of o in words, without a password.
func placeName(o tracking.Options) string {
	if o.MLflow != "" {
		return "MLflow at " + mlflow.Public(o.MLflow)
	}
	return "TensorBoard in " + o.TensorBoard
}

// undelivered prints a note for each place that lacks a part of the run in dir.
func (a *app) undelivered(err error, dir string, o tracking.Options) {
	if err == nil {
		return
	}
	a.message("note: %v", err)
	words := []string{"spt", "report", dir}
	if o.TensorBoard != "" {
		words = append(words, "--tensorboard", o.TensorBoard)
	}
	if o.MLflow != "" {
		words = append(words, "--mlflow", mlflow.Public(o.MLflow))
	}
	if _, ok := errors.AsType[*tracking.DeliveryError](err); ok {
		a.message("to write what is missing: %s", shell.Command(words...))
	}
}
