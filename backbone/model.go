package backbone

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/littleendian"
	"github.com/sptune/spt/internal/program"
)

// Preprocessing describes how images were prepared when the backbone was pretrained.
type Preprocessing struct {
	// Mean is the mean of each channel, for pixels scaled to [0, 1].
	Mean [3]float32 `json:"mean"`
	// Std is the standard deviation of each channel, for pixels scaled to [0, 1].
	Std [3]float32 `json:"std"`
	// Interpolation is the resampling filter for resizing images. It is always "bicubic".
	Interpolation string `json:"interpolation"`
	// Source says, for people, where the values come from. It begins with "assumed" if they are
	// only the usual values of published models.
	Source string `json:"source"`
}

// Resizing describes how images became squares when the backbone was pretrained.
type Resizing struct {
	// Resize and ResizeTo are as in dataset.Transform. Resize is empty if this library cannot
	// resize in the same way.
	Resize   string
	ResizeTo int
	// Filter is the resampling filter, such as "bicubic" or "bilinear". It is empty if unknown.
	Filter string
	// Source says, for people, where the values come from.
	Source string
}

// String describes r in words.
func (r Resizing) String() string {
	how := cmp.Or(r.Resize, "in an unsupported way")
	if r.ResizeTo != 0 {
		how += fmt.Sprintf(" from %d px", r.ResizeTo)
	}
	if r.Filter != "" {
		how += ", filter " + r.Filter
	}
	if r.Source != "" {
		how += " (" + r.Source + ")"
	}
	return how
}

// The two normalisations that pretrained backbones use.
var (
	imageNet  = Preprocessing{Mean: [3]float32{0.485, 0.456, 0.406}, Std: [3]float32{0.229, 0.224, 0.225}, Interpolation: "bicubic"}
	inception = Preprocessing{Mean: [3]float32{0.5, 0.5, 0.5}, Std: [3]float32{0.5, 0.5, 0.5}, Interpolation: "bicubic"}
)

// Model is a backbone with its weights. Do not change its weights: all runs of a process share
// them. [Load] and [NewModel] make a Model.
type Model struct {
	// Config holds the sizes and options of the backbone.
	Config Config
	// Preprocessing describes how uint8 pixels are normalised.
	Preprocessing Preprocessing
	// Weights holds the tensors that Config.Params lists, by canonical name. The head is included
	// only if the head of the checkpoint was kept.
	Weights checkpoint.StateDict
	// Path is the file that the model was read from. It is empty for a model that was made in
	// memory.
	Path string
	// Origin names the source of the weights, such as hf:OWNER/NAME@COMMIT. It is empty if the file
	// at Path itself is the source.
	Origin string

	// WeightsKey is the place of the weights in the checkpoint: the keys of their dict and the
	// prefix of their names, separated by dots. It is empty if there are neither. See
	// [LoadOptions].WeightsKey.
	WeightsKey string

	// HeadsAssumed reports that nothing in or beside the checkpoint determines the number of
	// attention heads. Config.NumHeads is then the number of published models with the same width.
	// A wrong number gives wrong results without an error, so set [LoadOptions].NumHeads if the
	// model has another number.
	HeadsAssumed bool

	// TimmFile is the path of a file that timm can read as it is: its tensors have timm's names and
	// shapes, and their sizes fit Config. It is empty if there is no such file.
	TimmFile string

	// Resizing describes the images of the pretraining. It is nil if no file beside the checkpoint
	// describes them.
	Resizing *Resizing

	// Precision is the number type in which graphs compute. Empty means f32.
	Precision backend.Precision
	// CheckpointActivations makes the backward pass recompute the activations of each block instead
	// of keeping them. This saves memory and costs time.
	CheckpointActivations bool

	fingerprint func() string
	// convMLP reports that the linear layers of a ConvNeXt's MLPs were 1×1 convolutions in the
	// checkpoint, as in timm's small models. Save writes them in the same shape.
	convMLP bool
	// firstBlock is the block at which Features and FeatureMap begin.
	firstBlock int
	asTimm     bool    // the tensors of the checkpoint are as TimmFile describes
	placed     *placed // shared with all copies that In returns
}

// placed holds the copies of the weights on backends.
type placed struct {
	mu      sync.Mutex
	weights map[placement]map[string]*tensors.Tensor
}

// placement identifies one copy of the weights.
type placement struct {
	be    backend.Backend
	dtype dtypes.DType // type of the tensors with two or more dimensions
}

// NewModel returns a model with the given weights in memory. It does not check the weights against
// c.
func NewModel(c Config, p Preprocessing, weights checkpoint.StateDict) *Model {
	m := &Model{Config: c, Preprocessing: p, Weights: weights, placed: &placed{weights: map[placement]map[string]*tensors.Tensor{}}}
	m.fingerprint = sync.OnceValue(m.hash)
	return m
}

// WithWeights returns a model of the same backbone with other weights, such as weights with a
// merged delta. Save writes them in the shapes of the checkpoint of m.
func (m *Model) WithWeights(weights checkpoint.StateDict) *Model {
	other := NewModel(m.Config, m.Preprocessing, weights)
	other.convMLP = m.convMLP
	return other
}

// In returns a copy of the model that shares the weights and computes in the precision p. An empty
// p means f32. checkpoint becomes [Model].CheckpointActivations: if it is true, the backward pass
// recomputes the activations of each block instead of keeping them.
func (m *Model) In(p backend.Precision, checkpoint bool) *Model {
	other := *m
	other.Precision, other.CheckpointActivations = p, checkpoint
	return &other
}

// FromBlock returns a copy of the model that shares the weights and begins with the given block.
// Its Features and FeatureMap take the tokens [B, N, D] that enter this block, as [Model.Hidden]
// computes them, in any floating-point type. [Config.HiddenSize] returns an error for a block that
// FromBlock cannot take.
func (m *Model) FromBlock(block int) *Model {
	other := *m
	other.firstBlock = block
	return &other
}

// metadata returns the metadata of a checkpoint that spt writes. With it, Load needs no
// assumptions.
func (m *Model) metadata() (map[string]string, error) {
	config, err := json.Marshal(m.Config)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration of the backbone: %w", err)
	}
	pre, err := json.Marshal(m.Preprocessing)
	if err != nil {
		return nil, fmt.Errorf("writing the preprocessing of the backbone: %w", err)
	}
	return map[string]string{
		"format": "pt", metadataKind: checkpointKind, metadataVersion: checkpointVersion,
		metadataConfig: string(config), metadataPreprocessing: string(pre),
	}, nil
}

// On copies the weights to a backend and returns them by canonical name. It copies only once for
// each backend and precision, and returns the same tensors afterwards. The tensors are shared: do
// not change or release them. In precision bf16, tensors of two or more dimensions are bfloat16,
// and vectors stay float32.
func (m *Model) On(be backend.Backend) (map[string]*tensors.Tensor, error) {
	m.placed.mu.Lock()
	defer m.placed.mu.Unlock()
	where := placement{be, m.Precision.DType(be)}
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
			return nil, fmt.Errorf("copying the tensor %q to the backend: %w", name, err)
		}
		out[name] = t
	}
	m.placed.weights[where] = out
	return out, nil
}

// Release frees the weights that On has copied to be in the precision of the model. Do not use them
// afterwards. [Model.On] copies them again.
func (m *Model) Release(be backend.Backend) {
	m.placed.mu.Lock()
	defer m.placed.mu.Unlock()
	where := placement{be, m.Precision.DType(be)}
	program.Free(slices.Collect(maps.Values(m.placed.weights[where]))...)
	delete(m.placed.weights, where)
}

// Fingerprint identifies the backbone by its values. It is the SHA-256, in hexadecimal, of the
// name, the shape and the float32 values of every tensor except the head, in the order of
// Config.Params. It does not depend on the tensor names, the number type or the order of the file.
func (m *Model) Fingerprint() string { return m.fingerprint() }

// hash computes the result of Fingerprint.
func (m *Model) hash() string {
	h := sha256.New()
	for _, p := range m.Config.Params() {
		if p.Role == Head {
			continue
		}
		fmt.Fprintf(h, "%s%v", p.Name, p.Shape)
		_ = littleendian.Write(h, m.Weights[p.Name].Data) // a hash returns no error
	}
	return hex.EncodeToString(h.Sum(nil))
}
