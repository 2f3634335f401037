package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Flags write straight into the configurations of the library. A run that is
// resumed overwrites them with those of its folder, and flags that then have
// another value contradict it; see refuseContradictions.

// modelFlags are those of a backbone.
func modelFlags(fs *pflag.FlagSet, c *run.ModelConfig) {
	fs.Var((*modelFlag)(&c.Path), "model", "the backbone: a checkpoint `FILE` or its folder, hf:OWNER/NAME[@REVISION][:FILE] of the Hugging Face Hub, or 'demo', the embedded one")
	fs.IntVar(&c.ImageSize, "image-size", 0, "side of the images in px; the position embedding is resized (default the checkpoint's)")
	fs.IntVar(&c.NumHeads, "num-heads", 0, "attention heads (default what the checkpoint says, else what published models of its width have)")
	fs.Float64Var(&c.LayerNormEps, "layer-norm-eps", 0, "epsilon of the layer norms (default what the checkpoint says, else its library's)")
	fs.Var(&channelsFlag{&c.Mean, &c.Preprocessing}, "mean", "mean of the pixels per channel, in 0…1, with --std (default what the checkpoint says)")
	fs.Var(&channelsFlag{&c.Std, &c.Preprocessing}, "std", "standard deviation of the pixels per channel, with --mean")
}

// openModel loads the backbone that modelFlags describe; numClasses is of a new
// head, 0 keeps the checkpoint's.
func (a *app) openModel(ctx context.Context, c run.ModelConfig, numClasses int) (*backbone.Model, *checkpoint.Report, error) {
	if c.Path == "" {
		return nil, nil, &run.OptionError{Err: fmt.Errorf("no backbone given: --model FILE, --model hf:OWNER/NAME, or --model %s for the embedded one", embedded.Name)}
	}
	if c.Preprocessing == run.GivenPreprocessing && !(c.Std[0] > 0 && c.Std[1] > 0 && c.Std[2] > 0) {
		return nil, nil, &run.OptionError{Err: fmt.Errorf("--std %g,%g,%g: expected numbers above 0", c.Std[0], c.Std[1], c.Std[2])}
	}
	if c.Preprocessing == run.GivenPreprocessing && (slices.Max(c.Mean[:]) > 1 || slices.Min(c.Mean[:]) < 0 || slices.Max(c.Std[:]) > 1) {
		return nil, nil, &run.OptionError{Err: fmt.Errorf("--mean %g,%g,%g --std %g,%g,%g: expected shares of the brightest pixel, in 0…1; of values up to 255 give a 255th", c.Mean[0], c.Mean[1], c.Mean[2], c.Std[0], c.Std[1], c.Std[2])}
	}
	if c.Path != embedded.Name {
		if err := a.fetch(ctx, &c); err != nil {
			return nil, nil, err
		}
		m, report, err := c.Open(numClasses)
		return m, &report, err
	}
	if c.Fingerprint == "" && (c.ImageSize != 0 || c.NumHeads != 0 || c.LayerNormEps != 0 || c.Preprocessing != "") {
		return nil, nil, &run.OptionError{Err: fmt.Errorf("the embedded backbone is what it is: leave out --image-size, --num-heads, --layer-norm-eps, --mean and --std")}
	}
	m, err := embedded.Model(numClasses)
	if err != nil {
		return nil, nil, err
	}
	return m, nil, c.Check(m)
}

// fetch brings a backbone of the Hub into the cache.
func (a *app) fetch(ctx context.Context, c *run.ModelConfig) error {
	p := a.progress()
	defer p.close()
	note, err := c.Fetch(ctx, func(h hub.Progress) {
		p.event(spt.Event{Stage: fetching + h.File, Done: int(h.Done), Total: int(h.Total)})
	})
	if note != "" {
		p.close()
		fmt.Fprintf(a.stderr, "spt: note: %s: %s\n", c.Path, note)
	}
	return err
}

// computeFlags say on what is computed, and in which precision; train adds what
// matters on the way back only.
func computeFlags(fs *pflag.FlagSet, c *run.ComputeConfig, train bool) {
	fs.StringVar(&c.Device, "device", "", "auto, cpu, cuda, cuda:N or xla:PLUGIN, a PJRT plug-in; 'spt devices' lists them (default auto, the best there is)")
	fs.StringVar((*string)(&c.Precision), "precision", "", "f32, or bf16: frozen matrices and activations are bfloat16 (default bf16 on GPUs that have it)")
	if train {
		fs.BoolVar(&c.CheckpointActivations, "checkpoint-activations", false, "on a GPU, compute activations twice instead of keeping them: less memory")
	}
}

// devicesFlag is for verbs that train.
func devicesFlag(fs *pflag.FlagSet, c *run.ComputeConfig) {
	fs.IntVar(&c.Devices, "devices", 1, "so many GPUs of this machine, beginning with --device, each train on their share of a batch")
}

// openDevice starts the device and fills in what c leaves open.
func (a *app) openDevice(c *run.ComputeConfig) (backend.Backend, error) {
	be, note, err := c.Open()
	if note != "" && !a.quiet {
		fmt.Fprintf(a.stderr, "spt: note: %s\n", note)
	}
	if err == nil && c.CheckpointActivations && !backend.OnDevice(be) && !a.quiet {
		fmt.Fprintln(a.stderr, "spt: note: --checkpoint-activations is for GPUs; on the processor it changes nothing")
	}
	if err == nil && c.Precision == backend.BF16 && !backend.OnDevice(be) && !a.quiet {
		fmt.Fprintln(a.stderr, "spt: note: bf16 on the processor shows what it does to results; it is far slower than f32")
	}
	return be, err
}

// dataFlags are those of a data set.
func dataFlags(fs *pflag.FlagSet, c *run.DataConfig) {
	fs.Var((*pathFlag)(&c.Path), "data", "the images: a `DIR` of class folders, VTAB-1k lists, FGVC json, parquet files or tables, or one parquet file, table or few-shot list")
	layoutFlags(fs, c)
	fs.BoolVar(&c.SkipBadImages, "skip-bad-images", false, "leave out images that are missing or broken, and list them, instead of failing")
	imageFlags(fs, &c.Images)
	fs.Var((*bytesFlag)(&c.Images.CacheBytes), "cache", "memory for decoded images, such as 512MiB; 0 for none")
}

// layoutFlags say how a data set is read and split.
func layoutFlags(fs *pflag.FlagSet, c *run.DataConfig) {
	c.ValFraction, c.TestFraction = 0.1, 0.1
	fs.StringVar(&c.Task, "task", "", "the `NAME` of a benchmark's set: its number of classes is checked, its recipe the default; 'spt data tasks' lists them")
	fs.StringVar(&c.Layout, "layout", "", strings.Join(dataset.Layouts(), ", ")+" (default recognised)")
	fs.StringVar(&c.ImageColumn, "image-column", "", "the `COLUMN` of images in parquet files and tables (default found, such as image)")
	fs.StringVar(&c.LabelColumn, "label-column", "", "their `COLUMN` of labels (default found, such as label)")
	fs.Var((*fractionFlag)(&c.ValFraction), "val-fraction", "share of the training images for validation where the data has no such split; 0 for none")
	fs.Var((*fractionFlag)(&c.TestFraction), "test-fraction", "share of the training images for the test where the data has no such split; 0 for none")
	fs.Uint64Var(&c.SplitSeed, "split-seed", 0, "seed of these splits")
}

// takeRecipe sets the flags that were not given as the recipe of the task has
// them. What it says of training is the flags' default anyway.
func takeRecipe(cmd *cobra.Command, c *run.DataConfig) error {
	if c.Task == "" {
		return nil
	}
	known, err := dataset.FindKnown(c.Task)
	if err != nil {
		return &run.OptionError{Err: err}
	}
	recipe, fs := run.TaskImages(known), cmd.Flags()
	// Another way to resize has other crops.
	if !fs.Changed("resize") {
		c.Images.Resize = recipe.Resize
		if fs.Lookup("random-crop") != nil && !fs.Changed("random-crop") {
			c.Images.RandomCrop = recipe.RandomCrop
		}
	}
	if fs.Lookup("flip") != nil && !fs.Changed("flip") {
		c.Images.HorizontalFlip = recipe.HorizontalFlip
	}
	return nil
}

func openData(c run.DataConfig) (*dataset.Dataset, error) {
	if c.Path == "" {
		return nil, &run.OptionError{Err: fmt.Errorf("no data set given: --data DIR")}
	}
	if c.ValFraction+c.TestFraction >= 1 {
		return nil, &run.OptionError{Err: fmt.Errorf("--val-fraction %g and --test-fraction %g leave nothing to train on; together they must be below 1", c.ValFraction, c.TestFraction)}
	}
	return c.Open()
}

// canSkip reports whether --skip-bad-images would have helped: a run that is
// resumed keeps its images.
func canSkip(fs *pflag.FlagSet) bool {
	skip := fs.Lookup("skip-bad-images")
	return skip != nil && !skip.Changed && !fs.Changed("resume")
}

// imageFlags say how an image becomes a square.
func imageFlags(fs *pflag.FlagSet, o *run.ImageOptions) {
	fs.StringVar(&o.Resize, "resize", "direct", "direct: straight to the square; crop: the shorter side, then a centre crop; direct-crop: straight to a larger square, then a centre crop")
	fs.IntVar(&o.ResizeTo, "resize-to", 0, "with --resize crop: the shorter side in px, with direct-crop both (default 256/224 of the image size)")
}

// augmentFlags are what training alone does to images.
func augmentFlags(fs *pflag.FlagSet, o *run.ImageOptions) {
	fs.BoolVar(&o.RandomCrop, "random-crop", false, "crop at random while training, with --resize crop or direct-crop")
	fs.BoolVar(&o.HorizontalFlip, "flip", false, "mirror every other image while training")
}

// scoreFlags are stage 1's.
func scoreFlags(fs *pflag.FlagSet, o *sensitivity.Options) {
	defaults := sensitivity.Options{}.WithDefaults()
	fs.IntVar(&o.Batches, "score-batches", defaults.Batches, "batches of training images to score on")
	fs.IntVar(&o.BatchSize, "score-batch-size", defaults.BatchSize, "images in such a batch")
	var names []string
	for _, c := range sensitivity.Criteria() {
		names = append(names, string(c))
	}
	o.Criterion = defaults.Criterion
	fs.StringVar((*string)(&o.Criterion), "criterion", string(o.Criterion), "by what weights are scored: "+strings.Join(names, ", ")+"; the last two look at no images")
}

// planFlags are stage 2's, but for method, budget and rank.
func planFlags(fs *pflag.FlagSet, o *run.PlanOptions) {
	fs.Float64Var(&o.Alpha, "alpha", 10, "a matrix gets a module from 1/alpha of the module's parameters on")
	fs.Float64Var(&o.Beta, "beta", 5, "a vector is tuned whole from 1/beta of its length on")
	fs.StringVar(&o.Compat, "compat", "", "release: plan as the paper's published code does, for its seven budgets")
}

// structuredFlag names SPT's module by itself.
func structuredFlag(fs *pflag.FlagSet, name *string) {
	fs.StringVar(name, "structured", "", "the `NAME` of SPT's structured module, for --method spt-NAME: "+strings.Join(peft.Names(), ", "))
}

// takeStructured sets the method that the structured module stands for.
func takeStructured(cmd *cobra.Command, name string, chosen *method.Method) error {
	if name == "" {
		return nil
	}
	if _, err := peft.Lookup(name); err != nil {
		return &run.OptionError{Err: err}
	}
	if !cmd.Flags().Changed("method") {
		*chosen = method.SPT(name)
	}
	if !chosen.Scores() || chosen.Module() != name {
		return &run.OptionError{Err: fmt.Errorf("--structured %s contradicts --method %s; leave one of them out", name, *chosen)}
	}
	return nil
}

// idleFlags refuses flags that would change nothing of what the method does.
func idleFlags(cmd *cobra.Command, m method.Method) error {
	for _, f := range []struct {
		idle   bool
		reason string
		names  []string
	}{
		{m.Module() == "", "has no modules that a rank could be of", []string{"rank"}},
		{!m.Scores(), "scores and plans nothing", []string{"criterion", "score-batches", "score-batch-size", "alpha", "beta", "explain"}},
	} {
		for _, name := range f.names {
			if f.idle && cmd.Flags().Changed(name) {
				return &run.OptionError{Err: fmt.Errorf("method %s %s; leave --%s out", m, f.reason, name)}
			}
		}
	}
	return nil
}

// sizeFlags are those of single methods.
func sizeFlags(fs *pflag.FlagSet, s *method.Sizes) {
	shallow, deep, beside := method.Sizes{}.For(method.VPTShallow), method.Sizes{}.For(method.VPTDeep), method.Sizes{}.For(method.AdaptFormer)
	fs.IntVar(&s.Prompts, "prompts", 0, fmt.Sprintf("prompts of vpt-shallow (default %d) and vpt-deep (%d)", shallow.Prompts, deep.Prompts))
	fs.IntVar(&s.Bottleneck, "bottleneck", 0, fmt.Sprintf("width of adaptformer's bottlenecks (default %d)", beside.Bottleneck))
	fs.Float64Var(&s.Scale, "scale", 0, fmt.Sprintf("on what adaptformer's bottlenecks add (default %g)", beside.Scale))
}

// takeMethodRecipe sets what was not given as the recipe of the method has it,
// which is the flags' default for most.
func takeMethodRecipe(cmd *cobra.Command, m method.Method, o *train.Options) {
	recipe := method.Recipe(m)
	o.WarmupLR, o.MinLR = recipe.WarmupLR, recipe.MinLR
	for name, value := range map[string]struct{ to, from *float64 }{
		"lr": {&o.LR, &recipe.LR}, "weight-decay": {&o.WeightDecay, &recipe.WeightDecay}, "drop-path": {&o.DropPath, &recipe.DropPath},
	} {
		if !cmd.Flags().Changed(name) {
			*value.to = *value.from
		}
	}
}

// methodsHelp describes the methods, a line each.
const methodsHelp = `The methods:

  spt-lora, spt-adapter   SPT with this structured module; spt-NAME for any that is registered
  spt-lora-structured, …  SPT without single entries
  spt-unstructured        SPT without modules: matrices entry by entry
  lora, adapter           the module on every matrix of every block
  adaptformer             a bottleneck beside the MLP of every block
  vpt-shallow, vpt-deep   prompts before the first block, or before every block
  ssf                     the output of every operation scaled and shifted
  bitfit                  every bias
  partial-1               the last block and what follows; partial-K: the last K
  mlp-3                   a head of three layers; mlp-K: of K
  linear                  a new head, nothing else
  full                    every weight

Each has its published recipe: unless given, --lr, --weight-decay and --drop-path
are the method's.`

// trainFlags are stage 3's. The defaults are the paper's recipe.
func trainFlags(fs *pflag.FlagSet, o *train.Options) {
	*o = train.VTAB()
	fs.IntVar(&o.Epochs, "epochs", o.Epochs, "passes over the training images; the warm-up keeps its share")
	fs.IntVar(&o.BatchSize, "batch-size", o.BatchSize, "images in a training step")
	fs.Float64Var(&o.LR, "lr", o.LR, "greatest learning rate, of AdamW; vpt-*, ssf, full and partial-K have others")
	fs.Float64Var(&o.WeightDecay, "weight-decay", o.WeightDecay, "decoupled weight decay, of matrices only; ssf and adaptformer have others")
	fs.Float64Var(&o.WarmupEpochs, "warmup-epochs", o.WarmupEpochs, "epochs of linear warm-up")
	fs.Float64Var(&o.DropPath, "drop-path", o.DropPath, "drop rate of the blocks' branches, linear over depth; 0 for ssf and adaptformer")
	fs.Float64Var(&o.Dropout, "dropout", o.Dropout, "drop rate on a module's input, on prompts, in bottlenecks and MLP heads")
	fs.Float64Var(&o.ModuleDropPath, "module-drop-path", o.ModuleDropPath, "drop rate on a module's output")
	fs.Uint64Var(&o.Seed, "seed", o.Seed, "seed of everything drawn at random")
}

// scaleWarmup keeps the warm-up's share of the epochs where only these were
// given, and refuses one that does not end.
func scaleWarmup(cmd *cobra.Command, o *train.Options) error {
	if cmd.Flags().Changed("epochs") && !cmd.Flags().Changed("warmup-epochs") {
		recipe := train.VTAB().WithEpochs(o.Epochs)
		o.WarmupEpochs = recipe.WarmupEpochs
	}
	if o.WarmupEpochs > float64(o.Epochs) {
		return &run.OptionError{Err: fmt.Errorf("--warmup-epochs %g is more than --epochs %d: the learning rate would never reach --lr", o.WarmupEpochs, o.Epochs)}
	}
	return nil
}

// methodNames lists methods for a flag's help.
func methodNames(methods []method.Method) string {
	var names []string
	for _, m := range methods {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// given are the flags that the user set, with their values.
func given(cmd *cobra.Command) map[string]string {
	values := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) { values[f.Name] = f.Value.String() })
	return values
}

// refuseContradictions compares flags, as given returned them, with what they
// are after a run's configuration was read into the same variables. advice is what else
// there is to do than to leave such a flag out.
func refuseContradictions(cmd *cobra.Command, before map[string]string, dir, advice string) error {
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value, ok := before[f.Name]
		if f.Name == "device" && value == backend.Auto {
			return // the run's is as good as any
		}
		if now := f.Value.String(); ok && err == nil && now != value {
			err = &run.OptionError{Err: fmt.Errorf("--%s %s contradicts the run in %s, which has %s; leave the flag out, %s", f.Name, value, dir, cmp.Or(now, "none"), advice)}
		}
	})
	return err
}

// pathFlag is a path, kept absolute so that a run can be resumed from anywhere.
type pathFlag string

func (p *pathFlag) String() string { return string(*p) }
func (p *pathFlag) Type() string   { return "path" }
func (p *pathFlag) Set(s string) error {
	if s == "" {
		return fmt.Errorf("expected a path")
	}
	abs, err := filepath.Abs(s)
	*p = pathFlag(abs)
	return err
}

// modelFlag is the path of a checkpoint, a reference to the Hub, or the name of
// the embedded one.
type modelFlag string

func (m *modelFlag) String() string { return string(*m) }
func (m *modelFlag) Type() string   { return "path" }
func (m *modelFlag) Set(s string) error {
	if s == embedded.Name {
		*m = embedded.Name
		return nil
	}
	if hub.IsReference(s) {
		r, err := hub.Parse(s)
		*m = modelFlag(r.String())
		return err
	}
	return (*pathFlag)(m).Set(s)
}

// fractionFlag is a share from 0 to below 1. The data set's options spell
// "none" as a negative number.
type fractionFlag float64

func (f *fractionFlag) String() string { return strconv.FormatFloat(max(float64(*f), 0), 'g', -1, 64) }
func (f *fractionFlag) Type() string   { return "fraction" }
func (f *fractionFlag) Set(s string) error {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0 && v < 1) {
		return fmt.Errorf("expected a number from 0 to below 1")
	}
	if v == 0 {
		v = -1
	}
	*f = fractionFlag(v)
	return nil
}

// budgetFlag is a budget, which plan.ParseBudget reads once the backbone is
// known.
type budgetFlag string

func (b *budgetFlag) String() string { return string(*b) }
func (b *budgetFlag) Type() string   { return "parameters" }
func (b *budgetFlag) Set(s string) error {
	s = strings.TrimSpace(s)
	if s == "" {
		return fmt.Errorf("expected parameters to tune, such as 0.4M, 400k or 0.5%%")
	}
	*b = budgetFlag(s)
	return nil
}

// budgetsFlag is several budgets, divided by commas or given by several flags.
type budgetsFlag []string

func (b *budgetsFlag) String() string { return strings.Join(*b, ",") }
func (b *budgetsFlag) Type() string   { return "parameters" }
func (b *budgetsFlag) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		var one budgetFlag
		if err := one.Set(part); err != nil {
			return err
		}
		*b = append(*b, string(one))
	}
	return nil
}

// distinct refuses budgets that allow the same number of parameters of a
// backbone: they would be tried twice. What is no budget is refused elsewhere.
func (b budgetsFlag) distinct(backbone int) error {
	seen := map[int]string{}
	for _, text := range b {
		n, err := plan.ParseBudget(text, backbone)
		if err != nil {
			continue
		}
		if first, ok := seen[n]; ok {
			return &run.OptionError{Err: fmt.Errorf("--budget %s and %s are the same %d parameters; leave one out", first, text, n)}
		}
		seen[n] = text
	}
	return nil
}

// bytesFlag is an amount of memory. The library spells "none" as a negative
// number and 1 GiB as 0.
type bytesFlag int64

var byteUnits = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1}}

func (b *bytesFlag) Type() string { return "size" }
func (b *bytesFlag) String() string {
	n := int64(*b)
	switch {
	case n < 0:
		return "0"
	case n == 0:
		n = 1 << 30
	}
	for _, u := range byteUnits {
		if n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprint(n)
}

func (b *bytesFlag) Set(s string) error {
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		n := v * float64(u.size)
		if err != nil || !(n >= 0) || n > math.MaxInt64/2 {
			break
		}
		if *b = bytesFlag(n); *b == 0 {
			*b = -1
		}
		return nil
	}
	return fmt.Errorf("expected an amount of memory such as 1GiB, 512MiB or 0")
}

// channelsFlag is a number for each of red, green and blue.
type channelsFlag struct {
	value  *[3]float32
	source *string
}

func (c *channelsFlag) Type() string { return "r,g,b" }
func (c *channelsFlag) String() string {
	if c.value == nil || *c.source != run.GivenPreprocessing {
		return ""
	}
	return fmt.Sprintf("%g,%g,%g", c.value[0], c.value[1], c.value[2])
}

func (c *channelsFlag) Set(s string) error {
	parts := strings.Split(s, ",")
	if len(parts) != 3 {
		return fmt.Errorf("expected three numbers such as 0.5,0.5,0.5")
	}
	for i, p := range parts {
		v, err := strconv.ParseFloat(strings.TrimSpace(p), 32)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%q is not a number; expected three such as 0.5,0.5,0.5", p)
		}
		c.value[i] = float32(v)
	}
	*c.source = run.GivenPreprocessing
	return nil
}
