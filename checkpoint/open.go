package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/regularfile"
)

// Open opens the checkpoint at path and checks everything that can be checked without reading the
// values of tensors. Close the [File] after use. For a folder, Open opens the file that [Find]
// returns. A file that is not a checkpoint or breaks a rule of its format is a [*FormatError].
//
// Open tells the format from the first bytes of the file, not from its name. It reads
//
//   - safetensors files
//   - files of torch.save (.pth, .pth.tar, .pt and .bin), in the zip format since
//     PyTorch 1.6 and in the format before it
//   - plain pickles of NumPy arrays
//   - .npz files of NumPy, the format in which Google publishes its vision transformers
//   - an index (*.index.json) of a checkpoint in several files (shards) of the first two formats
//
// A file of torch.save holds a dict of tensors, or a training checkpoint with several dicts of
// tensors. [File.Canonical] looks for a model in all of them. The other methods of the File list
// and read the dict under the first of these keys: state_dict_ema, model_ema, state_dict, model,
// model_state_dict, net, params, teacher, student, target_encoder, encoder, base_encoder,
// momentum_encoder; without such a key, the dict with most tensors. Open removes the prefixes
// "module." and "_orig_mod." if all names of a dict have them. It never executes code that a pickle
// names.
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

// open opens the file of size bytes in r. If it is an index, open opens the shards beside path too.
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

// readContents reads a file of any kind except an index.
func readContents(k kind, r io.ReaderAt, size int64, name string) (contents, error) {
	switch k {
	case kindZip:
		a, err := openArchive(r, size, name)
		if err != nil {
			return contents{}, err
		}
		if root, ok := a.torchRoot(); ok {
			if _, ok := a.members[root+"constants.pkl"]; ok {
				return contents{}, notCheckpoint(name, "a TorchScript program", expectedCheckpoint, "save the weights of the program in Python: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')")
			}
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
		if _, ok := a.members["model.weights.h5"]; ok {
			return contents{}, notCheckpoint(name, "a Keras model", expectedCheckpoint, fromOther)
		}
		found := "an empty zip archive"
		if len(a.names) > 0 {
			found = fmt.Sprintf("a zip archive of other files, such as %.100q", a.names[0])
		}
		return contents{}, notCheckpoint(name, found, expectedCheckpoint, "a .pth file has a member FOLDER/data.pkl and an .npz file has members that end in .npy; if the archive contains a checkpoint, unpack it")
	case kindPickle:
		v, format, err := readPickles(r, size, name)
		if err != nil {
			return contents{}, err
		}
		return torchContents(v, format, size, name)
	}
	return readSafetensors(r, size, name)
}

// folderFiles are the names of weights that the libraries of Hugging Face look for in a folder.
var folderFiles = []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}

// fileExtensions are the extensions of checkpoint files.
var fileExtensions = []string{".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".npz", ".tar"}

// HasExtension reports whether a name ends in the extension of a checkpoint file.
func HasExtension(name string) bool { return slices.Contains(fileExtensions, filepath.Ext(name)) }

// Find returns the path of the checkpoint file at path. If path is not a folder, Find returns path.
// In a folder it looks for model.safetensors, model.safetensors.index.json, pytorch_model.bin and
// pytorch_model.bin.index.json, in this order. If the folder has none of them, Find returns the
// only file with the extension .safetensors, .pth, .pt, .ckpt, .bin, .npz or .tar. If there is no
// such file, or more than one, the error lists the files of the folder. The folder of an adapter of
// PEFT is an error.
func Find(path string) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening the checkpoint: %w", err)
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
	if _, err := os.Stat(filepath.Join(path, "adapter_config.json")); err == nil {
		return "", fmt.Errorf("the folder %s holds an adapter of PEFT, not a model; give the model on which the adapter was trained, which the file adapter_config.json names as base_model_name_or_path, or merge the adapter into the model first (merge_and_unload of PEFT)", path)
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
		if !e.IsDir() && HasExtension(e.Name()) {
			found = append(found, filepath.Join(path, e.Name()))
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) == 0 {
		for _, e := range entries[:min(len(entries), maxSniffed)] {
			if f := otherModel(filepath.Join(path, e.Name())); f.found != "" {
				return "", fmt.Errorf("in the folder %s, the file %q is %s; %s; %s", path, e.Name(), f.found, expectedCheckpoint, f.advice)
			}
		}
	}
	return "", fmt.Errorf("the folder %s has neither a file called %s nor exactly one file with the extension of a checkpoint (%s); it has %s; give the path of the file", path, strings.Join(folderFiles, " or "), strings.Join(fileExtensions, ", "), cmp.Or(strings.Join(names, ", "), "no files"))
}

// maxSniffed is the largest number of files of a folder that Find looks into.
const maxSniffed = 100

// otherModel returns the format of the file at path if it is a model in the format of another
// program. Otherwise, or if the file cannot be read, the result is empty.
func otherModel(path string) foreign {
	r, size, err := openRegular(path)
	if err != nil {
		return foreign{}
	}
	defer r.Close()
	start := make([]byte, min(size, sniffLen))
	if err := readAt(r, start, 0); err != nil {
		return foreign{}
	}
	if f := otherFormat(start, path); f.model {
		return f
	}
	return foreign{}
}

// openRegular opens the regular file at path and returns its size in bytes.
func openRegular(path string) (*os.File, int64, error) {
	f, size, err := regularfile.Open(path)
	if err != nil {
		err = fmt.Errorf("opening the checkpoint: %w", err)
	}
	return f, size, err
}
