package evaluate

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestRanked compares the most probable classes with a stable sort of all classes. The logits have
// few values, so many are equal.
func TestRanked(t *testing.T) {
	for _, c := range readReference(t).Cases {
		if c.Images > 500 {
			continue
		}
		p := c.generate(t)
		for _, k := range []int{1, 2, 5, 100} {
			for i, r := range p.Ranked(k, 0.7) {
				order := make([]int, c.Classes)
				for c := range order {
					order[c] = c
				}
				row := p.row(i, nil)
				slices.SortStableFunc(order, func(a, b int) int { return int(math.Copysign(1, float64(row[b]-row[a]))) * btoi(row[a] != row[b]) })
				probabilities := p.Probabilities(i, 0.7, nil)
				var want []ClassProbability
				for _, c := range order[:min(k, len(order))] {
					want = append(want, ClassProbability{c, probabilities[c]})
				}
				if !slices.Equal(r.Top, want) || r.Top[0].Class != p.Predicted(i) || r.TargetProbability != probabilities[p.Targets[i]] || r.Correct() != (p.Predicted(i) == r.Target) {
					t.Fatalf("%s, image %d, k = %d: found %+v, want %v", c.Name, i, k, r, want)
				}
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestSelections(t *testing.T) {
	ranked := func(path string, target, class int, confidence float64) Ranked {
		return Ranked{Path: path, Target: target, Top: []ClassProbability{{class, confidence}}}
	}
	all := []Ranked{ranked("a", 0, 0, .9), ranked("b", 0, 1, .7), ranked("c", Unknown, 1, .4), ranked("d", 1, 0, .8), ranked("e", 1, 0, .5)}
	names := func(all []Ranked) (s string) {
		for _, r := range all {
			s += r.Path
		}
		return s
	}
	if a, b := names(MostConfidentlyWrong(all, 2)), names(MostConfidentlyWrong(all, 9)); a != "db" || b != "dbe" {
		t.Errorf("confidently wrong are %s and %s", a, b)
	}
	if a, b := names(LeastConfident(all, 3)), names(all); a != "ceb" || b != "abcde" {
		t.Errorf("least confident are %s of %s", a, b)
	}
}

// TestRankedFile checks that a file holds ranked predictions with the precision of float32, also
// with paths and names that are not UTF-8, and that a second file has the same bytes.
func TestRankedFile(t *testing.T) {
	p := &Predictions{Classes: []string{"cät", "<dog>\n", "\xff", ""}}
	paths := []string{"a \"b\"\n.png", "\xff.png", "\xfe.png", `\xff.png`, "<ü>.png"}
	if err := p.Add(paths, []int32{0, 1, Unknown, 3, 2}, []float32{1, 2, 3, 4, 100, 0, 0, 0, 1e4, 0, 1, 1, 0, 0, 0, 0, 3, 1, 4, 1}); err != nil {
		t.Fatal(err)
	}
	ranked := p.Ranked(3, 1)
	path := filepath.Join(t.TempDir(), "predictions.jsonl")
	if err := SaveRanked(path, p.Classes, ranked); err != nil {
		t.Fatal(err)
	}
	classes, got, err := LoadRanked(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"cät", "<dog>\n", `\xff`, ""}; !slices.Equal(classes, want) || len(got) != len(paths) {
		t.Errorf("classes %q, %d images", classes, len(got))
	}
	close := func(a, b float64) bool { return math.Abs(a-b) <= 1e-7*b+1e-44 }
	for i, r := range got {
		want := ranked[i]
		if r.Path != paths[i] || r.Target != want.Target || len(r.Top) != 3 || !close(r.TargetProbability, want.TargetProbability) {
			t.Errorf("found %+v, want %+v", r, want)
		}
		for j, top := range r.Top {
			if top.Class != want.Top[j].Class || !close(top.Probability, want.Top[j].Probability) {
				t.Errorf("image %d: found %+v, want %+v", i, r, want)
			}
		}
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveRanked(path, classes, got); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, first) {
		t.Errorf("%v, the second file differs:\n%s\n%s", err, first, again)
	}
	if _, _, err := LoadRanked(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := SaveRanked(path, p.Classes[:3], ranked); err == nil || !strings.Contains(err.Error(), "it ranks class 3, expected 0 to 2") {
		t.Errorf("too few names: %v", err)
	}
}

const (
	validHead = `{"kind":"predictions","version":1,"images":1,"classes":["x","y"]}` + "\n"
	validLine = `{"path":"a","target":1,"target_probability":0.25,"classes":[0,1],"probabilities":[0.75,0.25]}` + "\n"
)

// TestRankedErrors changes a valid file and checks the errors.
func TestRankedErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "predictions.jsonl")
	load := func(content string) error {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadRanked(path)
		return err
	}
	if err := load(validHead + validLine); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ old, new, want string }{
		{`"predictions"`, `"epoch"`, `line 1: the kind is "epoch", expected "predictions"`},
		{`"version":1`, `"version":2`, "line 1: the file has version 2"},
		{`"classes":["x","y"]`, `"classes":[]`, `line 1: field "classes" is missing or empty`},
		{`"images":1`, `"images":2`, "found 1 images, but line 1 says 2"},
		{`"target":1`, `"target":2`, "line 2: the target is 2, expected 0 to 1"},
		{`"target":1`, `"target":-1`, "line 2: the target is -1, expected 0 to 1"},
		{`"target":1,`, ``, `line 2: found one of the fields "target" and "target_probability"`},
		{`"target":1`, `"target":1.5`, `line 2: field "target": found the number 1.5, expected a whole number`},
		{`"path":"a",`, ``, `line 2: expected one of the fields "path" and "path_base64"`},
		{`"path":"a"`, `"path":"a","path_base64":"YQ=="`, `line 2: expected one of the fields`},
		{`"path":"a"`, "\"path\":\"\xff\"", "line 2: the line is not UTF-8"},
		{`[0,1]`, `[0]`, "line 2: found 1 classes and 2 probabilities"},
		{`[0,1]`, `[1,1]`, "line 2: it ranks class 1 twice"},
		{`[0,1]`, `[0,2]`, "line 2: it ranks class 2, expected 0 to 1"},
		{`[0,1]`, `[0,-1]`, "line 2: it ranks class -1, expected 0 to 1"},
		{`[0.75,0.25]`, `[0.25,0.75]`, "line 2: probability 0.75 follows 0.25"},
		{`[0.75,0.25]`, `[1.75,0.25]`, "line 2: found the probability 1.75"},
		{`[0.75,0.25]`, `[0.75,-0.25]`, "line 2: found the probability -0.25"},
		{`"target_probability":0.25`, `"target_probability":2`, "line 2: found the probability 2"},
		{`"classes":[0,1],"probabilities":[0.75,0.25]`, `"classes":[],"probabilities":[]`, "line 2: it ranks 0 classes, expected 1 to 2"},
		{`0.25]}`, `0.25]} {}`, "line 2: broken JSON"},
		{`0.25]}` + "\n", `0.2`, "line 2: broken JSON"},
		{validLine, validLine + validLine, "found 2 images, but line 1 says 1"},
		{validLine, "\n" + validLine, "line 2: broken JSON"},
		{validHead + validLine, "", "the file is empty"},
		{validHead, "", "line 1: the kind is"},
	} {
		content := strings.Replace(validHead+validLine, test.old, test.new, 1)
		if content == validHead+validLine {
			t.Fatalf("%q is not in the file", test.old)
		}
		if err := load(content); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v, want %q", test.new, err, test.want)
		}
	}
}

// FuzzDecodeRanked checks that a file is refused, or that it can be written and read again.
func FuzzDecodeRanked(f *testing.F) {
	f.Add([]byte(validHead + validLine))
	f.Add([]byte(`{"kind":"predictions","version":1,"images":2,"classes":["x"]}` + "\n" +
		`{"path_base64":"/w==","classes":[0],"probabilities":[1e-3]}` + "\n" + `{"path":"b","target":0,"target_probability":1,"classes":[0],"probabilities":[1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		classes, all, err := decodeRanked(data)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "predictions.jsonl")
		if err := SaveRanked(path, classes, all); err != nil {
			t.Fatal(err)
		}
		_, first, err := LoadRanked(path)
		if err != nil || len(first) != len(all) {
			t.Fatalf("found %d images, %v, want %d", len(first), err, len(all))
		}
		if err := SaveRanked(path, classes, first); err != nil {
			t.Fatal(err)
		}
		againClasses, again, err := LoadRanked(path)
		if err != nil || !slices.Equal(againClasses, classes) || !reflect.DeepEqual(again, first) {
			t.Fatalf("found %v, %v, want %v", again, err, first)
		}
	})
}
