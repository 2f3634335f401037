package backbone

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// Source holds what a checkpoint, the files beside it and the user state about a backbone. It is
// the argument of the function Configure of an [Architecture].
type Source struct {
	// Weights holds the tensors of the checkpoint by canonical name. Configure may change the map.
	Weights checkpoint.StateDict
	// Options are the options of the call to [Load].
	Options LoadOptions
	// Config is the configuration in the metadata of a checkpoint that spt has written. It is nil
	// for other checkpoints. It always has the same architecture as the checkpoint.
	Config *Config

	naming       checkpoint.Translation
	side         sideFiles
	convMLP      bool // see Model.convMLP
	headsAssumed bool // see Model.HeadsAssumed
}

// Shape returns the shape of a tensor that every backbone of the architecture has. It returns an
// error if the checkpoint has no such tensor, or if the tensor does not have rank dimensions.
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

// has reports whether the checkpoint has the named tensor.
func (s *Source) has(name string) bool { _, ok := s.Weights[name]; return ok }

// Count returns the number of blocks, or of other numbered parts: one more than the greatest N
// among the tensor names "PREFIX.N.…". It returns 0 if there is no such name, and an error if N is
// not a number or is too large.
func (s *Source) Count(prefix string) (n int, err error) {
	for name := range s.Weights {
		rest, ok := strings.CutPrefix(name, prefix+".")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= maxDepth {
			return 0, fmt.Errorf("tensor %q: the part of the name after %q must be a number below %d", name, prefix+".", maxDepth)
		}
		n = max(n, i+1)
	}
	return n, nil
}

// LayerNormEps returns the eps of the layer norms that the user gives or that the checkpoint or a
// file beside it states. If none of them does, it returns otherwise.
func (s *Source) LayerNormEps(otherwise float64) float64 {
	if c := s.Config; s.Options.LayerNormEps == 0 && c != nil {
		return c.LayerNormEps
	}
	return cmp.Or(s.Options.LayerNormEps, s.side.card.eps, otherwise)
}

// ImageSize returns the side length of the images, in pixels, that the checkpoint or a file beside
// it states. If neither does, or if the images are not square, it returns otherwise. It ignores
// Options.ImageSize, because the weights are resized from the size of the checkpoint to that size
// later.
func (s *Source) ImageSize(otherwise int) int {
	if c := s.Config; c != nil {
		return cmp.Or(c.ImageSize, otherwise)
	}
	if size := s.side.card.size; size[0] == size[1] {
		return cmp.Or(size[0], otherwise)
	}
	return otherwise
}

// onlyGELU returns an error if a file beside the checkpoint names an activation of the MLPs other
// than GELU.
func (s *Source) onlyGELU() error {
	if a := s.side.activation(); s.Config == nil && a != "" && a != "gelu" {
		return fmt.Errorf("config.json says that the MLP's activation is %q; supported: gelu", a)
	}
	return nil
}
