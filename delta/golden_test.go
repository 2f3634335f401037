package delta_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// TestGolden stores what the reference release of SPT had after training, in a
// delta, and reads its logits back: through the delta and, for LoRA, merged.
func TestGolden(t *testing.T) {
	s := golden.OpenSPTSmall(t)
	m := s.Model(t)
	m.Preprocessing = tiny(tinyConfig, 1).Preprocessing // unused: the golden images are normalised
	images, _ := s.Data(t)
	x, err := backend.Tensor(be(t), images[0], s.BatchSize, s.ImageSize, s.ImageSize, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Free(x)
	for run := range s.Training {
		t.Run(run, func(t *testing.T) {
			a := golden.Open(t, golden.Path(t, "spt_small", run+".npz"))
			module, _, _ := strings.Cut(run, "_")
			d := &delta.Delta{Method: "spt-" + module, Classes: strings.Split("0123456789", ""), Config: m.Config, Preprocessing: m.Preprocessing,
				Transform: delta.Transform{Resize: "direct"}, Backbone: delta.BackboneOf(m)}
			d.Selection, d.Tuned = release(a, m.Config, module, s.Rank)
			dir := saved(t, d)
			d, err := delta.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			p, err := d.Predictor(be(t), m)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			got, err := p.Logits(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			want := a.Float32("final_logits0")
			difference := largestDifference(got, want)
			if difference > 1e-4 {
				t.Errorf("logits differ from the release's by up to %g, expected at most 1e-4", difference)
			}
			if module == "adapter" {
				_, err := d.Merge(t.Context(), be(t), m, make([]uint8, 32*32*3), 0)
				refused(t, err, "cannot be merged")
				t.Logf("%d bytes; largest difference %.2g", len(read(t, dir, delta.TensorsName)), difference)
				return
			}
			merged, err := d.Merge(t.Context(), be(t), m, make([]uint8, 32*32*3), 0)
			if err != nil {
				t.Fatal(err)
			}
			head, err := peft.New(m.Config, peft.Linear())
			if err != nil {
				t.Fatal(err)
			}
			q, err := train.NewPredictor(be(t), merged.Model, head, merged.Model.Weights)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			if got, err = q.Logits(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			inWeights := largestDifference(got, want)
			if inWeights > 1e-4 {
				t.Errorf("merged, logits differ from the release's by up to %g, expected at most 1e-4", inWeights)
			}
			t.Logf("%d bytes; largest difference %.2g, merged %.2g", len(read(t, dir, delta.TensorsName)), difference, inWeights)
		})
	}
}

// release translates what the release tuned in a run into a selection and its
// final values. It keeps entries by score, a delta keeps them by position; those
// that it counts on LayerNorms have no values.
func release(a *golden.Archive, c backbone.Config, module string, rank int) (peft.Selection, checkpoint.StateDict) {
	parts := map[string]map[string]string{
		"lora":    {"0.weight": "lora_A", "1.weight": "lora_B"},
		"adapter": {"0.weight": "adapter_down.weight", "0.bias": "adapter_down.bias", "2.weight": "adapter_up.weight", "2.bias": "adapter_up.bias"},
	}[module]
	s := peft.Selection{Module: module, Rank: rank, Entries: map[string][]int32{}}
	tuned := checkpoint.StateDict{}
	take := func(to, from string) []float32 {
		v := checkpoint.Tensor{Shape: a.Shape("final." + from), Data: a.Float32("final." + from)}
		tuned[to] = v
		return v.Data
	}
	for _, p := range c.Params() {
		layer, kind := "", p.Name
		if i := strings.LastIndex(p.Name, "."); i >= 0 {
			layer, kind = p.Name[:i], p.Name[i+1:]
		}
		structured := layer
		if i := strings.LastIndex(layer, "."); i >= 0 {
			structured = layer[:i] + ".structured_" + layer[i+1:] + ".learnable."
		}
		switch sparse := layer + ".sparse_" + kind; {
		case a.Has("final." + p.Name):
			take(p.Name, p.Name)
			if p.Role != backbone.Head {
				s.Whole = append(s.Whole, p.Name)
			}
		case kind == "weight" && a.Has("final."+structured+"0.weight"):
			s.Structured = append(s.Structured, p.Name)
			for theirs, ours := range parts {
				take(layer+"."+ours, structured+theirs)
			}
		case a.Has("final."+sparse) && a.Shape("final." + sparse)[0] > 0:
			index := a.Int64("sparse_index." + p.Name)
			n := len(index) / len(p.Shape)
			positions := make([]int32, n)
			for k := range positions {
				positions[k] = int32(index[k*len(p.Shape)])
				if len(p.Shape) == 2 {
					positions[k] = positions[k]*int32(p.Shape[1]) + int32(index[2*k+1])
				}
			}
			theirs := take(peft.SparseValues(p.Name), sparse)
			value := map[int32]float32{}
			for k, position := range positions {
				value[position] = theirs[k]
			}
			slices.Sort(positions)
			for k, position := range positions {
				theirs[k] = value[position]
			}
			s.Entries[p.Name] = positions
		}
	}
	return s, tuned
}
