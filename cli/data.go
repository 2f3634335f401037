package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

func dataCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "data", Short: "Verify a data set; list the data sets of benchmarks",
		Long: `'spt data verify' reads every image of a data set and prints its problems. 'spt data tasks'
lists the data sets of benchmarks that --task knows.`,
		Example: `  spt data verify clothing
  spt data tasks`,
		Args: noSuchCommand,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	for _, verb := range []func(*app) *cobra.Command{verifyCommand, tasksCommand} {
		c := verb(a)
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func verifyCommand(a *app) *cobra.Command {
	o := a.newOptions()
	c := &o.config.Data
	cmd := &cobra.Command{
		Annotations: under("data"),
		Use:         "verify DIR [flags]", Short: "Read every image and print the problems of a data set",
		Long: `Opens a data set as 'spt tune' does and decodes every image. The command prints the number
of images in each split, with --per-class also in each class. It lists classes without
training images, images that are missing or broken, files in class folders that are not
images, and equal images: images with different names and the same bytes or the same pixels.
It fails with exit code 3 if an image cannot be read, or if an image of the test split is in
another split too. It changes no file.

The layouts of data sets:

` + indent(dataset.DescribeLayouts()),
		Example: `  spt data verify clothing
  spt data verify vtab-1k/cifar --task cifar --per-class
  spt data verify list.csv --label-column kind --json`,
		Args: arguments(1, 1, "one data set"),
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, args []string) error {
		c.Path, c.SkipBadImages, c.NoTrain = args[0], true, true
		d, err := c.Open(ctx)
		if err != nil {
			return err
		}
		f := facts{{"data", describeData(d)}}
		f.addNotes(d.Notes)
		fmt.Fprint(a.notes(), f)
		p := a.reporter()
		defer p.close()
		v, err := d.Verify(ctx, 0, p.event)
		if err != nil {
			return err
		}
		p.close()
		if err := a.writeVerification(d, v, o.perClass); err != nil {
			return err
		}
		return verdict(d, v)
	})
	return cmd
}

// verdict returns an error if an image cannot be read or leaks into the test split.
func verdict(d *dataset.Dataset, v dataset.Verification) error {
	var found []string
	if n := len(v.Unreadable); n > 0 {
		found = append(found, wording.Plural(n, "image")+" that cannot be read")
	}
	leaks := 0
	for _, g := range v.Duplicates {
		if g.LeaksIntoTest {
			leaks++
		}
	}
	if leaks > 0 {
		found = append(found, wording.Plural(leaks, "image")+" of the test split in another split too")
	}
	if found == nil {
		return nil
	}
	return &run.InputError{Err: fmt.Errorf("data set %s has %s", d.Name, strings.Join(found, ", and "))}
}

// copyOf is one of several equal images in the JSON document.
type copyOf struct {
	Split  string `json:"split"`
	Path   string `json:"path"`
	Where  string `json:"where"`
	Class  string `json:"class"`
	SHA256 string `json:"sha256"`
}

type duplicate struct {
	SameBytes bool     `json:"same_bytes"` // false: the pixels alone are equal
	Leaks     bool     `json:"leaks"`      // copies are in several splits
	Conflicts bool     `json:"conflicts"`  // copies have different labels
	Copies    []copyOf `json:"copies"`
}

type splitCount struct {
	Split   string         `json:"split"`
	Images  int            `json:"images"`
	Bytes   int64          `json:"bytes"`
	Classes map[string]int `json:"classes"`
}

// verification is the JSON document of verify.
type verification struct {
	Data       string         `json:"data"`
	Layout     string         `json:"layout"`
	Split      string         `json:"split"`
	SHA256     string         `json:"sha256"` // of the split, label and content of every image
	Images     int            `json:"images"`
	Bytes      int64          `json:"bytes"`
	Smallest   [2]int         `json:"smallest"` // width and height in pixels
	Largest    [2]int         `json:"largest"`
	Splits     []splitCount   `json:"splits"`
	Untrained  []string       `json:"classes_without_training_images"`
	Unreadable []skippedImage `json:"unreadable"`
	Duplicates []duplicate    `json:"duplicates"`
	// Ignored counts the files in class folders that are not images, by extension.
	Ignored map[string]int `json:"ignored,omitempty"`
	Stray   int            `json:"stray,omitempty"`      // images outside the class folders
	Notes   []string       `json:"data_notes,omitempty"` // see dataset.Dataset.Notes
}

func (a *app) writeVerification(d *dataset.Dataset, v dataset.Verification, perClass bool) error {
	doc := verification{Data: d.Root, Layout: d.Layout, Split: d.Split, SHA256: v.SHA256, Images: v.Images, Bytes: v.Bytes, Smallest: v.Smallest, Largest: v.Largest,
		Untrained: []string{}, Unreadable: []skippedImage{}, Duplicates: []duplicate{}, Ignored: d.Ignored, Stray: d.Stray, Notes: d.Notes}
	for _, s := range v.Splits {
		count := splitCount{s.Name, s.Images, s.Bytes, map[string]int{}}
		for i, n := range s.Classes {
			count.Classes[d.Classes[i]] = n
		}
		doc.Splits = append(doc.Splits, count)
	}
	for i, n := range v.Splits[0].Classes {
		if n == 0 {
			doc.Untrained = append(doc.Untrained, d.Classes[i])
		}
	}
	for _, s := range v.Unreadable {
		doc.Unreadable = append(doc.Unreadable, skippedImage{s.Split, jsonfile.Text(s.Path), s.Where, s.Err.Error()})
	}
	for _, g := range v.Duplicates {
		out := duplicate{SameBytes: g.SameBytes, Leaks: g.Leaks, Conflicts: g.Conflicts}
		for _, l := range g.Copies {
			out.Copies = append(out.Copies, copyOf{l.Split, jsonfile.Text(l.Sample.Path), l.Sample.Where, d.TargetName(l.Sample.Target), l.SHA256})
		}
		doc.Duplicates = append(doc.Duplicates, out)
	}
	if a.json {
		return a.writeJSON(doc)
	}
	return a.write("\n" + splitTable(d, v) + classTable(d, v, perClass) + doc.String())
}

// splitTable returns a table with a line for each split.
func splitTable(d *dataset.Dataset, v dataset.Verification) string {
	return table(func(w io.Writer) {
		fmt.Fprintln(w, "split\timages\tsize\tclasses\timages in a class")
		for _, s := range v.Splits {
			present, least, most := 0, s.Images, 0
			for _, n := range s.Classes {
				if n > 0 {
					present, least, most = present+1, min(least, n), max(most, n)
				}
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%d of %d\t%d to %d\n", s.Name, s.Images, wording.Bytes(s.Bytes), present, len(d.Classes), least, most)
		}
	}) + "\n"
}

// classTable returns a table with a line for each class. It returns "" without --per-class.
func classTable(d *dataset.Dataset, v dataset.Verification, perClass bool) string {
	if !perClass {
		return ""
	}
	return table(func(w io.Writer) {
		fmt.Fprintln(w, "class\ttrain\tval\ttest")
		for i, name := range d.Classes {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", printable(name), v.Splits[0].Classes[i], v.Splits[1].Classes[i], v.Splits[2].Classes[i])
		}
	}) + "\n"
}

// String returns the findings as text, with at most ten of each kind.
func (v verification) String() string {
	var f facts
	f.add("images", "%d, %s, from %d×%d to %d×%d px", v.Images, wording.Bytes(v.Bytes), v.Smallest[0], v.Smallest[1], v.Largest[0], v.Largest[1])
	f.add("sha256", "%s", v.SHA256)
	f.add("classes without training images", "%s", list(v.Untrained))
	some := func(name string, n int, line func(i int) string) {
		if n == 0 {
			f.add(name, "none")
		}
		for i := range min(n, 10) {
			f.add(name, "%s", line(i))
		}
		if n > 10 {
			f.add("", "and %d more", n-10)
		}
	}
	some("cannot be read", len(v.Unreadable), func(i int) string {
		s := v.Unreadable[i]
		return fmt.Sprintf("%s (%s, %s): %s", printable(s.Path), s.Split, s.Where, s.Error)
	})
	f.addSkipped(v.Ignored, v.Stray)
	f.addNotes(v.Notes)
	// Copies in several splits come first.
	groups := slices.SortedStableFunc(slices.Values(v.Duplicates), func(a, b duplicate) int {
		switch {
		case a.Leaks == b.Leaks:
			return 0
		case a.Leaks:
			return -1
		}
		return 1
	})
	some("equal images", len(groups), func(i int) string {
		g := groups[i]
		var copies []string
		for _, c := range g.Copies[:min(4, len(g.Copies))] {
			copies = append(copies, fmt.Sprintf("%s (%s, %s)", printable(c.Path), c.Split, printable(c.Class)))
		}
		if more := len(g.Copies) - len(copies); more > 0 {
			copies = append(copies, fmt.Sprintf("%d more", more))
		}
		kind := "same pixels"
		if g.SameBytes {
			kind = "same bytes"
		}
		if g.Leaks {
			kind += ", across splits"
		}
		if g.Conflicts {
			kind += ", labels differ"
		}
		return kind + ": " + strings.Join(copies, " = ")
	})
	return f.String()
}

func tasksCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Annotations: under("data"),
		Use:         "tasks", Short: "List the data sets that --task knows",
		Long: `Lists the nineteen data sets of VTAB-1k and the five of FGVC, with group, number of classes
and recipe. With --task NAME, 'spt tune', 'spt score', 'spt train', 'spt eval' and
'spt data verify' check the number of classes, and the recipe sets the options that no flag
sets. The recipe does not set the normalisation of the pixels, which the backbone decides. To
normalise as the paper's code does, give --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225.`,
		Example: "  spt data tasks",
		Args:    noArguments,
		RunE:    a.verb(func(context.Context, []string) error { return a.writeTasks() }),
	}
}

// recipe is the recipe of a task in the JSON document.
type recipe struct {
	Resize         string        `json:"resize"`
	RandomCrop     bool          `json:"random_crop"`
	HorizontalFlip bool          `json:"horizontal_flip"`
	Train          train.Options `json:"train"`
}

// imagesOf returns the image options of the recipe of a data set of a benchmark.
func imagesOf(k dataset.Known) run.ImageOptions {
	recipe, err := run.RecipeOf(k.Name)
	if err != nil {
		panic(err) // k is a known data set
	}
	return run.RecipeImages(recipe)
}

func (a *app) writeTasks() error {
	if a.json {
		type task struct {
			Name    string `json:"name"`
			Group   string `json:"group"`
			Classes int    `json:"classes"`
			Title   string `json:"title"`
			Recipe  recipe `json:"recipe"`
		}
		var tasks []task
		for _, k := range dataset.KnownSets() {
			o := imagesOf(k)
			tasks = append(tasks, task{k.Name, k.Group, k.Classes, k.Title, recipe{o.Resize, o.RandomCrop, o.HorizontalFlip, train.VTAB()}})
		}
		return a.writeJSON(tasks)
	}
	text := table(func(w io.Writer) {
		fmt.Fprintln(w, "task\tgroup\tclasses\timage options\tdata set")
		for _, k := range dataset.KnownSets() {
			o := imagesOf(k)
			images := "--resize " + o.Resize
			if o.RandomCrop {
				images += " --random-crop"
			}
			if o.HorizontalFlip {
				images += " --flip"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", k.Name, k.Group, k.Classes, images, k.Title)
		}
	})
	o := train.VTAB()
	text += fmt.Sprintf("\ntraining for every task: batches of %d, %d epochs, %g of them warm-up, AdamW with learning rate %g, weight decay %g, drop-path %g\npixels: normalised as the backbone expects, unless --mean and --std are given\n",
		train.DefaultBatchSize, o.Epochs, o.WarmupEpochs, o.LR, o.WeightDecay, o.DropPath)
	return a.write(text)
}
