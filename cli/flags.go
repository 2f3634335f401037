package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// flagTable returns the flags of all commands. A name has several rows where it means different
// things on different commands. The table is made at each call because programs may register
// modules of their own, whose names are values of flags.
func flagTable() []flagRow {
	recipe, scoring, planning := train.VTAB(), sensitivity.Options{}.WithDefaults(), plan.Options{}.WithDefaults()
	defaults := func(m method.Method) method.Options { return rowOf(m).WithDefaults(method.Options{}) }
	shallow, deep, beside := defaults("vpt-shallow"), defaults("vpt-deep"), defaults("adaptformer")
	return []flagRow{

		// The backbone.
		{name: "model", on: "tune score plan train eval predict", group: modelGroup, common: true, kind: "FILE", file: inputFile, values: embeddedName,
			field: func(o *options) any { return (*modelValue)(&o.config.Model.Path) },
			help:  "the backbone: a checkpoint file or its folder, hf:OWNER/NAME[@REVISION][:FILE] for a model of the Hugging Face Hub, or demo for the embedded backbone"},
		{name: "model", on: "merge", group: modelGroup, common: true, kind: "FILE", file: inputFile, values: embeddedName, auto: "the path in the run's folder",
			field: func(o *options) any { return (*modelValue)(&o.config.Model.Path) },
			help:  "the backbone on which the delta was tuned: a checkpoint file or its folder, hf:OWNER/NAME, or demo"},
		{name: "model", on: "bench", group: modelGroup, common: true, kind: "SIZE", values: bench.Sizes, closed: true, def: "tiny", auto: "tiny; base with --suite",
			field: func(o *options) any { return &o.bench.Name },
			help:  "the size of the backbone, which has random weights and takes images of 224 px: tiny, small, base, swin-tiny or convnext-tiny; --weights FILE measures a checkpoint"},
		{name: "weights", on: "bench", group: modelGroup, common: true, kind: "FILE", file: inputFile, values: embeddedName, excludes: []string{"suite"}, auto: "random weights",
			field: func(o *options) any { return (*modelValue)(&o.config.Model.Path) },
			help:  "the backbone: a checkpoint file or its folder, hf:OWNER/NAME, or demo"},
		{name: "image-size", on: "tune score plan train eval predict", group: modelGroup, kind: "PX", bounds: oneOrMore, auto: "the checkpoint's",
			needs: []string{"model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Model.ImageSize },
			help:  "the side of the images in pixels; the position embedding is resized to it"},
		{name: "num-heads", on: "tune score plan train eval predict", group: modelGroup, kind: "N", bounds: oneOrMore, auto: "the checkpoint's, or that of published models of the same width",
			needs: []string{"model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Model.NumHeads },
			help:  "the number of attention heads"},
		{name: "layer-norm-eps", on: "tune score plan train eval predict", group: modelGroup, kind: "NUMBER", bounds: aboveZero, auto: "the checkpoint's, or that of its library",
			needs: []string{"model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Model.LayerNormEps },
			help:  "the epsilon of the layer norms"},
		{name: "mean", on: "tune score plan train eval predict", group: modelGroup, kind: "R,G,B", auto: "the checkpoint's",
			needs: []string{"std", "model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &channelsValue{&o.config.Model.Mean, &o.config.Model.Preprocessing} },
			help:  "the mean of the pixels of each channel, from 0 to 1; give --std too"},
		{name: "std", on: "tune score plan train eval predict", group: modelGroup, kind: "R,G,B", auto: "the checkpoint's",
			needs: []string{"mean", "model|resume"}, excludes: []string{"delta"},
			field: func(o *options) any { return &channelsValue{&o.config.Model.Std, &o.config.Model.Preprocessing} },
			help:  "the standard deviation of the pixels of each channel, above 0 and at most 1; give --mean too"},
		{name: "delta", on: "eval predict merge", group: modelGroup, common: true, kind: "DIR", file: inputFile, values: runFolders,
			field: func(o *options) any { return &o.delta },
			help:  "the folder of a run, whose delta is used; --model is needed only if the backbone has moved"},
		{name: "classes", on: "bench", group: modelGroup, kind: "N", bounds: oneOrMore, def: 100, excludes: []string{"suite"},
			field: func(o *options) any { return &o.classes },
			help:  "the number of classes of the head"},

		// The data set.
		{name: "data", on: "tune score train eval", group: dataGroup, common: true, kind: "DIR", file: imageFolder,
			field: func(o *options) any { return (*pathValue)(&o.config.Data.Path) },
			help:  "the data set: a folder of class folders, VTAB-1k lists, FGVC JSON files, parquet files or tables; or one parquet file, table or few-shot list"},
		{name: "data", on: "merge", group: dataGroup, common: true, kind: "DIR", file: imageFolder,
			field: func(o *options) any { return (*pathValue)(&o.config.Data.Path) },
			help:  fmt.Sprintf("a data set; logits are compared on %d of its images too", dataProbes)},
		{name: "probe", on: "merge", group: dataGroup, common: true, kind: "DIR", file: imageFolder,
			field: func(o *options) any { return &o.probe },
			help:  "a folder of images; logits are compared on them too"},
		{name: "task", on: "tune score train eval verify", group: dataGroup, common: true, kind: "NAME", values: taskNames,
			field: func(o *options) any { return &o.config.Data.Task },
			help:  "the data set's name in a benchmark, from 'spt data tasks': its number of classes is checked, and its recipe is the default"},
		{name: "task", on: "demo", group: dataGroup, common: true, kind: "NAME", values: demo.Tasks, closed: true, def: demo.DefaultTask,
			field: func(o *options) any { return &o.demo.Task },
			help:  "the synthetic task: count, orientation or location"},
		{name: "layout", on: "tune score train eval verify", group: dataGroup, common: true, kind: "NAME", values: dataset.Layouts, auto: "recognised from the files",
			field: func(o *options) any { return &o.config.Data.Layout },
			help:  "the layout of the data set: " + or(dataset.Layouts())},
		{name: "image-column", on: "tune score train eval verify", group: dataGroup, kind: "COLUMN", auto: "found by its name, such as image",
			field: func(o *options) any { return &o.config.Data.ImageColumn },
			help:  "the column of images in parquet files and tables"},
		{name: "label-column", on: "tune score train eval verify", group: dataGroup, kind: "COLUMN", auto: "found by its name, such as label",
			field: func(o *options) any { return &o.config.Data.LabelColumn },
			help:  "the column of labels in parquet files and tables"},
		{name: "val-fraction", on: "tune score train eval verify", group: dataGroup, kind: "SHARE", bounds: shares, none: true, def: 0.1,
			field: func(o *options) any { return &o.config.Data.ValFraction },
			help:  "the share of the training images that become the validation split of a data set without one; 0 for none"},
		{name: "test-fraction", on: "tune score train eval verify", group: dataGroup, kind: "SHARE", bounds: shares, none: true, def: 0.1,
			field: func(o *options) any { return &o.config.Data.TestFraction },
			help:  "the share of the training images that become the test split of a data set without one; 0 for none"},
		{name: "split-seed", on: "tune score train eval verify", group: dataGroup, kind: "SEED", def: 0,
			field: func(o *options) any { return &o.config.Data.SplitSeed },
			help:  "the random seed of these splits"},
		{name: "skip-bad-images", on: "tune score train eval", group: dataGroup, local: true,
			field: func(o *options) any { return &o.config.Data.SkipBadImages },
			help:  "skip images that are missing or broken, and list them, instead of failing"},
		{name: "skip-bad-images", on: "predict", group: dataGroup,
			field: func(o *options) any { return &o.config.Data.SkipBadImages },
			help:  "list images that cannot be read, and do not fail because of them"},
		{name: "split", on: "eval", group: dataGroup, common: true, kind: "NAME", values: words("test", "val", "train"), closed: true, def: "test",
			field: func(o *options) any { return &o.split },
			help:  "the split to measure: test, val or train"},
		{name: "images-per-class", on: "pretrain", group: dataGroup, common: true, kind: "N", bounds: oneOrMore, def: demo.PretrainRecipe().ImagesPerClass,
			field: func(o *options) any { return &o.pretrain.ImagesPerClass },
			help:  "the number of synthetic training images of each class"},

		// From an image to the network's input.
		{name: "resize", on: "tune score train eval predict", group: imagesGroup, kind: "HOW", values: words("direct", "crop", "direct-crop"), def: "direct", excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Data.Images.Resize },
			help:  "how an image becomes a square: direct resizes it to the square; crop resizes its shorter side, direct-crop both sides, and then takes the centre"},
		{name: "resize-to", on: "tune score train eval predict", group: imagesGroup, kind: "PX", bounds: oneOrMore, auto: "256/224 of the image size", excludes: []string{"delta"},
			field: func(o *options) any { return &o.config.Data.Images.ResizeTo },
			help:  "the size before the crop in pixels: of the shorter side with --resize crop, of both with direct-crop"},
		{name: "random-crop", on: "tune train", group: imagesGroup,
			field: func(o *options) any { return &o.config.Data.Images.RandomCrop },
			help:  "crop training images at random instead of at the centre, with --resize crop or direct-crop"},
		{name: "flip", on: "tune train", group: imagesGroup,
			field: func(o *options) any { return &o.config.Data.Images.HorizontalFlip },
			help:  "mirror half of the training images at random"},
		{name: "cache", on: "tune score train eval", group: imagesGroup, kind: "SIZE", auto: "1GiB", local: true,
			field: func(o *options) any { return (*memoryValue)(&o.config.Data.Images.CacheBytes) },
			help:  "the memory for decoded images, such as 512MiB; 0 for none"},

		// What is tuned.
		{name: "method", on: "tune", group: methodGroup, common: true, kind: "NAME", values: methodNames, def: method.SPTLoRA,
			field: func(o *options) any { return (*string)(o.method) },
			help:  "the method; the list is above"},
		{name: "method", on: "train", group: methodGroup, common: true, kind: "NAME", values: methodsWithoutPlan, auto: "the plan's",
			field: func(o *options) any { return (*string)(o.method) },
			help:  "the method, if it needs no plan; the list is above"},
		{name: "method", on: "plan", group: methodGroup, common: true, kind: "NAME", values: methodsWithPlan, def: method.SPTLoRA, excludes: []string{"compare"},
			field: func(o *options) any { return (*string)(o.method) },
			help:  "the method: spt-NAME with the structured module NAME, spt-NAME-structured without single entries, or spt-unstructured without modules"},
		{name: "method", on: "demo", group: methodGroup, common: true, kind: "NAMES", values: methodNames, auto: comma(texts(demo.DefaultMethods())),
			field: func(o *options) any { return &o.methods },
			help:  "the methods to compare, divided by commas, of " + comma(methodNames())},
		{name: "method", on: "bench", group: methodGroup, common: true, kind: "NAME", values: benchMethods, def: method.SPTLoRA, excludes: []string{"suite"},
			field: func(o *options) any { return (*string)(&o.bench.Method) },
			help:  "the method whose step is measured: " + comma(benchMethods()) + "; forward is prediction, score is stage 1"},
		{name: "objective", on: "tune score train", group: methodGroup, kind: "NAME", values: objective.Names, def: objective.SingleLabel.Name(),
			field: func(o *options) any { return &o.config.Objective },
			help:  "the objective, which defines the loss and the metrics: " + or(objective.Names())},
		{name: "structured", on: "tune plan", group: methodGroup, kind: "NAME", values: peft.Names, excludes: []string{"resume", "compare"}, auto: "the method's",
			field: func(o *options) any { return &o.structured },
			help:  "the structured module of SPT, for --method spt-NAME: " + or(peft.Names())},
		{name: "budget", on: "tune", group: methodGroup, common: true, kind: "PARAMS", auto: spt.DefaultBudget.String() + " for SPT",
			field: func(o *options) any { return (*budgetsValue)(&o.config.Tune.Budgets) },
			help:  "the number of parameters to tune, such as 0.4M, 400k or 0.5%; of several, divided by commas, the best is chosen by validation"},
		{name: "budget", on: "train", group: methodGroup, common: true, kind: "PARAMS", excludes: []string{"plan"},
			field: func(o *options) any { return (*budgetValue)(&o.single.Budget) },
			help:  "the number of parameters to tune, such as 0.4M or 0.5%, which sets the rank of lora and adapter"},
		{name: "budget", on: "plan", group: methodGroup, common: true, kind: "PARAMS", excludes: []string{"compare", "import"},
			field: func(o *options) any { return (*budgetValue)(&o.budget) },
			help:  "the number of parameters to tune, such as 0.4M or 400k, or with --model 0.5%"},
		{name: "budget", on: "demo", group: methodGroup, common: true, kind: "PARAMS", def: demo.DefaultBudget,
			field: func(o *options) any { return (*budgetValue)(&o.demo.Budget) },
			help:  "the number of parameters to tune, the same for lora, adapter and SPT"},
		{name: "budget", on: "bench", group: methodGroup, common: true, kind: "PARAMS", excludes: []string{"suite"}, auto: "0.4M for SPT, 0.2M for a tiny ViT; rank 8 for lora and adapter",
			field: func(o *options) any { return (*budgetValue)(&o.bench.Budget) },
			help:  "the number of parameters to tune, such as 0.4M, 400k or 0.5%"},
		{name: "rank", on: "tune", group: methodGroup, common: true, kind: "N", bounds: oneOrMore, methods: withModules, auto: "8, less for small budgets of backbones narrower than 768; for lora and adapter the largest that the budget allows",
			field: func(o *options) any { return o.rank },
			help:  "the rank of the modules"},
		{name: "rank", on: "plan", group: methodGroup, kind: "N", bounds: oneOrMore, methods: withModules, excludes: []string{"compare"}, auto: "8, less for small budgets of backbones narrower than 768",
			field: func(o *options) any { return o.rank },
			help:  "the rank of the modules"},
		{name: "rank", on: "train", group: methodGroup, common: true, kind: "N", bounds: oneOrMore, methods: withModules, excludes: []string{"plan"}, auto: "the largest that the budget allows, without a budget 8",
			field: func(o *options) any { return o.rank },
			help:  "the rank of the modules of lora and adapter"},
		{name: "prompts", on: "tune train", group: methodGroup, kind: "N", bounds: oneOrMore, excludes: []string{"plan"}, auto: fmt.Sprintf("%d for vpt-shallow, %d for vpt-deep", shallow.Prompts, deep.Prompts),
			field: func(o *options) any { return &o.sizes.Prompts },
			help:  "the number of prompts of vpt-shallow and vpt-deep"},
		{name: "bottleneck", on: "tune train", group: methodGroup, kind: "N", bounds: oneOrMore, excludes: []string{"plan"}, auto: fmt.Sprint(beside.Bottleneck),
			field: func(o *options) any { return &o.sizes.Bottleneck },
			help:  "the width of the bottlenecks of adaptformer"},
		{name: "scale", on: "tune train", group: methodGroup, kind: "NUMBER", bounds: aboveZero, excludes: []string{"plan"}, auto: fmt.Sprint(beside.Scale),
			field: func(o *options) any { return &o.sizes.Scale },
			help:  "the factor on the output of the bottlenecks of adaptformer"},

		// Stages 1 and 2.
		{name: "scores", on: "plan", group: scoringGroup, common: true, kind: "FILE", file: inputFile, excludes: []string{"compare", "import"},
			field: func(o *options) any { return &o.scores },
			help:  "the scores: a file of 'spt score' or of a run"},
		{name: "import", on: "plan", group: scoringGroup, common: true, kind: "FILE", file: inputFile, excludes: []string{"compare"},
			field: func(o *options) any { return &o.published },
			help:  "a published selection, a .pth file, from which the plan is made instead of scores"},
		{name: "compare", on: "plan", group: scoringGroup, common: true,
			field: func(o *options) any { return &o.compare },
			help:  "compare two plans and write none"},
		{name: "plan", on: "train", group: scoringGroup, common: true, kind: "FILE", file: inputFile, excludes: []string{"resume"},
			field: func(o *options) any { return &o.plan },
			help:  "the plan: a file of 'spt plan' or a published selection"},
		{name: "plan", on: "bench", group: scoringGroup, kind: "FILE", file: inputFile, excludes: []string{"suite"}, auto: "a plan from random scores",
			field: func(o *options) any { return &o.plan },
			help:  "the plan: a file of 'spt plan' or a published selection"},
		{name: "criterion", on: "tune score", group: scoringGroup, kind: "NAME", values: criteria, methods: withScores, def: sensitivity.SquaredGradient,
			field: func(o *options) any { return (*string)(&o.config.Tune.Score.Criterion) },
			help:  "the scoring criterion: " + or(criteria()) + "; magnitude and random read no images"},
		{name: "score-batches", on: "tune score", group: scoringGroup, kind: "N", bounds: oneOrMore, methods: withScores, def: scoring.Batches,
			field: func(o *options) any { return &o.config.Tune.Score.Batches },
			help:  "the number of mini-batches of training images for scoring"},
		{name: "score-batch-size", on: "tune score", group: scoringGroup, kind: "N", bounds: oneOrMore, methods: withScores, def: scoring.BatchSize,
			field: func(o *options) any { return &o.config.Tune.Score.BatchSize },
			help:  "the number of images in a mini-batch for scoring"},
		{name: "alpha", on: "tune plan", group: scoringGroup, kind: "NUMBER", bounds: aboveZero, methods: withScores, excludes: []string{"compare", "import"}, def: planning.Alpha,
			field: func(o *options) any { return &o.config.Tune.Plan.Alpha },
			help:  "the module threshold: a matrix gets a module if it has at least 1/alpha of the module's parameters among the selected entries"},
		{name: "beta", on: "tune plan", group: scoringGroup, kind: "NUMBER", bounds: aboveZero, methods: withScores, excludes: []string{"compare", "import"}, def: planning.Beta,
			field: func(o *options) any { return &o.config.Tune.Plan.Beta },
			help:  "the vector threshold: a vector is tuned whole if at least 1/beta of its entries are selected"},
		{name: "compat", on: "tune plan", group: scoringGroup, kind: "MODE", values: words(plan.CompatRelease), excludes: []string{"compare", "import"}, auto: "an exact budget",
			field: func(o *options) any { return &o.config.Tune.Plan.Compat },
			help:  "the compatibility mode; release plans as the paper's published code does, for its seven budgets"},

		// Stage 3.
		{name: "epochs", on: "tune train", group: trainingGroup, common: true, kind: "N", bounds: oneOrMore, def: recipe.Epochs,
			field: func(o *options) any { return &o.recipe.Epochs },
			help:  "the number of passes over the training images; the warm-up keeps its share"},
		{name: "epochs", on: "pretrain", group: trainingGroup, common: true, kind: "N", bounds: oneOrMore, def: demo.PretrainRecipe().Train.Epochs,
			field: func(o *options) any { return &o.recipe.Epochs },
			help:  "the number of passes over the training images; the warm-up keeps its share"},
		{name: "epochs", on: "demo", group: trainingGroup, common: true, kind: "N", bounds: oneOrMore, def: demo.DefaultEpochs,
			field: func(o *options) any { return &o.demo.Epochs },
			help:  "the number of passes over the training images; linear makes ten times as many, for which the backbone runs once"},
		{name: "epochs", on: "bench", group: measureGroup, kind: "N", bounds: oneOrMore, def: recipe.Epochs, needs: []string{"suite"},
			field: func(o *options) any { return &o.suite.Epochs },
			help:  "the number of epochs of the whole task of --suite"},
		{name: "batch-size", on: "tune train", group: trainingGroup, common: true, kind: "N", bounds: oneOrMore, def: recipe.BatchSize,
			field: func(o *options) any { return &o.recipe.BatchSize },
			help:  "the number of images in a training step"},
		{name: "lr", on: "tune train", group: trainingGroup, common: true, kind: "NUMBER", bounds: aboveZero, option: "learning-rate", def: recipe.LR, auto: fmt.Sprintf("%g; vpt-*, ssf, full and partial-K have rates of their own", recipe.LR),
			field: func(o *options) any { return &o.recipe.LR },
			help:  "the peak learning rate of AdamW"},
		{name: "weight-decay", on: "tune train", group: trainingGroup, kind: "NUMBER", bounds: zeroOrMore, def: recipe.WeightDecay, auto: fmt.Sprintf("%g; ssf and adaptformer have values of their own", recipe.WeightDecay),
			field: func(o *options) any { return &o.recipe.WeightDecay },
			help:  "the decoupled weight decay of matrices"},
		{name: "warmup-epochs", on: "tune train", group: trainingGroup, kind: "N", bounds: zeroOrMore, def: recipe.WarmupEpochs,
			field: func(o *options) any { return &o.recipe.WarmupEpochs },
			help:  "the length of the linear warm-up in epochs; fractions are allowed"},
		{name: "drop-path", on: "tune train", group: trainingGroup, kind: "RATE", bounds: zeroOrMore, def: recipe.DropPath, auto: fmt.Sprintf("%g; 0 for ssf, adaptformer, linear and mlp-K", recipe.DropPath),
			field: func(o *options) any { return &o.recipe.DropPath },
			help:  "the drop-path rate of the last block; it grows linearly over the depth"},
		{name: "dropout", on: "tune train", group: trainingGroup, kind: "RATE", bounds: zeroOrMore, def: recipe.Dropout,
			field: func(o *options) any { return &o.recipe.Dropout },
			help:  "the dropout rate of the inputs of modules, of prompts, and in bottlenecks and MLP heads"},
		{name: "module-drop-path", on: "tune train", group: trainingGroup, kind: "RATE", bounds: zeroOrMore, def: recipe.ModuleDropPath,
			field: func(o *options) any { return &o.recipe.ModuleDropPath },
			help:  "the drop-path rate of the outputs of modules"},
		{name: "seed", on: "tune train pretrain", group: trainingGroup, common: true, kind: "SEED", def: 0,
			field: func(o *options) any { return &o.recipe.Seed },
			help:  "the seed of all random numbers"},
		{name: "seed", on: "score", group: scoringGroup, kind: "SEED", def: 0,
			field: func(o *options) any { return &o.config.Tune.Score.Seed },
			help:  "the seed of the new head, of the order of the images, and of random scores"},
		{name: "seed", on: "demo", group: trainingGroup, common: true, kind: "SEED", def: 0,
			field: func(o *options) any { return &o.demo.Seed },
			help:  "the seed of the task and of all random numbers"},
		{name: "with-val", on: "train", group: trainingGroup, common: true,
			field: func(o *options) any { return &o.single.WithVal },
			help:  "train on the validation images too"},
		{name: "no-validation", on: "tune", group: trainingGroup,
			field: func(o *options) any { return &o.config.Tune.NoValidation },
			help:  "skip the training that is validated, and train on the training and validation images at once; for a single budget"},
		{name: "paper-protocol", on: "tune", group: trainingGroup,
			field: func(o *options) any { return &o.config.Tune.PaperProtocol },
			help:  "test after every epoch and report the greatest accuracy too, as the paper does; nothing is chosen by it"},

		// The device.
		{name: "device", on: "tune score train eval predict demo", group: deviceGroup, common: true, kind: "NAME", values: deviceNames, anyRun: backend.Auto, auto: "auto, the best device",
			field: func(o *options) any { return &o.config.Compute.Device },
			help:  "the device: auto, cpu, cuda, cuda:N, or xla:PLUGIN for a PJRT plug-in; 'spt devices' lists them"},
		{name: "device", on: "bench", group: deviceGroup, common: true, kind: "NAME", values: deviceNames, needs: []string{"suite"}, auto: "auto, the best device",
			field: func(o *options) any { return &o.suite.Compute.Device },
			help:  "the device of --suite: auto, cpu, cuda, cuda:N, or xla:PLUGIN for a PJRT plug-in"},
		{name: "devices", on: "tune train", group: deviceGroup, kind: "N", bounds: oneOrMore, def: 1,
			field: func(o *options) any { return &o.config.Compute.Devices },
			help:  "the number of GPUs to use, starting at --device; each trains on its share of a mini-batch"},
		{name: "precision", on: "tune score train eval predict demo", group: deviceGroup, kind: "TYPE", values: words(string(backend.F32), string(backend.BF16)), auto: "bf16 on GPUs that have it, else f32",
			field: func(o *options) any { return (*string)(&o.config.Compute.Precision) },
			help:  "the number format: f32, or bf16 for frozen matrices and activations in bfloat16"},
		{name: "checkpoint-activations", on: "tune score train", group: deviceGroup,
			field: func(o *options) any { return &o.config.Compute.CheckpointActivations },
			help:  "compute activations twice on a GPU instead of keeping them, which takes less memory"},

		// Measuring.
		{name: "batch", on: "bench", group: measureGroup, common: true, kind: "N", bounds: oneOrMore, def: 8, auto: "8; 64 with --suite",
			field: func(o *options) any { return &o.bench.Batch },
			help:  "the number of images in a step"},
		{name: "steps", on: "bench", group: measureGroup, kind: "N", bounds: oneOrMore, def: 5, excludes: []string{"suite"},
			field: func(o *options) any { return &o.bench.Steps },
			help:  "the number of steps to time after the first one; their median is reported"},
		{name: "gemm", on: "bench", group: measureGroup, def: true, excludes: []string{"suite"},
			field: func(o *options) any { return &o.bench.GEMM },
			help:  "measure matrix products too"},
		{name: "breakdown", on: "bench", group: measureGroup, common: true, excludes: []string{"suite"},
			field: func(o *options) any { return &o.bench.Breakdown },
			help:  "print how the time of a step divides among its operations"},
		{name: "suite", on: "bench", group: measureGroup, common: true,
			field: func(o *options) any { return &o.runSuite },
			help:  "check and measure a whole device"},
		{name: "python", on: "bench", group: measureGroup, kind: "FILE", needs: []string{"suite"}, auto: "python3, if it has PyTorch",
			field: func(o *options) any { return &o.suite.Python },
			help:  "the Python with PyTorch that --suite runs for comparison; none to run none"},
		{name: "only", on: "bench", group: measureGroup, kind: "REGEXP", needs: []string{"suite"}, auto: "all",
			field: func(o *options) any { return &o.only },
			help:  "the items of --suite to run, such as 'timing lora'"},
		{name: "within", on: "bench", group: measureGroup, kind: "TIME", needs: []string{"suite"}, def: 8 * time.Minute,
			field: func(o *options) any { return &o.suite.Within },
			help:  "the time that --suite may take; items that do not fit are skipped"},

		// Results.
		{name: "out", on: "tune train", group: outputGroup, common: true, kind: "DIR", file: outputFolder, option: "run-folder", auto: filepath.Join(run.DefaultRoot, "DATA-METHOD"),
			field: func(o *options) any { return &o.out },
			help:  "the new run folder"},
		{name: "out", on: "score", group: outputGroup, common: true, kind: "FILE", file: outputFile, def: "scores.safetensors",
			field: func(o *options) any { return &o.out },
			help:  "the safetensors file to write"},
		{name: "out", on: "plan", group: outputGroup, common: true, kind: "FILE", file: outputFile, excludes: []string{"compare"}, def: "plan.json",
			field: func(o *options) any { return &o.out },
			help:  "the JSON file to write"},
		{name: "out", on: "merge", group: outputGroup, common: true, kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.out },
			help:  "the safetensors file to write"},
		{name: "out", on: "pretrain", group: outputGroup, common: true, kind: "FILE", file: outputFile, def: "vit_demo.safetensors",
			field: func(o *options) any { return &o.out },
			help:  "the safetensors file to write"},
		{name: "out", on: "bench", group: outputGroup, kind: "NAME", file: outputPrefix, needs: []string{"suite"}, def: "spt-suite",
			field: func(o *options) any { return &o.out },
			help:  "the name of the report of --suite, which is written to NAME.json and NAME.md"},
		{name: "explain", on: "tune plan", group: outputGroup, common: true, methods: withScores, excludes: []string{"compare"},
			field: func(o *options) any { return &o.explain },
			help:  "print how each plan divides its budget among blocks and operations"},
		{name: "per-class", on: "eval verify", group: outputGroup, common: true,
			field: func(o *options) any { return &o.perClass },
			help:  "print a line for each class"},
		{name: "top-k", on: "predict", group: outputGroup, common: true, kind: "N", bounds: oneOrMore, def: 5,
			field: func(o *options) any { return &o.topK },
			help:  "the number of classes to print for each image"},
		{name: "bound", on: "merge", group: outputGroup, common: true, kind: "NUMBER", bounds: aboveZero, def: delta.DefaultBound,
			field: func(o *options) any { return &o.bound },
			help:  "the largest allowed difference of a logit between the merged and the tuned backbone"},
		{name: "resume", on: "tune train", group: outputGroup, common: true, kind: "DIR", values: runFolders,
			field: func(o *options) any { return &o.resume },
			help:  "the folder of a stopped run to go on with; it needs no other flags, except --model and --data if these have moved"},
		{name: "resume", on: "pretrain", group: outputGroup, common: true,
			field: func(o *options) any { return &o.resumeState },
			help:  "go on from OUT.training, with the same flags"},

		// All commands.
		{name: "json", on: "*", group: generalGroup, common: true,
			field: func(o *options) any { return &o.app.json },
			help:  "write the result as JSON to standard output, and everything else to standard error"},
		{name: "quiet", short: "q", on: "*", group: generalGroup, common: true,
			field: func(o *options) any { return &o.app.quiet },
			help:  "show no progress"},
		{name: "cpuprofile", on: "*", group: generalGroup, kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.app.cpuprofile },
			help:  "the file to which a CPU profile is written, for 'go tool pprof'"},
		{name: "trace", on: "*", group: generalGroup, kind: "FILE", file: outputFile,
			field: func(o *options) any { return &o.app.trace },
			help:  "the file to which an execution trace is written, for 'go tool trace'"},
		{name: "help", short: "h", on: "*", group: generalGroup, common: true,
			field: func(o *options) any { return &o.app.showHelp },
			help:  "print this help"},
		{name: "all", on: "*", group: generalGroup, common: true, needs: []string{"help"},
			field: func(o *options) any { return &o.app.showAll },
			help:  "with --help: print all flags"},
	}
}

// textOf returns a default as the text that sets a flag.
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

// or joins a list as a sentence does: "a, b or c".
func or(list []string) string {
	last := len(list) - 1
	if last < 1 {
		return comma(list)
	}
	return comma(list[:last]) + " or " + list[last]
}

// The known values of flags.

func words(list ...string) func() []string { return func() []string { return list } }

func embeddedName() []string { return []string{embedded.Name} }
func methodNames() []string  { return texts(method.Methods()) }
func benchMethods() []string { return texts(bench.Methods()) }
func criteria() []string     { return texts(sensitivity.Criteria()) }

// rowOf returns the row of a method that exists.
func rowOf(m method.Method) method.Row {
	row, err := method.Lookup(m)
	if err != nil {
		panic(err)
	}
	return row
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

// runFolders returns the run folders with names that the program has chosen.
func runFolders() (dirs []string) {
	configs, _ := filepath.Glob(filepath.Join(run.DefaultRoot, "*", run.ConfigFile)) // the pattern is valid
	for _, path := range configs {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}
