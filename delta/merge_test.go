package delta_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// predictor returns a predictor for the backbone m with the delta.
func predictor(be backend.Backend, d *delta.Delta, m *backbone.Model) (*train.Predictor, error) {
	tuning, err := peft.New(d.Config, d.Selection)
	if err != nil {
		return nil, err
	}
	return train.NewPredictor(be, m, objective.SingleLabel, tuning, d.Tuned)
}

func be(t testing.TB) backend.Backend {
	t.Helper()
	b, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// probes returns the pixels of n images of 16×16 px. The script in testdata/README.md computes the
// same pixels.
func probes(n int) []uint8 {
	pixels := make([]uint8, n*16*16*3)
	for i := range pixels {
		pixels[i] = uint8(i * 7919 >> 4)
	}
	return pixels
}

func logits(t *testing.T, p *train.Predictor, err error, pixels []uint8) []float32 {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	x, err := program.Tensor(be(t), pixels, len(pixels)/(16*16*3), 16, 16, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(x)
	out, err := p.Logits(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// alone returns the logits of a model with its own head.
func alone(t *testing.T, m *backbone.Model, pixels []uint8) []float32 {
	t.Helper()
	tuning, err := peft.New(m.Config, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(be(t), m, objective.SingleLabel, tuning, m.Weights)
	return logits(t, p, err, pixels)
}

func largestDifference(a, b []float32) float64 {
	largest := 0.0
	for i := range a {
		largest = max(largest, math.Abs(float64(a[i])-float64(b[i])))
	}
	return largest
}

// argmax returns the predicted class of each image, for logits of three classes.
func argmax(logits []float32) (out []int) {
	for i := 0; i < len(logits); i += 3 {
		best := 0
		for j := range 3 {
			if logits[i+j] > logits[i+best] {
				best = j
			}
		}
		out = append(out, best)
	}
	return out
}

// unmergeable maps each method that cannot be merged to a part of the error.
var unmergeable = map[string]string{
	"adapter": `module "adapter" cannot be merged`, "adaptformer": "AdaptFormer's bottlenecks cannot be merged", "vpt-shallow": "visual prompts cannot be merged",
	"vpt-deep": "visual prompts cannot be merged", "convpass": "bypasses of Convpass cannot be merged", "adapter-plus": "adapters of Adapter+ cannot be merged", "adapter-scaled": `module "adapter-scaled" cannot be merged`, "mlp-3": "an MLP head cannot be merged",
}

// TestMergeReleases checks that a merge leaves nothing on the backend except the backbone.
func TestMergeReleases(t *testing.T) {
	m := tiny(tinyConfig, 1)
	own := be(t)
	if !cpu.Is(own) {
		t.Skip("needs the CPU backend: other devices do not report the memory of their tensors")
	}
	d := result(t, m, "linear", selections()["linear"])
	var held []int64
	for range 2 {
		if _, err := d.Merge(t.Context(), own, m, probes(3), 0); err != nil {
			t.Fatal(err)
		}
		memory, _ := cpu.MemoryOf(own)
		held = append(held, memory.Buffers)
	}
	if held[1] != held[0] {
		t.Errorf("a second merge leaves %d more bytes on the backend", held[1]-held[0])
	}
}

// TestMerge checks that a merged checkpoint, loaded without options, gives the logits of the delta
// on its backbone.
func TestMerge(t *testing.T) {
	m := tiny(tinyConfig, 1)
	untouched := tiny(tinyConfig, 1).Fingerprint()
	pixels := probes(40) // more than one batch
	for method, s := range selections() {
		if _, ok := unmergeable[method]; ok {
			continue
		}
		t.Run(method, func(t *testing.T) {
			d := result(t, m, method, s)
			p, err := predictor(be(t), d, m)
			want := logits(t, p, err, pixels)

			merged, err := d.Merge(t.Context(), be(t), m, pixels, 0)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "merged.safetensors")
			if err := merged.Save(path, checkpoint.F32, d.Classes); err != nil {
				t.Fatal(err)
			}
			read, report, err := backbone.Load(path, backbone.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(read.Config, d.Config) || read.Preprocessing != d.Preprocessing || len(report.Unused) > 0 {
				t.Errorf("read %+v %+v, unused %v", read.Config, read.Preprocessing, report.Unused)
			}
			got := alone(t, read, pixels)
			difference := largestDifference(got, want)
			if difference > 1e-4 {
				t.Errorf("logits differ by up to %g, expected at most 1e-4", difference)
			}
			if !reflect.DeepEqual(argmax(got), argmax(want)) {
				t.Error("predictions differ")
			}
			if merged.Images != 40 || merged.Bound != delta.DefaultBound || math.Abs(merged.LargestDifference-difference) > 1e-6 {
				t.Errorf("reported %d images, bound %g, difference %g; measured %g", merged.Images, merged.Bound, merged.LargestDifference, difference)
			}
			t.Logf("largest difference %.2g", difference)

			// The tuned parameters must matter: the head alone must give other logits.
			if method != "linear" && largestDifference(headOnly(t, m, d, pixels), want) < 1e-2 {
				t.Error("the tuning changes nothing, so this test proves nothing")
			}
			if backbone.NewModel(m.Config, m.Preprocessing, m.Weights).Fingerprint() != untouched {
				t.Error("merging changed the backbone")
			}

			f, err := checkpoint.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			classes, err := backbone.ReadClasses(f, len(d.Classes))
			if err != nil || !reflect.DeepEqual(classes.Names, d.Classes) {
				t.Errorf("classes %q, %v", classes, err)
			}
		})
	}
}

// headOnly returns the logits of the head of the delta on the frozen backbone.
func headOnly(t *testing.T, m *backbone.Model, d *delta.Delta, pixels []uint8) []float32 {
	t.Helper()
	plain := *d
	plain.Selection = peft.Selection{}
	p, err := predictor(be(t), &plain, m)
	return logits(t, p, err, pixels)
}

func TestMergeRefuses(t *testing.T) {
	m := tiny(tinyConfig, 1)
	d := result(t, m, "spt-lora", selections()["spt-lora"])
	merge := func(d *delta.Delta, pixels []uint8, bound float64) error {
		_, err := d.Merge(t.Context(), be(t), m, pixels, bound)
		return err
	}
	refused(t, merge(d, probes(2), 1e-12), "moves a logit by", "bound of 1e-12")
	refused(t, merge(d, probes(2), math.NaN()), "bound of NaN")
	refused(t, merge(d, nil, 0), "0 values", "16×16×3")
	refused(t, merge(d, probes(2)[1:], 0), "1535 values", "16×16×3")
	for method, want := range unmergeable {
		refused(t, merge(result(t, m, method, selections()[method]), probes(1), 0), want, "keep the delta")
	}

	broken := result(t, m, "lora", selections()["lora"])
	broken.Tuned["blocks.0.attn.q.lora_B"].Data[5] = float32(math.NaN())
	refused(t, merge(broken, probes(2), 0), "moves a logit by NaN", "bound of 0.001")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Merge(ctx, be(t), m, probes(1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestMergedSaveRefusesClasses(t *testing.T) {
	m := tiny(tinyConfig, 1)
	merged, err := result(t, m, "linear", peft.Selection{}).Merge(t.Context(), be(t), m, probes(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "merged.safetensors")
	refused(t, merged.Save(path, checkpoint.F32, []string{"one"}), path, "1 class names, expected 3")
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was written")
	}
}

var mergedFile = flag.String("merged", "", "write the merged checkpoint of TestTimm to this file, for the script in testdata/README.md")

// TestTimm compares with the logits that timm computed from the merged checkpoint of this delta;
// see testdata/README.md.
func TestTimm(t *testing.T) {
	m := tiny(tinyConfig, 1)
	d := result(t, m, "spt-lora", selections()["spt-lora"])
	pixels := probes(4)
	merged, err := d.Merge(t.Context(), be(t), m, pixels, 0)
	if err != nil {
		t.Fatal(err)
	}
	if *mergedFile != "" {
		if err := merged.Save(*mergedFile, checkpoint.F32, d.Classes); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join("testdata", "timm.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want []float32
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	p, err := predictor(be(t), d, m)
	onBackbone := logits(t, p, err, pixels)
	inWeights := alone(t, merged.Model, pixels)
	if len(want) != len(inWeights) {
		t.Fatalf("%d logits, timm has %d", len(inWeights), len(want))
	}
	a, b := largestDifference(onBackbone, want), largestDifference(inWeights, want)
	if a > 1e-5 || b > 1e-5 {
		t.Errorf("logits differ from timm's by up to %g with the delta, %g merged, expected at most 1e-5", a, b)
	}
	t.Logf("largest difference from timm: %.2g with the delta, %.2g merged", a, b)
}
