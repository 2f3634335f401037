package cli

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone/catalogue"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/export"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/sweep"
	"github.com/sptune/spt/train"
)

// flagTable returns the flags of all commands. A flag that differs between commands has several
// rows. It builds the table again after a program has registered a module or an objective, whose
// names are values of flags.
func flagTable() []flagRow {
	names := strings.Join(append(peft.Names(), objective.Names()...), " ")
	lastTable.Lock()
	defer lastTable.Unlock()
	if lastTable.rows == nil || lastTable.names != names {
		lastTable.rows, lastTable.names = newFlagTable(), names
	}
	return slices.Clone(lastTable.rows)
}

// lastTable holds the last result of newFlagTable. A command reads the table dozens of times.
var lastTable struct {
	sync.Mutex
	rows  []flagRow
	names string // of the registered modules and objectives
}

// newFlagTable makes the table of flagTable.
func newFlagTable() []flagRow {
	recipe, scoring, planning := train.VTAB(), sensitivity.Options{}.WithDefaults(), plan.Options{}.WithDefaults()
	return []flagRow{

		// The backbone.
		{name: "model", on: "tune score plan train eval predict", group: modelGroup, common: true,
			help: "the backbone: a checkpoint file or its folder, a name that 'spt models' lists, such as vit_tiny, " +
				"hf:OWNER/NAME[@REVISION][:FILE] for a model of the Hugging Face Hub, or demo for the embedded backbone",
			kind: "FILE", file: inputFile, values: modelNames,
			field: func(o *options) any { return (*modelValue)(&o.config.Model.Path) }},
		{name: "model", on: "merge export", group: modelGroup, common: true,
			help: "the backbone on which the delta was tuned: a checkpoint file or its folder, a name that 'spt models' lists, hf:OWNER/NAME, or demo",
			kind: "FILE", file: inputFile, values: modelNames, auto: "the path in the run's folder",
			field: func(o *options) any { return (*modelValue)(&o.config.Model.Path) }},
		{name: "model", on: "bench", group: modelGroup, common: true,
			help: "the size of the backbone: tiny, small, base, swin-tiny, convnext-tiny, or a name that 'spt models' " +
				"lists; its weights are random; --weights FILE measures a checkpoint",
			kind: "SIZE", values: bench.Sizes, closed: true, def: "tiny", auto: "tiny; base with --suite", excludes: []string{"scaling"},
			field: func(o *options) any { return &o.bench.Name }},
		{name: "weights", on: "bench", group: modelGroup, common: true,
			help: "the backbone: a checkpoint file or its folder, a name that 'spt models' lists, hf:OWNER/NAME, or demo",
			kind: "FILE", file: inputFile, values: modelNames, auto: "random weights", excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return (*modelValue)(&o.config.Model.Path) }},
		{name: "weights-key", on: "tune score plan train eval predict merge export", group: modelGroup,
			help: "the key of the weights in a checkpoint that holds several models, such as ema or teacher: the keys of their " +
				"dict and the prefix of their names, separated by dots; . for names without a prefix at the root",
			kind: "KEY", auto: "the only model, or the first under a usual key; with --delta and --resume as in the run",
			needs: []string{"model|resume|delta"},
			field: func(o *options) any { return &o.config.Model.WeightsKey }},
		{name: "weights-key", on: "bench", group: modelGroup,
			help: "the key of the weights in a checkpoint that holds several models", kind: "KEY", needs: []string{"weights"},
			auto:  "the only model, or the first under a usual key",
			field: func(o *options) any { return &o.config.Model.WeightsKey }},
		{name: "image-size", on: "tune score plan train eval predict", group: modelGroup,
			help: "the side of the images in pixels; the position embedding is resized to match",
			kind: "PX", bounds: oneOrMore, auto: "from the checkpoint",
			needs: []string{"model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Model.ImageSize }},
		{name: "num-heads", on: "tune score plan train eval predict", group: modelGroup,
			help: "the number of attention heads",
			kind: "N", bounds: oneOrMore, auto: "from the checkpoint, else the number in published models of the same width",
			needs: []string{"model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Model.NumHeads }},
		{name: "layer-norm-eps", on: "tune score plan train eval predict", group: modelGroup,
			help: "the epsilon of the layer norms",
			kind: "NUMBER", bounds: aboveZero, auto: "from the checkpoint, else the epsilon of the library that wrote the checkpoint",
			needs: []string{"model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Model.LayerNormEps }},
		{name: "mean", on: "tune score plan train eval predict", group: modelGroup,
			help: "the mean of the pixels of each channel, from 0 to 1; give --std too",
			kind: "R,G,B", auto: "from the checkpoint",
			needs: []string{"std", "model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &channelsValue{&o.config.Model.Mean, &o.config.Model.Preprocessing} }},
		{name: "std", on: "tune score plan train eval predict", group: modelGroup,
			help: "the standard deviation of the pixels of each channel, above 0 and at most 1; give --mean too",
			kind: "R,G,B", auto: "from the checkpoint",
			needs: []string{"mean", "model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &channelsValue{&o.config.Model.Std, &o.config.Model.Preprocessing} }},
		{name: "delta", on: "eval merge", group: modelGroup, common: true,
			help: "the run folder that holds the delta, or an adapter folder of PEFT, or several such folders; --model is needed only if the backbone has moved",
			kind: "DIR,...", file: inputFile, values: runFolders,
			field: func(o *options) any { return &o.delta }},
		{name: "delta", on: "predict export", group: modelGroup, common: true,
			help: "the run folder that holds the delta, or an adapter folder of PEFT; --model is needed only if the backbone has moved",
			kind: "DIR", file: inputFile, values: runFolders,
			field: func(o *options) any { return &o.delta }},
		{name: "classes", on: "bench", group: modelGroup,
			help: "the number of classes of the head",
			kind: "N", bounds: oneOrMore, def: 100, excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return &o.classes }},

		// The data set.
		{name: "data", on: "tune score train eval", group: dataGroup, common: true,
			help: "the data set: a folder of class folders, VTAB-1k lists, FGVC JSON files, parquet files, tables or shards; " +
				"an archive (" + or(dataset.ArchiveNames()) + "); one parquet file, table or few-shot list; or " +
				"hf-dataset:OWNER/NAME[/CONFIG][@REVISION] for a data set of the Hugging Face Hub",
			kind: "DATA", file: imageFolder,
			field: func(o *options) any { return (*dataValue)(&o.config.Data.Path) }},
		{name: "data", on: "merge export", group: dataGroup, common: true,
			help: fmt.Sprintf("a data set; the command compares the logits of %d of its images too", dataProbes),
			kind: "DIR", file: imageFolder,
			field: func(o *options) any { return (*dataValue)(&o.config.Data.Path) }},
		{name: "probe", on: "merge export", group: dataGroup, common: true,
			help: "a folder of images; the command compares their logits too",
			kind: "DIR", file: imageFolder,
			field: func(o *options) any { return &o.probe }},
		{name: "task", on: "tune score train eval data-verify", group: dataGroup, common: true,
			help: "the name of the data set in a benchmark, from 'spt data tasks': checks the number of classes and " +
				"sets the recipe of the benchmark",
			kind: "NAME", values: taskNames, closed: true,
			field: func(o *options) any { return &o.config.Data.Task }},
		{name: "task", on: "demo", group: dataGroup, common: true,
			help: "the synthetic task: " + or(demo.Tasks()),
			kind: "NAME", values: demo.Tasks, closed: true, def: demo.DefaultTask,
			field: func(o *options) any { return &o.demo.Task }},
		{name: "layout", on: "tune score train eval data-verify data-diff", group: dataGroup, common: true,
			help: "the layout of the data set: " + or(dataset.Layouts()),
			kind: "NAME", values: dataset.Layouts, closed: true, auto: "detected from the files",
			field: func(o *options) any { return &o.config.Data.Layout }},
		{name: "image-column", on: "tune score train eval data-verify data-diff", group: dataGroup,
			help: "the column of images in parquet files and tables",
			kind: "COLUMN", auto: "the column with a usual name, such as image",
			field: func(o *options) any { return &o.config.Data.ImageColumn }},
		{name: "image-column", on: "predict", group: dataGroup,
			help: "the column of image paths in tables",
			kind: "COLUMN", auto: "the column with a usual name, such as image",
			field: func(o *options) any { return &o.config.Data.ImageColumn }},
		{name: "label-column", on: "tune score train eval data-verify data-diff", group: dataGroup,
			help: "the column of labels in parquet files and tables",
			kind: "COLUMN", auto: "the column with a usual name, such as label",
			field: func(o *options) any { return &o.config.Data.LabelColumn }},
		{name: "label-delimiter", on: "tune score train eval data-verify", group: dataGroup,
			help: "the text between several labels in a cell of the label column, such as | in cat|dog; an empty cell means no label",
			kind: "TEXT", auto: "none: a cell is one label",
			excludes: []string{"label-columns"},
			field:    func(o *options) any { return &o.config.Data.LabelDelimiter }},
		{name: "label-columns", on: "tune score train eval data-verify", group: dataGroup,
			help: "the columns of a table that have 1 for the images with the label of this name, and 0 for others, separated by " +
				"commas; an image may have any number of labels",
			kind: "COLUMNS", auto: "all other columns, if they hold 0 and 1 and there is no column of labels",
			excludes: []string{"label-column"},
			field:    func(o *options) any { return (*columnsValue)(&o.config.Data.LabelColumns) }},
		{name: "image-root", on: "tune score train eval data-verify", group: dataGroup,
			help: "the folder that the image paths of a table are relative to",
			kind: "DIR", file: imageFolder, auto: "the folder of the table, or the only folder below that holds the images",
			field: func(o *options) any { return (*pathValue)(&o.config.Data.ImageRoot) }},
		{name: "image-suffix", on: "tune score train eval data-verify", group: dataGroup,
			help: "text that completes each image path of a table to the name of a file, such as .jpg",
			kind: "TEXT", auto: "none, or the only extension that leads to images",
			field: func(o *options) any { return &o.config.Data.ImageSuffix }},
		{name: "group-column", on: "tune score train eval data-verify", group: dataGroup,
			help: "the column of parquet files and tables that names the group of each image, such as a patient, an object or " +
				"a place; splits hold whole groups",
			kind: "COLUMN", excludes: []string{"group-pattern"},
			field: func(o *options) any { return &o.config.Data.GroupColumn }},
		{name: "group-pattern", on: "tune score train eval data-verify", group: dataGroup,
			help: "a regular expression for the path of each image below the folder of the data set; its first part in " +
				"parentheses names the group of the image, as in '/([^/_]+)_[^/]*$' for the text before the last _ of the name; " +
				"splits hold whole groups",
			kind: "REGEXP", field: func(o *options) any { return &o.config.Data.GroupPattern }},
		{name: "group-duplicates", on: "tune score train eval data-verify", group: dataGroup,
			help:  "keep equal and nearly equal images on one side of a split; every image is decoded once for it, and a cache keeps its hash",
			field: func(o *options) any { return &o.config.Data.GroupDuplicates }},
		{name: "folds", on: "tune", group: dataGroup, common: true,
			help: "the number of folds of a cross-validation: one run for each fold, which tests on its images and trains on all " +
				"others; a test split that the data set has itself stays untouched",
			kind: "K", bounds: oneOrMore, excludes: []string{"validation-only", "explain", "live", "tensorboard", "mlflow"},
			field: func(o *options) any { return &o.config.Folds.Number }},
		{name: "final", on: "tune", group: dataGroup, common: true,
			help:  "after the folds, train once more on all images and deliver the delta of this training",
			needs: []string{"folds"},
			field: func(o *options) any { return &o.config.Folds.Final }},
		{name: "val-fraction", on: "tune score train eval data-verify", group: dataGroup,
			help: "the share of the training images that becomes the validation split, if the data set has none; " +
				"0 for no validation split",
			kind: "SHARE", bounds: shares, none: true, def: 0.1,
			field: func(o *options) any { return &o.config.Data.ValFraction }},
		{name: "test-fraction", on: "tune score train eval data-verify", group: dataGroup,
			help: "the share of the training images that becomes the test split, if the data set has none; 0 for no " +
				"test split",
			kind: "SHARE", bounds: shares, none: true, def: 0.1,
			field: func(o *options) any { return &o.config.Data.TestFraction }},
		{name: "split-seed", on: "tune score train eval data-verify", group: dataGroup,
			help: "the seed that draws the splits of --val-fraction and --test-fraction",
			kind: "SEED", def: 0,
			field: func(o *options) any { return &o.config.Data.SplitSeed }},
		{name: "max-images", on: "tune score train eval data-verify", group: dataGroup,
			help: "use at most N images of each split, of all classes in their shares, drawn with --split-seed",
			kind: "N", bounds: oneOrMore, auto: "all; with --time, as many as the time allows",
			field: func(o *options) any { return &o.config.Data.MaxImages }},
		{name: "skip-bad-images", on: "tune score train eval", group: dataGroup,
			help:  "skip and list images that are missing or broken, instead of failing",
			local: true,
			field: func(o *options) any { return &o.config.Data.SkipBadImages }},
		{name: "skip-bad-images", on: "predict", group: dataGroup,
			help:  "list images that cannot be read, but do not fail because of them",
			field: func(o *options) any { return &o.config.Data.SkipBadImages }},
		{name: "split", on: "eval", group: dataGroup, common: true,
			help: "the split to measure: test, val, train or all",
			kind: "NAME", values: words("test", "val", "train", "all"), closed: true, def: "test",
			field: func(o *options) any { return &o.split }},
		{name: "images-per-class", on: "pretrain", group: dataGroup, common: true,
			help: "the number of synthetic training images of each class",
			kind: "N", bounds: oneOrMore, def: demo.PretrainRecipe().ImagesPerClass,
			field: func(o *options) any { return &o.pretrain.ImagesPerClass }},

		// The preprocessing of images.
		{name: "resize", on: "tune score train eval predict", group: imagesGroup,
			help: "how an image becomes a square: direct resizes both sides to the image size; crop resizes the " +
				"shorter side to --resize-to and cuts out the centre; direct-crop resizes both sides to --resize-to " +
				"and cuts out the centre; model does what the files beside the checkpoint say of its pretraining",
			kind: "HOW", values: words("direct", "crop", "direct-crop", run.ModelResize), closed: true, def: "direct", excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Data.Images.Resize }},
		{name: "resize-to", on: "tune score train eval predict", group: imagesGroup,
			help: "the size in pixels before the crop, for --resize crop and direct-crop",
			kind: "PX", bounds: oneOrMore, auto: "256/224 of the image size", excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Data.Images.ResizeTo }},
		{name: "random-crop", on: "tune train", group: imagesGroup,
			help:  "cut training images out at a random place instead of the centre, with --resize crop or direct-crop",
			field: func(o *options) any { return &o.config.Data.Images.RandomCrop }},
		{name: "flip", on: "tune train", group: imagesGroup,
			help:  "mirror half of the training images at random",
			field: func(o *options) any { return &o.config.Data.Images.HorizontalFlip }},
		{name: "augment", on: "tune", group: imagesGroup, common: true,
			help: "the augmentation of training images: none, light (flips and random resized crops), strong (light, " +
				"RandAugment, random erasing, Mixup and CutMix), or auto, which compares none and light on the validation " +
				"images in short trainings; the next flags change single options",
			kind: "NAME", values: func() []string { return append(run.Presets(), run.AutoAugment) }, closed: true, auto: "none; with --task the recipe of the benchmark",
			field: func(o *options) any {
				return augmentValue{(*presetValue)(&o.config.Data.Images), &o.config.Tune.AutoAugment}
			}},
		{name: "augment", on: "train", group: imagesGroup, common: true,
			help: "the augmentation of training images: none, light (flips and random resized crops) or strong (light, " +
				"RandAugment, random erasing, Mixup and CutMix); the next flags change single options",
			kind: "NAME", values: run.Presets, closed: true, auto: "none; with --task the recipe of the benchmark",
			field: func(o *options) any { return (*presetValue)(&o.config.Data.Images) }},
		{name: "crop-scale", on: "tune train", group: imagesGroup,
			help: "cut a random part out of each training image, from MIN to MAX of its area, and resize it to the image size; 0 for none",
			kind: "MIN,MAX", values: words("0.5,1"), auto: "as in --augment",
			field: func(o *options) any { return pair(&o.config.Data.Images.Augment.CropScale) }},
		{name: "crop-ratio", on: "tune train", group: imagesGroup,
			help: "the smallest and the largest width of the part of --crop-scale, divided by its height",
			kind: "MIN,MAX", values: words("0.75,1.3333"), auto: "3/4 to 4/3",
			field: func(o *options) any { return pair(&o.config.Data.Images.Augment.CropRatio) }},
		{name: "vertical-flip", on: "tune train", group: imagesGroup,
			help:  "turn half of the training images upside down at random",
			field: func(o *options) any { return &o.config.Data.Images.Augment.VerticalFlip }},
		{name: "colour-jitter", on: "tune train", group: imagesGroup,
			help: "change brightness, contrast and saturation of training images by a random factor of up to 1±B, 1±C and 1±S, and " +
				"turn the hue by up to ±H of the circle, at most 0.5; 0 for none",
			kind: "B,C,S,H", values: words("0.4,0.4,0.4,0.1"), auto: "0",
			field: func(o *options) any {
				a := &o.config.Data.Images.Augment
				return numbersValue{&a.Brightness, &a.Contrast, &a.Saturation, &a.Hue}
			}},
		{name: "rand-augment", on: "tune train", group: imagesGroup,
			help: "the number of random operations of RandAugment on each training image",
			kind: "N", bounds: zeroOrMore, auto: "as in --augment",
			field: func(o *options) any { return &o.config.Data.Images.Augment.RandAugment }},
		{name: "rand-augment-magnitude", on: "tune train", group: imagesGroup,
			help: "the strength of the operations of RandAugment, from 1 to 30",
			kind: "N", bounds: zeroOrMore, auto: "9",
			field: func(o *options) any { return &o.config.Data.Images.Augment.Magnitude }},
		{name: "random-erasing", on: "tune train", group: imagesGroup,
			help: "the share of training images in which a random rectangle is erased",
			kind: "SHARE", bounds: zeroOrMore, auto: "as in --augment",
			field: func(o *options) any { return &o.config.Data.Images.Augment.Erasing }},
		{name: "mixup", on: "tune train", group: imagesGroup,
			help: "the alpha of Mixup, which averages each training image with another one of its mini-batch; 0 for none",
			kind: "ALPHA", bounds: zeroOrMore, auto: "as in --augment",
			field: func(o *options) any { return &o.config.Data.Images.Augment.Mixup }},
		{name: "cutmix", on: "tune train", group: imagesGroup,
			help: "the alpha of CutMix, which pastes a rectangle of another image of the mini-batch into each training image; " +
				"with --mixup, each mini-batch takes one of the two; 0 for none",
			kind: "ALPHA", bounds: zeroOrMore, auto: "as in --augment",
			field: func(o *options) any { return &o.config.Data.Images.Augment.CutMix }},
		{name: "test-flip", on: "tune train", group: imagesGroup,
			help:  "average the predictions of each image and its mirror image, in validation, test and prediction; takes twice the time",
			field: func(o *options) any { return &o.config.Data.Images.TestFlip }},
		{name: "test-flip", on: "eval predict", group: imagesGroup,
			help: "average the predictions of each image and its mirror image; takes twice the time",
			auto: "as in the delta", local: true,
			field: func(o *options) any { return &o.config.Data.Images.TestFlip }},
		{name: "cache", on: "tune score train eval", group: imagesGroup,
			help: "the memory for the cache of decoded images, such as 512MiB; 0 for no cache",
			kind: "SIZE", auto: "1GiB", local: true,
			field: func(o *options) any { return (*memoryValue)(&o.config.Data.Images.CacheBytes) }},

		// The method and its size.
		{name: "method", on: "tune", group: methodGroup, common: true,
			help: "the method; the list is above",
			kind: "NAME", values: methodNames, def: method.SPTLoRA,
			field: func(o *options) any { return (*methodValue)(o.method) }},
		{name: "method", on: "train", group: methodGroup, common: true,
			help: "the method, if it needs no plan; the list is above",
			kind: "NAME", values: methodsWithoutPlan, auto: "the method of the plan",
			field: func(o *options) any { return (*methodValue)(o.method) }},
		{name: "method", on: "plan", group: methodGroup, common: true,
			help: planMethods(),
			kind: "NAME", values: methodsWithPlan, def: method.SPTLoRA, excludes: []string{"compare"},
			field: func(o *options) any { return (*methodValue)(o.method) }},
		{name: "method", on: "demo", group: methodGroup, common: true,
			help: "the methods to compare, separated by commas: " + comma(methodNames()),
			kind: "NAMES", values: methodNames, auto: comma(texts(demo.DefaultMethods())),
			field: func(o *options) any { return (*methodsValue)(&o.demo.Methods) }},
		{name: "method", on: "bench", group: methodGroup, common: true,
			help: "the method whose step is measured: " + comma(benchMethods()) + "; forward is prediction, score is " +
				"stage 1",
			kind: "NAME", values: benchMethods, def: method.SPTLoRA, excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return (*benchMethodValue)(&o.bench.Method) }},
		{name: "objective", on: "tune score train", group: methodGroup,
			help: "the objective, which sets the loss and the metrics: " + or(objective.Names()),
			kind: "NAME", values: objective.Names, auto: objective.SingleLabel.Name() + ", or " + objective.MultiLabel.Name() + " for images with several labels",
			field: func(o *options) any { return &o.config.Objective }},
		{name: "structured", on: "tune plan", group: methodGroup,
			help: "the structured module of SPT: " + or(peft.Names()) + "; --structured NAME is short for --method spt-NAME",
			kind: "NAME", values: peft.Names, closed: true, auto: "the module of --method", excludes: []string{"resume", "compare"},
			field: func(o *options) any { return &o.structured }},
		{name: "budget", on: "tune", group: methodGroup, common: true,
			help: "the largest number of parameters to tune, not counting the head, such as 0.4M, 400k or 0.5% of the " +
				"backbone; with a list, such as 0.2M,0.4M, validation chooses the best budget",
			kind: "PARAMS", auto: spt.DefaultBudget.String() + " for SPT",
			field: func(o *options) any { return (*budgetsValue)(&o.config.Tune.Budgets) }},
		{name: "budget", on: "train", group: methodGroup, common: true,
			help: "the largest number of parameters to tune, not counting the head, such as 0.4M or 0.5%; the budget " +
				"sets the rank of the modules",
			kind: "PARAMS", excludes: []string{"plan"},
			field: func(o *options) any { return (*budgetValue)(&o.single.Budget) }},
		{name: "budget", on: "plan", group: methodGroup, common: true,
			help: "the largest number of parameters to tune, not counting the head, such as 0.4M or 400k; with --model " +
				"also a share of the backbone, such as 0.5%; a list, such as 0.2M,0.4M, makes a plan for each budget",
			kind: "PARAMS", excludes: []string{"compare", "import"},
			field: func(o *options) any { return (*budgetsValue)(&o.budgets) }},
		{name: "budget", on: "demo", group: methodGroup, common: true,
			help: "the largest number of parameters to tune, not counting the head, for each method that takes a budget",
			kind: "PARAMS", def: demo.DefaultBudget,
			field: func(o *options) any { return (*budgetValue)(&o.demo.Budget) }},
		{name: "budget", on: "bench", group: methodGroup, common: true,
			help: "the largest number of parameters to tune, not counting the head, such as 0.4M, 400k or 0.5%",
			kind: "PARAMS", auto: "0.4M for SPT, 0.2M for SPT on a tiny ViT; no budget but rank 8 for other methods with modules",
			excludes: []string{"suite", "scaling"},
			field:    func(o *options) any { return (*budgetValue)(&o.bench.Budget) }},
		{name: "rank", on: "tune", group: methodGroup, common: true,
			help: "the rank of the modules",
			kind: "N", bounds: oneOrMore,
			auto: "8, less on a backbone narrower than 768, more for a large budget; for a method without a plan the " +
				"largest rank within --budget",
			field: func(o *options) any { return o.rank }},
		{name: "rank", on: "plan", group: methodGroup,
			help: "the rank of the modules",
			kind: "N", bounds: oneOrMore, auto: "8, less on a backbone narrower than 768, more for a large budget",
			excludes: []string{"compare"},
			field:    func(o *options) any { return o.rank }},
		{name: "rank", on: "train", group: methodGroup, common: true,
			help: "the rank of the modules",
			kind: "N", bounds: oneOrMore, auto: "the largest rank within --budget; 8 without --budget",
			excludes: []string{"plan"},
			field:    func(o *options) any { return o.rank }},
		{name: "target-modules", on: "tune train", group: methodGroup,
			help: "the linear layers of each block that get a module, such as q,v,fc1, for " + or(takers("target-modules")),
			kind: "NAMES", auto: "all linear layers of the blocks", excludes: []string{"plan"},
			field: func(o *options) any { return (*wordsValue)(&o.sizes.TargetModules) }},
		{name: "prompts", on: "tune train", group: methodGroup,
			help: "the number of prompts, for " + or(takers("prompts")),
			kind: "N", bounds: oneOrMore,
			auto:     methodDefaults("prompts", func(o method.Options) any { return o.Prompts }),
			excludes: []string{"plan"},
			field:    func(o *options) any { return &o.sizes.Prompts }},
		{name: "bottleneck", on: "tune train", group: methodGroup,
			help: "the width of the bottlenecks, for " + or(takers("bottleneck")),
			kind: "N", bounds: oneOrMore,
			auto:     methodDefaults("bottleneck", func(o method.Options) any { return o.Bottleneck }),
			excludes: []string{"plan"},
			field:    func(o *options) any { return &o.sizes.Bottleneck }},
		{name: "scale", on: "tune train", group: methodGroup,
			help: "the factor on the output of the bottlenecks, for " + or(takers("scale")),
			kind: "NUMBER", bounds: aboveZero,
			auto: methodDefaults("scale", func(o method.Options) any { return o.Scale }), excludes: []string{"plan"},
			field: func(o *options) any { return &o.sizes.Scale }},

		{name: "train-from-block", on: "tune train", group: methodGroup, option: "from-block",
			help: "tune only block K, counted from 0, and all that follows; the tokens that enter the block are computed once " +
				"for each image and kept in memory, so training is faster; without random crops and flips",
			kind: "K", bounds: oneOrMore, auto: "train the whole backbone, from the images", excludes: []string{"plan"},
			field: func(o *options) any { return &o.sizes.FromBlock }},
		{name: "train-from-block", on: "plan", group: methodGroup, option: "from-block",
			help: "choose parameters only of block K, counted from 0, and of all that follows; 'spt train' then trains from this block",
			kind: "K", bounds: oneOrMore, auto: "all blocks", excludes: []string{"compare", "import"},
			field: func(o *options) any { return &o.config.Tune.Plan.FromBlock }},

		// Scoring and planning: stages 1 and 2.
		{name: "scores", on: "tune", group: scoringGroup, common: true,
			help: "the scores to use instead of scoring: a file of 'spt score', or of a run with --keep-scores",
			kind: "FILE", file: inputFile, option: "scores-file",
			field: func(o *options) any { return (*pathValue)(&o.config.Tune.ScoresFile) }},
		{name: "keep-scores", on: "tune", group: scoringGroup,
			help:  "keep the scores in the run folder; they are as large as the backbone",
			field: func(o *options) any { return &o.config.Tune.KeepScores }},
		{name: "probe-head", on: "tune", group: scoringGroup,
			help:  "score and train from the head of a linear probe on the features of the frozen backbone; auto: on with --recipe auto",
			field: func(o *options) any { return &o.config.Tune.Probe }},
		{name: "probe-head", on: "score", group: scoringGroup, common: true,
			help:  "score with the head of a linear probe on the features of the frozen backbone, instead of a random head",
			field: func(o *options) any { return &o.config.Tune.Probe }},
		{name: "scores", on: "plan", group: scoringGroup, common: true,
			help: "the scores: a file of 'spt score', or of a run with --keep-scores; with --compare, those in which the " +
				"plans have their reach",
			kind: "FILE", file: inputFile, excludes: []string{"import"},
			field: func(o *options) any { return &o.scores }},
		{name: "import", on: "plan", group: scoringGroup, common: true,
			help: "a published selection, a .pth file; the plan is made from it instead of from scores",
			kind: "FILE", file: inputFile, excludes: []string{"compare"},
			field: func(o *options) any { return &o.published }},
		{name: "compare", on: "plan", group: scoringGroup, common: true,
			help:  "compare two plans and write none",
			field: func(o *options) any { return &o.compare }},
		{name: "plan", on: "train", group: scoringGroup, common: true,
			help: "the plan: a file of 'spt plan' or a published selection",
			kind: "FILE", file: inputFile, excludes: []string{"resume"},
			field: func(o *options) any { return &o.plan }},
		{name: "plan", on: "bench", group: scoringGroup,
			help: "the plan: a file of 'spt plan' or a published selection",
			kind: "FILE", file: inputFile, auto: "a plan from random scores", excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return &o.plan }},
		{name: "criterion", on: "tune score", group: scoringGroup,
			help: "the scoring criterion: " + or(criteria()) + "; magnitude and random do not depend on the images",
			kind: "NAME", values: criteria, closed: true, def: sensitivity.SquaredGradient,
			excludes: []string{"scores"},
			field:    func(o *options) any { return (*string)(&o.config.Tune.Score.Criterion) }},
		{name: "score-batches", on: "tune score", group: scoringGroup,
			help: "the number of mini-batches of training images for scoring",
			kind: "N", bounds: oneOrMore, def: scoring.Batches,
			excludes: []string{"scores"},
			field:    func(o *options) any { return &o.config.Tune.Score.Batches }},
		{name: "score-batch-size", on: "tune score", group: scoringGroup,
			help: "the number of images in a mini-batch for scoring",
			kind: "N", bounds: oneOrMore, def: scoring.BatchSize,
			excludes: []string{"scores"},
			field:    func(o *options) any { return &o.config.Tune.Score.BatchSize }},
		{name: "plan-rule", on: "tune plan", group: scoringGroup,
			help: "the rule of planning: gain gives each matrix a LoRA of its own rank, and takes what gains most for each " +
				"parameter; random-places moves the modules, vectors and entries of the plan to random places, as a " +
				"control, and gain-random-places those of gain; per-neuron takes the largest scores of each output " +
				"neuron and every bias, as GPS",
			kind: "NAME", values: plan.Rules, closed: true, auto: "the rule of SPT", excludes: []string{"compare", "import"},
			field: func(o *options) any { return &o.config.Tune.Plan.Rule }},
		{name: "alpha", on: "tune plan", group: scoringGroup,
			help: "the module threshold: a matrix with c selected entries gets a module of P parameters if c is at " +
				"least P/alpha",
			kind: "NUMBER", bounds: aboveZero, def: planning.Alpha, excludes: []string{"compare", "import"},
			field: func(o *options) any { return &o.config.Tune.Plan.Alpha }},
		{name: "beta", on: "tune plan", group: scoringGroup,
			help: "the vector threshold: a vector is tuned whole if at least 1/beta of its entries are selected",
			kind: "NUMBER", bounds: aboveZero, def: planning.Beta, excludes: []string{"compare", "import"},
			field: func(o *options) any { return &o.config.Tune.Plan.Beta }},
		{name: "compat", on: "tune", group: scoringGroup,
			help: "the compatibility mode: release scores, plans, for one of its seven budgets, and trains as the paper's " +
				"published code does",
			kind: "MODE", values: words(plan.CompatRelease), closed: true, auto: "no mode",
			field: func(o *options) any { return &o.config.Tune.Plan.Compat }},
		{name: "compat", on: "score", group: scoringGroup,
			help: "the compatibility mode: release scores as the paper's published code does, with drop-path",
			kind: "MODE", values: words(plan.CompatRelease), closed: true, auto: "no mode",
			field: func(o *options) any { return &o.config.Tune.Score.Compat }},
		{name: "compat", on: "plan", group: scoringGroup,
			help: "the compatibility mode: release makes the plan that the paper's published code makes, for one of its " +
				"seven budgets; 'spt train' then trains as this code does",
			kind: "MODE", values: words(plan.CompatRelease), closed: true, auto: "no mode: the plan uses as much of the budget as possible",
			excludes: []string{"compare", "import"},
			field:    func(o *options) any { return &o.config.Tune.Plan.Compat }},

		// Training: stage 3.
		{name: "recipe", on: "tune", group: trainingGroup, common: true,
			help: "the recipe, which sets the options that no flag sets: auto chooses them by the images, the backbone and " +
				"the time; vtab and fgvc are the recipes of the paper",
			kind: "NAME", values: run.Recipes, closed: true, auto: "auto; with --task that of the benchmark",
			field: func(o *options) any { return &o.config.Tune.Recipe }},
		{name: "time", on: "tune", group: trainingGroup, common: true,
			help: "the time in which the whole command ends, such as 30m: it takes as many training steps as fit",
			kind: "DURATION", auto: "no limit",
			field: func(o *options) any { return (*secondsValue)(&o.config.Tune.TimeLimit) }},
		{name: "epochs", on: "tune", group: trainingGroup, common: true,
			help: "the number of passes over the training images; the length of the warm-up scales with it",
			kind: "N", bounds: oneOrMore, auto: "by the number of images; " + strconv.Itoa(recipe.Epochs) + " with --recipe vtab and fgvc",
			field: func(o *options) any { return &o.recipe.Epochs }},
		{name: "epochs", on: "train", group: trainingGroup, common: true,
			help: "the number of passes over the training images; the length of the warm-up scales with it",
			kind: "N", bounds: oneOrMore, def: recipe.Epochs,
			field: func(o *options) any { return &o.recipe.Epochs }},
		{name: "steps", on: "tune train", group: trainingGroup,
			help: "the number of training steps, instead of --epochs",
			kind: "N", bounds: oneOrMore, auto: "all steps of --epochs", excludes: []string{"epochs"},
			field: func(o *options) any { return &o.recipe.Steps }},
		{name: "patience", on: "tune train", group: trainingGroup,
			help: "stop after this number of epochs without a better validation metric (--select), and keep the best epoch",
			kind: "N", bounds: oneOrMore, auto: "with --recipe auto half of the epochs, at least 5; otherwise and with --time never stop",
			field: func(o *options) any { return &o.recipe.Patience }},
		{name: "from-delta", on: "tune", group: methodGroup, common: true,
			help: "the run folder of a delta to continue from: the same method tunes the same parameters, from their tuned " +
				"values; known classes keep their rows of the head, new classes get new ones",
			kind: "DIR", file: inputFile, values: runFolders, excludes: []string{"budget", "rank", "scores", "probe-head"},
			field: func(o *options) any { return (*pathValue)(&o.config.Tune.FromDelta) }},
		{name: "refit", on: "tune", group: trainingGroup,
			help: "train once more, on the training and validation images together, before the test; on with --recipe vtab " +
				"and fgvc",
			field: func(o *options) any { return notValue{&o.config.Tune.NoRefit} }},
		{name: "epochs", on: "pretrain", group: trainingGroup, common: true,
			help: "the number of passes over the training images; the length of the warm-up scales with it",
			kind: "N", bounds: oneOrMore, def: demo.PretrainRecipe().Train.Epochs,
			field: func(o *options) any { return &o.recipe.Epochs }},
		{name: "epochs", on: "demo", group: trainingGroup, common: true,
			help: "the number of passes over the training images; the method linear makes ten times as many passes, " +
				"over features that the backbone computes once",
			kind: "N", bounds: oneOrMore, def: demo.DefaultEpochs,
			field: func(o *options) any { return &o.demo.Epochs }},
		{name: "epochs", on: "bench", group: measureGroup,
			help: "the number of training epochs in the whole task of --suite",
			kind: "N", bounds: oneOrMore, def: recipe.Epochs, needs: []string{"suite"},
			field: func(o *options) any { return &o.suite.Epochs }},
		{name: "batch-size", on: "tune train", group: trainingGroup, common: true,
			help: "the number of images in a training step",
			kind: "N", bounds: oneOrMore, auto: fmt.Sprintf("%d, or an eighth of the training images if that is less", train.DefaultBatchSize),
			field: func(o *options) any { return &o.recipe.BatchSize }},
		{name: "lr", on: "tune", group: trainingGroup, common: true,
			help: "the peak learning rate of AdamW; with a list, such as 1e-3,1e-2, validation chooses the best rate",
			kind: "NUMBER", option: "learning-rate",
			auto: "by the number of steps and the batch size; with --recipe vtab and fgvc " + recipeDefaults(func(o train.Options) float64 { return o.LR }) + "; with validation images, " +
				comma(headMethods()) + " take the best of " + comma(rates(rowOf(method.Linear).LearningRates)),
			field: func(o *options) any { return &ratesValue{&o.recipe.LR, &o.config.Tune.LRs} }},
		{name: "lr", on: "train", group: trainingGroup, common: true,
			help: "the peak learning rate of AdamW",
			kind: "NUMBER", bounds: aboveZero, def: recipe.LR, option: "learning-rate",
			auto:  recipeDefaults(func(o train.Options) float64 { return o.LR }),
			field: func(o *options) any { return &o.recipe.LR }},
		{name: "head-lr", on: "tune train", group: trainingGroup,
			help: "the peak learning rate of the head; its schedule follows that of --lr",
			kind: "NUMBER", bounds: aboveZero, auto: "the rate of --lr", option: "head-learning-rate",
			field: func(o *options) any { return &o.recipe.HeadLR }},
		{name: "lr-factors", on: "tune train", group: trainingGroup,
			help: "factors for the learning rates of groups of tuned tensors, such as biases=3,module-outputs=4; the groups are " + comma(texts(peft.Groups())),
			kind: "GROUP=FACTOR,...", auto: "1 for every group", option: "learning-rate-factors",
			field: func(o *options) any { return (*factorsValue)(&o.recipe.LRFactors) }},
		{name: "weight-decay", on: "tune train", group: trainingGroup,
			help: "the decoupled weight decay of matrices",
			kind: "NUMBER", bounds: zeroOrMore, def: recipe.WeightDecay,
			auto:  recipeDefaults(func(o train.Options) float64 { return o.WeightDecay }),
			field: func(o *options) any { return &o.recipe.WeightDecay }},
		{name: "warmup-epochs", on: "tune train", group: trainingGroup,
			help: "the length of the linear warm-up in epochs; fractions are allowed",
			kind: "N", bounds: zeroOrMore, auto: "a tenth of the epochs",
			field: func(o *options) any { return &o.recipe.WarmupEpochs }},
		{name: "drop-path", on: "tune train", group: trainingGroup,
			help: "the drop-path rate of the last block; the rate grows linearly from 0 in the first block",
			kind: "RATE", bounds: zeroOrMore, def: recipe.DropPath,
			auto:  recipeDefaults(func(o train.Options) float64 { return o.DropPath }),
			field: func(o *options) any { return &o.recipe.DropPath }},
		{name: "dropout", on: "tune train", group: trainingGroup,
			help: "the dropout rate of the inputs of modules, of prompts, and in bottlenecks and MLP heads",
			kind: "RATE", bounds: zeroOrMore, def: recipe.Dropout,
			field: func(o *options) any { return &o.recipe.Dropout }},
		{name: "module-drop-path", on: "tune train", group: trainingGroup,
			help: "the drop-path rate of the outputs of modules",
			kind: "RATE", bounds: zeroOrMore, def: recipe.ModuleDropPath,
			field: func(o *options) any { return &o.recipe.ModuleDropPath }},
		{name: "label-smoothing", on: "tune train", group: trainingGroup,
			help: "the share of the target that is spread evenly over all classes, such as 0.1",
			kind: "SHARE", bounds: zeroOrMore, auto: "0",
			field: func(o *options) any { return &o.recipe.LabelSmoothing }},
		{name: "class-weights", on: "tune train", group: trainingGroup,
			help: "the weights of the classes in the loss: auto makes up for different numbers of training images; a JSON or CSV " +
				"file has a weight for each class name; for images with several labels, a weight multiplies the loss of the images " +
				"that have the label",
			kind: "auto|none|FILE", values: words(train.AutoWeights, train.NoWeights), auto: train.NoWeights,
			field: func(o *options) any { return (*weightsValue)(&o.recipe.ClassWeights) }},
		{name: "balanced-sampling", on: "tune train", group: trainingGroup,
			help:  "draw the training images so that every epoch has as many images of each class",
			field: func(o *options) any { return &o.recipe.BalancedSampling }},
		{name: "select", on: "tune", group: trainingGroup,
			help: "the metric on validation images that chooses the best of several budgets and learning rates: " + or(selections()) +
				"; balanced is the mean recall of the classes, map the mean average precision of several labels",
			kind: "METRIC", values: selections, closed: true, auto: string(objective.ByAccuracy) + ", or " + string(objective.ByMAP) + " for images with several labels",
			field: func(o *options) any { return (*string)(&o.recipe.Select) }},
		{name: "init", on: "tune train", group: trainingGroup,
			help: "the initial values of modules: paper starts with unchanged features; release draws both matrices of a " +
				"module at random, as the paper's published code does",
			kind: "NAME", values: schemes, closed: true, auto: string(peft.PaperScheme) + "; with --compat " + string(peft.ReleaseScheme),
			field: func(o *options) any { return (*string)(&o.recipe.Init) }},
		{name: "seed", on: "tune train pretrain", group: trainingGroup, common: true,
			help: "the seed of all random numbers",
			kind: "SEED", def: 0,
			field: func(o *options) any { return &o.recipe.Seed }},
		{name: "seed", on: "score", group: scoringGroup,
			help: "the seed of the new head, of the order of the images, and of random scores",
			kind: "SEED", def: 0,
			field: func(o *options) any { return &o.config.Tune.Score.Seed }},
		{name: "seed", on: "plan", group: scoringGroup,
			help: "the seed of the random places of --plan-rule",
			kind: "SEED", def: 0, needs: []string{"plan-rule"},
			field: func(o *options) any { return &o.config.Tune.Plan.Seed }},
		{name: "seed", on: "demo", group: trainingGroup, common: true,
			help: "the seed of the task and of all random numbers",
			kind: "SEED", def: 0,
			field: func(o *options) any { return &o.demo.Seed }},
		{name: "with-val", on: "train", group: trainingGroup, common: true,
			help:  "train on the validation images too",
			field: func(o *options) any { return &o.single.WithVal }},
		{name: "no-validation", on: "tune", group: trainingGroup,
			help:  "skip validation: train once, on the training and validation images together; needs a single budget",
			field: func(o *options) any { return &o.config.Tune.NoValidation }},
		{name: "validation-only", on: "tune", group: trainingGroup,
			help:     "stop after validation: no final training, no test and no delta",
			excludes: []string{"no-validation", "paper-protocol"},
			field:    func(o *options) any { return &o.config.Tune.ValidationOnly }},
		{name: "paper-protocol", on: "tune", group: trainingGroup,
			help: "test after every epoch and report the highest test accuracy too, as the paper does; this accuracy " +
				"chooses nothing",
			field: func(o *options) any { return &o.config.Tune.PaperProtocol }},

		// Tracking.
		{name: "tensorboard", on: "tune train", group: trackingGroup,
			help: "the log directory of TensorBoard in which the run gets a folder, with a folder below it for each training",
			kind: "DIR", file: outputFolder, local: true,
			field: func(o *options) any { return &o.tracking.TensorBoard }},
		{name: "mlflow", on: "tune train", group: trackingGroup,
			help: "the address of an MLflow server that receives the run, such as http://127.0.0.1:5000; it takes the variables " +
				"MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN",
			kind: "URL", local: true,
			field: func(o *options) any { return &o.tracking.MLflow }},
		{name: "tensorboard", on: "report", group: trackingGroup,
			help: "the log directory of TensorBoard in which each run gets a folder, with a folder below it for each training",
			kind: "DIR", file: outputFolder, excludes: []string{"live"},
			field: func(o *options) any { return &o.tracking.TensorBoard }},
		{name: "mlflow", on: "report", group: trackingGroup,
			help: "the address of an MLflow server that receives the runs, such as http://127.0.0.1:5000; it takes the variables " +
				"MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN",
			kind: "URL", excludes: []string{"live"},
			field: func(o *options) any { return &o.tracking.MLflow }},

		// The device.
		{name: "device", on: "tune score train eval predict demo", group: deviceGroup, common: true,
			help: "the device: auto, cpu, cuda, cuda:N, or xla:PLUGIN for a PJRT plug-in; 'spt devices' lists them",
			kind: "NAME", values: deviceNames, auto: "auto, the best device", anyRun: backend.Auto,
			field: func(o *options) any { return &o.config.Compute.Device }},
		{name: "device", on: "bench", group: deviceGroup, common: true,
			help: "the device of --suite: auto, cpu, cuda, cuda:N, or xla:PLUGIN for a PJRT plug-in",
			kind: "NAME", values: deviceNames, auto: "auto, the best device", needs: []string{"suite"},
			field: func(o *options) any { return &o.suite.Compute.Device }},
		{name: "devices", on: "tune train", group: deviceGroup,
			help: "the number of GPUs to use, starting at --device; each trains on its share of a mini-batch",
			kind: "N", bounds: oneOrMore, def: 1,
			field: func(o *options) any { return &o.config.Compute.Devices }},
		{name: "precision", on: "tune score train eval predict demo", group: deviceGroup,
			help: "the number format: f32, or bf16 for frozen matrices and activations in bfloat16, on GPUs and on CPUs with AVX512-BF16 or AMX-BF16",
			kind: "TYPE", values: words(string(backend.F32), string(backend.BF16)), closed: true,
			auto:  "bf16 on GPUs that have it, and with --time on CPUs that have it, else f32",
			field: func(o *options) any { return (*string)(&o.config.Compute.Precision) }},
		{name: "precision", on: "bench", group: deviceGroup,
			help: "the number format of matrix products on the CPU: f32, or bf16 on processors with AVX512-BF16 or AMX-BF16",
			kind: "TYPE", values: words(string(backend.F32), string(backend.BF16)), closed: true,
			def: string(backend.F32), excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return (*string)(&o.bench.Precision) }},
		{name: "checkpoint-activations", on: "tune score train", group: deviceGroup,
			help:  "on a GPU, recompute activations in the backward pass instead of keeping them: less memory, more time",
			field: func(o *options) any { return &o.config.Compute.CheckpointActivations }},

		// Benchmarks.
		{name: "batch", on: "bench", group: measureGroup, common: true,
			help: "the number of images in a step",
			kind: "N", bounds: oneOrMore, def: 8, auto: "8; 64 with --suite", excludes: []string{"scaling"},
			field: func(o *options) any { return &o.bench.Batch }},
		{name: "steps", on: "bench", group: measureGroup,
			help: "the number of steps to time after the first one; their median is reported",
			kind: "N", bounds: oneOrMore, def: 5, excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return &o.bench.Steps }},
		{name: "gemm", on: "bench", group: measureGroup,
			help: "measure matrix products too",
			def:  true, excludes: []string{"suite", "scaling"},
			field: func(o *options) any { return &o.bench.GEMM }},
		{name: "breakdown", on: "bench", group: measureGroup, common: true,
			help:     "print how the time of a step divides among its operations",
			excludes: []string{"suite", "scaling"},
			field:    func(o *options) any { return &o.bench.Breakdown }},
		{name: "suite", on: "bench", group: measureGroup, common: true,
			help:  "check and measure the device of --device instead of a single step",
			field: func(o *options) any { return &o.runSuite }},
		{name: "scaling", on: "bench", group: measureGroup, common: true,
			help: "measure how time and memory grow with the mini-batch, the tokens, the depth, the classes, the budget, the " +
				"backbone and the images, instead of a single step",
			excludes: []string{"suite"},
			field:    func(o *options) any { return &o.runScaling }},
		{name: "scaling-large", on: "bench", group: measureGroup,
			help:  "with --scaling, also measure ViT-L, ViT-H and a million images",
			needs: []string{"scaling"},
			field: func(o *options) any { return &o.scaling.Large }},
		{name: "python", on: "bench", group: measureGroup,
			help: "the Python interpreter with PyTorch that --suite runs for comparison; 'none' for no comparison",
			kind: "FILE", auto: "python3, if it has PyTorch", needs: []string{"suite"},
			field: func(o *options) any { return &o.suite.Python }},
		{name: "only", on: "bench", group: measureGroup,
			help: "the items of --suite to run, such as 'timing lora', or the curves of --scaling, such as 'step over batch'",
			kind: "REGEXP", auto: "all", needs: []string{"suite|scaling"},
			field: func(o *options) any { return &o.only }},
		{name: "within", on: "bench", group: measureGroup,
			help: "the time that --suite or --scaling may take; items or points that do not fit are skipped",
			kind: "TIME", def: 8 * time.Minute, needs: []string{"suite|scaling"},
			field: func(o *options) any { return &o.suite.Within }},

		// Results.
		{name: "out", on: "tune train", group: outputGroup, common: true,
			help: "the new run folder",
			kind: "DIR", file: outputFolder, option: "run-folder", auto: filepath.Join(run.DefaultRoot, "DATA-METHOD"),
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "score", group: outputGroup, common: true,
			help: "the safetensors file to write",
			kind: "FILE", file: outputFile, extension: ".safetensors", def: "scores.safetensors",
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "plan", group: outputGroup, common: true,
			help: "the JSON file to write; with several budgets plan.json becomes plan-0.2M.json and so on",
			kind: "FILE", file: outputFile, extension: ".json", def: "plan.json", excludes: []string{"compare"},
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "merge", group: outputGroup, common: true,
			help: "the safetensors file to write",
			kind: "FILE", file: outputFile, extension: ".safetensors",
			field: func(o *options) any { return &o.out }},
		{name: "format", on: "export", group: outputGroup, common: true,
			help: "the formats, separated by commas: " + comma(export.Formats()),
			kind: "NAME", values: export.Formats,
			field: func(o *options) any { return &o.formats }},
		{name: "out", on: "export", group: outputGroup, common: true,
			help: "the folder to make; with several formats it gets a folder for each",
			kind: "DIR", file: outputFolder,
			field: func(o *options) any { return &o.out }},
		{name: "push", on: "export", group: outputGroup, common: true,
			help: "upload the folder to this model repository of the Hugging Face Hub, after a list of what is uploaded; " +
				"the token comes from HF_TOKEN or from 'hf auth login'; a new repository is private; --out may be left out",
			kind:  "hf:OWNER/NAME[@BRANCH]",
			field: func(o *options) any { return &o.push }},
		{name: "from", on: "export", group: outputGroup, common: true,
			help: "with --push, a folder that was exported before, instead of an export of --delta",
			kind: "DIR", file: inputFile, needs: []string{"push"},
			excludes: []string{"delta", "format", "out", "half", "probabilities", "probe", "data", "model", "weights-key", "bound"},
			field:    func(o *options) any { return &o.from }},
		{name: "public", on: "export", group: outputGroup, common: true,
			help:  "with --push, make a new repository public",
			needs: []string{"push"},
			field: func(o *options) any { return &o.public }},
		{name: "dry-run", on: "tune", group: outputGroup, common: true,
			help:     "print what the command would do, how long it takes and how much memory it needs, and do not start",
			excludes: []string{"resume"}, local: true,
			field: func(o *options) any { return &o.dryRun }},
		{name: "dry-run", on: "export", group: outputGroup, common: true,
			help:  "with --push, print what would be uploaded and upload nothing",
			needs: []string{"push"},
			field: func(o *options) any { return &o.dryRun }},
		{name: "half", on: "export", group: outputGroup, common: true,
			help:  "store the weights as float16, which halves the files",
			field: func(o *options) any { return &o.half }},
		{name: "probabilities", on: "export", group: outputGroup, common: true,
			help:  "for the format onnx: the model also returns probabilities",
			field: func(o *options) any { return &o.probabilities }},
		{name: "out", on: "predict", group: outputGroup, common: true,
			help: "the table to write instead of a line for each image; the extension chooses the format: " + or(evaluate.Formats()),
			kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "pretrain", group: outputGroup, common: true,
			help: "the safetensors file to write",
			kind: "FILE", file: outputFile, extension: ".safetensors", def: "vit_demo.safetensors",
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "bench", group: outputGroup,
			help: "the name of the report of --suite, which is written to NAME.json and NAME.md",
			kind: "NAME", file: outputPrefix, def: "spt-suite", needs: []string{"suite"},
			field: func(o *options) any { return &o.out }},
		{name: "explain", on: "tune plan", group: outputGroup, common: true,
			help:     "print how each plan divides its budget among blocks and operations",
			excludes: []string{"compare"},
			field:    func(o *options) any { return &o.explain }},
		{name: "out", on: "demo", group: outputGroup,
			help: "the HTML page to write",
			kind: "FILE", file: outputFile, extension: ".html", def: "spt-demo.html", excludes: []string{"no-report"},
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "eval", group: outputGroup,
			help: "the HTML page to write",
			kind: "FILE", file: outputFile, extension: ".html", auto: "evaluation-SPLIT.html in the run folder, or in the working folder",
			excludes: []string{"no-report"},
			field:    func(o *options) any { return &o.out }},
		{name: "predictions", on: "eval", group: outputGroup, common: true,
			help: "a table to write, with the probabilities of all classes for each image: " + or(evaluate.Formats()),
			kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.predictions }},
		{name: "logits", on: "eval", group: outputGroup,
			help:  "also write the logits into the table",
			needs: []string{"predictions"},
			field: func(o *options) any { return &o.logits }},
		{name: "against", on: "eval", group: modelGroup, common: true,
			help: "the run folder of a second delta; the command evaluates it on the same images and compares the two with " +
				"McNemar's test",
			kind: "DIR", file: inputFile, values: runFolders,
			field: func(o *options) any { return &o.against }},
		{name: "no-report", on: "tune train eval sweep-collect demo", group: outputGroup,
			help:  "write no HTML page",
			field: func(o *options) any { return &o.noReport }},
		{name: "live", on: "tune train report", group: outputGroup, common: true,
			help: "serve the page of the run at this address while it goes on, such as 127.0.0.1:8080; an address without a host " +
				"is one of this machine only",
			kind: "HOST:PORT", local: true,
			field: func(o *options) any { return &o.live }},
		{name: "per-class", on: "eval data-verify data-diff", group: outputGroup, common: true,
			help:  "print a line for each class",
			field: func(o *options) any { return &o.perClass }},
		{name: "html", on: "data-verify", group: outputGroup, common: true,
			help: "an HTML page to write, with pictures of each class and of equal images, and charts; it needs no other file",
			kind: "FILE", file: outputFile, extension: ".html",
			field: func(o *options) any { return &o.html }},
		{name: "verify", on: "inspect", group: outputGroup, common: true,
			help:  "for a model hf:OWNER/NAME: read its files in the cache and compare them with the checksums of the Hub",
			field: func(o *options) any { return &o.verify }},
		{name: "top-k", on: "predict", group: outputGroup, common: true,
			help: "the number of classes to print or write for each image",
			kind: "N", bounds: oneOrMore, def: 5,
			field: func(o *options) any { return &o.topK }},
		{name: "calibrated", on: "predict", group: outputGroup, common: true,
			help:  "calibrate the probabilities, so that they say how often a class is right, by the temperature of the delta or its calibration of each label",
			field: func(o *options) any { return &o.calibrated }},
		{name: "reject-below", on: "predict", group: outputGroup, common: true,
			help: "answer unknown for an image whose most probable class has a lower probability; the probabilities are those of " +
				"--calibrated if the delta has a temperature",
			kind: "P", bounds: shares, auto: "no image is unknown",
			field: func(o *options) any { return &o.rejectBelow }},
		{name: "alpha", on: "merge", group: outputGroup, common: true,
			help: "the share of the tuning that is kept: 1 keeps the tuned weights, 0 those of the backbone, with the tuned head",
			kind: "ALPHA", bounds: upToOne, def: 1.0,
			field: func(o *options) any { return &o.alpha }},
		{name: "bound", on: "merge", group: outputGroup, common: true,
			help: "the largest allowed difference of a logit between the merged and the tuned backbone",
			kind: "NUMBER", bounds: aboveZero, def: delta.DefaultBound,
			field: func(o *options) any { return &o.bound }},
		{name: "bound", on: "export", group: outputGroup, common: true,
			help: "the largest allowed difference of a logit between the exported model and the delta with its backbone",
			kind: "NUMBER", bounds: aboveZero, auto: fmt.Sprintf("%g; %g with --half", delta.DefaultBound, export.HalfBound),
			field: func(o *options) any { return &o.bound }},
		{name: "config", on: "tune", group: outputGroup, common: true,
			help: "a YAML or JSON file of options with the keys of config.json; flags win over the file",
			kind: "FILE", file: inputFile, excludes: []string{"resume"},
			field: func(o *options) any { return &o.configFile }},
		{name: "resume", on: "tune train", group: outputGroup, common: true,
			help: "the folder of a stopped run to continue; no other flags are needed, except --model and --data if " +
				"these have moved",
			kind: "DIR", values: runFolders,
			field: func(o *options) any { return &o.resume }},
		{name: "resume", on: "pretrain", group: outputGroup, common: true,
			help:  "continue from OUT.training, with the same flags",
			field: func(o *options) any { return &o.resumeState }},

		// Many runs.
		{name: "index", on: "sweep-run", group: jobsGroup,
			help: "run the jobs whose number, from 0, has this remainder when it is divided by --of; the jobs that these need " +
				"are run too",
			kind: "I", bounds: zeroOrMore, needs: []string{"of"},
			field: func(o *options) any { return &o.sweep.index }},
		{name: "of", on: "sweep-run", group: jobsGroup,
			help: "the number of parts of the jobs, for --index",
			kind: "N", bounds: oneOrMore, needs: []string{"index"},
			field: func(o *options) any { return &o.sweep.of }},
		{name: "list", on: "sweep-run", group: jobsGroup,
			help: "a file with the IDs of the jobs to run, one on each line; --index and --of count along the list",
			kind: "FILE", file: inputFile, auto: "all jobs",
			field: func(o *options) any { return &o.sweep.list }},
		{name: "where", on: "sweep-run sweep-submit sweep-status table", group: jobsGroup, common: true,
			help: "take only the runs with this value of " + or(sweep.FilterKeys()) + ", such as method=lora; can be repeated: " +
				"values of one key are alternatives, and all keys must agree",
			kind: "KEY=VALUE", auto: "all runs", excludes: []string{"list"},
			field: func(o *options) any { return (*filterValue)(&o.sweep.where) }},
		{name: "workers", on: "sweep-run", group: jobsGroup, common: true,
			help: "the number of processes, which share the cores and the memory for images",
			kind: "N", bounds: oneOrMore, def: 1,
			field: func(o *options) any { return &o.sweep.workers }},
		{name: "worker-of", on: "sweep-run", group: jobsGroup,
			help: "run as one of N processes that --workers starts: take a part of the memory for images, and end when " +
				"standard input ends",
			kind: "N", bounds: oneOrMore, auto: "no worker", excludes: []string{"workers"},
			field: func(o *options) any { return &o.sweep.workerOf }},
		{name: "attempts", on: "sweep-run sweep-submit sweep-status", group: jobsGroup, common: true,
			help: "the number of times that a job is run until it gives a result",
			kind: "N", bounds: oneOrMore, def: sweep.DefaultAttempts,
			field: func(o *options) any { return &o.sweep.attempts }},
		{name: "engine", on: "sweep-submit", group: jobsGroup, common: true,
			help: "the cluster system: " + or(texts(sweep.Engines())),
			kind: "NAME", values: func() []string { return texts(sweep.Engines()) }, closed: true,
			field: func(o *options) any { return &o.sweep.engine }},
		{name: "concurrency", on: "sweep-submit", group: jobsGroup, common: true,
			help: "the largest number of elements that run at the same time",
			kind: "K", bounds: oneOrMore, auto: "no limit with slurm, 8 with kubernetes and ray",
			field: func(o *options) any { return &o.sweep.submit.Concurrency }},
		{name: "program", on: "sweep-submit", group: jobsGroup,
			help: "the path of the program spt on the cluster",
			kind: "PATH", auto: "the path of this program, or spt in the PATH of the image with kubernetes",
			field: func(o *options) any { return &o.sweep.submit.Program }},
		{name: "image", on: "sweep-submit", group: jobsGroup, common: true,
			help: "the container image with the program spt, for kubernetes",
			kind: "IMAGE", needs: []string{"engine"},
			field: func(o *options) any { return &o.sweep.submit.Image }},
		{name: "claim", on: "sweep-submit", group: jobsGroup, common: true,
			help: "the persistent volume claim that holds the sweep folder, the data sets and the backbones, for kubernetes",
			kind: "NAME", needs: []string{"engine"},
			field: func(o *options) any { return &o.sweep.submit.Claim }},
		{name: "mount", on: "sweep-submit", group: jobsGroup,
			help: "the folder at which the claim is mounted, for kubernetes",
			kind: "PATH", auto: "the parent of the sweep folder", needs: []string{"claim"},
			field: func(o *options) any { return &o.sweep.submit.Mount }},
		{name: "queue", on: "sweep-submit", group: jobsGroup,
			help: "the local queue of Kueue, for kubernetes",
			kind: "NAME", auto: "no queue", needs: []string{"engine"},
			field: func(o *options) any { return &o.sweep.submit.Queue }},
		{name: "apply", on: "sweep-submit", group: jobsGroup, common: true,
			help:  "hand the manifest to kubectl, for kubernetes",
			needs: []string{"engine"},
			field: func(o *options) any { return &o.sweep.submit.Apply }},
		{name: "address", on: "sweep-submit", group: jobsGroup,
			help: "the address of the dashboard of Ray",
			kind: "URL", auto: "RAY_ADDRESS, or http://127.0.0.1:8265", needs: []string{"engine"},
			field: func(o *options) any { return &o.sweep.submit.Address }},
		{name: "metric", on: "table", group: jobsGroup, common: true,
			help: "the accuracy to show: " + or(texts(sweep.Metrics())) + "; test-max is the highest test accuracy of all epochs, " +
				"for comparison only",
			kind: "NAME", values: func() []string { return texts(sweep.Metrics()) }, closed: true, auto: "test, or val if no run was tested",
			field: func(o *options) any { return (*string)(&o.sweep.table.Metric) }},
		{name: "baseline", on: "table", group: jobsGroup, common: true,
			help: "the method with which the others are compared",
			kind: "METHOD", auto: "no comparison",
			field: func(o *options) any { return &o.sweep.table.Baseline }},
		{name: "format", on: "table", group: outputGroup, common: true,
			help: "the format: " + or(texts(sweep.Formats())),
			kind: "NAME", values: func() []string { return texts(sweep.Formats()) }, closed: true, def: "text",
			field: func(o *options) any { return &o.sweep.format }},
		{name: "out", on: "sweep-plan", group: outputGroup, common: true,
			help: "the sweep folder; it may hold an earlier form of the specification",
			kind: "DIR", file: outputFolder,
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "sweep-collect", group: outputGroup, common: true,
			help: "the CSV file to write",
			kind: "FILE", file: outputFile, extension: ".csv", auto: "standard output",
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "report", group: outputGroup, common: true,
			help: "the HTML file to write",
			kind: "FILE", file: outputFile, extension: ".html", auto: run.ReportFile + " in the folder of a single RUN, else in the working folder",
			field: func(o *options) any { return &o.out }},
		{name: "out", on: "table", group: outputGroup, common: true,
			help: "the file to write",
			kind: "FILE", file: outputFile, auto: "standard output",
			field: func(o *options) any { return &o.out }},

		// All commands.
		{name: "json", on: "*", group: generalGroup, common: true,
			help:  "write the result as JSON to standard output, and everything else to standard error",
			field: func(o *options) any { return &o.app.json }},
		{name: "quiet", short: "q", on: "*", group: generalGroup, common: true,
			help:  "show no progress",
			field: func(o *options) any { return &o.app.quiet }},
		{name: "cpuprofile", on: "*", group: generalGroup,
			help: "the file to which a CPU profile is written, for 'go tool pprof'",
			kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.app.cpuprofile }},
		{name: "trace", on: "*", group: generalGroup,
			help: "the file to which an execution trace is written, for 'go tool trace'",
			kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.app.trace }},
		{name: "help", short: "h", on: "*", group: generalGroup, common: true,
			help:  "print this help",
			field: func(o *options) any { return &o.app.showHelp }},
		{name: "all", on: "*", group: generalGroup, common: true,
			help:  "with --help: print all flags",
			needs: []string{"help"},
			field: func(o *options) any { return &o.app.showAll }},
	}
}

// textOf returns a default value as text for the command line.
func textOf(def any) string {
	if v, ok := def.(float64); ok {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return fmt.Sprint(def)
}

// texts converts a list of a named string type.
func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

func comma(list []string) string { return strings.Join(list, ", ") }

// or joins a list with commas and a final "or": "a, b or c".
func or(list []string) string { return wording.Join(list, "or") }

// pair returns the value of a flag that takes two numbers.
func pair(to *[2]float64) numbersValue { return numbersValue{&to[0], &to[1]} }

// The known values of flags.

func words(list ...string) func() []string { return func() []string { return list } }

func modelNames() []string   { return append(catalogue.Names(), embedded.Name) }
func methodNames() []string  { return texts(method.Methods()) }
func benchMethods() []string { return texts(bench.Methods()) }
func schemes() []string      { return texts(peft.Schemes()) }
func selections() []string   { return texts(objective.Selections()) }
func criteria() []string     { return texts(sensitivity.Criteria()) }

// rowOf returns the row of a method. It panics if there is no such method.
func rowOf(m method.Method) method.Row {
	row, err := method.Lookup(m)
	if err != nil {
		panic(err)
	}
	return row
}

// takers returns the names of the methods and families of methods that use an option.
func takers(option string) (names []string) {
	for _, row := range method.Catalogue() {
		if row.Takes(option) {
			names = append(names, row.Name)
		}
	}
	return names
}

// methodDefaults returns in words the default of an option for each method that uses it.
func methodDefaults(option string, value func(method.Options) any) string {
	var texts []string
	names := takers(option)
	for _, row := range method.Catalogue() {
		switch v := value(row.WithDefaults(method.Options{})); {
		case !row.Takes(option):
		case len(names) == 1:
			texts = append(texts, fmt.Sprint(v))
		default:
			texts = append(texts, fmt.Sprintf("%v for %s", v, row.Name))
		}
	}
	return comma(texts)
}

// recipeDefaults returns in words the values of an option in the recipes of all methods: first the
// usual value, then every other value with its methods.
func recipeDefaults(value func(train.Options) float64) string {
	usual, names := value(train.VTAB()), map[float64][]string{}
	text := fmt.Sprint(usual)
	for _, row := range method.Catalogue() {
		if v := value(row.TrainOptions()); v != usual {
			names[v] = append(names[v], row.Name)
		}
	}
	for _, v := range slices.Backward(slices.Sorted(maps.Keys(names))) {
		text += fmt.Sprintf("; %v for %s", v, comma(names[v]))
	}
	return text
}

// headMethods returns the names of the methods and families that choose among learning rates.
func headMethods() (names []string) {
	for _, row := range method.Catalogue() {
		if row.LearningRates != nil {
			names = append(names, row.Name)
		}
	}
	return names
}

// rates returns learning rates as texts for the command line.
func rates(all []float64) (texts []string) {
	for _, lr := range all {
		texts = append(texts, textOf(lr))
	}
	return texts
}

// planMethods returns in words the methods that need a plan.
func planMethods() string {
	var families []string
	for _, row := range method.Catalogue() {
		if row.Scores {
			families = append(families, row.Name+" ("+row.Summary+")")
		}
	}
	return "the method, where NAME is the structured module " + or(peft.Names()) + ": " + or(families)
}

func methodsWithPlan() []string {
	return slices.DeleteFunc(methodNames(), func(name string) bool { return !rowOf(method.Method(name)).Scores })
}

func methodsWithoutPlan() []string {
	return slices.DeleteFunc(methodNames(), func(name string) bool { return rowOf(method.Method(name)).Scores })
}

func taskNames() (names []string) {
	for _, known := range dataset.KnownSets() {
		names = append(names, known.Name)
	}
	return names
}

func deviceNames() []string {
	names := []string{backend.Auto}
	for _, d := range backend.Devices() {
		names = append(names, d.Name)
	}
	for _, p := range backend.Plugins() {
		names = append(names, "xla:"+p.Name)
	}
	return names
}

// runFolders returns the run folders in run.DefaultRoot.
func runFolders() (dirs []string) {
	// Glob fails only for a malformed pattern.
	configs, _ := filepath.Glob(filepath.Join(run.DefaultRoot, "*", run.ConfigFile))
	for _, path := range configs {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}
