package peft_test

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/peft"
)

// TestModules checks the built-in modules, with and without tuned biases: the parameter count, no
// effect at the initial values, the gradients against finite differences, and the logits of the
// merged backbone.
func TestModules(t *testing.T) {
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
		module string
		// parameters, with rank 2 on each matrix of two blocks of width 8 and MLP width 16
		count int
		start float64 // largest effect of the initial values
		// constant lists the tensors that also change the output through an expression without a
		// gradient: the lengths of DoRA. PyTorch checks their gradients.
		constant []string
	}{
		{"lora", 2 * (4*2*16 + 2*24 + 2*24), 1e-5, nil},
		{"dora", 2 * (4*(2*16+8) + (2*24 + 16) + (2*24 + 8)), 1e-5, []string{"lora_A", "lora_B"}},
		{"repadapter", 2 * (5*(3*8+2+8) + (3*16 + 2 + 16)), 1e-5, nil},
		{"adaptformer", 2 * (4*(2*16+2+8) + (2*24 + 2 + 16) + (2*24 + 2 + 8)), 1e-5, nil},
		{"adapter", 2 * (5*(4*8+2+8) + (4*16 + 2 + 16)), 1e-5, nil},
		{"adapter-nobias", 2 * (5*(4*8+2) + (4*16 + 2)), 1e-5, nil},
		{"adapter-scaled", 2 * (5*(4*8+2+8) + (4*16 + 2 + 16)), 1e-5, nil},
		{"adapter-plus", 2 * (5*(4*8+2+16) + (4*16 + 2 + 32)), 1e-2, nil},
	} {
		for _, biases := range []bool{false, true} {
			s := peft.Uniform(config, c.module, 2)
			if biases {
				s.Whole = []string{"blocks.0.attn.q.bias", "blocks.1.mlp.fc2.bias"}
				s.Entries = map[string][]int32{"blocks.1.attn.proj.bias": {1, 4}}
			}
			tuning, err := peft.New(config, s)
			if err != nil {
				t.Fatal(err)
			}
			if got := tuning.Counts.Structured; got != c.count {
				t.Errorf("%s: %d parameters, expected %d", c.module, got, c.count)
			}
			tuned := tuning.Init(1, peft.PaperScheme, m.Weights)
			want, _ := forward(t, be, m, linear, linear.Init(1, peft.PaperScheme, m.Weights), pixels, labels)
			got, _ := forward(t, be, m, tuning, tuned, pixels, labels)
			if d, most := difference(t, got, want); !(d <= c.start*most) {
				t.Errorf("%s: with its initial values it changes logits by up to %g, of at most %g", c.module, d, most)
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
			// The tensors of the same name move together, on all layers.
			kinds := map[string][]string{}
			for _, p := range tuning.Params {
				kind := p.Name
				// such as blocks.0.attn.q.lora_A
				if parts := strings.SplitN(p.Name, ".", 5); len(parts) == 5 {
					kind = parts[4]
				}
				kinds[kind] = append(kinds[kind], p.Name)
			}
			for kind, names := range kinds {
				if slices.Contains(c.constant, kind) {
					continue
				}
				slope := 0.0
				for _, name := range names {
					for i, g := range grads[name].Data {
						slope += float64(g) * float64(direction[name].Data[i])
					}
				}
				const step = 2e-3
				loss := func(step float32) float64 {
					moved := maps.Clone(tuned)
					for _, name := range names {
						v := cloneOf(tuned[name])
						for i := range v.Data {
							v.Data[i] += step * direction[name].Data[i]
						}
						moved[name] = v
					}
					logits, _ := forward(t, be, m, tuning, moved, pixels, labels)
					return crossEntropy(logits, labels)
				}
				if got := (loss(step) - loss(-step)) / (2 * step); math.Abs(got-slope) > 2e-3+0.02*math.Abs(slope) {
					t.Errorf("%s, tuned biases %v: slope of the loss along %s is %g by finite differences, %g by the gradient", c.module, biases, kind, got, slope)
				}
			}
			if tuning.Mergeable() != nil {
				continue
			}
			before := slices.Clone(tuned["blocks.0.attn.q.bias"].Data)
			merged, err := tuning.Merge(m.Weights, tuned)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(before, tuned["blocks.0.attn.q.bias"].Data) {
				t.Errorf("%s: merging changes the tuned tensors", c.module)
			}
			head := checkpoint.StateDict{}
			for _, p := range linear.Params {
				head[p.Name] = merged[p.Name]
			}
			got, _ = forward(t, be, backbone.NewModel(config, m.Preprocessing, merged), linear, head, pixels, labels)
			if d, most := difference(t, got, want); !(d <= 1e-5*most) {
				t.Errorf("%s, tuned biases %v: merging changes logits by up to %g, of at most %g", c.module, biases, d, most)
			}
		}
	}
}

// cloneOf returns a deep copy of x.
func cloneOf(x checkpoint.Tensor) checkpoint.Tensor {
	return checkpoint.Tensor{Shape: x.Shape, Data: slices.Clone(x.Data)}
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
