// Package peft defines what is tuned and how it enters the backbone's graph.
//
// A [Selection] names what is tuned: whole tensors, single entries, matrices with a structured
// [Module], and what other methods add (VPT's prompts, SSF's scales, AdaptFormer's bottlenecks, an
// MLP head). It comes from a plan, or from a function of this package such as [Full] or [Uniform].
// [New] binds a Selection to the configuration of a backbone. The resulting [Tuning] lists the
// tuned tensors, draws their initial values, is the backbone.Layers through which they enter the
// forward pass, and merges them into the backbone's weights afterwards. [Register] adds a
// structured module.
package peft

import (
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
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/internal/seeded"
)

// Selection says what is tuned, by canonical tensor names. The head is always tuned and never
// listed, so the zero Selection is the linear probe.
type Selection struct {
	// Module is the name of the structured module. Default empty: none.
	Module string `json:"module,omitempty"`
	// Rank is the rank of the structured modules.
	Rank int `json:"rank,omitempty"`
	// Structured names the matrices that get a module.
	Structured []string `json:"structured,omitempty"`
	// Whole names the tensors that are tuned whole.
	Whole []string `json:"whole,omitempty"`
	// Entries holds, for each tensor whose entries are tuned one by one, their flat row-major
	// positions in ascending order.
	Entries map[string][]int32 `json:"entries,omitempty"`

	// SSF adds γ⊙y + β after every operation of the backbone: after every linear layer, norm,
	// convolution and the patch embedding, but not after the head (Lian et al. 2022, "Scaling &
	// Shifting Your Features", arXiv 2210.08823). γ starts normal around 1 and β around 0, both
	// with σ 0.02, as in the code of the paper; so the backbone does not compute the same at the
	// start. SSF can be merged.
	SSF bool `json:"ssf,omitempty"`
	// Prompts adds learned tokens beside the tokens of the image. Default nil: none.
	Prompts *Prompts `json:"prompts,omitempty"`
	// AdaptFormer adds a bottleneck beside the MLP of every block. Default nil: none.
	AdaptFormer *Bottleneck `json:"adaptformer,omitempty"`
	// MLPHead is the number of layers of an MLP in place of the head, a baseline of VPT (Jia et al.
	// 2022, arXiv 2203.12119). All layers but the last are as wide as the features, with ReLU and
	// the dropout of the run after them. The code of the paper also normalises each by batch; a
	// delta holds no running statistics, so this is left out. Default 0 or 1: a linear head. An MLP
	// of two layers or more cannot be merged.
	MLPHead int `json:"mlp_head,omitempty"`
}

// Param is one tuned tensor.
type Param struct {
	Name  string // in deltas; the canonical name for a tensor of the backbone
	Shape []int
	Init  Init // its initial values
}

// Size returns the number of values of p.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// SparseValues returns the name of the tuned values of the entries of a tensor.
func SparseValues(tensor string) string { return tensor + ".sparse_values" }

// Rates holds the drop rates during training.
type Rates struct {
	DropPath       float64 // of the blocks' branches: linear over depth from 0 to this
	Dropout        float64 // on a module's input
	ModuleDropPath float64 // on a module's output
}

// Counts holds the numbers of tuned parameters by kind.
type Counts struct {
	Structured int `json:"structured"` // modules, and what other methods add to the backbone
	// vectors and, in baselines, other tensors tuned whole; the class token too
	Whole   int `json:"whole"`
	Entries int `json:"entries"`
	Head    int `json:"head"`
}

// Tuned returns the number of tuned parameters without the head, as the paper counts.
func (c Counts) Tuned() int { return c.Structured + c.Whole + c.Entries }

// Tuning is a selection bound to the configuration of a backbone. It is immutable.
type Tuning struct {
	Config    backbone.Config
	Selection Selection
	Module    Module // zero if nothing is structured
	Params    []Param
	Counts    Counts
	// EntryGradient says how the gradient of single entries of a matrix is computed.
	EntryGradient EntryGradient

	whole, structured map[string]bool
	shapes            map[string][]int   // of the backbone's tensors
	modules           map[string][]Param // the tensors of the module on each layer
	scaled            []string           // operations that SSF scales
}

// Bounds of what a selection adds, far above any that is used: what is derived from the numbers in
// a hostile file must not overflow.
const (
	maxExtra      = 1 << 16 // prompts; width of a bottleneck
	maxHeadLayers = 64
)

// New checks a selection against a backbone and lists the tensors to tune.
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
	for _, p := range c.Params() {
		t.shapes[p.Name] = p.Shape
	}
	known := 0
	for _, p := range c.Params() {
		entries, hasEntries := s.Entries[p.Name]
		switch {
		case p.Role == backbone.Head && (t.whole[p.Name] || t.structured[p.Name] || hasEntries):
			return nil, fmt.Errorf("selecting what to tune: %s is the head's, which is always tuned; leave it out", p.Name)
		case hasEntries && len(entries) == 0:
			return nil, fmt.Errorf("selecting what to tune: %s is listed with no entries; leave it out", p.Name)
		case p.Role == backbone.Head:
			init := Init(truncNormal)
			if len(p.Shape) == 1 {
				init = Zero
			}
			t.Params = append(t.Params, Param{Name: p.Name, Shape: p.Shape, Init: init})
			t.Counts.Head += p.Size()
			continue
		case t.whole[p.Name] && (hasEntries || t.structured[p.Name]):
			return nil, fmt.Errorf("selecting what to tune: %s is selected whole and in part; select it once", p.Name)
		case t.whole[p.Name]:
			t.Params = append(t.Params, Param{Name: p.Name, Shape: p.Shape, Init: pretrained})
			t.Counts.Whole += p.Size()
			known++
		case t.structured[p.Name]:
			if !p.Matrix() {
				return nil, fmt.Errorf("selecting what to tune: %s of shape %v is no matrix of a block, so no %s fits on it", p.Name, p.Shape, s.Module)
			}
			ps, err := t.Module.declare(strings.TrimSuffix(p.Name, ".weight"), p.Shape[1], p.Shape[0], s.Rank, t.hasBias(p.Name))
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
				return nil, fmt.Errorf("selecting what to tune: %s has a %s and single entries; select one", p.Name, s.Module)
			}
			for i, e := range entries {
				if e < 0 || int(e) >= p.Size() || i > 0 && e <= entries[i-1] {
					return nil, fmt.Errorf("selecting what to tune: entry %d of %s is %d; expected ascending positions below %d", i, p.Name, e, p.Size())
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
				return nil, fmt.Errorf("selecting what to tune: the backbone has no tensor %s; was the plan made for another backbone?", n)
			}
		}
	}
	if err := t.declareAdditions(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, p := range t.Params {
		if strings.HasSuffix(p.Name, ".sparse_indices") {
			return nil, fmt.Errorf("selecting what to tune: structured module %q declares a tensor %s, whose name a delta uses for positions; give it another name", s.Module, p.Name)
		}
		_, own := t.shapes[p.Name]
		if seen[p.Name] || own && !t.whole[p.Name] && !strings.HasPrefix(p.Name, c.Head()+".") {
			return nil, fmt.Errorf("selecting what to tune: structured module %q declares a tensor %s, the name of another tensor; give it another name", s.Module, p.Name)
		}
		seen[p.Name] = true
	}
	return t, nil
}

// declareAdditions lists the tuned tensors beside the tensors of the backbone and the modules on
// its matrices.
func (t *Tuning) declareAdditions() error {
	c, s := t.Config, t.Selection
	if s.MLPHead != 0 {
		if err := t.declareMLPHead(c); err != nil {
			return err
		}
	}
	if !s.SSF && s.Prompts == nil && s.AdaptFormer == nil {
		return nil
	}
	o, err := operationsOf(c)
	if err != nil {
		return err
	}
	if s.AdaptFormer != nil {
		if err := t.declareAdaptFormer(c, o); err != nil {
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
	return nil
}

// declare adds tensors that are not tensors of the backbone.
func (t *Tuning) declare(params ...Param) {
	for _, p := range params {
		t.Params = append(t.Params, p)
		t.Counts.Structured += p.Size()
	}
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// hasBias reports whether the linear layer with that weight has a bias.
func (t *Tuning) hasBias(weight string) bool {
	_, ok := t.shapes[strings.TrimSuffix(weight, "weight")+"bias"]
	return ok
}

// Init returns the initial values of the tuned tensors. The values of a tensor depend on the seed,
// on its name and on the weights of the backbone, not on what else is tuned.
func (t *Tuning) Init(seed uint64, weights checkpoint.StateDict) checkpoint.StateDict {
	out := checkpoint.StateDict{}
	for _, p := range t.Params {
		out[p.Name] = checkpoint.Tensor{Shape: p.Shape, Data: p.Init(p, seeded.Rand(seed, p.Name), weights)}
	}
	return out
}

// Mergeable returns an error that tells why the tuning cannot be merged; nil if it can.
func (t *Tuning) Mergeable() error {
	keep := "cannot be merged into the backbone's weights; keep the delta, which holds %s"
	switch {
	case len(t.structured) > 0 && t.Module.Merge == nil:
		return fmt.Errorf("structured module %q cannot be merged into its matrix, it is not linear or has no merge function; keep the delta, which holds the module", t.Module.Name)
	case t.Selection.Prompts != nil:
		return fmt.Errorf("visual prompts "+keep, "them")
	case t.Selection.AdaptFormer != nil:
		return fmt.Errorf("AdaptFormer's bottlenecks "+keep, "them")
	case t.Selection.MLPHead > 1:
		return fmt.Errorf("an MLP head "+keep, "it")
	}
	return t.ssfMergeable()
}

// Merge returns the weights of the backbone with the tuned tensors merged into them. It shares the
// tensors that are not tuned with weights, and those tuned whole with tuned. It fails where
// [Tuning.Mergeable] does.
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
	for _, name := range slices.Sorted(maps.Keys(t.structured)) { // each once
		if err := t.mergeModule(strings.TrimSuffix(name, ".weight"), out, tuned); err != nil {
			return nil, err
		}
	}
	t.mergeSSF(out, tuned)
	return out, nil
}

// mergeModule merges the module of a layer into the layer's weight and bias.
func (t *Tuning) mergeModule(layer string, weights, tuned checkpoint.StateDict) error {
	m := &MergedLayer{Name: layer, Rank: t.Selection.Rank, Weight: cloned(weights[layer+".weight"]), Tensors: map[string]checkpoint.Tensor{}}
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

// cloned returns a copy that shares no values.
func cloned(t checkpoint.Tensor) checkpoint.Tensor {
	return checkpoint.Tensor{Shape: t.Shape, Data: slices.Clone(t.Data)}
}

// layers puts the tuned tensors into one graph. It implements backbone.Layers.
type layers struct {
	*Tuning
	frozen  map[string]*Node
	tuned   map[string]*Node
	indices map[string]*Node // [nnz] int32, by tensor
	rates   Rates
	rng     *Node // nil: evaluation, nothing is dropped
	draws   int   // from rng, so far
	params  map[string]*Node
	strips  map[string]strip // of the params whose entries get their gradient so
}

// Inputs holds the nodes through which values enter a graph.
type Inputs struct {
	Frozen  map[string]*Node // the backbone's tensors; those that are tuned whole may be absent
	Tuned   map[string]*Node // by Param.Name
	Indices map[string]*Node // by tensor, int32 [nnz]: the flat positions of its entries
	RNG     *Node            // random state of this step; nil: evaluation, nothing is dropped
	Rates   Rates            // drop rates while training
}

// Layers returns the backbone with the tuned tensors in place, for one graph.
func (t *Tuning) Layers(in Inputs) backbone.Layers {
	return &layers{Tuning: t, frozen: in.Frozen, tuned: in.Tuned, indices: in.Indices, rates: in.Rates, rng: in.RNG, params: map[string]*Node{}, strips: map[string]strip{}}
}

func (l *layers) Param(name string) *Node {
	if n, ok := l.params[name]; ok {
		return n
	}
	n := l.tuned[name] // whole, or the head
	if n == nil {
		n = l.frozen[name]
		if indices, ok := l.indices[name]; ok {
			// W + scatter: the gradient of the values is a gather of dW.
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
		s := &Site{Layer: name, In: w.Shape().Dim(1), Out: w.Shape().Dim(0), Rank: l.Selection.Rank, layers: l, dtype: x.DType(), bias: b != nil}
		y = l.Module.Graph(s, x, y)
	}
	return l.ssf(name, y)
}

func (l *layers) Output(name string, y *Node) *Node { return l.ssf(name, y) }

func (l *layers) Branch(name string, block int, x, y *Node) *Node {
	rate := 0.0
	if n := l.Config.Blocks(); n > 1 {
		rate = l.rates.DropPath * float64(block) / float64(n-1)
	}
	return l.adaptFormer(name, x, l.dropPath(y, rate))
}

func (l *layers) dropPath(y *Node, rate float64) *Node {
	mask := make([]int, y.Rank())
	for i := range mask {
		mask[i] = 1
	}
	mask[0] = y.Shape().Dim(0)
	return l.drop(y, rate, mask)
}

// drop zeroes x with probability rate and scales the values that remain by 1/(1−rate). It draws
// once for each element of a mask that broadcasts to x.
func (l *layers) drop(x *Node, rate float64, mask []int) *Node {
	if l.rng == nil || rate <= 0 {
		return x
	}
	keep := ConvertDType(l.draw(mask, rate), x.DType())
	return Mul(x, MulScalar(keep, 1/(1-rate)))
}

// draw returns true with probability 1−rate, drawn for each element of the shape and at each call.
func (l *layers) draw(shape []int, rate float64) *Node {
	g := l.rng.Graph()
	if !backend.OnDevice(g.Backend()) {
		var u *Node
		l.rng, u = RandomUniform(l.rng, float32Shape(shape))
		return GreaterOrEqual(u, Scalar(g, dtypes.Float32, rate))
	}
	// On a device, GoMLX's generator would write its numbers to memory: several times the traffic
	// of the layer itself. A number that is computed from the position of its element never leaves
	// the registers: MurmurHash3's finaliser, twice, under a key of the step and the call.
	l.draws++
	key := func(i int) *Node { return Reshape(ConvertDType(Slice(l.rng, AxisElem(i)), dtypes.Uint32)) }
	number := func(v uint32) *Node { return Scalar(g, dtypes.Uint32, v) }
	mix := func(h *Node) *Node {
		for _, round := range []struct{ shift, factor uint32 }{{16, 0x85ebca6b}, {13, 0xc2b2ae35}, {16, 0}} {
			h = BitwiseXor(h, BitwiseShiftRightLogical(h, number(round.shift)))
			if round.factor != 0 {
				h = Mul(h, number(round.factor))
			}
		}
		return h
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	h := mix(Add(Iota(g, shapes.Make(dtypes.Uint32, n), 0), Add(key(0), number(uint32(l.draws)*0x9e3779b9))))
	h = mix(BitwiseXor(h, key(1)))
	return Reshape(GreaterOrEqual(h, number(uint32(rate*(1<<32)))), shape...)
}

func float32Shape(dims []int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// buildScratch runs a graph-building function on a graph that is never executed. It returns a panic
// of the function as an error.
func buildScratch(build func(g *Graph)) error {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		return err
	}
	g := NewGraph(be, "declare")
	defer g.Finalize()
	return program.Caught(func() { build(g) })
}
