// Package progress defines how long work reports its progress: one [Event] for each step, passed to
// a [Func]. Every package that reads many files, uses the network or computes for long takes a
// Func.
package progress

// Stage names the work that an Event belongs to.
type Stage string

// The stages, in the order in which a run meets them.
const (
	Note Stage = "note" // something to know that is no error; Event.Item is the text
	// files of the Hugging Face Hub; Event.Item is the file, the unit is bytes
	Download Stage = "download"
	Images   Stage = "images"   // images are checked; the unit is images
	Score    Stage = "score"    // stage 1; the unit is images
	Plan     Stage = "plan"     // stage 2; Event.Detail is the *plan.Plan
	Train    Stage = "train"    // stage 3; the unit is steps of the epoch
	Epoch    Stage = "epoch"    // an epoch has ended; Event.Detail is the train.Epoch
	Test     Stage = "test"     // the final training is tested, once; the unit is images
	Evaluate Stage = "evaluate" // a split is evaluated; Event.Item is the split, the unit is images
)

// Event reports progress. Stage says which fields are set.
type Event struct {
	Stage Stage
	// Item names the file or split in work; empty where a stage has one item.
	Item string
	// Candidate is the budget that is tried; empty in the final training and outside training.
	Candidate string
	// Done and Total count units of the stage; Total is 0 if unknown.
	Done, Total int64
	// Epoch counts from 0; Epochs is the number of epochs of the training.
	Epoch, Epochs int
	// Loss is the loss of the last step, or in Score the mean over the batches so far.
	Loss float64
	// Detail is the result of a finished stage, of the type that the stage names; else nil.
	Detail any
}

// Func receives events, one at a time, on the goroutine that does the work or on one that the work
// started. A nil Func receives nothing; call [Func.Report].
type Func func(Event)

// Report passes e to f. It does nothing if f is nil.
func (f Func) Report(e Event) {
	if f != nil {
		f(e)
	}
}
