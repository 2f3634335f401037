package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// maxShards is the largest number of shards of a checkpoint. It bounds the number of open files.
// The largest published models have about two hundred shards.
const maxShards = 1000

// maxIndex limits the size of an index in bytes. The largest published ones have about 10 MB.
const maxIndex = 32 << 20

// index holds the content of a file *.index.json, which is {"metadata": {"total_size": N},
// "weight_map": {TENSOR: FILE}}.
type index struct {
	metadata map[string]string // a value that is not a string is kept as JSON text
	file     map[string]string // from the name of a tensor to the name of its shard
}

// readIndex reads the index of size bytes in r.
func readIndex(r io.ReaderAt, size int64, name string) (ix index, err error) {
	if size > maxIndex {
		return ix, &FormatError{File: name, Err: fmt.Errorf("the file begins as JSON, so it may be the index of a sharded checkpoint, but it has %d bytes; expected at most %d", size, maxIndex)}
	}
	raw := make([]byte, size)
	if err := readAt(r, raw, 0); err != nil {
		return ix, fmt.Errorf("checkpoint %s: reading the index: %w", name, err)
	}
	p, err := newJSONParser(raw, name, 0, "index")
	if err != nil {
		return ix, err
	}
	err = p.object("", func(key string) error {
		switch key {
		case "metadata":
			ix.metadata = map[string]string{}
			return p.object("", func(key string) error {
				text := p.value()
				if ix.metadata[key] = string(text); text[0] == '"' {
					ix.metadata[key] = unquoted(text)
				}
				return nil
			})
		case "weight_map":
			ix.file = map[string]string{}
			return p.object("", func(tensor string) error {
				file, err := p.str(tensor, "the name of the shard")
				if err == nil && (file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\:\x00")) {
					err = p.fail(tensor, "the name of the shard is %.100q; expected the name of a file beside the index, without a folder", file)
				}
				ix.file[tensor] = file
				return err
			})
		}
		p.value()
		return nil
	})
	if err == nil && len(ix.file) == 0 {
		err = notCheckpoint(name, "JSON without a weight_map", expectedCheckpoint+" or the index of a sharded one", "")
	}
	return ix, err
}

// openShards opens the sharded checkpoint whose index is in r and at path. As the libraries of
// Hugging Face do, it takes all tensors of all shards. Each tensor that the index lists must be in
// the shard that the index names.
func openShards(r io.ReaderAt, size int64, path string) (_ *File, err error) {
	ix, err := readIndex(r, size, path)
	if err != nil {
		return nil, err
	}
	fail := func(tensor, format string, args ...any) (*File, error) {
		return nil, &FormatError{File: path, Tensor: tensor, Err: fmt.Errorf(format, args...)}
	}
	names := slices.Compact(slices.Sorted(maps.Values(ix.file)))
	if len(names) > maxShards {
		return fail("", "the index names %d files; expected at most %d", len(names), maxShards)
	}
	all := contents{metadata: ix.metadata, dict: dict{others: map[string]string{}}}
	parts := []part{{path, r, size}}
	var closers []io.Closer
	defer func() {
		if err != nil {
			for _, c := range closers {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	for _, name := range names {
		shard := filepath.Join(filepath.Dir(path), name)
		r, size, err := openRegular(shard)
		if err != nil {
			return nil, fmt.Errorf("%w; the index %s names this file; put all shards beside the index", err, path)
		}
		closers = append(closers, r)
		k, err := recognise(r, size, shard)
		if err != nil {
			return nil, err
		}
		if k == kindJSON {
			return fail("", "the index names %.100q as a shard, but this file is another index or other JSON", name)
		}
		c, err := readContents(k, r, size, shard)
		if err != nil {
			return nil, err
		}
		all.format = fmt.Sprintf("%s, %d shards", c.format, len(names))
		all.tensors = append(all.tensors, c.tensors...)
		maps.Copy(all.others, c.others)
		parts = append(parts, part{shard, r, size})
	}
	f, err := newFile(all, parts, path)
	if err != nil {
		return nil, err
	}
	for _, tensor := range slices.Sorted(maps.Keys(ix.file)) {
		i, ok := f.byName[tensor]
		if want := ix.file[tensor]; !ok || filepath.Base(f.tensors[i].file) != want {
			return fail(tensor, "the index places this tensor in %.100q, but that file has no such tensor", want)
		}
	}
	f.closers = closers
	return f, nil
}
