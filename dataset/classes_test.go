package dataset

import (
	"reflect"
	"strings"
	"testing"
)

func TestMatchClasses(t *testing.T) {
	list := func(names string) []string { return strings.Fields(names) }
	named := func(names string) Head { return Head{Names: list(names), Rows: len(list(names))} }
	subset := func(names string) Head { return Head{list(names), len(list(names)), true} }
	for name, c := range map[string]struct {
		classes string
		head    Head
		want    []int
		errors  []string // parts of the error
	}{
		"same order":           {"ant cow", named("ant cow"), []int{0, 1}, nil},
		"other order":          {"ant cow mouse zebra", named("zebra ant mouse cow"), []int{1, 3, 2, 0}, nil},
		"numbers as names":     {"0 1 2", named("2 0 1"), []int{1, 2, 0}, nil},
		"unknown class":        {"ant cow", named("ant bee"), nil, []string{`head has no class "cow"`, `data set has no class "bee"`}},
		"absent class":         {"ant", named("ant cow"), nil, []string{`data set has no class "cow"`}},
		"subset":               {"cow", subset("ant cow"), []int{1}, nil},
		"unknown in a subset":  {"dog", subset("ant cow"), nil, []string{`head has no class "dog"`}},
		"many":                 {"a b c d e f g", named("x"), nil, []string{`"a", "b", "c", "d", "e" and 2 more`, `"x"`}},
		"case":                 {"Ant", named("ant"), nil, []string{`"Ant"`}},
		"named twice":          {"crane ox", named("crane ox crane"), nil, []string{`"crane"`}},
		"another named twice":  {"ox", subset("crane ox crane"), []int{1}, nil},
		"numbers in one order": {"0 1 2", Head{Rows: 3}, []int{0, 1, 2}, nil},
		"numbers sorted":       {"0 1 10 11 2 3 4 5 6 7 8 9", Head{Rows: 12}, []int{0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9}, nil},
		"numbers with zeros":   {"00 01 02", Head{Rows: 3}, []int{0, 1, 2}, nil},
		"numbers from 1":       {"1 2 3", Head{Rows: 3}, nil, []string{`"3"`, "0 to 2", "id2label"}},
		"one number twice":     {"0 00 1", Head{Rows: 3}, nil, []string{`"00"`}},
		"a sign":               {"0 +1", Head{Rows: 2}, nil, []string{`"+1"`}},
		"too few numbers":      {"0 2", Head{Rows: 3}, nil, []string{"none is 1"}},
		"too many numbers":     {"0 1 2", Head{Rows: 2}, nil, []string{`"2"`}},
		"text without names":   {"ant cow", Head{Rows: 2}, nil, []string{`"ant"`, "without names"}},
		"large number":         {"0 99999999999999999999", Head{Rows: 2}, nil, []string{"99999"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := MatchClasses(list(c.classes), c.head)
			if (err != nil) != (c.errors != nil) || !reflect.DeepEqual(got, c.want) {
				t.Fatalf("found %v, error %v, want %v", got, err, c.want)
			}
			for _, part := range c.errors {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

// pair is a target of two classes. Without a method MapClasses its class ids cannot be replaced.
type pair [2]int

func (pair) Check(int) error  { return nil }
func (pair) Stratum() int     { return -1 }
func (p pair) String() string { return Class(p[0]).String() + "," + Class(p[1]).String() }

type mappedPair struct{ pair }

func (p mappedPair) MapClasses(rows []int) Target {
	return mappedPair{pair{rows[p.pair[0]], rows[p.pair[1]]}}
}

func TestForHead(t *testing.T) {
	open := func(targets ...Target) *Dataset {
		var samples []Sample
		for _, target := range targets {
			samples = append(samples, Sample{Image: &RGB{Width: 1, Height: 1, Pix: make([]uint8, 3)}, Target: target})
		}
		d, err := New("animals", []string{"ant", "cow", "dog"}, samples, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	head := Head{Names: []string{"dog", "ant", "cow"}, Rows: 3}
	d := open(Class(0), Class(1), Class(2), mappedPair{pair{0, 2}})
	mapped, err := d.ForHead(head)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range mapped.Train {
		got = append(got, s.Target.String())
	}
	if want := []string{"1", "2", "0", "1,0"}; !reflect.DeepEqual(got, want) || !reflect.DeepEqual(mapped.Classes, head.Names) {
		t.Errorf("targets %q of the classes %q, want %q", got, mapped.Classes, want)
	}
	if d.Train[0].Target != Class(0) || d.Classes[0] != "ant" {
		t.Error("the data set itself has changed")
	}
	if _, err := open(pair{0, 2}).ForHead(head); err == nil || !strings.Contains(err.Error(), "train[0]") {
		t.Errorf("a target that cannot be mapped: error %v", err)
	}
	if _, err := open(pair{0, 2}).ForHead(Head{Names: d.Classes, Rows: 3}); err != nil {
		t.Errorf("a target of the same classes: %v", err)
	}
}
