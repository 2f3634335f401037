// Package embedded holds a small pretrained ViT that is part of every spt binary. [Model] returns
// it without reading a file, so examples, tests and the demo work on every machine. This project
// pretrained the model on synthetic images with the command 'spt pretrain'.
package embedded

import (
	"bytes"
	_ "embed"
	"fmt"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// Name is the name of the embedded backbone. It takes the place of the path of a checkpoint.
const Name = "demo"

// weights holds the checkpoint that 'spt pretrain' wrote, in float16 and with timm names.
//
//go:embed vit_demo.safetensors
var weights []byte

// Model returns the embedded backbone with a new head for numClasses classes. If numClasses is 0,
// it keeps the head for the 760 pretraining classes.
func Model(numClasses int) (*backbone.Model, error) {
	f, err := checkpoint.NewFile(bytes.NewReader(weights), int64(len(weights)), Name)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded backbone: %w", err)
	}
	m, _, err := backbone.FromFile(f, backbone.LoadOptions{NumClasses: numClasses})
	if err != nil {
		return nil, fmt.Errorf("reading the embedded backbone: %w", err)
	}
	m.Path, m.Origin = Name, Name
	return m, nil
}
