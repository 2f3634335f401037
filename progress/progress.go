// Package progress defines how functions report their progress: they pass an [Event] for each step
// to a [Func] of the caller. Functions that read many files, use the network or compute for a long
// time take a Func. See the example of Func.
package progress

import "time"

// Stage is the kind of work that an [Event] reports on.
type Stage string

// The stages, in the order in which a run reports them. The unit is the unit of Event.Done and
// Event.Total.
const (
	// Note is information for the user that is not an error. Event.Item is the text.
	Note Stage = "note"
	// Download is a download from the Hugging Face Hub. Event.Item is the file; the unit is bytes.
	Download Stage = "download"
	// Upload is an upload to the Hugging Face Hub. Event.Item is the file; the unit is bytes.
	Upload Stage = "upload"
	// Hashes is the computation of the hashes of images, by which duplicates are found. The unit is
	// images.
	Hashes Stage = "hashes"
	// Compare is the comparison of images whose hashes are alike. The unit is images.
	Compare Stage = "compare"
	// Images is the check that all images can be read. The unit is images.
	Images Stage = "images"
	// Features is the computation of the features of the frozen backbone. Event.Item is the
	// purpose; the unit is images.
	Features Stage = "features"
	// Probe is the end of the fit of a linear probe. Event.Detail is the *run.Candidate.
	Probe Stage = "probe"
	// Score is stage 1, which scores the weights. The unit is images.
	Score Stage = "score"
	// Plan is the end of stage 2, which makes a plan. Event.Detail is the *plan.Plan.
	Plan Stage = "plan"
	// Tokens is the computation of the tokens that enter the first tuned block, before a training
	// from this block on. The unit is images.
	Tokens Stage = "tokens"
	// Train is a step of stage 3. The unit is steps of the epoch.
	Train Stage = "train"
	// Epoch is the end of an epoch. Event.Detail is the train.Epoch.
	Epoch Stage = "epoch"
	// Test is the evaluation of the final training on the test split. The unit is images.
	Test Stage = "test"
	// Evaluate is the evaluation of a split. Event.Item is the split; the unit is images.
	Evaluate Stage = "evaluate"
	// Explain is the search for what decided predictions, for a report. The unit is images.
	Explain Stage = "explain"
	// Predict is the prediction of images without a label. The unit is images.
	Predict Stage = "predict"
)

// Event reports progress. Which fields are set depends on Stage.
type Event struct {
	// Stage is the work that is in progress.
	Stage Stage
	// Item is the name of the file or split in progress, or the text of a Note. It is empty for
	// stages with only one item.
	Item string
	// Candidate is the name of the candidate in progress: its budget or, without a budget, the
	// method. It is empty in the final training and outside training.
	Candidate string
	// Done is the number of finished units, and Total the number of all units. The stage defines
	// the unit. Total is 0 if it is unknown.
	Done, Total int64
	// Epoch is the number of the epoch, from 0. Epochs is the number of epochs of the training.
	Epoch, Epochs int
	// Loss is the loss of the last step. In stage Score it is the mean loss of the mini-batches so
	// far.
	Loss float64
	// Left is the estimated time of all work that is still to come, not only of the stage. Zero
	// means that it is not known.
	Left time.Duration
	// Detail is the result of a stage that ended. The stage defines its type. It is nil for other
	// events.
	Detail any
}

// Func receives events, one at a time. It is called on the goroutine that does the work, or on a
// goroutine that the work started. A nil Func is valid and receives nothing: call it through
// [Func.Report].
type Func func(Event)

// Report passes e to f. It does nothing if f is nil.
func (f Func) Report(e Event) {
	if f != nil {
		f(e)
	}
}
