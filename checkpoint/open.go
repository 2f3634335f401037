package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Open opens a checkpoint and checks all that can be checked without reading values. It tells the
// format by the first bytes of a file, never by its name:
//
//   - safetensors; several of them, or of PyTorch's files, with an index (*.index.json)
//   - the files of PyTorch's torch.save (.pth, .pth.tar, .pt, .bin), in the zip format or the one
//     before PyTorch 1.6, or a plain pickle of NumPy arrays. The tensors are those of the dict at the
//     root or, in a training checkpoint, of the first of state_dict_ema, model_ema, state_dict, model,
//     teacher and student that the file has. The prefixes "module." and "_orig_mod." are removed
//     where all names have them. Nothing that the pickle asks for is executed.
//   - NumPy's .npz, in which Google publishes its vision transformers
//
// For a folder it opens the file that [Find] returns. A file that breaks a rule of its format gives
// a [*FormatError]. The caller closes the File.
func Open(path string) (*File, error) {
	path, err := Find(path)
	if err != nil {
		return nil, err
	}
	r, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	f, err := open(r, size, path)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	f.closers = append(f.closers, r)
	return f, nil
}

// open reads a file, and the shards if it is an index.
func open(r io.ReaderAt, size int64, path string) (*File, error) {
	k, err := recognise(r, size, path)
	if err != nil {
		return nil, err
	}
	if k == kindJSON {
		return openShards(r, size, path)
	}
	c, err := readContents(k, r, size, path)
	if err != nil {
		return nil, err
	}
	return newFile(c, []part{{path, r, size}}, path)
}

// readContents reads any file but an index.
func readContents(k kind, r io.ReaderAt, size int64, name string) (contents, error) {
	switch k {
	case kindZip:
		a, err := openArchive(r, size, name)
		if err != nil {
			return contents{}, err
		}
		if root, ok := a.torchRoot(); ok {
			v, err := a.unpickle(root)
			if err != nil {
				return contents{}, err
			}
			return torchContents(v, "PyTorch zip", size, name)
		}
		for _, member := range a.names {
			if strings.HasSuffix(member, ".npy") {
				return a.npz()
			}
		}
		return contents{}, &FormatError{File: name, Err: fmt.Errorf("the zip has neither a data.pkl, as of PyTorch, nor .npy members, as of NumPy, among its %d; unpack it if a checkpoint is in it", len(a.names))}
	case kindPickle:
		v, format, err := readPickles(r, size, name)
		if err != nil {
			return contents{}, err
		}
		return torchContents(v, format, size, name)
	}
	return readSafetensors(r, size, name)
}

// folderFiles are the names under which the libraries look for weights in a folder.
var folderFiles = []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}

// fileExtensions are the extensions of checkpoints in a folder.
var fileExtensions = []string{".safetensors", ".pth", ".pt", ".bin", ".npz", ".tar"}

// Find returns path itself if it is not a folder. Of a folder it returns the first of
// model.safetensors, model.safetensors.index.json, pytorch_model.bin and
// pytorch_model.bin.index.json, or else the only file with a checkpoint's extension. If there is no
// such file, the error lists the files of the folder.
func Find(path string) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening checkpoint: %w", err)
		}
	}()
	if stat, err := os.Stat(path); err != nil || !stat.IsDir() {
		return path, err
	}
	for _, name := range folderFiles {
		file := filepath.Join(path, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", err
	}
	var names, found []string
	for _, e := range entries {
		if len(names) < 20 {
			names = append(names, fmt.Sprintf("%q", e.Name()))
		} else if len(names) == 20 {
			names = append(names, "…")
		}
		if !e.IsDir() && slices.Contains(fileExtensions, filepath.Ext(e.Name())) {
			found = append(found, filepath.Join(path, e.Name()))
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return "", fmt.Errorf("the folder %s has no %s, nor one file only that may be a checkpoint; give the file itself. It has: %s", path, strings.Join(folderFiles, ", "), strings.Join(names, ", "))
}

// openRegular opens a file that is neither a folder nor a device.
func openRegular(path string) (*os.File, int64, error) {
	stat, err := os.Stat(path) // before it is opened: opening a pipe waits for its other end
	if err == nil && !stat.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (mode %v), expected a checkpoint", path, stat.Mode())
	}
	var r *os.File
	if err == nil {
		r, err = os.Open(path)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening checkpoint: %w", err)
	}
	return r, stat.Size(), nil
}
