package run

import (
	"fmt"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
)

// ModelResize is the value of ImageOptions.Resize that stands for the transform with which the
// backbone was pretrained. A recorded run holds the transform itself.
const ModelResize = "model"

// Resolve replaces the resize ModelResize by the transform with which m was pretrained, and Preset
// by its options. It returns an [*OptionError] if this transform is unknown or not supported, and
// for an unknown preset.
func (o ImageOptions) Resolve(m *backbone.Model) (ImageOptions, error) {
	if o.Preset != "" {
		if o.RandomCrop || o.HorizontalFlip || o.Augment != (dataset.Augment{}) {
			return o, &OptionError{Option: "augment", Err: fmt.Errorf("the augmentation %q is given together with single options of augmentation; give one of them", o.Preset)}
		}
		var err error
		if o, err = o.WithPreset(o.Preset); err != nil {
			return o, err
		}
	}
	if o.Resize != ModelResize {
		return o, nil
	}
	r := m.Resizing
	switch {
	case r == nil:
		return o, &OptionError{Option: "resize", Err: fmt.Errorf("no file beside the checkpoint states how images were resized in pretraining: expected crop_pct in config.json, or size in preprocessor_config.json; choose direct, crop or direct-crop")}
	case r.Resize == "":
		return o, &OptionError{Option: "resize", Err: fmt.Errorf("the images of the pretraining were resized %s; choose direct, crop or direct-crop", r)}
	case o.ResizeTo != 0:
		return o, &OptionError{Option: "resize-to", Err: fmt.Errorf("a size of %d px has no effect together with the resize %q, which sets it; leave one of them out", o.ResizeTo, ModelResize)}
	}
	o.Resize, o.ResizeTo = r.Resize, r.ResizeTo
	return o, nil
}

// Difference says, for people, how the transform o differs from the transform with which m was
// pretrained. o must be resolved. The text is empty if they do not differ or if the transform of
// the pretraining is unknown.
func (o ImageOptions) Difference(m *backbone.Model) string {
	r := m.Resizing
	if r == nil {
		return ""
	}
	transform := func(resize string, to int) dataset.Transform {
		return dataset.Transform{Size: m.Config.ImageSize, Resize: resize, ResizeTo: to}.WithDefaults()
	}
	used := transform(o.Resize, o.ResizeTo)
	bicubic := r.Filter == "" || r.Filter == "bicubic"
	if bicubic && r.Resize != "" && used == transform(r.Resize, r.ResizeTo) {
		return ""
	}
	text := fmt.Sprintf("images are resized %s; in pretraining they were resized %s", backbone.Resizing{Resize: used.Resize, ResizeTo: used.ResizeTo, Filter: "bicubic"}, r)
	if !bicubic {
		text += fmt.Sprintf("; the filter %s is not supported", r.Filter)
	}
	return text
}
