package littleendian

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
)

func TestBytes(t *testing.T) {
	x := []float32{1, -2.5, float32(math.Inf(1)), 0, math.SmallestNonzeroFloat32}
	var want []byte
	for _, v := range x {
		want = binary.LittleEndian.AppendUint32(want, math.Float32bits(v))
	}
	got, ok := Bytes(x)
	if !ok {
		t.Skip("this processor stores the highest byte first")
	}
	if !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	copy(got[4:], want[:4])
	if x[1] != 1 {
		t.Errorf("x[1] is %v after a change of its bytes, want 1", x[1])
	}
	if b, _ := Bytes(nil); len(b) != 0 {
		t.Errorf("%d bytes of no numbers", len(b))
	}
}
