package sensitivity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/option"
)

// Tensor describes one scored tensor of a backbone and holds its scores.
type Tensor struct {
	// Name is the canonical name of the tensor, such as "blocks.0.attn.q.weight".
	Name string
	// Shape is the shape of the tensor. The scores have the same shape.
	Shape []int
	// Norm is true for the weight and the bias of a layer norm.
	Norm bool
	// EntriesOnly is true if the tensor has two or more dimensions but cannot have a structured
	// module. Examples are the kernel of a convolution and a projection between blocks.
	EntriesOnly bool
	// Scores holds one score for each value of the tensor, row-major. [Criterion.Check] says which
	// values are possible. In the result of [Tensors] it is nil.
	Scores []float32
}

// Place returns the block and the operation to which the tensor belongs. Tables and charts of plans
// group the tensors by them.
//
// block is the name of the block, such as "blocks.0" or "layers.1.blocks.3". Outside the blocks it
// is the name of the parent module, or the name of the module itself if it has no parent, such as
// "norm".
//
// operation is the name of the layer for the weight of a matrix, such as "q", "proj" or "fc1". It
// is "norm" for the vectors of layer norms. For other tensors it is the last part of the name, such
// as "bias" or "gamma".
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

// size returns the number of values of the tensor.
func (t Tensor) size() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Tensors returns the tensors of a backbone that stage 1 scores, without scores. The order is that
// of backbone.Config.Params.
func Tensors(c backbone.Config) []Tensor {
	var out []Tensor
	for _, p := range c.Params() {
		if p.Role == backbone.Scored {
			out = append(out, Tensor{Name: p.Name, Shape: p.Shape, Norm: p.Norm, EntriesOnly: p.EntriesOnly})
		}
	}
	return out
}

// From returns the tensors of the given block and of all later layers. Blocks are numbered from 0
// in the order of the tensors, which are those of one backbone.
func From(tensors []Tensor, block int) []Tensor {
	seen, last := -1, ""
	for i, t := range tensors {
		if b := backbone.Block(t.Name); b != "" && b != last {
			seen, last = seen+1, b
		}
		if block <= 0 || seen == block {
			return tensors[i:]
		}
	}
	return nil
}

// Scores holds the result of stage 1.
type Scores struct {
	// Tensors holds the scored tensors, in the order of backbone.Config.Params.
	Tensors []Tensor
	// Losses holds the mean loss of each batch. It is empty if the criterion needs no images.
	Losses []float64
	// Images is the number of images that were read. It is 0 if the criterion needs no images.
	Images int
	// Criterion is the criterion of the scores.
	Criterion Criterion
	// Compat is the compat mode of the scores: [CompatRelease] or empty.
	Compat string
	// FromBlock is the first block that was scored; the scores of earlier tensors are zero. It is 0
	// if all blocks were scored.
	FromBlock int
	// Backbone is the fingerprint of the backbone, as backbone.Model.Fingerprint returns it.
	Backbone string
	// ClassToken is the number of values of the class token of the backbone, which every plan
	// tunes. It is 0 if the backbone has no class token.
	ClassToken int
}

// newScores returns a Scores for a backbone, without values.
func newScores(m *backbone.Model, by Criterion) *Scores {
	s := &Scores{Tensors: Tensors(m.Config), Criterion: by, Backbone: m.Fingerprint()}
	_, s.ClassToken = m.Config.ClassTokens()
	return s
}

// MeanLoss returns the mean of Losses, or 0 if there are no losses.
func (s *Scores) MeanLoss() float64 {
	sum := 0.0
	for _, l := range s.Losses {
		sum += l / float64(len(s.Losses))
	}
	return sum
}

// CheckBackbone returns an error if the scores were computed on another backbone than m.
func (s *Scores) CheckBackbone(m *backbone.Model) error {
	if s.Backbone == m.Fingerprint() {
		return nil
	}
	return fmt.Errorf("the scores were computed on another backbone (fingerprint %s) than %s (fingerprint %s); give the backbone that was scored, with the same image size, or score this one", s.Backbone, m.Path, m.Fingerprint())
}

// CheckOptions returns an error if the scores were computed with other options than the options
// that are set in o. Scores do not record their seed. available is the number of images from which
// the scores could be computed.
func (s *Scores) CheckOptions(o Options, available int) error {
	if o.Criterion != "" && o.Criterion != s.Criterion {
		return option.Errorf("criterion", "criterion %s contradicts the scores, which have the criterion %s; leave it out, or give other scores", o.Criterion, s.Criterion)
	}
	if s.FromBlock > o.FromBlock {
		return option.Errorf("from-block", "the scores are those of block %d and later blocks, but block %d is the first to be tuned; tune from block %[1]d on, or give scores of all blocks", s.FromBlock, o.FromBlock)
	}
	if !s.Criterion.Images() {
		return nil
	}
	if o.Compat != "" && o.Compat != s.Compat {
		return option.Errorf("compat", "compat mode %s contradicts the scores, which were computed without it; leave it out, or give scores that were computed with it", o.Compat)
	}
	if o.Batches == 0 && o.BatchSize == 0 {
		return nil
	}
	n, size := o.WithDefaults().images(available)
	batches := (n + size - 1) / size
	name := "score-batches"
	if o.Batches == 0 {
		name = "score-batch-size"
	}
	if s.Images != n || s.Criterion != PerSample && len(s.Losses) != batches {
		return option.Errorf(name, "scoring %d images in batches of %d contradicts the scores, which were computed from %d images in %d batches; leave the numbers out, or give other scores", n, size, s.Images, len(s.Losses))
	}
	return nil
}

// header holds the kind and the version of a scores file.
var header = jsonfile.Header{Kind: jsonfile.Scores, Version: 1}

// content holds the metadata of a scores file.
type content struct {
	Losses      []float64 `json:"losses"`
	Images      int       `json:"images"`
	Criterion   Criterion `json:"criterion"`
	Compat      string    `json:"compat,omitempty"`
	FromBlock   int       `json:"from_block,omitempty"`
	Backbone    string    `json:"backbone"`
	Order       []string  `json:"order"`
	Norms       []string  `json:"norms"`
	EntriesOnly []string  `json:"entries_only,omitempty"`
	ClassToken  int       `json:"class_token"`
}

// Save writes the scores to a safetensors file. The file has one float32 tensor for each scored
// tensor of the backbone, under the canonical name of the tensor. docs/format.md describes the
// file.
func (s *Scores) Save(path string) error {
	about := content{Losses: s.Losses, Images: s.Images, Criterion: s.Criterion, Compat: s.Compat, FromBlock: s.FromBlock, Backbone: s.Backbone, ClassToken: s.ClassToken}
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

// Load reads a scores file, which [Scores.Save] writes. It returns an error if the metadata does
// not list each tensor once, or if [Criterion.Check] rejects a score.
func Load(path string) (*Scores, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return FromFile(f)
}

// LoadHeader reads the metadata of a scores file, but no scores: the Tensors of the result are nil.
func LoadHeader(path string) (*Scores, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, _, err := readHeader(f)
	if err != nil {
		return nil, fmt.Errorf("reading scores from %s: %w", f.Name(), err)
	}
	return s, nil
}

// FromFile reads scores from an open scores file. It makes the same checks as [Load].
func FromFile(f *checkpoint.File) (*Scores, error) {
	s, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("reading scores from %s: %w", f.Name(), err)
	}
	return s, nil
}

// readHeader reads and checks the metadata of a scores file.
func readHeader(f *checkpoint.File) (s *Scores, about content, err error) {
	if err := header.ReadMetadata(f.Metadata(), &about); err != nil {
		return nil, about, fmt.Errorf("%w; give a scores file that this version of spt wrote", err)
	}
	if err := about.Criterion.Validate(); err != nil {
		return nil, about, err
	}
	if err := ValidateCompat(about.Compat); err != nil {
		return nil, about, err
	}
	if about.ClassToken < 0 || about.FromBlock < 0 {
		return nil, about, fmt.Errorf("the class token has %d values, and block %d is the first that was scored; expected numbers of 0 or more", about.ClassToken, about.FromBlock)
	}
	if len(about.Order) != len(f.Tensors()) {
		return nil, about, fmt.Errorf("the metadata lists %d tensors, but the file has %d; score the backbone again", len(about.Order), len(f.Tensors()))
	}
	return &Scores{Losses: about.Losses, Images: about.Images, Criterion: about.Criterion, Compat: about.Compat, FromBlock: about.FromBlock, Backbone: about.Backbone, ClassToken: about.ClassToken}, about, nil
}

// read reads and checks the scores of a file.
func read(f *checkpoint.File) (*Scores, error) {
	s, about, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, name := range about.Order {
		t, err := f.Float32(name)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, fmt.Errorf("the metadata lists tensor %s twice; score the backbone again", name)
		}
		seen[name] = true
		for i, v := range t.Data {
			if err := s.Criterion.Check(v); err != nil {
				return nil, fmt.Errorf("score %d of tensor %s is %w; score the backbone again", i, name, err)
			}
		}
		s.Tensors = append(s.Tensors, Tensor{name, t.Shape, slices.Contains(about.Norms, name), slices.Contains(about.EntriesOnly, name), t.Data})
	}
	return s, nil
}
