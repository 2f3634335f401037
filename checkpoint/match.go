package checkpoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ShapeMismatch is a wanted tensor that the checkpoint has in another shape.
type ShapeMismatch struct {
	Name string `json:"name"`
	Got  []int  `json:"got"`
	Want []int  `json:"want"`
}

// Report lists what became of every tensor that a model needs and of every tensor that a checkpoint
// has. All lists but Unused, which is sorted, are in the order of the model.
type Report struct {
	Matched []string `json:"matched"` // needed, and in the checkpoint
	Missing []string `json:"missing"` // needed, and not in the checkpoint
	// needed, and in the checkpoint in another shape
	WrongShape []ShapeMismatch `json:"wrong_shape"`
	Unused     []string        `json:"unused"` // in the checkpoint, and not needed
}

// Match compares the tensors of sd with those that a model needs: their canonical names and shapes,
// which must agree exactly. Element types are not compared.
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

// Err returns an error if a tensor that the model needs is missing or has another shape. file names
// the checkpoint in the error.
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

// quoted keeps a hostile file's names from writing control characters to a terminal.
func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = fmt.Sprintf("%.200q", name)
	}
	return out
}

func mismatches(list []ShapeMismatch) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = fmt.Sprintf("%q has %v, wanted %v", m.Name, m.Got, m.Want)
	}
	return out
}

func firstFive(items []string) string {
	if len(items) <= 5 {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:5], ", "), len(items)-5)
}
