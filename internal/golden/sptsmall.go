package golden

import (
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// SPTSmall is the folder spt_small: the reference release of SPT run on a small
// ViT.
type SPTSmall struct {
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

	// Plans by method ("lora", "adapter") and file ("param_req_0.4.pth").
	Plans map[string]map[string]SPTPlan `json:"plans"`
	// Training by run ("lora_param_req_0.4").
	Training map[string]struct {
		Steps       int       `json:"steps"`
		LR          float64   `json:"lr"`
		WeightDecay float64   `json:"weight_decay"`
		Losses      []float64 `json:"losses"`
	} `json:"training"`
}

// SPTPlan is one selection of the release.
type SPTPlan struct {
	Params             float64          `json:"params"`
	UnstructuredParams int              `json:"unstructured_params"`
	StructuredParams   int              `json:"structured_params"`
	TunedMatrices      [][]int          `json:"tuned_matrices"`
	TunedVectors       []string         `json:"tuned_vectors"`
	NameShapes         map[string][]int `json:"unstructured_name_shapes"`
	Indexes            []int            `json:"unstructured_indexes"`
}

// OpenSPTSmall reads meta.json.
func OpenSPTSmall(t testing.TB) *SPTSmall {
	t.Helper()
	s := new(SPTSmall)
	JSON(t, Path(t, "spt_small", "meta.json"), s)
	return s
}

// Model is the small ViT with its own head.
func (s *SPTSmall) Model(t testing.TB) *backbone.Model {
	t.Helper()
	a := Open(t, Path(t, "spt_small", "weights.npz"))
	c := backbone.Config{Architecture: "vit", ImageSize: s.ImageSize, PatchSize: s.PatchSize, EmbedDim: s.EmbedDim, Depth: s.Depth,
		NumHeads: s.NumHeads, HiddenDim: a.Shape("blocks.0.mlp.fc1.weight")[0], NumClasses: s.NumClasses, LayerNormEps: 1e-6}
	sd := checkpoint.StateDict{}
	for _, p := range c.Params() {
		sd[p.Name] = checkpoint.Tensor{Shape: p.Shape, Data: a.Float32(p.Name)}
	}
	return backbone.NewModel(c, backbone.Preprocessing{}, sd)
}

// Data is the images of each batch, [BatchSize, S, S, 3] (the file has them
// channels first), and their labels.
func (s *SPTSmall) Data(t testing.TB) (images [][]float32, labels [][]int32) {
	t.Helper()
	a := Open(t, Path(t, "spt_small", "data.npz"))
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
