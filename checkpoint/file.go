package checkpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
)

// File is an open safetensors file. Its header is in memory and checked; data is read when asked for, never mapped, so
// that a tensor cannot change after it was read. All methods but Close may be called from several goroutines at once.
type File struct {
	r        io.ReaderAt
	closer   io.Closer // nil if the caller owns r
	name     string
	size     int64 // of the whole file, bytes
	start    int64 // offset of the data section, bytes
	tensors  []TensorInfo
	byName   map[string]int // index into tensors
	metadata map[string]string
}

// Open opens the safetensors file at path and checks its whole header. A file that breaks a rule of the format gives
// a [*FormatError]. The caller closes the File.
func Open(path string) (*File, error) {
	// Before it is opened: opening a pipe waits for its other end.
	stat, err := os.Stat(path)
	if err == nil && !stat.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (mode %v), expected a .safetensors file", path, stat.Mode())
	}
	if err != nil {
		return nil, fmt.Errorf("opening checkpoint: %w", err)
	}
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening checkpoint: %w", err)
	}
	f, err := NewFile(r, stat.Size(), path)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	f.closer = r
	return f, nil
}

// NewFile reads and checks the header of the safetensors file of size bytes in r. name stands for the file in errors.
// r must stay open while the File is used, and Close leaves it open.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	if size < 8 {
		return nil, &FormatError{File: name, Err: fmt.Errorf("the file has %d bytes, a safetensors file at least 8: the file is empty or cut short", size)}
	}
	var prefix [8]byte
	if err := readAt(r, prefix[:], 0); err != nil {
		return nil, fmt.Errorf("checkpoint %s: reading the header's length: %w", name, err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader || int64(n) > size-8 {
		return nil, &FormatError{File: name, Err: fmt.Errorf("the header claims %d bytes, but %d follow and the format allows %d: the file is cut short or not safetensors (a .pth, an .npz, a Git LFS pointer?)", n, size-8, maxHeader)}
	}
	raw := make([]byte, n)
	if err := readAt(r, raw, 8); err != nil {
		return nil, fmt.Errorf("checkpoint %s: reading the header: %w", name, err)
	}
	start := 8 + int64(n)
	tensors, metadata, err := parseHeader(raw, size-start, name)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(tensors, func(a, b TensorInfo) int { return cmp.Compare(a.Name, b.Name) })
	f := &File{r: r, name: name, size: size, start: start, tensors: tensors, metadata: metadata, byName: make(map[string]int, len(tensors))}
	for i, t := range tensors {
		f.byName[t.Name] = i
	}
	return f, nil
}

// readAt fills buf from offset at of r.
func readAt(r io.ReaderAt, buf []byte, at int64) error {
	_, err := io.ReadFull(io.NewSectionReader(r, at, int64(len(buf))), buf)
	if err == io.EOF && len(buf) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close closes a file that [Open] opened; it does nothing for one of [NewFile].
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Name is the path given to [Open] or the name given to [NewFile].
func (f *File) Name() string { return f.name }

// Tensors lists what the file holds, sorted by name.
func (f *File) Tensors() []TensorInfo {
	list := slices.Clone(f.tensors)
	for i := range list {
		list[i].Shape = slices.Clone(list[i].Shape)
	}
	return list
}

// Info describes the tensor called name; false if the file has none.
func (f *File) Info(name string) (TensorInfo, bool) {
	i, ok := f.byName[name]
	if !ok {
		return TensorInfo{}, false
	}
	info := f.tensors[i]
	info.Shape = slices.Clone(info.Shape)
	return info, true
}

// Metadata is a copy of the file's free-text pairs; nil if it has none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Float32 reads the tensor called name: F32 as it is, F16 and BF16 widened exactly, F64 rounded to nearest even
// (beyond float32's range to Inf). Any other dtype is an error, as is a name that the file does not have.
func (f *File) Float32(name string) (Tensor, error) {
	info, err := f.find(name)
	if err != nil {
		return Tensor{}, err
	}
	var data []float32
	switch info.DType {
	case F32:
		data, err = read(f, info, 4, func(to []float32, from []byte) {
			for i := range to {
				to[i] = math.Float32frombits(binary.LittleEndian.Uint32(from[4*i:]))
			}
		})
	case F16:
		data, err = read(f, info, 2, func(to []float32, from []byte) {
			for i := range to {
				to[i] = fromFloat16(binary.LittleEndian.Uint16(from[2*i:]))
			}
		})
	case BF16:
		data, err = read(f, info, 2, func(to []float32, from []byte) {
			for i := range to {
				to[i] = fromBFloat16(binary.LittleEndian.Uint16(from[2*i:]))
			}
		})
	case F64:
		data, err = read(f, info, 8, func(to []float32, from []byte) {
			for i := range to {
				to[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(from[8*i:])))
			}
		})
	default:
		err = f.wrongDType(info, "F32, F16, BF16 or F64")
	}
	return Tensor{Shape: info.Shape, Data: data}, err
}

// Int32 reads the I32 tensor called name: its values in row-major order, and its shape.
func (f *File) Int32(name string) ([]int32, []int, error) {
	info, err := f.find(name)
	if err == nil && info.DType != I32 {
		err = f.wrongDType(info, "I32")
	}
	if err != nil {
		return nil, nil, err
	}
	data, err := read(f, info, 4, func(to []int32, from []byte) {
		for i := range to {
			to[i] = int32(binary.LittleEndian.Uint32(from[4*i:]))
		}
	})
	return data, info.Shape, err
}

// Uint8 reads the U8 tensor called name: its values in row-major order, and its shape.
func (f *File) Uint8(name string) ([]uint8, []int, error) {
	info, err := f.find(name)
	if err == nil && info.DType != U8 {
		err = f.wrongDType(info, "U8")
	}
	if err != nil {
		return nil, nil, err
	}
	data, err := read(f, info, 1, func(to []uint8, from []byte) { copy(to, from) })
	return data, info.Shape, err
}

func (f *File) find(name string) (TensorInfo, error) {
	info, ok := f.Info(name)
	if !ok {
		return info, fmt.Errorf("checkpoint %s: no tensor %q among its %d; list them to see how they are named", f.name, name, len(f.tensors))
	}
	return info, nil
}

func (f *File) wrongDType(info TensorInfo, want string) error {
	return fmt.Errorf("checkpoint %s: tensor %q has dtype %s, expected %s", f.name, info.Name, info.DType, want)
}

// read decodes the elements of a tensor, width bytes each, through a buffer of at most 64 KiB so that a large tensor
// is never in memory twice.
func read[T any](f *File, info TensorInfo, width int, decode func(to []T, from []byte)) ([]T, error) {
	size := int(info.End - info.Begin)
	data := make([]T, size/width)
	buf := make([]byte, min(size, 1<<16))
	for at := 0; at < size; at += len(buf) {
		buf = buf[:min(len(buf), size-at)]
		if err := readAt(f.r, buf, f.start+info.Begin+int64(at)); err != nil {
			return nil, fmt.Errorf("checkpoint %s: reading tensor %q: %w", f.name, info.Name, err)
		}
		decode(data[at/width:(at+len(buf))/width], buf)
	}
	return data, nil
}

// SHA256 is the hexadecimal digest of the whole file, read as a stream.
func (f *File) SHA256() (string, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, io.NewSectionReader(f.r, 0, f.size))
	if err == nil && n != f.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", fmt.Errorf("checkpoint %s: hashing %d bytes: %w", f.name, f.size, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
