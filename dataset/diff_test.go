package dataset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// openAll opens a folder without making splits.
func openAll(t *testing.T, root string) *Dataset {
	t.Helper()
	d, err := Open(t.Context(), root, OpenOptions{ValFraction: -1, TestFraction: -1, SkipBadImages: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ppm returns an image of one pixel. Equal numbers give equal images.
func ppm(n int) string { return "P6 1 1 255\n" + string([]byte{byte(n), byte(n >> 8), 7}) }

// lines returns the changes as texts.
func lines(d *Difference) (out []string) {
	for _, c := range d.Changes {
		text := string(c.Kind)
		for _, p := range []*ImagePlace{c.Before, c.After} {
			if p != nil {
				text += fmt.Sprintf(" %s:%s:%s", p.Path, p.Split, p.Class)
			}
		}
		out = append(out, text)
	}
	return out
}

// TestDiff checks every kind of change.
func TestDiff(t *testing.T) {
	before := tree{
		"train/cat/a.ppm": ppm(1), "train/cat/b.ppm": ppm(2), "train/cat/c.ppm": ppm(3), "train/cat/twin.ppm": ppm(1),
		"train/hound/a.ppm": ppm(4), "train/hound/b.ppm": ppm(5), "train/hound/c.ppm": ppm(6), "train/fox/a.ppm": ppm(7),
		"test/cat/t.ppm": ppm(8),
	}
	after := tree{
		"train/cat/a.ppm": ppm(1), "train/cat/b.ppm": ppm(20), "train/cat/renamed.ppm": ppm(3), "train/cat/twin.ppm": ppm(1),
		"train/dog/a.ppm": ppm(4), "train/dog/b.ppm": ppm(5), "train/dog/n.ppm": ppm(30), "train/owl/a.ppm": ppm(31),
		"test/cat/t.ppm": ppm(8), "test/cat/again.ppm": ppm(1),
	}
	a, b := openAll(t, before.write(t)), openAll(t, after.write(t))
	d, err := a.Diff(t.Context(), b, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"new test/cat/again.ppm:test:cat",
		"new train/dog/n.ppm:train:dog",
		"new train/owl/a.ppm:train:owl",
		"gone train/fox/a.ppm:train:fox",
		"gone train/hound/c.ppm:train:hound",
		"changed train/cat/b.ppm:train:cat train/cat/b.ppm:train:cat",
		"moved train/cat/c.ppm:train:cat train/cat/renamed.ppm:train:cat",
		"moved train/hound/a.ppm:train:hound train/dog/a.ppm:train:dog",
		"moved train/hound/b.ppm:train:hound train/dog/b.ppm:train:dog",
	}
	if got := lines(d); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := fmt.Sprint(d.Same, d.NewClasses, d.GoneClasses, d.Renamed); got != "3 [owl] [fox] [{hound dog 2}]" {
		t.Errorf("same images and classes: %s", got)
	}
	parts := map[string]string{}
	for _, p := range d.Parts {
		parts[p.Split+"/"+p.Class] = fmt.Sprint(p.Before, p.After, p.Changes)
	}
	for part, want := range map[string]string{"train/cat": "4 4 map[changed:1 moved:1]", "train/fox": "1 0 map[gone:1]", "train/dog": "0 3 map[moved:2 new:1]", "train/hound": "3 0 map[gone:1]", "test/cat": "1 2 map[new:1]"} {
		if parts[part] != want {
			t.Errorf("%s: %s, want %s", part, parts[part], want)
		}
	}
	if len(parts) != 6 {
		t.Errorf("parts %v", parts)
	}
	none, err := a.Diff(t.Context(), a, 1, nil)
	if err != nil || !none.Empty() || none.Same != 9 || none.Count(ImageNew) != 0 {
		t.Errorf("a data set differs from itself: %+v, %v", none, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Diff(ctx, b, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
}

// TestDiffTables checks labels and splits that change in a list, and images without names.
func TestDiffTables(t *testing.T) {
	files := tree{"a.ppm": ppm(1), "b.ppm": ppm(2), "c.ppm": ppm(3)}
	of := func(csv string) *Dataset { return openAll(t, files.with(tree{"metadata.csv": csv}).write(t)) }
	a, b := of("file_name,label,split\na.ppm,x,train\nb.ppm,y,train\nc.ppm,y,test\n"), of("file_name,label,split\na.ppm,y,train\nb.ppm,y,train\nc.ppm,y,train\n")
	d, err := a.Diff(t.Context(), b, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := lines(d); fmt.Sprint(got) != "[relabelled a.ppm:train:x a.ppm:train:y relabelled c.ppm:test:y c.ppm:train:y]" || d.Same != 1 || fmt.Sprint(d.GoneClasses) != "[x]" {
		t.Errorf("found %v, %d same, gone %v", got, d.Same, d.GoneClasses)
	}
	hub := parquetData + "/hub"
	p, q := openAll(t, hub), openAll(t, hub)
	q.Train = slices.Clone(q.Train[1:]) // each row has another number
	if d, err = p.Diff(t.Context(), q, 0, nil); err != nil || d.Count(ImageGone) != 1 || len(d.Changes) != 1 {
		t.Errorf("parquet: %v, %v", lines(d), err)
	}
}

// TestDiffAgainstNaive compares random data sets with a comparison of all pairs.
func TestDiffAgainstNaive(t *testing.T) {
	for n := range 12 {
		rng := rand.New(rand.NewPCG(8, uint64(n)))
		random := func() tree {
			files := tree{"train/k0/first.ppm": ppm(99), "train/k1/first.ppm": ppm(98)}
			for range 3 + rng.IntN(20) {
				split := []string{"train", "test"}[rng.IntN(2)]
				text := ppm(rng.IntN(12))
				if rng.IntN(2) == 0 {
					text = strings.Replace(text, "255", " 255", 1) // another size
				}
				files[fmt.Sprintf("%s/k%d/%d.ppm", split, rng.IntN(2), rng.IntN(15))] = text
			}
			return files
		}
		a, b := random(), random()
		for range rng.IntN(10) { // some images are the same
			if name := slices.Sorted(maps.Keys(a)); len(name) > 0 {
				p := name[rng.IntN(len(name))]
				b[p] = a[p]
			}
		}
		d, err := openAll(t, a.write(t)).Diff(t.Context(), openAll(t, b.write(t)), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[ChangeKind]int{}
		same := 0
		left := map[string]int{} // contents of a without the same path in b
		for path, text := range a {
			switch other, ok := b[path]; {
			case !ok:
				left[text]++
			case other == text:
				same++
			default:
				want[ImageChanged]++
			}
		}
		for path, text := range b {
			if _, ok := a[path]; ok {
				continue
			}
			if left[text] > 0 {
				left[text]--
				want[ImageMoved]++
			} else {
				want[ImageNew]++
			}
		}
		for _, n := range left {
			want[ImageGone] += n
		}
		for _, kind := range ChangeKinds() {
			if d.Count(kind) != want[kind] {
				t.Errorf("data set %d: %d %s, want %d", n, d.Count(kind), kind, want[kind])
			}
		}
		if d.Same != same {
			t.Errorf("data set %d: %d same, want %d", n, d.Same, same)
		}
	}
}
