package dataset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChooseShards uses the layouts of repositories of data sets on the Hub.
func TestChooseShards(t *testing.T) {
	// as push_to_hub writes it
	real, err := os.ReadFile(filepath.Join(archiveData, "hub", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	pushed := "data/train-00000-of-00001.parquet data/validation-00000-of-00001.parquet data/test-00000-of-00001.parquet README.md"
	card := func(configs string) string { return "---\nlicense: mit\nconfigs:\n" + configs + "---\n# Title\n" }
	two := card("- config_name: small\n  data_files:\n  - split: train\n    path: small/train-*\n- config_name: large\n  data_files:\n  - split: train\n    path:\n    - large/a*.parquet\n    - large/b*.parquet\n  - split: extra\n    path: large/x.parquet\n")
	twoFiles := "small/train-0.parquet large/b1.parquet large/b0.parquet large/a.parquet large/x.parquet"
	for _, c := range []struct {
		name, files, card, config string
		want                      string // the configuration and the files, or a part of the error
	}{
		{"pushed", pushed, string(real), "", "default [data/train-00000-of-00001.parquet] [data/validation-00000-of-00001.parquet] [data/test-00000-of-00001.parquet] []"},
		{"by name", pushed, string(real), "default", "default [data/train-00000-of-00001.parquet] [data/validation-00000-of-00001.parquet] [data/test-00000-of-00001.parquet] []"},
		{"without a card", pushed, "", "", "default [data/train-00000-of-00001.parquet] [data/validation-00000-of-00001.parquet] [data/test-00000-of-00001.parquet] []"},
		{"at the top", "train.parquet test.parquet", "no front matter", "", "default [train.parquet] [] [test.parquet] []"},
		{"no such configuration", pushed, "", "other", `error: the data set has no configuration "other": name one of default`},
		{"several", twoFiles, two, "", "error: the data set has several configurations and no default: name one of small, large"},
		{"one of several", twoFiles, two, "large", "large [large/a.parquet large/b0.parquet large/b1.parquet] [] [] [extra]"},
		{"default by its field", twoFiles, strings.Replace(two, "- config_name: large", "- config_name: large\n  default: true", 1), "", "large [large/a.parquet large/b0.parquet large/b1.parquet] [] [] [extra]"},
		{"no useful split", twoFiles, card("- config_name: default\n  data_files:\n  - split: extra\n    path: large/*\n"), "", "error: the configuration default has no split of training"},
		{"one pattern", twoFiles, card("- data_files: large/*.parquet\n"), "", "default [large/a.parquet large/b0.parquet large/b1.parquet large/x.parquet] [] [] []"},
		{"deep pattern", "a/b/c/x.parquet a/y.parquet", card("- config_name: default\n  data_files: \"**/*.parquet\"\n"), "", "default [a/b/c/x.parquet a/y.parquet] [] [] []"},
		{"mapping", twoFiles, card("- config_name: default\n  data_files:\n    train: large/[ab]*\n    test: small/train-?.parquet\n"), "", "default [large/a.parquet large/b0.parquet large/b1.parquet] [] [small/train-0.parquet] []"},
		{"folder of data", "en/data/train-0.parquet en/data/test-0.parquet de/data/train-0.parquet", card("- config_name: en\n  data_dir: en\n- config_name: de\n  data_dir: de\n"), "en", "en [en/data/train-0.parquet] [] [en/data/test-0.parquet] []"},
		{"converted", "default/train/0000.parquet default/train/0001.parquet default/test/0000.parquet", "", "", "default [default/train/0000.parquet default/train/0001.parquet] [] [default/test/0000.parquet] []"},
		{"converted, several", "en/train/0000.parquet de/train/0000.parquet", "", "", "error: the data set has several configurations and no default: name one of de, en"},
		{"converted, one of several", "en/train/0000.parquet de/train/0000.parquet", "", "de", "de [de/train/0000.parquet] [] [] []"},
		{"converted in part", "default/partial-train/0000.parquet", "", "", "error: the Hub has converted only the first part of the configuration default"},
		{"no parquet", "train.zip README.md images/a.jpg", string(real), "", "error: there are no parquet files"},
		{"broken card", pushed, "---\na: [\n---\n", "", "error: reading README.md: the front matter is not YAML"},
		{"broken files", pushed, card("- data_files:\n  - split: train\n"), "", "error: reading README.md: the files of the configuration \"default\": line 5: expected the fields split and path"},
		{"path that leaves", "../x.parquet", "", "", `error: the name "../x.parquet" leaves the archive`},
	} {
		s, err := ChooseShards(strings.Fields(c.files), []byte(c.card), c.config)
		got := fmt.Sprintf("%s %v %v %v %v", s.Config, s.Train, s.Val, s.Test, s.Unread)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != c.want && !(err != nil && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
		if c.name == "no parquet" && !errors.Is(err, ErrNoParquet) {
			t.Errorf("%s: %v is not ErrNoParquet", c.name, err)
		}
	}
}

// TestOpenShards opens files of one configuration beside those of another.
func TestOpenShards(t *testing.T) {
	root := filepath.Join(archiveData, "hub")
	s := Shards{Config: "default", Train: []string{"data/train-00000-of-00001.parquet"}, Test: []string{"data/test-00000-of-00001.parquet"}, Unread: []string{"extra"}}
	d, err := OpenShards(t.Context(), root, "pets", s, OpenOptions{ValFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(d.Name, d.Classes, len(d.Train), len(d.Val), len(d.Test)) != "pets[blue green red] 12 0 3" || d.Layout != "parquet" || d.Split != "val none, test given; not read: extra" {
		t.Errorf("%s %q %d/%d/%d %s, split %q", d.Name, d.Classes, len(d.Train), len(d.Val), len(d.Test), d.Layout, d.Split)
	}
	if _, err := OpenShards(t.Context(), root, "pets", s, OpenOptions{Layout: "table"}); err == nil {
		t.Error("another layout is no error")
	}
	if err := CheckShard(filepath.Join(root, s.Train[0]), OpenOptions{}); err != nil {
		t.Error(err)
	}
	if err := CheckShard(filepath.Join(root, s.Train[0]), OpenOptions{LabelColumn: "breed"}); err == nil || !strings.Contains(err.Error(), "breed") {
		t.Errorf("no label column: %v", err)
	}
}
