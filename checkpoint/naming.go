package checkpoint

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Naming describes how one library names the tensors of an architecture, and how these names are
// translated to the canonical ones. [StateDict.Canonical] chooses the Naming of a checkpoint by the
// names of its tensors and translates them. Package backbone has the namings of the known
// architectures.
//
// Names are matched by patterns. A name consists of parts that are separated by dots. A pattern is
// a name in which "#" replaces the first one or two parts that are numbers, and "*" may replace the
// last part if it is "weight" or "bias". For example "blocks.#.norm1.*" matches
// "blocks.3.norm1.weight".
type Naming struct {
	// Architecture is the name of the architecture, such as "vit".
	Architecture string
	// Source names the library or project that uses the names, such as "timm". It appears in
	// reports and errors.
	Source string
	// Marks are patterns that identify the naming. A checkpoint may have the naming if one of its
	// names matches one of them. If the marks of several namings match, Canonical takes the naming
	// that has rules for all names that match the marks of the others.
	Marks []string
	// Whole holds patterns of tensors that every complete model has, one pattern for each tensor. A
	// model below any prefix is found if its names match Marks and all of Whole. Default nil: only
	// Prefixes are removed, and Marks suffice.
	Whole []string
	// Rules translate the names. A tensor without a rule is unused.
	Rules Rules
	// Strict holds prefixes of names. A name with one of these prefixes must have a rule. If it has
	// none, the checkpoint belongs to another architecture, whose results would be wrong without
	// the tensor, so Canonical returns an error.
	Strict []string
	// Prefixes holds prefixes, such as "vit.", that all names have if the backbone is part of a
	// larger model. Canonical removes them before it matches patterns, also from names outside the
	// backbone, such as those of a head. It always removes the prefixes of training programs, such
	// as "module.".
	Prefixes []string
	// Refine returns the naming to use in place of n, for libraries whose versions use the same
	// marks. has reports whether a name of the checkpoint matches a pattern. Default nil: n is
	// used.
	Refine func(n Naming, has func(pattern string) bool) Naming
	// Split handles a checkpoint whose names are not separated by dots. If sd is such a checkpoint,
	// Split puts its tensors into r under names that are separated by dots and returns true.
	// Default nil: Marks identify the naming.
	Split func(n Naming, sd StateDict, r *Renaming) (found bool, err error)
	// Finish joins and checks tensors after the rules have been applied. Default nil: no such step.
	Finish func(r *Renaming) error
}

// Rules maps each pattern to the rule for the names that match it. See [Naming] for patterns.
type Rules map[string]Rule

// Rule translates the names that match one pattern.
type Rule struct {
	// To is the canonical name. "#" and "*" in To are replaced by the parts of the name that they
	// matched in the pattern, "#+" by the number plus one, and "##" by the second number. If To is
	// empty, the tensor is unused, and the output of the model does not depend on it.
	To string
	// Change returns the tensor in its canonical shape. It must not modify the values of its
	// argument. Default nil: the shape stays the same.
	Change func(Tensor) (Tensor, error)
}

// Renames returns rules that change names and keep shapes. pairs alternates patterns and canonical
// names.
func Renames(pairs ...string) Rules {
	rules := Rules{}
	for i := 0; i < len(pairs); i += 2 {
		rules[pairs[i]] = Rule{To: pairs[i+1]}
	}
	return rules
}

// Keeps returns rules for names that are already canonical.
func Keeps(patterns ...string) Rules {
	rules := Rules{}
	for _, p := range patterns {
		rules[p] = Rule{To: p}
	}
	return rules
}

// Union returns the rules of all sets. If several sets have a rule for the same pattern, Union
// takes the rule of the last set.
func Union(sets ...Rules) Rules {
	all := Rules{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

// find returns the rule for name and the parts of name that the wildcards of its pattern match.
func (r Rules) find(name string) (rule Rule, match matched, ok bool) {
	for pattern, match := range patterns(name) {
		if rule, ok := r[pattern]; ok {
			return rule, match, true
		}
	}
	return Rule{}, matched{}, false
}

// Has reports whether there is a rule for name.
func (r Rules) Has(name string) bool {
	_, _, ok := r.find(name)
	return ok
}

// Names returns the names to which the rules give the canonical name, sorted. There are several if
// a library has several names for a tensor, and none if it has no such tensor.
func (r Rules) Names(canonical string) (names []string) {
	for pattern, rule := range r {
		if match, ok := matchCanonical(rule.To, canonical); ok {
			names = append(names, match.fill(pattern))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// matchCanonical returns the parts of a canonical name that the wildcards of to, the target of a
// rule, stand for. It does not match targets with "##".
func matchCanonical(to, canonical string) (match matched, ok bool) {
	want, parts := strings.Split(to, "."), strings.Split(canonical, ".")
	if len(want) != len(parts) {
		return match, false
	}
	for i, part := range parts {
		switch want[i] {
		case "#", "#+":
			n, err := strconv.Atoi(part)
			if err != nil || !isNumber(part) || want[i] == "#+" && n == 0 {
				return match, false
			}
			if want[i] == "#+" {
				n--
			}
			match.numbers = append(match.numbers, strconv.Itoa(n))
		case "*":
			if part != "weight" && part != "bias" {
				return match, false
			}
			match.leaf = part
		default:
			if part != want[i] {
				return match, false
			}
		}
	}
	return match, true
}

// Canonical returns the canonical name of one tensor of a model whose tensors have the names of n.
// ok is false if no rule applies to the name, or if the output of a model does not depend on the
// tensor. The name may have the prefixes that n and training programs add.
func (n Naming) Canonical(name string) (canonical string, ok bool) {
	rule, match, ok := n.Rules.find(withoutPrefixes(name, slices.Concat(n.Prefixes, trainingPrefixes)))
	if !ok || rule.To == "" {
		return "", false
	}
	return match.fill(rule.To), true
}

// trainingPrefixes are prefixes that training programs add to all names.
var trainingPrefixes = []string{"module.", "_orig_mod.", "model.", "backbone."}

// Translation reports how the names of a checkpoint were translated.
type Translation struct {
	// Architecture is the architecture of the naming, such as "vit".
	Architecture string
	// Source is the library or project whose names the checkpoint has, such as "timm".
	Source string
	// Unused lists the tensors that have no canonical name, under their names in the checkpoint,
	// sorted. They do not belong to a backbone or its head. Examples are poolers, decoders,
	// projection heads, momentum encoders, and buffers that are computed again.
	Unused []string
	// Unknown lists those unused tensors that are in the same module as the backbone and for which
	// the naming has no rule. The model that was saved may have computed with them.
	Unknown []string
	// Key is the place of the model in the checkpoint: the keys of its dict and the prefix of its
	// names, separated by dots. It is RootKey if there are neither.
	Key string

	origins map[string]Origin
}

// Origin is the tensor of the checkpoint from which a canonical tensor was made.
type Origin struct {
	// Name is the name in the checkpoint.
	Name string
	// Shape is the shape in the checkpoint.
	Shape []int
}

// Origin returns the origin of the tensor with the canonical name name. It is empty if there is no
// such tensor.
func (t Translation) Origin(name string) Origin { return t.origins[name] }

// Renaming holds the tensors of a checkpoint while they are translated. The functions Split and
// Finish of a [Naming] work on it. Each tensor keeps its [Origin], so that errors use the names of
// the checkpoint.
type Renaming struct {
	tensors map[string]renamed
	unused  []string
	unknown []string // those of the unused that have no rule
}

// renamed is a tensor with its origin.
type renamed struct {
	Tensor
	origin Origin
}

// Names lists the current names of the tensors, sorted.
func (r *Renaming) Names() []string { return slices.Sorted(maps.Keys(r.tensors)) }

// Tensor returns the tensor called name. ok is false if there is none.
func (r *Renaming) Tensor(name string) (x Tensor, ok bool) {
	found, ok := r.tensors[name]
	return found.Tensor, ok
}

// Origin returns the origin of the tensor called name. It is empty if there is no such tensor.
func (r *Renaming) Origin(name string) Origin { return r.tensors[name].origin }

// Put adds tensor x under name. It is an error if there is already a tensor of this name.
func (r *Renaming) Put(name string, x Tensor, origin Origin) error {
	if other, ok := r.tensors[name]; ok {
		return nameErrorf(origin.Name, "this tensor and tensor %.200q both have the canonical name %.200s: the checkpoint mixes two namings or holds two models; remove the tensors of one", other.origin.Name, name)
	}
	r.tensors[name] = renamed{x, origin}
	return nil
}

// Remove removes the tensor called name, if there is one.
func (r *Renaming) Remove(name string) { delete(r.tensors, name) }

// Skip adds a tensor to the unused ones. source is its name in the checkpoint.
func (r *Renaming) Skip(source string) { r.unused = append(r.unused, source) }

// ErrorAt returns an error about one tensor. source is its name in the checkpoint; format and args
// are as in fmt.Errorf. [File.Canonical] turns the error into a [*FormatError].
func (r *Renaming) ErrorAt(source, format string, args ...any) error {
	return nameErrorf(source, format, args...)
}

// nameError is an error about one tensor of a StateDict. tensor is its name in the checkpoint.
type nameError struct {
	tensor string
	err    error
}

func (e *nameError) Error() string { return fmt.Sprintf("tensor %.200q: %v", e.tensor, e.err) }
func (e *nameError) Unwrap() error { return e.err }

// nameErrorf returns a nameError about tensor.
func nameErrorf(tensor, format string, args ...any) error {
	return &nameError{tensor, fmt.Errorf(format, args...)}
}

// Canonical translates the names and shapes of the tensors of a checkpoint to the canonical ones.
// It chooses the naming among namings by the names in sd. The result holds the tensors that have a
// canonical name; [Translation].Unused lists the others. A tensor shares its values with sd if
// their order stays the same. Canonical splits the fused query, key and value of an attention
// (`attn.qkv`) into three tensors.
//
// Canonical returns an error if
//   - the names match none of the namings, or several
//   - two tensors have the same canonical name
//   - an attention has both a fused qkv and separate parts
//   - a name with one of the prefixes in Strict has no rule
//   - the number of values of a tensor does not agree with its shape
func (sd StateDict) Canonical(namings []Naming) (StateDict, Translation, error) {
	for name, x := range sd {
		if x.Size() != len(x.Data) {
			return nil, Translation{}, nameErrorf(name, "it has %d values, but shape %v requires %d", len(x.Data), x.Shape, x.Size())
		}
	}
	c, err := search([]nameList{{names: slices.Sorted(maps.Keys(sd))}}, namings, "")
	if err != nil {
		return nil, Translation{}, err
	}
	return sd.canonical(namings, c)
}

// canonical translates the tensors of sd at the place c. If c is nil, it looks for a naming whose
// names are not separated by dots.
func (sd StateDict) canonical(namings []Naming, c *candidate) (StateDict, Translation, error) {
	in := &Renaming{tensors: map[string]renamed{}}
	n, key, err := Naming{}, RootKey, error(nil)
	if c == nil {
		n, err = split(sd, namings, in)
	} else {
		n, key = c.naming, c.key
		for _, name := range slices.Sorted(maps.Keys(sd)) {
			if short, ok := c.short[name]; !ok {
				in.Skip(name)
			} else if err = in.Put(short, sd[name], Origin{name, sd[name].Shape}); err != nil {
				break
			}
		}
	}
	if err != nil {
		return nil, Translation{}, err
	}
	out := &Renaming{tensors: map[string]renamed{}, unused: in.unused}
	for _, name := range in.Names() {
		if err := out.translate(n, name, in.tensors[name]); err != nil {
			return nil, Translation{}, err
		}
	}
	if n.Finish != nil {
		if err := n.Finish(out); err != nil {
			return nil, Translation{}, err
		}
	}
	if err := out.splitAttention(); err != nil {
		return nil, Translation{}, err
	}
	result := make(StateDict, len(out.tensors))
	t := Translation{Architecture: n.Architecture, Source: n.Source, Key: key, Unused: append([]string{}, out.unused...), Unknown: out.unknown, origins: map[string]Origin{}}
	for name, x := range out.tensors {
		result[name], t.origins[name] = x.Tensor, x.origin
	}
	slices.Sort(t.Unused)
	return result, t, nil
}

// split puts the tensors of sd into r under names that are separated by dots, and returns the
// naming whose function Split recognises them.
func split(sd StateDict, namings []Naming, r *Renaming) (Naming, error) {
	for _, n := range namings {
		if n.Split == nil {
			continue
		}
		if found, err := n.Split(n, sd, r); found || err != nil {
			return n, err
		}
	}
	names := slices.Sorted(maps.Keys(sd))
	for _, name := range names {
		if strings.HasPrefix(name, "base_model.model.") {
			return Naming{}, fmt.Errorf("tensor %.200q belongs to an adapter of PEFT, and the file has no complete model: give the model on which the adapter was trained, or merge the adapter into the model first (merge_and_unload of PEFT)", name)
		}
	}
	return Naming{}, fmt.Errorf("unknown tensor names: the %d tensors are called %s; the known namings are %s; convert the names to one of these namings",
		len(sd), firstFive(quoted(names)), describeNamings(namings))
}

// seenPatterns returns, for each pattern that matches one of the names for the rules, the name of
// the tensor in the checkpoint. short is as in candidate.
func seenPatterns(short map[string]string) map[string]string {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(short)) {
		for pattern := range patterns(short[name]) {
			seen[pattern] = name
		}
	}
	return seen
}

// recogniseNaming returns the naming of the names in short. It returns the zero Naming if none of
// the namings has a mark in seen, and an error if several namings fit.
func recogniseNaming(namings []Naming, short, seen map[string]string) (Naming, error) {
	var found []Naming
	var shown []string
	for _, n := range namings {
		if i := slices.IndexFunc(n.Marks, func(m string) bool { return seen[m] != "" }); i >= 0 {
			found, shown = append(found, n), append(shown, seen[n.Marks[i]])
		}
	}
	if len(found) == 0 {
		return Naming{}, nil
	}
	var fitting []Naming
	for i, n := range found {
		others := slices.Concat(found[:i], found[i+1:])
		if !slices.ContainsFunc(others, func(other Naming) bool { return !n.covers(other, short) }) {
			fitting = append(fitting, n)
		}
	}
	if len(fitting) == 1 {
		n := fitting[0]
		if n.Refine != nil {
			n = n.Refine(n, func(pattern string) bool { return seen[pattern] != "" })
		}
		return n, nil
	}
	return Naming{}, nameErrorf(shown[1], "its name belongs to architecture %s as %s names it, but tensor %.200q belongs to architecture %s as %s names it: the checkpoint mixes two namings; keep the tensors of one model",
		found[1].Architecture, found[1].Source, shown[0], found[0].Architecture, found[0].Source)
}

// covers reports whether n has rules for all names in short that match the marks of other. If so, a
// checkpoint with the marks of both has the naming n.
func (n Naming) covers(other Naming, short map[string]string) bool {
	for _, name := range short {
		for pattern := range patterns(name) {
			if slices.Contains(other.Marks, pattern) && !n.Rules.Has(name) {
				return false
			}
		}
	}
	return true
}

// describeNamings lists the architectures and the sources of their namings, for errors.
func describeNamings(namings []Naming) string {
	sources := map[string][]string{}
	for _, n := range namings {
		sources[n.Architecture] = append(sources[n.Architecture], n.Source)
	}
	var list []string
	for _, architecture := range slices.Sorted(maps.Keys(sources)) {
		list = append(list, fmt.Sprintf("%s (%s)", architecture, strings.Join(sources[architecture], ", ")))
	}
	return strings.Join(list, "; ")
}

// withoutPrefixes removes prefixes from name, in any order and as often as they occur. It never
// removes the whole name.
func withoutPrefixes(name string, prefixes []string) string {
	for again := true; again; {
		again = false
		for _, p := range prefixes {
			if short, ok := strings.CutPrefix(name, p); ok && short != "" {
				name, again = short, true
			}
		}
	}
	return name
}

// maxNumbers is the largest number of "#" in a pattern: one for a stage and one for a block.
const maxNumbers = 2

// patterns yields the patterns that match name, the most specific first, each with the parts of
// name that its wildcards match.
func patterns(name string) iter.Seq2[string, matched] {
	return func(yield func(string, matched) bool) {
		parts := strings.Split(name, ".")
		var match matched
		if last := parts[len(parts)-1]; last == "weight" || last == "bias" {
			match.leaf = last
		}
		i := 0
		for range maxNumbers + 1 {
			if !yield(strings.Join(parts, "."), match) {
				return
			}
			if match.leaf != "" {
				parts[len(parts)-1] = "*"
				if !yield(strings.Join(parts, "."), match) {
					return
				}
				parts[len(parts)-1] = match.leaf
			}
			for i < len(parts) && !isNumber(parts[i]) {
				i++
			}
			if i == len(parts) {
				return
			}
			match.numbers = append(match.numbers, parts[i])
			parts[i] = "#"
			i++
		}
	}
}

// matched holds the parts of a name that the wildcards of a pattern match.
type matched struct {
	numbers []string // for each "#"
	leaf    string   // for "*": "weight" or "bias", or "" if the name ends with neither
}

// isNumber reports whether part is the number of a block or a stage: at most four digits, without
// leading zeros.
func isNumber(part string) bool {
	if part == "" || len(part) > 4 || part[0] == '0' && len(part) > 1 {
		return false
	}
	return strings.Trim(part, "0123456789") == ""
}

// fill returns the canonical name to, which a rule gives, with the wildcards replaced by the
// matched parts.
func (o matched) fill(to string) string {
	var out strings.Builder
	numbers := o.numbers
	for part := range strings.SplitSeq(to, ".") {
		if out.Len() > 0 {
			out.WriteByte('.')
		}
		switch part {
		case "#":
			part, numbers = numbers[0], numbers[1:]
		case "##":
			part = o.numbers[1]
		case "#+":
			n, _ := strconv.Atoi(numbers[0]) // cannot fail: isNumber has accepted the part
			part, numbers = strconv.Itoa(n+1), numbers[1:]
		case "*":
			part = o.leaf
		}
		out.WriteString(part)
	}
	return out.String()
}

// translate adds x, to whose name the rules of n apply, under its canonical name.
func (r *Renaming) translate(n Naming, name string, x renamed) error {
	rule, match, ok := n.Rules.find(name)
	if !ok {
		for _, prefix := range n.Strict {
			if strings.HasPrefix(name, prefix) {
				return nameErrorf(x.origin.Name, "architecture %s as %s names it has no such tensor: the checkpoint belongs to another architecture, which spt does not know; choose a checkpoint of a known architecture", n.Architecture, n.Source)
			}
		}
	}
	if rule.To == "" {
		if !ok {
			r.unknown = append(r.unknown, x.origin.Name)
		}
		r.Skip(x.origin.Name)
		return nil
	}
	if rule.Change != nil {
		var err error
		if x.Tensor, err = rule.Change(x.Tensor); err != nil {
			return &nameError{x.origin.Name, err}
		}
	}
	return r.Put(match.fill(rule.To), x.Tensor, x.origin)
}

// splitAttention replaces each fused attn.qkv by its parts q, k and v. They share the values of the
// fused tensor.
func (r *Renaming) splitAttention() error {
	type fused struct{ name, prefix, kind string }
	var all []fused
	for _, name := range r.Names() {
		prefix, kind, ok := cutAttention(name, "qkv")
		if !ok {
			continue
		}
		all = append(all, fused{name, prefix, kind})
		for _, part := range qkv {
			for _, k := range []string{"weight", "bias"} {
				if other, ok := r.tensors[prefix+part+"."+k]; ok {
					return nameErrorf(r.Origin(name).Name, "the checkpoint also has tensor %.200q: it holds q, k and v of this attention both fused and as separate tensors; remove one form", other.origin.Name)
				}
			}
		}
	}
	for _, f := range all {
		x := r.tensors[f.name]
		if want := map[string]int{"weight": 2, "bias": 1}[f.kind]; len(x.Shape) != want || x.Shape[0]%3 != 0 {
			return nameErrorf(x.origin.Name, "shape %v cannot be split into q, k and v; expected [3D, D] for a weight or [3D] for a bias", x.Shape)
		}
		r.Remove(f.name)
		n := len(x.Data) / 3
		for i, part := range qkv {
			shape := slices.Clone(x.Shape)
			shape[0] /= 3
			r.tensors[f.prefix+part+"."+f.kind] = renamed{Tensor{Shape: shape, Data: x.Data[i*n : (i+1)*n : (i+1)*n]}, x.origin}
		}
	}
	return nil
}
