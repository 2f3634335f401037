package delta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// DefaultBound is the default bound of [Delta.Merge]: the largest accepted difference of a logit
// before and after merging. Merging changes the order of float32 sums, which alone moves logits by
// about 1e-5.
const DefaultBound = 1e-3

// mergeBatch is the number of probe images in one forward pass.
const mergeBatch = 32

// transformKey is the metadata key of the Transform in a merged checkpoint. The value is JSON.
const transformKey = "spt_transform"

// objectiveKey is the metadata key of a mergedObjective in a merged checkpoint. The value is JSON.
const objectiveKey = "spt_objective"

// Merged holds a backbone with a delta merged into its weights, and the measured difference of the
// logits.
type Merged struct {
	// Model is the merged backbone, including the head of the task. It shares the frozen tensors
	// with the original backbone, and the tensors that were tuned whole with the delta, so they
	// must not be changed.
	Model *backbone.Model
	// Images is the number of images on which the logits were compared.
	Images int
	// LargestDifference is the largest absolute difference of a logit before and after merging.
	LargestDifference float64
	// Bound is the largest value of LargestDifference that Merge accepted.
	Bound float64
	// Transform is the transform of the delta. It resizes an image to the input of the model.
	Transform Transform
	// Objective and Thresholds are those of the delta.
	Objective  string
	Thresholds []float64
}

// Merge merges the delta into a copy of the weights of m, and compares the logits before and after
// merging on be. m must pass [Delta.Check]. probes holds the pixels of n images, [n, S, S, 3] with
// n at least 1 and S the image size of the delta; images of the task, resized with
// [Delta.ImageTransform], are best. A difference of the logits above bound, or NaN, is an error; a
// bound of 0 means [DefaultBound]. Some methods, such as adapters and prompts, cannot be merged,
// and Merge returns an error; see peft.Tuning.Mergeable.
func (d *Delta) Merge(ctx context.Context, be backend.Backend, m *backbone.Model, probes []uint8, bound float64) (*Merged, error) {
	if bound == 0 {
		bound = DefaultBound
	}
	size := d.Config.ImageSize
	image := size * size * 3
	if len(probes) == 0 || len(probes)%image != 0 {
		return nil, fmt.Errorf("merging: the probe images have %d values, expected one or more images of %d×%d×3; give pixels at the image size of the delta", len(probes), size, size)
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
		// The negated comparisons make NaN an error too.
		if !(difference <= out.LargestDifference) {
			out.LargestDifference = difference
		}
		if !(out.LargestDifference <= bound) {
			return nil, fmt.Errorf("merging moves a logit by %g, more than the bound of %g; keep the delta unmerged, or give a larger bound if this difference is acceptable", out.LargestDifference, bound)
		}
	}
	return out, nil
}

// merge returns the merged model, and predictors for the logits before and after merging.
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
	out = &Merged{Model: m.WithWeights(weights), Transform: d.Transform, Objective: d.Objective, Thresholds: d.Thresholds}
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
// images. It returns NaN if a logit is NaN.
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

// Save writes a full checkpoint to path: a safetensors file with the names of timm. dtype is
// checkpoint.F32, F16 or BF16. The metadata of the file holds the configuration, the normalisation
// and the transform, so that backbone.Load and [TransformOf] need no other file. For an objective
// with several labels, it also holds Objective and Thresholds, which [ObjectiveOf] reads. If
// classes is not nil, the metadata also holds the class names, one for each row of the head;
// [backbone.ReadClasses] reads them.
func (m *Merged) Save(path string, dtype checkpoint.DType, classes []string) error {
	if classes != nil && len(classes) != m.Model.Config.NumClasses {
		return fmt.Errorf("saving the merged checkpoint %s: %d class names, expected %d, one for each row of the head", path, len(classes), m.Model.Config.NumClasses)
	}
	metadata := map[string]string{}
	values := map[string]any{transformKey: m.Transform}
	if o, err := objective.Get(m.Objective); err == nil && objective.SeveralLabels(o, m.Model.Config) {
		values[objectiveKey] = mergedObjective{m.Objective, m.Thresholds}
	}
	if classes != nil {
		values[backbone.ClassesKey] = classes
	}
	for key, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("saving the merged checkpoint %s: metadata %q: %w", path, key, err)
		}
		metadata[key] = string(text)
	}
	return m.Model.Save(path, dtype, metadata)
}

// TransformOf returns the transform that [Merged.Save] wrote into the checkpoint f. It returns the
// zero Transform if the checkpoint has no transform.
func TransformOf(f *checkpoint.File) (t Transform, err error) {
	text, ok := f.Metadata()[transformKey]
	if !ok {
		return t, nil
	}
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return t, fmt.Errorf("reading the image transform of %s: metadata %q: %w", f.Name(), transformKey, jsonfile.Explain([]byte(text), err))
	}
	return t, nil
}

// mergedObjective is the content of the metadata objectiveKey.
type mergedObjective struct {
	Name       string    `json:"name"`
	Thresholds []float64 `json:"thresholds,omitempty"`
}

// ObjectiveOf returns the objective and the thresholds of its labels that [Merged.Save] wrote into
// the checkpoint f, for a head of the given number of classes. Without them it returns
// objective.SingleLabel and nil.
func ObjectiveOf(f *checkpoint.File, classes int) (objective.Objective, []float64, error) {
	text, ok := f.Metadata()[objectiveKey]
	if !ok {
		return objective.SingleLabel, nil, nil
	}
	var found mergedObjective
	err := json.Unmarshal([]byte(text), &found)
	if err != nil {
		err = jsonfile.Explain([]byte(text), err)
	} else if found.Name == "" {
		err = errors.New("the name is missing")
	}
	var o objective.Objective
	if err == nil {
		o, err = objective.Get(found.Name)
	}
	if err == nil {
		err = evaluate.CheckThresholds(found.Thresholds, classes)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the objective of %s: metadata %q: %w", f.Name(), objectiveKey, err)
	}
	return o, found.Thresholds, nil
}
