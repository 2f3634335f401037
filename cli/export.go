package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/export"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
)

func exportCommand(a *app) *cobra.Command {
	o := a.newOptions()
	cmd := &cobra.Command{
		Use: "export {--delta DIR --format NAME {--out DIR | --push hf:OWNER/NAME} | --from DIR --push hf:OWNER/NAME} [flags]", Short: "Write a tuned classifier for other programs",
		Long: `Writes a delta and its backbone as a folder that other programs load, and prints how they load
it. Before it reports success, the command compares the logits of the folder with those of the
delta, on random images and on images of --probe and --data. It fails if a logit differs by more
than --bound, and it refuses a format that would lose a part of the classifier.

With --push the command uploads the folder to the Hugging Face Hub. It first lists what it
uploads. A file that the repository already has is not sent again, so an upload that was
interrupted continues. A new repository is private, unless --public is given.

Formats:
` + formatList(),
		Example: "  spt export --delta runs/clothing-spt-lora --format timm --out clothing-timm\n" +
			"  spt export --from clothing-timm --push hf:me/clothing",
		Args: noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if o.from != "" {
			return a.pushFolder(ctx, o)
		}
		if o.delta == "" || len(o.formats) == 0 || o.out == "" && o.push == "" {
			return refuse("--delta, --format or --out is missing: give --delta DIR, --format NAME, and --out DIR or --push hf:OWNER/NAME")
		}
		out, remove, err := o.exportFolder()
		if err != nil {
			return err
		}
		defer remove()
		t, err := a.openTuned(ctx, cmd, o.delta, o.config.Model, run.ImageOptions{})
		if err != nil {
			return err
		}
		c := &export.Classifier{Model: t.model, Delta: t.delta, Tuned: t.trained, Transform: t.transform, Config: t.run}
		if t.run != nil {
			if c.Result, err = run.LoadResult[run.Result](folderOf(o.delta)); err != nil {
				return err
			}
		}
		options := export.Options{Half: o.half, Probabilities: o.probabilities, Bound: o.bound}
		// The images may take long to read, so refuse first.
		if err := export.Check(c, o.formats, out, options); err != nil {
			return err
		}
		p := a.reporter()
		defer p.close()
		probes, unreadable, err := mergeProbes(ctx, t.transform, o.probe, t.probeData(o.config.Data), p.event)
		if err != nil {
			return err
		}
		options.Probes, options.Progress = probes, p.event
		exported, err := export.Write(ctx, c, o.formats, out, options)
		p.close()
		if err != nil {
			return err
		}
		var up *pushed
		if o.push != "" {
			if up, err = a.push(ctx, out, o); err != nil {
				return err
			}
		}
		if a.json {
			return a.writeJSON(struct {
				Exports []*export.Exported `json:"exports"`
				// Unreadable lists the images that could not be read, with the reasons.
				Unreadable []string `json:"unreadable,omitempty"`
				Push       *pushed  `json:"push,omitempty"`
			}{exported, texted(unreadable), up})
		}
		var f facts
		for _, err := range unreadable {
			f.add("skipped", "%s", printable(err.Error()))
		}
		for _, e := range exported {
			f.add(e.Format, "%s, %s", printable(e.Dir), wording.Bytes(e.Bytes))
			f.add("largest logit difference", "%.3g on %d images", e.Difference, e.Images)
			for _, note := range e.Notes {
				f.add("note", "%s", printable(note))
			}
		}
		if up != nil {
			up.describe(&f)
		}
		text := f.String()
		for _, e := range exported {
			if o.out == "" { // the folder is removed
				break
			}
			// Not in the table, so that the lines can be copied.
			text += fmt.Sprintf("\nTo load %s:\n\n%s\n", printable(e.Dir), e.Load)
		}
		return a.write(text)
	})
	return cmd
}

// formatList returns a line for each format of export.
func formatList() (text string) {
	for _, name := range export.Formats() {
		text += fmt.Sprintf("  %-14s for %s\n", name, export.Reader(name))
	}
	return text[:len(text)-1]
}
