package backbone

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/support/exceptions"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/graph"
	"github.com/sptune/spt/internal/program"
)

// Layers gives a graph its tensors and sees its results. Tuning enters a backbone here: the
// backbone asks for every tensor by its canonical name, shows what it computes, and does not know
// what is tuned.
type Layers interface {
	// Param returns the tensor as the forward pass uses it; nil if the backbone has none of that
	// name.
	Param(name string) *Node
	// Linear computes y = x·Wᵀ + b for x [..., in], with NAME.weight [out, in] and NAME.bias [out]
	// (none if the backbone has no such tensor), and applies the module that is attached to the
	// matrix.
	Linear(name string, x *Node) *Node
	// Output returns what follows the output y [..., C] of the named operation that is no linear
	// layer: a norm, a convolution, the patch embedding.
	Output(name string, y *Node) *Node
	// Tokens returns the tokens that enter the given block, 0 the first, for the tokens x [B, N, D]
	// that leave what lies before it. Tokens that it adds come after those of x. Only backbones of
	// tokens without a grid, such as a ViT, call it.
	Tokens(block int, x *Node) *Node
	// Branch returns what is added to the residual stream x [B, ..., D] for the output y of the
	// given block's branch NAME ("blocks.3.mlp"). y has the shape of x.
	Branch(name string, block int, x, y *Node) *Node
}

// Untuned returns the Layers of a backbone in which nothing is tuned and nothing is dropped.
// tensors holds the backbone's tensors by canonical name.
func Untuned(tensors map[string]*Node) Layers { return untuned(tensors) }

// untuned implements Untuned.
type untuned map[string]*Node

func (w untuned) Param(name string) *Node { return w[name] }

func (w untuned) Linear(name string, x *Node) *Node {
	return Linear(x, w[name+".weight"], w[name+".bias"])
}

func (w untuned) Output(_ string, y *Node) *Node { return y }

func (w untuned) Tokens(_ int, x *Node) *Node { return x }

func (w untuned) Branch(_ string, _ int, _, y *Node) *Node { return y }

// scaledDotProductAttention computes softmax(q·kᵀ/√width)·v for q [B, n, heads, width], k and v
// [B, N, heads, width]. A backend with an attention gradient of its own never holds all scores
// [B, heads, N, N] at once.
func scaledDotProductAttention(q, k, v *Node) *Node {
	if y := fusedAttention(q, k, v, nil); y != nil {
		return y
	}
	// [B, N, heads, width] → [B, heads, N, width], once: forward and backward products then find
	// their operands in the order in which they run through them.
	for _, x := range []**Node{&q, &k, &v} {
		*x = TransposeAllAxes(*x, 0, 2, 1, 3)
	}
	q = MulScalar(q, 1/math.Sqrt(float64(q.Shape().Dim(3))))
	scores := graph.Product(q, []int{3}, []int{0, 1}, k, []int{3}, []int{0, 1}) // [B, heads, N, N]
	y := graph.Product(softmax(scores), []int{3}, []int{0, 1}, v, []int{2}, []int{0, 1})
	return TransposeAllAxes(y, 0, 2, 1, 3)
}

// fusedAttention computes attention in one operation with a gradient of its own, for the tensors of
// scaledDotProductAttention. It returns nil where the backend has no such operation for them: that
// of cuDNN needs half precision, no mask, and as many queries as keys.
func fusedAttention(q, k, v *Node, config *compute.ScaledDotProductAttentionConfig) (y *Node) {
	be := q.Graph().Backend()
	if !be.Capabilities().Operations[compute.OpTypeFusedScaledDotProductAttentionVJP] {
		return nil
	}
	// go-xla does not look at the number of keys.
	if backend.OnDevice(be) && q.Shape().Dim(1) != k.Shape().Dim(1) {
		return nil
	}
	err := exceptions.TryCatch[error](func() {
		y, _ = BackendFusedScaledDotProductAttention(q, k, v, compute.AttentionAxesLayoutBSHD, config)
	})
	if err != nil && !compute.IsNotImplemented(err) {
		panic(err)
	}
	return y
}

// softmax computes the softmax over the last axis, in float32.
func softmax(x *Node) *Node { return inFloat32(x, func(x *Node) *Node { return Softmax(x) }) }

// inFloat32 computes f(x) in float32 and returns it in the type of x.
func inFloat32(x *Node, f func(x *Node) *Node) *Node {
	return ConvertDType(f(ConvertDType(x, dtypes.Float32)), x.DType())
}

// LayerNorm computes the named layer norm over the last axis of x, in float32, and shows its result
// to l.
func (c Config) LayerNorm(l Layers, name string, x *Node) *Node {
	weight, bias := exact(l, name+".weight"), exact(l, name+".bias")
	y := x
	if backend.OnDevice(x.Graph().Backend()) {
		y = deviceLayerNorm(x, weight, bias, c.LayerNormEps)
	} else {
		y = inFloat32(x, func(x *Node) *Node {
			return nn.LayerNorm(x, []int{x.Rank() - 1}, c.LayerNormEps, weight, bias, nil)
		})
	}
	return l.Output(name, y)
}

// deviceLayerNorm is LayerNorm with a gradient of its own. From the formula and its gradient XLA
// makes kernels that compute the statistics repeatedly, at a third of an H100's bandwidth. Here the
// sums over a row are computed once and kept.
func deviceLayerNorm(x, weight, bias *Node, eps float64) *Node {
	float := func(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
	sum := func(x *Node) *Node { return ReduceAndKeep(x, ReduceSum, -1) }
	wide := func(v *Node) *Node { return ExpandLeftToRank(v, x.Rank()) }
	width := float64(x.Shape().Dim(-1))
	mean := func(sum *Node) *Node { return MulScalar(sum, 1/width) }
	total := sum(float(x))
	squares := sum(Square(Sub(float(x), mean(total))))
	// Through a barrier the compiler takes them as they are.
	kept := OptimizationBarriers(total, squares)
	scale := func() *Node { return Rsqrt(AddScalar(mean(kept[1]), eps)) }
	normal := func() *Node { return Mul(Sub(float(x), mean(kept[0])), scale()) }
	others := make([]int, x.Rank()-1)
	for i := range others {
		others[i] = i
	}
	return graph.WithGradients(func() *Node { return ConvertDType(Add(Mul(normal(), wide(weight)), wide(bias)), x.DType()) }, x, []*Node{x, weight, bias},
		func(dy *Node) *Node {
			g := Mul(float(dy), wide(weight))
			sums := OptimizationBarriers(sum(g), sum(Mul(g, normal())))
			return ConvertDType(Mul(scale(), Sub(Sub(g, mean(sums[0])), Mul(normal(), mean(sums[1])))), x.DType())
		},
		func(dy *Node) *Node { return ReduceSum(Mul(float(dy), normal()), others...) },
		func(dy *Node) *Node { return ReduceSum(float(dy), others...) })
}

// exact returns l.Param in the type in which it is kept: float32, unless it is a frozen matrix in
// half precision.
func exact(l Layers, name string) *Node {
	if typed, ok := l.(computing); ok {
		l = typed.Layers
	}
	return l.Param(name)
}

// computing gives a graph its tensors in the type of its activations, and tells whether activations
// are kept for the backward pass.
type computing struct {
	Layers
	dtype      dtypes.DType
	checkpoint bool
}

func (c computing) Param(name string) *Node {
	n := c.Layers.Param(name)
	if n == nil {
		return nil
	}
	return ConvertDType(n, c.dtype)
}

// entering marks the tokens or the map that enter a block. Where activations are not kept, the
// backward pass computes them again from here.
func entering(l Layers, x *Node) *Node {
	if c, ok := l.(computing); ok && c.checkpoint {
		return x.Checkpoint()
	}
	return x
}

// leaving marks what leaves the last block.
func leaving(l Layers, x *Node) *Node {
	if c, ok := l.(computing); ok && c.checkpoint {
		return x.StopCheckpoint()
	}
	return x
}

// PatchEmbed computes the named convolution of x [B, H, W, C] with a kernel NAME.weight
// [D, C, p, p], whose stride is p, as a matrix product: [B, H/p, W/p, D]. A bias NAME.bias [D] is
// added if the backbone has one.
func PatchEmbed(l Layers, name string, x *Node, p int) *Node {
	s := x.Shape()
	batch, h, w, c := s.Dim(0), s.Dim(1)/p, s.Dim(2)/p, s.Dim(3)
	kernel := l.Param(name + ".weight") // [D, C, p, p]
	d := kernel.Shape().Dim(0)
	// [B, h, p, w, p, C] → [B, h, w, C, p, p]: the order of the kernel's axes.
	x = Reshape(TransposeAllAxes(Reshape(x, batch, h, p, w, p, c), 0, 1, 3, 5, 2, 4), batch, h, w, c*p*p)
	x = graph.Product(x, []int{3}, nil, Reshape(kernel, d, c*p*p), []int{1}, nil)
	bias := exact(l, name+".bias")
	if bias == nil {
		return x
	}
	return Add(x, graph.Everywhere(bias, x))
}

// Linear computes x·Wᵀ + b for x [..., in], w [out, in] and b [out], in the type of x; b may be
// nil.
func Linear(x, w, b *Node) *Node {
	y := graph.Product(x, []int{x.Rank() - 1}, nil, ConvertDType(w, x.DType()), []int{1}, nil)
	if b == nil {
		return y
	}
	return Add(y, graph.Everywhere(b, y))
}

// GELU computes the exact GELU, x·Φ(x), in float32. It is PyTorch's default.
func GELU(x *Node) *Node {
	return inFloat32(x, func(x *Node) *Node {
		y, _ := InternalFusedOpCaller(
			func() *Node { return BackendFusedGelu(x, true) },
			func() *Node { return MulScalar(Mul(x, OnePlus(Erf(MulScalar(x, math.Sqrt(0.5))))), 0.5) },
			true)
		return y
	})
}

// normalize converts pixels [B, H, W, 3] from uint8 to float32: (v/255 − mean)/std for each
// channel.
func normalize(pixels *Node, mean, std [3]float32) *Node {
	x := ConvertDType(pixels, dtypes.Float32)
	var scale, shift [3]float32
	for i := range 3 {
		scale[i] = 1 / (255 * std[i])
		shift[i] = -mean[i] / std[i]
	}
	g := pixels.Graph()
	channels := func(v [3]float32) *Node { return ExpandLeftToRank(Const(g, v[:]), 4) }
	return Add(Mul(x, channels(scale)), channels(shift))
}

// images prepares the images that a program is given for [Config.Features]: it normalises uint8
// pixels and returns float32 images, which are normalised already, unchanged.
func (m *Model) images(x *Node) *Node {
	if x.DType() == dtypes.Uint8 {
		return normalize(x, m.Preprocessing.Mean, m.Preprocessing.Std)
	}
	return x
}

// Features computes what the head sees, float32 [B, NumFeatures], in the model's precision. images
// [B, S, S, 3] are pixels in uint8, or float32 and normalised.
func (m *Model) Features(l Layers, images *Node) *Node {
	return m.inPrecision(m.Config.Features, l, images)
}

// FeatureMap computes the last map of features, float32 [B, H, W, D], after the final norm and
// before pooling, in the model's precision. The map leaves out class tokens and register tokens.
// images are those of [Model.Features].
func (m *Model) FeatureMap(l Layers, images *Node) *Node {
	return m.inPrecision(m.Config.featureMap, l, images)
}

// inPrecision runs build in the model's precision. It takes images as Features does and returns
// float32.
func (m *Model) inPrecision(build func(l Layers, images *Node) *Node, l Layers, images *Node) *Node {
	images = m.images(images)
	checkpoint := m.CheckpointActivations && !program.Rematerialises(images.Graph().Backend())
	if dtype := m.Precision.DType(); dtype != dtypes.Float32 || checkpoint {
		l, images = computing{l, dtype, checkpoint}, ConvertDType(images, dtype)
	}
	return ConvertDType(build(l, images), dtypes.Float32)
}
