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
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/option"
)

// Architecture describes a family of backbones, such as the Vision Transformers, to [Register]. F
// is the struct type that holds the fields of a [Config] that only this architecture has, such as
// [ViT]. Config.Form has this type. In files, the fields of F are keys of the configuration.
//
// The functions take the form f and the configuration c that contains f. Both are valid, except in
// Validate and Describe. A field must be set unless its comment says what zero or nil means.
type Architecture[F any] struct {
	// Name is the value of the key "architecture" in files, such as "vit".
	Name string
	// Namings translate the tensor names of checkpoints to the names that Params lists. There is
	// one Naming for each library or format. Register sets their field Architecture.
	Namings []checkpoint.Naming
	// Head is the canonical name of the classification layer. This linear layer has the weight
	// [NumClasses, NumFeatures] and the bias [NumClasses].
	Head string

	// Configure derives the configuration from a checkpoint. The result has a form of type F.
	// Configure leaves NumClasses 0.
	Configure func(s *Source) (Config, error)
	// Validate returns an error about the first field of f that is out of range or does not fit c.
	// It may rely on the other fields of c. It must set an upper bound for every number, because a
	// damaged or malicious file can hold any number.
	Validate func(f F, c Config) error
	// Describe returns a short description for people, such as "ViT 12×192, 3 heads, patch 16". It
	// leaves out the image size and the number of classes.
	Describe func(f F, c Config) string
	// Params lists the tensors of the backbone without its head, in the order of PyTorch's
	// named_parameters.
	Params func(f F, c Config) []Param
	// Features computes the input of the head, [B, NumFeatures]. With block 0, x holds images
	// [B, ImageSize, ImageSize, 3], which are float32 and normalised. With a greater block, x holds
	// the result of Hidden, and Features begins with this block. Features gets every tensor from l
	// and passes every result to l.
	Features func(f F, c Config, l Layers, block int, x *Node) *Node
	// FeatureMap computes the last feature map, [B, H, W, D], after the final norm and before
	// pooling. It takes the same block and x as Features. The map does not contain class tokens and
	// register tokens.
	FeatureMap func(f F, c Config, l Layers, block int, x *Node) *Node
	// NumFeatures returns the width of the features that Features computes.
	NumFeatures func(f F) int
	// Blocks returns the number of residual blocks. Features numbers the blocks from 0 when it
	// calls l.
	Blocks func(f F) int
	// Tokens returns the number of tokens, or of positions of the feature map, in the part of the
	// network that does most of the work for an image.
	Tokens func(f F, c Config) int

	// Hidden computes the tokens [B, N, D] that enter a block, from the images of Features. The
	// block is at least 1 and less than Blocks. Nil means that Features and FeatureMap begin with
	// block 0 only.
	Hidden func(f F, c Config, l Layers, block int, images *Node) *Node
	// HiddenSize returns the number N of tokens and the width D in the result of Hidden. It must be
	// set if Hidden is set.
	HiddenSize func(f F, c Config, block int) (tokens, width int)
	// Fit adapts the weights of a checkpoint from the configuration from to the configuration to.
	// The image sizes of the two may differ. Fit returns an error if the graph would ignore some of
	// the weights. Nil means that the weights fit every image size.
	Fit func(from, to Config, weights checkpoint.StateDict) error
	// Export returns the weights of m in the shapes of timm's checkpoints. It must not change m.
	// Nil means that the tensors have the same shapes in timm as in Params.
	Export func(m *Model) checkpoint.StateDict
	// BeyondTimm describes how the results differ from the results of timm's model with the same
	// tensor names. See [Config.BeyondTimm]. Nil means that the results never differ.
	BeyondTimm func(f F, c Config) string
	// HuggingFace returns the model of Hugging Face transformers that computes the same, or an
	// error that says why there is none. Nil means that there is none.
	HuggingFace func(f F, c Config) (*HuggingFace, error)
	// Preprocessing returns the normalisation of pixels for a checkpoint with this file name. It is
	// called if neither the checkpoint nor a file beside it states the normalisation. Nil means
	// ImageNet's mean and standard deviation.
	Preprocessing func(fileName string) Preprocessing
}

// registered is an architecture whose functions take the form as any. The form must have the type
// form.
type registered struct {
	Architecture[any]
	form reflect.Type
}

// registry holds the registered architectures by name.
var registry = struct {
	sync.RWMutex
	byName map[string]registered
}{byName: map[string]registered{}}

func init() {
	if err := errors.Join(Register(vit), Register(swin), Register(convnext)); err != nil {
		panic(err)
	}
}

// Register adds an architecture. Afterwards [Load] recognises its checkpoints, and its
// configurations can be read from files. Register returns an error if
//
//   - a required field is not set
//   - F is not a struct, or has a JSON key that every configuration has
//   - a naming rule uses more numbers than its pattern has
//   - the name or F is already registered
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
	if (a.Hidden == nil) != (a.HiddenSize == nil) {
		unset = append(unset, "Hidden or HiddenSize, which need each other")
	}
	if len(unset) > 0 {
		return fail("required fields are not set: %s; set them", strings.Join(unset, ", "))
	}
	form := reflect.TypeFor[F]()
	if form.Kind() != reflect.Struct {
		return fail("the form has the type %s; use a struct type", form)
	}
	for _, key := range jsonKeys(form) {
		if slices.Contains(commonKeys, key) {
			return fail("the form has the JSON key %q, but every configuration has the keys %s; rename the key", key, strings.Join(commonKeys, ", "))
		}
	}
	for _, naming := range a.Namings {
		for pattern, rule := range naming.Rules {
			if strings.Count(rule.To, "#") > strings.Count(pattern, "#") {
				return fail("the naming rule %q → %q uses more numbers than its pattern has; use each # of the pattern at most once", pattern, rule.To)
			}
		}
	}
	registry.Lock()
	defer registry.Unlock()
	if _, taken := registry.byName[a.Name]; taken {
		return fail("an architecture with this name is already registered; use another name")
	}
	for name, other := range registry.byName {
		if other.form == form {
			return fail("the architecture %q already uses the form type %s; use another type", name, form)
		}
	}
	registry.byName[a.Name] = registered{a.ofAnyForm(), form}
	return nil
}

// ofAnyForm returns a copy of a whose functions take the form as any. It also sets the field
// Architecture of the namings.
func (a Architecture[F]) ofAnyForm() Architecture[any] {
	out := Architecture[any]{
		Name: a.Name, Namings: slices.Clone(a.Namings), Head: a.Head,
		Configure:   a.Configure,
		Validate:    func(f any, c Config) error { return a.Validate(f.(F), c) },
		Describe:    func(f any, c Config) string { return a.Describe(f.(F), c) },
		Params:      func(f any, c Config) []Param { return a.Params(f.(F), c) },
		Features:    func(f any, c Config, l Layers, block int, x *Node) *Node { return a.Features(f.(F), c, l, block, x) },
		FeatureMap:  func(f any, c Config, l Layers, block int, x *Node) *Node { return a.FeatureMap(f.(F), c, l, block, x) },
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
	if a.HuggingFace != nil {
		out.HuggingFace = func(f any, c Config) (*HuggingFace, error) { return a.HuggingFace(f.(F), c) }
	}
	if a.Hidden != nil {
		out.Hidden = func(f any, c Config, l Layers, block int, images *Node) *Node {
			return a.Hidden(f.(F), c, l, block, images)
		}
		out.HiddenSize = func(f any, c Config, block int) (tokens, width int) { return a.HiddenSize(f.(F), c, block) }
	}
	for i := range out.Namings {
		out.Namings[i].Architecture = a.Name
	}
	return out
}

// architecture returns the registered architecture with the given name.
func architecture(name string) (registered, error) {
	registry.RLock()
	defer registry.RUnlock()
	a, ok := registry.byName[name]
	if !ok {
		return registered{}, option.Unknown("", "backbone architecture", name, slices.Sorted(maps.Keys(registry.byName)))
	}
	return a, nil
}

// architectureOf returns the registered architecture whose form has the type of form.
func architectureOf(form any) (registered, error) {
	if form == nil {
		return registered{}, errors.New("the backbone configuration has no form; set its field Form, for example to a backbone.ViT")
	}
	registry.RLock()
	defer registry.RUnlock()
	for _, a := range registry.byName {
		if a.form == reflect.TypeOf(form) {
			return a, nil
		}
	}
	return registered{}, fmt.Errorf("no registered backbone architecture has the form type %T; register it with backbone.Register", form)
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

// common holds the fields of a Config that have the same JSON keys for every architecture. In
// files, the fields of the form are keys of the same object.
type common struct {
	Architecture string  `json:"architecture"`
	ImageSize    int     `json:"image_size"`
	NumClasses   int     `json:"num_classes"`
	NumHeads     int     `json:"num_heads"`
	LayerNormEps float64 `json:"layer_norm_eps"`
}

// commonKeys lists the JSON keys of common.
var commonKeys = jsonKeys(reflect.TypeFor[common]())

// jsonKeys lists the JSON keys of the struct type t.
func jsonKeys(t reflect.Type) (keys []string) {
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && !f.Anonymous && key != "-" {
			keys = append(keys, cmp.Or(key, f.Name))
		}
	}
	return keys
}

// isFormKey reports whether the form of any registered architecture has the JSON key.
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

// MarshalJSON writes c as one flat object. It holds the name of the architecture, the fields that
// every architecture has, and the fields of the form.
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

// UnmarshalJSON reads the object that MarshalJSON writes. It returns an error for an unknown
// architecture, and for a key that the architecture does not have. A key of another architecture is
// accepted if its value is zero, which means the same as no key.
func (c *Config) UnmarshalJSON(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return jsonfile.Explain(data, err)
	}
	var shared common
	if err := json.Unmarshal(data, &shared); err != nil {
		return jsonfile.Explain(data, err)
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
		return fmt.Errorf("reading the configuration of a backbone of the architecture %q: %w", a.Name, jsonfile.Explain(own, err))
	}
	*c = Config{ImageSize: shared.ImageSize, NumClasses: shared.NumClasses, NumHeads: shared.NumHeads, LayerNormEps: shared.LayerNormEps, Form: form.Elem().Interface()}
	return nil
}
