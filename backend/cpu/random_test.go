package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// program builds a random graph on any backend: the same calls for the same
// seed.
type program struct {
	r      *rand.Rand
	f      compute.Function
	values []compute.Value
	shapes [][]int
	log    []string
}

func (p *program) add(name string, v compute.Value, err error, dims ...int) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.values = append(p.values, v)
	p.shapes = append(p.shapes, slices.Clone(dims))
	p.log = append(p.log, fmt.Sprintf("%d: %s %v", len(p.values)-1, name, dims))
	return nil
}

// pick chooses a value with a bias to recent ones.
func (p *program) pick() int {
	n := len(p.values)
	return n - 1 - min(p.r.IntN(n), p.r.IntN(n))
}

func (p *program) same(dims []int) int {
	var all []int
	for i, s := range p.shapes {
		if slices.Equal(s, dims) {
			all = append(all, i)
		}
	}
	return all[p.r.IntN(len(all))]
}

func (p *program) step() error {
	r, i := p.r, p.pick()
	x, d := p.values[i], p.shapes[i]
	size := 1
	for _, n := range d {
		size *= n
	}
	if size > 20000 {
		i = 0
		x, d, size = p.values[0], p.shapes[0], 1
	}
	arg := fmt.Sprintf("(%d)", i)
	switch r.IntN(18) {
	case 0, 1, 2, 3: // binary with an operand of the same shape
		j := p.same(d)
		names := []string{"Add", "Sub", "Mul", "Max", "Min"}
		k := r.IntN(len(names))
		v, err := []func(a, b compute.Value) (compute.Value, error){p.f.Add, p.f.Sub, p.f.Mul, p.f.Max, p.f.Min}[k](x, p.values[j])
		return p.add(fmt.Sprint(names[k], i, ",", j), v, err, d...)
	case 4: // binary with one axis, or all, broadcast
		j := p.same(d)
		if len(d) == 0 {
			return nil
		}
		axis := r.IntN(len(d))
		one := slices.Clone(d)
		one[axis] = 1
		s, err := p.f.ReduceSum(p.values[j], axis)
		if err != nil {
			return err
		}
		if s, err = p.f.Reshape(s, one...); err != nil {
			return err
		}
		if s, err = p.f.Tanh(s); err != nil {
			return err
		}
		v, err := p.f.Mul(x, s)
		return p.add(fmt.Sprint("MulReduced", i, ",", j, " axis ", axis), v, err, d...)
	case 5, 6:
		k := r.IntN(6)
		v, err := []func(compute.Value) (compute.Value, error){p.f.Neg, p.f.Abs, p.f.Tanh, p.f.Erf, p.f.Logistic, p.f.Cos}[k](x)
		return p.add(fmt.Sprint("Unary", k, arg), v, err, d...)
	case 7: // reduce
		if len(d) == 0 {
			return nil
		}
		var axes, left []int
		for a := range d {
			if r.IntN(2) == 0 {
				axes = append(axes, a)
			} else {
				left = append(left, d[a])
			}
		}
		if len(axes) == 0 {
			return nil
		}
		k := r.IntN(3)
		v, err := []func(compute.Value, ...int) (compute.Value, error){p.f.ReduceSum, p.f.ReduceMax, p.f.ReduceMin}[k](x, axes...)
		return p.add(fmt.Sprint("Reduce", k, arg, axes), v, err, left...)
	case 8: // transpose
		perm := r.Perm(len(d))
		var to []int
		for _, a := range perm {
			to = append(to, d[a])
		}
		v, err := p.f.Transpose(x, perm...)
		return p.add(fmt.Sprint("Transpose", arg, perm), v, err, to...)
	case 9: // reshape: merge or split an axis
		to := slices.Clone(d)
		if len(to) > 1 && r.IntN(2) == 0 {
			a := r.IntN(len(to) - 1)
			to[a] *= to[a+1]
			to = slices.Delete(to, a+1, a+2)
		} else {
			to = slices.Insert(to, r.IntN(len(to)+1), 1)
		}
		if len(to) > 4 {
			return nil
		}
		v, err := p.f.Reshape(x, to...)
		return p.add(fmt.Sprint("Reshape", arg), v, err, to...)
	case 10: // broadcast a new axis
		if len(d) > 3 || size > 3000 {
			return nil
		}
		at, n := r.IntN(len(d)+1), 1+r.IntN(5)
		to := slices.Insert(slices.Clone(d), at, n)
		var axes []int
		for a := range d {
			if a >= at {
				axes = append(axes, a+1)
			} else {
				axes = append(axes, a)
			}
		}
		v, err := p.f.BroadcastInDim(x, shapes.Make(dtypes.Float32, to...), axes)
		return p.add(fmt.Sprint("Broadcast", arg, axes), v, err, to...)
	case 11: // slice
		starts, limits, strides := make([]int, len(d)), slices.Clone(d), make([]int, len(d))
		to := slices.Clone(d)
		for a := range d {
			starts[a] = r.IntN(min(2, d[a]))
			strides[a] = 1 + r.IntN(2)
			to[a] = (limits[a] - starts[a] + strides[a] - 1) / strides[a]
		}
		v, err := p.f.Slice(x, starts, limits, strides)
		return p.add(fmt.Sprint("Slice", arg, starts, strides), v, err, to...)
	case 12: // pad
		fill, err := p.f.Constant([]float32{0.5})
		if err != nil {
			return err
		}
		var axes []compute.PadAxis
		to := slices.Clone(d)
		for a := range d {
			pad := compute.PadAxis{Start: r.IntN(2), End: r.IntN(2), Interior: r.IntN(2)}
			to[a] = d[a] + pad.Start + pad.End + max(0, d[a]-1)*pad.Interior
			axes = append(axes, pad)
		}
		v, err := p.f.Pad(x, fill, axes...)
		return p.add(fmt.Sprint("Pad", arg, axes), v, err, to...)
	case 13: // softmax, layer norm, GELU
		if len(d) == 0 {
			return nil
		}
		last := len(d) - 1
		switch r.IntN(3) {
		case 0:
			v, err := p.f.FusedSoftmax(x, last)
			return p.add("Softmax"+arg, v, err, d...)
		case 1:
			if d[last] == 1 {
				return nil
			}
			ones := make([]float32, d[last])
			for k := range ones {
				ones[k] = 1 + float32(k%3)/4
			}
			g, err := p.f.Constant(ones, d[last])
			if err != nil {
				return err
			}
			v, err := p.f.FusedLayerNorm(x, []int{last}, 1, g, nil)
			return p.add("LayerNorm"+arg, v, err, d...)
		}
		v, err := p.f.FusedGelu(x, true)
		return p.add("Gelu"+arg, v, err, d...)
	case 14: // where
		// A threshold that sums of rounding errors do not straddle.
		j, k := p.same(d), p.same(d)
		threshold, err := p.f.Constant([]float32{0.3123})
		if err != nil {
			return err
		}
		mask, err := p.f.GreaterThan(p.values[j], threshold)
		if err != nil {
			return err
		}
		v, err := p.f.Where(mask, p.values[k], x)
		return p.add(fmt.Sprint("Where", i, ",", j, ",", k), v, err, d...)
	case 15, 16: // product with itself over one axis
		if len(d) == 0 || size > 3000 {
			return nil
		}
		a := r.IntN(len(d))
		j := p.same(d)
		to := append(slices.Delete(slices.Clone(d), a, a+1), slices.Delete(slices.Clone(d), a, a+1)...)
		if len(to) > 4 {
			return nil
		}
		v, err := p.f.DotGeneral(x, []int{a}, nil, p.values[j], []int{a}, nil, compute.DotGeneralConfig{})
		if err != nil {
			return err
		}
		if v, err = p.f.Tanh(v); err != nil {
			return err
		}
		return p.add(fmt.Sprint("Dot", i, ",", j, " over ", a), v, err, to...)
	default: // concatenate
		if len(d) == 0 {
			return nil
		}
		a := r.IntN(len(d))
		j := p.same(d)
		to := slices.Clone(d)
		to[a] *= 2
		v, err := p.f.Concatenate(a, x, p.values[j])
		return p.add(fmt.Sprint("Concatenate", i, ",", j, " axis ", a), v, err, to...)
	}
}

// run builds the program of a seed and executes it.
func runProgram(be compute.Backend, seed uint64) (log []string, out [][]float32, err error) {
	r := rand.New(rand.NewPCG(seed, 1))
	b := be.Builder("random")
	p := &program{r: r, f: b.Main()}
	dims := [][]int{{1 + r.IntN(7), 1 + r.IntN(9)}, {1 + r.IntN(3), 1 + r.IntN(5), 1 + r.IntN(40)}, {1 + r.IntN(300)}}
	if seed%8 == 0 {
		dims = append(dims, []int{3, 197, 64})
	}
	var inputs []compute.Buffer
	for i, d := range dims {
		s := shapes.Make(dtypes.Float32, d...)
		v, err := p.f.Parameter(fmt.Sprint("p", i), s, nil)
		if err := p.add("Parameter", v, err, d...); err != nil {
			return p.log, nil, err
		}
		flat := make([]float32, s.Size())
		for j := range flat {
			flat[j] = float32(r.NormFloat64())
		}
		buf, err := be.BufferFromFlatData(0, flat, s)
		if err != nil {
			return p.log, nil, err
		}
		inputs = append(inputs, buf)
	}
	for range 30 {
		if err := p.step(); err != nil {
			return p.log, nil, err
		}
	}
	// The last values and a few others are returned.
	returned := p.values[max(0, len(p.values)-4):]
	for range 3 {
		returned = append(returned, p.values[r.IntN(len(p.values))])
	}
	if err := p.f.Return(returned, nil); err != nil {
		return p.log, nil, err
	}
	exec, err := b.Compile()
	if err != nil {
		return p.log, nil, err
	}
	results, err := exec.Execute(inputs, make([]bool, len(inputs)), 0)
	if err != nil {
		return p.log, nil, err
	}
	for _, b := range results {
		s, err := b.Shape()
		if err != nil {
			return p.log, nil, err
		}
		flat := make([]float32, s.Size())
		if err := b.ToFlatData(flat); err != nil {
			return p.log, nil, err
		}
		out = append(out, flat)
	}
	return p.log, out, nil
}

// TestRandomPrograms compares random graphs with GoMLX's Go backend.
func TestRandomPrograms(t *testing.T) {
	be, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(1500)
	if testing.Short() {
		n = 100
	}
	for seed := range n {
		log, want, err := runProgram(be.plain, seed)
		if err != nil {
			t.Fatalf("seed %d on the Go backend: %v\n%s", seed, err, log)
		}
		log, got, err := runProgram(be, seed)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, log)
		}
		for i := range want {
			if len(got[i]) != len(want[i]) {
				t.Fatalf("seed %d, output %d: %d values, expected %d", seed, i, len(got[i]), len(want[i]))
			}
			scale := 1.0
			for _, v := range want[i] {
				if a := math.Abs(float64(v)); a > scale && !math.IsInf(a, 0) {
					scale = a
				}
			}
			for j, w := range want[i] {
				g := got[i][j]
				if d := math.Abs(float64(g) - float64(w)); !(d <= 2e-3*scale) && !(math.IsNaN(float64(g)) && math.IsNaN(float64(w))) && g != w {
					for _, l := range log {
						t.Log(l)
					}
					t.Fatalf("seed %d, output %d, element %d: %g, expected %g", seed, i, j, g, w)
				}
			}
		}
	}
}

// programValues draws the inputs of a seed's program as runProgram does.
func programValues(seed uint64, inputs []shapes.Shape) (out [][]float32) {
	r := rand.New(rand.NewPCG(seed, 1))
	for _, n := range []int{7, 9, 3, 5, 40, 300} { // the dimensions
		r.IntN(n)
	}
	for _, s := range inputs {
		v := make([]float32, s.Size())
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		out = append(out, v)
	}
	return out
}
