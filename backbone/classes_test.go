package backbone_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// TestReadClasses reads the names of a head of four rows. The configurations of timm and
// transformers were written by these programs; see testdata/classes/make.py.
func TestReadClasses(t *testing.T) {
	written := func(name string) string {
		text, err := os.ReadFile(filepath.Join("testdata", "classes", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	names := []string{"zebra", "ant", "mouse", "cow"}
	for name, c := range map[string]struct {
		metadata map[string]string
		config   string // text of config.json
		want     []string
		errors   []string // parts of the error
	}{
		"transformers":    {nil, written("transformers.json"), names, nil},
		"timm":            {nil, written("timm.json"), names, nil},
		"pretrained_cfg":  {nil, `{"pretrained_cfg": {"label_names": ["zebra", "ant", "mouse", "cow"]}}`, names, nil},
		"metadata":        {map[string]string{"spt_classes": `["d","c","b","a"]`}, written("timm.json"), []string{"d", "c", "b", "a"}, nil},
		"none":            {nil, "", nil, nil},
		"a mark":          {nil, "\ufeff" + written("timm.json"), names, nil},
		"not an object":   {nil, `["a", "b"]`, nil, nil},
		"null":            {nil, `{"id2label": null, "label_names": null, "pretrained_cfg": 3}`, nil, nil},
		"no names":        {nil, `{"num_attention_heads": 2}`, nil, nil},
		"placeholders":    {nil, `{"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2", "3": "LABEL_3"}}`, nil, nil},
		"numbers":         {nil, `{"id2label": {"0": 7, "1": 5, "2": 10, "3": 1}}`, []string{"7", "5", "10", "1"}, nil},
		"ten rows":        {nil, `{"id2label": {"0":"j","1":"i","2":"h","3":"g","4":"f","5":"e","6":"d","7":"c","8":"b","10":"a"}}`, nil, []string{"config.json", "no name for row 9"}},
		"too few":         {nil, `{"id2label": {"0": "a", "1": "b"}}`, nil, []string{"config.json", "2 class names", "4 rows"}},
		"too few of timm": {nil, `{"label_names": ["a"]}`, nil, []string{"config.json", "1 class names", "4 rows"}},
		"other type":      {nil, `{"id2label": {"0": ["a"], "1": "b"}}`, nil, []string{"config.json", "row 0"}},
		"a list":          {nil, `{"id2label": ["a", "b", "c", "d"]}`, nil, []string{"config.json", "id2label", "list"}},
		"bad metadata":    {map[string]string{"spt_classes": `{"a":1}`}, "", nil, []string{"spt_classes", "JSON list"}},
		"short metadata":  {map[string]string{"spt_classes": `["a","b"]`}, "", nil, []string{"spt_classes", "2 class names", "4 rows"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "model.safetensors")
			if err := checkpoint.Save(path, []checkpoint.Entry{{Name: "w", DType: checkpoint.F32, Shape: []int{1}, Data: []float32{0}}}, c.metadata); err != nil {
				t.Fatal(err)
			}
			if c.config != "" {
				if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c.config), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			f, err := checkpoint.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := backbone.ReadClasses(f, 4)
			if (err != nil) != (c.errors != nil) || !reflect.DeepEqual(got.Names, c.want) {
				t.Fatalf("found %q, error %v, want %q", got.Names, err, c.want)
			}
			for _, part := range c.errors {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}
