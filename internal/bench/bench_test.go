package bench

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

// TestSelect checks that plans from synthetic scores resemble plans from real scores. The plan of
// vit_tiny for sign_digits at 0.2M has a module on 36 of 72 matrices and thousands of single
// entries. The entries lie in few rows or columns: in 2 to 4 % of them in the authors' published
// selections for a ViT-B at 0.4M.
func TestSelect(t *testing.T) {
	for _, test := range []struct {
		size         string
		budget       float64
		fewest, most int // matrices with a module, of 72 (36 in ConvNeXt)
	}{{"tiny", 2e5, 28, 44}, {"small", 4e5, 28, 44}, {"convnext-tiny", 4e5, 12, 24}} {
		c := size(t, test.size, 10)
		s, err := Select(context.Background(), c, Method(method.SPTLoRA), DefaultBudget(c))
		if err != nil {
			t.Fatal(err)
		}
		shapes := map[string][]int{}
		for _, p := range c.Params() {
			shapes[p.Name] = p.Shape
		}
		entries := 0
		var lines, values float64 // sums over the matrices with entries
		for name, e := range s.Entries {
			if !strings.HasSuffix(name, ".weight") {
				continue
			}
			entries += len(e)
			shape := shapes[name]
			if len(shape) != 2 {
				continue
			}
			rows, columns := map[int32]bool{}, map[int32]bool{}
			for _, v := range e {
				rows[v/int32(shape[1])], columns[v%int32(shape[1])] = true, true
			}
			lines += float64(min(len(rows)*shape[1], len(columns)*shape[0]))
			values += float64(shape[0] * shape[1])
		}
		if share := lines / values; share > 0.2 {
			t.Errorf("%s: entries lie in %.0f%% of the rows or columns, expected a few", test.size, 100*share)
		}
		t.Logf("%s: %d modules, %d whole, %d entries in %d tensors", test.size, len(s.Structured), len(s.Whole), entries, len(s.Entries))
		if n := len(s.Structured); n < test.fewest || n > test.most {
			t.Errorf("%s: %d matrices have a module, expected %d to %d", test.size, n, test.fewest, test.most)
		}
		if entries < 1000 {
			t.Errorf("%s: %d entries of matrices, expected thousands", test.size, entries)
		}
		tuning, err := peft.New(c, s)
		if err != nil {
			t.Fatal(err)
		}
		if used := float64(tuning.Counts.Tuned()) / test.budget; used > 1 || used < 0.9 {
			t.Errorf("%s: %.0f%% of the budget spent", test.size, 100*used)
		}
	}
}

// TestSelectSwin checks the selection for a Swin at the default budget. Some matrices have a
// module, and single entries of others are tuned.
func TestSelectSwin(t *testing.T) {
	c := size(t, "swin-tiny", 10)
	s, err := Select(t.Context(), c, Method(method.SPTLoRA), DefaultBudget(c))
	if err != nil {
		t.Fatal(err)
	}
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	if n, used := len(s.Structured), float64(tuning.Counts.Tuned())/4e5; n < 18 || n > 54 || tuning.Counts.Entries < 1000 || used > 1 || used < 0.9 {
		t.Errorf("%d of 72 matrices have a module, %d entries, %.0f%% of the budget", n, tuning.Counts.Entries, 100*used)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		v    []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}, {[]float64{8, 1, 2, 4}, 3}} {
		if got := measure.Median(test.v); math.Abs(got-test.want) > 0 {
			t.Errorf("median of %v: %v, want %v", test.v, got, test.want)
		}
	}
}

// TestRun checks that the numbers of a report agree with each other.
func TestRun(t *testing.T) {
	c := backbone.Config{ImageSize: 32, NumClasses: 5, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: 8, EmbedDim: 64, Depth: 2, HiddenDim: 128}}
	weights := 0 // bytes of the backbone without the head
	for _, p := range c.Params() {
		if p.Role != backbone.Head {
			weights += 4 * p.Size()
		}
	}
	for _, test := range []struct {
		method Method
		budget plan.Budget
		gemm   bool
		state  func(t *peft.Tuning) int // number of values that the optimizer keeps
	}{
		{Method(method.SPTLoRA), plan.MustParseBudget("5k"), true, func(t *peft.Tuning) int { return 2 * (t.Counts.Tuned() + t.Counts.Head) }},
		// all parameters except the class token, the position embedding and the patch embedding
		{score, plan.Budget{}, false, func(*peft.Tuning) int { return c.Size() - 64 - 17*64 - 193*64 }},
		{Forward, plan.Budget{}, false, func(*peft.Tuning) int { return 0 }},
	} {
		s, err := Select(context.Background(), c, test.method, test.budget)
		if err != nil {
			t.Fatal(err)
		}
		tuning, err := peft.New(c, s)
		if err != nil {
			t.Fatal(err)
		}
		var calls []int
		r, err := Run(context.Background(), Model(c), Options{Name: "small one", Method: test.method, Selection: s, Budget: test.budget, Batch: 3, Steps: 2, GEMM: test.gemm,
			Progress: func(done, total int) { calls = append(calls, done, total) }})
		if err != nil {
			t.Fatalf("%s: %v", test.method, err)
		}
		near := func(name string, got, want float64) {
			if !(math.Abs(got-want) <= 1e-9*math.Abs(want)) {
				t.Errorf("%s: %s is %g, want %g", test.method, name, got, want)
			}
		}
		near("images per second", r.ImgPerS, 3/r.SecondsPerStep)
		near("limit", r.LimitImgPerS, 1e9*r.PeakGFLOPS/mustWork(t, c, s, test.method, 1))
		near("fraction", r.LimitFraction, r.ImgPerS/r.LimitImgPerS)
		near("optimizer", r.OptimizerMB, 4e-6*float64(test.state(tuning)))
		if r.WeightsMB < 1e-6*float64(weights) || r.ActivationsMB <= 0 || !(r.PeakGFLOPS > 0) || !(r.BandwidthGB > 0) || r.Machine.Threads < 1 || r.Machine.Kernel == "" {
			t.Errorf("%s: %+v", test.method, r)
		}
		if field("/proc/self/status", "VmHWM") != "" && r.PeakRSSMB < r.WeightsMB+r.ActivationsMB+r.OptimizerMB {
			t.Errorf("%s: the peak memory of %g MB is below the sum of its parts", test.method, r.PeakRSSMB)
		}
		if r.TunedParams != tuning.Counts.Tuned() || r.Model != "small one" || r.Method != test.method || r.Budget != test.budget || r.Batch != 3 || r.Steps != 2 {
			t.Errorf("%s: %+v", test.method, r)
		}
		if want := []int{0, 2, 1, 2, 2, 2}; !slices.Equal(calls, want) {
			t.Errorf("%s: progress %v, want %v", test.method, calls, want)
		}
		if got := len(r.GEMM) == 4; got != test.gemm {
			t.Errorf("%s: %d matrix products", test.method, len(r.GEMM))
		}
		for _, g := range r.GEMM {
			if !(g.GFLOPS > 0) {
				t.Errorf("%+v", g)
			}
		}
	}
}

// TestRefused checks that wrong options return an error.
func TestRefused(t *testing.T) {
	c := size(t, "tiny", 10)
	good := Options{Method: Forward, Batch: 1, Steps: 1}
	with := func(change func(*Options)) Options {
		o := good
		change(&o)
		return o
	}
	for text, o := range map[string]Options{
		`method "magic" is unknown; known: `: with(func(o *Options) { o.Method = "magic" }),
		"0 images":                           with(func(o *Options) { o.Batch = 0 }),
		"at least one step":                  with(func(o *Options) { o.Steps = 0 }),
		"of 1 to 4096 images":                with(func(o *Options) { o.Batch = 4097 }),
		"no tensor blocks.99.x":              with(func(o *Options) { o.Selection = peft.Selection{Whole: []string{"blocks.99.x"}} }),
	} {
		_, err := Run(context.Background(), Model(c), o)
		refused(t, err, text)
	}
	_, err := Config("huge", 10)
	refused(t, err, `model "huge" is unknown; known: tiny, small, base`)
	_, err = Config("tiny", 1<<40)
	refused(t, err, "expected 1 to 65536")
	_, err = Select(context.Background(), c, score, plan.MustParseBudget("0.4M"))
	refused(t, err, "method score takes no budget")
	_, err = Select(context.Background(), c, Method(method.LoRA), plan.MustParseBudget("10"))
	refused(t, err, "the budget")
	_, err = Select(context.Background(), c, Method(method.SPTLoRA), plan.MustParseBudget("7M"))
	refused(t, err, "more than the 5")

	var input *run.InputError
	p := &plan.Plan{Module: "lora", Rank: 8, Alpha: 10, Beta: 5, Budget: 1000, Matrices: []string{"blocks.99.attn.q.weight"}}
	if _, err := SelectPlan(c, p); !errors.As(err, &input) || !strings.Contains(err.Error(), "not among the") {
		t.Errorf("a plan for another backbone: %v", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Model(c), good); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// refused checks that err is an OptionError whose message contains text.
func refused(t *testing.T, err error, text string) {
	t.Helper()
	var option *run.OptionError
	if !errors.As(err, &option) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want an OptionError with %q", err, text)
	}
}
