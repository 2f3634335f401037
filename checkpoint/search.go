package checkpoint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// preferences lists the keys and prefixes under which training programs store the weights of a
// model. If a checkpoint holds several complete models, the one under the first of these is taken.
// First come the keys that timm tries, in the order of timm, then the keys of other programs, of
// DINO, of I-JEPA and of MoCo v3. Averaged weights (EMA) come first, because they are the weights
// that the programs evaluate.
var preferences = []string{
	"state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "params",
	"teacher", "student", "target_encoder", "encoder", "base_encoder", "momentum_encoder",
}

// wrappers are parts that wrappers of modules insert into names: torch.compile, PyTorch's FSDP and
// activation checkpointing, and FairScale's FSDP.
var wrappers = []string{"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"}

// Bounds of the search. Real checkpoints have a handful of prefixes, of at most 5 parts.
const (
	maxPrefixes    = 32
	maxPrefixParts = 8
)

// RootKey is the key of tensors that are neither in a dict inside the checkpoint nor under a
// prefix. See [File.CanonicalAt].
const RootKey = "."

// KeyError reports that a key is needed to choose the weights in a checkpoint, or that there are no
// weights under the given key.
type KeyError struct {
	// Key is the key that was given. It is empty if a key is needed.
	Key string
	// Keys lists the keys of the complete models in the checkpoint.
	Keys []string
}

// Error returns a message that lists the keys.
func (e *KeyError) Error() string {
	list := firstFive(quoted(e.Keys))
	switch {
	case e.Key == "":
		return fmt.Sprintf("the checkpoint holds %d models of a known architecture, and nothing says which one to use; choose one of their keys: %s", len(e.Keys), list)
	case len(e.Keys) == 0:
		return fmt.Sprintf("the checkpoint has no complete model of a known architecture under the key %.200q; leave the key out", e.Key)
	}
	return fmt.Sprintf("the checkpoint has no complete model of a known architecture under the key %.200q; choose one of these keys: %s", e.Key, list)
}

// nameList holds the names of the tensors in one dict of a checkpoint.
type nameList struct {
	path  string // keys that lead to the dict, separated by dots; empty for the root
	names []string
}

// candidate is a place in a checkpoint where names of a known naming were found.
type candidate struct {
	dict     int    // index of the dict
	full     string // what the names have before those of the naming, such as "visual.trunk."
	prefix   string // full without the known prefixes at its end
	key      string // keys of the dict and prefix, separated by dots
	naming   Naming
	complete bool              // all tensors that Naming.Whole lists are present
	short    map[string]string // from the name of a tensor below prefix to the name for the rules
	err      error             // the names mix two namings
}

// search looks in all dicts for names of the namings and returns the complete model that it finds.
// If there are several, key chooses, or else preferences. If no model is complete, search returns
// the first place where names of a naming were found without a prefix, so that later errors say
// what is missing. It returns nil if there is no such place.
func search(dicts []nameList, namings []Naming, key string) (*candidate, error) {
	var all []*candidate
	for i, d := range dicts {
		all = append(all, searchDict(i, d, namings)...)
	}
	whole := slices.DeleteFunc(slices.Clone(all), func(c *candidate) bool { return !c.complete })
	var keys []string
	for _, c := range whole {
		keys = append(keys, c.key)
	}
	switch {
	case key != "":
		i := slices.IndexFunc(whole, func(c *candidate) bool {
			path := dicts[c.dict].path
			return key == c.key || key == joinKey(path, c.full) || key == joinKey(path, c.prefix)
		})
		if i < 0 {
			return nil, &KeyError{Key: key, Keys: keys}
		}
		return whole[i], nil
	case len(whole) == 1:
		return whole[0], nil
	case len(whole) > 1:
		if c := preferred(whole, dicts); c != nil {
			return c, nil
		}
		return nil, &KeyError{Keys: keys}
	}
	if i := slices.IndexFunc(all, func(c *candidate) bool { return c.prefix == "" }); i >= 0 {
		return all[i], all[i].err
	}
	return nil, nil
}

// joinKey returns the key of a place: the path of its dict and the prefix of its names.
func joinKey(path, prefix string) string {
	return cmp.Or(strings.Trim(path+"."+strings.TrimSuffix(prefix, "."), "."), RootKey)
}

// preferred returns the candidate with the first key in preferences. Keys that all candidates have
// do not count. It returns nil if a candidate has no key in preferences, or two have the same.
func preferred(candidates []*candidate, dicts []nameList) *candidate {
	parts := make([][]string, len(candidates))
	for i, c := range candidates {
		parts[i] = strings.Split(joinKey(dicts[c.dict].path, c.full), ".")
	}
	var found *candidate
	best, twice := len(preferences), false
	for i, c := range candidates {
		rank := slices.IndexFunc(preferences, func(key string) bool {
			common := !slices.ContainsFunc(parts, func(p []string) bool { return !slices.Contains(p, key) })
			return !common && slices.Contains(parts[i], key)
		})
		switch {
		case rank < 0:
			return nil
		case rank < best:
			found, best, twice = c, rank, false
		case rank == best:
			twice = true
		}
	}
	if twice {
		return nil
	}
	return found
}

// searchDict returns the candidates in one dict.
func searchDict(index int, d nameList, namings []Naming) []*candidate {
	known := slices.Clone(trainingPrefixes)
	marks := map[string]bool{}
	for _, n := range namings {
		known = append(known, n.Prefixes...)
		for _, m := range n.Marks {
			marks[m] = true
		}
	}
	var all, whole []*candidate
	for _, full := range prefixesOf(d.names, marks) {
		c := &candidate{dict: index, full: full, prefix: withoutSuffixes(full, known)}
		c.read(d.names, namings, known, nil)
		all = append(all, c)
	}
	// Two models whose prefixes are both known, such as "model." and "backbone.", are apart only
	// with their whole prefixes.
	for i, c := range all {
		if c.complete && slices.ContainsFunc(all, func(o *candidate) bool {
			return o != c && o.complete && withoutSuffixes(o.full, known) == c.prefix
		}) {
			twin := *c
			twin.prefix = c.full
			twin.read(d.names, namings, known, nil)
			if twin.complete {
				all[i] = &twin
			}
		}
		if all[i].complete {
			whole = append(whole, all[i])
		}
	}
	for _, c := range whole {
		var others []string
		for _, o := range whole {
			if o.prefix != c.prefix && strings.HasPrefix(o.prefix, c.prefix) {
				others = append(others, o.prefix)
			}
		}
		c.key = joinKey(d.path, c.prefix)
		if len(whole) > 1 {
			c.key = joinKey(d.path, c.full)
			c.read(d.names, namings, known, others)
		}
	}
	return all
}

// prefixesOf returns the prefixes before the marks in names, the shortest first.
func prefixesOf(names []string, marks map[string]bool) []string {
	first := map[string]bool{} // the parts with which a mark begins
	for m := range marks {
		part, _, _ := strings.Cut(m, ".")
		first[part] = true
	}
	found := map[string]bool{}
	for _, name := range names {
		name = withoutWrappers(name)
		at := 0
		for range maxPrefixParts + 1 {
			part, _, more := strings.Cut(name[at:], ".")
			if first[part] || first["#"] || first["*"] {
				for pattern := range patterns(name[at:]) {
					if marks[pattern] {
						found[name[:at]] = true
					}
				}
			}
			if !more {
				break
			}
			at += len(part) + 1
		}
	}
	list := slices.SortedFunc(maps.Keys(found), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return list[:min(len(list), maxPrefixes)]
}

// read finds the naming of the names below the prefix of c. Names below one of others are not part
// of c.
func (c *candidate) read(names []string, namings []Naming, known, others []string) {
	c.short = map[string]string{}
	for _, name := range names {
		inner := withoutWrappers(name)
		if slices.ContainsFunc(others, func(p string) bool { return strings.HasPrefix(inner, p) }) {
			continue
		}
		if rest, ok := strings.CutPrefix(inner, c.prefix); ok && rest != "" {
			c.short[name] = withoutPrefixes(rest, known)
		}
	}
	seen := seenPatterns(c.short)
	c.naming, c.err = recogniseNaming(namings, c.short, seen)
	missing := slices.ContainsFunc(c.naming.Whole, func(p string) bool { return seen[p] == "" })
	// Without a list of needed tensors, marks deeper in the names prove nothing.
	c.complete = c.err == nil && c.naming.Architecture != "" && !missing && (c.naming.Whole != nil || c.prefix == "")
}

// withoutWrappers removes the parts in wrappers from name. It never removes the whole name.
func withoutWrappers(name string) string {
	if !strings.Contains(name, "_") {
		return name
	}
	parts := strings.Split(name, ".")
	kept := slices.DeleteFunc(slices.Clone(parts), func(p string) bool { return slices.Contains(wrappers, p) })
	if len(kept) == len(parts) || len(kept) == 0 {
		return name
	}
	return strings.Join(kept, ".")
}

// withoutSuffixes removes the known prefixes at the end of prefix.
func withoutSuffixes(prefix string, known []string) string {
	for again := true; again; {
		again = false
		for _, p := range known {
			short, ok := strings.CutSuffix(prefix, p)
			// A prefix ends where a part ends: "model." is not the end of "submodel.".
			if ok && (short == "" || strings.HasSuffix(short, ".")) {
				prefix, again = short, true
			}
		}
	}
	return prefix
}
