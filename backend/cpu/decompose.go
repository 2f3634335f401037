package cpu

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// A program that runs completely on the Go backend of GoMLX may contain attention. This backend has
// no gradient of attention. So this file builds attention and its gradient from the operations of
// the formula.

// composed builds operations on a function and stores the first error.
type composed struct {
	compute.Function
	err error
}

// ok stores the error of an operation, if it is the first error, and returns the value of the
// operation.
func (c *composed) ok(v compute.Value, err error) compute.Value {
	if c.err == nil {
		c.err = err
	}
	return v
}

// dot returns the matrix products of x and y for each head of each image. Image and head are the
// first two axes. xAxes and yAxes are the contracted axes.
func (c *composed) dot(x compute.Value, xAxes []int, y compute.Value, yAxes []int) compute.Value {
	heads := []int{0, 1}
	return c.ok(c.DotGeneral(x, xAxes, heads, y, yAxes, heads, compute.DotGeneralConfig{}))
}

// query reshapes a tensor with the dimensions of the query to [batch, groups, shared, seq, width].
// shared is the number of heads that share a key and a value.
func (a *attention) query(c *composed, x compute.Value) compute.Value {
	shared := a.heads / a.groups
	if a.layout == compute.AttentionAxesLayoutBSHD {
		return c.ok(c.Transpose(c.ok(c.Reshape(x, a.batch, a.seq, a.groups, shared, a.width)), 0, 2, 3, 1, 4))
	}
	return c.ok(c.Reshape(x, a.batch, a.groups, shared, a.seq, a.width))
}

// unquery is the inverse of query.
func (a *attention) unquery(c *composed, x compute.Value) compute.Value {
	if a.layout == compute.AttentionAxesLayoutBSHD {
		return c.ok(c.Reshape(c.ok(c.Transpose(x, 0, 3, 1, 2, 4)), a.batch, a.seq, a.heads, a.width))
	}
	return c.ok(c.Reshape(x, a.batch, a.heads, a.seq, a.width))
}

// key transposes a tensor with the dimensions of the key to [batch, groups, kv, width]. A second
// call reverses the transposition.
func (a *attention) key(c *composed, x compute.Value) compute.Value {
	if a.layout == compute.AttentionAxesLayoutBSHD {
		return c.ok(c.Transpose(x, 0, 2, 1, 3))
	}
	return x
}

// scores returns the scores [batch, groups, shared, seq, kv] with masks and biases added. q is a
// result of query, k is a result of key. The function rows broadcasts one number for each row of
// scores to the dimensions of the scores.
func (a *attention) scores(c *composed, q, k compute.Value, addends []compute.Value) (scores compute.Value, rows func(v compute.Value) compute.Value) {
	scale := c.ok(c.Constant([]float32{a.scale}))
	scores = c.ok(c.Mul(c.dot(q, []int{4}, k, []int{3}), scale))
	shared := a.heads / a.groups
	dims := shapes.Make(dtypes.Float32, a.batch, a.groups, shared, a.seq, a.kv)
	for i, v := range addends {
		d := append([]int{1, 1, 1, 1}[:4-len(a.added[i])], a.added[i]...) // [batch, heads, seq, kv]
		groups := a.groups
		if d[1] == 1 {
			groups = 1
		}
		v = c.ok(c.Reshape(v, d[0], groups, d[1]/groups, d[2], d[3]))
		scores = c.ok(c.Add(scores, c.ok(c.BroadcastInDim(v, dims, []int{0, 1, 2, 3, 4}))))
	}
	return scores, func(v compute.Value) compute.Value {
		return c.ok(c.BroadcastInDim(v, dims, []int{0, 1, 2, 3}))
	}
}

// decompose builds attention from query, key, value, masks and biases. It has the same results as
// attentionKernel.
func (a attention) decompose(g compute.Function, in []compute.Value) ([]compute.Value, error) {
	if len(in) != 3+len(a.added) {
		return nil, fmt.Errorf("building attention from its formula: %d operands are not supported: %w", len(in), compute.ErrNotImplemented)
	}
	c := &composed{Function: g}
	q, k, v := a.query(c, in[0]), a.key(c, in[1]), a.key(c, in[2])
	scores, rows := a.scores(c, q, k, in[3:])
	top := c.ok(c.ReduceMax(scores, 4))
	e := c.ok(c.Exp(c.ok(c.Sub(scores, rows(top)))))
	sum := c.ok(c.ReduceSum(e, 4))
	y := c.dot(c.ok(c.Div(e, rows(sum))), []int{4}, v, []int{2})
	lse := c.ok(c.Reshape(c.ok(c.Add(top, c.ok(c.Log(sum)))), a.batch, a.heads, a.seq))
	return []compute.Value{a.unquery(c, y), lse}, c.err
}

// decomposeVJP builds the gradient of attention. The operands are query, key, value, output,
// log-sum-exp, the gradient of the output, masks and biases. It has the same results as
// attentionVJPKernel.
func (a attention) decomposeVJP(g compute.Function, in []compute.Value) ([]compute.Value, error) {
	if len(in) != 6+len(a.added) {
		return nil, fmt.Errorf("building the gradient of attention from its formula: %d operands are not supported: %w", len(in), compute.ErrNotImplemented)
	}
	c := &composed{Function: g}
	q, k, v := a.query(c, in[0]), a.key(c, in[1]), a.key(c, in[2])
	o, do := a.query(c, in[3]), a.query(c, in[5])
	scores, rows := a.scores(c, q, k, in[6:])
	lse := c.ok(c.Reshape(in[4], a.batch, a.groups, a.heads/a.groups, a.seq))
	p := c.ok(c.Exp(c.ok(c.Sub(scores, rows(lse)))))
	dp := c.dot(do, []int{4}, v, []int{3})
	d := c.ok(c.ReduceSum(c.ok(c.Mul(do, o)), 4))
	ds := c.ok(c.Mul(c.ok(c.Mul(p, c.ok(c.Sub(dp, rows(d))))), c.ok(c.Constant([]float32{a.scale}))))
	dq := c.dot(ds, []int{4}, k, []int{2})
	dk := c.dot(ds, []int{2, 3}, q, []int{2, 3})
	dv := c.dot(p, []int{2, 3}, do, []int{2, 3})
	return []compute.Value{a.unquery(c, dq), a.key(c, dk), a.key(c, dv)}, c.err
}
