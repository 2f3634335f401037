package backbone_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// mixer holds the fields of an MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601). It shows how a
// program outside this module adds an architecture.
type mixer struct {
	PatchSize int `json:"patch_size"`
	EmbedDim  int `json:"embed_dim"`
	Depth     int `json:"depth"`
	// TokenHidden is the width of the token-mixing MLP. The channel-mixing MLP has width
	// 4·EmbedDim.
	TokenHidden int `json:"token_hidden"`
}

func (v mixer) side(c backbone.Config) int { return c.ImageSize / v.PatchSize }

// mixerArchitecture is registered once for all tests of this package.
var mixerArchitecture = backbone.Architecture[mixer]{
	Name: "mixer", Head: "head",
	Namings: []checkpoint.Naming{{
		Source: "timm", Marks: []string{"blocks.#.mlp_tokens.fc1.*"}, Strict: []string{"blocks.", "stem."},
		Rules: checkpoint.Keeps("stem.proj.*", "blocks.#.norm1.*", "blocks.#.mlp_tokens.fc1.*", "blocks.#.mlp_tokens.fc2.*",
			"blocks.#.norm2.*", "blocks.#.mlp_channels.fc1.*", "blocks.#.mlp_channels.fc2.*", "norm.*", "head.*"),
	}},
	// The shapes of the tensors determine the form and the image size.
	Configure: func(s *backbone.Source) (c backbone.Config, err error) {
		stem, err1 := s.Shape("stem.proj.weight", 4)
		mix, err2 := s.Shape("blocks.0.mlp_tokens.fc1.weight", 2) // [TokenHidden, N]
		depth, err3 := s.Count("blocks")
		if err := errors.Join(err1, err2, err3); err != nil {
			return c, err
		}
		v := mixer{PatchSize: stem[2], EmbedDim: stem[0], Depth: depth, TokenHidden: mix[0]}
		side := int(math.Sqrt(float64(mix[1])))
		return backbone.Config{ImageSize: side * v.PatchSize, LayerNormEps: s.LayerNormEps(1e-6), Form: v}, nil
	},
	Validate: func(v mixer, c backbone.Config) error {
		if min(v.PatchSize, v.EmbedDim, v.Depth, v.TokenHidden) <= 0 || max(v.EmbedDim, v.TokenHidden, v.Depth) > 1<<12 || c.ImageSize%v.PatchSize != 0 {
			return fmt.Errorf("%+v of a Mixer is out of range for images of %d px", v, c.ImageSize)
		}
		return nil
	},
	Describe:    func(v mixer, _ backbone.Config) string { return fmt.Sprintf("Mixer %d×%d", v.Depth, v.EmbedDim) },
	NumFeatures: func(v mixer) int { return v.EmbedDim },
	Blocks:      func(v mixer) int { return v.Depth },
	Tokens:      mixer.tokens,
	Params: func(v mixer, c backbone.Config) []backbone.Param {
		out := []backbone.Param{{Name: "stem.proj.weight", Shape: []int{v.EmbedDim, 3, v.PatchSize, v.PatchSize}}, {Name: "stem.proj.bias", Shape: []int{v.EmbedDim}}}
		for i := range v.Depth {
			mlp := func(norm, name string, width, hidden int) {
				b := fmt.Sprintf("blocks.%d.", i)
				out = append(out, backbone.NormParams(b+norm, v.EmbedDim)...)
				out = append(out, backbone.LinearParams(b+name+".fc1", hidden, width, backbone.Scored)...)
				out = append(out, backbone.LinearParams(b+name+".fc2", width, hidden, backbone.Scored)...)
			}
			mlp("norm1", "mlp_tokens", v.tokens(c), v.TokenHidden)
			mlp("norm2", "mlp_channels", v.EmbedDim, 4*v.EmbedDim)
		}
		return append(out, backbone.NormParams("norm", v.EmbedDim)...)
	},
	Features: func(v mixer, c backbone.Config, l backbone.Layers, _ int, images *Node) *Node {
		return ReduceMean(v.featureMap(c, l, 0, images), 1, 2)
	},
	FeatureMap: mixer.featureMap,
}

func (v mixer) tokens(c backbone.Config) int { return v.side(c) * v.side(c) }

func (v mixer) featureMap(c backbone.Config, l backbone.Layers, _ int, images *Node) *Node {
	mlp := func(name string, x *Node) *Node {
		return l.Linear(name+".fc2", backbone.GELU(l.Linear(name+".fc1", x)))
	}
	x := l.Output("stem.proj", backbone.PatchEmbed(l, "stem.proj", images, v.PatchSize))
	x = Reshape(x, x.Shape().Dim(0), v.tokens(c), v.EmbedDim) // [B, N, D]
	for i := range v.Depth {
		b := fmt.Sprintf("blocks.%d.", i)
		y := TransposeAllAxes(c.LayerNorm(l, b+"norm1", x), 0, 2, 1) // [B, D, N]
		x = Add(x, l.Branch(b+"mlp_tokens", i, x, TransposeAllAxes(mlp(b+"mlp_tokens", y), 0, 2, 1)))
		x = Add(x, l.Branch(b+"mlp_channels", i, x, mlp(b+"mlp_channels", c.LayerNorm(l, b+"norm2", x))))
	}
	return Reshape(c.LayerNorm(l, "norm", x), x.Shape().Dim(0), v.side(c), v.side(c), v.EmbedDim)
}

func init() {
	if err := backbone.Register(mixerArchitecture); err != nil {
		panic(err)
	}
}

var mixerConfig = backbone.Config{ImageSize: 16, NumClasses: 3, LayerNormEps: 1e-5, Form: mixer{PatchSize: 4, EmbedDim: 8, Depth: 2, TokenHidden: 6}}

// TestRegister checks that a registered architecture is saved, recognised and computed like the
// built-in architectures.
func TestRegister(t *testing.T) {
	m := backbone.NewModel(mixerConfig, backbone.Preprocessing{Std: [3]float32{1, 1, 1}, Interpolation: "bicubic", Source: "test"}, weights(mixerConfig))
	path := filepath.Join(t.TempDir(), "mixer.safetensors")
	if err := m.Save(path, checkpoint.F32, nil); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]string{"with metadata": path, "without": save(t, m.Weights, nil)} {
		got, report, err := backbone.Load(p, backbone.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := mixerConfig
		if name == "without" {
			want.LayerNormEps = 1e-6
		}
		if !reflect.DeepEqual(got.Config, want) || got.Config.Architecture() != "mixer" || got.Fingerprint() != m.Fingerprint() || len(report.Unused) > 0 {
			t.Errorf("%s: read back %+v, unused %v", name, got.Config, report.Unused)
		}
	}
	if text := m.Config.String(); text != "Mixer 2×8, 16 px" {
		t.Error(text)
	}
	if _, _, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2}); err == nil || !strings.Contains(err.Error(), "leave it out") {
		t.Errorf("heads of a Mixer: %v", err)
	}
	if _, _, err := backbone.Load(path, backbone.LoadOptions{ImageSize: 32}); err == nil || !strings.Contains(err.Error(), "mlp_tokens.fc1.weight") {
		t.Errorf("another image size of a Mixer: %v", err)
	}
	fast, _ := backends(t)
	images := make([]float32, 2*16*16*3)
	for i := range images {
		images[i] = float32(i%13)/13 - 0.5
	}
	out := run(t, fast, m, images, func(w backbone.Layers, x *Node) []*Node {
		return []*Node{m.Features(w, x), ReduceMean(m.FeatureMap(w, x), 1, 2)}
	})
	if d := difference(out[0], out[1]); d != 0 {
		t.Errorf("features and the mean of the map differ by %g", d)
	}
}

// clashing has a JSON key that every configuration has.
type clashing struct {
	Size int `json:"image_size"`
}

// complete returns an architecture with every field that must be set and a form of type F.
func complete[F any](name string) backbone.Architecture[F] {
	return backbone.Architecture[F]{
		Name: name, Namings: mixerArchitecture.Namings, Head: "head", Configure: mixerArchitecture.Configure,
		Validate:    func(F, backbone.Config) error { return nil },
		Describe:    func(F, backbone.Config) string { return name },
		Params:      func(F, backbone.Config) []backbone.Param { return nil },
		Features:    func(F, backbone.Config, backbone.Layers, int, *Node) *Node { return nil },
		FeatureMap:  func(F, backbone.Config, backbone.Layers, int, *Node) *Node { return nil },
		NumFeatures: func(F) int { return 1 },
		Blocks:      func(F) int { return 1 },
		Tokens:      func(F, backbone.Config) int { return 1 },
	}
}

// TestRegisterRefuses checks that errors name what is taken or missing, and that a refused
// architecture is not registered.
func TestRegisterRefuses(t *testing.T) {
	type other struct{ mixer }
	refused := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	refused(backbone.Register(complete[other]("mixer")), `"mixer": an architecture with this name is already registered`)
	refused(backbone.Register(complete[other]("vit")), `"vit": an architecture with this name is already registered`)
	refused(backbone.Register(complete[mixer]("mixer2")), `the architecture "mixer" already uses the form type`)
	refused(backbone.Register(complete[*mixer]("pointer")), `the form has the type *backbone_test.mixer; use a struct`)
	refused(backbone.Register(complete[any]("any")), `the form has the type interface {}; use a struct`)
	refused(backbone.Register(complete[clashing]("clash")), `"image_size", but every configuration has the keys`)
	refused(backbone.Register(backbone.Architecture[other]{Name: "none"}),
		`"none": required fields are not set: Namings, Head, Configure, Validate, Describe, Params, Features, FeatureMap, NumFeatures, Blocks, Tokens; set`)
	for _, field := range []string{"Name", "Namings", "Head", "Configure", "Validate", "Describe", "Params", "Features", "FeatureMap", "NumFeatures", "Blocks", "Tokens"} {
		a := complete[other]("other")
		reflect.ValueOf(&a).Elem().FieldByName(field).SetZero()
		refused(backbone.Register(a), "required fields are not set: "+field+"; set")
	}
	for name := range map[string]bool{"mixer2": true, "pointer": true, "any": true, "clash": true, "none": true, "other": true} {
		if err := json.Unmarshal([]byte(`{"architecture":"`+name+`"}`), new(backbone.Config)); err == nil {
			t.Errorf("the refused architecture %q is known", name)
		}
	}
}

// TestUnknownArchitecture checks that a configuration without a known architecture is an error, and
// is never read as another architecture.
func TestUnknownArchitecture(t *testing.T) {
	type unregistered struct{ mixer }
	for name, c := range map[string]struct {
		config backbone.Config
		want   string
	}{
		"no form":      {backbone.Config{ImageSize: 8, NumClasses: 1, LayerNormEps: 1e-6}, "has no form"},
		"unregistered": {backbone.Config{ImageSize: 8, NumClasses: 1, LayerNormEps: 1e-6, Form: unregistered{}}, "register it"},
	} {
		if err := c.config.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Validate: %v", name, err)
		}
		if _, err := json.Marshal(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Marshal: %v", name, err)
		}
		m := backbone.NewModel(c.config, backbone.Preprocessing{}, nil)
		if err := m.Save(filepath.Join(t.TempDir(), "x"), checkpoint.F32, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Save: %v", name, err)
		}
		if text := c.config.String(); text == "" || c.config.Architecture() != "" || c.config.BeyondTimm() != "" {
			t.Errorf("%s: %s, %q", name, text, c.config.Architecture())
		}
	}
	for text, want := range map[string]string{
		`{"architecture":"eva"}`:                   `backbone architecture "eva" is unknown; known: convnext, mixer, swin, vit`,
		`{}`:                                       `backbone architecture "" is unknown`,
		`{"architecture":"mixer","depths":[1]}`:    `unknown field "depths"`,
		`{"architecture":"mixer","depth":"two"}`:   `depth`,
		`{"architecture":"mixer","image_size":{}}`: `image_size`,
	} {
		var c backbone.Config
		if err := json.Unmarshal([]byte(text), &c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
}

// TestConfigJSON checks that configurations are flat objects that are read back unchanged. A key
// with the value zero means the same as no key, even if it belongs to another architecture.
func TestConfigJSON(t *testing.T) {
	for text, want := range map[string]backbone.Config{
		`{"architecture":"vit","image_size":16,"num_classes":3,"num_heads":2,"layer_norm_eps":0.00001,"patch_size":4,"embed_dim":8,"depth":2,"hidden_dim":16}`: small,
		`{"architecture":"swin","image_size":16,"num_classes":3,"num_heads":0,"layer_norm_eps":0.00001,"patch_size":2,"embed_dim":8,"hidden_dim":16,"depths":[2,1],"stage_heads":[2,2],"window_size":4}`: {ImageSize: 16, NumClasses: 3, LayerNormEps: 1e-5,
			Form: backbone.Swin{PatchSize: 2, EmbedDim: 8, HiddenDim: 16, Depths: []int{2, 1}, StageHeads: []int{2, 2}, WindowSize: 4}},
		`{"architecture":"mixer","image_size":16,"num_classes":3,"num_heads":0,"layer_norm_eps":0.00001,"patch_size":4,"embed_dim":8,"depth":2,"token_hidden":6}`: mixerConfig,
	} {
		data, err := json.Marshal(want)
		if err != nil || string(data) != text {
			t.Errorf("got %s, %v, want %s", data, err, text)
		}
		for _, text := range []string{text, strings.Replace(text, "{", `{"registers":0, "pre_norm":false,"pooling":"", "dims":null,`, 1)} {
			var got backbone.Config
			if err := json.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, %v", text, got, err)
			}
		}
	}
}

// TestConfigStrict checks that a key of the form must have the right type, that an unknown key is
// an error whatever its value, and that a zero key of another architecture counts as absent.
func TestConfigStrict(t *testing.T) {
	const valid = `{"architecture":"vit","image_size":16,"num_classes":3,"num_heads":2,"layer_norm_eps":1e-6,"patch_size":4,"embed_dim":8,"depth":1,"hidden_dim":16`
	for text, ok := range map[string]bool{`}`: true, `,"fc_norm":false}`: true, `,"window_size":0}`: true, `,"fc_norm":0}`: false, `,"pooling":false}`: false, `,"typo":0}`: false, `,"window_size":7}`: false} {
		var c backbone.Config
		if err := json.Unmarshal([]byte(valid+text), &c); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}
