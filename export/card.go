package export

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/train"
)

// usage is one way to load a model, in a model card.
type usage struct {
	title string // the program, as a heading
	kind  string // the language of the code block, such as "python"
	code  string
}

// card is a model card: the README.md of a folder, in the format of the Hugging Face Hub. It holds
// only what the delta and the run state.
type card struct {
	strings.Builder
	c *Classifier
}

// line writes a line.
func (d *card) line(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

// section writes a heading.
func (d *card) section(title string) { d.line("\n## %s\n", title) }

// row writes a row of a table of two columns. It writes nothing for an empty value.
func (d *card) row(name, format string, args ...any) {
	if value := fmt.Sprintf(format, args...); value != "" {
		d.line("| %s | %s |", name, value)
	}
}

// table begins a table of two columns.
func (d *card) table(name, value string) {
	d.line("| %s | %s |\n| --- | --- |", name, value)
}

// modelCard returns the model card of a classifier. library is the name of the library on the Hub,
// tags lists further tags, and usages says how programs load the folder.
func modelCard(c *Classifier, library string, tags []string, usages []usage) []byte {
	d := &card{c: c}
	d.frontMatter(library, tags)
	d.summary()
	if c.Config != nil {
		d.data()
	}
	if c.Result != nil {
		d.results()
	}
	d.method(library)
	if c.Config != nil {
		d.recipe()
	}
	d.section("How to load it")
	for _, u := range usages {
		d.line("%s:\n\n```%s\n%s\n```\n", u.title, u.kind, u.code)
	}
	d.line("Images become squares of %s", d.transform())
	d.limits()
	return []byte(d.String())
}

// frontMatter writes the metadata, which are YAML.
func (d *card) frontMatter(library string, tags []string) {
	d.line("---")
	d.line("library_name: %s", library)
	d.line("pipeline_tag: image-classification")
	d.line("tags:\n- image-classification")
	for _, tag := range append(tags, "spt") {
		d.line("- %s", tag)
	}
	if base := d.hubName(); base != "" {
		d.line("base_model: %s", base)
	}
	d.line("# license: …   TODO: choose the licence of this model")
	d.line("---")
}

// hubName returns the name of the backbone on the Hugging Face Hub, or "".
func (d *card) hubName() string {
	if r, err := hub.Parse(d.c.Delta.Backbone.File); err == nil {
		return r.Repo
	}
	return ""
}

// summary writes the title and what the model is.
func (d *card) summary() {
	name := "Image classifier"
	if d.c.Config != nil {
		name = filepath.Base(filepath.Clean(d.c.Config.Data.Path))
	}
	d.line("\n# %s\n", markdown(name))
	config := d.c.Model.Config
	tool := "[spt](https://github.com/sptune/spt)"
	if d.c.Config != nil {
		tool += " " + markdown(d.c.Config.Spt)
	}
	d.line("This model sorts images into classes. It is a %s that was tuned with the method `%s` of %s.", markdown(config.String()), code(d.c.Delta.Method), tool)
	d.section("Classes")
	for i, class := range d.c.Delta.Classes {
		if i == cardClasses {
			d.line("\n…and %d more; `config.json` lists all of them.", config.NumClasses-i)
			break
		}
		d.line("%d. %s", i, markdown(class))
	}
}

// cardClasses is the largest number of class names in a model card.
const cardClasses = 200

// data writes the section about the data set.
func (d *card) data() {
	data := d.c.Config.Data
	d.section("Data")
	d.table("Data set", markdown(filepath.Base(filepath.Clean(data.Path))))
	if data.Task != "" {
		d.row("benchmark", "%s", markdown(data.Task))
	}
	d.row("classes", "%d", d.c.Model.Config.NumClasses)
	d.row("training images", "%d", data.Train)
	d.row("validation images", "%d", data.Val)
	d.row("test images", "%d", data.Test)
	d.row("splits", "%s", markdown(data.Split))
}

// results writes the section about the metrics.
func (d *card) results() {
	r := d.c.Result
	m := r.Metrics
	if m == nil && r.Test == nil && r.Val == nil {
		return
	}
	d.section("Results")
	if m == nil {
		d.table("Metric", "Value")
		if r.Test != nil {
			d.row("test accuracy", "%s of %s", wording.Percent(r.Test.Accuracy), wording.Count(r.Test.Images, "image"))
		}
		if r.Val != nil {
			d.row("validation accuracy", "%s", wording.Percent(*r.Val))
		}
		return
	}
	d.table("Metric", fmt.Sprintf("%s split, %s", r.MetricsOf, wording.Count(m.Images, "image")))
	d.row("accuracy", "%s (95 %% interval %s to %s)", wording.Percent(m.Top1), wording.Percent(m.Interval.Low), wording.Percent(m.Interval.High))
	if d.c.Model.Config.NumClasses > 5 {
		d.row("top-5 accuracy", "%s", wording.Percent(m.Top5))
	}
	if e := r.ProbeTest; e != nil {
		d.row("accuracy of a linear probe", "%s", wording.Percent(e.Accuracy))
	}
	d.row("balanced accuracy", "%s", wording.Percent(m.BalancedAccuracy))
	d.row("macro F1", "%s", wording.Percent(m.Macro.F1))
	d.row("log loss", "%.4f", m.LogLoss)
	d.row("expected calibration error", "%s", wording.Percent(m.Calibration.ECE))
	if r.Val != nil && r.MetricsOf != "val" {
		d.row("validation accuracy, before the final training", "%s", wording.Percent(*r.Val))
	}
	d.line("\nThe interval is Wilson's interval for the accuracy. The final training used the images of %s.", strings.ReplaceAll(r.TrainedOn, "+", " and "))
}

// method writes the section about what was tuned.
func (d *card) method(library string) {
	delta, counts := d.c.Delta, d.c.Tuned.Tuning.Counts
	d.section("Method")
	d.table("Method", "`"+code(delta.Method)+"`")
	if base := d.hubName(); base != "" {
		d.row("base model", "[%s](https://huggingface.co/%s)", base, base)
	} else {
		d.row("base model", "%s", markdown(delta.Backbone.File))
	}
	d.row("base model, SHA-256 of its weights", "`%s`", delta.Backbone.Fingerprint)
	d.row("tuned parameters, without the head", "%s of %s, %s", wording.Thousands(counts.Tuned()), wording.Thousands(delta.Backbone.Parameters),
		wording.Percent(float64(counts.Tuned())/float64(delta.Backbone.Parameters)))
	d.row("parameters of the head", "%s", wording.Thousands(counts.Head))
	d.row("structured modules", "%s", strings.TrimSpace(strings.Join([]string{module(delta.Selection.Module), rank(delta.Selection.Rank)}, " ")))
	if p := delta.Plan; p != nil {
		d.row("budget", "%s parameters, chosen by their sensitivity", wording.Thousands(p.Budget))
	}
	if library == "peft" {
		d.line("\nThis folder holds only the tuned parameters. It needs the base model.")
	} else {
		d.line("\nThe tuned parameters are merged into the weights of the base model.")
	}
}

// recipe writes the section about the training.
func (d *card) recipe() {
	config := d.c.Config
	recipe, lr := config.Recipe(), 0.0
	if d.c.Result != nil {
		lr = d.c.Result.LR
	}
	recipe = recipe.WithDefaults(config.Data.Train)
	d.section("Training")
	d.table("Option", "Value")
	d.row("optimiser", "AdamW")
	d.row("epochs", "%d", recipe.Epochs)
	d.row("images in a mini-batch", "%d", recipe.BatchSize)
	d.row("learning rate", "%g, cosine schedule after %g epochs of warm-up", cmp.Or(lr, recipe.LR), recipe.WarmupEpochs)
	d.row("weight decay", "%g", recipe.WeightDecay)
	d.row("dropout, drop-path", "%g, %g", recipe.Dropout, recipe.DropPath)
	d.row("augmentation", "%s", cmp.Or(strings.Join(config.Data.Images.Augmentation(), ", "), "none"))
	d.row("seed", "%d", recipe.Seed)
	if recipe.Compat == train.CompatRelease {
		d.row("recipe", "as in the release of the paper's code")
	}
}

// limits writes the section about the limits of the model.
func (d *card) limits() {
	d.section("Limits")
	d.line("- The model knows only the classes above. It gives one of them for every image.")
	if r := d.c.Result; r == nil || r.Metrics == nil && r.Test == nil && r.Val == nil {
		d.line("- This folder states no result on images that the training did not use.")
	} else {
		d.line("- The results hold for images like those of the data set. Other cameras, places or times can give others.")
	}
	if d.c.Transform.TestFlip {
		d.line("- The results average the predictions of each image and its mirror image. The model predicts the image alone.")
	}
	if t := d.c.Delta.Temperature; t != 0 {
		d.line("- The softmax of the logits is not calibrated. Divide the logits by %.4g first for calibrated probabilities.", t)
	} else {
		d.line("- The softmax of the logits is not calibrated: a probability does not say how often the class is right.")
	}
}

// transform describes how an image becomes the input of the model.
func (d *card) transform() string {
	t := d.c.Transform.WithDefaults()
	how := map[string]string{
		"direct":      "%[1]d px by a bicubic resize that ignores the aspect ratio",
		"direct-crop": "%[2]d px by a bicubic resize that ignores the aspect ratio, and the central %[1]d px are cut out",
		"crop":        "%[1]d px: a bicubic resize of the shorter side to %[2]d px, and a cut of the centre",
	}[t.Resize]
	p := d.c.Model.Preprocessing
	if t.Resize == "direct" {
		how = fmt.Sprintf(how, t.Size)
	} else {
		how = fmt.Sprintf(how, t.Size, t.ResizeTo)
	}
	return fmt.Sprintf("%s. Pixels from 0 to 1 are normalised by the mean %v and the standard deviation %v.", how, p.Mean, p.Std)
}

func module(name string) string {
	if name == "" {
		return ""
	}
	return "`" + code(name) + "`"
}

func rank(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("of rank %d", n)
}

// markdown returns text so that Markdown shows it unchanged on one line. It escapes all ASCII
// punctuation that can have a meaning, and replaces control characters by spaces.
func markdown(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029:
			r = ' '
		case strings.ContainsRune("\\`*_{}[]<>()#+!|~&$", r):
			out.WriteByte('\\')
		}
		out.WriteRune(r)
	}
	return out.String()
}

// code returns the name of a method or module for a code span.
func code(name string) string {
	return strings.NewReplacer("`", "'", "\n", " ", "|", "/").Replace(name)
}

// timmCard returns the model card of a folder of timm.
func timmCard(c *Classifier) []byte {
	return modelCard(c, "timm", []string{"timm", "transformers"}, []usage{
		{"timm, with `DIR` the path of this folder", "python", `import timm
from PIL import Image

model = timm.create_model("local-dir:DIR", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("photo.jpg").convert("RGB")).unsqueeze(0))
print(model.pretrained_cfg["label_names"][logits.argmax().item()])`},
		{"Transformers", "python", `from transformers import pipeline

classify = pipeline("image-classification", model="DIR")
print(classify("photo.jpg"))`},
		{"spt", "sh", shell.Command("spt", "predict", "--model", "DIR/"+weightsFile, "photo.jpg")},
	})
}
