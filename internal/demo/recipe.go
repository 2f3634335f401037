package demo

import (
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/train"
)

// Recipe is how the demo tunes: the paper's recipe cut to few epochs, which
// smaller batches and a greater learning rate make up for in part. The linear
// probe sees each image once and trains its head on the features, so it can
// afford many epochs.
func Recipe(m method.Method, epochs int, seed uint64) train.Options {
	o := train.VTAB()
	o.BatchSize, o.LR, o.DropPath, o.Dropout, o.ModuleDropPath, o.Seed = 16, 4e-3, 0, 0, 0, seed
	switch m {
	case method.Linear:
		epochs *= 10
		o.LR = 1e-2
	case method.Full:
		o.LR = 1e-3
	}
	return o.WithEpochs(epochs)
}
