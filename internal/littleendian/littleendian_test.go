package littleendian

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"testing"
)

// TestReadWrite compares the bytes with those of package binary, for more numbers than one chunk,
// in the way of this processor. On a little-endian processor it also checks the other way of Write.
func TestReadWrite(t *testing.T) {
	x := []float32{1, -2.5, float32(math.Inf(1)), 0, math.SmallestNonzeroFloat32}
	for i := range 10_000 {
		x = append(x, float32(i)/3)
	}
	var want []byte
	for _, v := range x {
		want = binary.LittleEndian.AppendUint32(want, math.Float32bits(v))
	}
	was := native
	defer func() { native = was }()
	for _, native = range []bool{was, false} {
		var got bytes.Buffer
		if err := Write(&got, x); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("native %t: the bytes differ, %v", native, err)
		}
		// Without native, Read decodes its own memory, which holds the bytes of the file.
		back := make([]float32, len(x))
		if err := Read(bytes.NewReader(want), back); err != nil || !slices.Equal(back, x) {
			t.Errorf("native %t: the numbers differ, %v", native, err)
		}
	}
	if err := Read(bytes.NewReader(want[:7]), make([]float32, 2)); err != io.ErrUnexpectedEOF {
		t.Errorf("cut short: %v", err)
	}
	if err := Read(bytes.NewReader(nil), nil); err != nil {
		t.Errorf("no numbers: %v", err)
	}
}
