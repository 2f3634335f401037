// Package memory foresees how much memory a run needs, and finds how much the process may have, so
// that a run that cannot fit is refused before it begins.
//
// [Foresee] returns the [Footprint] of a run on the CPU. [Available] returns the memory that the
// process may have.
package memory

import (
	"cmp"
	"os"
	"runtime"
	"runtime/metrics"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Run describes the run whose memory [Foresee] foresees. All fields are required, except where
// their comments say otherwise.
type Run struct {
	Backend   backend.Backend
	Model     *backbone.Model
	Objective objective.Objective
	// Tuning lists the tuned parameters. Before the scores of a method are known, the tuning of
	// [Scored] takes the place of the plan.
	Tuning *peft.Tuning
	// Train holds the recipe.
	Train train.Options
	// Score holds the options of stage 1. Nil means that the run does not score.
	Score *sensitivity.Options
	// TrainImages lists the training images, and OtherImages all images of the other splits that
	// the run reads.
	TrainImages, OtherImages []dataset.Sample
	// TokenImages is the number of images whose tokens the run keeps, if the tuning has a
	// FromBlock.
	TokenImages int
	// Transform is the transform of the training images.
	Transform dataset.Transform
	// CacheBytes is the limit of the image cache, as in run.ImageOptions.
	CacheBytes int64
}

// Footprint is the largest resident memory of a run, by its use. All fields are bytes. Scoring and
// training do not happen at the same time, so the larger one counts.
type Footprint struct {
	// Program is the memory of the program itself: its code, the runtime and compiled graphs.
	Program int64 `json:"program"`
	// Weights is the size of the weights, and of their copies in the layout of the matrix kernel.
	Weights int64 `json:"weights"`
	// Scoring is the size of scores, gradients and activations of stage 1.
	Scoring int64 `json:"scoring"`
	// Training is the size of tuned tensors, moments, gradients, activations and tokens of stage 3.
	Training int64 `json:"training"`
	// Images is the size of the image cache and of the mini-batches that are being loaded.
	Images int64 `json:"images"`
	// Garbage is the memory that the garbage collector has not collected yet.
	Garbage int64 `json:"garbage"`
}

// Total returns the largest resident memory of the run.
func (f Footprint) Total() int64 {
	return f.Program + f.Weights + max(f.Scoring, f.Training) + f.Images + f.Garbage
}

// programBytes is the resident memory of a process that has loaded no backbone and computes
// nothing, and of the graphs that a run compiles. It was measured on linux/amd64.
const programBytes = 44 << 20

// prefetched is the number of mini-batches that exist at the same time: two that a dataset.Loader
// has loaded ahead, one that it loads, one that is being computed, its copy on the backend, and the
// copy that is cut into micro-batches.
const prefetched = 6

// Foresee returns the footprint of a run. It compiles the programs of the run, which takes about a
// second on one core, and runs none. On a device such as a GPU, the memory of the device is not
// part of the footprint.
func Foresee(r Run) (f Footprint, err error) {
	f.Program = programBytes
	for _, w := range r.Model.Weights {
		f.Weights += 4 * int64(len(w.Data))
	}
	step := train.StepOptions{WeightDecay: r.Train.WeightDecay, Rates: peft.Rates{DropPath: r.Train.DropPath, Dropout: r.Train.Dropout, ModuleDropPath: r.Train.ModuleDropPath}}
	images := len(r.TrainImages)
	batch := max(1, min(r.Train.WithDefaults(images).BatchSize, images))
	training, err := train.FootprintOf(r.Backend, r.Model, r.Objective, r.Tuning, step, batch)
	if err != nil {
		return f, err
	}
	packed, loaded := training.Packed, max(batch, min(evaluated, len(r.OtherImages)))
	f.Training = training.State + training.Activations
	if block := r.Tuning.Selection.FromBlock; block > 0 {
		f.Training += train.TokenBytes(r.Model.Config, block, r.TokenImages)
	}
	if r.Score != nil {
		scoring, err := sensitivity.FootprintOf(r.Backend, r.Model, r.Objective, *r.Score, max(1, images))
		if err != nil {
			return f, err
		}
		f.Scoring = scoring.Scores + scoring.Activations
		packed, loaded = max(packed, scoring.Packed), max(loaded, min(r.Score.WithDefaults().BatchSize, images))
	}
	f.Weights += packed

	size := int64(r.Model.Config.ImageSize)
	limit := cmp.Or(r.CacheBytes, dataset.DefaultCacheBytes)
	count := images + len(r.OtherImages)
	cached := max(0, min(limit, int64(count)*r.Transform.StoredBytes()))
	f.Images = cached + prefetched*min(int64(loaded), int64(max(1, count)))*3*size*size + decoding(r.TrainImages)

	// The heap grows until the garbage is a share of the memory in use, which GOGC sets. Few runs
	// make so much garbage while they use most memory.
	const usual = 75 // percent
	f.Garbage = (f.Total() - f.Program) * gcPercent() / 100 * usual / 100
	return f, nil
}

// evaluated is the number of images of a mini-batch in the evaluation on the CPU, if the
// mini-batches of the training are smaller.
const evaluated = 64

// decoding returns about how much memory the images need that are decoded at the same time. It
// looks at the sizes of up to 64 files. A compressed image has about a tenth of the size of its
// pixels, and the resize needs the pixels twice.
func decoding(samples []dataset.Sample) (bytes int64) {
	const looks, expansion = 64, 20
	for i := 0; i < len(samples); i += max(1, len(samples)/looks) {
		if stat, err := os.Stat(samples[i].Path); err == nil && samples[i].Image == nil {
			bytes = max(bytes, stat.Size())
		}
	}
	return expansion * bytes * int64(runtime.GOMAXPROCS(0))
}

// gcPercent returns GOGC: the garbage before a collection, in percent of the memory in use.
func gcPercent() int64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 100
	}
	// a number without a limit means no collections
	return int64(min(sample[0].Value.Uint64(), 400))
}

// Scored returns a selection like that of a plan: modules on three of four matrices, single entries
// of the others, and whole vectors. Its activations are those of a plan for the usual budgets, but
// its parameters are more.
func Scored(c backbone.Config, module string, rank int) peft.Selection {
	const entries = 500 // of a matrix
	tokens, _ := c.ClassTokens()
	s := peft.Selection{Module: module, Rank: rank, Whole: tokens, Entries: map[string][]int32{}}
	matrices := 0
	for _, p := range c.Params() {
		switch {
		case p.Matrix():
			if matrices++; module != "" && matrices%4 != 0 {
				s.Structured = append(s.Structured, p.Name)
				continue
			}
			for i := range min(entries, p.Size()) {
				s.Entries[p.Name] = append(s.Entries[p.Name], int32(i*(p.Size()/min(entries, p.Size()))))
			}
		case p.Role == backbone.Scored && len(p.Shape) == 1:
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}
