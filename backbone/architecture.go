package backbone

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/checkpoint"
)

// Form is the part of a [Config] that belongs to its architecture: the fields of a [ViT], a [Swin]
// or a [ConvNeXt], or those of a type that [Register] has made known. A Form is a struct, whose
// fields become keys of the configuration in files.
//
// The parameter c is the configuration that the form is part of. It is valid, except in Validate and
// Describe.
type Form interface {
	// Validate returns an error about the first of the form's own fields that is out of range, or
	// that does not fit c. The other fields of c are valid. It bounds all numbers, since they may
	// come from a hostile file.
	Validate(c Config) error
	// Describe returns a short description for people, without the image size and the number of
	// classes: "ViT 12×192, 3 heads, patch 16".
	Describe(c Config) string
	// Params lists the tensors of the backbone without its head, in the order of PyTorch's
	// named_parameters.
	Params(c Config) []Param
	// Features computes what the head sees, [B, NumFeatures], from images
	// [B, ImageSize, ImageSize, 3], float32 and normalised. It asks l for every tensor and shows it
	// every result.
	Features(c Config, l Layers, images *Node) *Node
	// FeatureMap computes the last map of features, [B, H, W, D], after the final norm and before
	// pooling, from images as Features takes them. It has no place for class tokens and register
	// tokens.
	FeatureMap(c Config, l Layers, images *Node) *Node
	// NumFeatures returns the width of the result of Features.
	NumFeatures() int
	// Head returns the canonical name of the classification layer, which is a linear layer with the
	// weight [NumClasses, NumFeatures] and the bias [NumClasses].
	Head() string
	// Blocks returns the number of residual blocks. Features passes their indices, from 0, to l.
	Blocks() int
	// Tokens returns the number of tokens, or positions of the map, of an image where most of the
	// work is done.
	Tokens(c Config) int
}

// Architecture is a family of backbones, such as the vision transformers, for [Register].
type Architecture struct {
	// Name is the value of "architecture" in files, such as "vit".
	Name string
	// Form is a value of the architecture's Form, such as ViT{}. Its type tells the architecture of
	// a [Config].
	Form Form
	// Namings are the ways in which checkpoints name the tensors. They translate to the names that
	// Params of the Form lists. The field Architecture is set by Register.
	Namings []checkpoint.Naming
	// Configure derives a configuration from what a checkpoint says. It leaves NumClasses 0.
	Configure func(s *Source) (Config, error)
	// Fit changes the weights of a checkpoint with the configuration from to those of to, which has
	// another image size, or the same one. It returns an error for tensors that the graph would
	// leave out. Nil: all weights fit every image size.
	Fit func(from, to Config, weights checkpoint.StateDict) error
	// Export returns the weights of m in the shapes that timm has in its checkpoints. It leaves m
	// as it is. Nil: timm's shapes are those of Params.
	Export func(m *Model) checkpoint.StateDict
	// BeyondTimm describes how timm's model of the same names differs; see [Config.BeyondTimm].
	// Nil: it does not.
	BeyondTimm func(c Config) string
	// Preprocessing returns what was done to pixels where neither a checkpoint of that file name
	// nor a file beside it says so. Nil: ImageNet's mean and std.
	Preprocessing func(fileName string) Preprocessing
}

// registry holds the architectures by name. Its lock guards additions by Register.
var registry = struct {
	sync.RWMutex
	byName map[string]Architecture
}{byName: map[string]Architecture{}}

func init() {
	for _, a := range []Architecture{vit, swin, convnext} {
		if err := Register(a); err != nil {
			panic(err)
		}
	}
}

// Register makes an architecture known: [Load] recognises its checkpoints, and its configurations
// can be read from files. It is an error if a field that must be set is not, or if the name or the
// type of the Form is taken.
func Register(a Architecture) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("registering the architecture %q: %w", a.Name, fmt.Errorf(format, args...))
	}
	if a.Name == "" || a.Form == nil || a.Configure == nil || len(a.Namings) == 0 {
		return fail("a name, a form, a naming and the function Configure must be set")
	}
	t := reflect.TypeOf(a.Form)
	if t.Kind() != reflect.Struct {
		return fail("the form is a %s, expected a struct", t)
	}
	for _, key := range jsonKeys(t) {
		if slices.Contains(commonKeys, key) {
			return fail("the form's key %q is one of the keys of every configuration: %s", key, strings.Join(commonKeys, ", "))
		}
	}
	a.Namings = slices.Clone(a.Namings)
	for i := range a.Namings {
		a.Namings[i].Architecture = a.Name
	}
	registry.Lock()
	defer registry.Unlock()
	if _, taken := registry.byName[a.Name]; taken {
		return fail("the name is taken")
	}
	for name, other := range registry.byName {
		if reflect.TypeOf(other.Form) == t {
			return fail("the form %s belongs to the architecture %q", t, name)
		}
	}
	registry.byName[a.Name] = a
	return nil
}

// architecture finds a registered architecture by its name.
func architecture(name string) (Architecture, error) {
	registry.RLock()
	defer registry.RUnlock()
	a, ok := registry.byName[name]
	if !ok {
		return Architecture{}, fmt.Errorf("unknown backbone architecture %q; known are %s", name, strings.Join(slices.Sorted(maps.Keys(registry.byName)), ", "))
	}
	return a, nil
}

var errNoForm = errors.New("the backbone configuration has no form; set Form, to a backbone.ViT for example")

// architectureOf finds the registered architecture of a form.
func architectureOf(f Form) (Architecture, error) {
	if f == nil {
		return Architecture{}, errNoForm
	}
	registry.RLock()
	defer registry.RUnlock()
	for _, a := range registry.byName {
		if reflect.TypeOf(a.Form) == reflect.TypeOf(f) {
			return a, nil
		}
	}
	return Architecture{}, fmt.Errorf("the form %T belongs to no known backbone architecture; register it with backbone.Register", f)
}

// Namings returns the namings of all registered architectures, for [checkpoint.File.Canonical].
func Namings() (all []checkpoint.Naming) {
	registry.RLock()
	defer registry.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(registry.byName)) {
		all = append(all, registry.byName[name].Namings...)
	}
	return all
}

// common are the fields of a Config in files that every architecture has. The fields of the form
// stand beside them.
type common struct {
	Architecture string  `json:"architecture"`
	ImageSize    int     `json:"image_size"`
	NumClasses   int     `json:"num_classes"`
	NumHeads     int     `json:"num_heads"`
	LayerNormEps float64 `json:"layer_norm_eps"`
}

// commonKeys are the keys of common.
var commonKeys = jsonKeys(reflect.TypeFor[common]())

// jsonKeys lists the keys that a struct has in JSON.
func jsonKeys(t reflect.Type) (keys []string) {
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && !f.Anonymous && key != "-" {
			keys = append(keys, cmp.Or(key, f.Name))
		}
	}
	return keys
}

// MarshalJSON writes c as one flat object: the name of the architecture, the fields that all have,
// and the fields of the form.
func (c Config) MarshalJSON() ([]byte, error) {
	a, err := architectureOf(c.Form)
	if err != nil {
		return nil, err
	}
	shared, err := json.Marshal(common{a.Name, c.ImageSize, c.NumClasses, c.NumHeads, c.LayerNormEps})
	if err != nil {
		return nil, err
	}
	own, err := json.Marshal(c.Form)
	if err != nil || string(own) == "{}" {
		return shared, err
	}
	return slices.Concat(shared[:len(shared)-1], []byte(","), own[1:]), nil
}

// UnmarshalJSON reads what MarshalJSON writes. An unknown architecture is an error, and so is a key
// that the architecture does not have, unless its value is zero, which is the same as no key.
func (c *Config) UnmarshalJSON(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	var shared common
	if err := json.Unmarshal(data, &shared); err != nil {
		return err
	}
	a, err := architecture(shared.Architecture)
	if err != nil {
		return fmt.Errorf("reading the configuration of a backbone: %w", err)
	}
	for key, value := range fields {
		if slices.Contains(commonKeys, key) || slices.Contains([]string{"0", "false", `""`, "null"}, string(bytes.TrimSpace(value))) {
			delete(fields, key)
		}
	}
	own, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	form := reflect.New(reflect.TypeOf(a.Form))
	dec := json.NewDecoder(bytes.NewReader(own))
	dec.DisallowUnknownFields()
	if err := dec.Decode(form.Interface()); err != nil {
		return fmt.Errorf("reading the configuration of a backbone of the architecture %q: %w", a.Name, err)
	}
	*c = Config{ImageSize: shared.ImageSize, NumClasses: shared.NumClasses, NumHeads: shared.NumHeads, LayerNormEps: shared.LayerNormEps, Form: form.Elem().Interface().(Form)}
	return nil
}
