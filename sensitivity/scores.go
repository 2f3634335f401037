package sensitivity

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
)

// Tensor is one scored tensor of a backbone.
type Tensor struct {
	// Name is the canonical name.
	Name string
	// Shape is the shape of the tensor, and of its scores.
	Shape []int
	// Norm says that the tensor is the weight or bias of a layer norm.
	Norm bool
	// EntriesOnly says that a tensor of two or more dimensions takes no structured module: a
	// convolution, or a projection between blocks.
	EntriesOnly bool
	// Scores holds a score for each value, row-major; finite and not negative. It is nil where only
	// the tensor is described.
	Scores []float32
}

// Place returns the block and the operation of a tensor, by which plans are explained and compared.
//
// block is the name of the block: "blocks.0" or "layers.1.blocks.3". Outside blocks it is the name
// of the parent module, or of the module itself if it has no parent ("norm"). operation is the last
// part of the name of a matrix ("q", "proj", "fc1"). All vectors of LayerNorms are under "norm",
// other vectors under the last part of their name ("bias", "gamma").
func (t Tensor) Place() (block, operation string) {
	module, parameter := "", t.Name
	if dot := strings.LastIndexByte(t.Name, '.'); dot >= 0 {
		module, parameter = t.Name[:dot], t.Name[dot+1:]
	}
	own := module[strings.LastIndexByte(module, '.')+1:]
	switch {
	case t.Norm:
		operation = "norm"
	case len(t.Shape) > 1 && parameter == "weight" && own != "":
		operation = own
	default:
		operation = parameter
	}
	if block := backbone.Block(t.Name); block != "" {
		return block, operation
	}
	if parent := strings.TrimSuffix(module, "."+own); parent != module {
		return parent, operation
	}
	return cmp.Or(module, t.Name), operation
}

// size returns the number of values.
func (t Tensor) size() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Tensors returns the tensors of a backbone that stage 1 scores, in the order of
// backbone.Config.Params, without scores.
func Tensors(c backbone.Config) []Tensor {
	var out []Tensor
	for _, p := range c.Params() {
		if p.Role == backbone.Scored {
			out = append(out, Tensor{Name: p.Name, Shape: p.Shape, Norm: p.Norm, EntriesOnly: p.EntriesOnly})
		}
	}
	return out
}

// Scores is the result of stage 1.
type Scores struct {
	// Tensors are the scored tensors, in the order of backbone.Config.Params.
	Tensors []Tensor
	// Losses holds the mean loss of each batch. It is empty if the criterion reads no images.
	Losses []float64
	// Images is the number of images that were scored on.
	Images int
	// Criterion says how the weights were scored.
	Criterion Criterion
	// Backbone is the fingerprint of the backbone.
	Backbone string
	// ClassToken is the number of values of the backbone's class token, which every plan tunes. It
	// is 0 if the backbone has none.
	ClassToken int
}

// newScores returns scores of a backbone that have no values yet.
func newScores(m *backbone.Model, by Criterion) *Scores {
	s := &Scores{Tensors: Tensors(m.Config), Criterion: by, Backbone: m.Fingerprint()}
	_, s.ClassToken = m.Config.ClassTokens()
	return s
}

// MeanLoss returns the mean loss over the batches. It is 0 if there are none.
func (s *Scores) MeanLoss() float64 {
	sum := 0.0
	for _, l := range s.Losses {
		sum += l / float64(len(s.Losses))
	}
	return sum
}

// header is the kind and version of a scores file.
var header = jsonfile.Header{Kind: jsonfile.Scores, Version: 1}

// content is the metadata of a scores file.
type content struct {
	Losses      []float64 `json:"losses"`
	Images      int       `json:"images"`
	Criterion   Criterion `json:"criterion"`
	Backbone    string    `json:"backbone"`
	Order       []string  `json:"order"`
	Norms       []string  `json:"norms"`
	EntriesOnly []string  `json:"entries_only,omitempty"`
	ClassToken  int       `json:"class_token"`
}

// Save writes the scores as a safetensors file: one float32 tensor for each scored tensor of the
// backbone, under its canonical name.
func (s *Scores) Save(path string) error {
	about := content{Losses: s.Losses, Images: s.Images, Criterion: s.Criterion, Backbone: s.Backbone, ClassToken: s.ClassToken}
	var entries []checkpoint.Entry
	for _, t := range s.Tensors {
		entries = append(entries, checkpoint.Entry{Name: t.Name, DType: "F32", Shape: t.Shape, Data: t.Scores})
		about.Order = append(about.Order, t.Name)
		if t.Norm {
			about.Norms = append(about.Norms, t.Name)
		}
		if t.EntriesOnly {
			about.EntriesOnly = append(about.EntriesOnly, t.Name)
		}
	}
	metadata, err := header.Metadata(about)
	if err != nil {
		return fmt.Errorf("writing scores to %s: %w", path, err)
	}
	return checkpoint.Save(path, entries, metadata)
}

// Load reads scores that Save wrote. It checks that the file lists every tensor once and that every
// score is finite and not negative.
func Load(path string) (*Scores, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return FromFile(f)
}

// FromFile reads scores from an open file. See [Load].
func FromFile(f *checkpoint.File) (*Scores, error) {
	s, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("reading scores from %s: %w", f.Name(), err)
	}
	return s, nil
}

func read(f *checkpoint.File) (*Scores, error) {
	var about content
	if err := header.ReadMetadata(f.Metadata(), &about); err != nil {
		return nil, fmt.Errorf("%w; give a scores file that this version of spt wrote", err)
	}
	if err := about.Criterion.Validate(); err != nil {
		return nil, err
	}
	s := &Scores{Losses: about.Losses, Images: about.Images, Criterion: about.Criterion, Backbone: about.Backbone, ClassToken: about.ClassToken}
	if about.ClassToken < 0 {
		return nil, fmt.Errorf("the class token has %d values, expected 0 or more", about.ClassToken)
	}
	if len(about.Order) != len(f.Tensors()) {
		return nil, fmt.Errorf("%d tensors are listed, the file has %d", len(about.Order), len(f.Tensors()))
	}
	seen := map[string]bool{}
	for _, name := range about.Order {
		t, err := f.Float32(name)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, fmt.Errorf("%s is listed twice", name)
		}
		seen[name] = true
		for i, v := range t.Data {
			if !(v >= 0 && v <= math.MaxFloat32) {
				return nil, fmt.Errorf("score %d of %s is %g, expected a finite number that is not negative", i, name, v)
			}
		}
		s.Tensors = append(s.Tensors, Tensor{name, t.Shape, slices.Contains(about.Norms, name), slices.Contains(about.EntriesOnly, name), t.Data})
	}
	return s, nil
}
