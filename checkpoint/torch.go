package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sptune/spt/internal/pickle"
)

// maxUnpickle is the size in bytes, 256 MiB, of the largest file that Unpickle reads into memory. A
// published selection of a million entries has 8 MB.
const maxUnpickle = 256 << 20

// Unpickle reads the values of a file of torch.save, in the zip format or the one before PyTorch
// 1.6, or of a plain pickle. It is for packages of this module that read more than weights: the
// value has the types of the internal package pickle. It executes nothing: classes, functions and
// their results become values of which only the name is known. The file is read into memory, so
// that tensors can be read for as long as the value exists; a file of more than 256 MiB is an
// error. A broken file is a [*FormatError]. Use [Open] for the weights of a model.
func Unpickle(path string) (any, error) {
	r, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxUnpickle {
		return nil, fmt.Errorf("checkpoint %s: its %d bytes are too many to read as a whole, expected at most %d; is it what you meant?", path, size, maxUnpickle)
	}
	data := make([]byte, size)
	if err := readAt(r, data, 0); err != nil {
		return nil, fmt.Errorf("checkpoint %s: reading it: %w", path, err)
	}
	return unpickle(data, path)
}

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
	return nil, &FormatError{File: name, Err: errors.New("it is no file of torch.save and no pickle")}
}

// torchRoot returns the folder in the zip into which PyTorch has put everything, with its slash.
func (a *archive) torchRoot() (root string, ok bool) {
	for _, name := range a.names {
		root, ok = strings.CutSuffix(name, "data.pkl")
		if ok && strings.Count(root, "/") == 1 && strings.HasSuffix(root, "/") {
			return root, true
		}
	}
	return "", false
}

// unpickle reads ROOT/data.pkl. Storages are ROOT/data/KEY. Checksums of members are not compared:
// PyTorch does not, and can write files without.
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
			return nil, a.fail(order, fmt.Errorf("its byte order is %q, expected little; load and save it again with PyTorch on a little-endian machine", text))
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
					return b, fmt.Errorf("the zip has no member %.100q, the tensor's storage", root+"data/"+key)
				}
				if b.size != size {
					return b, fmt.Errorf("the storage %.100q has %d bytes, expected %d", root+"data/"+key, b.size, size)
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

func (a *archive) fail(b blob, err error) error {
	return &FormatError{File: a.file, Offset: b.begin, Err: fmt.Errorf("the zip's member %.100q: %w", b.member.Name, err)}
}

// magic is the number in the first pickle of a legacy file.
var magic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

// readPickles reads a file that begins with a pickle. PyTorch's format before 1.6 has one pickle
// each with the magic number, the version 1001, facts about the machine, the object and the list of
// storages; then follow the storages, each after the number of its elements. Any other file is one
// plain pickle.
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
			return nil, "", fail(u.pos, "%d bytes follow the pickle", size-u.pos)
		}
		return v, "pickle", nil
	}
	version, err := u.load()
	if err != nil {
		return nil, "", err
	}
	if version != int64(1001) {
		return nil, "", fail(u.pos, "the version of PyTorch's format is not 1001")
	}
	machine, err := u.load()
	if err != nil {
		return nil, "", err
	}
	if d, ok := machine.(*pickle.Dict); ok {
		if little, ok := d.Get("little_endian"); ok && little != true {
			return nil, "", fail(u.pos, "it was saved on a big-endian machine; load and save it again with PyTorch on a little-endian one")
		}
	}

	type place struct {
		width, size int64
		at          blob
		found       bool
	}
	places := map[string]*place{}
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
		return nil, "", fail(u.pos, "%s in the place of the list of storages", describe(list))
	}
	at := u.pos
	for _, k := range keys.Items {
		key, _ := k.(string)
		p := places[key]
		if p == nil || p.found || p.width == 0 {
			return nil, "", fail(at, "storage %.100q is listed, but the pickle does not have it, or has it twice or of an unknown type", key)
		}
		if size-at < 8 || size-at-8 < p.size {
			return nil, "", fail(at, "storage %.100q takes %d bytes, %d are left: the file is cut short", key, p.size, size-at)
		}
		n, err := newUnpickler(r, at, 8, name).uint(8)
		if err != nil {
			return nil, "", fmt.Errorf("checkpoint %s: reading a storage's length: %w", name, err)
		}
		if n != uint64(p.size/p.width) {
			return nil, "", fail(at, "storage %.100q has %d elements, expected %d", key, n, p.size/p.width)
		}
		p.at, p.found = blob{r: r, begin: at + 8, size: p.size}, true
		at += 8 + p.size
	}
	if at != size {
		return nil, "", fail(at, "%d bytes follow the last storage", size-at)
	}
	return v, "PyTorch, before 1.6", nil
}

// containers are the keys under which training programs keep a model's state dict: first those that
// timm looks for, in timm's order, then other programs', then DINO's. Averaged weights come first,
// because they are the ones that are evaluated.
var containers = []string{"state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "params", "teacher", "student"}

// stateDict returns the dict of tensors in d, and the keys that lead to it; nil if there is none.
func stateDict(d *pickle.Dict, depth int) (_ *pickle.Dict, path string) {
	for _, key := range containers {
		v, _ := d.Get(key)
		if in, ok := v.(*pickle.Dict); ok && depth < 3 { // in real files it is 1
			if found, path := stateDict(in, depth+1); found != nil {
				return found, strings.TrimSuffix(key+"."+path, ".")
			}
		}
	}
	for _, v := range d.All() {
		if t, ok := v.(*storedTensor); ok && t.fault == nil {
			return d, ""
		}
	}
	return nil, ""
}

// torchContents finds the tensors in the value of a pickle.
func torchContents(v pickle.Value, format string, size int64, name string) (contents, error) {
	fail := func(format string, args ...any) (contents, error) {
		return contents{}, &FormatError{File: name, Err: fmt.Errorf(format, args...)}
	}
	root, ok := v.(*pickle.Dict)
	if !ok {
		return fail("the pickle holds %s, expected a dict of tensors; save model.state_dict()", describe(v))
	}
	d, path := stateDict(root, 0)
	if d == nil {
		return fail("no tensors in the pickle's dict, which has %s; expected a dict of tensors, at the root or under one of %s", keysOf(root), strings.Join(containers, ", "))
	}
	c := contents{format: format, others: map[string]string{}}
	var names []string
	var tensors []*storedTensor
	for key, v := range d.All() {
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
	if len(tensors) == 0 {
		return fail("no tensors with names in the pickle's dict, which has %s", keysOf(d))
	}
	if path != "" {
		c.format += ", " + path
	}
	// of DistributedDataParallel, torch.compile
	for _, prefix := range []string{"module.", "_orig_mod.", "module."} {
		without := func(s string) bool { return len(s) <= len(prefix) || !strings.HasPrefix(s, prefix) }
		if slices.ContainsFunc(names, without) {
			continue
		}
		for i := range names {
			names[i] = names[i][len(prefix):]
		}
	}
	left := 1<<20 + 4*size
	for i, t := range tensors {
		s, err := t.stored(names[i])
		if err != nil {
			return contents{}, err
		}
		// Tied weights share a storage, twice or so. One storage for a thousand tensors is made to
		// fill memory.
		if left -= s.Bytes(); left < 0 {
			return fail("its tensors take more than four times the file's %d bytes, as they share storages; save clones of them", size)
		}
		c.tensors = append(c.tensors, s)
	}
	return c, nil
}

// keysOf lists the first keys of a dict with the kinds of their values.
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
