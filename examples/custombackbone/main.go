// Command custombackbone shows how to add an architecture to spt. The architecture is patchmlp,
// which applies the same MLP to every patch of an image. After its registration, all commands of
// spt can use it. The program also has a command "new FILE", which writes a checkpoint with random
// weights:
//
//	go run ./examples/custombackbone new patchmlp.safetensors
//	go run ./examples/custombackbone inspect patchmlp.safetensors
//	go run ./examples/custombackbone tune --model patchmlp.safetensors --data DIR --budget 20%
package main

import (
	"fmt"
	"log"
	"math/rand/v2"
	"os"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/cli"
)

const patch = 8 // side of a patch, px

// patchMLP holds the fields of a configuration that only this architecture has.
type patchMLP struct {
	Width int `json:"width"` // features of a patch
	Depth int `json:"depth"` // number of blocks
}

var architecture = backbone.Architecture[patchMLP]{
	Name: "patchmlp", Head: "head",
	Namings: []checkpoint.Naming{{Source: "patchmlp", Marks: []string{"blocks.#.fc.*"}, Rules: checkpoint.Keeps("patch.*", "blocks.#.fc.*", "norm.*", "head.*")}},
	// Derive the configuration from the shapes of the tensors in the checkpoint.
	Configure: func(s *backbone.Source) (backbone.Config, error) {
		kernel, err := s.Shape("patch.weight", 4)
		if err != nil {
			return backbone.Config{}, err
		}
		depth, err := s.Count("blocks")
		return backbone.Config{ImageSize: 32, LayerNormEps: 1e-6, Form: patchMLP{Width: kernel[0], Depth: depth}}, err
	},
	Validate: func(f patchMLP, c backbone.Config) error {
		if min(f.Width, f.Depth) < 1 || max(f.Width, f.Depth) > 1<<12 || c.ImageSize%patch != 0 {
			return fmt.Errorf("%+v does not fit images of %d px", f, c.ImageSize)
		}
		return nil
	},
	Describe:    func(f patchMLP, _ backbone.Config) string { return fmt.Sprint("patch MLP ", f.Width) },
	NumFeatures: func(f patchMLP) int { return f.Width },
	Blocks:      func(f patchMLP) int { return f.Depth },
	Tokens:      func(_ patchMLP, c backbone.Config) int { return c.ImageSize / patch * (c.ImageSize / patch) },
	Params:      patchMLP.params, FeatureMap: patchMLP.featureMap,
	Features: func(f patchMLP, c backbone.Config, l backbone.Layers, _ int, images *Node) *Node {
		return ReduceMean(f.featureMap(c, l, 0, images), 1, 2) // [B, D]
	},
}

// params returns all tensors of the backbone except the head.
func (f patchMLP) params(backbone.Config) []backbone.Param {
	kernel := backbone.Param{Name: "patch.weight", Shape: []int{f.Width, 3, patch, patch}}
	params := []backbone.Param{kernel, {Name: "patch.bias", Shape: []int{f.Width}}}
	for i := range f.Depth {
		params = append(params, backbone.LinearParams(fmt.Sprintf("blocks.%d.fc", i), f.Width, f.Width, backbone.Scored)...)
	}
	return append(params, backbone.NormParams("norm", f.Width)...)
}

// featureMap builds the graph that computes the features of every patch.
func (f patchMLP) featureMap(c backbone.Config, l backbone.Layers, _ int, images *Node) *Node {
	x := l.Output("patch", backbone.PatchEmbed(l, "patch", images, patch))
	for i := range f.Depth {
		name := fmt.Sprintf("blocks.%d.fc", i)
		x = Add(x, l.Branch(name, i, x, backbone.GELU(l.Linear(name, x))))
	}
	return c.LayerNorm(l, "norm", x) // [B, H, W, D]
}

// writeRandom writes a checkpoint with random weights and no head.
func writeRandom(path string) error {
	var entries []checkpoint.Entry
	for _, p := range (patchMLP{Width: 32, Depth: 3}).params(backbone.Config{}) {
		values := make([]float32, p.Size())
		for i := range values {
			values[i] = float32(rand.NormFloat64()) / 8
		}
		entries = append(entries, checkpoint.Entry{Name: p.Name, DType: checkpoint.F32, Shape: p.Shape, Data: values})
	}
	return checkpoint.Save(path, entries, nil)
}

func main() {
	err := backbone.Register(architecture)
	if err == nil && len(os.Args) == 3 && os.Args[1] == "new" {
		err = writeRandom(os.Args[2])
	} else if err == nil {
		os.Exit(cli.Main(os.Args[1:]))
	}
	if err != nil {
		log.Fatal(err)
	}
}
