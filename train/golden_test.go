package train_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// releaseName maps a tuned tensor's name to the reference release's.
func releaseName(name string) string {
	if tensor, ok := strings.CutSuffix(name, ".sparse_values"); ok {
		i := strings.LastIndex(tensor, ".")
		return tensor[:i] + ".sparse_" + tensor[i+1:]
	}
	for ours, theirs := range map[string]string{
		"lora_A": "0.weight", "lora_B": "1.weight",
		"adapter_down.weight": "0.weight", "adapter_down.bias": "0.bias",
		"adapter_up.weight": "2.weight", "adapter_up.bias": "2.bias",
	} {
		if layer, ok := strings.CutSuffix(name, "."+ours); ok {
			i := strings.LastIndex(layer, ".")
			return layer[:i] + ".structured_" + layer[i+1:] + ".learnable." + theirs
		}
	}
	return name
}

// releaseSelection reads what the release tuned in a run: structured modules, whole
// tensors, and entries. Entries on LayerNorms are not trained by the release.
func releaseSelection(t *testing.T, a *golden.Archive, c backbone.Config, module string, rank int) peft.Selection {
	t.Helper()
	s := peft.Selection{Module: module, Rank: rank, Entries: map[string][]int32{}}
	for _, p := range c.Params() {
		i := strings.LastIndex(p.Name, ".")
		if i < 0 {
			if a.Has("init." + p.Name) {
				s.Whole = append(s.Whole, p.Name)
			}
			continue
		}
		layer, kind := p.Name[:i], p.Name[i+1:]
		j := strings.LastIndex(layer, ".")
		switch {
		case p.Role == backbone.Head:
		case a.Has("init." + p.Name):
			s.Whole = append(s.Whole, p.Name)
		case kind == "weight" && j >= 0 && a.Has("init."+layer[:j]+".structured_"+layer[j+1:]+".learnable.0.weight"):
			s.Structured = append(s.Structured, p.Name)
		case a.Has("init." + layer + ".sparse_" + kind):
			index := a.Int64("sparse_index." + p.Name)
			cols := 1
			if len(p.Shape) == 2 {
				cols = p.Shape[1]
			}
			n := len(index) / len(p.Shape)
			if n == 0 {
				continue
			}
			var flat []int32
			for k := range n {
				if len(p.Shape) == 2 {
					flat = append(flat, int32(index[2*k])*int32(cols)+int32(index[2*k+1]))
				} else {
					flat = append(flat, int32(index[k]))
				}
			}
			slices.Sort(flat) // the release keeps them by score; all values start at zero
			s.Entries[p.Name] = flat
		}
	}
	return s
}

// TestGoldenTraining follows the release's four trainings: twelve losses each,
// then the final logits and every tuned tensor.
func TestGoldenTraining(t *testing.T) {
	s := golden.OpenSPTSmall(t)
	be, err := backend.New()
	if err != nil {
		t.Fatal(err)
	}
	model := s.Model(t)
	images, labels := s.Data(t)
	for run, trace := range s.Training {
		t.Run(run, func(t *testing.T) {
			a := golden.Open(t, golden.Path(t, "spt_small", run+".npz"))
			module, _, _ := strings.Cut(run, "_")
			tuning, err := peft.New(model.Config, releaseSelection(t, a, model.Config, module, s.Rank))
			if err != nil {
				t.Fatal(err)
			}
			tuned := checkpoint.StateDict{}
			for _, p := range tuning.Params {
				tuned[p.Name] = checkpoint.Tensor{Shape: p.Shape, Data: a.Float32("init." + releaseName(p.Name))}
			}
			trainable := 0
			for _, n := range a.Names() {
				if strings.HasPrefix(n, "init.") && a.Shape(n)[0] > 0 {
					trainable++
				}
			}
			if len(tuning.Params) != trainable {
				t.Errorf("%d tensors are tuned, the release tunes %d", len(tuning.Params), trainable)
			}
			stepper, err := train.NewStepper(be, model, tuning, tuned, peft.Rates{}, trace.WeightDecay)
			if err != nil {
				t.Fatal(err)
			}
			defer stepper.Close()
			worst := 0.0
			for i, want := range trace.Losses {
				b := i % s.Batches
				x, err := backend.Tensor(be, images[b], s.BatchSize, s.ImageSize, s.ImageSize, 3)
				if err != nil {
					t.Fatal(err)
				}
				y, err := backend.Int32(be, labels[b], s.BatchSize)
				if err != nil {
					t.Fatal(err)
				}
				loss, _, err := stepper.Step(t.Context(), x, y, trace.LR, 0)
				if err != nil {
					t.Fatal(err)
				}
				d := math.Abs(loss-want) / want
				worst = max(worst, d)
				if d > 1e-3 {
					t.Errorf("step %d: loss %.6f, expected %.6f", i, loss, want)
				}
			}
			final, err := stepper.Tuned()
			if err != nil {
				t.Fatal(err)
			}
			p, err := train.NewPredictor(be, model, tuning, final)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			x, err := backend.Tensor(be, images[0], s.BatchSize, s.ImageSize, s.ImageSize, 3)
			if err != nil {
				t.Fatal(err)
			}
			logits, err := p.Logits(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			largest := 0.0
			for i, want := range a.Float32("final_logits0") {
				largest = max(largest, math.Abs(float64(logits[i]-want)))
			}
			if largest > 1e-3 {
				t.Errorf("final logits differ by up to %g, expected at most 1e-3", largest)
			}
			// Merged, the weights alone give the same logits.
			merged := "not mergeable"
			if tuning.Module.Merge != nil {
				sd, err := tuning.Merge(model.Weights, final)
				if err != nil {
					t.Fatal(err)
				}
				m := backbone.NewModel(model.Config, model.Preprocessing, sd)
				linear, err := peft.New(m.Config, peft.Linear())
				if err != nil {
					t.Fatal(err)
				}
				q, err := train.NewPredictor(be, m, linear, sd)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				again, err := q.Logits(t.Context(), x)
				if err != nil {
					t.Fatal(err)
				}
				d := 0.0
				for i := range logits {
					d = max(d, math.Abs(float64(logits[i]-again[i])))
				}
				if d > 1e-4 {
					t.Errorf("merged logits differ by up to %g, expected at most 1e-4", d)
				}
				merged = fmt.Sprintf("%.2g", d)
			}
			t.Logf("losses: largest relative difference %.2g; final logits: %.2g; merged: %s", worst, largest, merged)
		})
	}
}
