package backbone_test

import (
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/gobackend"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
)

// outputs returns the features and logits of a model for pixels [N, S, S, 3].
func outputs(t *testing.T, be backend.Backend, m *backbone.Model, pixels []uint8) (features, logits []float32) {
	t.Helper()
	params := m.Config.Params()
	compiled, err := program.New(be, "outputs", func(_ *Graph, in []*Node) []*Node {
		byName := map[string]*Node{}
		for i, p := range params {
			byName[p.Name] = in[i]
		}
		weights := backbone.Untuned(byName)
		f := m.Features(weights, in[len(params)])
		return []*Node{f, m.Config.Classify(weights, f)}
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
	side := m.Config.ImageSize
	x, err := program.Tensor(be, pixels, len(pixels)/(side*side*3), side, side, 3)
	if err != nil {
		t.Fatal(err)
	}
	out, err := compiled.Run(t.Context(), append(args, x)...)
	if err != nil {
		t.Fatal(err)
	}
	var host [2][]float32
	for i := range host {
		if host[i], err = program.Float32s(out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return host[0], host[1]
}

// away returns the largest difference between got and want, divided by the largest value of want.
func away(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	d, largest := 0.0, 0.0
	for i, w := range want {
		d, largest = max(d, math.Abs(float64(got[i]-w))), max(largest, math.Abs(float64(w)))
	}
	return d / largest
}

// swinBackends returns the default backend, which has a fused attention, and the Go backend of
// GoMLX, which computes attention by its formula.
func swinBackends(t *testing.T) map[string]backend.Backend {
	t.Helper()
	own, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]backend.Backend{"cpu": own, "go": plain}
}

// TestSwinFixtures checks that every Swin, in every naming scheme, loads without options. It
// compares features and logits with the results of the library that uses the scheme.
func TestSwinFixtures(t *testing.T) {
	tested := 0
	for _, f := range fixtures.Backbones(t) {
		if f.Family != "swin" {
			continue
		}
		tested++
		m, report, err := backbone.Load(f.Path(), backbone.LoadOptions{Mean: &f.Preprocessing.Mean, Std: &f.Preprocessing.Std})
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		c := m.Config
		w, ok := c.Form.(backbone.Swin)
		if !ok || c.Architecture() != "swin" || c.ImageSize != f.ImageSize || w.WindowSize != f.WindowSize || !slices.Equal(w.StageHeads, f.NumHeads) ||
			c.LayerNormEps != f.LayerNormEps || w.PadsBeforeShift != f.PadsBeforeShift || len(report.Missing)+len(report.WrongShape) > 0 {
			t.Errorf("%s: %+v, report %+v", f.Name, c, report)
		}
		for name, be := range swinBackends(t) {
			features, logits := outputs(t, be, m, f.Pixels(t))
			df, dl := away(features, f.Features(t).Data), away(logits, f.Logits(t).Data)
			t.Logf("%s on %s: features %.1g, logits %.1g", f.Name, name, df, dl)
			if !(df <= 1e-4 && dl <= 1e-4) {
				t.Errorf("%s on %s: features differ by %.2g, logits by %.2g, expected at most 1e-4", f.Name, name, df, dl)
			}
		}
	}
	if tested == 0 {
		t.Error("no fixtures")
	}
}

// TestSwinSizes compares other image sizes with timm. They lead to maps with odd sides, padded
// windows, windows as small as the map, and resized tables.
func TestSwinSizes(t *testing.T) {
	f, want := fixtures.Backbone(t, "swin-even-timm"), fixtures.File(t, "swin/sizes.safetensors")
	for size, last := range map[int]int{40: 3, 84: 4} {
		m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{ImageSize: size})
		if err != nil {
			t.Fatal(err)
		}
		table := m.Weights["layers.2.blocks.0.attn.relative_position_bias_table"]
		if rows := (2*last - 1) * (2*last - 1); m.Config.Form.(backbone.Swin).WindowSize != 4 || table.Shape[0] != rows {
			t.Errorf("%d px: window %d, last table %v, expected %d rows", size, m.Config.Form.(backbone.Swin).WindowSize, table.Shape, rows)
		}
		pixels, _, err := want.Uint8(fmt.Sprint("pixels.", size))
		if err != nil {
			t.Fatal(err)
		}
		for name, be := range swinBackends(t) {
			features, logits := outputs(t, be, m, pixels)
			for what, got := range map[string][]float32{"features": features, "logits": logits} {
				w, err := want.Float32(fmt.Sprint(what, ".", size))
				if err != nil {
					t.Fatal(err)
				}
				if d := away(got, w.Data); !(d <= 1e-4) {
					t.Errorf("%d px on %s: %s differ by %.2g, expected at most 1e-4", size, name, what, d)
				}
			}
		}
		// Saving and loading gives the same model.
		path := filepath.Join(t.TempDir(), "model.safetensors")
		if err := m.Save(path, checkpoint.F32, nil); err != nil {
			t.Fatal(err)
		}
		again, report, err := backbone.Load(path, backbone.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again.Config, m.Config) || again.Fingerprint() != m.Fingerprint() || len(report.Unused) > 0 {
			t.Errorf("%d px: read back %+v, unused %v", size, again.Config, report.Unused)
		}
	}
}

// TestSwinParams checks that order and shapes are those of timm's named_parameters. The file of the
// fixture has the same order, with fused q, k and v.
func TestSwinParams(t *testing.T) {
	m, _, err := backbone.Load(fixtures.Backbone(t, "swin-even-timm").Path(), backbone.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names, frozen, entries []string
	for _, p := range m.Config.Params() {
		names = append(names, p.Name)
		if p.Role == backbone.Frozen || p.Role == backbone.Position {
			frozen = append(frozen, p.Name)
		}
		if p.EntriesOnly {
			entries = append(entries, p.Name)
		}
	}
	if got, want := strings.Join(names[:14], " "), "patch_embed.proj.weight patch_embed.proj.bias patch_embed.norm.weight patch_embed.norm.bias "+
		"layers.0.blocks.0.norm1.weight layers.0.blocks.0.norm1.bias layers.0.blocks.0.attn.relative_position_bias_table "+
		"layers.0.blocks.0.attn.q.weight layers.0.blocks.0.attn.q.bias layers.0.blocks.0.attn.k.weight layers.0.blocks.0.attn.k.bias "+
		"layers.0.blocks.0.attn.v.weight layers.0.blocks.0.attn.v.bias layers.0.blocks.0.attn.proj.weight"; got != want {
		t.Errorf("parameters begin with %s", got)
	}
	if i := slices.Index(names, "layers.1.downsample.norm.weight"); i < 0 || strings.Join(names[i:i+4], " ") !=
		"layers.1.downsample.norm.weight layers.1.downsample.norm.bias layers.1.downsample.reduction.weight layers.1.blocks.0.norm1.weight" {
		t.Errorf("no merging at the start of stage 1: %v", names)
	}
	if got := strings.Join(names[len(names)-4:], " "); got != "norm.weight norm.bias head.fc.weight head.fc.bias" {
		t.Errorf("parameters end with %s", got)
	}
	if len(frozen) != 4+4 || len(entries) != 2 {
		t.Errorf("frozen %v, entries only %v", frozen, entries)
	}
	if m.Config.Blocks() != 4 || m.Config.NumFeatures() != 16 || m.Config.Tokens() != 64 || m.Config.String() != "Swin 1-2-1×4, window 4, patch 4, 64 px" {
		t.Errorf("%s: %d blocks, %d features, %d tokens", m.Config, m.Config.Blocks(), m.Config.NumFeatures(), m.Config.Tokens())
	}
}

// TestSwinRefuses checks that errors name the tensor or the option that does not fit.
func TestSwinRefuses(t *testing.T) {
	f := fixtures.Backbone(t, "swin-even-timm").Open(t)
	read := func() checkpoint.StateDict {
		sd := checkpoint.StateDict{}
		for _, x := range f.Tensors() {
			v, err := f.Float32(x.Name)
			if err != nil {
				t.Fatal(err)
			}
			sd[x.Name] = v
		}
		return sd
	}
	const table = "layers.1.blocks.0.attn.relative_position_bias_table"
	for _, c := range []struct {
		name   string
		change func(sd checkpoint.StateDict)
		o      backbone.LoadOptions
		want   []string
	}{
		{"even table", func(sd checkpoint.StateDict) { sd[table] = checkpoint.NewTensor(36, 2) }, backbone.LoadOptions{}, []string{table, "[36 2]", "odd"}},
		{"odd table of a later block", func(sd checkpoint.StateDict) {
			sd["layers.1.blocks.1.attn.relative_position_bias_table"] = checkpoint.NewTensor(50, 2)
		}, backbone.LoadOptions{}, []string{"layers.1.blocks.1.attn.relative_position_bias_table", "[50 2]"}},
		{"no table", func(sd checkpoint.StateDict) { delete(sd, table) }, backbone.LoadOptions{}, []string{table}},
		{"heads", func(sd checkpoint.StateDict) { sd[table] = checkpoint.NewTensor(49, 3) }, backbone.LoadOptions{}, []string{"stage 1", "width 8", "3 attention heads"}},
		{"window", func(sd checkpoint.StateDict) { sd[table] = checkpoint.NewTensor(129*129, 2) }, backbone.LoadOptions{}, []string{"windows of 65"}},
		{"window on a huge map", func(sd checkpoint.StateDict) { sd[table] = checkpoint.NewTensor(127*127, 2) }, backbone.LoadOptions{ImageSize: 4096}, []string{"windows of 64", "map of 1024", "expected at most"}},
		{"no merging", func(sd checkpoint.StateDict) { delete(sd, "layers.1.downsample.norm.weight") }, backbone.LoadOptions{}, []string{"layers.1.downsample.norm.weight"}},
		{"heads given", nil, backbone.LoadOptions{NumHeads: 2}, []string{"2 attention heads are given", "leave it out"}},
		{"image size", nil, backbone.LoadOptions{ImageSize: 62}, []string{"image size 62", "patch size 4"}},
		{"huge image", nil, backbone.LoadOptions{ImageSize: 1000000000}, []string{"image size 1000000000"}},
	} {
		sd := read()
		if c.change != nil {
			c.change(sd)
		}
		var entries []checkpoint.Entry
		for name, w := range sd {
			entries = append(entries, checkpoint.Entry{Name: name, DType: "F32", Shape: w.Shape, Data: w.Data})
		}
		path := filepath.Join(t.TempDir(), "model.safetensors")
		if err := checkpoint.Save(path, entries, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err := backbone.Load(path, c.o)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not name %q", c.name, err, w)
			}
		}
	}
}
