package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Shards names the parquet files of one configuration of a data set. Paths are relative to the root
// of the data set, with slashes.
type Shards struct {
	// Config is the name of the configuration. It is "" if the data set names none.
	Config string
	// Train, Val and Test are the files of the splits, in the order of their rows.
	Train, Val, Test []string
	// Unread holds the names of splits that are not read.
	Unread []string
}

// Files returns all files, in the order train, val, test.
func (s Shards) Files() []string { return slices.Concat(s.Train, s.Val, s.Test) }

// ErrNoParquet is the error of [ChooseShards] for a data set without parquet files.
var ErrNoParquet = errors.New("there are no parquet files")

// defaultConfig is the name of a configuration that the datasets library takes if none is given.
const defaultConfig = "default"

// ChooseShards returns the parquet files of a configuration of a data set on the Hugging Face Hub.
// files lists all files of the data set. card is the text of its README.md, whose YAML may list the
// configurations and their files; it may be nil. Without such a list, the files lie in data, in the
// top folder or in train, validation and test, or in a folder for each configuration.
//
// config is the name of the configuration. With "", ChooseShards takes the only one or the default
// one. If there are several and none is the default, and if there is none of the given name, the
// error lists them all. Without parquet files the error is [ErrNoParquet].
func ChooseShards(files []string, card []byte, config string) (Shards, error) {
	configs, err := cardConfigs(card)
	if err != nil {
		return Shards{}, fmt.Errorf("reading README.md: %w", err)
	}
	at, err := newListing(files)
	if err != nil {
		return Shards{}, err
	}
	if configs == nil {
		if configs, err = at.folderConfigs(); err != nil {
			return Shards{}, err
		}
	}
	var names []string
	found := map[string]Shards{}
	usual := ""
	for _, c := range configs {
		s, err := at.shards(c)
		if err != nil {
			return Shards{}, err
		}
		if len(s.Files()) == 0 && s.Unread == nil {
			continue
		}
		names = append(names, c.name)
		found[c.name] = s
		if c.usual || usual == "" && c.name == defaultConfig {
			usual = c.name
		}
	}
	if names == nil {
		return Shards{}, ErrNoParquet
	}
	if config == "" && len(names) == 1 {
		usual = names[0]
	}
	if config == "" {
		config = usual
	}
	s, ok := found[config]
	switch {
	case config == "":
		return Shards{}, fmt.Errorf("the data set has several configurations and no default: name one of %s", abbreviateList(names))
	case !ok:
		return Shards{}, fmt.Errorf("the data set has no configuration %q: name one of %s", abbreviate(config), abbreviateList(names))
	case len(s.Files()) == 0:
		return Shards{}, fmt.Errorf("the configuration %s has no split of training, validation or test images, but %s", config, strings.Join(s.Unread, ", "))
	}
	return s, nil
}

// OpenShards opens the parquet files of a data set below the folder root, as [Open] opens a folder
// of the layout parquet. name is the value of Dataset.Name.
func OpenShards(ctx context.Context, root, name string, s Shards, o OpenOptions) (*Dataset, error) {
	if o.Layout != "" && o.Layout != LayoutParquet {
		return nil, fmt.Errorf("opening data set %s: it consists of parquet files, so the layout is %s, not %s", name, LayoutParquet, o.Layout)
	}
	src := source{OpenOptions: o, at: disk{}, root: root, name: name, shards: &parquetSet{config: s.Config, unread: s.Unread}}
	src.Layout = LayoutParquet
	for i, files := range [][]string{s.Train, s.Val, s.Test} {
		for _, f := range files {
			src.shards.files[i] = append(src.shards.files[i], filepath.Join(root, filepath.FromSlash(f)))
		}
	}
	d, err := src.open(ctx, root, nil)
	if err != nil {
		return nil, fmt.Errorf("opening data set %s: %w", name, err)
	}
	o.Progress = nil
	d.Options = o
	return d, nil
}

// CheckShard returns an error if the parquet file at path has no column of images or no column of
// labels. It reads only the footer of the file.
func CheckShard(path string, o OpenOptions) error {
	p, err := openParquet(disk{}, path, filepath.Base(path), minImageBytes, 1000)
	if err != nil {
		return err
	}
	all, err := p.columnsAndLists()
	if err == nil {
		_, err = p.imageColumn(withoutLists(all), o.ImageColumn)
	}
	if err == nil {
		_, err = p.labelColumn(all, o.LabelColumn)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// shardConfig is a configuration of a data set.
type shardConfig struct {
	name  string
	usual bool // the card says that it is the default

	// splits holds patterns of files, by the name of a split in the order of the card. Nil means
	// the files in folder and in its folders data, train, validation and test.
	splits []shardSplit
	folder string
}

type shardSplit struct {
	name     string
	patterns []string
}

// cardConfigs returns the configurations that the YAML of a card lists, or nil if it lists none.
func cardConfigs(card []byte) ([]shardConfig, error) {
	head, err := frontMatter(card)
	if err != nil || head == nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(head, &document); err != nil {
		return nil, fmt.Errorf("the front matter is not YAML: %w", err)
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	list := yamlField(document.Content[0], "configs")
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil, nil
	}
	var configs []shardConfig
	for _, n := range list.Content {
		c := shardConfig{name: defaultConfig}
		if name := yamlField(n, "config_name"); name != nil {
			c.name = name.Value
		}
		if usual := yamlField(n, "default"); usual != nil {
			c.usual = usual.Value == "true"
		}
		if dir := yamlField(n, "data_dir"); dir != nil {
			c.folder = strings.Trim(dir.Value, "/")
		}
		if c.splits, err = dataFiles(yamlField(n, "data_files"), c.folder); err != nil {
			return nil, fmt.Errorf("the files of the configuration %q: %w", abbreviate(c.name), err)
		}
		configs = append(configs, c)
	}
	return configs, nil
}

// dataFiles returns the patterns of a node data_files, which has one of these forms: a pattern, a
// list of patterns, a list of splits with the fields split and path, or a mapping from splits to
// patterns. Patterns without a split are of training images. They are relative to folder.
func dataFiles(n *yaml.Node, folder string) (splits []shardSplit, err error) {
	add := func(name string, paths *yaml.Node) error {
		var patterns []string
		if err := paths.Decode(&patterns); err != nil {
			var one string
			if err := paths.Decode(&one); err != nil {
				return fmt.Errorf("line %d: expected a pattern or a list of patterns", paths.Line+1)
			}
			patterns = []string{one}
		}
		for i, p := range patterns {
			patterns[i] = path.Join(folder, p)
		}
		splits = append(splits, shardSplit{name, patterns})
		return nil
	}
	switch {
	case n == nil:
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := add(n.Content[i].Value, n.Content[i+1]); err != nil {
				return nil, err
			}
		}
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode:
		for _, item := range n.Content {
			name, paths := yamlField(item, "split"), yamlField(item, "path")
			if name == nil || paths == nil {
				return nil, fmt.Errorf("line %d: expected the fields split and path", item.Line+1)
			}
			if err := add(name.Value, paths); err != nil {
				return nil, err
			}
		}
	default:
		return splits, add("train", n)
	}
	return splits, err
}

// listing gives access to the names of the files of a data set whose contents are elsewhere.
type listing struct {
	*archive
	files []string // the parquet files, sorted
}

// newListing returns the listing of files, whose paths have slashes.
func newListing(files []string) (*listing, error) {
	x := newIndex(&container{given: string(filepath.Separator)}, -1)
	l := &listing{archive: x.archive}
	for _, f := range slices.Sorted(slices.Values(files)) {
		if !strings.HasSuffix(f, parquetName) {
			continue
		}
		if _, err := x.add(f, false); err != nil {
			return nil, err
		}
		l.files = append(l.files, f)
	}
	x.sort()
	return l, nil
}

// folderConfigs returns the configurations of a data set whose card lists none: the default one, or
// one for each folder. The files that the Hub converts lie in such folders.
func (l *listing) folderConfigs() ([]shardConfig, error) {
	plain := shardConfig{name: defaultConfig}
	if s, err := l.shards(plain); err != nil || len(s.Files()) > 0 || s.Unread != nil {
		return []shardConfig{plain}, err
	}
	var configs []shardConfig
	for _, m := range l.root.inside {
		if m.folder {
			configs = append(configs, shardConfig{name: m.name, folder: m.name})
		}
	}
	return configs, nil
}

// shards returns the files of a configuration.
func (l *listing) shards(c shardConfig) (Shards, error) {
	s := Shards{Config: c.name}
	files := [3]*[]string{&s.Train, &s.Val, &s.Test}
	if c.splits != nil {
		for _, split := range c.splits {
			var found []string
			for _, p := range split.patterns {
				match, err := filePattern(p)
				if err != nil {
					return s, err
				}
				for _, f := range l.files {
					if match.MatchString(f) && !slices.Contains(found, f) {
						found = append(found, f)
					}
				}
			}
			if i, ok := splitNames[strings.ToLower(split.name)]; ok {
				*files[i] = append(*files[i], found...)
			} else if found != nil {
				s.Unread = append(s.Unread, split.name)
			}
		}
		return s, nil
	}
	for _, folder := range []string{path.Join(c.folder, "data"), c.folder} {
		set, err := shardsIn(l, filepath.Join(l.given, filepath.FromSlash(folder)), parquetName)
		if err != nil {
			return s, err
		}
		if !set.any() {
			continue
		}
		for i, paths := range set.files {
			for _, p := range paths {
				*files[i] = append(*files[i], relative(l.given, p))
			}
		}
		s.Unread = set.unread
		return s, nil
	}
	for _, f := range l.files {
		if folder, ok := strings.CutPrefix(f, c.folder+"/"); ok && strings.HasPrefix(folder, "partial-") {
			return s, fmt.Errorf("the Hub has converted only the first part of the configuration %s to parquet (%s): download the data set, convert it, and give its folder", c.name, path.Dir(f))
		}
	}
	return s, nil
}

// filePattern returns the regular expression of a pattern of files. "*" and "?" do not match a
// slash, and "**" matches folders too.
func filePattern(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	for rest := pattern; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString("(?:.*/)?")
			rest = rest[3:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString("[^/]*")
			rest = rest[1:]
		case rest[0] == '?':
			b.WriteString("[^/]")
			rest = rest[1:]
		case rest[0] == '[' && strings.IndexByte(rest, ']') > 1:
			end := strings.IndexByte(rest, ']') + 1
			b.WriteString(strings.Replace(rest[:end], "[!", "[^", 1))
			rest = rest[end:]
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			rest = rest[1:]
		}
	}
	r, err := regexp.Compile("^" + b.String() + "$")
	if err != nil {
		return nil, fmt.Errorf("the pattern %q is not valid", abbreviate(pattern))
	}
	return r, nil
}

// frontMatter returns the YAML between two lines "---" at the beginning of a card, or nil if there
// is none.
func frontMatter(card []byte) ([]byte, error) {
	if len(card) > maxFrontMatter {
		card = card[:maxFrontMatter]
	}
	return cutFrontMatter(bytes.TrimPrefix(card, []byte("\xef\xbb\xbf")))
}
