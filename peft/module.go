package peft

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// Module is a kind of structured module: a small trainable network attached
// to a frozen linear layer. Registering one takes its graph function and its
// parameter count; its tensors are declared by the graph function itself.
type Module struct {
	// Name is what plans, deltas and the command line call it.
	Name string
	// Count is P, the number of parameters on a matrix [out, in] at the given rank.
	Count func(in, out, rank int) int
	// Graph returns the layer's output with the module attached. x [..., in] is
	// the layer's input, y [..., out] the frozen layer's own output.
	Graph func(s *Site, x, y *Node) *Node
	// Merge folds the module's tensors, by the names that Graph declared, into
	// the weight [out, in]. Nil: the module cannot be merged.
	Merge func(weight checkpoint.Tensor, tensors map[string]checkpoint.Tensor)
}

var registry = struct {
	sync.RWMutex
	modules map[string]Module
}{modules: map[string]Module{}}

// Register makes a structured module known under its name. From then on every
// plan can use it. A second module of the same name is refused.
func Register(m Module) error {
	if m.Name == "" || m.Count == nil || m.Graph == nil {
		return fmt.Errorf("registering structured module %q: it needs a name, a parameter count and a graph function", m.Name)
	}
	registry.Lock()
	defer registry.Unlock()
	if _, ok := registry.modules[m.Name]; ok {
		return fmt.Errorf("registering structured module %q: the name is taken", m.Name)
	}
	registry.modules[m.Name] = m
	return nil
}

// Lookup finds a registered module; the error lists the names that there are.
func Lookup(name string) (Module, error) {
	registry.RLock()
	defer registry.RUnlock()
	m, ok := registry.modules[name]
	if !ok {
		return Module{}, fmt.Errorf("structured module %q is not registered; registered: %s", name, strings.Join(names(), ", "))
	}
	return m, nil
}

// CountOf is the parameter count of the module of that name; of the empty name,
// as in plans without modules, zero.
func CountOf(module string) (func(in, out, rank int) int, error) {
	if module == "" {
		return func(in, out, rank int) int { return 0 }, nil
	}
	m, err := Lookup(module)
	return m.Count, err
}

// Names lists the registered modules, sorted.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	return names()
}

func names() []string {
	var out []string
	for n := range registry.modules {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Site is one linear layer to which a module is attached, seen from the
// module's graph function.
type Site struct {
	Layer         string // "blocks.3.mlp.fc1"
	In, Out, Rank int

	layers *layers // nil while the module's tensors are being declared
	dtype  dtypes.DType
	graph  *Graph
	params []Param
}

// Is reports whether the layer is the named operation of its block, as in
// Is("attn.proj").
func (s *Site) Is(operation string) bool { return strings.HasSuffix(s.Layer, "."+operation) }

// Param is the module's trainable tensor of that name and shape, in the type of
// the layer's input. The full name, in deltas, is the layer's name, a dot and this
// one.
func (s *Site) Param(name string, init Init, shape ...int) *Node {
	p := Param{Name: s.Layer + "." + name, Shape: shape, Init: init}
	if s.layers == nil {
		s.params = append(s.params, p)
		return Parameter(s.graph, p.Name, float32Shape(shape))
	}
	return ConvertDType(s.layers.tuned[p.Name], s.dtype)
}

// Dropout zeroes values of x with the run's dropout rate and scales the rest by
// 1/(1−rate), while training.
func (s *Site) Dropout(x *Node) *Node {
	if s.layers == nil {
		return x
	}
	return s.layers.drop(x, s.layers.rates.Dropout, x.Shape().Dimensions)
}

// DropPath drops y for whole images with the run's module drop-path rate, while
// training. y's first axis is the batch.
func (s *Site) DropPath(y *Node) *Node {
	if s.layers == nil {
		return y
	}
	return s.layers.dropPath(y, s.layers.rates.ModuleDropPath)
}

// declare runs the graph function on symbolic tensors and returns the tensors
// that it asked for, checked against the module's own count.
func (m Module) declare(layer string, in, out, rank int) ([]Param, error) {
	s := &Site{Layer: layer, In: in, Out: out, Rank: rank}
	err := buildScratch(func(g *Graph) {
		s.graph = g
		x := Parameter(g, "x", float32Shape([]int{1, 1, in}))
		y := Parameter(g, "y", float32Shape([]int{1, 1, out}))
		got := m.Graph(s, x, y)
		if !got.Shape().Equal(y.Shape()) {
			panic(fmt.Errorf("its output has shape %s, expected %s", got.Shape(), y.Shape()))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("structured module %q on %s [%d,%d]: %w", m.Name, layer, out, in, err)
	}
	total := 0
	for _, p := range s.params {
		total += p.Size()
	}
	if want := m.Count(in, out, rank); total != want {
		return nil, fmt.Errorf("structured module %q on %s [%d,%d]: its graph declares %d parameters, its count says %d; correct one of them", m.Name, layer, out, in, total, want)
	}
	return s.params, nil
}

// lora is LoRA (Hu et al. 2022, arXiv 2106.09685) as SPT uses it:
// y + B·A·x with no alpha/r factor, A Kaiming-uniform, B zero. Dropout acts on
// its input except on proj, drop-path on its output.
var lora = Module{
	Name:  "lora",
	Count: func(in, out, rank int) int { return rank * (in + out) },
	Graph: func(s *Site, x, y *Node) *Node {
		a := s.Param("lora_A", KaimingUniform, s.Rank, s.In)
		b := s.Param("lora_B", Zero, s.Out, s.Rank)
		if !s.Is("attn.proj") {
			x = s.Dropout(x)
		}
		// Drop-path scales whole images, so it may act between A and B, where
		// there are the fewest values.
		return Add(y, backbone.Linear(s.DropPath(backbone.Linear(x, a, nil)), b, nil))
	},
	Merge: func(weight checkpoint.Tensor, tensors map[string]checkpoint.Tensor) {
		a, b := tensors["lora_A"], tensors["lora_B"]
		rank, in := a.Shape[0], a.Shape[1]
		for o := range weight.Shape[0] {
			row := weight.Data[o*in : (o+1)*in]
			for i := range row {
				sum := 0.0
				for r := range rank {
					sum += float64(b.Data[o*rank+r]) * float64(a.Data[r*in+i])
				}
				row[i] = float32(float64(row[i]) + sum)
			}
		}
	},
}

// adapter is the bottleneck of Houlsby et al. 2019 (arXiv 1902.00751) as SPT
// places it: y + U·GELU(D·y + d) + u on the matrix's own output, and in
// parallel, on the matrix's input, on proj. U and u start at zero. The GELU
// lies between D and U, so it cannot be merged.
var adapter = Module{
	Name:  "adapter",
	Count: func(in, out, rank int) int { return 2*rank*out + rank + out },
	Graph: func(s *Site, x, y *Node) *Node {
		from := y
		if s.Is("attn.proj") {
			from = x
		}
		// On proj in = out, so that D's shape is the same in both cases.
		down := s.Param("adapter_down.weight", KaimingUniform, s.Rank, s.Out)
		downBias := s.Param("adapter_down.bias", Zero, s.Rank)
		up := s.Param("adapter_up.weight", Zero, s.Out, s.Rank)
		upBias := s.Param("adapter_up.bias", Zero, s.Out)
		return Add(y, backbone.Linear(backbone.GELU(backbone.Linear(from, down, downBias)), up, upBias))
	},
}

func init() {
	for _, m := range []Module{lora, adapter} {
		registry.modules[m.Name] = m
	}
}

// Init says how a tuned tensor starts.
type Init int

// The initial values that modules and baselines use.
const (
	Zero            Init = iota
	KaimingUniform       // PyTorch's kaiming_uniform_(a=√5): uniform in ±1/√fan_in
	TruncNormal          // timm's head: normal, σ 0.02
	Pretrained           // the backbone's own values
	NormalAroundOne      // SSF's scale: normal around 1, σ 0.02
	KaimingNormal        // PyTorch's kaiming_normal_(mode="fan_out"): normal, σ √(2/fan_out)
	Uniformly            // uniform, within a bound of the tensor's own
)

// values draws the initial values of p: pretrained is the backbone's tensor of
// the same name, if there is one.
func (p Param) values(r *generator, pretrained []float32) []float32 {
	if p.Init == Pretrained {
		return slices.Clone(pretrained)
	}
	v := make([]float32, p.Size())
	switch p.Init {
	case KaimingUniform:
		bound := 1 / math.Sqrt(float64(p.Size()/p.Shape[0]))
		for i := range v {
			v[i] = float32((2*r.Float64() - 1) * bound)
		}
	case TruncNormal:
		for i := range v {
			// timm cuts at ±2 absolute, which at σ 0.02 never happens.
			v[i] = float32(r.NormFloat64() * 0.02)
		}
	case NormalAroundOne:
		for i := range v {
			v[i] = float32(1 + r.NormFloat64()*0.02)
		}
	case KaimingNormal:
		deviation := math.Sqrt(2 / float64(p.Shape[0]))
		for i := range v {
			v[i] = float32(r.NormFloat64() * deviation)
		}
	case Uniformly:
		for i := range v {
			v[i] = float32((2*r.Float64() - 1) * p.bound)
		}
	}
	return v
}
