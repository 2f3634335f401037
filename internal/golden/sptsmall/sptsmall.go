// Package sptsmall reads the golden folder spt_small, which holds the results of the reference
// release of SPT on a small ViT. Only tests import it.
//
// [Open] reads meta.json and returns a [Reference]. Its methods return the model, the data and the
// training runs. All sizes come from meta.json, so the package can read another folder of the same
// form.
package sptsmall

import (
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/peft"
)

// Reference holds the content of meta.json: sizes, plans and training runs of the release.
type Reference struct {
	Seed       int     `json:"seed"`
	EmbedDim   int     `json:"embed_dim"`
	Depth      int     `json:"depth"`
	NumHeads   int     `json:"num_heads"`
	ImageSize  int     `json:"img_size"`
	PatchSize  int     `json:"patch_size"`
	NumClasses int     `json:"num_classes"`
	Rank       int     `json:"rank"`
	Scale      float64 `json:"scale"`
	Batches    int     `json:"batches"`
	BatchSize  int     `json:"batch_size"`
	Alpha      float64 `json:"alpha"`
	Beta       float64 `json:"beta"`

	// Plans holds the selections, by method ("lora", "adapter") and by file name
	// ("param_req_0.4.pth").
	Plans map[string]map[string]Plan `json:"plans"`
	// Training holds the training runs, by the name of the run ("lora_param_req_0.4").
	Training map[string]struct {
		Steps       int       `json:"steps"`
		LR          float64   `json:"lr"`
		WeightDecay float64   `json:"weight_decay"`
		Losses      []float64 `json:"losses"`
	} `json:"training"`
}

// Plan is one selection of the release. Its fields are those of the file of the release.
type Plan struct {
	Params             float64          `json:"params"`
	UnstructuredParams int              `json:"unstructured_params"`
	StructuredParams   int              `json:"structured_params"`
	TunedMatrices      [][]int          `json:"tuned_matrices"`
	TunedVectors       []string         `json:"tuned_vectors"`
	NameShapes         map[string][]int `json:"unstructured_name_shapes"`
	Indexes            []int            `json:"unstructured_indexes"`
}

// Open reads meta.json.
func Open(t testing.TB) *Reference {
	t.Helper()
	s := new(Reference)
	golden.JSON(t, golden.Path(t, "spt_small", "meta.json"), s)
	return s
}

// Model returns the small ViT with the head of the reference.
func (s *Reference) Model(t testing.TB) *backbone.Model {
	t.Helper()
	a := golden.Open(t, golden.Path(t, "spt_small", "weights.npz"))
	c := backbone.Config{ImageSize: s.ImageSize, NumClasses: s.NumClasses, NumHeads: s.NumHeads, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: s.PatchSize, EmbedDim: s.EmbedDim, Depth: s.Depth, HiddenDim: a.Shape("blocks.0.mlp.fc1.weight")[0]}}
	sd := checkpoint.StateDict{}
	for _, p := range c.Params() {
		sd[p.Name] = checkpoint.Tensor{Shape: p.Shape, Data: a.Float32(p.Name)}
	}
	return backbone.NewModel(c, backbone.Preprocessing{}, sd)
}

// Data returns the images of each mini-batch, [BatchSize, S, S, 3], and their labels. In the file,
// the channels come first.
func (s *Reference) Data(t testing.TB) (images [][]float32, labels [][]int32) {
	t.Helper()
	a := golden.Open(t, golden.Path(t, "spt_small", "data.npz"))
	x, y := a.Float32("x"), a.Int64("y")
	area := s.ImageSize * s.ImageSize
	for b := range s.Batches {
		out := make([]float32, s.BatchSize*area*3)
		var l []int32
		for i := range s.BatchSize {
			n := b*s.BatchSize + i
			for c := range 3 {
				for k := range area {
					out[(i*area+k)*3+c] = x[(n*3+c)*area+k]
				}
			}
			l = append(l, int32(y[n]))
		}
		images, labels = append(images, out), append(labels, l)
	}
	return images, labels
}

// Run is one training run of the release. Tensors have the names of package peft.
type Run struct {
	Selection   peft.Selection
	Initial     checkpoint.StateDict // tuned tensors before the first step
	Final       checkpoint.StateDict // tuned tensors after the last step
	FinalLogits []float32            // [BatchSize, C], of the first mini-batch after the last step
	// number of tensors that the release trains, without empty tensors
	Trainable int
}

// Run reads a training run, such as "lora_param_req_0.4". c is the configuration of the model. The
// release orders single entries by score; Run orders them by position, as in a selection. Entries
// of LayerNorms, which the release counts but does not tune, have no values.
func (s *Reference) Run(t testing.TB, c backbone.Config, name string) *Run {
	t.Helper()
	a := golden.Open(t, golden.Path(t, "spt_small", name+".npz"))
	module, _, _ := strings.Cut(name, "_")
	parts := map[string]map[string]string{
		"lora":    {"0.weight": "lora_A", "1.weight": "lora_B"},
		"adapter": {"0.weight": "adapter_down.weight", "0.bias": "adapter_down.bias", "2.weight": "adapter_up.weight", "2.bias": "adapter_up.bias"},
	}[module]
	r := &Run{Selection: peft.Selection{Module: module, Rank: s.Rank, Entries: map[string][]int32{}},
		Initial: checkpoint.StateDict{}, Final: checkpoint.StateDict{}, FinalLogits: a.Float32("final_logits0")}
	for _, n := range a.Names() {
		if strings.HasPrefix(n, "init.") && a.Shape(n)[0] > 0 {
			r.Trainable++
		}
	}
	take := func(to, from string) (values [2][]float32) {
		for i, sd := range []checkpoint.StateDict{r.Initial, r.Final} {
			file := []string{"init.", "final."}[i] + from
			values[i] = a.Float32(file)
			sd[to] = checkpoint.Tensor{Shape: a.Shape(file), Data: values[i]}
		}
		return values
	}
	for _, p := range c.Params() {
		layer, kind := "", p.Name
		if i := strings.LastIndex(p.Name, "."); i >= 0 {
			layer, kind = p.Name[:i], p.Name[i+1:]
		}
		structured := layer
		if i := strings.LastIndex(layer, "."); i >= 0 {
			structured = layer[:i] + ".structured_" + layer[i+1:] + ".learnable."
		}
		switch sparse := layer + ".sparse_" + kind; {
		case a.Has("final." + p.Name):
			take(p.Name, p.Name)
			if p.Role != backbone.Head {
				r.Selection.Whole = append(r.Selection.Whole, p.Name)
			}
		case kind == "weight" && a.Has("final."+structured+"0.weight"):
			r.Selection.Structured = append(r.Selection.Structured, p.Name)
			for theirs, ours := range parts {
				take(layer+"."+ours, structured+theirs)
			}
		case a.Has("final."+sparse) && a.Shape("final." + sparse)[0] > 0:
			index := a.Int64("sparse_index." + p.Name)
			positions := make([]int32, len(index)/len(p.Shape))
			for k := range positions {
				positions[k] = int32(index[k*len(p.Shape)])
				if len(p.Shape) == 2 {
					positions[k] = positions[k]*int32(p.Shape[1]) + int32(index[2*k+1])
				}
			}
			sorted := slices.Sorted(slices.Values(positions))
			for _, theirs := range take(peft.SparseValues(p.Name), sparse) {
				value := map[int32]float32{}
				for k, position := range positions {
					value[position] = theirs[k]
				}
				for k, position := range sorted {
					theirs[k] = value[position]
				}
			}
			r.Selection.Entries[p.Name] = sorted
		}
	}
	return r
}
