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

// Architecture describes a family of backbones, such as the vision transformers, to [Register]. F
// is the struct that holds the architecture's own fields of a [Config], such as [ViT]; Config.Form
// has this type. The fields of F become keys of the configuration in files.
//
// The functions get the form f and the configuration c that it is part of. Both are valid, except
// in Validate and Describe. A field whose comment says nothing about zero or nil must be set.
type Architecture[F any] struct {
	// Name is the value of "architecture" in files, such as "vit".
	Name string
	// Namings are the ways in which checkpoints name the tensors. They translate to the names that
	// Params lists. Register sets their field Architecture.
	Namings []checkpoint.Naming
	// Head is the canonical name of the classification layer, which is a linear layer with the
	// weight [NumClasses, NumFeatures] and the bias [NumClasses].
	Head string

	// Configure derives a configuration, with a form of type F, from what a checkpoint says. It
	// leaves NumClasses 0.
	Configure func(s *Source) (Config, error)
	// Validate returns an error about the first field of f that is out of range or does not fit c.
	// The other fields of c are valid. It bounds all numbers, since they may come from a hostile
	// file.
	Validate func(f F, c Config) error
	// Describe returns a short description for people, without the image size and the number of
	// classes: "ViT 12×192, 3 heads, patch 16".
	Describe func(f F, c Config) string
	// Params lists the tensors of the backbone without its head, in the order of PyTorch's
	// named_parameters.
	Params func(f F, c Config) []Param
	// Features computes the input of the head, [B, NumFeatures], from images
	// [B, ImageSize, ImageSize, 3], float32 and normalised. It asks l for every tensor and shows it
	// every result.
	Features func(f F, c Config, l Layers, images *Node) *Node
	// FeatureMap computes the last map of features, [B, H, W, D], after the final norm and before
	// pooling, from the same images as Features. The map leaves out class tokens and register
	// tokens.
	FeatureMap func(f F, c Config, l Layers, images *Node) *Node
	// NumFeatures returns the width of the result of Features.
	NumFeatures func(f F) int
	// Blocks returns the number of residual blocks. Features passes their indices, from 0, to l.
	Blocks func(f F) int
	// Tokens returns the number of tokens, or positions of the map, of an image where most of the
	// work is done.
	Tokens func(f F, c Config) int

	// Fit changes the weights of a checkpoint with the configuration from to those of to, which has
	// another image size, or the same one. It returns an error for tensors that the graph would
	// leave out. Nil: all weights fit every image size.
	Fit func(from, to Config, weights checkpoint.StateDict) error
	// Export returns the weights of m in the shapes that timm has in its checkpoints. It leaves m
	// as it is. Nil: timm's shapes are those of Params.
	Export func(m *Model) checkpoint.StateDict
	// BeyondTimm describes how timm's model of the same names differs; see [Config.BeyondTimm].
	// Nil: it does not differ.
	BeyondTimm func(f F, c Config) string
	// Preprocessing returns the normalisation of pixels where neither a checkpoint of that file
	// name nor a file beside it names one. Nil: ImageNet's mean and std.
	Preprocessing func(fileName string) Preprocessing
}

// registered is an architecture whose functions take a form of any type and expect one of type
// form.
type registered struct {
	Architecture[any]
	form reflect.Type
}

// registry holds the architectures by name. Its lock guards additions by Register.
var registry = struct {
	sync.RWMutex
	byName map[string]registered
}{byName: map[string]registered{}}

func init() {
	if err := errors.Join(Register(vit), Register(swin), Register(convnext)); err != nil {
		panic(err)
	}
}

// Register makes an architecture known: [Load] recognises its checkpoints, and its configurations
// can be read from files. Register returns an error if a field that must be set is not, if F is not
// a struct or has a key of every configuration, or if the name or F is taken.
func Register[F any](a Architecture[F]) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("registering the architecture %q: %w", a.Name, fmt.Errorf(format, args...))
	}
	var unset []string
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"Name", a.Name != ""}, {"Namings", len(a.Namings) > 0}, {"Head", a.Head != ""}, {"Configure", a.Configure != nil},
		{"Validate", a.Validate != nil}, {"Describe", a.Describe != nil}, {"Params", a.Params != nil}, {"Features", a.Features != nil},
		{"FeatureMap", a.FeatureMap != nil}, {"NumFeatures", a.NumFeatures != nil}, {"Blocks", a.Blocks != nil}, {"Tokens", a.Tokens != nil},
	} {
		if !field.set {
			unset = append(unset, field.name)
		}
	}
	if len(unset) > 0 {
		return fail("fields without a value: %s; set them", strings.Join(unset, ", "))
	}
	form := reflect.TypeFor[F]()
	if form.Kind() != reflect.Struct {
		return fail("the form is a %s, expected a struct", form)
	}
	for _, key := range jsonKeys(form) {
		if slices.Contains(commonKeys, key) {
			return fail("the form's key %q is one of the keys of every configuration: %s", key, strings.Join(commonKeys, ", "))
		}
	}
	for _, naming := range a.Namings {
		for pattern, rule := range naming.Rules {
			if strings.Count(rule.To, "#") > strings.Count(pattern, "#") {
				return fail("the naming rule %q → %q has more numbers than its pattern; use each # of the pattern at most once", pattern, rule.To)
			}
		}
	}
	registry.Lock()
	defer registry.Unlock()
	if _, taken := registry.byName[a.Name]; taken {
		return fail("the name is taken")
	}
	for name, other := range registry.byName {
		if other.form == form {
			return fail("the form %s belongs to the architecture %q", form, name)
		}
	}
	registry.byName[a.Name] = registered{a.ofAnyForm(), form}
	return nil
}

// ofAnyForm returns the architecture with functions that take the form as any. Its namings have the
// architecture's name.
func (a Architecture[F]) ofAnyForm() Architecture[any] {
	out := Architecture[any]{
		Name: a.Name, Namings: slices.Clone(a.Namings), Head: a.Head,
		Configure:   a.Configure,
		Validate:    func(f any, c Config) error { return a.Validate(f.(F), c) },
		Describe:    func(f any, c Config) string { return a.Describe(f.(F), c) },
		Params:      func(f any, c Config) []Param { return a.Params(f.(F), c) },
		Features:    func(f any, c Config, l Layers, images *Node) *Node { return a.Features(f.(F), c, l, images) },
		FeatureMap:  func(f any, c Config, l Layers, images *Node) *Node { return a.FeatureMap(f.(F), c, l, images) },
		NumFeatures: func(f any) int { return a.NumFeatures(f.(F)) },
		Blocks:      func(f any) int { return a.Blocks(f.(F)) },
		Tokens:      func(f any, c Config) int { return a.Tokens(f.(F), c) },
		Fit:         a.Fit, Export: a.Export, Preprocessing: a.Preprocessing,
		BeyondTimm: func(f any, c Config) string {
			if a.BeyondTimm == nil {
				return ""
			}
			return a.BeyondTimm(f.(F), c)
		},
	}
	for i := range out.Namings {
		out.Namings[i].Architecture = a.Name
	}
	return out
}

// architecture finds a registered architecture by its name.
func architecture(name string) (registered, error) {
	registry.RLock()
	defer registry.RUnlock()
	a, ok := registry.byName[name]
	if !ok {
		return registered{}, fmt.Errorf("unknown backbone architecture %q; known are %s", name, strings.Join(slices.Sorted(maps.Keys(registry.byName)), ", "))
	}
	return a, nil
}

// architectureOf finds the registered architecture of a form.
func architectureOf(form any) (registered, error) {
	if form == nil {
		return registered{}, errors.New("the backbone configuration has no form; set Form, to a backbone.ViT for example")
	}
	registry.RLock()
	defer registry.RUnlock()
	for _, a := range registry.byName {
		if a.form == reflect.TypeOf(form) {
			return a, nil
		}
	}
	return registered{}, fmt.Errorf("the form %T belongs to no known backbone architecture; register it with backbone.Register", form)
}

// namings returns the namings of all registered architectures, for [checkpoint.File.Canonical].
func namings() (all []checkpoint.Naming) {
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

// isFormKey reports whether a registered architecture has a key.
func isFormKey(key string) bool {
	registry.RLock()
	defer registry.RUnlock()
	for _, a := range registry.byName {
		if slices.Contains(jsonKeys(a.form), key) {
			return true
		}
	}
	return false
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
	formKeys := jsonKeys(a.form)
	for key, value := range fields {
		zero := slices.Contains([]string{"0", "false", `""`, "null"}, string(bytes.TrimSpace(value)))
		if slices.Contains(commonKeys, key) || zero && !slices.Contains(formKeys, key) && isFormKey(key) {
			delete(fields, key)
		}
	}
	own, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	form := reflect.New(a.form)
	dec := json.NewDecoder(bytes.NewReader(own))
	dec.DisallowUnknownFields()
	if err := dec.Decode(form.Interface()); err != nil {
		return fmt.Errorf("reading the configuration of a backbone of the architecture %q: %w", a.Name, err)
	}
	*c = Config{ImageSize: shared.ImageSize, NumClasses: shared.NumClasses, NumHeads: shared.NumHeads, LayerNormEps: shared.LayerNormEps, Form: form.Elem().Interface()}
	return nil
}
