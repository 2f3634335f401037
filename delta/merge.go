package delta

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// DefaultBound is the default of the largest difference of a logit before and after merging.
// Float32 sums in another order differ by some 1e-5.
const DefaultBound = 1e-3

// mergeBatch is the number of probes in one forward pass.
const mergeBatch = 32

// classesKey is the metadata key of the class names of a merged checkpoint, a JSON list of strings.
const classesKey = "spt_classes"

// transformKey is the metadata key of the Transform of a merged checkpoint, as JSON.
const transformKey = "spt_transform"

// Merged is a backbone with a delta merged into its weights, and how far its logits moved.
type Merged struct {
	// Model has the head of the task among its weights. It shares the tensors that were not tuned
	// with the backbone, and those tuned whole with the delta.
	Model *backbone.Model
	// Images is the number of images on which the logits were compared.
	Images int
	// LargestDifference is the largest absolute difference of a logit before and after merging.
	LargestDifference float64
	// Bound is the greatest LargestDifference that Merge accepts.
	Bound float64
	// Transform is the transform of the delta, from an image to the input of the model.
	Transform Transform
}

// Merge merges the delta into a copy of the weights of m, which must pass [Delta.Check], and
// compares the logits before and after on probes: pixels [n, S, S, 3] of at least one image,
// preferably of the task, as the transform of the delta makes them. A difference above bound, or
// NaN, is an error; a bound of 0 is [DefaultBound]. A tuning that cannot be merged, such as
// adapters and prompts, is an error; see peft.Tuning.Mergeable.
func (d *Delta) Merge(ctx context.Context, be backend.Backend, m *backbone.Model, probes []uint8, bound float64) (*Merged, error) {
	if bound == 0 {
		bound = DefaultBound
	}
	size := d.Config.ImageSize
	image := size * size * 3
	if len(probes) == 0 || len(probes)%image != 0 {
		return nil, fmt.Errorf("merging: the probes have %d values, expected one or more images of %d×%d×3; give pixels at the delta's image size", len(probes), size, size)
	}
	out, before, after, err := d.merge(be, m)
	if err != nil {
		return nil, fmt.Errorf("merging: %w", err)
	}
	defer before.Close()
	defer out.Model.Release(be)
	defer after.Close()
	out.Images, out.Bound = len(probes)/image, bound
	for batch := range slices.Chunk(probes, mergeBatch*image) {
		difference, err := compareLogits(ctx, be, before, after, batch, len(batch)/image, size)
		if err != nil {
			return nil, fmt.Errorf("merging: comparing logits: %w", err)
		}
		// Written so that NaN fails too and, once there, stays.
		if !(difference <= out.LargestDifference) {
			out.LargestDifference = difference
		}
		if !(out.LargestDifference <= bound) {
			return nil, fmt.Errorf("merging moves a logit by %g, more than the bound of %g; keep the delta on its backbone, or allow a larger bound if that is expected", out.LargestDifference, bound)
		}
	}
	return out, nil
}

// merge returns the merged model, and predictors of the logits before and after.
func (d *Delta) merge(be backend.Backend, m *backbone.Model) (out *Merged, before, after *train.Predictor, err error) {
	if err := d.Check(m); err != nil {
		return nil, nil, nil, err
	}
	o, err := objective.Get(d.Objective)
	if err != nil {
		return nil, nil, nil, err
	}
	tuning, err := peft.New(d.Config, d.Selection)
	if err != nil {
		return nil, nil, nil, err
	}
	weights, err := tuning.Merge(m.Weights, d.Tuned)
	if err != nil {
		return nil, nil, nil, err
	}
	headOnly, err := peft.New(d.Config, peft.Selection{})
	if err != nil {
		return nil, nil, nil, err
	}
	out = &Merged{Model: m.WithWeights(weights), Transform: d.Transform}
	out.Model.Preprocessing = d.Preprocessing
	if before, err = train.NewPredictor(be, m, o, tuning, d.Tuned); err != nil {
		return nil, nil, nil, err
	}
	if after, err = train.NewPredictor(be, out.Model, o, headOnly, weights); err != nil {
		before.Close()
		return nil, nil, nil, err
	}
	return out, before, after, nil
}

// compareLogits returns the largest absolute difference between the logits of two predictors for n
// images; NaN if one of the logits is NaN.
func compareLogits(ctx context.Context, be backend.Backend, before, after *train.Predictor, pixels []uint8, n, size int) (float64, error) {
	images, err := program.Tensor(be, pixels, n, size, size, 3)
	if err != nil {
		return 0, err
	}
	defer program.Free(images)
	a, err := before.Logits(ctx, images)
	if err != nil {
		return 0, err
	}
	b, err := after.Logits(ctx, images)
	if err != nil {
		return 0, err
	}
	largest := 0.0
	for i := range a {
		largest = max(largest, math.Abs(float64(a[i])-float64(b[i]))) // max keeps NaN
	}
	return largest, nil
}

// Save writes a full checkpoint at path: a safetensors file with timm's names, F32. Its metadata
// holds configuration, preprocessing, transform and, unless classes is nil, the names of the rows
// of the head, so that backbone.Load, [Classes] and [TransformOf] need nothing else.
func (m *Merged) Save(path string, classes []string) error {
	if classes != nil && len(classes) != m.Model.Config.NumClasses {
		return fmt.Errorf("saving the merged checkpoint %s: %d class names, expected %d: one for each row of the head", path, len(classes), m.Model.Config.NumClasses)
	}
	metadata := map[string]string{}
	values := map[string]any{transformKey: m.Transform}
	if classes != nil {
		values[classesKey] = classes
	}
	for key, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("saving the merged checkpoint %s: metadata %q: %w", path, key, err)
		}
		metadata[key] = string(text)
	}
	return m.Model.Save(path, checkpoint.F32, metadata)
}

// TransformOf returns the transform that [Merged.Save] wrote into a checkpoint; the zero value if
// the checkpoint has none.
func TransformOf(f *checkpoint.File) (t Transform, err error) {
	text, ok := f.Metadata()[transformKey]
	if !ok {
		return t, nil
	}
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return t, fmt.Errorf("reading the image transform of %s: metadata %q: %w", f.Name(), transformKey, err)
	}
	return t, nil
}

// Classes returns the class names that [Merged.Save] wrote into a checkpoint; nil if the checkpoint
// has none.
func Classes(f *checkpoint.File) ([]string, error) {
	text, ok := f.Metadata()[classesKey]
	if !ok {
		return nil, nil
	}
	var classes []string
	if err := json.Unmarshal([]byte(text), &classes); err != nil {
		return nil, fmt.Errorf("reading the class names of %s: metadata %q: %w; expected a JSON list of strings", f.Name(), classesKey, err)
	}
	return classes, nil
}
