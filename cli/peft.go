package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

// openPEFT loads the PEFT adapter in the folder dir and its backbone. If c names no backbone, it
// loads the one in dir, or the one that the adapter names. Without --resize, images are resized as
// the files beside the backbone say.
func (a *app) openPEFT(ctx context.Context, cmd *cobra.Command, dir string, c run.ModelConfig, images run.ImageOptions) (*tuned, error) {
	p, err := delta.LoadPEFT(dir)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	if c.Path == "" {
		if c.Path, err = peftBackbone(dir, p); err != nil {
			return nil, err
		}
	}
	t := &tuned{}
	reports := a.reporter()
	defer reports.close()
	var transform delta.Transform
	if p.Described != nil {
		for _, f := range flagsOf(tableName(cmd)) {
			if slices.Contains(f.excludes, "delta") && cmd.Flags().Changed(f.name) {
				return nil, refuse("--%s has no effect: spt exported the folder %s, which states the settings of the backbone and the images; leave it out", f.name, dir)
			}
		}
		if c.Path != "" {
			t.model, err = c.OpenTuned(ctx, p.Described, reports.event)
		} else {
			t.model, err = run.OpenBackbone(ctx, string(folderOf(dir)), p.Described, nil, c.WeightsKey, reports.event)
		}
	} else {
		t.model, _, err = c.Open(ctx, p.NumClasses(), reports.event)
	}
	if err != nil {
		return nil, err
	}
	if p.Described == nil {
		given := cmd.Flags().Changed("resize") || cmd.Flags().Changed("resize-to")
		if r := t.model.Resizing; !given && r != nil && r.Resize != "" {
			images = run.ImageOptions{Resize: run.ModelResize}
		}
		if images, err = images.Resolve(t.model); err != nil {
			return nil, err
		}
		own := dataset.Transform{Size: t.model.Config.ImageSize, Resize: images.Resize, ResizeTo: images.ResizeTo}.WithDefaults()
		transform = delta.Transform{Resize: own.Resize, ResizeTo: own.ResizeTo}
	}
	if t.delta, err = p.Delta(t.model, transform); err != nil {
		return nil, &run.InputError{Err: err}
	}
	t.classes, t.transform = t.delta.Classes, t.delta.ImageTransform()
	return t, nil
}

// peftBackbone returns the path of the backbone of the adapter p in dir. It is empty if the
// description of an exported delta tells where to look for it.
func peftBackbone(dir string, p *delta.PEFT) (string, error) {
	if p.Described != nil {
		own := folderOf(dir).Path(delta.PEFTBaseName)
		if _, err := os.Stat(own); err != nil {
			own = ""
		}
		return own, nil
	}
	_, err := os.Stat(p.Base)
	switch {
	case p.Base == "":
		return "", refuse("no backbone given for the PEFT adapter in %s, which names none; give --model FILE", dir)
	case err == nil:
		return p.Base, nil
	case strings.Count(p.Base, "/") == 1 && errors.Is(err, fs.ErrNotExist):
		return "hf:" + p.Base, nil // on the Hugging Face Hub
	}
	return "", refuse("the backbone of the PEFT adapter in %s was not found: there is no %.200q; give --model FILE", dir, p.Base)
}
