package method

import (
	"cmp"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// The options that groups of methods read: methods that tune more than the head, methods with
// stages 1 and 2, and methods with structured modules.
var (
	blocks  = []string{"drop-path", "head-learning-rate"}
	scoring = slices.Concat(blocks, []string{"from-block", "budget", "scores-file", "keep-scores", "criterion", "score-batches", "score-batch-size", "plan-rule", "alpha", "beta"})
	modules = []string{"rank", "dropout", "module-drop-path", "init"}
	// modules without scores
	uniform = slices.Concat(blocks, modules, []string{"budget", "from-block"})
	chosen  = slices.Concat(uniform, []string{"target-modules"})
)

// headRates are the learning rates among which validation chooses for methods that tune only the
// head. Such a training takes seconds, and 1e-3 is too low for most data sets (docs/method.md).
var headRates = []float64{1e-3, 1e-2, 1e-1}

// rows is the catalogue. To add a method, add a row to catalogue.
var rows []Row

func init() {
	rows = catalogue()
	peft.Reserve(checkModuleName)
}

// catalogue returns all rows, in the order in which lists show them.
func catalogue() []Row {
	return []Row{
		{
			Name:    "spt-NAME",
			Summary: "SPT with the structured module NAME",
			Paper:   "He et al. 2023, Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, arXiv 2303.08566",
			Scores:  true,
			options: slices.Concat(scoring, modules, []string{"compat"}),
		}, {
			Name:    "spt-NAME-structured",
			Summary: "SPT with the module NAME, without single entries",
			Paper:   "He et al. 2023, arXiv 2303.08566",
			Scores:  true, Only: plan.Structured,
			options: slices.Concat(scoring, modules),
		}, {
			Name:    "spt-unstructured",
			Summary: "SPT without modules: single entries and whole vectors",
			Paper:   "He et al. 2023, arXiv 2303.08566",
			Scores:  true, Only: plan.Unstructured,
			options: scoring,
			merges:  true,
		}, {
			Name:    "NAME",
			Summary: "the module NAME on every matrix of every block",
			Paper: "LoRA: Hu et al. 2022, arXiv 2106.09685; Adapter: Houlsby et al. 2019, arXiv 1902.00751; " +
				"DoRA: Liu et al. 2024, arXiv 2402.09353; RepAdapter: Luo et al. 2023, arXiv 2302.08106; there on fewer matrices",
			options: chosen,
			tunes:   withModules,
		}, {
			Name:    "NAME+vectors",
			Summary: "the module NAME on every matrix of every block, and every bias and norm",
			options: chosen,
			vectors: true,
			tunes:   withModules,
		}, {
			Name:    "lora-qkv",
			Summary: "LoRA on q, k and v of every block",
			Paper:   "where the SPT paper and Zhang et al. 2022, NOAH, arXiv 2206.04673, put LoRA; there q, k and v share A",
			Module:  "lora",
			options: uniform,
			places:  []string{"attn.q", "attn.k", "attn.v"},
			tunes:   withModules,
		}, {
			Name:    "adapter-mlp",
			Summary: "an adapter after the MLP of every block",
			Paper:   "where the SPT paper and Zhang et al. 2022, NOAH, arXiv 2206.04673, put adapters",
			Module:  "adapter",
			options: uniform,
			places:  []string{"mlp.fc2"},
			tunes:   withModules,
		}, {
			Name:    "houlsby",
			Summary: "adapters after the attention and after the MLP of every block",
			Paper:   "Houlsby et al. 2019, arXiv 1902.00751",
			Module:  "adapter",
			options: uniform,
			places:  []string{"attn.proj", "mlp.fc2"},
			tunes:   withModules,
		}, {
			Name:     "adaptformer",
			Summary:  "a bottleneck beside the MLP of every block",
			Paper:    "Chen et al. 2022, AdaptFormer, arXiv 2205.13535",
			inPaper:  true,
			options:  slices.Concat(blocks, []string{"bottleneck", "scale", "dropout", "from-block"}),
			defaults: Options{Bottleneck: 64, Scale: 0.1},
			tunes: func(_ Row, _ backbone.Config, o Options) (peft.Selection, error) {
				return peft.Selection{AdaptFormer: &peft.Bottleneck{Width: o.Bottleneck, Scale: o.Scale}}, nil
			},
			// Chen et al. 2022, main_image.py, with the learning rate of SPT.
			Recipe: "dropout 0.1 in the bottleneck, no drop-path, no weight decay",
			change: func(o *train.Options) { o.DropPath, o.WeightDecay = 0, 0 },
		},
		{
			Name:     "adapter-plus",
			Summary:  "an adapter with learned factors of the channels after every block",
			Paper:    "Steitz and Roth 2024, Adapters Strike Back, CVPR 2024",
			inPaper:  true,
			options:  slices.Concat(blocks, []string{"bottleneck", "module-drop-path", "from-block"}),
			defaults: Options{Bottleneck: 8},
			tunes: func(_ Row, _ backbone.Config, o Options) (peft.Selection, error) {
				return peft.Selection{PostAdapter: &peft.PostAdapter{Width: o.Bottleneck}}, nil
			},
			// Steitz and Roth 2024, conf/train/default.yaml.
			Recipe: "warm-up from 1e-5, down to 1e-6",
			change: func(o *train.Options) { o.WarmupLR, o.MinLR = 1e-5, 1e-6 },
		},
		{
			Name:     "convpass",
			Summary:  "a convolutional bypass beside the attention and the MLP of every block",
			Paper:    "Jie and Deng 2022, Convolutional Bypasses Are Better Vision Transformer Adapters, arXiv 2207.07039",
			options:  slices.Concat(blocks, []string{"bottleneck", "scale", "dropout", "from-block"}),
			defaults: Options{Bottleneck: 8, Scale: 1},
			tunes: func(_ Row, _ backbone.Config, o Options) (peft.Selection, error) {
				return peft.Selection{Convpass: &peft.Convpass{Width: o.Bottleneck, Scale: o.Scale}}, nil
			},
			Recipe: "dropout 0.1 in the bypass",
		},
		{
			Name:     "fact-tt",
			Summary:  "a product of factors on every matrix, the outer two shared by all matrices",
			Paper:    "Jie and Deng 2023, FacT, arXiv 2212.03145",
			options:  slices.Concat(blocks, []string{"rank", "scale", "dropout", "from-block"}),
			defaults: Options{Scale: 1},
			merges:   true,
			tunes: func(_ Row, c backbone.Config, o Options) (peft.Selection, error) {
				return peft.Selection{FacT: &peft.FacT{Rank: cmp.Or(o.Rank, min(factRank, c.MaxRank())), Scale: o.Scale}}, nil
			},
		},
		vpt("vpt-shallow", "prompts before the first block", 100, false),
		vpt("vpt-deep", "prompts before every block", 50, true),
		{
			Name:    "ssf",
			Summary: "a scale and a shift for the output of every operation",
			Paper:   "Lian et al. 2022, Scaling & Shifting Your Features, arXiv 2210.08823",
			options: slices.Concat(blocks, []string{"from-block"}),
			merges:  true,
			tunes:   func(Row, backbone.Config, Options) (peft.Selection, error) { return peft.Selection{SSF: true}, nil },
			// Lian et al. 2022, train_scripts/vit/vtab/cifar_100.
			Recipe: "learning rate 5e-3, weight decay 5e-5, warm-up from 1e-7, down to 1e-8, no drop-path",
			change: func(o *train.Options) {
				o.LR, o.WeightDecay, o.WarmupLR, o.MinLR, o.DropPath = 5e-3, 5e-5, 1e-7, 1e-8, 0
			},
		}, {
			Name:    "bitfit",
			Summary: "every bias",
			Paper:   "Ben Zaken et al. 2022, BitFit, arXiv 2106.10199",
			options: slices.Concat(blocks, []string{"from-block"}),
			merges:  true,
			tunes:   func(_ Row, c backbone.Config, _ Options) (peft.Selection, error) { return biases(c), nil },
		}, {
			Name:    "norm",
			Summary: "every norm",
			Paper:   "Basu et al. 2023, Strong Baselines for Parameter Efficient Few-Shot Fine-Tuning, arXiv 2304.01917",
			options: slices.Concat(blocks, []string{"from-block"}),
			merges:  true,
			tunes:   func(_ Row, c backbone.Config, _ Options) (peft.Selection, error) { return norms(c), nil },
		}, {
			Name:    "difffit",
			Summary: "every bias and norm, and factors for the output of every branch",
			Paper:   "Xie et al. 2023, DiffFit, arXiv 2304.06648",
			options: slices.Concat(blocks, []string{"from-block"}),
			merges:  true,
			tunes: func(_ Row, c backbone.Config, _ Options) (peft.Selection, error) {
				s := whole(c, func(p backbone.Param) bool { return isBias(p) || isVector(p) && p.Norm })
				s.BranchScales = true
				return s, nil
			},
		}, {
			Name:    "partial-K",
			Summary: "the last K blocks and all layers after them",
			Paper:   "Yosinski et al. 2014, arXiv 1411.1792",
			least:   1, usual: 1,
			options: blocks,
			merges:  true,
			tunes: func(r Row, c backbone.Config, _ Options) (peft.Selection, error) {
				return partial(c, r.number)
			},
			Recipe: fullRecipe,
			change: fullChange,
		}, {
			Name:    "mlp-K",
			Summary: "a head of K layers",
			Paper:   "Jia et al. 2022, Visual Prompt Tuning, arXiv 2203.12119",
			least:   2, usual: 3, // a head of one layer is linear
			options: []string{"dropout"},
			tunes: func(r Row, _ backbone.Config, _ Options) (peft.Selection, error) {
				return peft.Selection{MLPHead: r.number}, nil
			},
			Recipe:        headRecipe,
			LearningRates: headRates,
			change:        headChange,
		}, {
			Name:          "linear",
			Summary:       "the head alone",
			merges:        true,
			tunes:         func(Row, backbone.Config, Options) (peft.Selection, error) { return peft.Selection{}, nil },
			Recipe:        headRecipe,
			LearningRates: headRates,
			change:        headChange,
		}, {
			Name:    "full",
			Summary: "every weight",
			options: blocks,
			merges:  true,
			tunes:   func(_ Row, c backbone.Config, _ Options) (peft.Selection, error) { return peft.Full(c), nil },
			Recipe:  fullRecipe,
			change:  fullChange,
		},
	}
}

// factRank is the default rank of FacT-TT, the largest of the paper.
const factRank = 16

// vpt returns the row of a variant of visual prompt tuning. prompts is the default number of
// prompts.
func vpt(name, summary string, prompts int, deep bool) Row {
	options := slices.Concat(blocks, []string{"prompts", "dropout"})
	if deep { // the prompts of vpt-shallow enter before the first block
		options = append(options, "from-block")
	}
	return Row{
		Name:     name,
		Summary:  summary,
		Paper:    "Jia et al. 2022, Visual Prompt Tuning, arXiv 2203.12119",
		options:  options,
		defaults: Options{Prompts: prompts},
		tunes: func(_ Row, _ backbone.Config, o Options) (peft.Selection, error) {
			return peft.Selection{Prompts: &peft.Prompts{Tokens: o.Prompts, Deep: deep}}, nil
		},
		// NOAH trains VPT with AdamW and this learning rate (Zhang et al. 2022, arXiv 2206.04673,
		// configs/VPT/VTAB).
		Recipe: "learning rate 5e-3, dropout 0.1 on the prompts",
		change: func(o *train.Options) { o.LR = 5e-3 },
	}
}

// The recipe of methods that tune whole blocks. VPT searches several learning rates for AdamW (Jia
// et al. 2022, tune_vtab.py), among them 5e-4 for a batch of 256. Scaled to a batch of 64 this is
// 1.25e-4.
const fullRecipe = "learning rate 1.25e-4"

func fullChange(o *train.Options) { o.LR = 1.25e-4 }

// The recipe of methods that tune only a head. Drop-path would change the features of the frozen
// backbone. Where nothing chooses among headRates, the rate is the middle one.
const headRecipe = "learning rate 1e-2, or chosen from 1e-3, 1e-2 and 1e-1 on validation data; no drop-path"

func headChange(o *train.Options) { o.LR, o.DropPath = 1e-2, 0 }
