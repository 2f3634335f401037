package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// StateDict maps the names of tensors to their values. In spt the names are canonical: they are the
// names of the newest timm, with one difference. timm fuses the query, key and value matrices of an
// attention in `attn.qkv`. The canonical form has three tensors, `attn.q.weight`, `attn.k.weight`
// and `attn.v.weight` of shape [D, D], and three biases of shape [D]. [File.Canonical] reads a
// StateDict from a file, and [StateDict.Fused] converts it to timm's names.
type StateDict map[string]Tensor

// qkv lists the canonical names of the parts of timm's fused `attn.qkv`, in the order of its rows.
var qkv = [3]string{"q", "k", "v"}

// cutAttention splits the name of a tensor of an attention around part. For the part `qkv` it
// splits `blocks.3.attn.qkv.weight` into `blocks.3.attn.` and `weight`. ok is false for a name of
// another form.
func cutAttention(name, part string) (prefix, kind string, ok bool) {
	for _, kind := range []string{"weight", "bias"} {
		prefix, ok := strings.CutSuffix(name, part+"."+kind)
		if ok && (prefix == "attn." || strings.HasSuffix(prefix, ".attn.")) {
			return prefix, kind, true
		}
	}
	return "", "", false
}

// Canonical reads all floating-point tensors of the file (F32, F16, BF16 and F64) and translates
// their names and shapes to the canonical ones, as [StateDict.Canonical] does. [Translation].Unused
// lists every tensor of the file that is not in the StateDict, including the tensors of other
// types. An error that concerns one tensor is a [*FormatError].
func (f *File) Canonical(namings []Naming) (StateDict, Translation, error) {
	raw, others, err := f.floats()
	if err != nil {
		return nil, Translation{}, err
	}
	if len(raw) == 0 && len(others) > 0 {
		info := f.tensors[f.byName[others[0]]]
		return nil, Translation{}, fmt.Errorf("checkpoint %s: none of its %d tensors has one of the types F32, F16, BF16 and F64; the first, %q, has type %s; convert the checkpoint to one of these types", f.name, len(others), info.Name, info.DType)
	}
	sd, t, err := raw.Canonical(namings)
	if fault, ok := errors.AsType[*nameError](err); ok {
		info := f.tensors[f.byName[fault.tensor]]
		return nil, Translation{}, &FormatError{File: info.file, Offset: info.at, Tensor: info.Name, Err: fault.err}
	}
	if err != nil {
		return nil, Translation{}, fmt.Errorf("checkpoint %s: %w", f.name, err)
	}
	t.Unused = append(t.Unused, others...)
	slices.Sort(t.Unused)
	return sd, t, nil
}

// floats reads all floating-point tensors, under the names that they have in the file. others lists
// the names of all other tensors.
func (f *File) floats() (sd StateDict, others []string, err error) {
	sd = StateDict{}
	for _, info := range f.tensors {
		if !info.DType.readsAsFloat32() {
			others = append(others, info.Name)
			continue
		}
		if sd[info.Name], err = info.float32(); err != nil {
			return nil, nil, err
		}
	}
	return sd, others, nil
}

// Fused returns the tensors of sd under the names of timm, for checkpoints that other programs
// read. It joins q, k and v of each attention as the rows of one `attn.qkv`. It leaves an attention
// unchanged if one of q, k and v is missing or their shapes differ. Fused tensors are new arrays;
// all other tensors share their values with sd.
func (sd StateDict) Fused() StateDict {
	out := maps.Clone(sd)
	for name := range sd {
		prefix, _, ok := cutAttention(name, "q")
		if !ok || !sd.canFuse(prefix) {
			continue
		}
		for _, kind := range []string{"weight", "bias"} {
			q, ok := sd[prefix+"q."+kind]
			if !ok {
				continue
			}
			fused := Tensor{Shape: slices.Clone(q.Shape), Data: make([]float32, 0, 3*len(q.Data))}
			fused.Shape[0] *= 3
			for _, part := range qkv {
				fused.Data = append(fused.Data, sd[prefix+part+"."+kind].Data...)
				delete(out, prefix+part+"."+kind)
			}
			out[prefix+"qkv."+kind] = fused
		}
	}
	return out
}

// canFuse reports whether the attention under prefix has q, k and v with equal shapes and no fused
// form. Weights, biases or both may be present, but for all three.
func (sd StateDict) canFuse(prefix string) bool {
	for kind, rank := range map[string]int{"weight": 2, "bias": 1} {
		if _, ok := sd[prefix+"qkv."+kind]; ok {
			return false
		}
		q, present := sd[prefix+"q."+kind]
		if present && len(q.Shape) != rank {
			return false
		}
		for _, part := range qkv {
			t, ok := sd[prefix+part+"."+kind]
			if ok != present || !slices.Equal(t.Shape, q.Shape) {
				return false
			}
		}
	}
	return true
}
