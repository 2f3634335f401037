package export_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/export"
	"github.com/sptune/spt/export/onnx"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// selections returns a selection for each kind of tuning that c supports.
func selections(t *testing.T, c backbone.Config) map[string]peft.Selection {
	t.Helper()
	row, err := method.Lookup("bitfit")
	if err != nil {
		t.Fatal(err)
	}
	bitfit, err := row.Select(c, method.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mixed := peft.Selection{Module: "adapter", Rank: 2, Entries: map[string][]int32{}}
	for i, p := range c.Params() {
		switch {
		case p.Matrix() && i%3 == 0:
			mixed.Structured = append(mixed.Structured, p.Name)
		case p.Role == backbone.Scored && len(p.Shape) > 1:
			mixed.Entries[p.Name] = []int32{0, 2, int32(p.Size()/2 + 1), int32(p.Size() - 1)}
		case p.Role == backbone.ClassToken || p.Norm && p.Role == backbone.Scored:
			mixed.Whole = append(mixed.Whole, p.Name)
		}
	}
	all := map[string]peft.Selection{
		"linear": {}, "full": peft.Full(c), "bitfit": bitfit, "lora": peft.Uniform(c, "lora", 1), "adapter": peft.Uniform(c, "adapter", 1), "spt-adapter": mixed,
		"gate": peft.Uniform(c, "gate", 1), "ssf": {SSF: true}, "mlp-3": {MLPHead: 3}, "adaptformer": {AdaptFormer: &peft.Bottleneck{Width: 4, Scale: 0.1}},
		"adapter-plus": {PostAdapter: &peft.PostAdapter{Width: 4}}, "difffit": {BranchScales: true}, "convpass": {Convpass: &peft.Convpass{Width: 4, Scale: 0.5}}, "fact-tt": {FacT: &peft.FacT{Rank: 2, Scale: 0.5}}, "dora": peft.Uniform(c, "dora", 1), "repadapter": peft.Uniform(c, "repadapter", 2),
		"adapter-scaled": peft.Uniform(c, "adapter-scaled", 1), "spt-adaptformer": peft.Uniform(c, "adaptformer", 2),
		"vpt-shallow": {Prompts: &peft.Prompts{Tokens: 2}}, "vpt-deep": {Prompts: &peft.Prompts{Tokens: 2, Deep: true}},
	}
	maps.DeleteFunc(all, func(_ string, s peft.Selection) bool {
		_, err := peft.New(c, s)
		return err != nil
	})
	return all
}

// registered registers two modules. "gate" computes constants of the model with operations that
// have no translation, and others on the images. "unknown" uses an operation without a translation
// on the images.
var registered = sync.OnceValue(func() error {
	gate := peft.Module{
		Name:  "gate",
		Count: func(_, out, rank int) int { return out * rank },
		Graph: func(s *peft.Site, x, y *Node) *Node {
			bound := ReduceAllMax(Log1P(Abs(s.Param("gate", peft.Zero, s.Out, s.Rank))))
			z := Where(GreaterThan(y, Zeros(y.Graph(), y.Shape())), Tanh(y), MulScalar(y, 0.5))
			return Add(Clip(z, MulScalar(bound, -1), bound), Sub(y, ReduceAndKeep(y, ReduceMean, -1)))
		},
	}
	unknown := gate
	unknown.Name, unknown.Graph = "unknown", func(s *peft.Site, x, y *Node) *Node {
		return Add(Log1P(Abs(y)), ExpandLeftToRank(ReduceSum(s.Param("gate", peft.Zero, s.Out, s.Rank), 1), y.Rank()))
	}
	return errors.Join(peft.Register(gate), peft.Register(unknown))
})

// tuned returns a classifier with random tuned values. No value is the initial value.
func tuned(t *testing.T, m *backbone.Model, name string, s peft.Selection) *export.Classifier {
	t.Helper()
	tuning, err := peft.New(m.Config, s)
	if err != nil {
		t.Fatal(err)
	}
	values := tuning.Init(1, peft.PaperScheme, m.Weights)
	r := rand.New(rand.NewPCG(1, 2))
	for _, p := range tuning.Params {
		for i := range values[p.Name].Data {
			values[p.Name].Data[i] += float32(0.1 * r.NormFloat64())
		}
	}
	d := delta.New(m, nil)
	d.Method, d.Objective, d.Selection, d.Tuned, d.Temperature = name, objective.SingleLabel.Name(), s, values, 1.5
	for i := range m.Config.NumClasses {
		d.Classes = append(d.Classes, fmt.Sprintf("class \"%d\" ü", i))
	}
	restored, err := spt.Restore(m, d)
	if err != nil {
		t.Fatal(err)
	}
	return &export.Classifier{Model: m, Delta: d, Tuned: restored, Transform: d.ImageTransform()}
}

// models returns a tiny random model of each form of backbone.
func models(t *testing.T) map[string]*backbone.Model {
	t.Helper()
	if err := registered(); err != nil {
		t.Fatal(err)
	}
	all := map[string]*backbone.Model{}
	for _, f := range fixtures.Backbones(t) {
		if !strings.HasSuffix(f.Name, "-timm") {
			continue // the same weights under other names
		}
		o := backbone.LoadOptions{NumClasses: 5, LayerNormEps: f.LayerNormEps}
		if len(f.NumHeads) == 1 {
			o.NumHeads = f.NumHeads[0]
		}
		m, _, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(f.Name, "-timm")] = m
	}
	return all
}

// probes returns the pixels of n random images.
func probes(size, n int) []uint8 {
	r, pixels := rand.New(rand.NewPCG(3, 4)), make([]uint8, n*size*size*3)
	for i := range pixels {
		pixels[i] = uint8(r.Uint32())
	}
	return pixels
}

// classify returns the logits of the classifier for images.
func classify(t *testing.T, c *export.Classifier, pixels []uint8) []float32 {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(be, c.Model, c.Tuned.Objective, c.Tuned.Tuning, c.Tuned.Tuned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	size := c.Model.Config.ImageSize
	images, err := program.Tensor(be, pixels, len(pixels)/(size*size*3), size, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(images)
	logits, err := p.Logits(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	return logits
}

var onnxOut = flag.String("onnx", "", "write the exported models and expected results into this folder, for onnx/testdata/check.py")

// folder returns the folder for an exported model.
func folder(t *testing.T, name string) string {
	if *onnxOut != "" {
		return filepath.Join(*onnxOut, name)
	}
	return filepath.Join(t.TempDir(), "out")
}

// keep writes what check.py compares the model in the folder out with: the pixels of the images,
// and their logits and probabilities.
func keep(t *testing.T, out string, size int, pixels []uint8, logits []float32, probabilities []float64) {
	t.Helper()
	if *onnxOut == "" {
		return
	}
	text, err := json.Marshal(map[string]any{"size": size, "logits": logits, "probabilities": probabilities})
	if err = errors.Join(err, os.WriteFile(filepath.Join(out, "expected.json"), text, 0o666), os.WriteFile(filepath.Join(out, "images.bin"), pixels, 0o666)); err != nil {
		t.Fatal(err)
	}
}

// TestONNX exports each method on each form of backbone. The written model must give the logits of
// the classifier for one, two and three images.
func TestONNX(t *testing.T) {
	written := 0
	for name, m := range models(t) {
		for method, s := range selections(t, m.Config) {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel() // most of the time goes into syncing files to disk
				c := tuned(t, m, method, s)
				size := m.Config.ImageSize
				pixels := probes(size, 3)
				want := classify(t, c, pixels)
				out := folder(t, name+"-"+method)
				e, err := export.Write(t.Context(), c, []string{"onnx"}, out, export.Options{Probes: pixels, Probabilities: true, Bound: 1e-4})
				if err != nil {
					t.Fatal(err)
				}
				if e[0].Images != 3 || !(e[0].Difference <= 1e-4) {
					t.Errorf("%d images, difference %g", e[0].Images, e[0].Difference)
				}
				read, err := onnx.Open(filepath.Join(out, "model.onnx"))
				if err != nil {
					t.Fatal(err)
				}
				probabilities := softmax(want, 5, 1.5)
				for n := 1; n <= 3; n++ {
					got, err := read.Run(pixels[:n*size*size*3], n)
					if err != nil {
						t.Fatal(err)
					}
					for i, v := range got[onnx.Logits] {
						if !(math.Abs(float64(v-want[i])) <= 1e-4) || len(got[onnx.Logits]) != 5*n {
							t.Errorf("%d images: logit %d is %g, expected %g", n, i, v, want[i])
						}
						if p := float64(got[onnx.Probabilities][i]); !(math.Abs(p-probabilities[i]) <= 1e-4) {
							t.Errorf("%d images: probability %d is %g, expected %g", n, i, p, probabilities[i])
						}
					}
				}
				keep(t, out, size, pixels, want, probabilities)
			})
			written++
		}
	}
	if written < 100 {
		t.Errorf("only %d models were written", written)
	}
}

// TestONNXPretrained exports a pretrained ViT-Ti with adapters, and compares the logits of images.
func TestONNXPretrained(t *testing.T) {
	m, _, err := backbone.Load(golden.Beside(t, "models", "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"), backbone.LoadOptions{NumClasses: 10})
	if err != nil {
		t.Fatal(err)
	}
	found, err := dataset.FindImages(t.Context(), golden.Beside(t, "data", "clothing"))
	if err != nil {
		t.Fatal(err)
	}
	var samples []dataset.Sample
	n := 4 // the interpreter takes a quarter of a second for an image
	if *onnxOut != "" {
		n = 16
	}
	for i := range n {
		samples = append(samples, found.Images[i*len(found.Images)/n])
	}
	c := tuned(t, m, "adapter", peft.Uniform(m.Config, "adapter", 8))
	pixels, unreadable, err := spt.Probes(c.Transform, 0, samples)
	if err != nil || len(unreadable) > 0 {
		t.Fatal(err, unreadable)
	}
	want := classify(t, c, pixels)
	for _, half := range []bool{false, true} {
		out := folder(t, fmt.Sprintf("pretrained-half-%t", half))
		e, err := export.Write(t.Context(), c, []string{"onnx"}, out, export.Options{Probes: pixels, Probabilities: true, Half: half})
		if err != nil {
			t.Fatal(err)
		}
		if !half && !(e[0].Difference <= 1e-4) || e[0].Images != n || half && e[0].Bytes > 13e6 {
			t.Errorf("%d images, difference %g, %d bytes", e[0].Images, e[0].Difference, e[0].Bytes)
		}
		t.Logf("half %t: difference %.2g, %d bytes", half, e[0].Difference, e[0].Bytes)
		keep(t, out, 224, pixels, want, softmax(want, 10, 1.5))
	}
}

// TestONNXSizes exports backbones with random weights, on which onnx/testdata/speed.py measures
// onnxruntime.
func TestONNXSizes(t *testing.T) {
	if *onnxOut == "" {
		t.Skip("writes 600 MB for a measurement; give -onnx DIR")
	}
	for _, size := range []string{"tiny", "base", "swin-tiny", "convnext-tiny"} {
		config, err := bench.Config(size, 100)
		if err != nil {
			t.Fatal(err)
		}
		c := tuned(t, bench.Model(config), "linear", peft.Selection{})
		start := time.Now()
		e, err := export.Write(t.Context(), c, []string{"onnx"}, folder(t, size), export.Options{Probes: probes(224, 2)})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes, difference %.2g, %v", size, e[0].Bytes, e[0].Difference, time.Since(start))
	}
}

// softmax returns the softmax of rows of logits, divided by the temperature.
func softmax(logits []float32, classes int, temperature float64) (out []float64) {
	for row := range slices.Chunk(logits, classes) {
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(float64(v) / temperature)
		}
		for _, v := range row {
			out = append(out, math.Exp(float64(v)/temperature)/sum)
		}
	}
	return out
}

// TestONNXFile checks what the file holds besides the graph, and that its bytes are the same each
// time.
func TestONNXFile(t *testing.T) {
	m := models(t)["vit-cls"]
	c := tuned(t, m, "adapter", peft.Uniform(m.Config, "adapter", 1))
	c.Transform.Resize, c.Transform.ResizeTo = "crop", 72
	var files [][]byte
	for _, half := range []bool{false, false, true} {
		out := filepath.Join(t.TempDir(), "out")
		e, err := export.Write(t.Context(), c, []string{"onnx"}, out, export.Options{Probes: probes(m.Config.ImageSize, 2), Half: half})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(out, "model.onnx"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
		if !strings.Contains(e[0].Load, filepath.Join(out, "model.onnx")) || !strings.Contains(e[0].Load, "72 * image.width") {
			t.Errorf("the code to load is\n%s", e[0].Load)
		}
		if half && len(e[0].Notes) == 0 {
			t.Error("no note about float16")
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the same classifier gives two different files")
	}
	if len(files[2]) >= len(files[0]) {
		t.Errorf("with float16 the file has %d bytes, without %d", len(files[2]), len(files[0]))
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, files[0], 0o666); err != nil {
		t.Fatal(err)
	}
	read, err := onnx.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	metadata := map[string]string{}
	for _, e := range read.Metadata {
		metadata[e.Key] = e.Value
	}
	var classes []string
	if err := json.Unmarshal([]byte(metadata["class_names"]), &classes); err != nil || !slices.Equal(classes, c.Delta.Classes) {
		t.Errorf("class names %q, %v", metadata["class_names"], err)
	}
	for key, want := range map[string]string{"resize": "crop", "resize_to": "72", "size": fmt.Sprint(m.Config.ImageSize), "interpolation": "bicubic", "method": "adapter", "temperature": "1.5"} {
		if metadata[key] != want {
			t.Errorf("metadata %s is %q, expected %q", key, metadata[key], want)
		}
	}
	var named []string
	for _, w := range read.Weights {
		named = append(named, w.Name)
	}
	if !slices.Contains(named, "blocks.0.attn.q.weight") || !slices.ContainsFunc(named, func(n string) bool { return strings.Contains(n, "adapter") }) {
		t.Errorf("the weights have the names %q", named)
	}
	if len(read.Outputs) != 1 || !slices.Equal(read.Inputs[0].Dims, []int{-1, m.Config.ImageSize, m.Config.ImageSize, 3}) || read.Producer != "spt" {
		t.Errorf("the model describes itself as %q, %+v, %+v", read.Producer, read.Inputs, read.Outputs)
	}
}

func TestONNXRefuses(t *testing.T) {
	m := models(t)["vit-cls"]
	refused := func(c *export.Classifier, o export.Options, parts ...string) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		_, err := export.Write(t.Context(), c, []string{"onnx"}, out, o)
		for _, part := range parts {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("the error is %v, expected one with %q", err, part)
			}
		}
		if _, err := os.Stat(out); err == nil {
			t.Error("a folder was made")
		}
	}
	o := export.Options{Probes: probes(m.Config.ImageSize, 2)}
	refused(tuned(t, m, "unknown", peft.Uniform(m.Config, "unknown", 1)), o, "Log1p", "no translation")
	c := tuned(t, m, "linear", peft.Selection{})
	c.Delta.Classes[1] = "\xff"
	refused(c, o, "UTF-8")
	c = tuned(t, m, "linear", peft.Selection{})
	o.Bound = 1e-12
	refused(c, o, "bound of 1e-12")
	o.Bound = 0
	o.Probes = o.Probes[1:]
	refused(c, o, "probe images have")
	o.Probabilities = true
	c = tuned(t, m, "linear", peft.Selection{})
	c.Tuned.Objective = renamed{objective.SingleLabel}
	refused(c, o, `the objective is "renamed"`)
	var input *run.InputError
	c.Delta.Classes[0] = "\xff"
	if _, err := export.Write(t.Context(), c, []string{"onnx"}, filepath.Join(t.TempDir(), "out"), o); !errors.As(err, &input) {
		t.Errorf("%v is no error of the input", err)
	}
}

// renamed is an objective whose logits may not be those of one label.
type renamed struct{ objective.Objective }

func (renamed) Name() string { return "renamed" }
