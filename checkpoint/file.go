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

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/littleendian"
)

// File is an open checkpoint. [Open] and [NewFile] return one. The list of tensors is in memory and
// checked. The values of a tensor stay in the file until a method such as [File.Float32] reads
// them. Close the File after the last read. Several goroutines may call all methods except Close at
// the same time.
//
// A File does not map the file into memory, so a [Tensor] does not change after it was read.
// Mapping was measured to be no faster.
type File struct {
	name string
	contents
	byName  map[string]int // index into tensors
	parts   []part         // in the order in which SHA256 reads them
	closers []io.Closer    // the files that Close closes; nil for a File of NewFile
}

// part is one of the files that a checkpoint consists of.
type part struct {
	name string
	r    io.ReaderAt
	size int64 // bytes
}

// contents holds what the reader of a format returns.
type contents struct {
	format   string
	dict            // the tensors that the methods of a File list and read
	more     []dict // other dicts of tensors in the file, in which Canonical also looks
	metadata map[string]string
}

// stored describes a tensor in a file and gives access to its values, whatever the format of the
// file.
type stored struct {
	TensorInfo
	file string // file that holds the values, for errors
	at   int64  // offset of the values in the file in bytes, for errors
	// open returns a reader of the values in row-major order, little-endian. It ends after the last
	// value.
	open func() (io.ReadCloser, error)
}

// NewFile returns the safetensors file of size bytes in r, after it has read and checked the
// header. name is the name of the file in errors. r must stay open while the File is in use;
// [File.Close] does not close it. A file in another format or with a broken header is a
// [*FormatError]. Use [Open] for a file on disk and for other formats.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	c, err := readSafetensors(r, size, name)
	if err != nil {
		return nil, err
	}
	return newFile(c, []part{{name, r, size}}, name)
}

// newFile returns the File with the contents c of parts. It sorts the tensors by name. Two tensors
// with the same name are an error.
func newFile(c contents, parts []part, name string) (*File, error) {
	slices.SortFunc(c.tensors, func(a, b stored) int { return cmp.Compare(a.Name, b.Name) })
	f := &File{name: name, contents: c, parts: parts, byName: make(map[string]int, len(c.tensors))}
	for i, t := range c.tensors {
		if j, twice := f.byName[t.Name]; twice {
			return nil, &FormatError{File: t.file, Offset: t.at, Tensor: t.Name, Err: fmt.Errorf("%s also has a tensor of this name, at byte %d", c.tensors[j].file, c.tensors[j].at)}
		}
		f.byName[t.Name] = i
	}
	return f, nil
}

// readSafetensors reads and checks the header of the safetensors file of size bytes in r.
func readSafetensors(r io.ReaderAt, size int64, name string) (contents, error) {
	fail := func(format string, args ...any) (contents, error) {
		return contents{}, &FormatError{File: name, wholeFile: true, Err: fmt.Errorf(format, args...)}
	}
	if size < 8 {
		return fail("the file has %d bytes, but a safetensors file has at least 8; the file is empty or cut short; download or copy it again", size)
	}
	var prefix [8]byte
	if err := readAt(r, prefix[:], 0); err != nil {
		return contents{}, fmt.Errorf("checkpoint %s: reading the length of the header: %w", name, err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader || int64(n) > size-8 {
		start := make([]byte, min(size, sniffLen))
		if err := readAt(r, start, 0); err != nil {
			return contents{}, fmt.Errorf("checkpoint %s: reading the first bytes: %w", name, err)
		}
		if f := otherFormat(start, name); f.found != "" && !cutSafetensors(start) {
			return contents{}, notCheckpoint(name, f.found, "expected a safetensors file", f.advice)
		}
		limit := fmt.Sprintf("more than the format allows (%d)", maxHeader)
		if n > uint64(size) {
			limit = fmt.Sprintf("more than the file has (%d)", size)
		} else if int64(n) > size-8 {
			limit = fmt.Sprintf("but only %d bytes follow", size-8)
		}
		return fail("the first 8 bytes of a safetensors file state the length of the header; here they state %d bytes, %s; the file is probably not a safetensors file or is damaged", n, limit)
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
	c.tensors = make([]stored, 0, len(list))
	for _, t := range list {
		c.tensors = append(c.tensors, stored{t.TensorInfo, name, start + t.begin, func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(r, start+t.begin, t.end-t.begin)), nil
		}})
	}
	return c, nil
}

// readAt fills buf with the bytes of r from offset at. If r ends before, the error is
// io.ErrUnexpectedEOF.
func readAt(r io.ReaderAt, buf []byte, at int64) error {
	_, err := io.ReadFull(io.NewSectionReader(r, at, int64(len(buf))), buf)
	if err == io.EOF && len(buf) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close closes the files that [Open] opened. It does nothing for a File of [NewFile].
func (f *File) Close() error {
	var errs []error
	for _, c := range f.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Name returns the path of the file that [Open] opened, or the name that was given to [NewFile].
// For a sharded checkpoint it is the path of the index.
func (f *File) Name() string { return f.name }

// Files lists the paths of the files of the checkpoint: one file, or an index and its shards.
func (f *File) Files() []string {
	var names []string
	for _, p := range f.parts {
		names = append(names, p.name)
	}
	return names
}

// Format returns a description of the format for people, such as "safetensors" or "PyTorch zip,
// model_ema". In the second example the file is a training checkpoint, and the tensors come from
// the dict under its key model_ema.
func (f *File) Format() string { return f.format }

// Tensors lists the tensors of the checkpoint, sorted by name. The list is a copy.
func (f *File) Tensors() []TensorInfo {
	list := make([]TensorInfo, len(f.tensors))
	for i, t := range f.tensors {
		list[i] = t.TensorInfo
		list[i].Shape = slices.Clone(t.Shape)
	}
	return list
}

// Metadata returns a copy of the metadata, which are pairs of texts: those of a safetensors file or
// of the index of a sharded checkpoint. It returns nil if there are none and for the other formats.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Float32 reads the tensor called name. F32 values stay as they are. F16 and BF16 values are
// widened exactly. F64 values are rounded to the nearest float32, ties to even, and become infinite
// beyond the range of float32. Any other dtype and an unknown name are errors. Damaged values are a
// [*FormatError].
func (f *File) Float32(name string) (Tensor, error) {
	t, err := f.find(name)
	if err != nil {
		return Tensor{}, err
	}
	return t.float32()
}

// Int32 reads the I32 tensor called name and returns its values in row-major order and its shape.
// Any other dtype and an unknown name are errors. Damaged values are a [*FormatError].
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

// Uint8 reads the U8 tensor called name and returns its values in row-major order and its shape.
// Any other dtype and an unknown name are errors. Damaged values are a [*FormatError].
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

// find returns the tensor called name.
func (f *File) find(name string) (stored, error) {
	if i, ok := f.byName[name]; ok {
		return f.tensors[i], nil
	}
	if what, ok := f.others[name]; ok {
		return stored{}, fmt.Errorf("checkpoint %s: %q is not a tensor that can be read: %s", f.name, name, what)
	}
	return stored{}, fmt.Errorf("checkpoint %s: there is no tensor %q among the %d tensors of the file; list the tensors to see their names", f.name, name, len(f.tensors))
}

// wrongDType returns the error for a tensor whose dtype is not among those that want names.
func (t stored) wrongDType(want string) error {
	return fmt.Errorf("checkpoint %s: %s has dtype %s, expected %s", t.file, t.label(), t.DType, want)
}

// label returns a description of the tensor for errors. A tensor of [Unpickle] has no name.
func (t stored) label() string {
	if t.Name == "" {
		return fmt.Sprintf("the tensor of shape %v", t.Shape)
	}
	return fmt.Sprintf("tensor %q", t.Name)
}

// float32 reads the tensor as [File.Float32] does.
func (t stored) float32() (Tensor, error) {
	var data []float32
	var err error
	switch t.DType {
	case F32:
		data, err = t.floats()
	case F16:
		data, err = read(t, 2, halves(vector.FromFloat16))
	case BF16:
		data, err = read(t, 2, halves(vector.FromBFloat16))
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

// int64 reads a tensor of whole numbers, or of bools as 0 and 1. A U64 value beyond int64 is an
// error.
func (t stored) int64() ([]int64, error) {
	widths := map[DType]int{"BOOL": 1, U8: 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, I32: 4, "U64": 8, "I64": 8}
	width, ok := widths[t.DType]
	if !ok {
		return nil, t.wrongDType("a type of whole numbers or BOOL")
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
		return nil, fmt.Errorf("checkpoint %s: %s has a value of type U64 above the largest int64", t.file, t.label())
	}
	return data, err
}

// halves returns a function that reads numbers of 16 bits with convert.
func halves(convert func(to []float32, from []uint16)) func(to []float32, from []byte) {
	var bits []uint16
	return func(to []float32, from []byte) {
		bits = slices.Grow(bits[:0], len(to))[:len(to)]
		for i := range bits {
			bits[i] = binary.LittleEndian.Uint16(from[2*i:])
		}
		convert(to, bits)
	}
}

// floats reads the elements of a tensor of type F32.
func (t stored) floats() ([]float32, error) {
	data := make([]float32, t.Bytes()/4)
	err := t.stream(func(r io.Reader) error { return cutShort(littleendian.Read(r, data)) })
	if err != nil {
		return nil, err
	}
	return data, nil
}

// read reads the elements of a tensor, which take width bytes each, and converts them with decode.
// It reads through a buffer of at most 64 KiB, so that a large tensor is never in memory twice.
func read[T any](t stored, width int, decode func(to []T, from []byte)) ([]T, error) {
	size := int(t.Bytes())
	data := make([]T, size/width)
	buf := make([]byte, min(size, 1<<16))
	err := t.stream(func(r io.Reader) error {
		for at := 0; at < size; at += len(buf) {
			buf = buf[:min(len(buf), size-at)]
			if _, err := io.ReadFull(r, buf); err != nil {
				return cutShort(err)
			}
			decode(data[at/width:(at+len(buf))/width], buf)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// cutShort returns io.ErrUnexpectedEOF for io.EOF: the end of the values before the first of them.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stream opens the values of a tensor, which use reads to their end. It checks that no more values
// follow, and it explains errors.
func (t stored) stream(use func(io.Reader) error) error {
	r, err := t.open()
	if err == nil {
		defer r.Close()
		if err = use(r); err == nil {
			// The reader of a zip archive compares the checksum when it reaches the end.
			if _, end := io.ReadFull(r, make([]byte, 1)); end != io.EOF {
				err = cmp.Or(end, errors.New("the file has more values than the shape requires"))
			}
		}
	}
	if err == nil {
		return nil
	}
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt || errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{File: t.file, Offset: t.at, Tensor: t.Name, Err: fmt.Errorf("the values are damaged or cut short: %w", err)}
	}
	return fmt.Errorf("checkpoint %s: reading %s: %w", t.file, t.label(), err)
}

// SHA256 reads the whole checkpoint and returns the SHA-256 of its bytes in hexadecimal digits. For
// a sharded checkpoint it is the SHA-256 of the index followed by all shards in the order of their
// names.
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
