package run

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/yamlfile"
)

// TestPresets checks that every preset can be found by its name and by its options, and that a file
// of a run without new options has no new keys.
func TestPresets(t *testing.T) {
	for _, name := range Presets() {
		o, err := ImageOptions{Resize: "direct-crop", ResizeTo: 9, RandomCrop: true, Workers: 3, Preset: name}.WithPreset(name)
		if err != nil || o.Resize != "direct-crop" || o.ResizeTo != 9 || o.Workers != 3 || o.Preset != "" || o.PresetName() != name {
			t.Errorf("%s: %+v, error %v", name, o, err)
		}
		if err := (dataset.Transform{Size: 8, HorizontalFlip: o.HorizontalFlip, Augment: o.Augment}).Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		o.Augment = o.Augment.WithDefaults() // as a run records it
		if o.PresetName() != name {
			t.Errorf("%s with its defaults has the name %q", name, o.PresetName())
		}
		if o.Augment.Mixup += 0.1; o.PresetName() != "" {
			t.Errorf("%s with another option has the name %q", name, o.PresetName())
		}
	}
	_, err := ImageOptions{}.WithPreset("lihgt")
	if e := (*OptionError)(nil); !errors.As(err, &e) || e.Option != "augment" {
		t.Errorf("an unknown preset: %v", err)
	}
	text, err := json.Marshal(ImageOptions{})
	if want := `{"resize":"","resize_to":0,"random_crop":false,"horizontal_flip":false,"cache_bytes":0,"workers":0}`; err != nil || string(text) != want {
		t.Errorf("without augmentation %s, want %s", text, want)
	}
}

// TestConfigurePreset checks the order in which recipes, presets and keys set the augmentation.
func TestConfigurePreset(t *testing.T) {
	light, _ := ImageOptions{}.WithPreset("light")
	strong, _ := ImageOptions{}.WithPreset("strong")
	weaker := strong
	weaker.Augment.Mixup, weaker.HorizontalFlip = 0, false
	recorded, err := json.Marshal(map[string]any{"data": map[string]any{"images": weaker}})
	if err != nil {
		t.Fatal(err)
	}
	cropped := RecipeImages(RecipeFGVC)
	cropped.RandomCrop, cropped.Augment.CropScale = false, [2]float64{0.3, 0.9}
	for _, c := range []struct {
		nodes []string
		want  ImageOptions
	}{
		{[]string{`data: {images: {preset: light}}`}, light},
		{[]string{`data: {images: {preset: strong, horizontal_flip: false, augment: {mixup: 0}}}`}, weaker},
		{[]string{string(recorded)}, weaker},
		{[]string{string(recorded), `data: {images: {preset: light}}`}, light},
		{[]string{`data: {images: {preset: light}}`, string(recorded)}, weaker},
		{[]string{`data: {task: cub, images: {augment: {crop_scale: [0.3, 0.9]}}}`}, cropped},
		{[]string{`data: {task: cub, images: {preset: none}}`}, ImageOptions{Resize: "direct-crop"}},
	} {
		var nodes []*yamlfile.Node
		for _, text := range c.nodes {
			n, err := yamlfile.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, n)
		}
		got, err := Configure(nodes...)
		images := got.Data.Images
		if c.want.Resize == "" {
			images.Resize = ""
		}
		if err != nil || images != c.want {
			t.Errorf("%v: error %v,\n%+v, want\n%+v", c.nodes, err, images, c.want)
		}
	}
	for text, line := range map[string]int{"data:\n  images:\n    preset: other": 3, "data:\n  images:\n    augment:\n      mixup: -1": 4, "data:\n  images:\n    augment: {hue: 2}": 3} {
		n, err := yamlfile.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Configure(n)
		if at, ok := errors.AsType[*yamlfile.Error](err); !ok || at.Line != line {
			t.Errorf("%q: the error is %v, want one in line %d", text, err, line)
		}
	}
}
