// Package embedded holds the small ViT that this project pretrained itself and that every spt
// binary contains. It needs no file, so examples, tests and the demo work everywhere. Command 'spt
// pretrain' made the weights.
package embedded

import (
	"bytes"
	_ "embed"
	"fmt"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// Name is the model path that stands for the embedded backbone.
const Name = "demo"

// weights holds the checkpoint that 'spt pretrain' wrote: float16, names of timm.
//
//go:embed vit_demo.safetensors
var weights []byte

// Model returns the embedded backbone with a new head for numClasses classes. With numClasses 0 it
// keeps the head of the 240 pretraining classes.
func Model(numClasses int) (*backbone.Model, error) {
	f, err := checkpoint.NewFile(bytes.NewReader(weights), int64(len(weights)), Name)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded backbone: %w", err)
	}
	m, _, err := backbone.FromFile(f, backbone.LoadOptions{NumClasses: numClasses})
	if err != nil {
		return nil, fmt.Errorf("reading the embedded backbone: %w", err)
	}
	m.Path = Name
	return m, nil
}
