package checkpoint

import (
	"archive/zip"
	"cmp"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
)

// File is an open checkpoint. Its list of tensors is in memory and checked. Values are read from
// the file, through a small buffer, when they are asked for. Nothing is mapped into memory, so a
// tensor cannot change after it was read; mapping was measured to be no faster. All methods but
// Close may be called from several goroutines at once.
type File struct {
	name string
	contents
	byName  map[string]int // index into tensors
	parts   []part         // in the order in which SHA256 reads them
	closers []io.Closer    // nil if the caller owns what is read
}

// part is one of the files that a checkpoint consists of.
type part struct {
	name string
	r    io.ReaderAt
	size int64 // bytes
}

// contents is what the reader of a format finds in a file.
type contents struct {
	format   string
	tensors  []stored          // sorted by name once they are in a File
	others   map[string]string // what stands under other names and is no tensor that can be read
	metadata map[string]string
}

// stored is a tensor and the way to its values. A File knows no more of a format.
type stored struct {
	TensorInfo
	file string // the one that it lies in, for errors
	at   int64  // where in it, for errors
	// open reads the values in row-major order, little-endian, and ends after the last.
	open func() (io.ReadCloser, error)
}

// NewFile reads and checks the header of the safetensors file of size bytes in r. name stands for
// the file in errors. r must stay open while the File is used; Close leaves it open. Use [Open] for
// other formats.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	c, err := readSafetensors(r, size, name)
	if err != nil {
		return nil, err
	}
	return newFile(c, []part{{name, r, size}}, name)
}

// newFile sorts the tensors of a file; no two may have one name.
func newFile(c contents, parts []part, name string) (*File, error) {
	slices.SortFunc(c.tensors, func(a, b stored) int { return cmp.Compare(a.Name, b.Name) })
	f := &File{name: name, contents: c, parts: parts, byName: make(map[string]int, len(c.tensors))}
	for i, t := range c.tensors {
		if j, twice := f.byName[t.Name]; twice {
			return nil, &FormatError{File: t.file, Offset: t.at, Tensor: t.Name, Err: fmt.Errorf("the tensor is also in %s at byte %d", c.tensors[j].file, c.tensors[j].at)}
		}
		f.byName[t.Name] = i
	}
	return f, nil
}

func readSafetensors(r io.ReaderAt, size int64, name string) (contents, error) {
	fail := func(format string, args ...any) (contents, error) {
		return contents{}, &FormatError{File: name, Err: fmt.Errorf(format, args...)}
	}
	if size < 8 {
		return fail("the file has %d bytes, a safetensors file at least 8: the file is empty or cut short", size)
	}
	var prefix [8]byte
	if err := readAt(r, prefix[:], 0); err != nil {
		return contents{}, fmt.Errorf("checkpoint %s: reading the header's length: %w", name, err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader || int64(n) > size-8 {
		return fail("the header claims %d bytes, but %d follow and the format allows %d: the file is cut short or not safetensors (a .pth, an .npz, a Git LFS pointer?)", n, size-8, maxHeader)
	}
	raw := make([]byte, n)
	if err := readAt(r, raw, 8); err != nil {
		return contents{}, fmt.Errorf("checkpoint %s: reading the header: %w", name, err)
	}
	start := 8 + int64(n)
	list, metadata, err := parseHeader(raw, size-start, name)
	if err != nil {
		return contents{}, err
	}
	c := contents{format: "safetensors", metadata: metadata}
	for _, t := range list {
		c.tensors = append(c.tensors, stored{t.TensorInfo, name, start + t.begin, func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(r, start+t.begin, t.end-t.begin)), nil
		}})
	}
	return c, nil
}

// readAt fills buf from offset at of r.
func readAt(r io.ReaderAt, buf []byte, at int64) error {
	_, err := io.ReadFull(io.NewSectionReader(r, at, int64(len(buf))), buf)
	if err == io.EOF && len(buf) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close closes what [Open] has opened. It does nothing for a file of [NewFile].
func (f *File) Close() error {
	var errs []error
	for _, c := range f.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Name returns the path of the file that [Open] has found, or of the index if there are several
// files, or the name given to [NewFile].
func (f *File) Name() string { return f.name }

// Files lists the files of the checkpoint: one, or an index and its shards.
func (f *File) Files() []string {
	var names []string
	for _, p := range f.parts {
		names = append(names, p.name)
	}
	return names
}

// Format describes the format for people, such as "safetensors" or "PyTorch zip, model_ema", where
// model_ema is the part of a training checkpoint from which the tensors are taken.
func (f *File) Format() string { return f.format }

// Tensors lists the tensors of the file, sorted by name.
func (f *File) Tensors() []TensorInfo {
	list := make([]TensorInfo, len(f.tensors))
	for i, t := range f.tensors {
		list[i] = t.TensorInfo
		list[i].Shape = slices.Clone(t.Shape)
	}
	return list
}

// Metadata returns a copy of the text pairs of a safetensors file or of the index of a sharded
// checkpoint; nil if there are none, and for the other formats.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Float32 reads the tensor called name: F32 as it is, F16 and BF16 widened exactly, F64 rounded to
// the nearest float32, ties to even, or to Inf beyond float32's range. Any other dtype and an
// unknown name are errors.
func (f *File) Float32(name string) (Tensor, error) {
	t, err := f.find(name)
	if err != nil {
		return Tensor{}, err
	}
	return t.float32()
}

// Int32 reads the I32 tensor called name. It returns the values in row-major order, and the shape.
func (f *File) Int32(name string) ([]int32, []int, error) {
	t, err := f.find(name)
	if err == nil && t.DType != I32 {
		err = t.wrongDType("I32")
	}
	if err != nil {
		return nil, nil, err
	}
	data, err := read(t, 4, func(to []int32, from []byte) {
		for i := range to {
			to[i] = int32(binary.LittleEndian.Uint32(from[4*i:]))
		}
	})
	return data, slices.Clone(t.Shape), err
}

// Uint8 reads the U8 tensor called name. It returns the values in row-major order, and the shape.
func (f *File) Uint8(name string) ([]uint8, []int, error) {
	t, err := f.find(name)
	if err == nil && t.DType != U8 {
		err = t.wrongDType("U8")
	}
	if err != nil {
		return nil, nil, err
	}
	data, err := read(t, 1, func(to []uint8, from []byte) { copy(to, from) })
	return data, slices.Clone(t.Shape), err
}

func (f *File) find(name string) (stored, error) {
	if i, ok := f.byName[name]; ok {
		return f.tensors[i], nil
	}
	if what, ok := f.others[name]; ok {
		return stored{}, fmt.Errorf("checkpoint %s: %q is no tensor that can be read: %s", f.name, name, what)
	}
	return stored{}, fmt.Errorf("checkpoint %s: no tensor %q among its %d; list them to see how they are named", f.name, name, len(f.tensors))
}

func (t stored) wrongDType(want string) error {
	return fmt.Errorf("checkpoint %s: %s has dtype %s, expected %s", t.file, t.label(), t.DType, want)
}

// label names the tensor in errors; a [StoredTensor] does not know its name.
func (t stored) label() string {
	if t.Name == "" {
		return fmt.Sprintf("the tensor of shape %v", t.Shape)
	}
	return fmt.Sprintf("tensor %q", t.Name)
}

func (t stored) float32() (Tensor, error) {
	var data []float32
	var err error
	switch t.DType {
	case F32:
		data, err = read(t, 4, func(to []float32, from []byte) {
			for i := range to {
				to[i] = math.Float32frombits(binary.LittleEndian.Uint32(from[4*i:]))
			}
		})
	case F16:
		data, err = read(t, 2, func(to []float32, from []byte) {
			for i := range to {
				to[i] = float16.FromBits(binary.LittleEndian.Uint16(from[2*i:])).Float32()
			}
		})
	case BF16:
		data, err = read(t, 2, func(to []float32, from []byte) {
			for i := range to {
				to[i] = bfloat16.FromBits(binary.LittleEndian.Uint16(from[2*i:])).Float32()
			}
		})
	case F64:
		data, err = read(t, 8, func(to []float32, from []byte) {
			for i := range to {
				to[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(from[8*i:])))
			}
		})
	default:
		err = t.wrongDType("F32, F16, BF16 or F64")
	}
	return Tensor{Shape: slices.Clone(t.Shape), Data: data}, err
}

func (t stored) int64() ([]int64, error) {
	widths := map[DType]int{"BOOL": 1, U8: 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, I32: 4, "U64": 8, "I64": 8}
	width, ok := widths[t.DType]
	if !ok {
		return nil, t.wrongDType("a whole number's or BOOL")
	}
	data, err := read(t, width, func(to []int64, from []byte) {
		for i := range to {
			var wide [8]byte
			copy(wide[:], from[i*width:(i+1)*width])
			v := binary.LittleEndian.Uint64(wide[:])
			switch t.DType {
			case "BOOL":
				v = min(v, 1)
			case "I8":
				v = uint64(int8(v))
			case "I16":
				v = uint64(int16(v))
			case I32:
				v = uint64(int32(v))
			}
			to[i] = int64(v)
		}
	})
	if err == nil && t.DType == "U64" && slices.ContainsFunc(data, func(v int64) bool { return v < 0 }) {
		return nil, fmt.Errorf("checkpoint %s: %s has a U64 beyond what int64 holds", t.file, t.label())
	}
	return data, err
}

// read decodes the elements of a tensor, width bytes each, through a buffer of at most 64 KiB so
// that a large tensor is never in memory twice.
func read[T any](t stored, width int, decode func(to []T, from []byte)) ([]T, error) {
	fail := func(err error) ([]T, error) {
		if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt || errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &FormatError{File: t.file, Offset: t.at, Tensor: t.Name, Err: fmt.Errorf("its data are damaged or cut short: %w", err)}
		}
		return nil, fmt.Errorf("checkpoint %s: reading %s: %w", t.file, t.label(), err)
	}
	r, err := t.open()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	size := int(t.Bytes())
	data := make([]T, size/width)
	buf := make([]byte, min(size, 1<<16))
	for at := 0; at < size; at += len(buf) {
		buf = buf[:min(len(buf), size-at)]
		if _, err := io.ReadFull(r, buf); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fail(err)
		}
		decode(data[at/width:(at+len(buf))/width], buf)
	}
	// At its end an archive compares the checksum.
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		return fail(cmp.Or(err, errors.New("there are more values than its shape calls for")))
	}
	return data, nil
}

// SHA256 returns the hexadecimal digest of the whole file, which is read as a stream. For a sharded
// checkpoint it is the digest of the index followed by all shards, in the order of their names.
func (f *File) SHA256() (string, error) {
	hash := sha256.New()
	for _, p := range f.parts {
		n, err := io.Copy(hash, io.NewSectionReader(p.r, 0, p.size))
		if err == nil && n != p.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", fmt.Errorf("checkpoint %s: hashing %d bytes: %w", f.name, p.size, err)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
