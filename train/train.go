// Package train implements stage 3: it trains the selected parameters and the head on top of the
// frozen backbone.
//
// Begin with [Run]: set its fields and call [Run.Do]. Do draws the initial values, shuffles the
// images, trains on one mini-batch after the other and validates after each epoch. [Options] holds
// the hyper-parameters; [VTAB] returns the values of the paper. [Images] makes the [Data] that a
// training reads.
//
// A Run is built from two parts, which can also be used alone. A [Stepper] runs one optimiser step:
// forward pass, backward pass and AdamW. A [Predictor] runs the forward pass and evaluates data.
//
// Run can keep its state in a checkpoint file. A resumed training gives the same result, bit for
// bit, as a training without interruption. All random numbers are computed from the seed and the
// position in the training, so the checkpoint holds no state of a random number generator.
package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
)

// Epoch holds the figures of one pass over the training data.
type Epoch struct {
	// Epoch is the number of the epoch, starting at 1.
	Epoch int `json:"epoch"`
	// LR is the learning rate of the last step of the epoch.
	LR float64 `json:"lr"`
	// TrainLoss is the mean loss of the training images. The loss of a mini-batch is measured
	// before its update, with dropout and drop-path, and with the label smoothing and the class
	// weights of the options.
	TrainLoss float64 `json:"train_loss"`
	// TrainAccuracy is the mean over the training images of objective.Objective.Correct. It is
	// measured at the same time as TrainLoss. If an image is mixed with another one, its own target
	// counts.
	TrainAccuracy float64 `json:"train_accuracy"`
	// ValLoss is the mean loss of the validation images. It is 0 without validation.
	ValLoss float64 `json:"val_loss,omitempty"`
	// ValAccuracy is objective.Evaluation.Accuracy of the validation images. It is 0 without
	// validation.
	ValAccuracy float64 `json:"val_accuracy,omitempty"`
	// ValMetric is the metric Options.Select of the validation images. It is 0 if the metric is the
	// accuracy or the loss; see Epoch.Selected.
	ValMetric float64 `json:"val_metric,omitempty"`
	// TestAccuracy is objective.Evaluation.Accuracy of the test images. It is 0 if Run.Test is nil.
	TestAccuracy float64 `json:"test_accuracy,omitempty"`
	// Seconds is the time spent on training, without validation and testing.
	Seconds float64 `json:"seconds"`
	// ImagesPerSecond is the number of training images divided by Seconds. It is 0 if Seconds is 0,
	// because the epoch was shorter than a tick of the clock.
	ImagesPerSecond float64 `json:"images_per_second"`
	// WaitShare is the share of Seconds in which the steps waited for images that were not decoded
	// in time, from 0 to 1. Images and features that are stored take no time.
	WaitShare float64 `json:"wait_share,omitempty"`
}

// Selected returns the value of a metric for the validation images after the epoch: higher is
// better. by must be Options.Select of the training.
func (e Epoch) Selected(by objective.Selection) float64 {
	return by.Restored(e.ValAccuracy, e.ValLoss, e.ValMetric)
}

// Run configures one training. Set the fields before [Run.Do] and do not change them while Do runs.
type Run struct {
	// Backend runs the training.
	Backend backend.Backend
	// Model is the backbone.
	Model *backbone.Model
	// Tuning lists the tuned parameters.
	Tuning *peft.Tuning
	// Options holds the hyper-parameters.
	Options Options
	// Train is the training data. The training minimises the loss of its objective.
	Train *Data
	// Val is the validation data, evaluated after each epoch. Nil means no validation.
	Val *Data
	// ValSink receives the predictions of the validation images after the last epoch. Nil: no call.
	ValSink Sink
	// Test is the test data, evaluated after each epoch, as in the protocol of the paper. The
	// results do not influence the training. Nil means no testing.
	Test *Data
	// Checkpoint is the path of the file that keeps the training state. If the file exists, the
	// training continues from it. Do writes the file every ten seconds, or less often if writing
	// would take more than 5 % of the time. Do also writes the file when the context is cancelled.
	// The caller removes the file after it has stored the result. Empty means that no state is
	// kept.
	Checkpoint string
	// Progress receives an event with stage progress.Train after each step. On a device such as a
	// GPU the event follows after up to 50 steps. An event with stage progress.Epoch follows after
	// each epoch; its Detail is the [Epoch]. If the selection has a FromBlock, events with stage
	// progress.Tokens come first. Nil means no events.
	Progress progress.Func
	// EpochDone is called after each epoch with all finished epochs, including the epochs before an
	// interruption. If it returns an error, the training ends with this error. Nil means no call.
	EpochDone func(epochs []Epoch) error
	// Keep makes Do keep the compiled programs and the tuned tensors, because compiling for a
	// device takes long. Evaluate uses them. Another Do uses the programs if Backend, Model,
	// Tuning, objective, drop rates and weight decay are the same. Close releases them. Default: Do
	// releases them.
	Keep bool
	// Initial replaces the drawn initial values of tuned tensors, by peft.Param.Name; for example
	// the head of a linear probe. Nil means that all initial values are drawn.
	Initial checkpoint.StateDict
	// TimeLeft returns the time that is left for the remaining steps and their validation. If the
	// training is too slow, Do takes fewer steps, and its learning rate falls faster to the end of
	// the schedule. It takes at least one step. The result then depends on the speed of the
	// machine. Nil means that the time is not limited.
	TimeLeft func() time.Duration
	// Later is the data of a later call of Evaluate. A device compiles the program for it during
	// the training. Nil means no such data.
	Later *Data

	// id is the identity of the training that Do runs. It is empty without a Checkpoint.
	id string
	// stepper is the Stepper of the running Do, or of the last one if Keep is set.
	stepper *Stepper
	// predictor predicts with the tuned tensors of stepper. It is nil until it is needed.
	predictor *Predictor
	// valSent reports whether this Do has called ValSink.
	valSent bool
	// best holds the predictions of the validation images after the best epoch of this Do, with
	// Options.Patience.
	best predictions
	// saveAt is the time of the next save of the training state.
	saveAt time.Time
	// pace measures the speed of the steps of this Do, for TimeLeft.
	pace pace
}

// predictions holds the arguments of a Sink for all images.
type predictions struct {
	logits  []float32
	targets []int32
}

func (p *predictions) add(logits []float32, targets []int32) error {
	p.logits, p.targets = append(p.logits, logits...), append(p.targets, targets...)
	return nil
}

// maxKept is the largest number of logits of validation images that a training with patience keeps
// in each epoch. They are kept twice: those of the best epoch and those of the last one.
var maxKept = 1 << 24

// Close releases the programs and tensors that Do kept.
func (r *Run) Close() {
	if r.predictor != nil {
		r.predictor.Close()
	}
	if r.stepper != nil {
		r.stepper.Close()
	}
	r.stepper, r.predictor = nil, nil
}

// batch returns the number of images in a mini-batch: Options.BatchSize with its default, or the
// number of training images if that is smaller.
func (r *Run) batch() int {
	n := r.Train.Len()
	return min(r.Options.WithDefaults(n).BatchSize, n)
}

// Evaluate evaluates data with the tuned tensors of the last Do, which must have run with Keep. It
// passes the predictions to sink, unless sink is nil. It reports an event with stage
// progress.Evaluate after each batch.
func (r *Run) Evaluate(ctx context.Context, data *Data, sink Sink, report progress.Func) (objective.Evaluation, error) {
	if r.stepper == nil {
		return objective.Evaluation{}, errors.New("evaluating the trained model: it was not kept after the training; set Run.Keep before Run.Do")
	}
	p, err := r.predict()
	if err != nil {
		return objective.Evaluation{}, err
	}
	return p.Evaluate(ctx, data, r.evaluationBatch(), sink, report)
}

// evaluationBatch returns the batch size of evaluations.
func (r *Run) evaluationBatch() int {
	if backend.OnDevice(r.Backend) {
		return r.batch()
	}
	// a batch of a few images has fewer micro-batches than the CPU has cores
	return max(r.batch(), 64)
}

// predict returns a Predictor with the current tuned tensors.
func (r *Run) predict() (p *Predictor, err error) {
	if r.predictor == nil {
		if r.predictor, err = r.stepper.predictor(); err != nil {
			return nil, err
		}
	}
	r.predictor.tuned = r.stepper.tuned()
	return r.predictor, nil
}

// Result holds the result of a finished training.
type Result struct {
	// Tuned holds the tuned tensors, by peft.Param.Name.
	Tuned checkpoint.StateDict
	// Epochs holds the figures of each epoch, in order.
	Epochs []Epoch
	// Best is the number of the epoch, starting at 1, whose tuned tensors Tuned holds. It is the
	// last epoch, unless Options.Patience is set.
	Best int
}

// Do trains for Options.Epochs epochs, or for fewer; see Options.Patience and TimeLeft. It
// continues from the state in the Checkpoint file if the file exists. If the images of an epoch do
// not divide evenly into mini-batches, the remaining images are one smaller mini-batch. Do skips it
// if it is less than half as large as the others, unless Options.Compat is set. Each epoch shuffles
// the images, so another epoch skips other images.
//
// If ctx is cancelled, Do saves the state in the Checkpoint file and returns an error that wraps
// the error of ctx. If the Checkpoint file cannot be used, the error is a [*StateError].
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
	steps, images := o.epoch(r.Train.Len(), batch, backend.Replicas(r.Backend))
	if at.Total == 0 {
		at.Total = o.total(steps)
	}
	if !at.possible(o.total(steps), steps) {
		return nil, &StateError{r.Checkpoint, fmt.Errorf("its position is epoch %d, step %d, after %d of %d steps in all and %d finished epochs, which is impossible in a training of %d steps, %d in each epoch", at.Epoch, at.Step, at.Steps, at.Total, len(at.History), o.total(steps), steps)}
	}
	step := StepOptions{Loss: o.lossOptions(), WeightDecay: o.WeightDecay, Factors: o.factors(),
		Rates: peft.Rates{DropPath: o.DropPath, Dropout: o.Dropout, ModuleDropPath: o.ModuleDropPath, SharedDropout: o.Compat == CompatRelease}}
	if r.Tuning.Counts.Tuned() == 0 {
		// A head alone is trained on the features of the frozen backbone, without drop-path.
		step.Rates.DropPath = 0
	}
	if s := r.stepper; s != nil && !(s.be == r.Backend && s.net.model == r.Model && s.net.objective.Name() == r.Train.objective.Name() && s.tuning == r.Tuning && reflect.DeepEqual(s.o, step)) {
		r.Close() // the compiled programs depend on these values
	}
	if r.stepper == nil {
		r.stepper, err = NewStepper(r.Backend, r.Model, r.Train.objective, r.Tuning, tuned, step)
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
		for _, d := range []*Data{val, test, r.Later} { // compile during the first steps
			p.expect(d, batch)
		}
	}
	r.saveAt, r.valSent, r.best, r.pace = time.Now().Add(saveEvery), false, predictions{}, pace{}
	for r.fit(&at, steps); !at.finished(o, val != nil); r.fit(&at, steps) {
		r.pace.measure(at.Steps, time.Now(), true)
		if err := r.epoch(ctx, stepper, train, &at, batch, steps, images); err != nil {
			return nil, err
		}
		done := at.epochDone(o, steps, min(images, at.Step*batch))
		var validated predictions
		if val != nil || test != nil {
			start := time.Now()
			var sink Sink
			switch {
			case r.ValSink == nil:
			case o.Patience > 0 && val.Len()*r.Model.Config.NumClasses > maxKept && r.TimeLeft == nil:
				// Do predicts the images again at the end, for which a limited time may be too
				// short
			case o.Patience > 0:
				sink = validated.add
			case at.Steps >= at.Total:
				sink, r.valSent = r.ValSink, true
			}
			if err := r.validate(ctx, val, test, &done, sink); err != nil {
				if ctx.Err() != nil {
					// The epoch is trained, but not validated. The resumed training validates it.
					err = r.interrupt(stepper, at, ctx.Err())
				}
				return nil, err
			}
			r.pace.validates = time.Since(start)
		}
		at.History = append(at.History, done)
		if val != nil && o.Patience > 0 && at.best(o.Select) == len(at.History)-1 {
			r.best = validated
			if at.bestTuned, err = stepper.Tuned(); err != nil {
				return nil, err
			}
		}
		at.next()
		if err := r.saveInTime(stepper, at); err != nil {
			return nil, err
		}
		r.Progress.Report(progress.Event{Stage: progress.Epoch, Epoch: done.Epoch - 1, Epochs: at.epochs(steps), Detail: done})
		if r.EpochDone != nil {
			if err := r.EpochDone(slices.Clone(at.History)); err != nil {
				return nil, err
			}
		}
	}
	result := &Result{Epochs: at.History, Best: len(at.History)}
	if at.bestTuned != nil {
		result.Best = at.best(o.Select) + 1
		if result.Best < len(at.History) {
			// nothing needs the moments any more
			if err := stepper.restart(at.bestTuned); err != nil {
				return nil, err
			}
		}
	}
	// A training with patience has kept the predictions of its best epoch, unless it was stopped
	// after that epoch, or there are too many. One that was stopped after its last epoch has not
	// passed its predictions on.
	if val != nil && r.ValSink != nil && !r.valSent {
		if r.best.targets != nil {
			err = r.ValSink(r.best.logits, r.best.targets)
		} else if p, e := r.predict(); e != nil {
			err = e
		} else {
			_, err = p.Evaluate(ctx, val, r.evaluationBatch(), r.ValSink, nil)
		}
		r.best = predictions{}
		if err != nil {
			return nil, fmt.Errorf("validating after the last epoch: %w", err)
		}
	}
	result.Tuned, err = stepper.Tuned()
	return result, err
}

// checkData returns an error if the training cannot use its data.
func (r *Run) checkData() error {
	if r.Train.Len() == 0 {
		return errors.New("training: there are no training images; give at least one")
	}
	o := r.Train.objective
	for what, d := range map[string]*Data{"validation": r.Val, "test": r.Test, "evaluation": r.Later} {
		if d != nil && d.objective.Name() != o.Name() {
			return fmt.Errorf("training with the objective %s: the %s data has the objective %s; use the same objective for both", o.Name(), what, d.objective.Name())
		}
	}
	if err := r.Options.CheckObjective(o, r.Model.Config); err != nil {
		return fmt.Errorf("training options: %w", err)
	}
	if r.Train.loader != nil && r.Train.loader.Transform().Augment.Mixes() {
		if err := objective.CheckPerImage(o, "mixing images"); err != nil {
			return fmt.Errorf("training options: %w", err)
		}
	}
	if r.Options.weighted() && r.Options.ClassWeightValues == nil {
		return fmt.Errorf("training with class weights from %q: Options.ClassWeightValues is not set; set it, such as to the result of BalancedWeights", r.Options.ClassWeights)
	}
	if r.Options.BalancedSampling && !slices.ContainsFunc(r.Train.strata, func(s int) bool { return s >= 0 }) {
		return errors.New("training with balanced sampling: no image belongs to a single class; leave balanced sampling out")
	}
	if block := r.Tuning.Selection.FromBlock; block > 0 && r.Train.augments() {
		return option.Errorf("from-block", "training from block %d on: the tokens that enter the block are computed once, but augmentation changes the images in each epoch; turn augmentation off, or train from the images", block)
	}
	if shape := o.TargetShape(r.Model.Config); len(shape) > 1 && r.Train.augments() {
		return fmt.Errorf("training with the objective %s: the targets are maps of shape %v, but augmentation changes only the images; turn augmentation off", o.Name(), shape)
	}
	return nil
}

// epoch trains on the remaining mini-batches of the current epoch. The epoch has the given number
// of steps, which read the given number of images. Each step reads batch images, or the remaining
// ones.
func (r *Run) epoch(ctx context.Context, s *Stepper, train *Data, at *position, batch, steps, images int) error {
	var order []int
	if r.Options.BalancedSampling {
		order = dataset.ShuffleBalanced(train.strata, r.Options.Seed, at.Epoch)
	} else {
		order = dataset.Shuffle(train.Len(), r.Options.Seed, at.Epoch)
	}
	order = order[min(at.Step*batch, images):images]
	start := time.Now()
	// advance counts n enqueued steps, reads their metrics and reports progress.
	advance := func(n int) error {
		metrics, err := s.Read()
		for i, m := range metrics {
			at.LossSum += m.Loss * float64(min(batch, images-(at.Step+i)*batch))
			at.Correct += m.Correct
		}
		at.Step += n
		at.Steps += n
		if err == nil && len(metrics) > 0 {
			r.Progress.Report(progress.Event{Stage: progress.Train, Done: int64(at.Step), Total: int64(steps), Epoch: at.Epoch, Epochs: at.epochs(steps), Loss: metrics[len(metrics)-1].Loss, Left: r.pace.left(at.Total-at.Steps, steps)})
		}
		// At the end of an epoch the state is saved after the validation.
		if err == nil && at.Step < steps && at.Steps < at.Total {
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
	// more reports whether the epoch has another step. It first fits the training into its time. An
	// epoch has at least one step.
	more := func() bool {
		if at.Step > 0 {
			r.fit(at, steps)
		}
		return at.Step < steps && at.Steps < at.Total
	}
	looped := true
	for looped && more() {
		// All steps of a loop have the same size, so a smaller last step is a loop of its own.
		next, lrs := order, []float64{at.learningRate(r.Options, at.Step, steps)}
		if full := len(order) / batch; full > 0 {
			n := min(loopSteps, full, at.Total-at.Steps)
			next = order[:n*batch]
			for i := 1; i < n; i++ {
				lrs = append(lrs, at.learningRate(r.Options, at.Step+i, steps))
			}
		}
		var err error
		if looped, err = s.EnqueueLoop(ctx, train, next, lrs, r.Options.Seed, at.Epoch); err != nil {
			return stop(err)
		}
		at.Waited += train.takeWaited().Seconds()
		if looped {
			order = order[len(next):]
			if err := advance(len(lrs)); err != nil {
				return err
			}
		}
	}
	if !looped && more() {
		for b, err := range train.batches(ctx, r.Backend, order, batch, false, r.Options.Seed, at.Epoch) {
			at.Waited += train.takeWaited().Seconds()
			if err == nil {
				err = s.enqueueBatch(ctx, b, at.learningRate(r.Options, at.Step, steps), r.Options.Seed)
				b.free()
			}
			if err != nil {
				return stop(err)
			}
			if err := advance(1); err != nil {
				return err
			}
			if !more() {
				break
			}
		}
		if more() && ctx.Err() != nil { // the loader stopped early
			return stop(ctx.Err())
		}
	}
	at.Seconds += time.Since(start).Seconds()
	return nil
}

// saveEvery is the shortest time between two saves of the state. A training that is killed loses
// this much work. Saving more often is too slow: a save can take longer than a short epoch.
const saveEvery = 10 * time.Second

// saveInTime saves the state if it is time for the next save.
func (r *Run) saveInTime(s *Stepper, at position) error {
	start := time.Now()
	if start.Before(r.saveAt) {
		return nil
	}
	err := r.save(s, at)
	// In full fine-tuning the state takes gigabytes, so saving takes long.
	r.saveAt = time.Now().Add(max(saveEvery, 20*time.Since(start)))
	return err
}

// interrupt saves the state and returns the error for an interrupted training.
func (r *Run) interrupt(s *Stepper, at position, cause error) error {
	if err := r.save(s, at); err != nil {
		return errors.Join(cause, err)
	}
	return at.interrupted(cause)
}

// validate evaluates the validation and test data after an epoch. sink receives the predictions of
// the validation images.
func (r *Run) validate(ctx context.Context, val, test *Data, e *Epoch, sink Sink) error {
	p, err := r.predict()
	if err != nil {
		return err
	}
	if val != nil {
		v, err := p.Evaluate(ctx, val, r.evaluationBatch(), sink, nil)
		if err != nil {
			return fmt.Errorf("validating after epoch %d: %w", e.Epoch, err)
		}
		e.ValLoss, e.ValAccuracy, e.ValMetric = v.Loss, v.Accuracy, r.Options.Select.Stored(v)
	}
	if test != nil {
		v, err := p.Evaluate(ctx, test, r.evaluationBatch(), nil, nil)
		if err != nil {
			return fmt.Errorf("testing after epoch %d: %w", e.Epoch, err)
		}
		e.TestAccuracy = v.Accuracy
	}
	return nil
}

// cacheFeatures returns the training, validation and test data. If only the head is tuned, it
// replaces the images by their features, and if the selection has a FromBlock, by the tokens that
// enter this block. The frozen part of the backbone then processes each image once, not once per
// epoch. The time for the training images counts for the current epoch. Features that are not
// pooled would take too much memory, so cacheFeatures then returns the images.
func (r *Run) cacheFeatures(ctx context.Context, at *position) (train, val, test *Data, err error) {
	block, head := r.Tuning.Selection.FromBlock, r.Tuning.Counts.Tuned() == 0
	if head {
		block = 0
	}
	if !head && block == 0 || r.Train.augments() {
		return r.Train, r.Val, r.Test, nil
	}
	predictor, err := r.predict()
	if err != nil {
		return nil, nil, nil, err
	}
	batch := r.evaluationBatch()
	out := [3]*Data{}
	for i, d := range []*Data{r.Train, r.Val, r.Test} {
		if d == nil {
			continue
		}
		if i > 0 && block > 0 && d.testFlip() { // the tokens of the mirror images are not kept
			out[i] = d
			continue
		}
		start := time.Now()
		if out[i], err = predictor.computed(ctx, d, block, batch, r.Progress); err != nil {
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
	tuned := r.Tuning.Init(r.Options.Seed, r.Options.WithDefaults(r.Train.Len()).Init, r.Model.Weights)
	for name, v := range r.Initial {
		drawn, ok := tuned[name]
		if !ok || !slices.Equal(drawn.Shape, v.Shape) || len(v.Data) != drawn.Size() {
			return position{}, nil, fmt.Errorf("training: the initial value of %s has shape %v, expected a tuned tensor of shape %v", name, v.Shape, drawn.Shape)
		}
		tuned[name] = checkpoint.Tensor{Shape: v.Shape, Data: slices.Clone(v.Data)}
	}
	return position{}, tuned, nil
}
