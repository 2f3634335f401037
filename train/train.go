// Package train is stage 3: it tunes what a plan selected.
//
// [Run] is the loop: it draws the initial values, shuffles, steps, validates
// and keeps a checkpoint, so that a stopped run goes on to exactly the same
// bits. Below it a [Stepper] is one optimiser step and a [Predictor] the
// forward pass; [Data] is what both read. All randomness comes from the seed
// and the position in the run, none from a state that would have to be saved.
package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/peft"
)

// Options are the recipe. [VTAB] is the paper's.
type Options struct {
	Epochs       int     `json:"epochs"`
	BatchSize    int     `json:"batch_size"`
	LR           float64 `json:"lr"`
	WeightDecay  float64 `json:"weight_decay"` // decoupled; tensors of two or more dimensions only
	WarmupEpochs float64 `json:"warmup_epochs"`
	WarmupLR     float64 `json:"warmup_lr"`
	MinLR        float64 `json:"min_lr"`

	DropPath       float64 `json:"drop_path"`        // of the blocks, linear over depth
	Dropout        float64 `json:"dropout"`          // on a module's input
	ModuleDropPath float64 `json:"module_drop_path"` // on a module's output

	Seed uint64 `json:"seed"`
}

// VTAB is the paper's recipe for VTAB-1k: AdamW at 1e-3, batches of 64, 100
// epochs, cosine from 10 warm-up epochs.
func VTAB() Options {
	return Options{Epochs: 100, BatchSize: 64, LR: 1e-3, WeightDecay: 1e-4, WarmupEpochs: 10, WarmupLR: 1e-6, MinLR: 1e-5,
		DropPath: 0.1, Dropout: 0.1, ModuleDropPath: 0.1}
}

// WithEpochs sets the number of epochs and keeps the warm-up's share of them.
func (o Options) WithEpochs(n int) Options {
	if o.Epochs > 0 {
		o.WarmupEpochs *= float64(n) / float64(o.Epochs)
	}
	o.Epochs = n
	return o
}

// Validate says what is wrong with o, if anything.
func (o Options) Validate() error {
	switch {
	case o.Epochs < 1:
		return fmt.Errorf("epochs: %d, expected at least 1", o.Epochs)
	case o.BatchSize < 1:
		return fmt.Errorf("batch size: %d, expected at least 1", o.BatchSize)
	case !(o.LR > 0) || o.LR > 10:
		return fmt.Errorf("learning rate: %g, expected above 0 and at most 10, such as 0.001", o.LR)
	case !(o.WarmupEpochs >= 0) || o.WarmupEpochs > float64(o.Epochs):
		return fmt.Errorf("warm-up epochs: %g, expected 0 to the %d epochs of the run (WithEpochs scales them along)", o.WarmupEpochs, o.Epochs)
	}
	for name, v := range map[string]float64{"weight decay": o.WeightDecay, "warm-up learning rate": o.WarmupLR, "minimum learning rate": o.MinLR} {
		if !(v >= 0) || math.IsInf(v, 1) {
			return fmt.Errorf("%s: %g, expected a finite number that is not negative", name, v)
		}
	}
	for name, v := range map[string]float64{"drop-path": o.DropPath, "dropout": o.Dropout, "module drop-path": o.ModuleDropPath} {
		if !(v >= 0 && v < 1) {
			return fmt.Errorf("%s rate: %g, expected at least 0 and below 1", name, v)
		}
	}
	return nil
}

// LearningRate is timm's cosine schedule with linear warm-up (CosineLRScheduler
// without warmup_prefix), evaluated at every step: epoch is fractional.
func (o Options) LearningRate(epoch float64) float64 {
	if epoch < o.WarmupEpochs {
		return o.WarmupLR + (o.LR-o.WarmupLR)*epoch/o.WarmupEpochs
	}
	return o.MinLR + (o.LR-o.MinLR)*(1+math.Cos(math.Pi*epoch/float64(o.Epochs)))/2
}

// Epoch is what one pass over the training data gave.
type Epoch struct {
	Epoch           int     `json:"epoch"` // from 1
	LR              float64 `json:"lr"`    // of the epoch's last step
	TrainLoss       float64 `json:"train_loss"`
	TrainAccuracy   float64 `json:"train_accuracy"` // with drop rates on, before each update
	ValLoss         float64 `json:"val_loss,omitempty"`
	ValAccuracy     float64 `json:"val_accuracy,omitempty"`
	TestAccuracy    float64 `json:"test_accuracy,omitempty"` // only where every epoch is tested (paper protocol)
	Seconds         float64 `json:"seconds"`                 // of training, validation apart
	ImagesPerSecond float64 `json:"images_per_second"`
}

// Hooks are called as a run proceeds, on its own goroutine. Nil ones are skipped.
type Hooks struct {
	// Resumed is called once, with the epochs that an earlier call finished, if
	// the run goes on from a checkpoint.
	Resumed func([]Epoch)
	// Step is called after each step; epoch counts from 0, step from 1.
	Step func(epoch, step, steps int, loss float64)
	// Epoch is called after each epoch. Its error ends the run.
	Epoch func(Epoch) error
}

// Run is one training.
type Run struct {
	Backend backend.Backend
	Model   *backbone.Model
	Tuning  *peft.Tuning
	Options Options
	Train   *Data
	Val     *Data // nil: no validation
	Test    *Data // nil unless every epoch is to be tested too, as the paper's protocol does
	// Checkpoint is a file that keeps the training state, every ten seconds, or where
	// writing it takes long so seldom that a twentieth of the time goes to it, and when
	// ctx is cancelled; empty: none. If it exists, the run goes on from there. It is
	// removed by the caller, once the result is safe.
	Checkpoint string
	Hooks      Hooks
	// Keep leaves in place what Do compiled, for Evaluate and for another Do, which uses it
	// again if Backend, Model, Tuning, drops and weight decay are the same: a device's
	// compiler takes its time. Close releases it.
	Keep bool
	// Later is what Evaluate is going to measure, for which a device then compiles in time;
	// may be nil.
	Later *Data

	id        string     // identity, of the call of Do; empty without a Checkpoint
	stepper   *Stepper   // of the last Do that kept it
	predictor *Predictor // with what stepper has tuned; made when it is needed
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

// batch is how many images a step takes: all, if there are fewer than Options.BatchSize.
func (r *Run) batch() int { return min(r.Options.BatchSize, r.Train.Len()) }

// Evaluate measures on data what the last Do tuned, and kept. progress, if not nil, is
// called with the images seen so far.
func (r *Run) Evaluate(ctx context.Context, data *Data, progress func(images int)) (Evaluation, error) {
	if r.stepper == nil {
		return Evaluation{}, errors.New("evaluating a training: none was kept; set Run.Keep before Run.Do")
	}
	p, err := r.predict()
	if err != nil {
		return Evaluation{}, err
	}
	batch := r.batch()
	if !backend.OnDevice(r.Backend) {
		batch = max(batch, 64) // of a few images only some cores would have a piece
	}
	return p.Evaluate(ctx, data, batch, progress)
}

// predict is a Predictor with what is tuned so far.
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
	Tuned  checkpoint.StateDict
	Epochs []Epoch
}

// Interrupted is returned when ctx ended a run. The training state is in the
// checkpoint, if the run has one.
type Interrupted struct {
	Epoch, Step int    // the next to do, from 0
	Checkpoint  string // empty if the run keeps none
	Cause       error
}

func (e *Interrupted) Error() string {
	return fmt.Sprintf("training stopped in epoch %d at step %d: %v", e.Epoch+1, e.Step, e.Cause)
}

func (e *Interrupted) Unwrap() error { return e.Cause }

// Do trains to the end, from the start or from the checkpoint. A partial last batch of
// an epoch is left out, as the loaders of VTAB-1k do, unless it is the only one.
func (r *Run) Do(ctx context.Context) (*Result, error) {
	if !r.Keep {
		defer r.Close()
	}
	o := r.Options
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("training options: %w", err)
	}
	if r.Train.Len() == 0 {
		return nil, errors.New("training: there are no training images")
	}
	if r.Checkpoint != "" {
		r.id = r.identity()
	}
	progress, tuned, err := r.start()
	if err != nil {
		return nil, err
	}
	batch := r.batch()
	steps := r.Train.Len() / batch
	if p := progress; p.Epoch < 0 || p.Epoch > o.Epochs || p.Step < 0 || p.Step > steps || p.Steps != p.Epoch*steps+p.Step || len(p.History) != p.Epoch {
		return nil, &StateError{r.Checkpoint, fmt.Errorf("it stands at epoch %d, step %d, after %d steps and %d epochs, which is no place in %d epochs of %d steps", p.Epoch, p.Step, p.Steps, len(p.History), o.Epochs, steps)}
	}
	rates := peft.Rates{DropPath: o.DropPath, Dropout: o.Dropout, ModuleDropPath: o.ModuleDropPath}
	if r.Tuning.Counts.Tuned() == 0 {
		rates.DropPath = 0 // a head is fitted to what the frozen backbone sees, however it comes
	}
	if s := r.stepper; s != nil && (s.be != r.Backend || s.net.model != r.Model || s.tuning != r.Tuning || s.rates != rates || s.decay != o.WeightDecay) {
		r.Close() // these are compiled in
	}
	if r.stepper == nil {
		r.stepper, err = NewStepper(r.Backend, r.Model, r.Tuning, tuned, rates, o.WeightDecay)
	} else {
		err = r.stepper.restart(tuned)
	}
	if err != nil {
		return nil, err
	}
	stepper := r.stepper
	if progress.resumed != nil {
		if r.Hooks.Resumed != nil {
			r.Hooks.Resumed(slices.Clone(progress.History))
		}
		if err := stepper.load(progress.Steps, tuned, progress.resumed.first, progress.resumed.second); err != nil {
			return nil, err
		}
	}
	train, val, test, err := r.cacheFeatures(ctx, &progress)
	if err != nil {
		return nil, err
	}
	if train == r.Train { // not features
		p, err := r.predict()
		if err != nil {
			return nil, err
		}
		for _, d := range []*Data{val, test, r.Later} { // it is compiled beside the first steps
			p.expect(d, batch)
		}
	}
	r.saveAt = time.Now().Add(saveEvery)
	for progress.Epoch < o.Epochs {
		if err := r.epoch(ctx, stepper, train, &progress, batch, steps); err != nil {
			return nil, err
		}
		done := progress.epochDone(o, batch, steps)
		if val != nil || test != nil {
			if err := r.validate(ctx, val, test, &done); err != nil {
				if ctx.Err() != nil {
					// The epoch is trained but not validated: its end is done again.
					err = r.interrupt(stepper, progress, ctx.Err())
				}
				return nil, err
			}
		}
		progress.History = append(progress.History, done)
		progress.next()
		if err := r.saveInTime(stepper, progress); err != nil {
			return nil, err
		}
		if r.Hooks.Epoch != nil {
			if err := r.Hooks.Epoch(done); err != nil {
				return nil, err
			}
		}
	}
	result := &Result{Epochs: progress.History}
	result.Tuned, err = stepper.Tuned()
	return result, err
}

// epoch trains on the epoch's remaining batches.
func (r *Run) epoch(ctx context.Context, s *Stepper, train *Data, p *progress, batch, steps int) error {
	order := dataset.Shuffle(train.Len(), r.Options.Seed, p.Epoch)[p.Step*batch : steps*batch]
	start := time.Now()
	lr := func(step int) float64 { return r.Options.LearningRate(float64(p.Epoch) + float64(step)/float64(steps)) }
	// advance counts n steps that were enqueued.
	advance := func(n int) error {
		p.Step += n
		p.Steps += n
		metrics, err := s.Read()
		for _, m := range metrics {
			p.LossSum += m.Loss * float64(batch)
			p.Correct += m.Correct
		}
		if err == nil && len(metrics) > 0 && r.Hooks.Step != nil {
			r.Hooks.Step(p.Epoch, p.Step, steps, metrics[len(metrics)-1].Loss)
		}
		if err == nil && p.Step < steps { // an epoch's end has been validated when it is saved
			now := *p
			now.Seconds += time.Since(start).Seconds()
			err = r.saveInTime(s, now)
		}
		return err
	}
	stop := func(err error) error {
		if ctx.Err() == nil {
			return err
		}
		p.Seconds += time.Since(start).Seconds()
		return r.interrupt(s, *p, ctx.Err())
	}
	looped := true
	for p.Step < steps && looped {
		var lrs []float64
		for i := range min(LoopSteps, steps-p.Step) {
			lrs = append(lrs, lr(p.Step+i))
		}
		var err error
		if looped, err = s.EnqueueLoop(ctx, train, order[:len(lrs)*batch], lrs, r.Options.Seed, p.Epoch); err != nil {
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
		for b, err := range train.batches(ctx, r.Backend, order, batch, true, r.Options.Seed, p.Epoch) {
			if err == nil {
				err = s.Enqueue(ctx, b.images, b.labels, lr(p.Step), r.Options.Seed)
				b.free()
			}
			if err != nil {
				return stop(err)
			}
			if err := advance(1); err != nil {
				return err
			}
		}
		if p.Step < steps && ctx.Err() != nil { // the loader ended early
			return stop(ctx.Err())
		}
	}
	p.Seconds += time.Since(start).Seconds()
	return nil
}

// saveEvery is what a run that is killed may lose: reading the state back and writing
// it takes longer than a short epoch.
const saveEvery = 10 * time.Second

// saveInTime saves the state if it is time to.
func (r *Run) saveInTime(s *Stepper, p progress) error {
	start := time.Now()
	if start.Before(r.saveAt) {
		return nil
	}
	err := r.save(s, p)
	// Of a backbone that is tuned whole the state takes gigabytes.
	r.saveAt = time.Now().Add(max(saveEvery, 20*time.Since(start)))
	return err
}

func (r *Run) interrupt(s *Stepper, p progress, cause error) error {
	if err := r.save(s, p); err != nil {
		return errors.Join(cause, err)
	}
	return &Interrupted{Epoch: p.Epoch, Step: p.Step, Checkpoint: r.Checkpoint, Cause: cause}
}

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

// cacheFeatures replaces images by features where only the head is tuned: the
// frozen backbone then sees each image once instead of once an epoch.
// Its time counts for the epoch at hand.
func (r *Run) cacheFeatures(ctx context.Context, p *progress) (train, val, test *Data, err error) {
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
		if out[i], err = predictor.featuresOf(ctx, d, r.batch(), nil); err != nil {
			if ctx.Err() != nil {
				err = &Interrupted{Epoch: p.Epoch, Step: p.Step, Checkpoint: r.Checkpoint, Cause: ctx.Err()}
			}
			return nil, nil, nil, err
		}
		if i == 0 {
			p.Seconds += time.Since(start).Seconds()
		}
	}
	return out[0], out[1], out[2], nil
}

// start loads the checkpoint, or draws the initial values.
func (r *Run) start() (progress, checkpoint.StateDict, error) {
	if r.Checkpoint != "" {
		switch _, err := os.Stat(r.Checkpoint); {
		case err == nil:
			return loadProgress(r.Checkpoint, r.Tuning, r.id)
		case !errors.Is(err, fs.ErrNotExist):
			return progress{}, nil, fmt.Errorf("resuming training: %w", err)
		}
	}
	return progress{}, r.Tuning.Init(r.Options.Seed, r.Model.Weights), nil
}
