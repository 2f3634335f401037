package backbone

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/sptune/spt/checkpoint"
)

// TestResizePosEmbedTimm compares resizePosEmbed with timm's resample_abs_pos_embed.
// testdata/README.md has the program that wrote the expected values. The name of a tensor is
// "prefix oldGrid newGrid dim", and its input follows from a formula.
func TestResizePosEmbedTimm(t *testing.T) {
	f, err := checkpoint.Open("testdata/posembed.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	worst := 0.0
	for _, info := range f.Tensors() {
		var prefix, dim int
		var from, to [2]int
		if _, err := fmt.Sscanf(info.Name, "%d %dx%d %dx%d %d", &prefix, &from[0], &from[1], &to[0], &to[1], &dim); err != nil {
			t.Fatal(err)
		}
		pos := checkpoint.NewTensor(1, prefix+from[0]*from[1], dim)
		for i := range pos.Data {
			pos.Data[i] = float32(i*7919%1024)/512 - 1
		}
		want, err := f.Float32(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := resizePosEmbed(pos, prefix, from, to)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Shape, want.Shape) || len(got.Data) != len(want.Data) {
			t.Fatalf("%s: got shape %v with %d values, want %v", info.Name, got.Shape, len(got.Data), want.Shape)
		}
		for i := range want.Data {
			diff := math.Abs(float64(got.Data[i] - want.Data[i]))
			worst = max(worst, diff)
			if !(diff <= 1e-5) {
				t.Fatalf("%s: value %d is %v, timm has %v", info.Name, i, got.Data[i], want.Data[i])
			}
		}
	}
	t.Logf("largest difference %.2g", worst)
}

// counted returns a tensor with the values 0, 1, 2 and so on.
func counted(shape ...int) checkpoint.Tensor {
	x := checkpoint.NewTensor(shape...)
	for i := range x.Data {
		x.Data[i] = float32(i)
	}
	return x
}

func TestResizePosEmbedEqualGrids(t *testing.T) {
	pos := counted(1, 7, 3)
	pos.Data[10] = float32(math.NaN()) // resampling would spread it
	got, err := resizePosEmbed(pos, 1, [2]int{2, 3}, [2]int{2, 3})
	if err != nil || !slices.EqualFunc(got.Data, pos.Data, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) || !slices.Equal(got.Shape, pos.Shape) {
		t.Fatalf("got %v, %v", got, err)
	}
	got.Data[0] = -1
	if pos.Data[0] != 0 {
		t.Error("the result shares its data with the input")
	}
}

func TestResizePosEmbedErrors(t *testing.T) {
	square, other := [2]int{2, 2}, [2]int{3, 3}
	for name, c := range map[string]struct {
		pos      checkpoint.Tensor
		prefix   int
		from, to [2]int
	}{
		"rank 2":            {counted(5, 3), 1, square, other},
		"batch of 2":        {counted(2, 5, 3), 1, square, other},
		"wrong prefix":      {counted(1, 5, 3), 0, square, other},
		"wrong grid":        {counted(1, 5, 3), 1, [2]int{1, 3}, other},
		"negative prefix":   {counted(1, 3, 3), -1, square, other},
		"empty grid":        {counted(1, 5, 3), 1, square, [2]int{0, 3}},
		"grid overflows":    {counted(1, 1, 3), 1, [2]int{1 << 32, 1 << 32}, other},
		"huge new grid":     {counted(1, 5, 3), 1, square, [2]int{1 << 40, 1}},
		"no width":          {counted(1, 5, 0), 1, square, other},
		"data does not fit": {checkpoint.Tensor{Shape: []int{1, 5, 3}, Data: []float32{1}}, 1, square, other},
		"negative width":    {checkpoint.Tensor{Shape: []int{1, 5, -1}}, 1, square, square},
	} {
		if _, err := resizePosEmbed(c.pos, c.prefix, c.from, c.to); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
