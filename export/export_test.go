package export

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/run"
)

// replace sets the table of formats for a test.
func replace(t *testing.T, rows []format) {
	t.Helper()
	before := formats
	formats = rows
	t.Cleanup(func() { formats = before })
}

// fake returns a format that writes a file of the given text, or fails without a text.
func fake(name, text string) format {
	return format{name: name, reader: "tests", check: func(*Classifier, Options) error { return nil },
		write: func(_ context.Context, _ *Classifier, o Options, dir string) (*Exported, error) {
			if text == "" {
				return nil, errors.New("the disk is full")
			}
			return &Exported{Difference: o.Bound}, os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o666)
		},
		load: func(_ *Classifier, dir string) string { return "load " + dir },
	}
}

func TestWrite(t *testing.T) {
	replace(t, []format{fake("a", "12345"), fake("b", "1"), fake("full", "")})
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	one, err := Write(t.Context(), &Classifier{}, []string{"a"}, out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if e := one[0]; e.Format != "a" || e.Dir != out || e.Bytes != 5 || e.Load != "load "+out || e.Difference != 1e-3 {
		t.Errorf("%+v", e)
	}
	if text, err := os.ReadFile(filepath.Join(out, "file")); string(text) != "12345" {
		t.Errorf("%q, error %v", text, err)
	}
	two := filepath.Join(dir, "two")
	all, err := Write(t.Context(), &Classifier{}, []string{"b", "a"}, two, Options{Half: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Dir != filepath.Join(two, "b") || all[1].Load != "load "+filepath.Join(two, "a") || all[0].Difference != HalfBound {
		t.Errorf("%+v %+v", all[0], all[1])
	}
	for want, names := range map[string][]string{"disk is full": {"a", "full"}, `"c" is unknown`: {"a", "c"}, "given twice": {"a", "a"}} {
		_, err := Write(t.Context(), &Classifier{}, names, filepath.Join(dir, "new"), Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v", names, err)
		}
	}
	_, err = Write(t.Context(), &Classifier{}, []string{"a"}, out, Options{})
	if o, ok := errors.AsType[*run.OptionError](err); !ok || o.Option != "out" {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("the folder has %v, error %v", left, err)
	}
}
