package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	stdpath "path"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
)

// The largest sizes of the files that Load reads, in bytes. A typical delta has one to two
// megabytes. maxTensors allows full fine-tuning of a ViT with two billion parameters.
const (
	maxJSON    = 64 << 20
	maxTensors = 8 << 30
)

// document is the content of the JSON file.
type document struct {
	jsonfile.Header
	*Delta
	// TensorsSHA256 is the hexadecimal SHA-256 of the whole safetensors file.
	TensorsSHA256 string `json:"tensors_sha256"`
}

// sparseIndices returns the name of the tensor in the safetensors file that holds the positions of
// the tuned entries of tensor.
func sparseIndices(tensor string) string { return tensor + ".sparse_indices" }

// Save writes the two files of the delta into dir, and makes dir if it does not exist. If the delta
// breaks a rule of the format, Save returns an error and writes nothing. Save replaces each file as
// a whole, the safetensors file first. If it cannot write the JSON file, [Load] refuses the pair of
// files.
func (d *Delta) Save(dir string) error { return d.save(dir, header, d.entries) }

// save writes the two files. entries returns the content of the safetensors file.
func (d *Delta) save(dir string, header jsonfile.Header, entries func() ([]checkpoint.Entry, error)) error {
	if err := d.validate(); err != nil {
		return fmt.Errorf("saving delta in %s: %w", dir, err)
	}
	all, err := entries()
	if err != nil {
		return fmt.Errorf("saving delta in %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("saving delta: %w", err)
	}
	tensors := filepath.Join(dir, TensorsName)
	if err := checkpoint.Save(tensors, all, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	f, err := checkpoint.Open(tensors)
	if err != nil {
		return err
	}
	sum, err := f.SHA256()
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	described := *d
	described.Selection.Entries = nil
	described.Backbone.Path = portablePath(dir, d.Backbone.Path)
	text, err := json.MarshalIndent(document{header, &described, sum}, "", "  ")
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(dir, FileName), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("saving delta in %s: %w", dir, err)
	}
	return nil
}

// entries returns the tensors of the safetensors file that Save writes.
func (d *Delta) entries() (all []checkpoint.Entry, err error) {
	for name, t := range d.Tuned {
		all = append(all, checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: t.Shape, Data: t.Data})
	}
	for name, positions := range d.Selection.Entries {
		all = append(all, checkpoint.Entry{Name: sparseIndices(name), DType: checkpoint.I32, Shape: []int{len(positions)}, Data: positions})
	}
	return all, nil
}

// Size returns the total size of the files of the delta in the folder dir, in bytes. A missing file
// counts as 0 bytes.
func Size(dir string) (n int64) {
	for _, name := range []string{FileName, TensorsName} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			n += info.Size()
		}
	}
	return n
}

// Load reads a delta that [Delta.Save] or [Delta.SaveHalf] wrote. path is its folder or one of its
// two files.
//
// Load is strict. Both files must exist and belong together. The kind and the version must be the
// ones that Save or SaveHalf writes, and no field may be unknown. The objective must be registered.
// The safetensors file must hold exactly the tensors of the selection, with their shapes and with
// finite values. Load reads the files into memory before it checks them, so that another program
// cannot change them after the check.
func Load(path string) (*Delta, error) {
	dir, err := folder(path)
	if err != nil {
		return nil, fmt.Errorf("loading delta: %w", err)
	}
	d, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("loading delta from %s: %w", dir, err)
	}
	return d, nil
}

// folder returns the folder of the delta at path.
func folder(path string) (string, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%w; give the folder of a finished run, or one of %s and %s in it", err, FileName, TensorsName)
	}
	if stat.IsDir() {
		return path, nil
	}
	if base := filepath.Base(path); base != FileName && base != TensorsName {
		return "", fmt.Errorf("%s is neither a folder nor called %s or %s; give the folder of the delta, or one of these files", path, FileName, TensorsName)
	}
	return filepath.Dir(path), nil
}

func load(dir string) (*Delta, error) {
	text, err := readFile(dir, FileName, maxJSON)
	if err != nil {
		return nil, err
	}
	doc, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileName, err)
	}
	raw, err := readFile(dir, TensorsName, maxTensors)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	if got := hex.EncodeToString(sum[:]); got != doc.TensorsSHA256 {
		return nil, fmt.Errorf("%s has SHA-256 %s, but %s was written with %.80q: the files belong to two deltas, or one is damaged; copy both from one run, or save the delta again", TensorsName, got, FileName, doc.TensorsSHA256)
	}
	f, err := checkpoint.NewFile(bytes.NewReader(raw), int64(len(raw)), filepath.Join(dir, TensorsName))
	if err != nil {
		return nil, err
	}
	read := doc.readTensors
	if doc.Version == halfHeader.Version {
		read = doc.readHalf
	}
	if err := read(f); err != nil {
		return nil, err
	}
	if err := doc.validate(); err != nil {
		return nil, err
	}
	doc.Backbone.Path, err = localPath(dir, doc.Backbone.Path)
	return doc.Delta, err
}

// maxPath limits the length of the path of a checkpoint, in bytes. It is the limit of Linux.
const maxPath = 4096

// portablePath returns the path of a checkpoint as Save writes it, with slashes. It is relative to
// the folder dir if both have a common folder that is not the root of the file system. It is empty
// for a path that validatePath refuses.
func portablePath(dir, path string) string {
	if path == "" {
		return ""
	}
	text := filepath.ToSlash(path)
	if dir, err := filepath.Abs(dir); err == nil {
		relative, err := filepath.Rel(dir, path)
		relative = filepath.ToSlash(relative)
		up := strings.Count(relative+"/", "../")
		// The number of folders between dir and the root of the file system.
		depth := strings.Count(strings.Trim(filepath.ToSlash(dir[len(filepath.VolumeName(dir)):]), "/"), "/") + 1
		if err == nil && up < depth {
			text = relative
		}
	}
	if (Backbone{File: filepath.Base(path), Path: text}).validatePath() != nil {
		return ""
	}
	return text
}

// localPath returns the absolute path of a checkpoint on this system. path is as portablePath
// returns it, and dir is the folder of the delta.
func localPath(dir, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	local := filepath.FromSlash(path)
	if !filepath.IsAbs(local) {
		local = filepath.Join(dir, local)
	}
	return filepath.Abs(local)
}

// validatePath checks the path as it stands in the JSON file. A path on another machine is refused:
// opening it would send the name of the user to this machine.
func (b Backbone) validatePath() error {
	switch p := b.Path; {
	case p == "":
	case len(p) > maxPath:
		return fmt.Errorf("backbone.path has %d bytes, expected at most %d", len(p), maxPath)
	case !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) || strings.ContainsRune(p, utf8.RuneError):
		return fmt.Errorf("backbone.path is %.200q, expected a path without control characters", p)
	case strings.HasPrefix(p, "//") || strings.HasPrefix(p, `\\`):
		return fmt.Errorf("backbone.path is %.200q, expected a path on this machine", p)
	case stdpath.Base(p) != b.File:
		return fmt.Errorf("backbone.path is %.200q, expected a path that ends in backbone.file, %.200q", p, b.File)
	}
	return nil
}

// readFile reads a file of at most limit bytes. It allocates no more than the size of the file.
func readFile(dir, name string, limit int64) ([]byte, error) {
	path := filepath.Join(dir, name)
	stat, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no %s: a delta consists of %s and %s in one folder; copy both files, or let the run finish", name, FileName, TensorsName)
	case err != nil:
		return nil, err
	case stat.Mode().IsRegular() && stat.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes, expected at most %d bytes: is it a delta?", name, stat.Size(), limit)
	}
	data, err := regularfile.Read(path, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// decode reads the JSON file.
func decode(text []byte) (*document, error) {
	// Check the header first, because another version may have other fields.
	var found jsonfile.Header
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("%w; expected the JSON that spt writes: check whether the file was cut short or edited", jsonfile.Explain(text, err))
	}
	switch {
	case found.Kind != header.Kind:
		return nil, fmt.Errorf("the kind is %.100q, expected %q; give the JSON file of a delta", found.Kind, header.Kind)
	case found.Version != header.Version && found.Version != halfHeader.Version:
		return nil, fmt.Errorf("the version is %d, but this program reads the versions %d and %d; use the release of spt that wrote the file, or tune again", found.Version, header.Version, halfHeader.Version)
	}
	doc := &document{Delta: new(Delta)}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(doc); err != nil {
		return nil, fmt.Errorf("%w; docs/format.md describes the fields of version %d", jsonfile.Explain(text, err), found.Version)
	}
	if err := doc.Backbone.validatePath(); err != nil {
		return nil, err
	}
	if doc.Selection.Entries != nil {
		return nil, fmt.Errorf("selection has entries; move their positions to %s, as tensors named %q", TensorsName, sparseIndices("NAME"))
	}
	return doc, nil
}

// readTensors reads the tuned tensors and the positions of entries from the safetensors file.
func (d *Delta) readTensors(f *checkpoint.File) error {
	d.Tuned = checkpoint.StateDict{}
	for _, info := range f.Tensors() {
		if name, ok := strings.CutSuffix(info.Name, sparseIndices("")); ok {
			positions, shape, err := f.Int32(info.Name)
			if err != nil {
				return err
			}
			if len(shape) != 1 {
				return fmt.Errorf("tensor %.200q has shape %v, expected one dimension: the flat positions of entries in %.200q", info.Name, shape, name)
			}
			if d.Selection.Entries == nil {
				d.Selection.Entries = map[string][]int32{}
			}
			d.Selection.Entries[name] = positions
			continue
		}
		if info.DType != checkpoint.F32 {
			return fmt.Errorf("tensor %.200q has dtype %s, expected F32", info.Name, info.DType)
		}
		t, err := f.Float32(info.Name)
		if err != nil {
			return err
		}
		d.Tuned[info.Name] = t
	}
	return nil
}
