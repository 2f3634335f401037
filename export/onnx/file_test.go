package onnx

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes/float16"
)

// example returns a model that uses each field of the format.
func example() *Model {
	w := make([]float32, 600)
	for i := range w {
		w[i] = float32(i) - 100.25
	}
	return &Model{
		Name: "a graph", Producer: "spt", ProducerVersion: "0.1",
		Inputs:  []Value{{Images, Uint8, []int{-1, 20}}},
		Outputs: []Value{{Logits, Float32, []int{-1, 30}}},
		Nodes: []*Node{
			{Op: "Cast", Inputs: []string{Images}, Outputs: []string{"x"}, Attributes: []Attribute{{"to", int(Float32)}}},
			{Op: "MatMul", Inputs: []string{"x", "w"}, Outputs: []string{"y"}},
			{Op: "Softmax", Inputs: []string{"y"}, Outputs: []string{Logits}, Attributes: []Attribute{{"axis", -1}, {"unused", []int{-3, 4}}, {"real", float32(1.5)}, {"text", "ü"}}},
		},
		Weights: []*Tensor{
			{"w", []int{20, 30}, w}, {"half", []int{2}, []float16.Float16{0x3c00, 0xc000}}, {"long", []int{1}, []int64{math.MinInt64}},
			{"int", []int{2}, []int32{-1, 7}}, {"bytes", []int{1, 2}, []uint8{0, 255}}, {"bits", []int{2}, []bool{true, false}}, {"scalar", nil, []float32{3}},
			{"second", []int{1000}, bytes.Repeat([]byte{7}, 1000)}, {"third", []int{1500}, bytes.Repeat([]byte{8}, 1500)},
		},
		Metadata: []Entry{{"a", "1"}, {"ü", `["x"]`}},
	}
}

// TestFile writes and reads a model, with its weights in the same file and in a second one.
func TestFile(t *testing.T) {
	want := example()
	for _, above := range []int64{ExternalAbove, 2000} {
		path := filepath.Join(t.TempDir(), "m.onnx")
		if err := want.Write(path, above); err != nil {
			t.Fatal(err)
		}
		got, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v", got)
		}
		info, err := os.Stat(path + ".data")
		if above == ExternalAbove {
			if err == nil {
				t.Error("a second file was written")
			}
			continue
		}
		// The second weight begins at the first multiple of 4096 after 600 numbers; weights below
		// 1024 bytes stay in the model.
		if err != nil || info.Size() != 4096+1500 {
			t.Errorf("the second file: %v, %v", info, err)
		}
		if _, err := got.Run(make([]uint8, 20), 1); err != nil {
			t.Error(err)
		}
		for change, want := range map[string]func() error{
			"which does not exist|no such file|cannot find": func() error { return os.Remove(path + ".data") },
			"the file has 100": func() error { return os.WriteFile(path+".data", make([]byte, 100), 0o666) },
		} {
			if err := want(); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			found := false
			for _, part := range strings.Split(change, "|") {
				found = found || err != nil && strings.Contains(err.Error(), part)
			}
			if !found {
				t.Errorf("the error is %v, expected one with %q", err, change)
			}
		}
	}
}

// TestStoreHalf checks which weights become float16, and that their values are rounded to even.
func TestStoreHalf(t *testing.T) {
	m := example()
	m.Weights[0].Data.([]float32)[1] = 1 + 1.0/2048 // halfway between two float16 numbers
	m.Weights[0].Data.([]float32)[2] = 1 + 3.0/2048
	if n := m.StoreHalf(); n != 1 {
		t.Errorf("%d matrices were converted, expected 1", n)
	}
	got, ok := m.Weights[0].Data.([]float16.Float16)
	if !ok || got[0].Float32() != -100.25 || got[1].Float32() != 1 || got[2].Float32() != 1+2.0/1024 || m.Nodes[0].Op != "Cast" || m.Nodes[0].Outputs[0] != "w" {
		t.Errorf("%v, %+v", m.Weights[0], m.Nodes[0])
	}
	if _, err := m.Run(make([]uint8, 20), 1); err != nil {
		t.Error(err)
	}
	for _, v := range []float32{65505, float32(math.NaN()), float32(math.Inf(-1))} {
		m := example()
		m.Weights[0].Data.([]float32)[5] = v
		if m.StoreHalf() != 0 {
			t.Errorf("a matrix with %g became float16", v)
		}
	}
}

// FuzzOpen checks that a damaged file is an error, or a model that runs or refuses to.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "m.onnx")
	for _, above := range []int64{ExternalAbove, 2000} {
		if err := example().Write(path, above); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(Model)
		err := m.decode(b, func(name string) (*os.File, error) { return nil, os.ErrNotExist })
		if err == nil {
			_, _ = m.Run(make([]uint8, 20), 1)
		}
	})
}
