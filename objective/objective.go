// Package objective defines what a task optimises: how the target of an image enters the graph, the
// loss, and the metrics.
//
// An [Objective] stands between the data set, which reads targets, and the graph. Package
// sensitivity scores weights with its loss, package train minimises the loss and reports the
// metrics. [Get] finds an objective by name, [Register] adds one. [SingleLabel] is the objective of
// images with one label each.
package objective

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
)

// Objective is what a task optimises. An Objective holds no state: one value serves many runs at
// the same time.
type Objective interface {
	// Name returns the name under which run folders and deltas record the objective.
	Name() string
	// TargetShape returns the shape of the encoded target of one image, without the batch axis, for
	// a data set with that many classes and images of imageSize px. An empty shape is one number.
	TargetShape(classes, imageSize int) []int
	// Encode writes the target of one image to dst, which has as many values as TargetShape. It
	// reports a target of a kind that the objective does not know.
	Encode(target dataset.Target, dst []int32) error
	// Features returns what the head reads, [B, …, width], for images as Model.Features takes them.
	Features(m *backbone.Model, l backbone.Layers, images *Node) *Node
	// Logits returns the outputs of the head for features as Features returns them.
	Logits(c backbone.Config, l backbone.Layers, features *Node) *Node
	// Losses returns the loss of each image, [B], for logits as Logits returns them and encoded
	// targets, int32 [B, TargetShape…].
	Losses(logits, targets *Node) *Node
	// Correct returns how much of each image is predicted right, [B], from 0 to 1, for the arguments
	// of Losses. Its mean over a split is the accuracy.
	Correct(logits, targets *Node) *Node
}

var registry = struct {
	sync.RWMutex
	objectives map[string]Objective
}{objectives: map[string]Objective{SingleLabel.Name(): SingleLabel}}

// Register makes an objective known under its name. A second objective of the same name is an error.
func Register(o Objective) error {
	registry.Lock()
	defer registry.Unlock()
	if o.Name() == "" {
		return fmt.Errorf("registering an objective: it has no name; return one from Name")
	}
	if _, ok := registry.objectives[o.Name()]; ok {
		return fmt.Errorf("registering objective %q: the name is taken", o.Name())
	}
	registry.objectives[o.Name()] = o
	return nil
}

// Get returns the objective of that name; "" stands for [SingleLabel]. The error lists the
// registered names.
func Get(name string) (Objective, error) {
	if name == "" {
		return SingleLabel, nil
	}
	registry.RLock()
	defer registry.RUnlock()
	o, ok := registry.objectives[name]
	if !ok {
		return nil, fmt.Errorf("objective %q is unknown; known: %s", name, strings.Join(names(), ", "))
	}
	return o, nil
}

// names returns the registered names, sorted.
func names() []string {
	var out []string
	for name := range registry.objectives {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
