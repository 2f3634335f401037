package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestFrontMatterClassNames(t *testing.T) {
	const head = "---\nlicense: mit\ndataset_info:\n"
	nested := func(indent string) string {
		return strings.ReplaceAll("features:\n- name: image\n  dtype: image\n- name: label\n  dtype:\n    class_label:\n      names:\n        '0': cat\n        '1': \"dog: big\"\n", "\n", "\n"+indent)
	}
	var longText strings.Builder
	longText.WriteString("---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n")
	for i := range 21841 {
		fmt.Fprintf(&longText, "          '%d': n%08d, a class of ImageNet-21k with a name\n", i, i)
	}
	long := longText.String()
	for _, c := range []struct {
		name, text string
		want       string // %q of the names
		err        string
		config     string
	}{
		{name: "no front matter", text: "# A data set\n", want: "[]"},
		{name: "no end", text: head + "  " + nested("  "), want: "[]"},
		{name: "as written now", text: head + "  " + nested("  ") + "\n---\nText\n", want: `["cat" "dog: big"]`},
		{name: "line ends of Windows", text: strings.ReplaceAll(head+"  "+nested("  ")+"\n---\n", "\n", "\r\n"), want: `["cat" "dog: big"]`},
		{name: "several configurations", text: head + "- config_name: a\n  " + nested("  ") + "\n- config_name: b\n  features: []\n---\n", want: `["cat" "dog: big"]`},
		{name: "the second configuration", config: "b", text: head + "- config_name: a\n  " + nested("  ") + "\n- config_name: b\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names: {0: owl}\n---\n", want: `["owl"]`},
		{name: "no such configuration", config: "c", text: head + "- config_name: a\n  " + nested("  ") + "\n---\n", want: "[]"},
		{name: "one configuration", config: "a", text: head + "  config_name: a\n  " + nested("  ") + "\n---\n", want: `["cat" "dog: big"]`},
		{name: "as written before", text: head + "  features:\n  - name: label\n    class_label:\n      names: {0: no, 1: 'yes'}\n---\n", want: `["no" "yes"]`},
		{name: "another feature", text: head + "  features:\n  - name: other\n    class_label:\n      names: {0: no}\n  - name: label\n    dtype: int64\n---\n", want: "[]"},
		{name: "ImageNet-21k", text: long + "---\n", want: ""},
		{name: "not YAML", text: "---\na: [\n---\n", err: "the front matter is not YAML: "},
		{name: "names in a list", text: head + "  features:\n  - name: label\n    class_label:\n      names: [a, b]\n---\n", err: "not a mapping from class ids to names"},
		{name: "a gap", text: head + "  features:\n  - name: label\n    class_label:\n      names: {0: a, 2: b}\n---\n", err: `line 7: found "2: b", expected class 1`},
		{name: "a name that is a list", text: head + "  features:\n  - name: label\n    class_label:\n      names: {0: [a]}\n---\n", err: "expected class 0 and its name"},
		{name: "one name twice", text: head + "  features:\n  - name: label\n    class_label:\n      names: {0: a, 1: a}\n---\n", err: "classes 0 and 1 are both named"},
		{name: "aliases", text: "---\na: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n---\n", want: "[]"},
		{name: "an alias of itself", text: "---\n- &a\n  name: label\n  dtype: *a\n---\n", want: "[]"},
		{name: "too deep", text: "---\n" + strings.Repeat("[", 20_000) + "\n---\n", err: "not YAML"},
	} {
		names, err := frontMatterClassNames([]byte(c.text), c.config, "label")
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want one with %q", c.name, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "" && len(names) != 21841, c.want != "" && fmt.Sprintf("%q", names) != c.want:
			t.Errorf("%s: %.100q, want %s", c.name, names, c.want)
		}
	}

	// The file may be longer than the limit, but its front matter may not.
	root := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, "README.md"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(long + "---\n" + strings.Repeat("word ", maxFrontMatter/5))
	if names, err := readmeClassNames(disk{}, root, "", "label"); err != nil || len(names) != 21841 {
		t.Errorf("a long file: %d names, %v", len(names), err)
	}
	write("---\n" + strings.Repeat("a: b\n", maxFrontMatter/5))
	if names, err := readmeClassNames(disk{}, root, "", "label"); err == nil || !strings.Contains(err.Error(), "does not end within the limit") {
		t.Errorf("a long front matter: %d names, %v", len(names), err)
	}
	write("\xff\xfe-\x00-\x00-\x00")
	if _, err := readmeClassNames(disk{}, root, "", "label"); err == nil || !strings.Contains(err.Error(), "UTF-16") {
		t.Errorf("UTF-16: %v", err)
	}
	if names, err := readmeClassNames(disk{}, t.TempDir(), "", "label"); names != nil || err != nil {
		t.Errorf("no file: %q, %v", names, err)
	}
}

// FuzzFrontMatter checks that any text gives distinct names or an error, with limited memory.
func FuzzFrontMatter(f *testing.F) {
	text, err := os.ReadFile(filepath.Join(parquetData, "readme", "README.md"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("---\n- name: label\n  class_label:\n    names:\n     '0': \"a\\n\"\n---\n"))
	f.Add([]byte("---\n- &a {name: label, dtype: *a}\n- *a\n---\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		names, err := frontMatterClassNames(text, "", "label")
		_, _ = frontMatterClassNames(text, "a", "label")
		runtime.ReadMemStats(&after)
		if err == nil && distinctNames(names, "") != nil {
			t.Errorf("two classes have one name: %q", names)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 16<<20+uint64(400*len(text)) {
			t.Errorf("%d bytes were allocated for a text of %d", allocated, len(text))
		}
	})
}
