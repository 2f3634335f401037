package backbone

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// Source is what a checkpoint, the files beside it and the user say of a backbone. Its methods
// serve the function Configure of an [Architecture].
type Source struct {
	// Weights holds the tensors of the checkpoint under canonical names. Configure may change it.
	Weights checkpoint.StateDict
	// Options are the options of [Load].
	Options LoadOptions
	// Config is the configuration in the metadata of a checkpoint that spt has written; nil if
	// there is none. It has the same architecture.
	Config *Config

	naming       checkpoint.Translation
	side         sideFiles
	convMLP      bool // see Model.convMLP
	headsAssumed bool // see Model.HeadsAssumed
}

// Shape returns the shape of a tensor that every backbone of the architecture has, with rank
// dimensions.
func (s *Source) Shape(name string, rank int) ([]int, error) {
	t, ok := s.Weights[name]
	if !ok {
		return nil, fmt.Errorf("the checkpoint (naming: %s) has no tensor %q, which every %s has", s.naming.Source, name, s.naming.Architecture)
	}
	if len(t.Shape) != rank {
		return nil, fmt.Errorf("tensor %q has shape %v, expected %d dimensions", name, t.Shape, rank)
	}
	return t.Shape, nil
}

// has reports whether the checkpoint has a tensor.
func (s *Source) has(name string) bool { _, ok := s.Weights[name]; return ok }

// Count returns the number of blocks, or of other numbered parts: one more than the greatest N
// among the names "PREFIX.N.…".
func (s *Source) Count(prefix string) (n int, err error) {
	for name := range s.Weights {
		rest, ok := strings.CutPrefix(name, prefix+".")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= maxDepth {
			return 0, fmt.Errorf("tensor %q: number out of range, expected below %d", name, maxDepth)
		}
		n = max(n, i+1)
	}
	return n, nil
}

// LayerNormEps returns the eps that the user, the checkpoint or a file beside it names, else the
// given value.
func (s *Source) LayerNormEps(otherwise float64) float64 {
	if c := s.Config; s.Options.LayerNormEps == 0 && c != nil {
		return c.LayerNormEps
	}
	return cmp.Or(s.Options.LayerNormEps, s.side.eps, otherwise)
}

// ImageSize returns the side of the images, px, that the checkpoint or a file beside it names, else
// the given value. An image size of the user's own is another one, to which the weights are
// resized.
func (s *Source) ImageSize(otherwise int) int {
	if c := s.Config; c != nil {
		return cmp.Or(c.ImageSize, otherwise)
	}
	return cmp.Or(s.side.imageSize, otherwise)
}

// onlyGELU returns an error if a file beside the checkpoint names another activation for the MLPs.
func (s *Source) onlyGELU() error {
	if a := s.side.activation; s.Config == nil && a != "" && a != "gelu" {
		return fmt.Errorf("config.json says that the MLP's activation is %q; supported: gelu", a)
	}
	return nil
}
