package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// The operations in this file have values inside structures, so genops cannot generate them. When
// they are recorded, these values become operands. The function emit puts the values back into the
// structures.

// opaque is implemented by attributes whose text is not unique. The compiler never treats two
// operations with such attributes as the same operation.
type opaque interface{ opaque() }

// dimensions holds the attributes of DynamicReshape.
type dimensions []compute.DynamicDimensionSpec

// quantized holds the attributes of operations with quantized weights.
type quantized struct {
	*compute.Quantization
	activation compute.ActivationType // only for FusedQuantizedDense
}

// generalAttention holds the attributes of an attention operation that the Go backend of GoMLX
// runs.
type generalAttention struct {
	layout compute.AttentionAxesLayout
	*compute.ScaledDotProductAttentionConfig
}

func (dimensions) opaque()       {}
func (quantized) opaque()        {}
func (generalAttention) opaque() {}

func (f *function) DynamicReshape(x compute.Value, dims ...compute.DynamicDimensionSpec) (compute.Value, error) {
	in := one(x)
	for _, d := range dims {
		in = append(in, d.Value)
	}
	return single(f.record(compute.OpTypeDynamicReshape, in, dimensions(dims), func(g compute.Function, in []compute.Value) ([]compute.Value, error) {
		own := slices.Clone(dims)
		for i := range own {
			own[i].Value = in[1+i]
		}
		v, err := g.DynamicReshape(in[0], own...)
		return one(v), err
	}))
}

// single returns the only value of an operation with one result.
func single(out []compute.Value, err error) (compute.Value, error) {
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (f *function) QuantizedEmbeddingLookup(data, indices compute.Value, q *compute.Quantization) (compute.Value, error) {
	if q == nil {
		q = &compute.Quantization{}
	}
	return single(f.record(compute.OpTypeQuantizedEmbeddingLookup, []compute.Value{data, indices, q.Scale, q.ZeroPoint}, quantized{Quantization: q}, func(g compute.Function, in []compute.Value) ([]compute.Value, error) {
		own := *q
		own.Scale, own.ZeroPoint = in[2], in[3]
		v, err := g.QuantizedEmbeddingLookup(in[0], in[1], &own)
		return one(v), err
	}))
}

func (f *function) FusedQuantizedDense(x, weights, bias compute.Value, q *compute.Quantization, activation compute.ActivationType) (compute.Value, error) {
	if q == nil {
		q = &compute.Quantization{}
	}
	return single(f.record(compute.OpTypeFusedQuantizedDense, []compute.Value{x, weights, bias, q.Scale, q.ZeroPoint}, quantized{q, activation}, func(g compute.Function, in []compute.Value) ([]compute.Value, error) {
		own := *q
		own.Scale, own.ZeroPoint = in[3], in[4]
		v, err := g.FusedQuantizedDense(in[0], in[1], in[2], &own, activation)
		return one(v), err
	}))
}

// attention holds the attributes of a scaled dot-product attention that this backend runs.
type attention struct {
	layout compute.AttentionAxesLayout
	// Number of images, heads of the query, and heads of key and value (a divisor of heads).
	batch, heads, groups int
	// Number of queries, number of keys, and size of a head.
	seq, kv, width int
	// Factor of the scores.
	scale float32
	// Dimensions of the tensors that are added to the scores.
	added [][]int
}

// ownAttention returns the attributes of an attention operation. ok reports whether this backend
// can run the operation. All tensors must be float32, the mask must hold numbers to add to the
// scores, sequence lengths must be absent, and the attention must not be causal. addends holds the
// mask and the bias, if they are present.
func ownAttention(q, k, v *value, addends []*value, layout compute.AttentionAxesLayout, o *compute.ScaledDotProductAttentionConfig) (a attention, ok bool) {
	for _, x := range []*value{q, k, v} {
		if x == nil || x.shape.DType != dtypes.Float32 || x.shape.Rank() != 4 || x.shape.IsDynamic() || x.shape.Size() == 0 {
			return a, false
		}
	}
	if o == nil {
		o = &compute.ScaledDotProductAttentionConfig{}
	}
	if o.Causal || o.QuerySeqLen != nil || o.KeyValueSeqLen != nil || !slices.Equal(k.shape.Dimensions, v.shape.Dimensions) {
		return a, false
	}
	s, h := layout.SeqAxis(), layout.HeadsAxis()
	qd, kd := q.shape.Dimensions, k.shape.Dimensions
	a = attention{layout: layout, batch: qd[0], heads: qd[h], groups: kd[h], seq: qd[s], kv: kd[s], width: qd[3], scale: float32(o.Scale)}
	if o.Scale == 0 {
		a.scale = float32(1 / math.Sqrt(float64(a.width)))
	}
	for _, v := range addends {
		if !a.adds(v.shape) {
			return a, false
		}
		a.added = append(a.added, v.shape.Dimensions)
	}
	return a, kd[0] == a.batch && kd[3] == a.width && a.heads%a.groups == 0
}

// adds reports whether a tensor of shape s can be added to the scores. It must be float32 and have
// a value for each key. Every other axis must have its full size, have size 1 or be absent.
func (a *attention) adds(s shapes.Shape) bool {
	scores := []int{a.batch, a.heads, a.seq, a.kv}
	if s.DType != dtypes.Float32 || s.IsDynamic() || s.Rank() < 2 || s.Rank() > 4 || s.Dim(-1) != a.kv {
		return false
	}
	for i, d := range s.Dimensions {
		if d != 1 && d != scores[4-s.Rank()+i] {
			return false
		}
	}
	return true
}

// addends returns the mask and the bias of o, if they are present.
func (f *function) addends(kind compute.OpType, o *compute.ScaledDotProductAttentionConfig) ([]*value, error) {
	if o == nil {
		return nil, nil
	}
	var in []compute.Value
	for _, v := range []compute.Value{o.Mask, o.Bias} {
		if v != nil {
			in = append(in, v)
		}
	}
	ours, _, err := f.own(kind, in)
	return ours, err
}

func (f *function) FusedScaledDotProductAttention(query, key, val compute.Value, layout compute.AttentionAxesLayout, o *compute.ScaledDotProductAttentionConfig) (compute.Value, []compute.Value, error) {
	ours, _, err := f.own(compute.OpTypeFusedScaledDotProductAttention, []compute.Value{query, key, val})
	if err != nil {
		return nil, nil, err
	}
	addends, err := f.addends(compute.OpTypeFusedScaledDotProductAttention, o)
	if err != nil {
		return nil, nil, err
	}
	if a, ok := ownAttention(ours[0], ours[1], ours[2], addends, layout, o); ok && f == f.builder.main {
		// The gradient needs the log-sum-exp of each row of scores.
		out, err := f.placeholder(&op{kind: compute.OpTypeFusedScaledDotProductAttention, in: slices.Concat(ours, addends), attrs: a, emit: a.decompose},
			ours[0].shape, shapes.Make(dtypes.Float32, a.batch, a.heads, a.seq))
		if err != nil {
			return nil, nil, err
		}
		return out[0], out[1:], nil
	}
	if o == nil {
		o = &compute.ScaledDotProductAttentionConfig{}
	}
	in := []compute.Value{query, key, val, o.Mask, o.Bias, o.QuerySeqLen, o.KeyValueSeqLen}
	out, err := single(f.record(compute.OpTypeFusedScaledDotProductAttention, in, generalAttention{layout, o}, func(g compute.Function, in []compute.Value) ([]compute.Value, error) {
		own := *o
		own.Mask, own.Bias, own.QuerySeqLen, own.KeyValueSeqLen = in[3], in[4], in[5], in[6]
		v, _, err := g.FusedScaledDotProductAttention(in[0], in[1], in[2], layout, &own)
		return one(v), err
	}))
	return out, nil, err
}

func (f *function) FusedScaledDotProductAttentionVJP(query, key, val compute.Value, layout compute.AttentionAxesLayout, o *compute.ScaledDotProductAttentionConfig, output compute.Value, states []compute.Value, dOutput compute.Value) (dQuery, dKey, dValue compute.Value, err error) {
	ours, _, err := f.own(compute.OpTypeFusedScaledDotProductAttentionVJP, join(one(query), one(key), one(val), one(output), states, one(dOutput)))
	if err != nil {
		return nil, nil, nil, err
	}
	addends, err := f.addends(compute.OpTypeFusedScaledDotProductAttentionVJP, o)
	if err != nil {
		return nil, nil, nil, err
	}
	a, ok := ownAttention(ours[0], ours[1], ours[2], addends, layout, o)
	if !ok || f != f.builder.main || len(states) != 1 || len(ours) != 6 || !ours[5].shape.Equal(ours[0].shape) {
		return nil, nil, nil, fmt.Errorf("building the gradient of attention in %q: the backend has no gradient for these operands or options: %w", f.builder.name, compute.ErrNotImplemented)
	}
	out, err := f.placeholder(&op{kind: compute.OpTypeFusedScaledDotProductAttentionVJP, in: slices.Concat(ours, addends), attrs: a, emit: a.decomposeVJP}, ours[0].shape, ours[1].shape, ours[2].shape)
	if err != nil {
		return nil, nil, nil, err
	}
	return out[0], out[1], out[2], nil
}
