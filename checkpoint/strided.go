package checkpoint

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"math"
	"math/bits"
)

// blob is a range of bytes of a file that holds the values of tensors: a storage of PyTorch, or a
// member of a zip archive.
type blob struct {
	r     io.ReaderAt
	begin int64 // offset of the range in r, in bytes
	skip  int64 // length of a header before the values, in bytes
	size  int64 // length of the values in bytes, after decompression
	// member is the member of a zip archive that the bytes are read through, which checks its
	// CRC-32. nil: the bytes are read from r.
	member *zip.File
}

// stored reports whether the bytes in r are not compressed.
func (b blob) stored() bool { return b.member == nil || b.member.Method == zip.Store }

// stream returns a reader of the n bytes of the values from offset from on.
func (b blob) stream(from, n int64) (io.ReadCloser, error) {
	if b.member == nil {
		return io.NopCloser(io.NewSectionReader(b.r, b.begin+b.skip+from, n)), nil
	}
	rc, err := b.member.Open()
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, rc, b.skip+from); err != nil {
		rc.Close()
		return nil, err
	}
	if from+n == b.size { // The reader of the member compares the checksum when it reaches the end.
		return rc, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(rc, n), rc}, nil
}

// random returns a reader for random access to the values. It decompresses compressed values into
// memory; openArchive has limited their size.
func (b blob) random() (io.ReaderAt, error) {
	if b.stored() {
		return io.NewSectionReader(b.r, b.begin+b.skip, b.size), nil
	}
	rc, err := b.stream(0, b.size)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data := make([]byte, b.size)
	if _, err := io.ReadFull(rc, data); err != nil {
		return nil, err
	}
	return bytes.NewReader(data), nil
}

// strided describes the place of a tensor in a blob. Element (i, j, …) of the tensor is element
// number offset + i·stride[0] + j·stride[1] + … of the blob. Strides are not negative.
type strided struct {
	dtype  DType // each element takes a whole number of bytes
	shape  []int
	stride []int64 // in elements, for each dimension
	offset int64   // in elements
}

// rowMajor returns the strides of a contiguous tensor in row-major order.
func rowMajor(shape []int) []int64 {
	stride := make([]int64, len(shape))
	n := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		stride[i] = n
		n *= int64(max(shape[i], 1))
	}
	return stride
}

// columnMajor returns the strides of a contiguous tensor in column-major order, the order of
// Fortran.
func columnMajor(shape []int) []int64 {
	stride := make([]int64, len(shape))
	n := int64(1)
	for i, d := range shape {
		stride[i] = n
		n *= int64(max(d, 1))
	}
	return stride
}

// width returns the number of bytes of an element.
func (s strided) width() int64 { return int64(dtypes[s.dtype.index()].bits / 8) }

// bytes checks that the tensor lies in a blob of size bytes. It returns the number of bytes that
// the values of the tensor take.
func (s strided) bytes(size int64) (int64, error) {
	n, err := byteSize(s.dtype, s.shape)
	switch {
	case err != nil:
		return 0, err
	case n > math.MaxInt64:
		return 0, fmt.Errorf("a tensor of type %s and shape %v takes %d bytes, which is too large for a file", s.dtype, s.shape, n)
	case len(s.shape) != len(s.stride):
		return 0, fmt.Errorf("shape %v has %d dimensions, but its strides %v are %d", s.shape, len(s.shape), s.stride, len(s.stride))
	case s.offset < 0:
		return 0, fmt.Errorf("the storage offset %d is negative", s.offset)
	case n == 0:
		return 0, nil
	}
	last := uint64(s.offset)
	for i, d := range s.shape {
		if s.stride[i] < 0 {
			return 0, fmt.Errorf("the stride %d is negative", s.stride[i])
		}
		hi, step := bits.Mul64(uint64(d-1), uint64(s.stride[i]))
		sum, carry := bits.Add64(last, step, 0)
		if hi != 0 || carry != 0 || sum > math.MaxInt64 {
			return 0, fmt.Errorf("a tensor of shape %v with strides %v reaches beyond 64 bits", s.shape, s.stride)
		}
		last = sum
	}
	if last >= uint64(size/s.width()) {
		return 0, fmt.Errorf("a tensor of type %s and shape %v, with strides %v and offset %d, reaches element %d of a storage of %d bytes", s.dtype, s.shape, s.stride, s.offset, last, size)
	}
	return int64(n), nil
}

// contiguous reports whether the values follow each other without gaps in row-major order.
func (s strided) contiguous() bool {
	want := int64(1)
	for i := len(s.shape) - 1; i >= 0; i-- {
		if s.shape[i] != 1 && s.stride[i] != want {
			return false
		}
		want *= int64(s.shape[i])
	}
	return true
}

// open returns a reader of the values of the tensor in row-major order. n is their number of bytes,
// as bytes returned it.
func (s strided) open(b blob, n int64) (io.ReadCloser, error) {
	if n == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	w := s.width()
	if s.contiguous() {
		return b.stream(s.offset*w, n)
	}
	r, err := b.random()
	if err != nil {
		return nil, err
	}
	span := w
	for i, d := range s.shape {
		span += int64(d-1) * s.stride[i] * w
	}
	g := &gather{strided: s, r: io.NewSectionReader(r, s.offset*w, span), left: n, index: make([]int, len(s.shape))}
	// Reading each element on its own costs a system call for each. So the whole range is read into
	// memory if the tensor fills at least a quarter of it, as a transposed matrix does. A column of
	// a large matrix does not, and its elements are read one by one.
	if span <= 4*n {
		g.data = make([]byte, span)
		if err := readAt(g.r, g.data, 0); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// gather reads the elements of a tensor that is not contiguous, in row-major order. Such a tensor
// has at least one dimension.
type gather struct {
	strided
	r     io.ReaderAt // begins at the first element of the tensor
	data  []byte      // the content of r; nil if it is not held in memory
	index []int       // index of the next element in each dimension
	at    int64       // place of the next element in r, in elements
	left  int64       // number of bytes that are still to be returned
}

// Close does nothing, because gather does not own the file.
func (g *gather) Close() error { return nil }

// Read fills p with whole elements. p must have space for at least one element.
func (g *gather) Read(p []byte) (int, error) {
	if g.left == 0 {
		return 0, io.EOF
	}
	w, last := int(g.width()), len(g.shape)-1
	n := 0
	for g.left > 0 && n+w <= len(p) {
		count := min(g.shape[last]-g.index[last], (len(p)-n)/w)
		for range count {
			if g.data != nil {
				copy(p[n:n+w], g.data[g.at*int64(w):])
			} else if err := readAt(g.r, p[n:n+w], g.at*int64(w)); err != nil {
				return n, err
			}
			g.at += g.stride[last]
			n += w
		}
		g.left -= int64(count * w)
		g.index[last] += count
		for i := last; g.index[i] == g.shape[i] && i > 0; i-- { // go to the next row
			g.at += g.stride[i-1] - int64(g.shape[i])*g.stride[i]
			g.index[i] = 0
			g.index[i-1]++
		}
	}
	return n, nil
}
