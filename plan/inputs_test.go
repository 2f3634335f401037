package plan

import (
	"context"

	"github.com/sptune/spt/sensitivity"
)

// inputs holds the arguments of exact and Release, except the tensors, in one value that tests can
// change.
type inputs struct {
	Budget, ClassToken int
	Only, Module       string
	ModuleParams       Count
	Rank               int
	Alpha, Beta        float64
	Scale              float64 // for Release; zero means releaseScale
}

func (o inputs) options() Options {
	return Options{Module: o.Module, Only: o.Only, Rank: o.Rank, Alpha: o.Alpha, Beta: o.Beta}
}

func (o inputs) exact(ctx context.Context, tensors []sensitivity.Tensor) (*Plan, error) {
	return exact(ctx, &sensitivity.Scores{Tensors: tensors, ClassToken: o.ClassToken}, o.Budget, o.options(), o.ModuleParams)
}

func (o inputs) release(ctx context.Context, tensors []sensitivity.Tensor) ([]*Plan, error) {
	if o.Scale == 0 {
		o.Scale = releaseScale
	}
	return Release(ctx, &sensitivity.Scores{Tensors: tensors, ClassToken: o.ClassToken}, o.Scale, o.options(), o.ModuleParams)
}
