package delta

import (
	"fmt"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// Interpolate returns m with its weights moved towards those of the backbone, as WiSE-FT does
// (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903): each tensor
// is backbone + alpha·(m − backbone). The head stays as it is, because the backbone has none for
// the task. alpha is at least 0, for the backbone with the head of the task, and at most 1, for m.
// m must have been merged into the backbone.
func (m *Merged) Interpolate(b *backbone.Model, alpha float64) (*Merged, error) {
	if !(alpha >= 0 && alpha <= 1) {
		return nil, fmt.Errorf("interpolating merged weights: alpha is %v, expected 0 (the backbone) to 1 (the tuned weights)", alpha)
	}
	return m.with(func(p backbone.Param) checkpoint.Tensor {
		tuned, base := m.Model.Weights[p.Name], b.Weights[p.Name]
		if p.Role == backbone.Head || alpha == 1 || &tuned.Data[0] == &base.Data[0] {
			return tuned
		}
		out := checkpoint.NewTensor(tuned.Shape...)
		for i, w := range base.Data {
			out.Data[i] = float32(float64(w) + alpha*(float64(tuned.Data[i])-float64(w)))
		}
		return out
	}), nil
}

// Average returns the mean of the weights of several merged deltas, a model soup (Wortsman et al.
// 2022, "Model soups", arXiv 2203.05482). It makes sense for trainings on one data set that differ
// in their seeds or options. All must have been merged into one backbone, with the same classes in
// the same order. The thresholds of the result are nil.
func Average(all []*Merged) (*Merged, error) {
	if len(all) == 0 {
		return nil, fmt.Errorf("averaging merged deltas: there are none; give at least one")
	}
	first := all[0]
	for i, m := range all[1:] {
		if differences := compare(m.Model.Config, first.Model.Config); len(differences) > 0 || m.Objective != first.Objective || m.Transform != first.Transform {
			return nil, fmt.Errorf("averaging merged deltas: delta %d differs from the first one: objective %s and %s, transform %+v and %+v, configuration %v; give deltas of one task on one backbone", i+2, m.Objective, first.Objective, m.Transform, first.Transform, differences)
		}
	}
	out := first.with(func(p backbone.Param) checkpoint.Tensor {
		values := first.Model.Weights[p.Name]
		if !slices.ContainsFunc(all, func(m *Merged) bool { return &m.Model.Weights[p.Name].Data[0] != &values.Data[0] }) {
			return values // frozen in all
		}
		mean := checkpoint.NewTensor(values.Shape...)
		for i := range mean.Data {
			sum := 0.0
			for _, m := range all {
				sum += float64(m.Model.Weights[p.Name].Data[i])
			}
			mean.Data[i] = float32(sum / float64(len(all)))
		}
		return mean
	})
	out.Thresholds = nil
	return out, nil
}

// with returns a copy of m with other weights. weight returns the weight of each tensor.
func (m *Merged) with(weight func(backbone.Param) checkpoint.Tensor) *Merged {
	weights := checkpoint.StateDict{}
	for _, p := range m.Model.Config.Params() {
		weights[p.Name] = weight(p)
	}
	out := *m
	out.Model = m.Model.WithWeights(weights)
	return &out
}
