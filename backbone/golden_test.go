package backbone_test

import (
	"math"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// TestViTTinyReal compares logits, loss and gradients of a real ViT-Ti on real images with the
// values of PyTorch.
func TestViTTinyReal(t *testing.T) {
	archive := golden.Open(t, golden.Path(t, "vit_tiny_real", "golden.npz"))
	m, report, err := backbone.Load(golden.Beside(t, "models", "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"), backbone.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Unused)+len(report.Missing)+len(report.WrongShape) != 0 {
		t.Fatalf("report: %+v", report)
	}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	params := m.Config.Params()
	compiled, err := program.New(be, "golden", func(_ *Graph, in []*Node) []*Node {
		byName := map[string]*Node{}
		for i, p := range params {
			byName[p.Name] = in[i]
		}
		layers := backbone.Untuned(byName)
		logits := m.Config.Classify(layers, m.Features(layers, in[len(params)]))
		loss := objective.SingleLabel.Loss(logits, in[len(params)+1])
		return append([]*Node{logits, loss}, Gradient(loss, in[:len(params)]...)...)
	})
	if err != nil {
		t.Fatal(err)
	}
	placed, err := m.On(be)
	if err != nil {
		t.Fatal(err)
	}
	var args []any
	for _, p := range params {
		args = append(args, placed[p.Name])
	}
	shape := archive.Shape("resized_uint8")
	images, err := program.Tensor(be, archive.Uint8("resized_uint8"), shape...)
	if err != nil {
		t.Fatal(err)
	}
	var labels []int32
	for _, l := range archive.Int64("labels") {
		labels = append(labels, int32(l))
	}
	y, err := program.Tensor(be, labels, len(labels))
	if err != nil {
		t.Fatal(err)
	}
	out, err := compiled.Run(t.Context(), append(args, images, y)...)
	if err != nil {
		t.Fatal(err)
	}
	host := make([][]float32, len(out))
	for i := range out {
		if host[i], err = program.Float32s(out[i]); err != nil {
			t.Fatal(err)
		}
	}
	largest := 0.0
	for i, want := range archive.Float32("logits") {
		largest = max(largest, math.Abs(float64(host[0][i]-want)))
	}
	t.Logf("logits: largest difference %.2g", largest)
	if largest > 1e-3 {
		t.Errorf("logits differ by up to %g, expected at most 1e-3", largest)
	}
	grads := map[string][]float32{}
	for i, p := range params {
		grads[p.Name] = host[2+i]
	}
	worst, compared := 0.0, 0
	for _, name := range archive.Names() {
		full, ok := strings.CutPrefix(name, "grad.")
		if !ok {
			continue
		}
		var got []float32
		if prefix, kind, fused := strings.Cut(full, "attn.qkv."); fused {
			for _, part := range []string{"q", "k", "v"} {
				got = append(got, grads[prefix+"attn."+part+"."+kind]...)
			}
		} else {
			got = grads[full]
		}
		want := archive.Float32(name)
		if len(got) != len(want) {
			t.Errorf("%s: %d values, expected %d", name, len(got), len(want))
			continue
		}
		compared++
		d := relative(got, want)
		worst = max(worst, d)
		if d > 1e-4 {
			t.Errorf("%s: relative difference %.2g, expected at most 1e-4", name, d)
		}
	}
	for _, name := range archive.Names() {
		full, ok := strings.CutPrefix(name, "gradsq.")
		if !ok {
			continue
		}
		got := 0.0
		parts := []string{full}
		if prefix, kind, fused := strings.Cut(full, "attn.qkv."); fused {
			parts = []string{prefix + "attn.q." + kind, prefix + "attn.k." + kind, prefix + "attn.v." + kind}
		}
		for _, part := range parts {
			for _, v := range grads[part] {
				got += float64(v) * float64(v)
			}
		}
		// The relative error of a squared norm is twice the relative error of the norm.
		if want := float64(archive.Scalar(name)); math.Abs(got-want) > 2e-4*want {
			t.Errorf("%s: %.6g, expected %.6g", name, got, want)
		}
		compared++
	}
	if got, want := float64(host[1][0]), archive.Scalar("loss"); math.Abs(got-want) > 1e-4*want {
		t.Errorf("loss %.6f, expected %.6f", got, want)
	}
	t.Logf("%d gradients: largest relative difference %.2g", compared, worst)
	if compared == 0 {
		t.Error("no gradients in the golden file")
	}
}

// relative returns ‖a−b‖/‖b‖.
func relative(a, b []float32) float64 {
	var d, n float64
	for i := range b {
		d += (float64(a[i]) - float64(b[i])) * (float64(a[i]) - float64(b[i]))
		n += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(d / n)
}
