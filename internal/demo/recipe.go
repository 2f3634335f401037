package demo

import (
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/train"
)

// Recipe returns the training options of a method in the demo. It is the recipe of the paper with
// few epochs. Smaller mini-batches and a higher learning rate make up for some of the missing
// epochs. Linear probing trains for ten times as many epochs, because it computes the features of
// each image only once.
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
