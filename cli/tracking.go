package cli

import (
	"context"
	"errors"

	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/tracking"
	"github.com/sptune/spt/tracking/mlflow"
)

// follow returns the function that passes the events of the run in dir to the places of o and to
// report, and the function that ends this. A command defers the second function, so that the result
// does not wait for a server.
func (a *app) follow(ctx context.Context, dir string, o tracking.Options, report progress.Func) (progress.Func, func(), error) {
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
