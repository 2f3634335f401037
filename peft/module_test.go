package peft_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/peft"
)

// dora is DoRA (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353):
// it scales the rows of W + B·A to learned lengths. It reads the frozen weight.
var dora = peft.Module{
	Name:  "dora",
	Count: func(in, out, rank int) int { return rank*(in+out) + out },
	Graph: func(s *peft.Site, x, y *Node) *Node {
		a := s.Param("lora_A", peft.KaimingUniform, s.Rank, s.In)
		b := s.Param("lora_B", peft.Zero, s.Out, s.Rank)
		magnitude := s.Param("dora_magnitude", rowLengths, s.Out)
		bias := s.Bias()
		if bias != nil {
			y = Sub(y, ExpandLeftToRank(bias, y.Rank()))
		}
		length := Sqrt(ReduceSum(Square(Add(s.Weight(), MatMul(b, a))), 1)) // [out]
		y = Add(y, backbone.Linear(backbone.Linear(x, a, nil), b, nil))
		y = Mul(y, ExpandLeftToRank(Div(magnitude, length), y.Rank()))
		if bias != nil {
			y = Add(y, ExpandLeftToRank(bias, y.Rank()))
		}
		return y
	},
	Merge: func(l *peft.MergedLayer) error {
		a, b, magnitude := l.Tensors["lora_A"].Data, l.Tensors["lora_B"].Data, l.Tensors["dora_magnitude"].Data
		for o := range l.Out {
			row, sum := make([]float64, l.In), 0.0
			for i := range row {
				row[i] = float64(l.Weight.Data[o*l.In+i])
				for r := range l.Rank {
					row[i] += float64(b[o*l.Rank+r]) * float64(a[r*l.In+i])
				}
				sum += row[i] * row[i]
			}
			for i := range row {
				l.Weight.Data[o*l.In+i] = float32(row[i] * float64(magnitude[o]) / math.Sqrt(sum))
			}
		}
		return nil
	},
}

// rowLengths returns the lengths of the rows of the weight of the layer.
func rowLengths(p peft.Param, _ *rand.Rand, weights checkpoint.StateDict) []float32 {
	w := weights[strings.TrimSuffix(p.Name, "dora_magnitude")+"weight"]
	in := w.Shape[1]
	v := make([]float32, p.Size())
	for o := range v {
		sum := 0.0
		for _, x := range w.Data[o*in : (o+1)*in] {
			sum += float64(x) * float64(x)
		}
		v[o] = float32(math.Sqrt(sum))
	}
	return v
}

// repAdapter is RepAdapter (Luo et al. 2023, "Towards Efficient Visual Adaption via Structural
// Re-parameterization", arXiv 2302.08106) without groups and with a scale of 1. It is a linear
// bottleneck on the input of the layer: W·(x + U·(D·x + d) + u) + b. It reads the frozen weight and
// can be merged into weight and bias.
var repAdapter = peft.Module{
	Name:  "repadapter",
	Count: func(in, _, rank int) int { return 2*rank*in + rank + in },
	Graph: func(s *peft.Site, x, y *Node) *Node {
		down := s.Param("repadapter_down.weight", peft.KaimingUniform, s.Rank, s.In)
		downBias := s.Param("repadapter_down.bias", peft.Zero, s.Rank)
		up := s.Param("repadapter_up.weight", peft.Zero, s.In, s.Rank)
		upBias := s.Param("repadapter_up.bias", peft.Zero, s.In)
		return Add(y, backbone.Linear(backbone.Linear(backbone.Linear(x, down, downBias), up, upBias), s.Weight(), nil))
	},
	Merge: func(l *peft.MergedLayer) error {
		if l.Bias.Data == nil {
			return errors.New("the layer has no bias")
		}
		down, downBias := l.Tensors["repadapter_down.weight"].Data, l.Tensors["repadapter_down.bias"].Data
		up, upBias := l.Tensors["repadapter_up.weight"].Data, l.Tensors["repadapter_up.bias"].Data
		for o := range l.Out {
			row := l.Weight.Data[o*l.In : (o+1)*l.In]
			wide := make([]float64, l.Rank) // product of the row and U
			bias := float64(l.Bias.Data[o])
			for i, w := range row {
				bias += float64(w) * float64(upBias[i])
				for r := range wide {
					wide[r] += float64(w) * float64(up[i*l.Rank+r])
				}
			}
			for r, v := range wide {
				bias += v * float64(downBias[r])
			}
			for i, w := range row {
				sum := float64(w)
				for r, v := range wide {
					sum += v * float64(down[r*l.In+i])
				}
				row[i] = float32(sum)
			}
			l.Bias.Data[o] = float32(bias)
		}
		return nil
	},
}

func init() {
	for _, m := range []peft.Module{dora, repAdapter} {
		if err := peft.Register(m); err != nil {
			panic(err)
		}
	}
}

// TestModulesThatReadTheLayer checks DoRA and RepAdapter, with and without tuned biases: the
// parameter count, no effect at the initial values, the gradients against finite differences, and
// the logits of the merged backbone.
func TestModulesThatReadTheLayer(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(config)
	var pixels []uint8
	for i := range 3 {
		pixels = append(pixels, colours.Pixels(i, 8, 0)...)
	}
	labels := []int32{0, 1, 2}
	linear, err := peft.New(config, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		module peft.Module
		// parameters, with rank 2 on each matrix of two blocks of width 8 and MLP width 16
		count int
	}{
		{dora, 2 * (4*(2*16+8) + (2*24 + 16) + (2*24 + 8))},
		{repAdapter, 2 * (5*(4*8+2+8) + (4*16 + 2 + 16))},
	} {
		for _, biases := range []bool{false, true} {
			s := peft.Uniform(config, c.module.Name, 2)
			if biases {
				s.Whole = []string{"blocks.0.attn.q.bias", "blocks.1.mlp.fc2.bias"}
				s.Entries = map[string][]int32{"blocks.1.attn.proj.bias": {1, 4}}
			}
			tuning, err := peft.New(config, s)
			if err != nil {
				t.Fatal(err)
			}
			if got := tuning.Counts.Structured; got != c.count {
				t.Errorf("%s: %d parameters, expected %d", c.module.Name, got, c.count)
			}
			tuned := tuning.Init(1, peft.PaperScheme, m.Weights)
			want, _ := forward(t, be, m, linear, linear.Init(1, peft.PaperScheme, m.Weights), pixels, labels)
			got, _ := forward(t, be, m, tuning, tuned, pixels, labels)
			if d, most := difference(t, got, want); !(d <= 1e-5*most) {
				t.Errorf("%s: with its initial values it changes logits by up to %g, of at most %g", c.module.Name, d, most)
			}

			r := rand.New(rand.NewPCG(5, 6))
			direction := checkpoint.StateDict{}
			for _, p := range tuning.Params {
				d := checkpoint.NewTensor(p.Shape...)
				for i := range d.Data {
					tuned[p.Name].Data[i] += float32(0.1 * r.NormFloat64())
					d.Data[i] = float32(r.NormFloat64())
				}
				direction[p.Name] = d
			}
			want, grads := forward(t, be, m, tuning, tuned, pixels, labels)
			for _, p := range tuning.Params {
				slope := 0.0
				for i, g := range grads[p.Name].Data {
					slope += float64(g) * float64(direction[p.Name].Data[i])
				}
				const step = 4e-3
				loss := func(step float32) float64 {
					moved := checkpoint.StateDict{}
					for name, v := range tuned {
						moved[name] = v
					}
					v := checkpoint.Tensor{Shape: p.Shape, Data: slices.Clone(tuned[p.Name].Data)}
					for i := range v.Data {
						v.Data[i] += step * direction[p.Name].Data[i]
					}
					moved[p.Name] = v
					logits, _ := forward(t, be, m, tuning, moved, pixels, labels)
					return crossEntropy(logits, labels)
				}
				if got := (loss(step) - loss(-step)) / (2 * step); math.Abs(got-slope) > 2e-3+0.02*math.Abs(slope) {
					t.Errorf("%s, tuned biases %v: slope of the loss along %s is %g by finite differences, %g by the gradient", c.module.Name, biases, p.Name, got, slope)
				}
			}

			before := slices.Clone(tuned["blocks.0.attn.q.bias"].Data)
			merged, err := tuning.Merge(m.Weights, tuned)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(before, tuned["blocks.0.attn.q.bias"].Data) {
				t.Errorf("%s: merging changes the tuned tensors", c.module.Name)
			}
			head := checkpoint.StateDict{}
			for _, p := range linear.Params {
				head[p.Name] = merged[p.Name]
			}
			got, _ = forward(t, be, backbone.NewModel(config, m.Preprocessing, merged), linear, head, pixels, labels)
			if d, most := difference(t, got, want); !(d <= 1e-5*most) {
				t.Errorf("%s, tuned biases %v: merging changes logits by up to %g, of at most %g", c.module.Name, biases, d, most)
			}
		}
	}
}

// crossEntropy returns the mean over the images of −log softmax(logits)[label].
func crossEntropy(logits []float32, labels []int32) (loss float64) {
	classes := len(logits) / len(labels)
	for b, label := range labels {
		row, sum := logits[b*classes:(b+1)*classes], 0.0
		for _, v := range row {
			sum += math.Exp(float64(v))
		}
		loss += (math.Log(sum) - float64(row[label])) / float64(len(labels))
	}
	return loss
}
