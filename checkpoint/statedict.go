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

// Canonical reads the model in the file and translates the names and shapes of its tensors to the
// canonical ones, as [StateDict.Canonical] does. It looks for the model in every dict of tensors in
// the file and below every prefix of names. If it finds several models, it prefers the model under
// the first of the keys that [Open] lists; otherwise the error is a [*KeyError].
//
// Canonical reads floating-point tensors (F32, F16, BF16 and F64). [Translation].Unused lists every
// tensor of the dict that is not in the StateDict, including the tensors of other types. A tensor
// of another type that the model needs is an error. An error that concerns one tensor is a
// [*FormatError].
func (f *File) Canonical(namings []Naming) (StateDict, Translation, error) {
	return f.CanonicalAt(namings, "")
}

// CanonicalAt is Canonical for the model under key, which is the [Translation].Key of a model in
// the file. An empty key stands for the model that Canonical finds.
func (f *File) CanonicalAt(namings []Naming, key string) (StateDict, Translation, error) {
	fail := func(err error) (StateDict, Translation, error) {
		return nil, Translation{}, fmt.Errorf("checkpoint %s: %w", f.name, err)
	}
	dicts := append([]dict{f.dict}, f.more...)
	lists := make([]nameList, len(dicts))
	for i, d := range dicts {
		lists[i] = nameList{d.path, d.names()}
	}
	c, err := search(lists, namings, key)
	if _, ok := errors.AsType[*KeyError](err); ok {
		return fail(err)
	}
	d := dicts[0]
	if c != nil {
		d = dicts[c.dict]
	}
	at := func(tensor string, err error) (StateDict, Translation, error) {
		fault := &FormatError{File: f.name, Tensor: tensor, Err: err}
		if i := slices.IndexFunc(d.tensors, func(t stored) bool { return t.Name == tensor }); i >= 0 {
			fault.File, fault.Offset = d.tensors[i].file, d.tensors[i].at
		}
		return nil, Translation{}, fault
	}
	if fault, ok := errors.AsType[*nameError](err); ok {
		return at(fault.tensor, fault.err)
	}
	raw, others, err := d.floats(c)
	if err != nil {
		return nil, Translation{}, err
	}
	if len(raw) == 0 && len(others) > 0 {
		first := d.tensor(others[0])
		return fail(fmt.Errorf("none of its %d tensors has one of the types F32, F16, BF16 and F64; the first, %q, has type %s; %s", len(others), first.Name, first.DType, first.DType.advice()))
	}
	if c != nil {
		if name, err := d.unreadable(c); err != nil {
			return at(name, err)
		}
	}
	sd, t, err := raw.canonical(namings, c)
	if fault, ok := errors.AsType[*nameError](err); ok {
		return at(fault.tensor, fault.err)
	}
	if err != nil {
		return fail(err)
	}
	if c == nil && key != "" && key != RootKey {
		return fail(&KeyError{Key: key})
	}
	t.Unused = append(t.Unused, others...)
	slices.Sort(t.Unused)
	return sd, t, nil
}

// dict is one dict of tensors in a checkpoint.
type dict struct {
	path    string   // keys that lead to the dict, separated by dots; empty for the root
	tensors []stored // sorted by name in a File
	// for each name without a readable tensor, a description of its value
	others map[string]string
}

// names lists all names in the dict.
func (d dict) names() []string {
	names := slices.Collect(maps.Keys(d.others))
	for _, t := range d.tensors {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return names
}

// tensor returns the tensor called name, which must be in the dict.
func (d dict) tensor(name string) stored {
	return d.tensors[slices.IndexFunc(d.tensors, func(t stored) bool { return t.Name == name })]
}

// floats reads the floating-point tensors, under the names that they have in the file: those at the
// place c, or all if c is nil. others lists the names of all other tensors.
func (d dict) floats(c *candidate) (sd StateDict, others []string, err error) {
	sd = StateDict{}
	for _, info := range d.tensors {
		if c != nil {
			if _, ok := c.short[info.Name]; !ok {
				others = append(others, info.Name)
				continue
			}
		}
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

// unreadable returns an error if the model at c needs a tensor whose values cannot be read, and the
// name of this tensor.
func (d dict) unreadable(c *candidate) (name string, err error) {
	needed := func(name string) bool {
		rule, _, ok := c.naming.Rules.find(c.short[name])
		return ok && rule.To != ""
	}
	for _, name := range slices.Sorted(maps.Keys(d.others)) {
		if needed(name) {
			return name, fmt.Errorf("the model needs this tensor, but its values cannot be read: %s; save the model with ordinary tensors of type float32, float16 or bfloat16", d.others[name])
		}
	}
	var first stored
	count := 0
	for _, t := range d.tensors {
		if !t.DType.readsAsFloat32() && needed(t.Name) {
			if count++; count == 1 {
				first = t
			}
		}
	}
	if count == 0 {
		return "", nil
	}
	return first.Name, fmt.Errorf("this tensor and %d others that the model needs have type %s or another type that is not F32, F16, BF16 or F64; %s", count-1, first.DType, first.DType.advice())
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
