package checkpoint

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Naming describes one way in which checkpoints name the tensors of an architecture.
// [StateDict.Canonical] recognises the naming of a checkpoint by its names alone and translates
// them.
//
// A pattern stands for many names. The parts of a name stand between dots. In a pattern the first
// one or two parts that are numbers may be written "#", and a last part "weight" or "bias" may be
// written "*": "blocks.#.norm1.*" stands for "blocks.3.norm1.weight" among others.
type Naming struct {
	// Architecture is the name of the architecture, such as "vit".
	Architecture string
	// Source says whose names these are, for people, such as "timm".
	Source string
	// Marks are the patterns by which the naming is recognised: a checkpoint has a name of at least
	// one of them. Where a checkpoint has the marks of two namings, the naming is used whose Rules
	// cover the other's marks too.
	Marks []string
	// Rules give the canonical names. A tensor without a rule is unused.
	Rules Rules
	// Strict are prefixes below which every name must have a rule. A name there without a rule is
	// an error: it belongs to another architecture, whose results would be wrong without the
	// tensor.
	Strict []string
	// Prefixes are put before all names by larger models, such as "vit.". They are removed, like
	// those of training programs, before patterns are compared.
	Prefixes []string
	// Refine returns the naming to use for a checkpoint that has the marks, if other patterns tell
	// more. has reports whether the checkpoint has a name of a pattern. Nil: n is used as it is.
	Refine func(n Naming, has func(pattern string) bool) Naming
	// Split recognises a checkpoint whose names do not consist of parts between dots, and puts its
	// tensors into r under names that do. found is false if the checkpoint has another naming. Nil:
	// Marks recognise the naming.
	Split func(n Naming, sd StateDict, r *Renaming) (found bool, err error)
	// Finish joins and checks tensors after the rules have given them canonical names. Nil: nothing
	// to do.
	Finish func(r *Renaming) error
}

// Rules maps patterns to the rules of the names that they stand for.
type Rules map[string]Rule

// Rule translates the names of one pattern.
type Rule struct {
	// To is the canonical name. "#" and "*" stand for what they stand for in the pattern, "#+" for
	// the number plus one. An empty name leaves the tensor unused.
	To string
	// Change returns the tensor in its canonical shape. It must not change the values that it is
	// given. Nil: the tensor has its canonical shape.
	Change func(Tensor) (Tensor, error)
}

// Renames returns rules that change names alone. pairs are patterns, each followed by its canonical
// name.
func Renames(pairs ...string) Rules {
	rules := Rules{}
	for i := 0; i < len(pairs); i += 2 {
		rules[pairs[i]] = Rule{To: pairs[i+1]}
	}
	return rules
}

// Keeps returns rules for patterns whose names are canonical.
func Keeps(patterns ...string) Rules {
	rules := Rules{}
	for _, p := range patterns {
		rules[p] = Rule{To: p}
	}
	return rules
}

// Union returns the rules of all sets. Where several have a pattern, the last one counts.
func Union(sets ...Rules) Rules {
	all := Rules{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

// find returns the rule for name and what its pattern leaves open.
func (r Rules) find(name string) (rule Rule, open opened, ok bool) {
	for pattern, open := range patterns(name) {
		if rule, ok := r[pattern]; ok {
			return rule, open, true
		}
	}
	return Rule{}, opened{}, false
}

// Has reports whether there is a rule for name.
func (r Rules) Has(name string) bool {
	_, _, ok := r.find(name)
	return ok
}

// trainingPrefixes are put before all names by training programs.
var trainingPrefixes = []string{"module.", "_orig_mod.", "model.", "backbone."}

// Translation reports how the names of a checkpoint were translated.
type Translation struct {
	Architecture string // of the recognised naming
	Source       string // of the recognised naming
	// Unused lists the tensors, under the names of the checkpoint and sorted, that are no part of a
	// backbone or its head: poolers, decoders, projection heads, momentum encoders, buffers that
	// are computed again.
	Unused []string

	origins map[string]Origin
}

// Origin is the name and the shape that a tensor has in the checkpoint.
type Origin struct {
	Name  string
	Shape []int
}

// Origin returns where the tensor with a canonical name comes from. The Origin is empty if there is
// none.
func (t Translation) Origin(name string) Origin { return t.origins[name] }

// Renaming holds the tensors of a checkpoint while a [Naming] gives them other names. Every tensor
// remembers its [Origin], so that errors can name it as the checkpoint does.
type Renaming struct {
	tensors map[string]renamed
	unused  []string
}

type renamed struct {
	Tensor
	origin Origin
}

// Names lists the names, sorted.
func (r *Renaming) Names() []string { return slices.Sorted(maps.Keys(r.tensors)) }

// Tensor returns the tensor called name.
func (r *Renaming) Tensor(name string) (Tensor, bool) {
	x, ok := r.tensors[name]
	return x.Tensor, ok
}

// Origin returns where the tensor called name comes from.
func (r *Renaming) Origin(name string) Origin { return r.tensors[name].origin }

// Put adds a tensor. It is an error if there is one of that name.
func (r *Renaming) Put(name string, x Tensor, origin Origin) error {
	if other, ok := r.tensors[name]; ok {
		return nameErrorf(origin.Name, "this tensor and tensor %.200q are both %.200s: the names are mixed, or the checkpoint holds two models; keep one", other.origin.Name, name)
	}
	r.tensors[name] = renamed{x, origin}
	return nil
}

// Remove removes the tensor called name.
func (r *Renaming) Remove(name string) { delete(r.tensors, name) }

// Skip lists a tensor of the checkpoint, by its name there, as unused.
func (r *Renaming) Skip(source string) { r.unused = append(r.unused, source) }

// ErrorAt returns an error about a tensor of the checkpoint, by its name there.
func (r *Renaming) ErrorAt(source, format string, args ...any) error {
	return nameErrorf(source, format, args...)
}

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

// Canonical translates the names and shapes of a checkpoint to the canonical ones, by the one of
// namings that its names show. The result holds canonical names only; the Translation lists all
// other tensors. The tensors share their values with sd wherever the order of the values stays the
// same. The query, key and value of a fused attention (`attn.qkv`) become three tensors.
//
// It is an error if the names show none of the namings, or several; if two tensors have the same
// canonical name; if an attention has both a fused qkv and separate parts; and if a tensor below a
// strict prefix has no rule.
func (sd StateDict) Canonical(namings []Naming) (StateDict, Translation, error) {
	for name, x := range sd {
		if x.Size() != len(x.Data) {
			return nil, Translation{}, nameErrorf(name, "%d values in shape %v, expected %d", len(x.Data), x.Shape, x.Size())
		}
	}
	in := &Renaming{tensors: map[string]renamed{}}
	n, err := recogniseNaming(sd, namings, in)
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
	t := Translation{Architecture: n.Architecture, Source: n.Source, Unused: append([]string{}, out.unused...), origins: map[string]Origin{}}
	for name, x := range out.tensors {
		result[name], t.origins[name] = x.Tensor, x.origin
	}
	slices.Sort(t.Unused)
	return result, t, nil
}

// recogniseNaming finds the naming of sd, and puts its tensors into r under the names that the
// rules see.
func recogniseNaming(sd StateDict, namings []Naming, r *Renaming) (Naming, error) {
	for _, n := range namings {
		if n.Split == nil {
			continue
		}
		if found, err := n.Split(n, sd, r); found || err != nil {
			return n, err
		}
	}
	prefixes := slices.Clone(trainingPrefixes)
	for _, n := range namings {
		prefixes = append(prefixes, n.Prefixes...)
	}
	seen := map[string]string{} // pattern → one name
	for _, name := range slices.Sorted(maps.Keys(sd)) {
		short := withoutPrefixes(name, prefixes)
		if err := r.Put(short, sd[name], Origin{name, sd[name].Shape}); err != nil {
			return Naming{}, err
		}
		for pattern := range patterns(short) {
			seen[pattern] = name
		}
	}
	var found []Naming
	var shown []string
	for _, n := range namings {
		if i := slices.IndexFunc(n.Marks, func(m string) bool { return seen[m] != "" }); i >= 0 {
			found, shown = append(found, n), append(shown, seen[n.Marks[i]])
		}
	}
	if len(found) == 0 {
		return Naming{}, fmt.Errorf("unknown tensor names: the %d tensors are called %s; the known namings are %s; convert the checkpoint to one of these",
			len(sd), firstFive(quoted(slices.Sorted(maps.Keys(sd)))), describeNamings(namings))
	}
	var fitting []Naming
	for i, n := range found {
		others := slices.Concat(found[:i], found[i+1:])
		if !slices.ContainsFunc(others, func(other Naming) bool { return !n.covers(other, r) }) {
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
	return Naming{}, nameErrorf(shown[1], "its name is of a %s of %s, but tensor %.200q is of a %s of %s: the checkpoint mixes two namings; give one model in one naming",
		found[1].Architecture, found[1].Source, shown[0], found[0].Architecture, found[0].Source)
}

// covers reports whether n has rules for all names in r that show the naming other. Then n is the
// naming of a checkpoint that has the marks of both.
func (n Naming) covers(other Naming, r *Renaming) bool {
	for name := range r.tensors {
		for pattern := range patterns(name) {
			if slices.Contains(other.Marks, pattern) && !n.Rules.Has(name) {
				return false
			}
		}
	}
	return true
}

// describeNamings lists the namings of each architecture, for errors.
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

// withoutPrefixes removes prefixes from name, in any order and number, but never all of the name.
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

// maxNumbers is how many numbers a pattern leaves open: a stage and a block.
const maxNumbers = 2

// patterns yields the patterns under which a rule may have name, the most specific first, each with
// what it leaves open.
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

// isNumber accepts the numbers of blocks and stages: one spelling for each, none beyond what any
// model has.
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

// translate adds x, which the rules of n see under name, under its canonical name.
func (r *Renaming) translate(n Naming, name string, x renamed) error {
	rule, open, ok := n.Rules.find(name)
	if !ok {
		for _, prefix := range n.Strict {
			if strings.HasPrefix(name, prefix) {
				return nameErrorf(x.origin.Name, "a %s of %s has no such tensor: the checkpoint is of another architecture, which spt does not know", n.Architecture, n.Source)
			}
		}
	}
	if rule.To == "" {
		r.Skip(x.origin.Name)
		return nil
	}
	if rule.Change != nil {
		var err error
		if x.Tensor, err = rule.Change(x.Tensor); err != nil {
			return &nameError{x.origin.Name, err}
		}
	}
	return r.Put(open.fill(rule.To), x.Tensor, x.origin)
}

// splitAttention replaces each fused attn.qkv by its parts q, k and v, which share its values.
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
					return nameErrorf(r.Origin(name).Name, "the checkpoint also has %.200q: the q, k and v of a block are either fused or apart; remove one form", other.origin.Name)
				}
			}
		}
	}
	for _, f := range all {
		x := r.tensors[f.name]
		if want := map[string]int{"weight": 2, "bias": 1}[f.kind]; len(x.Shape) != want || x.Shape[0]%3 != 0 {
			return nameErrorf(x.origin.Name, "shape %v cannot be split into q, k and v, expected [3D, D] for a weight, [3D] for a bias", x.Shape)
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
