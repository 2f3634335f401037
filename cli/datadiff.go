package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
)

func diffCommand(a *app) *cobra.Command {
	o := a.newOptions()
	c := &o.config.Data
	cmd := &cobra.Command{
		Annotations: under("data"),
		Use:         "diff BEFORE AFTER [flags]", Short: "Print how the images of two data sets differ",
		Long: `Compares two data sets, such as two versions of one, and prints which images are new, gone,
changed (the same path, other content), moved (the same content, another path) or relabelled
(the same image in another class or split), and which classes are new, gone or renamed. Paths
are those below the folders of the data sets. --per-class prints a line for each class of each
split.

The command compares the splits that the data sets have, and makes none. It reads the bytes of
images and decodes none. The exit code is 0 also if the data sets differ, because 1 stands for a
failure; --json tells programs what differs.`,
		Example: `  spt data diff leaves-2024 leaves-2025
  spt data diff old.csv new.csv --json`,
		Args: arguments(2, 2, "two data sets"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		p := a.reporter()
		defer p.close()
		var sets [2]*dataset.Dataset
		for i, path := range args {
			c := *c
			c.Path, c.SkipBadImages, c.NoTrain, c.ValFraction, c.TestFraction = path, true, true, -1, -1
			d, err := c.Open(ctx, p.event)
			if err != nil {
				return err
			}
			p.close() // the next output begins on a new line
			fmt.Fprint(a.notes(), facts{{[]string{"before", "after"}[i], describeData(d)}})
			sets[i] = d
		}
		d, err := sets[0].Diff(ctx, sets[1], 0, p.event)
		if err != nil {
			return err
		}
		p.close()
		if err := a.writeDiff(sets, d, o.perClass); err != nil {
			return err
		}
		for _, set := range sets {
			d.Unreadable = append(d.Unreadable, set.Skipped...)
		}
		if n := len(d.Unreadable); n > 0 {
			s := d.Unreadable[0]
			return &run.InputError{Err: fmt.Errorf("%s could not be compared, because they are missing or cannot be read; the first is %s (%s): %w", wording.Plural(n, "image"), s.Path, s.Where, s.Err)}
		}
		return nil
	})
	return cmd
}

// writeDiff prints how two data sets differ.
func (a *app) writeDiff(sets [2]*dataset.Dataset, d *dataset.Difference, perClass bool) error {
	if a.json {
		for _, c := range d.Changes {
			for _, p := range []*dataset.ImagePlace{c.Before, c.After} {
				if p != nil {
					p.Path = jsonfile.Text(p.Path)
				}
			}
		}
		counts := map[dataset.ChangeKind]int{}
		for _, kind := range dataset.ChangeKinds() {
			counts[kind] = d.Count(kind)
		}
		return a.writeJSON(struct {
			Before string                     `json:"before"`
			After  string                     `json:"after"`
			Equal  bool                       `json:"equal"`
			Counts map[dataset.ChangeKind]int `json:"counts"`
			*dataset.Difference
		}{sets[0].Root, sets[1].Root, d.Empty(), counts, d})
	}
	if d.Empty() {
		return a.write(fmt.Sprintf("\nno differences: %s\n", wording.Plural(d.Same, "image")))
	}
	kinds := dataset.ChangeKinds()
	text := "\n" + table(func(w io.Writer) {
		fmt.Fprint(w, "split\tbefore\tafter")
		for _, kind := range kinds {
			fmt.Fprintf(w, "\t%s", kind)
		}
		fmt.Fprintln(w)
		line := func(name string, p dataset.PartDifference) {
			fmt.Fprintf(w, "%s\t%d\t%d", name, p.Before, p.After)
			for _, kind := range kinds {
				fmt.Fprintf(w, "\t%d", p.Changes[kind])
			}
			fmt.Fprintln(w)
		}
		for i := 0; i < len(d.Parts); {
			sum := dataset.PartDifference{Split: d.Parts[i].Split, Changes: map[dataset.ChangeKind]int{}}
			from := i
			for ; i < len(d.Parts) && d.Parts[i].Split == sum.Split; i++ {
				sum.Before, sum.After = sum.Before+d.Parts[i].Before, sum.After+d.Parts[i].After
				for kind, n := range d.Parts[i].Changes {
					sum.Changes[kind] += n
				}
			}
			line(sum.Split, sum)
			if perClass {
				for _, p := range d.Parts[from:i] {
					line("  "+printable(p.Class), p)
				}
			}
		}
	}) + "\n"
	var f facts
	f.add("same images", "%d", d.Same)
	if len(d.NewClasses) > 0 {
		f.add("new classes", "%s", list(d.NewClasses))
	}
	if len(d.GoneClasses) > 0 {
		f.add("gone classes", "%s", list(d.GoneClasses))
	}
	for _, r := range d.Renamed {
		f.add("renamed class", "%s is now %s (%s)", printable(r.Before), printable(r.After), wording.Plural(r.Images, "equal image"))
	}
	for _, kind := range kinds {
		shown := 0
		for _, c := range d.Changes {
			if c.Kind != kind {
				continue
			}
			if shown++; shown > 10 {
				f.add("", "and %d more", d.Count(kind)-10)
				break
			}
			f.add(string(kind), "%s", describeChange(c))
		}
	}
	return a.write(text + f.String())
}

// describeChange returns a change in words.
func describeChange(c dataset.Change) string {
	place := func(p *dataset.ImagePlace) string {
		return fmt.Sprintf("%s (%s, %s)", printable(p.Path), p.Split, printable(p.Class))
	}
	switch {
	case c.Before == nil:
		return place(c.After)
	case c.After == nil || *c.Before == *c.After:
		return place(c.Before)
	}
	return place(c.Before) + " -> " + place(c.After)
}
