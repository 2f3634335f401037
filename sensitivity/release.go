package sensitivity

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/drop"
	"github.com/sptune/spt/internal/option"
)

// CompatRelease is the value of [Options.Compat] and [Scores.Compat] for scores that are computed
// as in the paper's published code. This code scores in training mode, so drop-path is on, and
// every batch has the same weight in the sum.
const CompatRelease = "release"

// releaseDropPath is the drop-path rate of the last block in the published code.
const releaseDropPath = 0.1

// ValidateCompat returns an error if compat is no compat mode. The modes of all stages are
// [CompatRelease] and the empty mode.
func ValidateCompat(compat string) error {
	if compat != "" && compat != CompatRelease {
		return option.Unknown("compat", "compat mode", compat, []string{CompatRelease})
	}
	return nil
}

// trainingMode is the Layers of a backbone in training mode: drop-path acts on its branches.
type trainingMode struct {
	backbone.Layers
	masks  *drop.Masks
	blocks int // number of blocks of the backbone
}

// Branch implements backbone.Layers.
func (l trainingMode) Branch(name string, block int, x, y *Node) *Node {
	return l.masks.Images(l.Layers.Branch(name, block, x, y), drop.PathRate(releaseDropPath, block, l.blocks))
}
