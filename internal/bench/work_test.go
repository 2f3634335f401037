package bench

import (
	"fmt"
	"regexp"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

func size(t *testing.T, name string, classes int) backbone.Config {
	t.Helper()
	c, err := Config(name, classes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The forward pass has the multiply-adds that are published for these models at
// 224 px with 1000 classes: DeiT (Touvron et al. 2021) gives 1.3, 4.6 and 17.6
// GMACs for tiny, small and base. Those count the tokens of the last block that
// nothing reads, too.
func TestWorkForward(t *testing.T) {
	for name, want := range map[string]string{"tiny": "1.3", "small": "4.6", "base": "17.6"} {
		c := size(t, name, 1000)
		v := c.Form.(backbone.ViT)
		unread := 196 * (2*v.EmbedDim*v.EmbedDim + 2*v.EmbedDim*v.HiddenDim + 2*197*v.EmbedDim)
		got := Work(c, peft.Linear(), Forward, 1)/2e9 + float64(unread)/1e9
		if text := fmt.Sprintf("%.1f", got); text != want {
			t.Errorf("%s: %s GMACs, published are %s", name, text, want)
		}
	}
	// ViT-B by hand: patches 196·768·768; a block 4·197·768² for q, k, v and
	// proj, 2·197·768·3072 for the MLP, 2·197²·768 for attention, in the last
	// block one token but for k and v; head 768·1000.
	const want = 196*768*768 + 11*(4*197*768*768+2*197*768*3072+2*197*197*768) +
		(2*197+2)*768*768 + 2*768*3072 + 2*197*768 + 768*1000
	if got := Work(size(t, "base", 1000), peft.Linear(), Forward, 3); got != 3*2*want {
		t.Errorf("base, three images: %.0f, want %d", got, 3*2*want)
	}
}

// Sums that follow from the shapes alone, in multiply-adds of one image.
func TestWorkByHand(t *testing.T) {
	c := size(t, "tiny", 10)
	const (
		n, d, h   = 197, 192, 768
		patch     = 196 * 768 * d
		layers    = 11*(4*n*d*d+2*n*d*h) + (2*n+2)*d*d + 2*d*h // q, k, v, proj, fc1, fc2; the last block's for one token
		attention = 11*2*n*n*d + 2*n*d
		head      = d * 10
		forward   = patch + layers + attention + head
		matrices  = 11*(4*2*d+2*(d+h))*n + (2*n+2)*2*d + 2*(d+h) // LoRA's parameters at rank 1, times tokens
	)
	for _, test := range []struct {
		name   string
		s      peft.Selection
		method Method
		want   int
	}{
		{"linear", peft.Linear(), Method(method.Linear), forward + head},
		{"full", peft.Full(c), Method(method.Full), forward + patch + 2*layers + 2*attention + 2*head},
		{"score", peft.Linear(), Score, forward + 2*layers + 2*attention + head},
		{"class token", peft.Selection{Whole: []string{"cls_token"}}, Method(method.SPTLoRA), forward + layers + 2*attention + 2*head},
		// Block 0 needs no gradient of its input: q, k and v lack one product
		// each, and one through A.
		{"lora", peft.Uniform(c, "lora", 8), Method(method.LoRA), forward + layers + 2*attention + 2*head + 3*8*matrices - 3*n*d*d - 3*n*d*8},
		{"lowest block", peft.Selection{Whole: []string{"blocks.11.mlp.fc1.bias"}}, Method(method.SPTLoRA), forward + d*h + 2*head},
		{"entries", peft.Selection{Entries: map[string][]int32{"blocks.11.mlp.fc2.weight": {1, 5, 9}}}, Method(method.SPTLoRA), forward + 3 + 2*head},
	} {
		if got := Work(c, test.s, test.method, 1); got != 2*float64(test.want) {
			t.Errorf("%s: %.0f, want %d", test.name, got, 2*test.want)
		}
	}
}

// Work is what the matrix products of the graph come to that autodiff builds,
// after what nothing asks for is left out. Single entries apart: in the graph
// their gradient is picked from that of the whole matrix.
func TestWorkIsTheGraphs(t *testing.T) {
	plain := backbone.Config{ImageSize: 24, NumClasses: 5, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 12, Depth: 3, HiddenDim: 20}}
	forms := map[string]func(v *backbone.ViT){
		"plain":          func(v *backbone.ViT) {},
		"mean":           func(v *backbone.ViT) { v.Pooling, v.FCNorm = "avg", true },
		"no class token": func(v *backbone.ViT) { v.Pooling, v.NoClassToken = "avg", true },
		"distilled":      func(v *backbone.ViT) { v.Pooling, v.DistToken = "token+dist", true },
		"DINOv2": func(v *backbone.ViT) {
			v.Pooling, v.Registers, v.PatchPositions, v.LayerScale, v.SwiGLU = "token+avg", 4, true, true, true
		},
		"CLIP":    func(v *backbone.ViT) { v.PreNorm, v.NoPatchBias, v.QuickGELU = true, true, true },
		"qk norm": func(v *backbone.ViT) { v.QKNorm, v.NoQKVBias, v.Registers = true, true, 2 },
	}
	const batch = 2
	for form, change := range forms {
		c := plain
		v := c.Form.(backbone.ViT)
		change(&v)
		c.Form = v
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		for name, test := range selections(c) {
			got := Work(c, test.s, test.m, batch)
			if test.m != Forward {
				for _, p := range c.Params() {
					if entries, ok := test.s.Entries[p.Name]; ok && p.Matrix() {
						got += 2 * batch * float64(c.Tokens()) * float64(p.Size()-len(entries))
					}
				}
			}
			if want := graphWork(t, c, test.s, test.m, batch); got != want {
				t.Errorf("%s, %s: %.0f, the graph has %.0f", form, name, got, want)
			}
		}
	}
}

type selected struct {
	s peft.Selection
	m Method
}

// selections are all kinds that there are, and every tensor that is no weight of a
// layer alone: how far down a gradient has to come.
func selections(c backbone.Config) map[string]selected {
	adapters := peft.Uniform(c, "adapter", 3)
	adapters.Whole = []string{"blocks.1.norm2.bias"}
	all := map[string]selected{
		"forward":           {peft.Linear(), Forward},
		"forward, lora":     {peft.Uniform(c, "lora", 3), Forward},
		"linear":            {peft.Linear(), Method(method.Linear)},
		"full":              {peft.Full(c), Method(method.Full)},
		"score":             {peft.Linear(), Score},
		"lora":              {peft.Uniform(c, "lora", 3), Method(method.LoRA)},
		"adapter":           {peft.Uniform(c, "adapter", 3), Method(method.Adapter)},
		"adapter, vectors":  {adapters, Method(method.SPTAdapter)},
		"key only":          {peft.Selection{Whole: []string{"blocks.1.attn.k.weight"}}, Method(method.SPTLoRA)},
		"value only":        {peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.2.attn.v.weight"}}, Method(method.SPTLoRA)},
		"plan":              {mixed(c), Method(method.SPTLoRA)},
		"plan of adapters":  {withModule(mixed(c), "adapter"), Method(method.SPTAdapter)},
		"plan, predictions": {mixed(c), Forward},
	}
	for _, p := range c.Params() {
		if p.Role != backbone.Head && !p.Matrix() && p.Name != "patch_embed.proj.weight" {
			all[p.Name] = selected{peft.Selection{Whole: []string{p.Name}}, Method(method.SPTLoRA)}
		}
	}
	return all
}

// mixed is a selection of every kind, as a plan makes it.
func mixed(c backbone.Config) peft.Selection {
	s := peft.Selection{Module: "lora", Rank: 2,
		Structured: []string{"blocks.0.attn.v.weight", "blocks.1.attn.proj.weight", "blocks.2.mlp.fc1.weight"},
		Whole:      []string{"blocks.0.norm1.weight", "blocks.2.mlp.fc1.bias"},
		Entries:    map[string][]int32{"blocks.0.attn.q.weight": {0, 3}, "blocks.1.mlp.fc2.weight": {7}, "blocks.2.norm1.bias": {1}}}
	tokens, _ := c.ClassTokens()
	s.Whole = append(s.Whole, tokens...)
	return s
}

func withModule(s peft.Selection, module string) peft.Selection {
	s.Module = module
	return s
}

var (
	contracting = regexp.MustCompile(`lhsContractingAxes=\[([0-9 ]*)\]`)
	axes        = regexp.MustCompile(`[0-9]+`)
)

// graphWork builds the step's graph, for a backend on which attention is plain
// matrix products, and counts those that its outputs depend on.
func graphWork(t *testing.T, c backbone.Config, s peft.Selection, m Method, batch int) (flop float64) {
	t.Helper()
	be, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	defer be.Finalize()
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	g := NewGraph(be, "work")
	defer g.Finalize()
	parameter := func(name string, shape ...int) *Node {
		return Parameter(g, name, shapes.Make(dtypes.Float32, shape...))
	}
	in := peft.Inputs{Frozen: map[string]*Node{}, Tuned: map[string]*Node{}, Indices: map[string]*Node{}}
	var wanted []*Node
	for _, p := range tuning.Params {
		in.Tuned[p.Name] = parameter(p.Name, p.Shape...)
		wanted = append(wanted, in.Tuned[p.Name])
	}
	if m == Score {
		wanted = nil
	}
	for _, p := range c.Params() {
		if in.Tuned[p.Name] == nil {
			in.Frozen[p.Name] = parameter(p.Name, p.Shape...)
			if m == Score && p.Role == backbone.Scored {
				wanted = append(wanted, in.Frozen[p.Name])
			}
		}
		if entries, ok := s.Entries[p.Name]; ok {
			in.Indices[p.Name] = Const(g, entries)
		}
	}
	logits := c.Logits(tuning.Layers(in), parameter("images", batch, c.ImageSize, c.ImageSize, 3))
	outputs := []*Node{logits}
	if m != Forward {
		outputs = append(outputs, Gradient(objective.SingleLabel.Loss(logits, Const(g, make([]int32, batch))), wanted...)...)
	}
	seen := map[*Node]bool{}
	var visit func(n *Node)
	visit = func(n *Node) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, i := range n.Inputs() {
			visit(i)
		}
		switch n.Type() {
		case NodeTypeConvGeneral:
			flop += depthwiseWork(n.Inputs()[0].Shape().Dimensions)
			return
		case NodeTypeDotGeneral:
		default:
			return
		}
		match := contracting.FindStringSubmatch(n.String())
		if match == nil {
			t.Fatalf("no contracting axes in %s", n)
		}
		k := 1
		for _, axis := range axes.FindAllString(match[1], -1) {
			k *= n.Inputs()[0].Shape().Dim(int(axis[0] - '0'))
		}
		flop += 2 * float64(k) * float64(n.Shape().Size())
	}
	for _, n := range outputs {
		visit(n)
	}
	return flop
}
