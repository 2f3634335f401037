// Package peft implements parameter-efficient fine-tuning (PEFT): it defines which parameters of a
// backbone are tuned, and how the tuned parameters enter the forward pass.
//
// Begin with [Selection]. A Selection lists the tensors that are tuned whole, the single entries
// that are tuned, and the matrices that get a structured [Module], such as LoRA. It also holds the
// settings of other methods: SSF, the factors of DiffFit, the [Prompts] of VPT, the [Bottleneck] of
// AdaptFormer, the [PostAdapter] of Adapter+, [Convpass], [FacT], and an MLP head. Stage 2 makes a
// Selection from a plan. [Full] and [Uniform] return the selections of baselines.
//
// [New] checks a Selection against the configuration of a backbone and returns a [Tuning]. The
// Tuning lists the tuned tensors as [Param] values, which [Tuning.Init] gives their initial values.
// [Tuning.Layers] inserts the tuned tensors into the forward pass of the backbone. After training,
// [Tuning.Merge] merges them into the weights of the backbone, if the method allows it.
//
// [Register] adds a kind of structured module. The files of the built-in kinds, such as lora.go,
// are named after them.
package peft

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/drop"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/internal/seeded"
)

// Selection lists the parameters of a backbone that are tuned. Tensors are given by canonical name.
// The head is always tuned and must not be listed. The zero Selection tunes only the head, which is
// called linear probing.
type Selection struct {
	// Module is the name of the structured module, such as "lora". It is needed if Structured is
	// not empty. Default: "" (no module).
	Module string `json:"module,omitempty"`
	// Rank is the rank of the structured modules. It is at least 1 if Structured is not empty.
	Rank int `json:"rank,omitempty"`
	// Ranks holds the rank of the module on some of the matrices, by matrix. The others have the
	// rank Rank. Default: nil.
	Ranks map[string]int `json:"ranks,omitempty"`
	// Structured lists the matrices that get a structured module.
	Structured []string `json:"structured,omitempty"`
	// Whole lists the tensors that are tuned whole.
	Whole []string `json:"whole,omitempty"`
	// Entries holds the single entries that are tuned, by tensor. An entry is given by its flat
	// row-major position in the tensor. The positions are in ascending order.
	Entries map[string][]int32 `json:"entries,omitempty"`

	// FromBlock is the first block that is tuned, if it is not 0. Nothing before the input of this
	// block is tuned: what the fields below insert acts in this block and later, and the lists
	// above name no earlier tensor. A training then computes the tokens that enter the block only
	// once for each image. It is less than the number of blocks. Default: 0, the whole backbone.
	FromBlock int `json:"from_block,omitempty"`

	// SSF inserts a scale and a shift, γ⊙y + β, after each linear layer, norm and convolution of
	// the backbone and after the patch embedding, but not after the head (Lian et al. 2022,
	// "Scaling & Shifting Your Features", arXiv 2210.08823). γ starts normally distributed around 1
	// and β around 0, both with σ 0.02, as in the code of the paper. So the output of the backbone
	// changes slightly at the start. SSF can be merged if each operation has a bias and none is a
	// response normalisation. Default: false.
	SSF bool `json:"ssf,omitempty"`
	// BranchScales multiplies the output of each residual branch by learned factors γ [D], one for
	// each channel, as DiffFit does (Xie et al. 2023, "DiffFit", arXiv 2304.06648). γ starts at
	// one. It is merged into the last linear layer of the branch. Default: false.
	BranchScales bool `json:"branch_scales,omitempty"`
	// Prompts adds trainable tokens to the tokens of the image. Default: nil (no prompts).
	Prompts *Prompts `json:"prompts,omitempty"`
	// AdaptFormer adds a bottleneck in parallel to the MLP of each block. Default: nil (no
	// bottlenecks).
	AdaptFormer *Bottleneck `json:"adaptformer,omitempty"`
	// PostAdapter adds an adapter after each block. Default: nil (no adapters).
	PostAdapter *PostAdapter `json:"post_adapter,omitempty"`
	// Convpass adds convolutional bypasses to the branches of each block. Default: nil (no
	// bypasses).
	Convpass *Convpass `json:"convpass,omitempty"`
	// FacT adds products of factors that the matrices share. Default: nil (no factors).
	FacT *FacT `json:"fact,omitempty"`
	// MLPHead is the number of layers of an MLP that replaces the linear head, a baseline in the
	// paper of VPT (Jia et al. 2022, arXiv 2203.12119). The hidden layers are as wide as the
	// features; ReLU and dropout follow each of them. Unlike the code of the paper, spt uses no
	// batch normalisation there, because a delta holds no running statistics. An MLP head of two or
	// more layers cannot be merged. Default: 0, which means a linear head, as does 1.
	MLPHead int `json:"mlp_head,omitempty"`
}

// RankOf returns the rank of the module on a matrix.
func (s Selection) RankOf(matrix string) int {
	if r, ok := s.Ranks[matrix]; ok {
		return r
	}
	return s.Rank
}

// From returns the part of the selection s on the backbone c that a training from the given block
// on can tune: s without the tensors that the forward pass reads before this block, and with the
// block as FromBlock.
func (s Selection) From(c backbone.Config, block int) Selection {
	late := namesFrom(c, block)
	early := func(name string) bool { return !late[name] }
	s.FromBlock = block
	s.Structured = slices.DeleteFunc(slices.Clone(s.Structured), early)
	s.Whole = slices.DeleteFunc(slices.Clone(s.Whole), early)
	s.Ranks, s.Entries = maps.Clone(s.Ranks), maps.Clone(s.Entries)
	maps.DeleteFunc(s.Ranks, func(name string, _ int) bool { return early(name) })
	maps.DeleteFunc(s.Entries, func(name string, _ []int32) bool { return early(name) })
	return s
}

// namesFrom returns the set of the names of the tensors that the forward pass reads from a block
// on.
func namesFrom(c backbone.Config, block int) map[string]bool {
	names := map[string]bool{}
	for _, p := range c.ParamsFrom(block) {
		names[p.Name] = true
	}
	return names
}

// Param describes one tuned tensor.
type Param struct {
	// Name is the name of the tensor in training and in deltas. A tensor of the backbone that is
	// tuned whole has its canonical name.
	Name string
	// Shape is the shape of the tensor.
	Shape []int
	// Init returns the initial values of the tensor.
	Init Init
	// Decays reports whether weight decay applies to the tensor. It applies to tensors of two or
	// more dimensions, except class tokens and position embeddings.
	Decays bool
	// Head reports whether the tensor belongs to the head.
	Head bool
	// Group is the group of the tensor.
	Group Group
	// module reports whether the tensor belongs to a structured module; see Scheme.
	module bool
}

// Size returns the number of values of p.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// SparseValues returns the Param.Name of the tuned entries of a tensor. The tuned values are added
// to the frozen values of these entries.
func SparseValues(tensor string) string { return tensor + ".sparse_values" }

// Rates holds the drop rates of a training. Each rate is at least 0 and below 1.
type Rates struct {
	// DropPath is the drop-path rate of the branches of the last block. The rate grows linearly
	// from 0 at the first block.
	DropPath float64
	// Dropout is the dropout rate on the input of structured modules, after the hidden layers of
	// bottlenecks and MLP heads, and on prompts.
	Dropout float64
	// ModuleDropPath is the drop-path rate on the output of structured modules.
	ModuleDropPath float64
	// SharedDropout makes modules on layers with the same input drop the same values of it, such as
	// the modules on q, k and v of a block in the reference release. Default: each module drops
	// other values.
	SharedDropout bool
}

// Counts holds the number of tuned parameters of each kind.
type Counts struct {
	// Structured counts the parameters of structured modules, SSF, prompts and bottlenecks.
	Structured int `json:"structured"`
	// Whole counts the parameters of tensors that are tuned whole, including the class token.
	Whole int `json:"whole"`
	// Entries counts the single entries.
	Entries int `json:"entries"`
	// Head counts the parameters of the head.
	Head int `json:"head"`
}

// Tuned returns the number of tuned parameters without the head. The paper counts in the same way.
func (c Counts) Tuned() int { return c.Structured + c.Whole + c.Entries }

// Tuning is a [Selection] for a specific backbone. [New] creates it. Do not change it during a
// training.
type Tuning struct {
	// Config is the configuration of the backbone.
	Config backbone.Config
	// Selection lists the tuned parameters.
	Selection Selection
	// Module is the structured module. It is the zero value if Selection.Structured is empty.
	Module Module
	// Params lists the tuned tensors, including the head.
	Params []Param
	// Counts holds the number of tuned parameters of each kind.
	Counts Counts
	// EntryGradient selects how the gradient of single entries of a matrix is computed. The zero
	// value selects the faster way for the backend.
	EntryGradient EntryGradient

	// whole and structured are the sets of the names in Selection.Whole and Selection.Structured.
	whole, structured map[string]bool
	// shapes holds the shapes of the tensors of the backbone.
	shapes map[string][]int
	// modules holds the tensors of the module on each layer.
	modules map[string][]Param
	// scaled lists the operations that SSF scales, and scaledBranches the branches that DiffFit
	// scales.
	scaled, scaledBranches []string
	// grid is the number of patches along one side of the image; only with Convpass.
	grid int
}

// The limits of a selection are far above useful values. They prevent an overflow of numbers that
// are computed from a damaged or malicious file.
const (
	maxExtra      = 1 << 16 // prompts of a block; width of a bottleneck
	maxHeadLayers = 64      // layers of an MLP head
)

// New returns the [Tuning] of the selection s on a backbone with the configuration c. It returns an
// error if the selection does not fit the backbone: an unknown tensor or module, a tensor that is
// selected twice, an entry outside its tensor, a rank or size out of range, or a method that the
// architecture does not support.
func New(c backbone.Config, s Selection) (*Tuning, error) {
	t := &Tuning{Config: c, Selection: s, whole: set(s.Whole), structured: set(s.Structured), shapes: map[string][]int{}, modules: map[string][]Param{}}
	if len(s.Structured) > 0 {
		m, err := Lookup(s.Module)
		if err != nil {
			return nil, err
		}
		if s.Rank < 1 || s.Rank > c.MaxRank() {
			return nil, fmt.Errorf("structured module %q of rank %d: expected 1 to %d, the shortest side of the backbone's matrices", s.Module, s.Rank, c.MaxRank())
		}
		t.Module = m
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ranks)) {
		if r := s.Ranks[name]; !t.structured[name] || r < 1 || r > s.Rank {
			return nil, fmt.Errorf("checking the selection: ranks holds %d for %q; expected matrices of the list structured, and ranks from 1 to rank, which is %d", r, name, s.Rank)
		}
	}
	for _, p := range c.Params() {
		t.shapes[p.Name] = p.Shape
	}
	if s.FromBlock != 0 {
		if _, _, err := c.HiddenSize(s.FromBlock); err != nil {
			return nil, option.Errorf("from-block", "tuning from a block on: %w", err)
		}
	}
	late := namesFrom(c, s.FromBlock)
	known := 0
	for _, p := range c.Params() {
		entries, hasEntries := s.Entries[p.Name]
		switch {
		case p.Role == backbone.Head && (t.whole[p.Name] || t.structured[p.Name] || hasEntries):
			return nil, fmt.Errorf("checking the selection: %s belongs to the head, which is always tuned; leave it out", p.Name)
		case (t.whole[p.Name] || t.structured[p.Name] || hasEntries) && !late[p.Name]:
			return nil, fmt.Errorf("checking the selection: %s comes before block %d, from which on the backbone is tuned; leave the tensor out, or tune from an earlier block", p.Name, s.FromBlock)
		case hasEntries && len(entries) == 0:
			return nil, fmt.Errorf("checking the selection: %s is listed with no entries; leave it out", p.Name)
		case p.Role == backbone.Head:
			init := Init(truncNormal)
			if len(p.Shape) == 1 {
				init = Zero
			}
			t.Params = append(t.Params, Param{Name: p.Name, Shape: p.Shape, Init: init, Decays: p.Decays(), Head: true})
			t.Counts.Head += p.Size()
			continue
		case t.whole[p.Name] && (hasEntries || t.structured[p.Name]):
			return nil, fmt.Errorf("checking the selection: %s is selected whole and in part; select it once", p.Name)
		case t.whole[p.Name]:
			t.Params = append(t.Params, Param{Name: p.Name, Shape: p.Shape, Init: pretrained, Decays: p.Decays()})
			t.Counts.Whole += p.Size()
			known++
		case t.structured[p.Name]:
			if !p.Matrix() {
				return nil, fmt.Errorf("checking the selection: %s of shape %v is no matrix of a block, so it cannot have a %s; leave it out", p.Name, p.Shape, s.Module)
			}
			ps, err := t.Module.declare(strings.TrimSuffix(p.Name, ".weight"), p.Shape[1], p.Shape[0], s.RankOf(p.Name), t.hasBias(p.Name))
			if err != nil {
				return nil, err
			}
			for _, q := range ps {
				t.Counts.Structured += q.Size()
			}
			t.Params = append(t.Params, ps...)
			t.modules[strings.TrimSuffix(p.Name, ".weight")] = ps
			known++
		}
		if hasEntries {
			if t.structured[p.Name] {
				return nil, fmt.Errorf("checking the selection: %s has a %s and single entries; select one of them", p.Name, s.Module)
			}
			for i, e := range entries {
				if e < 0 || int(e) >= p.Size() || i > 0 && e <= entries[i-1] {
					return nil, fmt.Errorf("checking the selection: position %d of the entries of %s is %d; expected ascending positions below %d", i, p.Name, e, p.Size())
				}
			}
			t.Params = append(t.Params, Param{Name: SparseValues(p.Name), Shape: []int{len(entries)}, Init: Zero})
			t.Counts.Entries += len(entries)
			known++
		}
	}
	if want := len(t.whole) + len(t.structured) + len(s.Entries); known != want {
		for _, n := range slices.Concat(s.Whole, s.Structured, slices.Sorted(maps.Keys(s.Entries))) {
			if _, ok := t.shapes[n]; !ok {
				return nil, fmt.Errorf("checking the selection: the backbone has no tensor %s; give a plan that was made for this backbone", n)
			}
		}
	}
	if err := t.declareAdditions(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, p := range t.Params {
		if strings.HasSuffix(p.Name, ".sparse_indices") {
			return nil, fmt.Errorf("checking the selection: structured module %q declares a tensor %s, but names with this ending are reserved for the positions of entries; give it another name", s.Module, p.Name)
		}
		_, own := t.shapes[p.Name]
		if seen[p.Name] || own && !t.whole[p.Name] && !strings.HasPrefix(p.Name, c.Head()+".") {
			return nil, fmt.Errorf("checking the selection: structured module %q declares a tensor %s, but another tensor has this name; give it another name", s.Module, p.Name)
		}
		seen[p.Name] = true
	}
	t.setGroups()
	return t, nil
}

// declareAdditions adds to t.Params the tensors of the MLP head, FacT, Convpass, AdaptFormer,
// Adapter+, VPT, SSF and DiffFit.
func (t *Tuning) declareAdditions() error {
	c, s := t.Config, t.Selection
	if s.MLPHead != 0 {
		if err := t.declareMLPHead(c); err != nil {
			return err
		}
	}
	if s.FacT != nil {
		if err := t.declareFacT(c); err != nil {
			return err
		}
	}
	if !s.SSF && !s.BranchScales && s.Prompts == nil && s.AdaptFormer == nil && s.PostAdapter == nil && s.Convpass == nil {
		return nil
	}
	o, err := operationsOf(c, s.FromBlock)
	if err != nil {
		return err
	}
	if s.AdaptFormer != nil {
		if err := t.declareAdaptFormer(c, o); err != nil {
			return err
		}
	}
	if s.PostAdapter != nil {
		if err := t.declarePostAdapters(c, o); err != nil {
			return err
		}
	}
	if s.Convpass != nil {
		if err := t.declareConvpass(c, o); err != nil {
			return err
		}
	}
	if s.Prompts != nil {
		if err := t.declarePrompts(c, o); err != nil {
			return err
		}
	}
	if s.SSF {
		t.declareSSF(o)
	}
	if s.BranchScales {
		t.declareBranchScales(o)
	}
	return nil
}

// declare adds tensors that do not exist in the backbone to t.Params.
func (t *Tuning) declare(params ...Param) {
	for _, p := range params {
		p.Decays = len(p.Shape) >= 2
		t.Params = append(t.Params, p)
		t.Counts.Structured += p.Size()
	}
}

// set returns the set of the names.
func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// hasBias reports whether the linear layer with the given weight has a bias.
func (t *Tuning) hasBias(weight string) bool {
	_, ok := t.shapes[strings.TrimSuffix(weight, "weight")+"bias"]
	return ok
}

// Init returns the initial values of the tuned tensors, by Param.Name. scheme decides the values of
// structured modules. weights holds the weights of the backbone by canonical name. The initial
// values of a tensor do not depend on the other tuned tensors.
func (t *Tuning) Init(seed uint64, scheme Scheme, weights checkpoint.StateDict) checkpoint.StateDict {
	out := checkpoint.StateDict{}
	for _, p := range t.Params {
		init := p.Init
		if p.module && scheme == ReleaseScheme && len(p.Shape) == 2 {
			init = truncNormal
		}
		out[p.Name] = checkpoint.Tensor{Shape: p.Shape, Data: init(p, seeded.Rand(seed, p.Name), weights)}
	}
	return out
}

// Mergeable returns nil if the tuned tensors can be merged into the weights of the backbone.
// Otherwise it returns an error with the reason. [Tuning.Merge] can also fail later, if the Merge
// function of the module fails for a layer.
func (t *Tuning) Mergeable() error {
	keep := "cannot be merged into the backbone's weights; keep the delta, which holds %s"
	switch {
	case len(t.structured) > 0 && t.Module.Merge == nil:
		return fmt.Errorf("structured module %q cannot be merged into its matrix: it is not linear or has no merge function; keep the delta, which holds the module", t.Module.Name)
	case t.Selection.Prompts != nil:
		return fmt.Errorf("visual prompts "+keep, "them")
	case t.Selection.AdaptFormer != nil:
		return fmt.Errorf("AdaptFormer's bottlenecks "+keep, "them")
	case t.Selection.Convpass != nil:
		return fmt.Errorf("the bypasses of Convpass "+keep, "them")
	case t.Selection.PostAdapter != nil:
		return fmt.Errorf("the adapters of Adapter+ "+keep, "them")
	case t.Selection.MLPHead > 1:
		return fmt.Errorf("an MLP head "+keep, "it")
	}
	return cmp.Or(t.ssfMergeable(), t.branchScalesMergeable())
}

// Merge returns the weights of the backbone, by canonical name, with the tuned tensors merged into
// them. weights holds the weights of the backbone, and tuned holds the tuned tensors by Param.Name.
// The result shares frozen tensors with weights, and tensors that are tuned whole with tuned; it
// changes neither. Merge returns an error if [Tuning.Mergeable] does, or if the Merge function of
// the module fails.
func (t *Tuning) Merge(weights, tuned checkpoint.StateDict) (checkpoint.StateDict, error) {
	if err := t.Mergeable(); err != nil {
		return nil, err
	}
	out := checkpoint.StateDict{}
	for name := range t.shapes {
		out[name] = weights[name]
		if v, ok := tuned[name]; ok {
			out[name] = v
		}
	}
	for name, entries := range t.Selection.Entries {
		w := cloned(out[name])
		for i, e := range entries {
			w.Data[e] += tuned[SparseValues(name)].Data[i]
		}
		out[name] = w
	}
	for _, name := range slices.Sorted(maps.Keys(t.structured)) { // each name once
		if err := t.mergeModule(strings.TrimSuffix(name, ".weight"), out, tuned); err != nil {
			return nil, err
		}
	}
	t.mergeFacT(out, tuned)
	t.mergeSSF(out, tuned)
	t.mergeBranchScales(out, tuned)
	return out, nil
}

// mergeModule merges the module of a layer into the weight and the bias of the layer.
func (t *Tuning) mergeModule(layer string, weights, tuned checkpoint.StateDict) error {
	m := &MergedLayer{Name: layer, Rank: t.Selection.RankOf(layer + ".weight"), Weight: cloned(weights[layer+".weight"]), Tensors: map[string]checkpoint.Tensor{}}
	m.Out, m.In = m.Weight.Shape[0], m.Weight.Shape[1]
	if t.hasBias(layer + ".weight") {
		m.Bias = cloned(weights[layer+".bias"])
	}
	for _, p := range t.modules[layer] {
		m.Tensors[strings.TrimPrefix(p.Name, layer+".")] = tuned[p.Name]
	}
	if err := t.Module.Merge(m); err != nil {
		return fmt.Errorf("merging structured module %q into %s: %w", t.Module.Name, layer, err)
	}
	weights[layer+".weight"] = m.Weight
	if m.Bias.Data != nil {
		weights[layer+".bias"] = m.Bias
	}
	return nil
}

// cloned returns a deep copy of t.
func cloned(t checkpoint.Tensor) checkpoint.Tensor {
	return checkpoint.Tensor{Shape: t.Shape, Data: slices.Clone(t.Data)}
}

// layers inserts the tuned tensors into one graph. It implements backbone.Layers.
type layers struct {
	*Tuning
	frozen  map[string]*Node
	tuned   map[string]*Node
	indices map[string]*Node // positions of the entries of each tensor, int32 [nnz]
	rates   Rates
	masks   *drop.Masks      // masks of dropout and drop-path
	params  map[string]*Node // results of Param
	normed  map[string]*Node // outputs of norms by branch; only with Convpass
	dropped map[*Node]*Node  // results of Site.Dropout by input, with Rates.SharedDropout
	strips  map[string]strip // strips of the params whose entry gradients are computed by strip
}

// Inputs holds the graph nodes of the tensors that the forward pass reads.
type Inputs struct {
	// Frozen holds the tensors of the backbone by canonical name. Tensors that are tuned whole may
	// be missing.
	Frozen map[string]*Node
	// Tuned holds the tuned tensors by Param.Name.
	Tuned map[string]*Node
	// Indices holds the flat positions of the tuned entries of each tensor, int32, by canonical
	// name.
	Indices map[string]*Node
	// RNG is the random state of the step. Nil means evaluation, without dropout and drop-path.
	RNG *Node
	// Rates holds the drop rates. They have no effect in evaluation.
	Rates Rates
}

// Layers returns the layers of the backbone with the tuned tensors inserted, for one graph. Pass it
// to the graph functions of package backbone, such as Model.Features.
func (t *Tuning) Layers(in Inputs) backbone.Layers {
	return &layers{Tuning: t, frozen: in.Frozen, tuned: in.Tuned, indices: in.Indices, rates: in.Rates, masks: drop.New(in.RNG), params: map[string]*Node{}, normed: map[string]*Node{}, dropped: map[*Node]*Node{}, strips: map[string]strip{}}
}

// Param implements backbone.Layers. It returns the tensor with its tuned entries.
func (l *layers) Param(name string) *Node {
	if n, ok := l.params[name]; ok {
		return n
	}
	n := l.tuned[name] // set if the tensor is tuned whole or belongs to the head
	if n == nil {
		n = l.frozen[name]
		if indices, ok := l.indices[name]; ok {
			// Scatter the values into W. Their gradient is then gathered from the gradient of W.
			shape, values := n.Shape(), l.tuned[SparseValues(name)]
			if s, ok := l.strip(name, n.Graph().Backend()); ok {
				l.strips[name] = s
				values = StopGradient(values)
			}
			flat := ScatterSum(Reshape(n, shape.Size()), ExpandDims(indices, -1), ConvertDType(values, n.DType()), true, true)
			n = Reshape(flat, shape.Dimensions...)
		}
	}
	l.params[name] = n
	return n
}

// Linear implements backbone.Layers. It returns the output of a linear layer with its structured
// module.
func (l *layers) Linear(name string, x *Node) *Node {
	x = l.hidden(name, x)
	w := l.Param(name + ".weight")
	var b *Node
	if _, ok := l.shapes[name+".bias"]; ok {
		b = l.Param(name + ".bias")
	}
	y := backbone.Linear(x, w, b)
	if s, ok := l.strips[name+".weight"]; ok {
		y = s.withEntries(x, y, l.tuned[SparseValues(name+".weight")])
	}
	if l.structured[name+".weight"] {
		s := &Site{Layer: name, In: w.Shape().Dim(1), Out: w.Shape().Dim(0), Rank: l.Selection.RankOf(name + ".weight"), layers: l, dtype: x.DType(), bias: b != nil}
		y = l.Module.Graph(s, x, y)
	}
	return l.ssf(name, l.fact(name, x, y))
}

// Output implements backbone.Layers.
func (l *layers) Output(name string, y *Node) *Node {
	y = l.ssf(name, y)
	l.convpassInput(name, y)
	return y
}

// Branch implements backbone.Layers. It applies the factors of DiffFit and drop-path, and adds the
// bypass of Convpass, the bottleneck of AdaptFormer and the adapter of Adapter+.
func (l *layers) Branch(name string, block int, x, y *Node) *Node {
	rate := drop.PathRate(l.rates.DropPath, block, l.Config.Blocks())
	y = l.adaptFormer(name, x, l.convpass(name, rate, l.dropPath(l.branchScale(name, y), rate)))
	return l.postAdapter(name, x, y)
}

// dropPath applies drop-path to y. Each image is dropped with probability rate.
func (l *layers) dropPath(y *Node, rate float64) *Node { return l.masks.Images(y, rate) }

// drop applies dropout to x. The random mask has the shape mask, which is broadcast to x.
func (l *layers) drop(x *Node, rate float64, mask []int) *Node { return l.masks.Values(x, rate, mask) }

// float32Shape returns the float32 shape with the given dimensions.
func float32Shape(dims []int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// buildScratch calls a function that builds a graph, with a graph that is never run. It returns a
// panic of the function as an error.
func buildScratch(build func(g *Graph)) error {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		return err
	}
	g := NewGraph(be, "declare")
	defer g.Finalize()
	return program.Caught(func() { build(g) })
}
