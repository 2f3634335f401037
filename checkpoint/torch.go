package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sptune/spt/internal/pickle"
)

// maxUnpickle is the size in bytes of the largest file that Unpickle reads: 256 MiB. A published
// selection of a million entries has 8 MB.
const maxUnpickle = 256 << 20

// Unpickle reads the value in a file of torch.save, in the zip format or the format before PyTorch
// 1.6, or in a plain pickle. Use [Open] for the weights of a model. Unpickle is for packages of
// this module that read other values, such as published selections. The types of the values are
// those of the internal package pickle.
//
// Unpickle executes nothing. A class, a function or the result of a call becomes a value of which
// only the name is known. Unpickle reads the whole file into memory, so that the tensors in the
// value can be read later. A file of more than 256 MiB is an error. A file that breaks a rule of
// its format is a [*FormatError].
func Unpickle(path string) (any, error) {
	r, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxUnpickle {
		return nil, fmt.Errorf("checkpoint %s: the file has %d bytes, too many to read into memory at once; expected at most %d bytes; check that this is the file you meant", path, size, maxUnpickle)
	}
	data := make([]byte, size)
	if err := readAt(r, data, 0); err != nil {
		return nil, fmt.Errorf("checkpoint %s: reading the file: %w", path, err)
	}
	return unpickle(data, path)
}

// unpickle reads the value in data, the content of the file called name.
func unpickle(data []byte, name string) (pickle.Value, error) {
	r, size := bytes.NewReader(data), int64(len(data))
	k, err := recognise(r, size, name)
	if err != nil {
		return nil, err
	}
	if k == kindPickle {
		v, _, err := readPickles(r, size, name)
		return v, err
	}
	if k == kindZip {
		a, err := openArchive(r, size, name)
		if err != nil {
			return nil, err
		}
		if root, ok := a.torchRoot(); ok {
			return a.unpickle(root)
		}
	}
	return nil, &FormatError{File: name, Err: errors.New("the file is neither a file of torch.save nor a pickle; give a file of one of these formats")}
}

// torchRoot returns the folder in the archive that contains all members that PyTorch wrote, with a
// slash at its end. ok is false if the archive has no such folder.
func (a *archive) torchRoot() (root string, ok bool) {
	for _, name := range a.names {
		root, ok = strings.CutSuffix(name, "data.pkl")
		if ok && strings.Count(root, "/") == 1 && strings.HasSuffix(root, "/") {
			return root, true
		}
	}
	return "", false
}

// unpickle reads the value in ROOT/data.pkl. The storage of a key is the member ROOT/data/KEY.
// Checksums of stored members are not compared. PyTorch does not compare them either, and it can
// write files without them.
func (a *archive) unpickle(root string) (pickle.Value, error) {
	if order, ok := a.members[root+"byteorder"]; ok {
		rc, err := order.stream(0, order.size)
		if err != nil {
			return nil, a.fail(order, err)
		}
		defer rc.Close()
		text, err := io.ReadAll(io.LimitReader(rc, 16))
		if err != nil {
			return nil, a.fail(order, err)
		}
		if string(text) != "little" {
			return nil, a.fail(order, fmt.Errorf("the byte order of the file is %q; expected little; load and save the file with PyTorch on a little-endian machine", text))
		}
	}
	data := a.members[root+"data.pkl"]
	r, err := data.random()
	if err != nil {
		return nil, a.fail(data, err)
	}
	u := newUnpickler(r, 0, data.size, a.file)
	u.start = data.begin
	u.persistent = func(id []pickle.Value) (pickle.Value, error) {
		return storageOf(id, func(key string, _, size int64) func() (blob, error) {
			return func() (blob, error) {
				b, ok := a.members[root+"data/"+key]
				if !ok {
					return b, fmt.Errorf("the zip archive has no member %.100q, the storage of the tensor", root+"data/"+key)
				}
				if b.size != size {
					return b, fmt.Errorf("the storage %.100q has %d bytes; expected %d bytes", root+"data/"+key, b.size, size)
				}
				if b.stored() {
					b.member = nil
				}
				return b, nil
			}
		})
	}
	return u.load()
}

// fail returns the error err of the member b.
func (a *archive) fail(b blob, err error) error {
	return &FormatError{File: a.file, Offset: b.begin, Err: fmt.Errorf("reading member %.100q of the zip archive: %w", b.member.Name, err)}
}

// magic is the number in the first pickle of a file of PyTorch before 1.6.
var magic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

// readPickles reads a file that begins with a pickle. PyTorch before 1.6 wrote five pickles: the
// magic number, the version 1001, facts about the machine, the object, and the keys of the
// storages. The storages follow, each after the number of its elements. Any other file is one plain
// pickle. format describes the format for people.
func readPickles(r io.ReaderAt, size int64, name string) (v pickle.Value, format string, err error) {
	u := newUnpickler(r, 0, size, name)
	fail := func(at int64, format string, args ...any) error {
		return &FormatError{File: name, Offset: at, Err: fmt.Errorf(format, args...)}
	}
	v, err = u.load()
	if err != nil {
		return nil, "", err
	}
	if n, ok := v.(*big.Int); !ok || n.Cmp(magic) != 0 {
		if u.pos != size {
			return nil, "", fail(u.pos, "%d bytes follow the end of the pickle; the file is damaged", size-u.pos)
		}
		return v, "pickle", nil
	}
	version, err := u.load()
	if err != nil {
		return nil, "", err
	}
	if version != int64(1001) {
		return nil, "", fail(u.pos, "the version of the PyTorch format is not 1001; load and save the file with a newer PyTorch")
	}
	machine, err := u.load()
	if err != nil {
		return nil, "", err
	}
	if d, ok := machine.(*pickle.Dict); ok {
		if little, ok := d.Get("little_endian"); ok && little != true {
			return nil, "", fail(u.pos, "the file was saved on a big-endian machine; load and save it with PyTorch on a little-endian machine")
		}
	}

	type place struct {
		width, size int64 // of an element and of the storage, in bytes
		at          blob  // valid if found is true
		found       bool  // the storage is in the list of storages
	}
	places := map[string]*place{} // by the key of the storage
	u.persistent = func(id []pickle.Value) (pickle.Value, error) {
		return storageOf(id, func(key string, width, size int64) func() (blob, error) {
			if places[key] == nil {
				places[key] = &place{width: width, size: size}
			}
			return func() (blob, error) {
				p := places[key]
				if !p.found || p.at.size != size {
					return blob{}, fmt.Errorf("the file has no storage %.100q of %d bytes", key, size)
				}
				return p.at, nil
			}
		})
	}
	if v, err = u.load(); err != nil {
		return nil, "", err
	}
	u.persistent = nil
	list, err := u.load()
	if err != nil {
		return nil, "", err
	}
	keys, ok := list.(*pickle.List)
	if !ok {
		return nil, "", fail(u.pos, "the fifth pickle is %s; expected the list of the keys of the storages", describe(list))
	}
	at := u.pos
	for _, k := range keys.Items {
		key, _ := k.(string)
		p := places[key]
		if p == nil || p.found || p.width == 0 {
			return nil, "", fail(at, "storage %.100q is in the list of storages, but no tensor uses it, or it is listed twice or has an unknown type; the file is damaged", key)
		}
		if size-at < 8 || size-at-8 < p.size {
			return nil, "", fail(at, "storage %.100q takes %d bytes after the number of its elements, but only %d bytes are left; the file is cut short", key, p.size, size-at)
		}
		n, err := newUnpickler(r, at, 8, name).uint(8)
		if err != nil {
			return nil, "", fmt.Errorf("checkpoint %s: reading the length of a storage: %w", name, err)
		}
		if n != uint64(p.size/p.width) {
			return nil, "", fail(at, "storage %.100q has %d elements; expected %d", key, n, p.size/p.width)
		}
		p.at, p.found = blob{r: r, begin: at + 8, size: p.size}, true
		at += 8 + p.size
	}
	if at != size {
		return nil, "", fail(at, "%d bytes follow the last storage; the file is damaged", size-at)
	}
	return v, "PyTorch, before 1.6", nil
}

// Bounds of the search for dicts of tensors in the value of a pickle. Real files have a handful of
// them, at depth 1 or 2.
const (
	maxDictDepth = 3
	maxDicts     = 100
)

// foundDict is a dict with at least one tensor.
type foundDict struct {
	path    []string // keys that lead to the dict
	d       *pickle.Dict
	tensors int // number of tensors with names
}

// tensorDicts lists the dicts in root, a dict or a list, that have tensors that can be read. It
// visits each value once, those with fewer keys first.
func tensorDicts(root pickle.Value) (found []foundDict) {
	type place struct {
		path []string
		v    pickle.Value
	}
	visited := map[pickle.Value]bool{}
	for level := []place{{nil, root}}; len(level) > 0; {
		var next []place
		enter := func(p place, key string, v pickle.Value) {
			switch v.(type) {
			case *pickle.Dict, *pickle.List:
				if len(p.path) < maxDictDepth && !visited[v] {
					visited[v] = true
					next = append(next, place{append(slices.Clone(p.path), key), v})
				}
			}
		}
		for _, p := range level {
			switch v := p.v.(type) {
			case *pickle.List:
				for i, item := range v.Items {
					enter(p, strconv.Itoa(i), item)
				}
			case *pickle.Dict:
				dict := foundDict{path: p.path, d: v}
				for key, value := range v.All() {
					name, ok := key.(string)
					if !ok {
						continue
					}
					if t, ok := value.(*storedTensor); ok && t.fault == nil {
						dict.tensors++
					}
					if utf8.ValidString(name) && name != "" {
						enter(p, name, value)
					}
				}
				if dict.tensors > 0 && len(found) < maxDicts {
					found = append(found, dict)
				}
			}
		}
		level = next
	}
	return found
}

// usual returns the index of the dict whose tensors a File lists: the one to which the first keys
// of preferences lead, or else the one with most tensors.
func usual(dicts []foundDict) int {
	best := -1
	var bestRanks []int
	for i, d := range dicts {
		var ranks []int
		for _, key := range d.path {
			ranks = append(ranks, slices.Index(preferences, key))
		}
		if len(ranks) == 0 || slices.Contains(ranks, -1) {
			continue
		}
		ranks = append(ranks, len(preferences)) // a dict inside another comes first
		if best < 0 || slices.Compare(ranks, bestRanks) < 0 {
			best, bestRanks = i, ranks
		}
	}
	if best >= 0 {
		return best
	}
	for i, d := range dicts {
		if best < 0 || d.tensors > dicts[best].tensors {
			best = i
		}
	}
	return best
}

// torchContents returns the tensors in v, the value of a pickle in the file called name of size
// bytes.
func torchContents(v pickle.Value, format string, size int64, name string) (contents, error) {
	fail := func(format string, args ...any) (contents, error) {
		return contents{}, &FormatError{File: name, Err: fmt.Errorf(format, args...)}
	}
	dicts := tensorDicts(v)
	if len(dicts) == 0 {
		switch root := v.(type) {
		case *pickle.Dict:
			return fail("the dict of the pickle has no tensors that can be read, only %s; expected a dict of tensors, at the root or inside at most %d other dicts", keysOf(root), maxDictDepth)
		default:
			return fail("the pickle holds %s; expected a dict of tensors; save model.state_dict() instead of the model", describe(v))
		}
	}
	c := contents{format: format}
	first := usual(dicts)
	var err error
	if c.dict, err = readDict(dicts[first], size, name); err != nil {
		return contents{}, err
	}
	if c.path != "" {
		c.format += ", " + c.path
	}
	for i, found := range dicts {
		if i == first {
			continue
		}
		// A dict that is damaged matters only if the file has no other.
		if d, err := readDict(found, size, name); err == nil {
			c.more = append(c.more, d)
		}
	}
	return c, nil
}

// readDict returns the tensors of a dict in the file called name of size bytes.
func readDict(found foundDict, size int64, name string) (dict, error) {
	fail := func(format string, args ...any) (dict, error) {
		return dict{}, &FormatError{File: name, Err: fmt.Errorf(format, args...)}
	}
	c := dict{path: strings.Join(found.path, "."), others: map[string]string{}}
	var names []string
	var tensors []*storedTensor
	for key, v := range found.d.All() {
		s, ok := key.(string)
		t, isTensor := v.(*storedTensor)
		switch {
		case ok && isTensor && !utf8.ValidString(s):
			return fail("the tensor name %.100q is not valid UTF-8", s)
		case ok && isTensor && t.fault == nil:
			names, tensors = append(names, s), append(tensors, t)
		case ok && isTensor:
			c.others[s] = t.fault.Error()
		case ok:
			c.others[s] = describe(v)
		}
	}
	// DistributedDataParallel adds "module.", torch.compile adds "_orig_mod.".
	for _, prefix := range []string{"module.", "_orig_mod.", "module."} {
		without := func(s string) bool { return len(s) <= len(prefix) || !strings.HasPrefix(s, prefix) }
		if slices.ContainsFunc(names, without) {
			continue
		}
		for i := range names {
			names[i] = names[i][len(prefix):]
		}
	}
	left := 1<<20 + 4*size // bytes that the tensors may still take
	for i, t := range tensors {
		s, err := t.stored(names[i])
		if err != nil {
			return dict{}, err
		}
		// Tied weights share a storage, but only few of them. A file in which a thousand tensors
		// share one storage is made to fill the memory.
		if left -= s.Bytes(); left < 0 {
			return fail("the tensors share storages and take more than four times the %d bytes of the file; save clones of the tensors", size)
		}
		c.tensors = append(c.tensors, s)
	}
	slices.SortFunc(c.tensors, func(a, b stored) int { return cmp.Compare(a.Name, b.Name) })
	return c, nil
}

// keysOf lists the first 20 keys of a dict with the types of their values, for errors.
func keysOf(d *pickle.Dict) string {
	var list []string
	for key, v := range d.All() {
		if len(list) == 20 {
			list = append(list, "…")
			break
		}
		s, ok := key.(string)
		if !ok {
			s = describe(key)
		}
		list = append(list, fmt.Sprintf("%s (%s)", printable(s), describe(v)))
	}
	if list == nil {
		return "no keys"
	}
	return "the keys " + strings.Join(list, ", ")
}
