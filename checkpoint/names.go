package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// StateDict is a set of tensors by name. Inside spt names are canonical: timm's newest, but with
// the query, key and value of an attention apart, as `attn.q.weight`, `attn.k.weight`,
// `attn.v.weight` [D, D] and `.bias` [D].
type StateDict map[string]Tensor

// qkv lists the canonical parts of timm's fused `attn.qkv`, in the order of its rows.
var qkv = [3]string{"q", "k", "v"}

// cutAttention splits a name such as `blocks.3.attn.qkv.weight` into `blocks.3.attn.` and `weight`,
// for the part `qkv`. ok is false for a name of another form.
func cutAttention(name, part string) (prefix, kind string, ok bool) {
	for _, kind := range []string{"weight", "bias"} {
		prefix, ok := strings.CutSuffix(name, part+"."+kind)
		if ok && (prefix == "attn." || strings.HasSuffix(prefix, ".attn.")) {
			return prefix, kind, true
		}
	}
	return "", "", false
}

// Canonical reads all floating-point tensors of the file (F32, F16, BF16, F64) and gives them
// canonical names, as [StateDict.Canonical] does. Unused in the Translation lists every tensor of
// the file that is not in the StateDict, also those of other types. An error in one tensor is a
// [*FormatError].
func (f *File) Canonical(namings []Naming) (StateDict, Translation, error) {
	raw, others, err := f.floats()
	if err != nil {
		return nil, Translation{}, err
	}
	if len(raw) == 0 && len(others) > 0 {
		info := f.tensors[f.byName[others[0]]]
		return nil, Translation{}, fmt.Errorf("checkpoint %s: none of its %d tensors is of a type that is read, F32, F16, BF16 or F64; the first, %q, is %s", f.name, len(others), info.Name, info.DType)
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

// floats reads all floating-point tensors under the file's own names, and lists the others.
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

// Fused returns sd under timm's own names, for a checkpoint that other programs read: q, k and v of
// each attention become the rows of one `attn.qkv`. An attention stays as it is unless it has q, k
// and v with equal shapes. Fused tensors are new arrays; all others share their values with sd.
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

// canFuse reports whether q, k and v of the attention under prefix have their weights, their
// biases, or both, in equal shapes, and there is no fused form.
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
