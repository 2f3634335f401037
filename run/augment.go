package run

import (
	"fmt"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/option"
)

// preset is a named set of augmentation options.
type preset struct {
	name    string
	flip    bool // ImageOptions.HorizontalFlip
	augment dataset.Augment
}

// lightCrop is the range of the area of random resized crops in presets. Crops of less than half of
// an image often miss the object, and a data set for fine-tuning has too few images to make up for
// it. Pretraining on ImageNet goes down to 0.08.
var lightCrop = [2]float64{0.5, 1}

// presets lists the presets, from the weakest to the strongest. strong has the values with which
// MAE (He et al. 2021, arXiv 2111.06377, table 9) and DeiT (Touvron et al. 2020, arXiv 2012.12877,
// table 9) train vision transformers.
var presets = []preset{
	{name: "none"},
	{name: "light", flip: true, augment: dataset.Augment{CropScale: lightCrop}},
	{name: "strong", flip: true, augment: dataset.Augment{CropScale: lightCrop, RandAugment: 2, Erasing: 0.25, Mixup: 0.8, CutMix: 1}},
}

// AutoAugment is the name of the choice between presets that RecipeAuto makes; see
// TuneOptions.AutoAugment.
const AutoAugment = "auto"

// Presets returns the names of the presets of augmentation, for [ImageOptions.WithPreset].
func Presets() (names []string) {
	for _, p := range presets {
		names = append(names, p.name)
	}
	return names
}

// WithPreset returns o with the augmentation of a preset: it replaces RandomCrop, HorizontalFlip
// and Augment, and clears Preset. The other options stay. An unknown name is an [*OptionError].
//
//   - "none" does not augment images.
//   - "light" mirrors half of the images, and crops them at random to 50 to 100 % of their area.
//   - "strong" also runs two operations of RandAugment, erases a rectangle of a quarter of the
//     images, and mixes the images of a mini-batch with Mixup or CutMix.
func (o ImageOptions) WithPreset(name string) (ImageOptions, error) {
	for _, p := range presets {
		if p.name == name {
			o.RandomCrop, o.HorizontalFlip, o.Augment, o.Preset = false, p.flip, p.augment, ""
			return o, nil
		}
	}
	return o, &OptionError{Option: "augment", Err: option.Unknown("augment", "augmentation", name, Presets())}
}

// PresetName returns the name of the preset that o has the augmentation of. It returns "" if there
// is none.
func (o ImageOptions) PresetName() string {
	for _, p := range presets {
		if o.HorizontalFlip == p.flip && !o.RandomCrop && o.Augment.WithDefaults() == p.augment.WithDefaults() {
			return p.name
		}
	}
	return ""
}

// Augmentation describes the augmentation of training images, for people, in the order in which its
// parts are applied. It is empty without augmentation.
func (o ImageOptions) Augmentation() (parts []string) {
	a := o.Augment.WithDefaults()
	for _, p := range []struct {
		used bool
		text string
	}{
		{a.CropScale != [2]float64{}, fmt.Sprintf("random resized crops of %g to %g %% of the area", 100*a.CropScale[0], 100*a.CropScale[1])},
		{o.RandomCrop, "random crops"},
		{o.HorizontalFlip, "horizontal flips"},
		{a.VerticalFlip, "vertical flips"},
		{a.Brightness != 0 || a.Contrast != 0 || a.Saturation != 0 || a.Hue != 0, "colour jitter"},
		{a.RandAugment > 0, fmt.Sprintf("RandAugment (%d operations of magnitude %d)", a.RandAugment, a.Magnitude)},
		{a.Erasing > 0, fmt.Sprintf("random erasing of %g %% of the images", 100*a.Erasing)},
		{a.Mixup > 0, fmt.Sprintf("Mixup (alpha %g)", a.Mixup)},
		{a.CutMix > 0, fmt.Sprintf("CutMix (alpha %g)", a.CutMix)},
	} {
		if p.used {
			parts = append(parts, p.text)
		}
	}
	return parts
}
