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

// Layers supplies a graph with its tensors and receives its results. Tuning changes a backbone only
// through this interface. The backbone gets every tensor by its canonical name and passes its
// results to Layers. It does not know which parameters are tuned.
type Layers interface {
	// Param returns the named tensor as the forward pass uses it. It returns nil if the backbone
	// has no tensor of that name.
	Param(name string) *Node
	// Linear computes y = x·Wᵀ + b for x [..., in], with the weight NAME.weight [out, in] and the
	// bias NAME.bias [out]. It leaves b out if the backbone has no such bias. It also applies the
	// module that is attached to the weight, if there is one.
	Linear(name string, x *Node) *Node
	// Output receives the output y [..., C] of a named operation that is not a linear layer: a
	// norm, a convolution or the patch embedding. It returns the value that the backbone uses in
	// place of y.
	Output(name string, y *Node) *Node
	// Tokens receives the tokens x [B, N, D] before the given block, and returns the tokens that
	// enter the block. Blocks are numbered from 0. Tokens may append tokens after the tokens of x.
	// Only backbones whose tokens need no grid, such as a ViT, call it.
	Tokens(block int, x *Node) *Node
	// Branch receives the output y of a residual branch, and returns the value that the backbone
	// adds to the residual stream x [B, ..., D]. name is the branch, such as "blocks.3.mlp", and
	// block is the number of its block. y has the shape of x.
	Branch(name string, block int, x, y *Node) *Node
}

// Untuned returns the Layers of a backbone without tuned parameters, dropout or drop-path. tensors
// holds the tensors of the backbone by canonical name.
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
// [B, N, heads, width]. It uses a fused operation if the backend has one. The fused operation does
// not hold all scores [B, heads, n, N] at once.
func scaledDotProductAttention(q, k, v *Node) *Node {
	if y := fusedAttention(q, k, v, nil); y != nil {
		return y
	}
	// [B, N, heads, width] → [B, heads, N, width]. After this transpose, the products of the
	// forward and backward pass read their operands in memory order.
	for _, x := range []**Node{&q, &k, &v} {
		*x = TransposeAllAxes(*x, 0, 2, 1, 3)
	}
	q = MulScalar(q, 1/math.Sqrt(float64(q.Shape().Dim(3))))
	scores := graph.Product(q, []int{3}, []int{0, 1}, k, []int{3}, []int{0, 1}) // [B, heads, n, N]
	y := graph.Product(softmax(scores), []int{3}, []int{0, 1}, v, []int{2}, []int{0, 1})
	return TransposeAllAxes(y, 0, 2, 1, 3)
}

// fusedAttention computes attention in one fused operation, for the tensors of
// scaledDotProductAttention. The operation has its own gradient. fusedAttention returns nil if the
// backend has no such operation for these tensors. cuDNN's operation needs half precision, no mask,
// and as many queries as keys.
func fusedAttention(q, k, v *Node, config *compute.ScaledDotProductAttentionConfig) (y *Node) {
	be := q.Graph().Backend()
	if !be.Capabilities().Operations[compute.OpTypeFusedScaledDotProductAttentionVJP] {
		return nil
	}
	// go-xla does not check the number of keys.
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

// softmax computes the softmax of x over the last axis, in float32. It returns the type of x.
func softmax(x *Node) *Node { return inFloat32(x, func(x *Node) *Node { return Softmax(x) }) }

// inFloat32 computes f(x) in float32 and converts the result to the type of x.
func inFloat32(x *Node, f func(x *Node) *Node) *Node {
	return ConvertDType(f(ConvertDType(x, dtypes.Float32)), x.DType())
}

// LayerNorm computes the named layer norm over the last axis of x, in float32, with the tensors
// NAME.weight and NAME.bias. It passes the result to l.Output.
func (c Config) LayerNorm(l Layers, name string, x *Node) *Node {
	weight, bias := storedParam(l, name+".weight"), storedParam(l, name+".bias")
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

// deviceLayerNorm computes LayerNorm on an accelerator, with a custom gradient. From the plain
// formula XLA generates kernels that compute the statistics several times, at a third of the memory
// bandwidth of an H100. Here the sums over a row are computed once and kept.
func deviceLayerNorm(x, weight, bias *Node, eps float64) *Node {
	float := func(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
	sum := func(x *Node) *Node { return ReduceAndKeep(x, ReduceSum, -1) }
	wide := func(v *Node) *Node { return ExpandLeftToRank(v, x.Rank()) }
	width := float64(x.Shape().Dim(-1))
	mean := func(sum *Node) *Node { return MulScalar(sum, 1/width) }
	total := sum(float(x))
	squares := sum(Square(Sub(float(x), mean(total))))
	// The barrier keeps the compiler from computing the sums again.
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

// storedParam returns the named tensor in the type in which it is stored. This is float32, except
// for frozen matrices in half precision. It returns nil if the backbone has no tensor of that name.
func storedParam(l Layers, name string) *Node {
	if typed, ok := l.(typedLayers); ok {
		l = typed.Layers
	}
	return l.Param(name)
}

// typedLayers is a Layers whose Param returns the tensors in the type of the activations, dtype. If
// checkpoint is true, the backward pass recomputes the activations of each block instead of keeping
// them.
type typedLayers struct {
	Layers
	dtype      dtypes.DType
	checkpoint bool
}

func (c typedLayers) Param(name string) *Node {
	n := c.Layers.Param(name)
	if n == nil {
		return nil
	}
	return ConvertDType(n, c.dtype)
}

// blockInput marks x as the input of a block. With activation checkpointing, the backward pass
// keeps x and recomputes the block from it.
func blockInput(l Layers, x *Node) *Node {
	if c, ok := l.(typedLayers); ok && c.checkpoint {
		return x.Checkpoint()
	}
	return x
}

// lastBlockOutput marks x as the output of the last block. Activation checkpointing ends here.
func lastBlockOutput(l Layers, x *Node) *Node {
	if c, ok := l.(typedLayers); ok && c.checkpoint {
		return x.StopCheckpoint()
	}
	return x
}

// PatchEmbed computes the named convolution of x [B, H, W, C] without overlap: the kernel
// NAME.weight [D, C, p, p] has the stride p. The result is [B, H/p, W/p, D]. A bias NAME.bias [D]
// is added if the backbone has one. H and W must be multiples of p. The convolution is computed as
// one matrix product.
func PatchEmbed(l Layers, name string, x *Node, p int) *Node {
	s := x.Shape()
	batch, h, w, c := s.Dim(0), s.Dim(1)/p, s.Dim(2)/p, s.Dim(3)
	kernel := l.Param(name + ".weight") // [D, C, p, p]
	d := kernel.Shape().Dim(0)
	// [B, h, p, w, p, C] → [B, h, w, C, p, p], which is the order of the kernel's axes.
	x = Reshape(TransposeAllAxes(Reshape(x, batch, h, p, w, p, c), 0, 1, 3, 5, 2, 4), batch, h, w, c*p*p)
	x = graph.Product(x, []int{3}, nil, Reshape(kernel, d, c*p*p), []int{1}, nil)
	bias := storedParam(l, name+".bias")
	if bias == nil {
		return x
	}
	return Add(x, graph.Everywhere(bias, x))
}

// Linear computes x·Wᵀ + b for x [..., in], w [out, in] and b [out], in the type of x. b may be
// nil.
func Linear(x, w, b *Node) *Node {
	y := graph.Product(x, []int{x.Rank() - 1}, nil, ConvertDType(w, x.DType()), []int{1}, nil)
	if b == nil {
		return y
	}
	return Add(y, graph.Everywhere(b, y))
}

// GELU computes the exact GELU, x·Φ(x), in float32, like the default of PyTorch. It returns the
// type of x.
func GELU(x *Node) *Node {
	return inFloat32(x, func(x *Node) *Node {
		y, _ := InternalFusedOpCaller(
			func() *Node { return BackendFusedGelu(x, true) },
			func() *Node { return MulScalar(Mul(x, OnePlus(Erf(MulScalar(x, math.Sqrt(0.5))))), 0.5) },
			true)
		return y
	})
}

// normalize converts uint8 pixels [B, H, W, 3] to float32 and normalises each channel: (v/255 −
// mean)/std.
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

// images prepares the input images of a program for [Config.Features]. It normalises uint8 pixels,
// and returns float32 images unchanged, because they are already normalised.
func (m *Model) images(x *Node) *Node {
	if x.DType() == dtypes.Uint8 {
		return normalize(x, m.Preprocessing.Mean, m.Preprocessing.Std)
	}
	return x
}

// Features computes the input of the head, float32 [B, NumFeatures], in the precision of the model.
// images is [B, S, S, 3], where S is Config.ImageSize. It holds uint8 pixels, or normalised float32
// values. A model of [Model.FromBlock] takes tokens instead.
func (m *Model) Features(l Layers, images *Node) *Node {
	return m.inPrecision(m.Config.architecture().Features, l, m.firstBlock, images)
}

// FeatureMap computes the last feature map, float32 [B, H, W, D], after the final norm and before
// pooling, in the precision of the model. The map does not contain class tokens and register
// tokens. images has the same form as in [Model.Features].
func (m *Model) FeatureMap(l Layers, images *Node) *Node {
	return m.inPrecision(m.Config.architecture().FeatureMap, l, m.firstBlock, images)
}

// Hidden computes the tokens that enter a block, float32 [B, N, D], in the precision of the model.
// [Config.HiddenSize] returns N and D, and an error for a block that Hidden cannot take. images has
// the same form as in [Model.Features].
func (m *Model) Hidden(l Layers, block int, images *Node) *Node {
	return m.inPrecision(m.Config.architecture().Hidden, l, block, images)
}

// inPrecision calls build, a function of an Architecture, in the precision of the model. x holds
// images in the form of Features, or tokens. The result is float32.
func (m *Model) inPrecision(build func(f any, c Config, l Layers, block int, x *Node) *Node, l Layers, block int, x *Node) *Node {
	x = m.images(x)
	checkpoint := m.CheckpointActivations && !program.Rematerialises(x.Graph().Backend())
	dtype := m.Precision.DType(x.Graph().Backend())
	if dtype != dtypes.Float32 || checkpoint {
		l = typedLayers{l, dtype, checkpoint}
	}
	return ConvertDType(build(m.Config.Form, m.Config, l, block, ConvertDType(x, dtype)), dtypes.Float32)
}
