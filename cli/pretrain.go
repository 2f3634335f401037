package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

func pretrainCommand(a *app) *cobra.Command {
	flags := a.newOptions()
	flags.recipe = &flags.pretrain.Train
	o, warmup := &flags.pretrain, flags.pretrain.Train
	cmd := &cobra.Command{
		Use: "pretrain [flags]", Short: "Pretrain the embedded backbone again",
		Long: `Pretrains the backbone that is embedded in this program, a small ViT, on synthetic images, and
writes it as a float16 checkpoint. Users do not need this command: it shows where the embedded
backbone comes from. OUT.training holds the state of an unfinished training; --resume continues
from it.`,
		Example: "  spt pretrain --out vit_demo.safetensors",
		Args:    noArguments,
	}
	addFlags(cmd, flags)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		o.Train.WarmupEpochs = warmup.WithEpochs(o.Train.Epochs).WarmupEpochs
		out := flags.out
		state := out + ".training"
		if _, err := os.Stat(out); err == nil {
			return refuse("%s exists; remove it, or give another --out", out)
		}
		if err := checkState(state, flags.resumeState); err != nil {
			return err
		}
		be, _, err := backend.Open("cpu", 1)
		if err != nil {
			return err
		}
		// Before the first step there is no state from which --resume could continue.
		resumable := func() {
			if _, err := os.Stat(state); err == nil {
				a.resumeWith("spt", "pretrain", "--out", out, "--epochs", fmt.Sprint(o.Train.Epochs), "--images-per-class", fmt.Sprint(o.ImagesPerClass), "--seed", fmt.Sprint(o.Train.Seed), "--resume")
			}
		}
		resumable()
		fmt.Fprintf(a.notes(), "%s, %d images of each class, %d epochs\n", describeConfig(demo.Config()), o.ImagesPerClass, o.Train.Epochs)
		p := a.reporter()
		defer p.close()
		m, result, err := demo.Pretrain(ctx, be, *o, state, a.watch(p.event))
		p.close()
		if err != nil {
			resumable()
			return err
		}
		if err := m.Save(out, checkpoint.F16, nil); err != nil {
			return err
		}
		if err := os.Remove(state); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		last := result.Epochs[len(result.Epochs)-1]
		if a.json {
			return a.writeJSON(struct {
				Out    string        `json:"out"`
				Bytes  int64         `json:"bytes"`
				Epochs []train.Epoch `json:"epochs"`
			}{out, fileSize(out), result.Epochs})
		}
		var f facts
		f.add("validation accuracy", "%s", wording.Percent(last.ValAccuracy))
		f.add("backbone", "%s, %s, float16", out, wording.Bytes(fileSize(out)))
		return a.write(f.String())
	})
	return cmd
}

// checkState returns an error if there is no state to resume, or if a new training would begin
// where a state exists: the training would continue from this state.
func checkState(state string, resume bool) error {
	_, err := os.Stat(state)
	switch {
	case err == nil && !resume:
		return refuse("%s is the state of a stopped training; continue it with --resume, or remove the file", state)
	case errors.Is(err, fs.ErrNotExist) && resume:
		return &run.InputError{Err: fmt.Errorf("there is no state to resume: %s does not exist", state)}
	}
	return nil
}
