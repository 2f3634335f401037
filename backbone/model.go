package backbone

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/program"
)

// Preprocessing describes how pixels were normalised when the backbone was pretrained.
type Preprocessing struct {
	Mean          [3]float32 `json:"mean"` // of pixels scaled to [0, 1], per channel
	Std           [3]float32 `json:"std"`
	Interpolation string     `json:"interpolation"` // "bicubic"
	Source        string     `json:"source"`        // where these were read, for people
}

// The two normalisations of pretrained vision transformers.
var (
	imageNet  = Preprocessing{Mean: [3]float32{0.485, 0.456, 0.406}, Std: [3]float32{0.229, 0.224, 0.225}, Interpolation: "bicubic"}
	inception = Preprocessing{Mean: [3]float32{0.5, 0.5, 0.5}, Std: [3]float32{0.5, 0.5, 0.5}, Interpolation: "bicubic"}
)

// Model is a backbone with its weights. It does not change after loading, and all runs of the
// process share it.
type Model struct {
	Config        Config
	Preprocessing Preprocessing
	// Weights holds the tensors of Config.Params. The head is among them only if the checkpoint's
	// own head was kept.
	Weights checkpoint.StateDict
	// Path is the file from which the model was read; empty for a model that was made in memory.
	Path string
	// Origin names the source of the file at Path, such as hf:OWNER/NAME@COMMIT; empty if Path is
	// the source.
	Origin string

	// HeadsAssumed tells that the number of attention heads is that of published models of the same
	// width, because neither the checkpoint nor a file beside it names it.
	HeadsAssumed bool

	// Precision is the type in which graphs compute; empty: f32.
	Precision backend.Precision
	// CheckpointActivations makes the backward pass compute the activations of a block again,
	// instead of keeping them.
	CheckpointActivations bool

	fingerprint func() string
	// convMLP tells that the MLPs of a ConvNeXt were 1×1 convolutions in the checkpoint, as in
	// timm's small models. Save writes them in the same way.
	convMLP bool
	placed  *placed // shared by all that In returns
}

// placed holds weights on backends.
type placed struct {
	mu      sync.Mutex
	weights map[placement]map[string]*tensors.Tensor
}

type placement struct {
	be    backend.Backend
	dtype dtypes.DType // of matrices
}

// NewModel returns a model of weights that are in memory. It does not check them.
func NewModel(c Config, p Preprocessing, weights checkpoint.StateDict) *Model {
	m := &Model{Config: c, Preprocessing: p, Weights: weights, placed: &placed{weights: map[placement]map[string]*tensors.Tensor{}}}
	m.fingerprint = sync.OnceValue(m.hash)
	return m
}

// WithWeights returns a model of the same backbone with other weights, such as merged ones. Save
// writes them in the form of the checkpoint of m.
func (m *Model) WithWeights(weights checkpoint.StateDict) *Model {
	other := NewModel(m.Config, m.Preprocessing, weights)
	other.convMLP = m.convMLP
	return other
}

// In returns the same model, with the same weights, that computes in precision p (empty: f32). If
// checkpoint is true, the backward pass computes the activations of a block again instead of
// keeping them.
func (m *Model) In(p backend.Precision, checkpoint bool) *Model {
	other := *m
	other.Precision, other.CheckpointActivations = p, checkpoint
	return &other
}

// metadata describes the model for a checkpoint that spt writes, so that reading it back needs no
// guess.
func (m *Model) metadata() (map[string]string, error) {
	config, err := json.Marshal(m.Config)
	if err != nil {
		return nil, fmt.Errorf("writing the backbone's configuration: %w", err)
	}
	pre, err := json.Marshal(m.Preprocessing)
	if err != nil {
		return nil, fmt.Errorf("writing the backbone's preprocessing: %w", err)
	}
	return map[string]string{
		"format": "pt", metadataKind: checkpointKind, metadataVersion: checkpointVersion,
		metadataConfig: string(config), metadataPreprocessing: string(pre),
	}, nil
}

// On places the weights on a backend, once for each process and precision. The tensors are shared:
// nobody may change or release them. In precision bf16 those of two or more dimensions are
// bfloat16; vectors stay float32.
func (m *Model) On(be backend.Backend) (map[string]*tensors.Tensor, error) {
	m.placed.mu.Lock()
	defer m.placed.mu.Unlock()
	where := placement{be, m.Precision.DType()}
	if t, ok := m.placed.weights[where]; ok {
		return t, nil
	}
	out := make(map[string]*tensors.Tensor, len(m.Weights))
	for name, w := range m.Weights {
		dtype := where.dtype
		if len(w.Shape) < 2 {
			dtype = dtypes.Float32
		}
		t, err := program.Frozen(be, dtype, w.Data, w.Shape...)
		if err != nil {
			program.Free(slices.Collect(maps.Values(out))...)
			return nil, fmt.Errorf("placing %s: %w", name, err)
		}
		out[name] = t
	}
	m.placed.weights[where] = out
	return out, nil
}

// Release frees the weights on be in the model's precision. Nothing may use them after that;
// [Model.On] places them again.
func (m *Model) Release(be backend.Backend) {
	m.placed.mu.Lock()
	defer m.placed.mu.Unlock()
	where := placement{be, m.Precision.DType()}
	program.Free(slices.Collect(maps.Values(m.placed.weights[where]))...)
	delete(m.placed.weights, where)
}

// Fingerprint identifies the backbone by its values: it is the SHA-256, in hex, of the name, shape
// and float32 values of every tensor but the head, in the order of Config.Params. It does not
// depend on the naming, dtype or order of the file.
func (m *Model) Fingerprint() string { return m.fingerprint() }

func (m *Model) hash() string {
	h := sha256.New()
	buf := make([]byte, 0, 1<<16)
	for _, p := range m.Config.Params() {
		if p.Role == Head {
			continue
		}
		fmt.Fprintf(h, "%s%v", p.Name, p.Shape)
		for _, v := range m.Weights[p.Name].Data {
			if buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v)); len(buf) == cap(buf) {
				h.Write(buf)
				buf = buf[:0]
			}
		}
		h.Write(buf)
		buf = buf[:0]
	}
	return hex.EncodeToString(h.Sum(nil))
}
