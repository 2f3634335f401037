// Package tracking writes runs to the tools with which experiments are compared: to TensorBoard, as
// event files, and to an MLflow server.
//
// To follow a run while it works, begin with [New], pass the function of [Tracker.Watch] to the
// run, and call [Tracker.Close] at the end. To write a run from its folder, call [Send]. Both write
// the same values, and neither writes a value twice, also after a run was resumed.
//
// A [Record] holds what is written: the options, the figures of every epoch of every training, the
// metrics of the result, and the files. names.go has the names.
package tracking

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/tracking/mlflow"
	"github.com/sptune/spt/train"
)

// Options says where a run is written.
type Options struct {
	// TensorBoard is a log directory of TensorBoard. The run gets a folder in it. Empty: none.
	TensorBoard string
	// MLflow is the http or https URL of an MLflow server. [mlflow.New] says where the password
	// comes from. The experiment is that of MLFLOW_EXPERIMENT_NAME, by default spt. Empty: none.
	MLflow string
}

// Validate returns a [*run.OptionError] if nothing can be written to a place. It does not ask the
// server.
func (o Options) Validate() error {
	if o.MLflow != "" {
		if err := mlflow.CheckAddress(o.MLflow); err != nil {
			return &run.OptionError{Option: "mlflow", Err: err}
		}
	}
	if o.TensorBoard != "" {
		if stat, err := os.Stat(o.TensorBoard); err == nil && !stat.IsDir() {
			return &run.OptionError{Option: "tensorboard", Err: fmt.Errorf("%s is a file, but TensorBoard needs a folder; choose another path", o.TensorBoard)}
		}
	}
	return nil
}

// sink is a place to which runs are written.
type sink interface {
	fmt.Stringer // the place in words, without a password
	// send writes what the place lacks of a run. After an error, it may be called again.
	send(ctx context.Context, r *Record) error
	// missing describes what the place lacks, after an error of send.
	missing(r *Record) string
	// notes returns what the user should know.
	notes() []string
}

// sinks returns the places of o.
func (o Options) sinks() (all []sink, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.TensorBoard != "" {
		dir, err := filepath.Abs(o.TensorBoard)
		if err != nil {
			return nil, err
		}
		all = append(all, &board{dir: dir})
	}
	if o.MLflow != "" {
		client, err := mlflow.New(o.MLflow)
		if err != nil {
			return nil, err
		}
		all = append(all, &server{client: client})
	}
	return all, nil
}

// DeliveryError reports that a place lacks a part of a run. [Send] writes the part later.
type DeliveryError struct {
	Place   string // the place in words, such as "MLflow at http://127.0.0.1:5000"
	Missing string // the part in words
	Err     error
}

func (e *DeliveryError) Error() string {
	reason := e.Err.Error()
	switch {
	case errors.Is(e.Err, context.Canceled):
		reason = "interrupted"
	case errors.Is(e.Err, context.DeadlineExceeded):
		reason = "no time was left"
	}
	return fmt.Sprintf("%s lacks a part of the run (%s): %s", e.Place, e.Missing, reason)
}

func (e *DeliveryError) Unwrap() error { return e.Err }

// The pauses between attempts to reach a place.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = time.Minute
)

// attempts is the number of times that Send tries to reach a server.
const attempts = 4

// Send writes the run in the folder dir to the places of o. It continues what a [Tracker] or an
// earlier Send has written. It tries a place that does not answer again for a few seconds. report
// receives a progress.Note if a place does not take a part of the run. The error joins a
// [*DeliveryError] for each place that failed. A folder without a run is a [*run.InputError].
func Send(ctx context.Context, dir string, o Options, report progress.Func) error {
	sinks, err := o.sinks()
	if err != nil {
		return err
	}
	r, err := Read(dir)
	if err != nil {
		return err
	}
	var failed error
	for _, s := range sinks {
		err := s.send(ctx, r)
		for pause, n := firstPause, 1; err != nil && mlflow.Temporary(err) && n < attempts && sleep(ctx, pause); n++ {
			err = s.send(ctx, r)
			pause *= 2
		}
		if err != nil {
			failed = errors.Join(failed, &DeliveryError{s.String(), s.missing(r), cause(ctx, err)})
		}
		for _, text := range s.notes() {
			report.Report(progress.Event{Stage: progress.Note, Item: text})
		}
	}
	return failed
}

// sleep waits. It reports false if ctx ends first.
func sleep(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// cause returns the error of ctx, if ctx has ended, and otherwise err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Tracker writes one run to its places while the run works. It never fails the run and never delays
// it: each place has a goroutine, which writes what the place lacks whenever an epoch ends. While a
// place does not answer, the goroutine tries again with growing pauses. Nothing is queued, because
// the figures of the epochs are kept once, for all places.
type Tracker struct {
	dir     string
	outlets []*outlet
	// ctx ends when Close gives up.
	ctx     context.Context
	giveUp  context.CancelFunc
	closing chan struct{} // closed by Close: the record is final
	report  progress.Func

	mu     sync.Mutex
	record *Record // nil before the first event
	behind bool    // the folder has epochs that record lacks
	failed bool    // the folder cannot be read
}

// outlet is a place with its goroutine.
type outlet struct {
	sink
	wake chan struct{} // capacity 1: the record has changed
	done chan struct{} // closed when the goroutine has ended

	err    error // of the last attempt; guarded by Tracker.mu
	warned bool  // Watch has reported err
}

// New returns a Tracker of the run in the folder dir. The run need not have begun. Places that
// cannot be written to are a [*run.OptionError].
func New(dir string, o Options) (*Tracker, error) {
	sinks, err := o.sinks()
	if err != nil {
		return nil, err
	}
	t := &Tracker{dir: dir, closing: make(chan struct{})}
	t.ctx, t.giveUp = context.WithCancel(context.Background())
	for _, s := range sinks {
		out := &outlet{sink: s, wake: make(chan struct{}, 1), done: make(chan struct{})}
		t.outlets = append(t.outlets, out)
		go t.work(out)
	}
	return t, nil
}

// Watch returns a function that takes the events of the run and passes them to report. If a place
// does not answer, report first receives one progress.Note. Call Watch once.
func (t *Tracker) Watch(report progress.Func) progress.Func {
	t.report = report
	return func(e progress.Event) {
		for _, text := range t.observe(e) {
			report.Report(progress.Event{Stage: progress.Note, Item: text})
		}
		report.Report(e)
	}
}

// observe records an event. It returns notes for the user.
func (t *Tracker) observe(e progress.Event) (notes []string) {
	if len(t.outlets) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, out := range t.outlets {
		if out.err != nil && !out.warned {
			out.warned = true
			notes = append(notes, fmt.Sprintf("%s: %v; the run continues, and what is missing is sent later if possible", out, out.err))
		}
	}
	changed := false
	if (t.record == nil || t.behind) && !t.failed {
		if _, err := os.Stat(run.Folder(t.dir).Path(run.ConfigFile)); err != nil {
			return notes // the run has not begun
		}
		r, err := Read(t.dir)
		if err == nil {
			t.record, t.behind, changed = r, false, true
		}
		t.failed = err != nil // Close reads again, and reports the error
	}
	if figures, ok := e.Detail.(train.Epoch); ok && e.Stage == progress.Epoch && t.record != nil {
		t.behind = !t.record.add(e.Candidate, figures)
		changed = true
	}
	if changed {
		for _, out := range t.outlets {
			select {
			case out.wake <- struct{}{}:
			default: // it is awake already
			}
		}
	}
	return notes
}

// work writes to one place until the run has ended and everything is written, or until Close gives
// up.
func (t *Tracker) work(out *outlet) {
	defer close(out.done)
	wake := out.wake
	var failing time.Time // since when every attempt has failed; zero after a success
	for last := false; !last; {
		select {
		case <-wake:
		case <-t.closing:
			last = true
		}
		for pause := firstPause; ; pause = min(2*pause, maxPause) {
			t.mu.Lock()
			r := t.record
			if r != nil {
				r = r.snapshot()
			}
			t.mu.Unlock()
			if r == nil {
				break
			}
			err := out.send(t.ctx, r)
			t.mu.Lock()
			out.err = err
			t.mu.Unlock()
			if err == nil {
				failing = time.Time{}
				break
			}
			if failing.IsZero() {
				failing = time.Now()
			}
			if t.ctx.Err() != nil || last && time.Since(failing) > CloseTimeout {
				break // a place that has been away for long makes nobody wait
			}
			if !mlflow.Temporary(err) {
				wake = nil // more attempts could lock a user out; Close makes the last one
				break
			}
			wait := t.closing
			if last {
				wait = nil
			}
			select {
			case <-time.After(pause):
			case <-t.ctx.Done():
				return
			case <-wait:
				last, pause = true, firstPause/2
			}
		}
	}
}

// CloseTimeout is the time that [Tracker.Close] waits for a place.
const CloseTimeout = 10 * time.Second

// Close reads the result of the run from its folder, writes what the places lack and ends the
// Tracker. It waits for at most [CloseTimeout], and returns at once if ctx ends. A place that has
// failed for longer than that gets one more attempt. The error joins a [*DeliveryError] for each
// place that lacks a part of the run. If the run is unfinished, it has the status KILLED on an
// MLflow server, until it continues. A run that has not begun is no error.
func (t *Tracker) Close(ctx context.Context) error {
	defer t.giveUp()
	if len(t.outlets) == 0 {
		return nil
	}
	if _, err := os.Stat(run.Folder(t.dir).Path(run.ConfigFile)); err != nil {
		close(t.closing)
		return nil
	}
	r, err := Read(t.dir)
	t.mu.Lock()
	if err == nil {
		r.stopped = r.Result == nil
		t.record = r
	}
	t.mu.Unlock()
	close(t.closing)
	ctx, cancel := context.WithTimeoutCause(ctx, CloseTimeout, fmt.Errorf("sending takes longer than %v", CloseTimeout))
	defer cancel()
	failed := err
	for _, out := range t.outlets {
		var delivery error
		select {
		case <-out.done:
		case <-ctx.Done():
			t.giveUp() // ends the requests
			select {
			case <-out.done:
			case <-time.After(100 * time.Millisecond): // a disk may hang
				failed = errors.Join(failed, &DeliveryError{out.String(), "the last values", context.Cause(ctx)})
				continue
			}
			delivery = context.Cause(ctx)
		}
		if out.err == nil || r == nil {
			continue
		}
		if delivery == nil || !errors.Is(out.err, context.Canceled) {
			delivery = out.err
		}
		failed = errors.Join(failed, &DeliveryError{out.String(), out.missing(r), delivery})
	}
	for _, out := range t.outlets {
		select {
		case <-out.done:
			for _, text := range out.notes() {
				t.report.Report(progress.Event{Stage: progress.Note, Item: text})
			}
		default:
		}
	}
	return failed
}
