package checkpoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ShapeMismatch describes a tensor that the model needs and that the checkpoint has in another
// shape.
type ShapeMismatch struct {
	// Name is the canonical name of the tensor.
	Name string `json:"name"`
	// Got is the shape in the checkpoint.
	Got []int `json:"got"`
	// Want is the shape that the model needs.
	Want []int `json:"want"`
}

// Report compares the tensors that a model needs with the tensors of a checkpoint. [Match] returns
// one. Each tensor is in one of the lists Matched, Missing, WrongShape and Unused. The names are
// canonical.
type Report struct {
	// Matched lists the tensors that the model needs and the checkpoint has, in the order of the
	// model.
	Matched []string `json:"matched"`
	// Missing lists the tensors that the model needs and the checkpoint does not have, in the order
	// of the model.
	Missing []string `json:"missing"`
	// WrongShape lists the tensors that the checkpoint has in another shape than the model needs,
	// in the order of the model.
	WrongShape []ShapeMismatch `json:"wrong_shape"`
	// Unused lists the tensors of the checkpoint that the model does not need, sorted.
	Unused []string `json:"unused"`
	// Unknown lists the unused tensors that may change the output of the model in the checkpoint,
	// sorted. backbone.Load sets it if it keeps the head of the checkpoint.
	Unknown []string `json:"unknown,omitempty"`
	// WeightsKey is the place of the tensors in the checkpoint; see [Translation].Key. It is empty
	// if they are neither in a dict inside the checkpoint nor under a prefix. backbone.Load sets
	// it.
	WeightsKey string `json:"weights_key,omitempty"`
	// Notes says, for people, what the files beside the checkpoint state that is not used, and why.
	Notes []string `json:"notes,omitempty"`
}

// Match compares the tensors of sd with wanted, the tensors that a model needs. A tensor matches if
// sd has a tensor of the same canonical name and exactly the same shape. Element types are not
// compared. None of the lists is nil, except Unknown.
func Match(sd StateDict, wanted []TensorInfo) Report {
	r := Report{Matched: []string{}, Missing: []string{}, WrongShape: []ShapeMismatch{}}
	unused := maps.Clone(sd)
	for _, w := range wanted {
		t, ok := sd[w.Name]
		delete(unused, w.Name)
		switch {
		case ok && slices.Equal(t.Shape, w.Shape):
			r.Matched = append(r.Matched, w.Name)
		case ok:
			r.WrongShape = append(r.WrongShape, ShapeMismatch{w.Name, t.Shape, w.Shape})
		default:
			r.Missing = append(r.Missing, w.Name)
		}
	}
	r.Unused = slices.AppendSeq([]string{}, maps.Keys(unused))
	slices.Sort(r.Unused)
	return r
}

// Err returns an error that lists the missing tensors and those of a wrong shape, or nil if there
// are none. file is the name of the checkpoint in the error.
func (r Report) Err(file string) error {
	if len(r.Missing)+len(r.WrongShape) == 0 {
		return nil
	}
	var faults []string
	if n := len(r.Missing); n > 0 {
		faults = append(faults, fmt.Sprintf("%d missing (%s)", n, firstFive(quoted(r.Missing))))
	}
	if n := len(r.WrongShape); n > 0 {
		faults = append(faults, fmt.Sprintf("%d of the wrong shape (%s)", n, firstFive(mismatches(r.WrongShape))))
	}
	unused := ""
	if len(r.Unused) > 0 {
		unused = fmt.Sprintf("; it has %d tensors that the model does not use (%s)", len(r.Unused), firstFive(quoted(r.Unused)))
	}
	return fmt.Errorf("checkpoint %s does not fit the model: %s%s; choose the architecture and image size that the checkpoint was made for",
		file, strings.Join(faults, ", "), unused)
}

// quoted returns the names in quotes and shortened. Control characters are escaped, because the
// names of a hostile file could otherwise send commands to the terminal.
func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = fmt.Sprintf("%.200q", name)
	}
	return out
}

// mismatches describes each mismatch for an error.
func mismatches(list []ShapeMismatch) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = fmt.Sprintf("%q has %v, wanted %v", m.Name, m.Got, m.Want)
	}
	return out
}

// firstFive joins the first five items and adds the number of the others.
func firstFive(items []string) string {
	if len(items) <= 5 {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:5], ", "), len(items)-5)
}
