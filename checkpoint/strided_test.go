package checkpoint

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// TestStrided reads tensors of random shapes and strides with buffers of random sizes. It compares
// them with a simple reader that computes the place of each element from its index.
func TestStrided(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 4096)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	dtypes := []DType{U8, F16, F32, "I64"}
	sparse := 0
	for range 3000 {
		s := strided{dtype: dtypes[r.IntN(4)], offset: r.Int64N(50)}
		n := 1
		for range r.IntN(4) {
			s.shape = append(s.shape, r.IntN(6))
			s.stride = append(s.stride, r.Int64N(40))
			n *= s.shape[len(s.shape)-1]
		}
		size, err := s.bytes(int64(len(data)))
		if err != nil {
			continue // the tensor does not fit
		}
		w := int(s.width())
		if int(size) != n*w {
			t.Fatalf("%v takes %d bytes", s, size)
		}
		var want []byte
		for i := range n {
			at := s.offset
			for k := len(s.shape) - 1; k >= 0; k-- {
				at += int64(i%s.shape[k]) * s.stride[k]
				i /= s.shape[k]
			}
			want = append(want, data[at*int64(w):][:w]...)
		}
		rc, err := s.open(blob{r: bytes.NewReader(data), size: int64(len(data))}, size)
		if err != nil {
			t.Fatal(err)
		}
		if g, ok := rc.(*gather); ok && g.data == nil {
			sparse++
		}
		var got []byte
		for {
			buf := make([]byte, w*(1+r.IntN(7)))
			n, err := io.ReadFull(rc, buf)
			got = append(got, buf[:n]...)
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%v: got %x, want %x", s, got, want)
		}
	}
	if sparse < 100 {
		t.Errorf("only %d tensors were read element by element, want at least 100", sparse)
	}
}
