package checkpoint

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"math"
	"math/bits"
)

// blob is a run of bytes that tensors lie in: a storage of PyTorch, a member of an archive.
type blob struct {
	r     io.ReaderAt
	begin int64 // in r
	skip  int64 // bytes of a header that come first
	size  int64 // bytes after it, once inflated
	// nil to read r as it is; else read through the archive, which checks the member's CRC-32
	member *zip.File
}

// stored reports whether the bytes lie in r uncompressed.
func (b blob) stored() bool { return b.member == nil || b.member.Method == zip.Store }

// stream reads the n bytes from offset from on.
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
	if from+n == b.size { // the archive compares the checksum where it meets the end
		return rc, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(rc, n), rc}, nil
}

// random gives access to any part of the blob. Compressed bytes are inflated into memory;
// openArchive has bounded them.
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

// strided is a tensor's place in a blob: element (i, j, …) is the element of index offset +
// i·stride[0] + j·stride[1] + … of the blob. Strides are not negative.
type strided struct {
	dtype  DType // of a whole number of bytes
	shape  []int
	stride []int64
	offset int64 // elements
}

// rowMajor returns the strides of a tensor without gaps; columnMajor returns those of Fortran's
// order.
func rowMajor(shape []int) []int64 {
	stride := make([]int64, len(shape))
	n := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		stride[i] = n
		n *= int64(max(shape[i], 1))
	}
	return stride
}

func columnMajor(shape []int) []int64 {
	stride := make([]int64, len(shape))
	n := int64(1)
	for i, d := range shape {
		stride[i] = n
		n *= int64(max(d, 1))
	}
	return stride
}

func (s strided) width() int64 { return int64(dtypes[s.dtype.rank()].bits / 8) }

// bytes checks the tensor against a blob of size bytes and returns how many bytes its values take.
func (s strided) bytes(size int64) (int64, error) {
	n, err := byteSize(s.dtype, s.shape)
	switch {
	case err != nil:
		return 0, err
	case n > math.MaxInt64:
		return 0, fmt.Errorf("%s %v takes %d bytes", s.dtype, s.shape, n)
	case len(s.shape) != len(s.stride):
		return 0, fmt.Errorf("shape %v has %d dimensions, its strides %v %d", s.shape, len(s.shape), s.stride, len(s.stride))
	case s.offset < 0:
		return 0, fmt.Errorf("storage offset %d is negative", s.offset)
	case n == 0:
		return 0, nil
	}
	last := uint64(s.offset)
	for i, d := range s.shape {
		if s.stride[i] < 0 {
			return 0, fmt.Errorf("stride %d is negative", s.stride[i])
		}
		hi, step := bits.Mul64(uint64(d-1), uint64(s.stride[i]))
		sum, carry := bits.Add64(last, step, 0)
		if hi != 0 || carry != 0 || sum > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v with strides %v reaches beyond 64 bits", s.shape, s.stride)
		}
		last = sum
	}
	if last >= uint64(size/s.width()) {
		return 0, fmt.Errorf("%s %v with strides %v from element %d on reaches element %d of a storage of %d bytes", s.dtype, s.shape, s.stride, s.offset, last, size)
	}
	return int64(n), nil
}

// contiguous reports whether the values lie one after the other, in row-major order.
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

// open reads the n bytes of the tensor's values in row-major order; bytes has returned n.
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
	// A transposed matrix takes as many bytes as it spans. Jumping through the file for each of its
	// elements would cost a system call for each, so it is held in memory; a column of a large
	// matrix is not worth its whole matrix.
	if span <= 4*n {
		g.data = make([]byte, span)
		if err := readAt(g.r, g.data, 0); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// gather reads the elements of a tensor that is not contiguous and so has at least one dimension.
type gather struct {
	strided
	r     io.ReaderAt // begins at the tensor's first element
	data  []byte      // what r has, if it is in memory
	index []int       // of the next element
	at    int64       // its place in r, elements
	left  int64       // bytes still to give
}

// Close does nothing: the reader does not own the file.
func (g *gather) Close() error { return nil }

// Read fills p with whole elements. p has room for at least one, because all callers ask for whole
// elements.
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
		for i := last; g.index[i] == g.shape[i] && i > 0; i-- { // the next row
			g.at += g.stride[i-1] - int64(g.shape[i])*g.stride[i]
			g.index[i] = 0
			g.index[i-1]++
		}
	}
	return n, nil
}
