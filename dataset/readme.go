package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFrontMatter limits the size of the YAML at the beginning of README.md, in bytes. The 21,841
// class names of ImageNet-21k take 1.3 MB. For hostile input, the YAML decoder needs up to 200
// times the memory of its input.
const maxFrontMatter = 2 << 20

// readmeClassNames returns the class names of the column label from README.md, the data set card of
// the Hugging Face Hub. config is the configuration that names the classes; see
// frontMatterClassNames. readmeClassNames returns nil if there is no such file or the file names no
// classes.
func readmeClassNames(at files, root, config, label string) ([]string, error) {
	f, size, err := at.open(filepath.Join(root, "README.md"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, min(size, maxFrontMatter)))
	if err != nil {
		return nil, fmt.Errorf("reading README.md: %w", err)
	}
	if text, err = withoutMark(filepath.Join(root, "README.md"), text); err != nil {
		return nil, err
	}
	names, err := frontMatterClassNames(text, config, label)
	if err != nil {
		return nil, fmt.Errorf("reading README.md: %w", err)
	}
	return names, nil
}

// frontMatterClassNames returns the class names in the front matter of text, which is YAML between
// two lines "---". The datasets library of Hugging Face writes class names in this form:
//
//	dataset_info:
//	  features:
//	  - name: label
//	    dtype:
//	      class_label:
//	        names:
//	          '0': cat
//
// Older versions write class_label directly below the feature, without dtype. A data set with
// several configurations has a list below dataset_info, with a config_name in each item, and may
// have several features with the name of the column. frontMatterClassNames reads the feature of
// config. With config "", it reads the first feature of the file.
func frontMatterClassNames(text []byte, config, label string) ([]string, error) {
	head, err := cutFrontMatter(text)
	if err != nil || head == nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(head, &document); err != nil {
		return nil, fmt.Errorf("the front matter is not YAML: %w", err)
	}
	from := &document
	if config != "" && len(document.Content) > 0 {
		from = configuration(yamlField(document.Content[0], "dataset_info"), config)
	}
	if from == nil {
		return nil, nil
	}
	names := findClassLabel(from, label)
	if names == nil {
		return nil, nil
	}
	return classLabelNames(names, label)
}

// cutFrontMatter returns the YAML between two lines "---" at the beginning of text, of which at
// most maxFrontMatter bytes were read. It returns nil if there is none.
func cutFrontMatter(text []byte) ([]byte, error) {
	cut := len(text) >= maxFrontMatter // computed here, because the next line may shorten the text
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	head, ok := bytes.CutPrefix(text, []byte("---\n"))
	if !ok {
		return nil, nil
	}
	head, _, ok = bytes.Cut(head, []byte("\n---"))
	if !ok {
		if cut {
			return nil, fmt.Errorf("the front matter does not end within the limit of %d bytes", maxFrontMatter)
		}
		return nil, nil
	}
	if !utf8.Valid(head) {
		return nil, errors.New("the front matter is not UTF-8: save the file as UTF-8")
	}
	return head, nil
}

// configuration returns the configuration with the given name from the node dataset_info, or nil if
// there is none.
func configuration(info *yaml.Node, name string) *yaml.Node {
	if info == nil {
		return nil
	}
	for _, n := range append([]*yaml.Node{info}, info.Content...) {
		if c := yamlField(n, "config_name"); c != nil && c.Value == name {
			return n
		}
	}
	return nil
}

// findClassLabel returns the node "names" of the first feature with the name label, or nil if there
// is none. It does not follow aliases, so it visits every node once.
func findClassLabel(n *yaml.Node, label string) *yaml.Node {
	if name := yamlField(n, "name"); name != nil && name.Value == label {
		for _, feature := range []*yaml.Node{n, yamlField(n, "dtype")} {
			if names := yamlField(yamlField(feature, "class_label"), "names"); names != nil {
				return names
			}
		}
	}
	for _, child := range n.Content {
		if names := findClassLabel(child, label); names != nil {
			return names
		}
	}
	return nil
}

// yamlField returns the value of a key of a mapping, or nil if there is none.
func yamlField(n *yaml.Node, key string) *yaml.Node {
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

// classLabelNames returns the class names in a YAML mapping from class ids to names. The ids must
// be 0, 1, 2, …, in this order.
func classLabelNames(n *yaml.Node, label string) ([]string, error) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return nil, fmt.Errorf("the names of column %s are not a mapping from class ids to names", label)
	}
	var names []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if id, err := strconv.Atoi(key.Value); err != nil || id != len(names) || value.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("the names of column %s, line %d: found %q, expected class %d and its name",
				label, key.Line+1, abbreviate(key.Value+": "+value.Value), len(names))
		}
		names = append(names, value.Value)
	}
	return names, distinctNames(names, "the names of column "+label)
}
