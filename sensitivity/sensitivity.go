// Package sensitivity is stage 1: it gives every weight of the backbone's
// blocks and final norm a score that says how much tuning it would lower the
// task's loss.
//
// The score is the squared gradient of the cross-entropy, summed over batches
// (SPT, He et al. 2023, section 3.1), or that of another [Criterion]. A [Scorer] accumulates it on the backend
// batch by batch; [Score] runs a Scorer over a data set; a [Scores] is what
// stage 2 plans from and is kept in a run's folder.
package sensitivity

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
)

// Tensor is the score of every value of one tensor.
type Tensor struct {
	Name  string
	Shape []int
	Norm  bool // weight or bias of a LayerNorm
	// EntriesOnly is that of backbone.Param.
	EntriesOnly bool
	Scores      []float32 // row-major, non-negative
}

// Scores is the result of stage 1, in the order of backbone.Config.Params.
type Scores struct {
	Tensors   []Tensor
	Losses    []float64 // mean cross-entropy of each batch
	Images    int       // images seen
	Criterion Criterion
	Backbone  string // fingerprint of the backbone
	// ClassToken is the number of values of the backbone's class token, which
	// every plan tunes; 0 if it has none.
	ClassToken int
}

// MeanLoss is the mean cross-entropy over the batches; 0 without any.
func (s *Scores) MeanLoss() float64 {
	sum := 0.0
	for _, l := range s.Losses {
		sum += l / float64(len(s.Losses))
	}
	return sum
}

// Options of stage 1.
type Options struct {
	Criterion Criterion // empty: SquaredGradient
	Seed      uint64    // of Random
}

// Scorer accumulates scores on the backend.
type Scorer struct {
	be      backend.Backend
	model   *backbone.Model
	by      Criterion
	program *backend.Program
	params  []backbone.Param // scored, in order
	order   []string         // of the program's weight inputs
	weights []*tensors.Tensor
	head    []*tensors.Tensor
	sums    []*tensors.Tensor // one for each of params
	losses  []float64
	images  int

	// A batch that is too large for the caches is taken in pieces: their gradients are
	// added up, then scored.
	cut, gradients, finish *backend.Program
	gradient               []*tensors.Tensor // one for each of params, zero between batches
}

// NewScorer prepares stage 1 by [SquaredGradient]. head holds "head.weight" [C, D] and "head.bias"
// [C]; the paper draws a fresh one. Close releases what it holds.
func NewScorer(be backend.Backend, m *backbone.Model, head checkpoint.StateDict) (s *Scorer, err error) {
	return newScorer(be, m, head, SquaredGradient)
}

func newScorer(be backend.Backend, m *backbone.Model, head checkpoint.StateDict, by Criterion) (_ *Scorer, err error) {
	s := &Scorer{be: be, model: m, by: by}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	placed, err := m.On(be)
	if err != nil {
		return nil, err
	}
	for _, p := range m.Config.Params() {
		if p.Role == backbone.Head {
			h, ok := head[p.Name]
			if !ok || !slices.Equal(h.Shape, p.Shape) {
				return nil, fmt.Errorf("scoring: the head's %s has shape %v, expected %v", p.Name, h.Shape, p.Shape)
			}
			t, err := backend.Tensor(be, h.Data, h.Shape...)
			if err != nil {
				return nil, err
			}
			s.head = append(s.head, t)
		} else {
			s.weights = append(s.weights, placed[p.Name])
		}
		s.order = append(s.order, p.Name)
		if p.Role == backbone.Scored {
			s.params = append(s.params, p)
			t, err := backend.Tensor(be, make([]float32, p.Size()), p.Shape...)
			if err != nil {
				return nil, err
			}
			s.sums = append(s.sums, t)
		}
	}
	for _, p := range []struct {
		to    **backend.Program
		name  string
		build backend.Build
	}{
		{&s.program, "stage 1 (sensitivity)", s.build},
		{&s.gradients, "stage 1, gradients of a part of a batch", s.buildGradients},
		{&s.finish, "stage 1, scores", s.buildFinish},
	} {
		if *p.to, err = backend.NewProgram(be, p.name, p.build); err != nil {
			return nil, err
		}
	}
	s.cut, err = m.Config.NewCut(be, s.atOnce())
	return s, err
}

// atOnce is how many tokens are scored at once; 0: all. Pieces are not run side by side,
// where each would hold a gradient of all weights, and each adds to that gradient: they
// are twice as large as those of a training step.
func (s *Scorer) atOnce() int {
	tokens, _ := backend.AtOnce(s.be)
	return 2 * tokens
}

// Close releases the accumulated scores.
func (s *Scorer) Close() {
	for _, p := range []*backend.Program{s.program, s.cut, s.gradients, s.finish} {
		if p != nil { // as it is where newScorer fails
			p.Close()
		}
	}
	backend.Free(s.sums...)
	backend.Free(s.gradient...)
	backend.Free(s.head...)
}

// build: sums, weights with the head last, images, labels → new sums, loss.
func (s *Scorer) build(_ *Graph, in []*Node) []*Node {
	n := len(s.params)
	sums, weights, images, labels := in[:n], in[n:len(in)-2], in[len(in)-2], in[len(in)-1]
	loss, scored := s.loss(weights, images, labels)
	return append(s.score(sums, scored, Gradient(loss, scored...)), loss)
}

// buildGradients: the gradient so far, weights with the head last, a piece's images,
// labels and share of the batch → the gradient anew, the piece's part of the loss.
func (s *Scorer) buildGradients(_ *Graph, in []*Node) (out []*Node) {
	n := len(s.params)
	so, weights, in := in[:n], in[n:len(in)-3], in[len(in)-3:]
	loss, scored := s.loss(weights, in[0], in[1])
	loss = Mul(loss, in[2])
	for i, g := range Gradient(loss, scored...) {
		out = append(out, Add(so[i], ConvertDType(g, dtypes.Float32)))
	}
	return append(out, loss)
}

// buildFinish: sums, a batch's gradient, weights with the head last → new sums, a
// gradient of zeros.
func (s *Scorer) buildFinish(_ *Graph, in []*Node) []*Node {
	n := len(s.params)
	sums, gradient, weights := in[:n], in[n:2*n], in[2*n:]
	out := s.score(sums, s.scored(weights), gradient)
	for _, g := range gradient {
		out = append(out, ZerosLike(g))
	}
	return out
}

// loss is the mean cross-entropy of images, and the weights that are scored.
func (s *Scorer) loss(weights []*Node, images, labels *Node) (loss *Node, scored []*Node) {
	byName := backbone.Weights{}
	for i, name := range s.order {
		byName[name] = weights[i]
	}
	return CrossEntropy(s.model.Logits(byName, images), labels), s.scored(weights)
}

// scored are those of weights that get scores.
func (s *Scorer) scored(weights []*Node) (scored []*Node) {
	for _, p := range s.params {
		scored = append(scored, weights[slices.Index(s.order, p.Name)])
	}
	return scored
}

// score adds a batch's scores to the sums.
func (s *Scorer) score(sums, weights, gradient []*Node) (out []*Node) {
	for i, g := range gradient {
		out = append(out, Add(sums[i], s.by.score(ConvertDType(weights[i], dtypes.Float32), ConvertDType(g, dtypes.Float32))))
	}
	return out
}

// Add scores one batch: images are pixels [B, S, S, 3] as uint8, or float32
// already normalised; labels are int32 [B]. It returns the batch's loss.
func (s *Scorer) Add(ctx context.Context, images, labels *tensors.Tensor) (float64, error) {
	if err := ctx.Err(); err != nil { // before the sums are given away
		return 0, err
	}
	add := s.whole
	if len(s.model.Config.Pieces(images.Shape(), s.atOnce())) > 1 {
		add = s.inPieces
	}
	loss, err := add(ctx, images, labels)
	if err != nil {
		return 0, err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("scoring batch %d: the loss is %v; check the backbone's weights and the images' normalisation", len(s.losses), loss)
	}
	s.losses = append(s.losses, loss)
	s.images += images.Shape().Dim(0)
	return loss, nil
}

// whole scores a batch at once.
func (s *Scorer) whole(ctx context.Context, images, labels *tensors.Tensor) (float64, error) {
	out, err := s.program.Run(ctx, slices.Concat(backend.Donate(s.sums), backend.Lend(s.weights, s.head), []any{images, labels})...)
	if err != nil {
		return 0, err
	}
	s.sums = out[:len(s.params)]
	return number(out[len(s.params)])
}

// inPieces scores a batch piece by piece. The order of the sums does not depend on the
// number of threads.
func (s *Scorer) inPieces(ctx context.Context, images, labels *tensors.Tensor) (loss float64, err error) {
	n := len(s.params)
	for _, p := range s.params[len(s.gradient):] {
		t, err := backend.Tensor(s.be, make([]float32, p.Size()), p.Shape...)
		if err != nil {
			return 0, err
		}
		s.gradient = append(s.gradient, t)
	}
	sizes := s.model.Config.Pieces(images.Shape(), s.atOnce())
	cut, err := s.cut.Run(ctx, images, labels)
	if err != nil {
		return 0, err
	}
	defer backend.Free(cut...)
	defer func() {
		if err != nil { // what was added up so far must not be scored with the next batch
			backend.Free(s.gradient...)
			s.gradient = nil
		}
	}()
	for i, size := range sizes {
		share, err := backend.Scalar(s.be, float32(size)/float32(images.Shape().Dim(0)))
		if err != nil {
			return 0, err
		}
		out, err := s.gradients.Run(ctx, slices.Concat(backend.Donate(s.gradient), backend.Lend(s.weights, s.head), []any{cut[i], cut[len(sizes)+i], share})...)
		backend.Free(share)
		if err != nil {
			return 0, err
		}
		s.gradient = out[:n]
		part, err := number(out[n])
		if err != nil {
			return 0, err
		}
		loss += part
	}
	out, err := s.finish.Run(ctx, slices.Concat(backend.Donate(s.sums), backend.Donate(s.gradient), backend.Lend(s.weights, s.head))...)
	if err != nil {
		return 0, err
	}
	s.sums, s.gradient = out[:n], out[n:]
	return loss, nil
}

// number reads a scalar back and releases it.
func number(t *tensors.Tensor) (float64, error) {
	defer backend.Free(t)
	return backend.Number(t)
}

// Scores reads the sums back.
func (s *Scorer) Scores() (*Scores, error) {
	out := newScores(s.model, s.by)
	out.Losses, out.Images = s.losses, s.images
	for i, p := range s.params {
		v, err := backend.Float32s(s.sums[i])
		if err != nil {
			return nil, fmt.Errorf("reading the scores of %s: %w", p.Name, err)
		}
		out.Tensors = append(out.Tensors, Tensor{p.Name, p.Shape, p.Norm, p.EntriesOnly, v})
	}
	return out, nil
}

// newScores has no tensors yet.
func newScores(m *backbone.Model, by Criterion) *Scores {
	s := &Scores{Criterion: by, Backbone: m.Fingerprint()}
	_, s.ClassToken = m.Config.ClassTokens()
	return s
}

// Score runs stage 1 over batches, which a criterion without images does not
// read: they and head may then be nil. progress, if not nil, is called after each
// batch with the images seen so far and the batch's loss.
func Score(ctx context.Context, be backend.Backend, m *backbone.Model, head checkpoint.StateDict, batches iter.Seq2[*dataset.Batch, error], o Options, progress func(images int, loss float64)) (*Scores, error) {
	by := cmp.Or(o.Criterion, SquaredGradient)
	if err := by.Validate(); err != nil {
		return nil, err
	}
	if !by.Images() {
		return scoreWeights(m, by, o.Seed), nil
	}
	s, err := newScorer(be, m, head, by)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	size := m.Config.ImageSize
	for batch, err := range batches {
		if err != nil {
			return nil, err
		}
		if want := batch.N * size * size * 3; len(batch.Pixels) != want || len(batch.Targets) != batch.N {
			return nil, fmt.Errorf("scoring: a batch of %d images has %d values and %d labels, expected %d values of %d×%d×3: read the images at the backbone's size", batch.N, len(batch.Pixels), len(batch.Targets), want, size, size)
		}
		step := batch.N
		if by == PerSample {
			step = 1
		}
		for i := 0; i < batch.N; i += step {
			images, err := backend.Uint8(be, batch.Pixels[i*size*size*3:(i+step)*size*size*3], step, size, size, 3)
			if err != nil {
				return nil, err
			}
			labels, err := backend.Int32(be, classIDs(batch.Targets[i:i+step]), step)
			if err != nil {
				return nil, err
			}
			loss, err := s.Add(ctx, images, labels)
			backend.Free(images, labels)
			if err != nil {
				return nil, err
			}
			if progress != nil {
				progress(s.images, loss)
			}
		}
	}
	return s.Scores()
}

// classIDs returns the class id of each target.
func classIDs(targets []dataset.Target) []int32 {
	ids := make([]int32, len(targets))
	for i, t := range targets {
		ids[i] = int32(t.Stratum())
	}
	return ids
}

// CrossEntropy is the mean over the batch of −log softmax(logits)[label], for
// logits [B, C] and int32 labels [B].
func CrossEntropy(logits, labels *Node) *Node {
	target := OneHot(labels, logits.Shape().Dim(1), dtypes.Float32)
	return Neg(ReduceAllMean(ReduceSum(Mul(target, LogSoftmax(logits)), 1)))
}

// MetadataKey is the metadata by which a scores file is recognised.
const MetadataKey = "spt_scores"

// version of the metadata. The first did not say which tensors take no module,
// nor how large the class token is.
const version = 2

type metadata struct {
	Version   int       `json:"version"`
	Losses    []float64 `json:"losses"`
	Images    int       `json:"images"`
	Criterion Criterion `json:"criterion,omitempty"`
	PerSample bool      `json:"per_sample,omitempty"` // of files without a criterion
	Backbone  string    `json:"backbone"`
	Order     []string  `json:"order"`
	Norms     []string  `json:"norms"`
	// Since version 2.
	EntriesOnly []string `json:"entries_only,omitempty"`
	ClassToken  int      `json:"class_token"`
}

// Save writes the scores as a safetensors file: one float32 tensor for each
// scored tensor of the backbone, under its canonical name.
func (s *Scores) Save(path string) error {
	meta := metadata{Version: version, Losses: s.Losses, Images: s.Images, Criterion: s.Criterion, Backbone: s.Backbone, ClassToken: s.ClassToken}
	var entries []checkpoint.Entry
	for _, t := range s.Tensors {
		entries = append(entries, checkpoint.Entry{Name: t.Name, DType: "F32", Shape: t.Shape, Data: t.Scores})
		meta.Order = append(meta.Order, t.Name)
		if t.Norm {
			meta.Norms = append(meta.Norms, t.Name)
		}
		if t.EntriesOnly {
			meta.EntriesOnly = append(meta.EntriesOnly, t.Name)
		}
	}
	text, err := json.Marshal(meta)
	if err != nil {
		return fmt.Errorf("writing scores to %s: %w", path, err)
	}
	return checkpoint.Save(path, entries, map[string]string{MetadataKey: string(text)})
}

// Load reads scores that Save wrote, and checks that every tensor of the file is
// listed once and every score is finite and not negative.
func Load(path string) (*Scores, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, ok := f.Metadata()[MetadataKey]
	if !ok {
		return nil, fmt.Errorf("reading scores from %s: its metadata has no %q; is it a scores file that spt wrote?", path, MetadataKey)
	}
	var meta metadata
	if err := json.Unmarshal([]byte(text), &meta); err != nil {
		return nil, fmt.Errorf("reading scores from %s: metadata %q: %w", path, MetadataKey, err)
	}
	if meta.Version != version {
		return nil, fmt.Errorf("reading scores from %s: version %d, this program reads version %d; score anew", path, meta.Version, version)
	}
	switch {
	case meta.Criterion != "":
	case meta.PerSample:
		meta.Criterion = PerSample
	default:
		meta.Criterion = SquaredGradient
	}
	if err := meta.Criterion.Validate(); err != nil {
		return nil, fmt.Errorf("reading scores from %s: %w", path, err)
	}
	s := &Scores{Losses: meta.Losses, Images: meta.Images, Criterion: meta.Criterion, Backbone: meta.Backbone, ClassToken: meta.ClassToken}
	if meta.ClassToken < 0 {
		return nil, fmt.Errorf("reading scores from %s: the class token has %d values, expected 0 or more", path, meta.ClassToken)
	}
	if len(meta.Order) != len(f.Tensors()) {
		return nil, fmt.Errorf("reading scores from %s: %d tensors are listed, the file has %d", path, len(meta.Order), len(f.Tensors()))
	}
	seen := map[string]bool{}
	for _, name := range meta.Order {
		t, err := f.Float32(name)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, fmt.Errorf("reading scores from %s: %s is listed twice", path, name)
		}
		seen[name] = true
		for i, v := range t.Data {
			if !(v >= 0 && v <= math.MaxFloat32) {
				return nil, fmt.Errorf("reading scores from %s: score %d of %s is %g, expected a finite number that is not negative", path, i, name, v)
			}
		}
		s.Tensors = append(s.Tensors, Tensor{name, t.Shape, slices.Contains(meta.Norms, name), slices.Contains(meta.EntriesOnly, name), t.Data})
	}
	return s, nil
}
