// Package yamlfile decodes YAML documents strictly into Go values. JSON documents are YAML too.
//
// Begin with [Parse], which returns the root node of a document. [Decode] decodes a node into a
// value. The keys of a mapping are the names in the json tags of a struct, so a YAML file and a
// JSON file of spt use the same keys. Decode changes only the fields whose keys the document has,
// so a program can decode several nodes into one value, one on top of the other.
//
// An unknown key, a repeated key, and a value of another type are an [Error] with the line and the
// column.
package yamlfile

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sptune/spt/internal/option"
)

// Node is a part of a YAML document. A struct field of the type *Node holds its part undecoded.
type Node = yaml.Node

// Error is an error at a place of a YAML document.
type Error struct {
	Line, Column int // from 1; 0 if the place is not known
	Err          error
}

// Error returns the error with its place.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("line %d, column %d: %v", e.Line, e.Column, e.Err)
}

// Unwrap returns the error without the place.
func (e *Error) Unwrap() error { return e.Err }

// At returns err as an [Error] at the place of a node. If err has a place already, or the node is
// nil, At returns err. A node that a program made has the line 0.
func At(n *Node, err error) error {
	if _, placed := errors.AsType[*Error](err); placed || err == nil || n == nil {
		return err
	}
	return &Error{n.Line, n.Column, err}
}

// syntaxLine finds the line in an error of the YAML library.
var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// Parse returns the root of a YAML document, or nil if the document is empty.
func Parse(data []byte) (*Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		found := syntaxLine.FindStringSubmatch(err.Error())
		if found == nil {
			return nil, err
		}
		if found[1] != "" {
			return nil, fmt.Errorf("line %s: the YAML is broken: %s", found[1], found[2])
		}
		return nil, fmt.Errorf("the YAML is broken: %s", found[2])
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	return document.Content[0], nil
}

// Key returns the value of a key of a mapping, or nil if the mapping does not have the key.
func Key(n *Node, key string) *Node {
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// Decode decodes a node into the value that v points to. A nil node changes nothing.
//
// A mapping becomes a struct or a map, a sequence a slice or an array, and a scalar a value of a
// basic type or of a type that is an encoding.TextUnmarshaler. null becomes the zero value. A map
// keeps the entries whose keys the document does not have. Decode does not convert between numbers,
// texts and booleans.
func Decode(n *Node, v any) error {
	if n == nil {
		return nil
	}
	return decode(n, reflect.ValueOf(v).Elem())
}

// nodeType is the type of fields that hold a part of the document undecoded.
var nodeType = reflect.TypeFor[*Node]()

func decode(n *Node, to reflect.Value) error {
	if n.Kind == yaml.AliasNode {
		return decode(n.Alias, to)
	}
	if to.Type() == nodeType {
		to.Set(reflect.ValueOf(n))
		return nil
	}
	scalar := n.Kind == yaml.ScalarNode
	if scalar && n.ShortTag() == "!!null" {
		to.SetZero()
		return nil
	}
	if text, ok := to.Addr().Interface().(encoding.TextUnmarshaler); ok && scalar {
		return At(n, text.UnmarshalText([]byte(n.Value)))
	}
	switch to.Kind() {
	case reflect.Pointer:
		made := reflect.New(to.Type().Elem())
		if !to.IsNil() {
			made.Elem().Set(to.Elem()) // keep the fields that the document does not have
		}
		if err := decode(n, made.Elem()); err != nil {
			return err
		}
		to.Set(made)
		return nil
	case reflect.Struct:
		return decodeStruct(n, to)
	case reflect.Map:
		return decodeMap(n, to)
	case reflect.Slice, reflect.Array:
		return decodeList(n, to)
	}
	if !scalar {
		return wrongType(n, to)
	}
	return decodeScalar(n, to)
}

// decodeScalar decodes a text, a boolean or a number.
func decodeScalar(n *Node, to reflect.Value) error {
	tag := n.ShortTag()
	switch to.Kind() {
	case reflect.String:
		if tag != "!!str" {
			return wrongType(n, to)
		}
		to.SetString(n.Value)
	case reflect.Bool:
		var b bool
		if tag != "!!bool" || n.Decode(&b) != nil {
			return wrongType(n, to)
		}
		to.SetBool(b)
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 0, to.Type().Bits())
		if tag != "!!int" || err != nil {
			return wrongType(n, to)
		}
		to.SetInt(i)
	case reflect.Uint64:
		u, err := strconv.ParseUint(n.Value, 0, 64)
		if tag != "!!int" || err != nil {
			return wrongType(n, to)
		}
		to.SetUint(u)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, to.Type().Bits())
		if tag != "!!int" && tag != "!!float" || err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return wrongType(n, to)
		}
		to.SetFloat(f)
	default:
		return At(n, fmt.Errorf("a value of the type %s cannot be read from YAML", to.Type()))
	}
	return nil
}

// decodeList decodes a sequence.
func decodeList(n *Node, to reflect.Value) error {
	if n.Kind != yaml.SequenceNode {
		return wrongType(n, to)
	}
	list := to
	if to.Kind() == reflect.Slice {
		list = reflect.MakeSlice(to.Type(), len(n.Content), len(n.Content))
	} else if to.Len() != len(n.Content) {
		return At(n, fmt.Errorf("found a list of %d values, expected %d", len(n.Content), to.Len()))
	}
	for i, item := range n.Content {
		if err := decode(item, list.Index(i)); err != nil {
			return err
		}
	}
	to.Set(list)
	return nil
}

// decodeStruct decodes a mapping.
func decodeStruct(n *Node, to reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return wrongType(n, to)
	}
	fields := map[string]reflect.Value{}
	addFields(fields, to)
	return eachKey(n, func(key, value *Node) error {
		field, ok := fields[key.Value]
		if !ok {
			return At(key, option.Unknown("", "key", key.Value, slices.Sorted(maps.Keys(fields))))
		}
		return decode(value, field)
	})
}

// decodeMap decodes a mapping into a map. It does not change the map that to holds.
func decodeMap(n *Node, to reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return wrongType(n, to)
	}
	made := reflect.MakeMap(to.Type())
	for key, value := range to.Seq2() {
		made.SetMapIndex(key, value)
	}
	err := eachKey(n, func(key, value *Node) error {
		k, v := reflect.New(to.Type().Key()).Elem(), reflect.New(to.Type().Elem()).Elem()
		if err := decode(key, k); err != nil {
			return err
		}
		if err := decode(value, v); err != nil {
			return err
		}
		made.SetMapIndex(k, v)
		return nil
	})
	if err == nil {
		to.Set(made)
	}
	return err
}

// eachKey calls f for the keys and values of a mapping, and puts the key before an error of f. A
// repeated key is an error.
func eachKey(n *Node, f func(key, value *Node) error) error {
	seen := map[string]*Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			return At(key, errors.New("merge keys (<<) are not supported; write the keys out"))
		}
		if first := seen[key.Value]; first != nil {
			return At(key, fmt.Errorf("the key %q is given twice, first in line %d", key.Value, first.Line))
		}
		seen[key.Value] = key
		if err := f(key, value); err != nil {
			if at, ok := errors.AsType[*Error](err); ok && !strings.HasPrefix(at.Err.Error(), "key ") {
				at.Err = fmt.Errorf("%s: %w", key.Value, at.Err)
			}
			return err
		}
	}
	return nil
}

// addFields adds the fields of a struct, and of the structs that it embeds, by their JSON names.
func addFields(fields map[string]reflect.Value, of reflect.Value) {
	for i := range of.NumField() {
		field := of.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" || !field.IsExported():
		case field.Anonymous && name == "":
			addFields(fields, of.Field(i))
		default:
			if name == "" {
				name = field.Name
			}
			fields[name] = of.Field(i)
		}
	}
}

// wrongType returns the error for a node that does not have the type of a value.
func wrongType(n *Node, to reflect.Value) error {
	found := "a list"
	switch n.Kind {
	case yaml.MappingNode:
		found = "a mapping"
	case yaml.ScalarNode:
		found = fmt.Sprintf("%.80q", n.Value)
		if n.ShortTag() != "!!str" {
			found = fmt.Sprintf("%.80s", n.Value)
		}
	}
	expected := map[reflect.Kind]string{reflect.String: "a text", reflect.Bool: "true or false", reflect.Int: "a whole number", reflect.Int64: "a whole number",
		reflect.Uint64: "a whole number of at least 0", reflect.Float32: "a number", reflect.Float64: "a number",
		reflect.Slice: "a list", reflect.Array: "a list", reflect.Struct: "a mapping", reflect.Map: "a mapping"}[to.Kind()]
	return At(n, fmt.Errorf("found %s, expected %s", found, expected))
}

// Under returns a mapping with the key that has the value n. With several keys, each mapping is the
// value of the key before: Under(n, "tune", "rank") is {tune: {rank: n}}.
func Under(n *Node, keys ...string) *Node {
	for _, key := range slices.Backward(keys) {
		name := &Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key, Line: n.Line, Column: n.Column}
		n = &Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column, Content: []*Node{name, n}}
	}
	return n
}

// String returns a scalar with that text. It has no place in a document.
func String(text string) *Node { return &Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text} }

// Merge returns a mapping with the keys of all mappings. The mappings must have different keys.
func Merge(mappings ...*Node) *Node {
	merged := &Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, n := range mappings {
		merged.Content = append(merged.Content, n.Content...)
	}
	return merged
}

// Text returns the text of a scalar, and whether n is a scalar that is not null.
func Text(n *Node) (text string, ok bool) {
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return "", false
	}
	return n.Value, true
}

// Items returns the items of a sequence.
func Items(n *Node) ([]*Node, error) {
	var items []*Node
	return items, Decode(n, &items)
}

// Pairs returns the keys and the values of a mapping, in their order.
func Pairs(n *Node) (keys, values []*Node, err error) {
	if n == nil {
		return nil, nil, nil
	}
	if n.Kind != yaml.MappingNode {
		return nil, nil, wrongType(n, reflect.ValueOf(struct{}{}))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		keys, values = append(keys, n.Content[i]), append(values, n.Content[i+1])
	}
	return keys, values, nil
}

// List returns a sequence with the given items.
func List(items ...*Node) *Node {
	list := &Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: items}
	if len(items) > 0 {
		list.Line, list.Column = items[0].Line, items[0].Column
	}
	return list
}
