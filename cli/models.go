package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/backbone/catalogue"
	"github.com/sptune/spt/internal/bench"
)

func modelsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "models", Short: "List published backbones, with their time on this machine",
		Long: `Lists published backbones that spt is known to load. Give the short name to --model. The
parameters do not include the head. The column ImageNet has the accuracy on the validation images
of ImageNet-1k in percent, from timm's results; a backbone with a dash has no head for these
classes, because its pretraining was self-supervised or ended with other classes.

The last columns are estimates of the seconds for 1000 images on this machine's processor: for
prediction, and for one epoch of tuning with LoRA. They are the counted multiply-adds, divided by
the peak of the processor, which the command measures, and by the share of the peak that the
architecture reached on the machine of docs/benchmarks.md. On another kind of processor the time
can be half as long again. 'spt bench --model NAME' measures the time.

The commands accept every model of the Hugging Face Hub that has a supported architecture. Give
it as hf:OWNER/NAME.`,
		Example: `  spt models
  spt models --json
  spt tune --model vit_small_dinov2 --image-size 224 --data clothing`,
		Args: noArguments,
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			list, err := estimatedModels(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(list)
			}
			return a.write(table(func(w io.Writer) {
				fmt.Fprintln(w, "name\tparameters\timage\tImageNet\tlicence\tprediction\ttuning\tgood for")
				for _, m := range list {
					fmt.Fprintf(w, "%s\t%s\t%d px\t%s\t%s\t%.0f s\t%.0f s\t%s\n", m.Name, short(m.Parameters), m.ImageSize, top1(m.of), m.Licence,
						m.PredictSeconds, m.TuneSeconds, m.Use)
				}
			}) + "\nfull names\n" + table(func(w io.Writer) {
				for _, m := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\n", m.Name, m.Reference, m.Pretraining)
				}
			}))
		}),
	}
}

// listedModel is a backbone in the JSON document.
type listedModel struct {
	Name       string `json:"name"`
	Reference  string `json:"reference"`
	Parameters int    `json:"parameters"`
	ImageSize  int    `json:"image_size"`
	Licence    string `json:"licence"`
	// in percent; null for weights without a head for ImageNet-1k
	Top1           *float64              `json:"imagenet_top1"`
	Pretraining    catalogue.Pretraining `json:"pretraining"`
	Use            string                `json:"good_for"`
	PredictSeconds float64               `json:"predict_seconds_per_1000_images"`
	TuneSeconds    float64               `json:"tune_seconds_per_1000_images"`
	of             catalogue.Backbone
}

// estimatedModels returns the list of the command models.
func estimatedModels(ctx context.Context) ([]listedModel, error) {
	var list []listedModel
	peak := bench.Peak()
	for _, b := range catalogue.All() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		forward, step, err := bench.Estimate(b.Config, peak)
		if err != nil {
			return nil, err
		}
		m := listedModel{Name: b.Name, Reference: b.Reference(), Parameters: b.Parameters(), ImageSize: b.Config.ImageSize, Licence: b.Licence,
			Pretraining: b.Pretraining, Use: b.Use, PredictSeconds: 1000 * forward, TuneSeconds: 1000 * step, of: b}
		if b.Top1 > 0 {
			m.Top1 = &b.Top1
		}
		list = append(list, m)
	}
	return list, nil
}

// top1 returns the accuracy on ImageNet-1k in percent, or a dash for weights without one.
func top1(b catalogue.Backbone) string {
	if b.Top1 == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", b.Top1)
}
