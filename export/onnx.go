package export

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/export/onnx"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// onnxFile is the name of the file of the format onnx.
const onnxFile = "model.onnx"

// onnxFormat is the format of ONNX models: the forward pass as a graph of operators, with the
// normalisation of the pixels inside. It holds every classifier.
var onnxFormat = format{
	name:   "onnx",
	reader: "onnxruntime and other programs that read ONNX",
	check: func(c *Classifier, o Options) error {
		if name := c.Tuned.Objective.Name(); o.Probabilities && name != objective.SingleLabel.Name() && name != objective.MultiLabel.Name() {
			return fmt.Errorf("probabilities are the softmax or the sigmoid of the logits, but the objective is %q; export the logits alone", name)
		}
		return textual(c.Delta.Classes)
	},
	write: writeONNX,
	load: func(c *Classifier, dir string) string {
		answer := "print(classes[logits[0].argmax()])"
		if c.several() {
			thresholds := slices.Repeat([]float64{evaluate.DefaultThreshold}, len(c.Delta.Classes))
			if c.Delta.Thresholds != nil {
				thresholds = c.Delta.Thresholds
			}
			list, _ := json.Marshal(thresholds) // finite numbers
			answer = fmt.Sprintf("probabilities = 1 / (1 + numpy.exp(-logits[0]))\nprint([name for name, p, t in zip(classes, probabilities, %s) if p >= t])", list)
		}
		return fmt.Sprintf(`import json, numpy, onnxruntime
from PIL import Image, ImageOps
model = onnxruntime.InferenceSession(%s)
classes = json.loads(model.get_modelmeta().custom_metadata_map["class_names"])
image = ImageOps.exif_transpose(Image.open("IMAGE.jpg")).convert("RGB")
%s
logits = model.run(["logits"], {"images": numpy.asarray(image)[None]})[0]
%s`, python(filepath.Join(dir, onnxFile)), resizeCode(c.Transform), answer)
	},
}

// resizeCode returns the line of Python that resizes an image as t does.
func resizeCode(t dataset.Transform) string {
	t = t.WithDefaults()
	crop := fmt.Sprintf("; x, y = round((image.width - %d) / 2), round((image.height - %d) / 2); image = image.crop((x, y, x + %d, y + %d))", t.Size, t.Size, t.Size, t.Size)
	switch r := t.ResizeTo; t.Resize {
	case "crop":
		return fmt.Sprintf("short = min(image.size); image = image.resize((%d * image.width // short, %d * image.height // short), Image.BICUBIC)", r, r) + crop
	case "direct-crop":
		return fmt.Sprintf("image = image.resize((%d, %d), Image.BICUBIC)", r, r) + crop
	}
	return fmt.Sprintf("image = image.resize((%d, %d), Image.BICUBIC)", t.Size, t.Size)
}

// verifyWork limits the probe images of a large model: the number of images times the number of
// weights times the number of tokens of an image. At this limit the verification takes about ten
// seconds on two cores. At least two images are compared.
const verifyWork = 4e10

// writeONNX implements format.write.
func writeONNX(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error) {
	e := new(Exported)
	m, err := c.onnxModel(ctx)
	if err != nil {
		return nil, err
	}
	program.ReturnMemory() // of the recorded programs
	switch {
	case o.Probabilities && c.several():
		m.AddSigmoid()
	case o.Probabilities:
		m.AddProbabilities(cmp.Or(c.Delta.Temperature, 1))
	}
	if err := c.describe(m); err != nil {
		return nil, err
	}
	weights := 0
	for _, w := range c.Model.Weights {
		weights += len(w.Data)
	}
	image := c.imageBytes()
	if most := max(2, int(verifyWork/float64(max(1, weights*c.Model.Config.Tokens())))); len(o.Probes)/image > most {
		e.Notes = append(e.Notes, fmt.Sprintf("the logits of %d of the %d images were compared, because the model is large", most, len(o.Probes)/image))
		o.Probes = o.Probes[:most*image]
	}
	if o.Half {
		// Rounding may hide a small mistake of the graph, so the exact graph is compared first.
		exact := o
		exact.Bound = min(o.Bound, delta.DefaultBound)
		if _, _, err := c.holdONNX(ctx, exact, m); err != nil {
			return nil, err
		}
		converted := m.StoreHalf()
		e.Notes = append(e.Notes, fmt.Sprintf("%d matrices are stored as float16; the model converts them to float32 when it is loaded, and computes in float32", converted))
	}
	path := filepath.Join(dir, onnxFile)
	if err := m.Write(path, onnx.ExternalAbove); err != nil {
		return nil, err
	}
	m = nil
	program.ReturnMemory() // the file takes as much again
	if m, err = onnx.Open(path); err != nil {
		return nil, err
	}
	e.Images, e.Difference, err = c.holdONNX(ctx, o, m)
	return e, err
}

// onnxModel translates the forward pass of the classifier. Tuned parameters are merged into the
// weights where this is possible, because the merged model is smaller and faster.
func (c *Classifier) onnxModel(ctx context.Context) (*onnx.Model, error) {
	m, tuning, tuned := c.Model, c.Tuned.Tuning, c.Tuned.Tuned
	if tuning.Mergeable() == nil {
		// Merge may fail for a single layer. The model then computes the modules.
		if weights, err := tuning.Merge(m.Weights, tuned); err == nil {
			head, err := peft.New(m.Config, peft.Selection{})
			if err != nil {
				return nil, err
			}
			m, tuning, tuned = backbone.NewModel(m.Config, m.Preprocessing, weights), head, weights
		}
	}
	m = m.In(backend.F32, false)
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		return nil, err
	}
	recorder := onnx.NewRecorder(be)
	p, err := train.NewPredictor(recorder, m, c.Tuned.Objective, tuning, tuned)
	if err != nil {
		return nil, err
	}
	defer m.Release(recorder)
	defer p.Close()
	size := m.Config.ImageSize
	for _, n := range onnx.Batches {
		images, err := program.Tensor(recorder, make([]uint8, n*size*size*3), n, size, size, 3)
		if err != nil {
			return nil, err
		}
		_, err = p.Logits(ctx, images)
		program.Free(images)
		if err != nil {
			return nil, err
		}
	}
	names := map[[sha256.Size]byte]string{}
	for _, all := range []checkpoint.StateDict{m.Weights, tuned} {
		for _, name := range slices.Backward(slices.Sorted(maps.Keys(all))) {
			names[onnx.Sum(all[name].Data)] = name // of equal tensors, the first name
		}
	}
	return recorder.Translate(names)
}

// describe writes the name of the program and the metadata into m. Values that are not plain text
// are JSON.
func (c *Classifier) describe(m *onnx.Model) error {
	m.Producer, m.ProducerVersion = "spt", version.Version
	t, pre := c.Transform.WithDefaults(), c.Model.Preprocessing
	type entry struct {
		key   string
		value any
	}
	all := []entry{{"class_names", c.Delta.Classes}, {"resize", t.Resize}, {"resize_to", t.ResizeTo}, {"size", t.Size},
		{"interpolation", pre.Interpolation}, {"mean", pre.Mean}, {"std", pre.Std}, {"method", c.Delta.Method}, {"spt_version", version.Version}}
	if c.several() {
		all = append(all, entry{"objective", c.Tuned.Objective.Name()})
		if c.Delta.Thresholds != nil {
			all = append(all, entry{"thresholds", c.Delta.Thresholds})
		}
		if c.Delta.LabelCalibration != nil {
			all = append(all, entry{"label_calibration", c.Delta.LabelCalibration})
		}
	}
	if c.Delta.Temperature != 0 {
		all = append(all, entry{"temperature", c.Delta.Temperature})
	}
	for _, e := range all {
		text, ok := e.value.(string)
		if !ok {
			b, err := json.Marshal(e.value)
			if err != nil {
				return fmt.Errorf("writing the metadata %s: %w", e.key, err)
			}
			text = string(b)
		}
		m.Metadata = append(m.Metadata, onnx.Entry{Key: e.key, Value: text})
	}
	return nil
}

// holdONNX compares the logits of m with those of the classifier, as hold does. It runs m on a
// single image and on batches, because the number of images must not change the logits.
func (c *Classifier) holdONNX(ctx context.Context, o Options, m *onnx.Model) (images int, largest float64, err error) {
	const batch = 4 // more images take more memory
	var logits []float32
	rest, n := o.Probes, 1
	for len(rest) >= c.imageBytes() { // hold refuses a part of an image
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		n = min(n, len(rest)/c.imageBytes())
		out, err := m.Run(rest[:n*c.imageBytes()], n)
		if err != nil {
			return 0, 0, err
		}
		logits = append(logits, out[onnx.Logits]...)
		rest, n = rest[n*c.imageBytes():], batch
	}
	return c.hold(ctx, o, logits)
}
