package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/shell"
)

// processorFile is the name of the file that describes the image processor to Transformers.
const processorFile = "preprocessor_config.json"

// transformers is the format of the folders of Hugging Face transformers with its own classes, such
// as ViTForImageClassification. The delta is merged into the weights.
var transformers = format{
	name:   "transformers",
	reader: "Transformers, with its own classes",
	check:  checkTransformers,
	write:  writeTransformers,
	load: func(_ *Classifier, dir string) string {
		return fmt.Sprintf(`from transformers import pipeline
classify = pipeline("image-classification", model=%s)
print(classify("photo.jpg"))`, python(dir))
	},
}

// checkTransformers implements format.check.
func checkTransformers(c *Classifier, _ Options) error {
	if err := mergeable(c); err != nil {
		return err
	}
	if _, err := c.Model.Config.HuggingFace(); err != nil {
		return fmt.Errorf("no model of Transformers computes the same as this backbone: %w%s", err, anyMethod)
	}
	_, err := processorOf(c)
	return err
}

// writeTransformers implements format.write.
func writeTransformers(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error) {
	h, err := c.Model.Config.HuggingFace()
	if err != nil {
		return nil, err
	}
	weights, err := c.Tuned.Tuning.Merge(c.Model.Weights, c.Tuned.Tuned)
	if err != nil {
		return nil, err
	}
	named, err := h.Weights(weights)
	if err != nil {
		return nil, err
	}
	dtype, dtypeName := checkpoint.F32, "float32"
	if o.Half {
		dtype, dtypeName = checkpoint.F16, "float16"
	}
	var entries []checkpoint.Entry
	for name, x := range named {
		entries = append(entries, checkpoint.Entry{Name: name, DType: dtype, Shape: x.Shape, Data: x.Data})
	}
	path := filepath.Join(dir, weightsFile)
	if err := checkpoint.Save(path, entries, map[string]string{"format": "pt"}); err != nil {
		return nil, err
	}
	config := map[string]any{"architectures": []string{h.Class}, "torch_dtype": dtypeName}
	maps.Copy(config, h.Config)
	id2label, label2id := map[int]string{}, map[string]int{}
	for i, name := range c.Delta.Classes {
		id2label[i], label2id[name] = name, i
	}
	config["id2label"], config["label2id"] = id2label, label2id
	if c.several() {
		config["problem_type"] = severalProblem
		if c.Delta.Thresholds != nil {
			config["thresholds"] = c.Delta.Thresholds
		}
	}
	if err := writeJSON(filepath.Join(dir, configFile), config); err != nil {
		return nil, err
	}
	p, err := processorOf(c)
	if err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, processorFile), p); err != nil {
		return nil, err
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, cardFile), transformersCard(c)); err != nil {
		return nil, err
	}
	e := &Exported{}
	read, err := readTransformers(c, path)
	if err == nil {
		e.Images, e.Difference, err = c.compare(ctx, o, read)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the folder back: %w", err)
	}
	if o.Half {
		e.Notes = append(e.Notes, halfNote)
	}
	return e, nil
}

// readTransformers reads the folder that writeTransformers has written. It returns an error if the
// transform, the normalisation or the classes are not those of the classifier.
func readTransformers(c *Classifier, path string) (*backbone.Model, error) {
	m, report, err := backbone.Load(path, backbone.LoadOptions{})
	if err != nil {
		return nil, err
	}
	if len(report.Unknown)+len(report.Notes) > 0 {
		return nil, fmt.Errorf("unknown tensors %q, and notes %q", report.Unknown, report.Notes)
	}
	r := m.Resizing
	if r == nil {
		return nil, errors.New("the transform of the images is missing")
	}
	t := dataset.Transform{Size: m.Config.ImageSize, Resize: r.Resize, ResizeTo: r.ResizeTo}
	if got, want := t.WithDefaults(), c.Transform.WithDefaults(); got != want {
		return nil, fmt.Errorf("found the transform %+v, expected %+v", got, want)
	}
	if got, want := m.Preprocessing, c.Model.Preprocessing; got.Mean != want.Mean || got.Std != want.Std {
		return nil, fmt.Errorf("found mean %v and std %v, expected %v and %v", got.Mean, got.Std, want.Mean, want.Std)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	classes, err := backbone.ReadClasses(f, m.Config.NumClasses)
	if err == nil && classes.Names != nil && !slices.Equal(classes.Names, c.Delta.Classes) {
		err = fmt.Errorf("found the classes %.200q", classes.Names)
	}
	return m, err
}

// side is a height and a width, in pixels.
type side struct {
	Height int `json:"height"`
	Width  int `json:"width"`
}

// processor is the content of preprocessor_config.json.
type processor struct {
	Type          string     `json:"image_processor_type"`
	DoConvertRGB  bool       `json:"do_convert_rgb"`
	DoResize      bool       `json:"do_resize"`
	Size          side       `json:"size"`
	Resample      int        `json:"resample"` // number of the filter in Pillow
	DoCenterCrop  bool       `json:"do_center_crop,omitempty"`
	CropSize      *side      `json:"crop_size,omitempty"`
	DoRescale     bool       `json:"do_rescale"`
	RescaleFactor float64    `json:"rescale_factor"`
	DoNormalize   bool       `json:"do_normalize"`
	ImageMean     [3]float32 `json:"image_mean"`
	ImageStd      [3]float32 `json:"image_std"`
}

// pillowBicubic is the number of the bicubic filter in Pillow.
const pillowBicubic = 3

// processorOf returns the image processor that prepares images as in the training. The error says
// what Transformers does in another way.
//
// The image processors cut the centre out at floor((side-size)/2), spt and torchvision at the
// nearest whole number, half to even. Both are the same unless side-size is 3 modulo 4.
func processorOf(c *Classifier) (*processor, error) {
	t := c.Transform.WithDefaults()
	p := &processor{
		Type: "ViTImageProcessor", DoConvertRGB: true, DoResize: true, Size: side{t.Size, t.Size}, Resample: pillowBicubic,
		DoRescale: true, RescaleFactor: 1.0 / 255, DoNormalize: true, ImageMean: c.Model.Preprocessing.Mean, ImageStd: c.Model.Preprocessing.Std,
	}
	const instead = "; the format timm, which Transformers reads too, holds this transform"
	switch t.Resize {
	case "direct":
		return p, nil
	case "direct-crop":
		if (t.ResizeTo-t.Size)%4 == 3 {
			return nil, fmt.Errorf("the centre of %d px is cut out of %d px at another pixel than in Transformers%s", t.Size, t.ResizeTo, instead)
		}
		p.Type, p.Size, p.DoCenterCrop, p.CropSize = "BitImageProcessor", side{t.ResizeTo, t.ResizeTo}, true, &side{t.Size, t.Size}
		return p, nil
	}
	return nil, fmt.Errorf("the images were resized with %q, whose shorter side becomes %d px; for a quarter of the aspect ratios Transformers cuts the centre out one pixel away%s", t.Resize, t.ResizeTo, instead)
}

// transformersCard returns the model card of a folder of Transformers.
func transformersCard(c *Classifier) []byte {
	return modelCard(c, "transformers", nil, []usage{
		{"Transformers, with `DIR` the path of this folder", "python", `from transformers import pipeline

classify = pipeline("image-classification", model="DIR")
print(classify("photo.jpg"))`},
		{"Or step by step", "python", `import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("DIR")
model = AutoModelForImageClassification.from_pretrained("DIR").eval()
with torch.no_grad():
    logits = model(**processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")).logits
` + c.printLabels("model.config.id2label", "logits")},
		{"spt", "sh", shell.Command("spt", "predict", "--model", "DIR/"+weightsFile, "photo.jpg")},
	})
}
