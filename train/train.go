// Package train is stage 3: it tunes what a plan selected.
//
// [Run] is the training loop: it draws the initial values, shuffles, steps and validates. It keeps
// its state in a file, so that an interrupted training continues to exactly the same bits. A
// [Stepper] is one optimiser step, a [Predictor] is the forward pass, and [Data] is what both read.
// All randomness comes from the seed and the position in the training; no random state is saved.
package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
)

// Epoch holds the figures of one pass over the training data.
type Epoch struct {
	Epoch int `json:"epoch"` // number of the epoch, from 1
	// learning rate of the epoch's last step
	LR float64 `json:"lr"`
	// mean loss, measured before each update with drops on
	TrainLoss float64 `json:"train_loss"`
	// measured like TrainLoss; see objective.Objective.Correct
	TrainAccuracy float64 `json:"train_accuracy"`
	ValLoss       float64 `json:"val_loss,omitempty"` // 0 without validation
	// 0 without validation; see objective.Evaluation.Accuracy
	ValAccuracy  float64 `json:"val_accuracy,omitempty"`
	TestAccuracy float64 `json:"test_accuracy,omitempty"` // 0 unless every epoch is tested
	// time spent in training, without validation
	Seconds float64 `json:"seconds"`
	// speed of the training, without validation
	ImagesPerSecond float64 `json:"images_per_second"`
}

// Run is one training. Its fields are set before [Run.Do] and stay as they are while it runs.
type Run struct {
	// Backend is the device that computes.
	Backend backend.Backend
	// Model is the backbone.
	Model *backbone.Model
	// Tuning says what is tuned.
	Tuning *peft.Tuning
	// Options is the recipe.
	Options Options
	// Train is the training data. Its objective is minimised.
	Train *Data
	// Val is evaluated after each epoch. Nil: nothing is validated.
	Val *Data
	// Test is evaluated after each epoch too, as the paper's protocol does; it changes nothing in
	// the training. Nil: nothing is tested.
	Test *Data
	// Checkpoint is the path of a file that keeps the training state. If the file exists, the
	// training continues from it. It is written every ten seconds, less often if writing would take
	// more than a twentieth of the time, and when the context is cancelled. The caller removes it
	// once the result is safe. Empty: no state is kept.
	Checkpoint string
	// Progress receives an event of the stage progress.Train after each step, or on a device after
	// some dozen steps, and one of progress.Epoch after each epoch, whose detail is the [Epoch].
	// Nil: nothing is reported.
	Progress progress.Func
	// EpochDone is called after each epoch with all epochs that are finished, those before an
	// interruption included. Its error ends the training. Nil: nothing is called.
	EpochDone func(epochs []Epoch) error
	// Keep makes Do leave its compiled programs and the tuned tensors in place, for Evaluate and
	// for another Do with the same Backend, Model, Tuning, objective, drop rates and weight decay:
	// a device takes long to compile. Close releases them. Default: Do releases them.
	Keep bool
	// Later is data that Evaluate will measure. A device then compiles for it while it trains. Nil:
	// none.
	Later *Data

	id        string     // identity of the training that Do runs; empty without a Checkpoint
	stepper   *Stepper   // of the last Do that kept it
	predictor *Predictor // predicts with what stepper has tuned; made when it is needed
	saveAt    time.Time  // when the state is saved next
}

// Close releases what Do kept.
func (r *Run) Close() {
	if r.predictor != nil {
		r.predictor.Close()
	}
	if r.stepper != nil {
		r.stepper.Close()
	}
	r.stepper, r.predictor = nil, nil
}

// batch returns the number of images in a step: Options.BatchSize, or all if there are fewer.
func (r *Run) batch() int { return min(r.Options.BatchSize, r.Train.Len()) }

// Evaluate measures on data what the last Do tuned and kept. It reports progress.Evaluate after
// each batch.
func (r *Run) Evaluate(ctx context.Context, data *Data, report progress.Func) (objective.Evaluation, error) {
	if r.stepper == nil {
		return objective.Evaluation{}, errors.New("evaluating a training: nothing was kept; set Run.Keep before Run.Do")
	}
	p, err := r.predict()
	if err != nil {
		return objective.Evaluation{}, err
	}
	batch := r.batch()
	if !backend.OnDevice(r.Backend) {
		batch = max(batch, 64) // a batch of a few images has no piece for some of the cores
	}
	return p.Evaluate(ctx, data, batch, report)
}

// predict returns a Predictor with what is tuned so far.
func (r *Run) predict() (p *Predictor, err error) {
	if r.predictor == nil {
		if r.predictor, err = r.stepper.predictor(); err != nil {
			return nil, err
		}
	}
	r.predictor.tuned = r.stepper.tuned()
	return r.predictor, nil
}

// Result is a finished training.
type Result struct {
	// Tuned holds the tuned tensors by peft.Param.Name.
	Tuned checkpoint.StateDict
	// Epochs holds the figures of all epochs.
	Epochs []Epoch
}

// Do trains to the end, from the start or from the training state in Checkpoint. It leaves out the
// partial last batch of an epoch, as the loaders of VTAB-1k do, unless it is the only one. If ctx
// ends the training, the error wraps the cause, and the state is in Checkpoint.
func (r *Run) Do(ctx context.Context) (*Result, error) {
	if !r.Keep {
		defer r.Close()
	}
	o := r.Options
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("training options: %w", err)
	}
	if err := r.checkData(); err != nil {
		return nil, err
	}
	if r.Checkpoint != "" {
		r.id = r.identity()
	}
	at, tuned, err := r.start()
	if err != nil {
		return nil, err
	}
	batch := r.batch()
	steps := r.Train.Len() / batch
	if at.Epoch < 0 || at.Epoch > o.Epochs || at.Step < 0 || at.Step > steps || at.Steps != at.Epoch*steps+at.Step || len(at.History) != at.Epoch {
		return nil, &StateError{r.Checkpoint, fmt.Errorf("it stands at epoch %d, step %d, after %d steps and %d epochs, which is no place in %d epochs of %d steps", at.Epoch, at.Step, at.Steps, len(at.History), o.Epochs, steps)}
	}
	rates := peft.Rates{DropPath: o.DropPath, Dropout: o.Dropout, ModuleDropPath: o.ModuleDropPath}
	if r.Tuning.Counts.Tuned() == 0 {
		// a head alone is fitted to the features of the frozen backbone, without drops
		rates.DropPath = 0
	}
	if s := r.stepper; s != nil && !(s.be == r.Backend && s.net.model == r.Model && s.net.objective.Name() == r.Train.objective.Name() && s.tuning == r.Tuning && s.rates == rates && s.decay == o.WeightDecay) {
		r.Close() // these are compiled in
	}
	if r.stepper == nil {
		r.stepper, err = NewStepper(r.Backend, r.Model, r.Train.objective, r.Tuning, tuned, rates, o.WeightDecay)
	} else {
		err = r.stepper.restart(tuned)
	}
	if err != nil {
		return nil, err
	}
	stepper := r.stepper
	if at.resumed != nil {
		if err := stepper.load(at.Steps, tuned, at.resumed.first, at.resumed.second); err != nil {
			return nil, err
		}
	}
	train, val, test, err := r.cacheFeatures(ctx, &at)
	if err != nil {
		return nil, err
	}
	if train == r.Train { // images, not cached features
		p, err := r.predict()
		if err != nil {
			return nil, err
		}
		for _, d := range []*Data{val, test, r.Later} { // compiled while the first steps run
			p.expect(d, batch)
		}
	}
	r.saveAt = time.Now().Add(saveEvery)
	for at.Epoch < o.Epochs {
		if err := r.epoch(ctx, stepper, train, &at, batch, steps); err != nil {
			return nil, err
		}
		done := at.epochDone(o, batch, steps)
		if val != nil || test != nil {
			if err := r.validate(ctx, val, test, &done); err != nil {
				if ctx.Err() != nil {
					// The epoch is trained but not validated. The resumed training validates it.
					err = r.interrupt(stepper, at, ctx.Err())
				}
				return nil, err
			}
		}
		at.History = append(at.History, done)
		at.next()
		if err := r.saveInTime(stepper, at); err != nil {
			return nil, err
		}
		r.Progress.Report(progress.Event{Stage: progress.Epoch, Epoch: done.Epoch - 1, Epochs: o.Epochs, Detail: done})
		if r.EpochDone != nil {
			if err := r.EpochDone(slices.Clone(at.History)); err != nil {
				return nil, err
			}
		}
	}
	result := &Result{Epochs: at.History}
	result.Tuned, err = stepper.Tuned()
	return result, err
}

// checkData reports data that this training cannot read.
func (r *Run) checkData() error {
	if r.Train.Len() == 0 {
		return errors.New("training: there are no training images")
	}
	o := r.Train.objective
	for what, d := range map[string]*Data{"validation": r.Val, "test": r.Test, "later": r.Later} {
		if d != nil && d.objective.Name() != o.Name() {
			return fmt.Errorf("training with the objective %s: the %s data has the objective %s; give data of one objective", o.Name(), what, d.objective.Name())
		}
	}
	if shape := o.TargetShape(r.Model.Config); len(shape) > 1 && r.Train.augments() {
		return fmt.Errorf("training with the objective %s: its targets are maps of shape %v, which random crops and flips of the images do not move; read the images without augmentation", o.Name(), shape)
	}
	return nil
}

// epoch trains on the remaining batches of the epoch.
func (r *Run) epoch(ctx context.Context, s *Stepper, train *Data, at *position, batch, steps int) error {
	order := dataset.Shuffle(train.Len(), r.Options.Seed, at.Epoch)[at.Step*batch : steps*batch]
	start := time.Now()
	lr := func(step int) float64 {
		return r.Options.learningRate(float64(at.Epoch) + float64(step)/float64(steps))
	}
	// advance counts n steps that were enqueued.
	advance := func(n int) error {
		at.Step += n
		at.Steps += n
		metrics, err := s.Read()
		for _, m := range metrics {
			at.LossSum += m.Loss * float64(batch)
			at.Correct += m.Correct
		}
		if err == nil && len(metrics) > 0 {
			r.Progress.Report(progress.Event{Stage: progress.Train, Done: int64(at.Step), Total: int64(steps), Epoch: at.Epoch, Epochs: r.Options.Epochs, Loss: metrics[len(metrics)-1].Loss})
		}
		// the state at the end of an epoch is saved after the validation
		if err == nil && at.Step < steps {
			now := *at
			now.Seconds += time.Since(start).Seconds()
			err = r.saveInTime(s, now)
		}
		return err
	}
	stop := func(err error) error {
		if ctx.Err() == nil {
			return err
		}
		at.Seconds += time.Since(start).Seconds()
		return r.interrupt(s, *at, ctx.Err())
	}
	looped := true
	for at.Step < steps && looped {
		var lrs []float64
		for i := range min(loopSteps, steps-at.Step) {
			lrs = append(lrs, lr(at.Step+i))
		}
		var err error
		if looped, err = s.EnqueueLoop(ctx, train, order[:len(lrs)*batch], lrs, r.Options.Seed, at.Epoch); err != nil {
			return stop(err)
		}
		if looped {
			order = order[len(lrs)*batch:]
			if err := advance(len(lrs)); err != nil {
				return err
			}
		}
	}
	if !looped {
		for b, err := range train.batches(ctx, r.Backend, order, batch, true, r.Options.Seed, at.Epoch) {
			if err == nil {
				err = s.Enqueue(ctx, b.images, b.targets, lr(at.Step), r.Options.Seed)
				b.free()
			}
			if err != nil {
				return stop(err)
			}
			if err := advance(1); err != nil {
				return err
			}
		}
		if at.Step < steps && ctx.Err() != nil { // the loader ended early
			return stop(ctx.Err())
		}
	}
	at.Seconds += time.Since(start).Seconds()
	return nil
}

// saveEvery is the shortest time between two saved states, and so the work that a killed training
// loses. Reading the state from the backend and writing it takes longer than a short epoch.
const saveEvery = 10 * time.Second

// saveInTime saves the state if the last one is old enough.
func (r *Run) saveInTime(s *Stepper, at position) error {
	start := time.Now()
	if start.Before(r.saveAt) {
		return nil
	}
	err := r.save(s, at)
	// The state of a backbone that is tuned whole takes gigabytes.
	r.saveAt = time.Now().Add(max(saveEvery, 20*time.Since(start)))
	return err
}

// interrupt saves the state and returns the error of an interrupted training.
func (r *Run) interrupt(s *Stepper, at position, cause error) error {
	if err := r.save(s, at); err != nil {
		return errors.Join(cause, err)
	}
	return at.interrupted(cause)
}

// validate evaluates the validation and test data after an epoch.
func (r *Run) validate(ctx context.Context, val, test *Data, e *Epoch) error {
	p, err := r.predict()
	if err != nil {
		return err
	}
	if val != nil {
		v, err := p.Evaluate(ctx, val, r.batch(), nil)
		if err != nil {
			return fmt.Errorf("validating after epoch %d: %w", e.Epoch, err)
		}
		e.ValLoss, e.ValAccuracy = v.Loss, v.Accuracy
	}
	if test != nil {
		v, err := p.Evaluate(ctx, test, r.batch(), nil)
		if err != nil {
			return fmt.Errorf("testing after epoch %d: %w", e.Epoch, err)
		}
		e.TestAccuracy = v.Accuracy
	}
	return nil
}

// cacheFeatures replaces images by their features where only the head is tuned: the frozen backbone
// then reads each image once instead of once in each epoch. The time counts for the current epoch.
// Unpooled features would take too much memory; their images stay.
func (r *Run) cacheFeatures(ctx context.Context, at *position) (train, val, test *Data, err error) {
	if r.Tuning.Counts.Tuned() > 0 || r.Train.augments() {
		return r.Train, r.Val, r.Test, nil
	}
	predictor, err := r.predict()
	if err != nil {
		return nil, nil, nil, err
	}
	out := [3]*Data{}
	for i, d := range []*Data{r.Train, r.Val, r.Test} {
		if d == nil {
			continue
		}
		start := time.Now()
		if out[i], err = predictor.featuresOf(ctx, d, r.batch()); err != nil {
			if ctx.Err() != nil {
				err = at.interrupted(ctx.Err())
			}
			return nil, nil, nil, err
		}
		if i == 0 {
			at.Seconds += time.Since(start).Seconds()
		}
		if out[i] == nil {
			return r.Train, r.Val, r.Test, nil
		}
	}
	return out[0], out[1], out[2], nil
}

// start loads the training state from Checkpoint, or draws the initial values.
func (r *Run) start() (position, checkpoint.StateDict, error) {
	if r.Checkpoint != "" {
		switch _, err := os.Stat(r.Checkpoint); {
		case err == nil:
			return loadState(r.Checkpoint, r.Tuning, r.id)
		case !errors.Is(err, fs.ErrNotExist):
			return position{}, nil, fmt.Errorf("resuming training: %w", err)
		}
	}
	return position{}, r.Tuning.Init(r.Options.Seed, r.Model.Weights), nil
}
