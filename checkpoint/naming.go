package checkpoint

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Naming says how the tensors of a checkpoint were named before [StateDict.Canonical] translated them.
type Naming struct {
	Family string `json:"family"` // "vit", "swin" or "convnext"
	// Source is whose names they were, for people. Originals that use timm's very names, as DeiT's do, are "timm".
	Source string `json:"source"`
	// NumHeads is the number of attention heads where the shapes tell it, as Google's do; 0 where they do not.
	NumHeads int `json:"num_heads,omitempty"`
	// ConvMLP says that the linear layers of a ConvNeXt's MLPs were 1×1 convolutions.
	ConvMLP bool `json:"conv_mlp,omitempty"`
	// Unused lists the tensors, under the names of the checkpoint and sorted, that are no part of a backbone or its
	// head: poolers, decoders, projection heads, momentum encoders, buffers that are recomputed.
	Unused []string `json:"unused,omitempty"`
}

// naming is one way to name the tensors of a family. It knows a name by its pattern: the first numbers among the parts
// between dots are written "#", a last part "weight" or "bias" is written "*".
type naming struct {
	family, source string
	// marks are patterns of which a checkpoint has at least one, and which no other naming has.
	marks []string
	rules map[string]rule
	// strict are prefixes under which every name must have a rule. A tensor there that has none makes another
	// architecture, which would run and give nonsense if it were left out.
	strict []string
	// refine tells apart what shares its marks; seen holds all patterns of the checkpoint. Nil: nothing shares them.
	refine func(n naming, seen map[string]string) naming
}

// rule gives the canonical name for a pattern: its "#" and "*" stand for those of the pattern, "#+" for the number
// plus one. An empty name drops the tensor.
type rule struct {
	to     string
	change func(Tensor) (Tensor, error) // nil leaves the tensor as it is
}

// renames are rules that change names alone, from pairs of a pattern and its canonical name.
func renames(pairs ...string) map[string]rule {
	rules := map[string]rule{}
	for i := 0; i < len(pairs); i += 2 {
		rules[pairs[i]] = rule{to: pairs[i+1]}
	}
	return rules
}

// unchanged are rules for names that are canonical already.
func unchanged(names ...string) map[string]rule {
	rules := map[string]rule{}
	for _, name := range names {
		rules[name] = rule{to: name}
	}
	return rules
}

// union joins sets of rules.
func union(sets ...map[string]rule) map[string]rule {
	all := map[string]rule{}
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

// wrappers are prefixes that training code and larger models put before a backbone's own names.
var wrappers = []string{
	"module.", "_orig_mod.", "model.", "backbone.", "base_encoder.",
	"vit.", "deit.", "dinov2.", "dinov2_with_registers.", "swin.", "convnext.", "convnextv2.",
}

var namings = slices.Concat(vitNamings, swinNamings, convnextNamings)

// nameError is a fault of one tensor of a StateDict, under the checkpoint's own name for it.
type nameError struct {
	tensor string
	err    error
}

func (e *nameError) Error() string { return fmt.Sprintf("tensor %.200q: %v", e.tensor, e.err) }
func (e *nameError) Unwrap() error { return e.err }

func nameErrorf(tensor, format string, args ...any) error {
	return &nameError{tensor, fmt.Errorf(format, args...)}
}

// Canonical translates the names and shapes of a checkpoint, as they were read, to the canonical ones: timm's newest,
// with q, k and v apart. Which naming it is shows in the names alone. The result holds canonical names only;
// everything else is listed in the Naming. Its tensors share their data with sd wherever the order of the values is
// the same. A canonical StateDict is returned as it is.
//
// It is an error if the names are of no known naming, or of several; if two tensors have the same canonical name; if an
// attention has both a fused qkv and separate parts; and if a block has a tensor that no model of the family has.
//
//	ViT       cls_token [1,1,D], dist_token, reg_token [1,R,D], pos_embed [1,P,D], patch_embed.proj [D,3,p,p],
//	          norm_pre, blocks.i.{norm1, attn.{q,k,v} [D,D], attn.{q_norm,k_norm}, attn.proj, ls1.gamma, norm2,
//	          mlp.fc1 [H,D], mlp.fc2 [D,H], ls2.gamma}, norm, fc_norm, head, head_dist.
//	          A SwiGLU is packed as in timm: mlp.fc1 [2H,D] with the gate's rows first, mlp.fc2 [D,H].
//	          DINOv2's models with registers have the class token's position added to cls_token, as in timm.
//	Swin      patch_embed.{proj,norm}, layers.i.downsample.{norm,reduction} at the start of stage i,
//	          layers.i.blocks.j.{norm1, attn.{q,k,v,proj,relative_position_bias_table}, norm2, mlp.{fc1,fc2}},
//	          norm, head.fc
//	ConvNeXt  stem.{0,1}, stages.i.downsample.{0,1}, stages.i.blocks.j.{conv_dw [C,1,7,7], norm, mlp.fc1 [H,C],
//	          mlp.fc2 [C,H], mlp.grn.{weight,bias} [H], gamma}, head.norm, head.fc
func (sd StateDict) Canonical() (StateDict, Naming, error) {
	for name, x := range sd {
		if x.Size() != len(x.Data) {
			return nil, Naming{}, nameErrorf(name, "%d values in shape %v, expected %d", len(x.Data), x.Shape, x.Size())
		}
	}
	t := translation{in: map[string]named{}, out: map[string]named{}, unused: []string{}}
	n, ok, err := t.google(sd)
	if err == nil && !ok {
		n, err = t.dotted(sd)
	}
	if err != nil {
		return nil, Naming{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(t.in)) {
		if err := t.add(n, name); err != nil {
			return nil, Naming{}, err
		}
	}
	if err := t.regroup(n.family); err != nil {
		return nil, Naming{}, err
	}
	out := make(StateDict, len(t.out))
	for name, x := range t.out {
		out[name] = x.Tensor
	}
	slices.Sort(t.unused)
	return out, Naming{Family: n.family, Source: n.source, NumHeads: t.heads, ConvMLP: t.convMLP, Unused: t.unused}, nil
}

// translation is the state of one [StateDict.Canonical].
type translation struct {
	in     map[string]named // under the names that the rules see
	out    map[string]named // under canonical names
	unused []string
	heads  int

	convMLP bool
}

// named is a tensor with the name that it has in the checkpoint.
type named struct {
	Tensor
	source string
}

// put adds a tensor to set, one of those of a translation.
func put(set map[string]named, name string, x named) error {
	if other, ok := set[name]; ok {
		return nameErrorf(x.source, "it and tensor %.200q are both %.200s: the names are mixed, or the checkpoint holds two models; keep one", other.source, name)
	}
	set[name] = x
	return nil
}

// dotted takes the wrappers off all names, which are parts between dots, and recognises their naming.
func (t *translation) dotted(sd StateDict) (naming, error) {
	seen := map[string]string{} // pattern → one name
	for _, name := range slices.Sorted(maps.Keys(sd)) {
		short := unwrap(name)
		if err := put(t.in, short, named{sd[name], name}); err != nil {
			return naming{}, err
		}
		for pattern := range patterns(short) {
			seen[pattern] = name
		}
	}
	var found []naming
	var shown []string
	for _, n := range namings {
		if i := slices.IndexFunc(n.marks, func(m string) bool { return seen[m] != "" }); i >= 0 {
			found, shown = append(found, n), append(shown, seen[n.marks[i]])
		}
	}
	switch len(found) {
	case 1:
		if n := found[0]; n.refine != nil {
			return n.refine(n, seen), nil
		}
		return found[0], nil
	case 0:
		return naming{}, fmt.Errorf("the names of its %d tensors are of no naming that spt knows: %s; it knows %s; convert it to one of these",
			len(sd), firstFive(quoted(slices.Sorted(maps.Keys(sd)))), knownNamings())
	}
	return naming{}, nameErrorf(shown[1], "its name is of a %s of %s, but tensor %.200q is of a %s of %s: the checkpoint mixes two namings; give one model in one naming",
		found[1].family, found[1].source, shown[0], found[0].family, found[0].source)
}

// knownNamings lists the namings of each family, for errors.
func knownNamings() string {
	sources := map[string][]string{}
	for _, n := range namings {
		sources[n.family] = append(sources[n.family], n.source)
	}
	sources["vit"] = append(sources["vit"], googleSource, bigVisionSource)
	var list []string
	for _, family := range slices.Sorted(maps.Keys(sources)) {
		list = append(list, fmt.Sprintf("%s (%s)", family, strings.Join(sources[family], ", ")))
	}
	return strings.Join(list, "; ")
}

// unwrap takes off the prefixes of wrappers.
func unwrap(name string) string {
	for again := true; again; {
		again = false
		for _, w := range wrappers {
			if short, ok := strings.CutPrefix(name, w); ok && short != "" {
				name, again = short, true
			}
		}
	}
	return name
}

// maxNumbers is how many numbers a pattern leaves open: a stage and a block.
const maxNumbers = 2

// patterns yields the forms under which a rule may have name, the most specific first, each with the numbers and the
// last part that it leaves open.
func patterns(name string) iter.Seq2[string, opened] {
	return func(yield func(string, opened) bool) {
		parts := strings.Split(name, ".")
		var open opened
		if last := parts[len(parts)-1]; last == "weight" || last == "bias" {
			open.leaf = last
		}
		i := 0
		for range maxNumbers + 1 {
			if !yield(strings.Join(parts, "."), open) {
				return
			}
			if open.leaf != "" {
				parts[len(parts)-1] = "*"
				if !yield(strings.Join(parts, "."), open) {
					return
				}
				parts[len(parts)-1] = open.leaf
			}
			for i < len(parts) && !isNumber(parts[i]) {
				i++
			}
			if i == len(parts) {
				return
			}
			open.numbers = append(open.numbers, parts[i])
			parts[i] = "#"
			i++
		}
	}
}

// opened is what a pattern leaves open of a name.
type opened struct {
	numbers []string
	leaf    string // "weight", "bias" or ""
}

// isNumber accepts the numbers of blocks and stages: one spelling each, none of them beyond what any model has.
func isNumber(part string) bool {
	if part == "" || len(part) > 4 || part[0] == '0' && len(part) > 1 {
		return false
	}
	return strings.Trim(part, "0123456789") == ""
}

// fill puts what a pattern left open into a rule's canonical name.
func (o opened) fill(to string) string {
	var out strings.Builder
	numbers := o.numbers
	for part := range strings.SplitSeq(to, ".") {
		if out.Len() > 0 {
			out.WriteByte('.')
		}
		switch part {
		case "#":
			part, numbers = numbers[0], numbers[1:]
		case "#+":
			n, _ := strconv.Atoi(numbers[0]) // isNumber has accepted it
			part, numbers = strconv.Itoa(n+1), numbers[1:]
		case "*":
			part = o.leaf
		}
		out.WriteString(part)
	}
	return out.String()
}

// rule finds the rule for name.
func (n naming) rule(name string) (r rule, open opened, ok bool) {
	for pattern, open := range patterns(name) {
		if r, ok := n.rules[pattern]; ok {
			return r, open, true
		}
	}
	return rule{}, opened{}, false
}

// add translates the tensor that the rules of n see under name.
func (t *translation) add(n naming, name string) error {
	x := t.in[name]
	r, open, ok := n.rule(name)
	if !ok {
		for _, prefix := range n.strict {
			if strings.HasPrefix(name, prefix) {
				return nameErrorf(x.source, "a %s of %s has no such tensor: the checkpoint is of another architecture, which spt does not know", n.family, n.source)
			}
		}
	}
	if r.to == "" {
		t.unused = append(t.unused, x.source)
		return nil
	}
	if n.family == "convnext" && strings.Contains(r.to, ".mlp.fc1.") && len(x.Shape) == 4 {
		t.convMLP = true
	}
	if r.change != nil {
		var err error
		if x.Tensor, err = r.change(x.Tensor); err != nil {
			return &nameError{x.source, err}
		}
	}
	return put(t.out, open.fill(r.to), x)
}

// regroup joins and splits what the namings of a family divide differently.
func (t *translation) regroup(family string) error {
	switch family {
	case "vit":
		if err := t.packGates(); err != nil {
			return err
		}
		if err := t.foldClassPosition(); err != nil {
			return err
		}
	case "swin":
		if err := t.checkMerging(); err != nil {
			return err
		}
	}
	return t.splitAttention()
}

// splitAttention puts q, k and v, which are parts of its array, in place of each fused attn.qkv.
func (t *translation) splitAttention() error {
	type fused struct{ name, prefix, kind string }
	var all []fused
	for _, name := range slices.Sorted(maps.Keys(t.out)) {
		prefix, kind, ok := cutAttention(name, "qkv")
		if !ok {
			continue
		}
		all = append(all, fused{name, prefix, kind})
		for _, part := range qkv {
			for _, k := range []string{"weight", "bias"} {
				if other, ok := t.out[prefix+part+"."+k]; ok {
					return nameErrorf(t.out[name].source, "the checkpoint also has %.200q: a block is either fused or has q, k and v apart; remove one form", other.source)
				}
			}
		}
	}
	for _, f := range all {
		x := t.out[f.name]
		delete(t.out, f.name)
		if want := map[string]int{"weight": 2, "bias": 1}[f.kind]; len(x.Shape) != want || x.Shape[0]%3 != 0 {
			return nameErrorf(x.source, "shape %v cannot be split into q, k and v, expected [3D, D] for a weight, [3D] for a bias", x.Shape)
		}
		n := len(x.Data) / 3
		for i, part := range qkv {
			shape := slices.Clone(x.Shape)
			shape[0] /= 3
			t.out[f.prefix+part+"."+f.kind] = named{Tensor{Shape: shape, Data: x.Data[i*n : (i+1)*n : (i+1)*n]}, x.source}
		}
	}
	return nil
}
