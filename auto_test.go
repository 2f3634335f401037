package spt_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// autoOptions returns the options of a short run that starts with a linear probe and has no final
// training.
func autoOptions(m method.Method) run.TuneOptions {
	o := options(m)
	if row, err := method.Lookup(m); err == nil && row.Scores {
		o.Budgets = []plan.Budget{plan.MustParseBudget("12%")}
	}
	o.Probe, o.NoRefit = true, true
	return o
}

// tune runs a task and returns the result and the delta.
func tune(t *testing.T, task *spt.Task, o run.TuneOptions, dir string) (*run.Result, *delta.Delta) {
	t.Helper()
	result, err := task.Tune(t.Context(), o, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := delta.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return result, d
}

// probed holds a function for each kind of labels that returns a task with val validation images.
var probed = map[string]func(t *testing.T, val int) *spt.Task{
	"one label":      newTask,
	"several labels": func(t *testing.T, val int) *spt.Task { return taskOf(t, colours.Labelled, val) },
}

// TestProbe checks the linear probe of a run, and that a training starts with its head: with a
// learning rate near 0 the training has the figures of the probe.
func TestProbe(t *testing.T) {
	for name, newTask := range probed {
		o := autoOptions(method.SPTLoRA)
		o.Train.LR, o.Train.MinLR, o.Train.WarmupLR = 1e-9, 0, 0
		dir := t.TempDir()
		result, tuned := tune(t, newTask(t, 9), o, dir)
		p := result.Probe
		if p == nil || result.ProbeTest == nil || p.L2 <= 0 || !(p.HeadScale > 0 && p.HeadScale <= 1) {
			t.Fatalf("%s: probe %+v, test %+v", name, p, result.ProbeTest)
		}
		if *result.Val != p.ValAccuracy || result.Test.Accuracy != result.ProbeTest.Accuracy {
			t.Errorf("%s: accuracies %v and %v, those of the probe are %v and %v", name, *result.Val, result.Test.Accuracy, p.ValAccuracy, result.ProbeTest.Accuracy)
		}
		// the folder of the probe is a delta that gives the same accuracy
		d, err := delta.Load(string(run.Folder(dir).Probe()))
		if err != nil {
			t.Fatal(err)
		}
		task := newTask(t, 9)
		restored, err := spt.Restore(task.Model(), d)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := task.Evaluate(t.Context(), restored, "test", task.Data().Test, nil)
		if err != nil || e.Accuracy != result.ProbeTest.Accuracy {
			t.Errorf("%s: accuracy %v of the probe's delta (%v), expected %v", name, e.Accuracy, err, result.ProbeTest.Accuracy)
		}
		if d.Method != string(method.Linear) || len(d.Thresholds) != len(tuned.Thresholds) {
			t.Errorf("%s: method %s and thresholds %v of the probe's delta", name, d.Method, d.Thresholds)
		}
		val, _, err := task.Evaluate(t.Context(), restored, "val", task.Data().Val, nil)
		if err != nil || val.Accuracy != p.ValAccuracy || math.Abs(val.Loss-p.ValLoss) > 1e-5 {
			t.Errorf("%s: validation accuracy %v and loss %v of the probe's delta (%v), expected %v and %v", name, val.Accuracy, val.Loss, err, p.ValAccuracy, p.ValLoss)
		}
	}
}

// TestNoRefit checks that a run without a final training delivers the chosen candidate.
func TestNoRefit(t *testing.T) {
	o := autoOptions(method.SPTLoRA)
	o.Budgets = append(o.Budgets, plan.MustParseBudget("400"))
	dir := t.TempDir()
	result, d := tune(t, newTask(t, 9), o, dir)
	if result.TrainedOn != "train" || result.Test == nil || len(result.Candidates) != 2 || len(result.Epochs) != 3 {
		t.Fatalf("result %+v", result)
	}
	candidate, err := delta.Load(string(run.Folder(dir).Candidate(result.Budget.String())))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(candidate.Tuned, d.Tuned) {
		t.Error("the delta is not that of the candidate")
	}
	if _, err := plan.LoadFile(run.Folder(dir).Path(run.PlanFile)); err != nil {
		t.Error(err)
	}
}

// TestLinearIsProbe checks that the probe replaces the training of the method linear, with and
// without a final fit on the validation images too.
func TestLinearIsProbe(t *testing.T) {
	for name, newTask := range probed {
		for _, noRefit := range []bool{true, false} {
			o := autoOptions(method.Linear)
			o.NoRefit = noRefit
			dir := t.TempDir()
			result, d := tune(t, newTask(t, 9), o, dir)
			fitted, err := delta.Load(string(run.Folder(dir).Probe()))
			if err != nil {
				t.Fatal(err)
			}
			if same := reflect.DeepEqual(d.Tuned, fitted.Tuned); same != noRefit {
				t.Errorf("%s, no refit %t: the delta is the probe: %t", name, noRefit, same)
			}
			if len(result.Epochs) != 1 || *result.Val != result.Probe.ValAccuracy || result.Test == nil || result.ProbeTest != nil {
				t.Errorf("%s, no refit %t: %+v", name, noRefit, result)
			}
		}
	}
}

// TestKeepsProbe checks that the recipe auto delivers the linear probe if a training destroys the
// backbone, and that a run by another recipe does not.
func TestKeepsProbe(t *testing.T) {
	for name, newTask := range probed {
		for _, recipe := range []string{run.RecipeAuto, run.RecipeVTAB} {
			for _, noRefit := range []bool{true, false} {
				o := autoOptions(method.SPTLoRA)
				o.Recipe, o.NoRefit, o.Train.LR = recipe, noRefit, 10
				dir := t.TempDir()
				result, d := tune(t, newTask(t, 9), o, dir)
				kept := recipe == run.RecipeAuto
				if best := result.Candidates[0].ValAccuracy; best >= result.Probe.ValAccuracy {
					t.Fatalf("%s: validation accuracy %v of a training that should fail, probe %v", name, best, result.Probe.ValAccuracy)
				}
				if result.KeptProbe() != kept || (d.Method == string(method.Linear)) != kept || (result.Counts.Tuned() == 0) != kept {
					t.Errorf("%s, %s, no refit %t: result of %s, delta of %s, %d tuned parameters", name, recipe, noRefit, result.Method, d.Method, result.Counts.Tuned())
				}
				if !kept {
					continue
				}
				fitted, err := delta.Load(string(run.Folder(dir).Probe()))
				if err != nil {
					t.Fatal(err)
				}
				if same := reflect.DeepEqual(d.Tuned, fitted.Tuned); same != noRefit {
					t.Errorf("%s, no refit %t: the delta is the probe in its folder: %t", name, noRefit, same)
				}
				if *result.Val != result.Probe.ValAccuracy || result.Test == nil || result.ProbeTest != nil || !reflect.DeepEqual(d.Posthoc, fitted.Posthoc) {
					t.Errorf("%s, no refit %t: %+v", name, noRefit, result)
				}
				again, _ := tune(t, newTask(t, 9), o, dir) // the finished run is read
				if !again.Finished.Equal(result.Finished) {
					t.Errorf("%s, no refit %t: the finished run was repeated", name, noRefit)
				}
			}
		}
	}
}

// TestResumeAuto stops a run with a probe, patience and no final training at every event, with
// several labels at some of them, and resumes it. The result has the same bits.
func TestResumeAuto(t *testing.T) {
	for name, newTask := range probed {
		every := 1
		if name != "one label" {
			every = 6
		}
		o := autoOptions(method.SPTLoRA)
		o.Train.Patience, o.Recipe = 1, run.RecipeAuto
		want := t.TempDir()
		expected, _ := tune(t, newTask(t, 9), o, want)
		events := 0
		for stop := 1; ; stop += every {
			dir, seen := t.TempDir(), 0
			ctx, cancel := context.WithCancel(t.Context())
			_, err := newTask(t, 9).Tune(ctx, o, dir, func(e progress.Event) {
				if e.Stage == progress.Images {
					return
				}
				if seen++; seen == stop {
					cancel()
				}
			})
			cancel()
			if err == nil {
				events = stop
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			result, _ := tune(t, newTask(t, 9), o, dir)
			for _, file := range []string{delta.TensorsName, filepath.Join("probe", delta.TensorsName)} {
				got, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				if was, _ := os.ReadFile(filepath.Join(want, file)); !bytes.Equal(got, was) {
					t.Errorf("%s, stopped at event %d: %s differs", name, stop, file)
				}
			}
			if result.Test.Loss != expected.Test.Loss {
				t.Errorf("%s, stopped at event %d: test loss %v, expected %v", name, stop, result.Test.Loss, expected.Test.Loss)
			}
		}
		if events < 10 {
			t.Errorf("%s: only %d events", name, events)
		}
	}
}

// TestFromDelta tunes two classes, and continues with a third one in another order. With a learning
// rate near 0 the known classes keep their rows of the head. A stopped run continues after the
// delta is gone.
func TestFromDelta(t *testing.T) {
	two := func(s dataset.Sample) bool { return s.Target.(dataset.Class) == 2 }
	filter := func(samples []dataset.Sample) (out []dataset.Sample) {
		for _, s := range samples {
			if !two(s) {
				out = append(out, s)
			}
		}
		return out
	}
	known, err := dataset.New("two", []string{"red", "green"}, filter(colours.Samples(36, 16, 0)), filter(colours.Samples(9, 16, 7)), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := config
	c.NumClasses = 2
	first, err := spt.New(colours.Model(c), known)
	if err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	o := autoOptions(method.SPTLoRA)
	o.Probe = false
	_, before := tune(t, first, o, source)

	names := []string{"blue", "green", "red"}
	reorder := func(samples []dataset.Sample) []dataset.Sample {
		for i, s := range samples {
			samples[i].Target = dataset.Class([]int{2, 1, 0}[s.Target.(dataset.Class)])
		}
		return samples
	}
	newTask := func() *spt.Task {
		data, err := dataset.New("three", names, reorder(colours.Samples(36, 16, 0)), reorder(colours.Samples(9, 16, 7)), reorder(colours.Samples(12, 16, 13)))
		if err != nil {
			t.Fatal(err)
		}
		// the head of another number of classes is drawn after the backbone, so the backbone is the
		// same
		task, err := spt.New(colours.Model(config), data)
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	next := options(method.SPTLoRA)
	next.Rank, next.NoRefit, next.FromDelta = 0, true, source
	next.Train.LR, next.Train.MinLR, next.Train.WarmupLR = 1e-9, 0, 0
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = newTask().Tune(ctx, next, dir, func(e progress.Event) {
		if e.Stage == progress.Train {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := os.RemoveAll(source); err != nil {
		t.Fatal(err)
	}
	_, after := tune(t, newTask(), next, dir)
	if !reflect.DeepEqual(after.Selection.Structured, before.Selection.Structured) || len(after.Tuned) != len(before.Tuned) {
		t.Errorf("other parameters are tuned: %v, expected %v", after.Selection, before.Selection)
	}
	for name, v := range before.Tuned {
		w := after.Tuned[name]
		if strings.HasPrefix(name, "head.") {
			width := len(v.Data) / 2
			v.Data = append(append([]float32{}, v.Data[width:]...), v.Data[:width]...)
			w.Data = w.Data[width:]
		}
		for i := range v.Data {
			if math.Abs(float64(v.Data[i]-w.Data[i])) > 1e-5 {
				t.Fatalf("%s[%d] is %g, expected %g", name, i, w.Data[i], v.Data[i])
			}
		}
	}
	for change, want := range map[string]func(*run.TuneOptions){
		"tuned with the method": func(o *run.TuneOptions) { o.Method = method.LoRA },
		"no effect":             func(o *run.TuneOptions) { o.Budgets = []plan.Budget{plan.MustParseBudget("400")} },
	} {
		o := next
		o.FromDelta = dir
		want(&o)
		if _, err := newTask().Tune(t.Context(), o, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), change) {
			t.Errorf("error %v, expected one with %q", err, change)
		}
	}
}

// TestTimeLimit checks that a run with far too many steps ends in its time, with a tested delta.
func TestTimeLimit(t *testing.T) {
	o := autoOptions(method.SPTLoRA)
	o.Train = o.Train.WithEpochs(1_000_000)
	o.TimeLimit = 3
	began := time.Now()
	result, _ := tune(t, newTask(t, 9), o, t.TempDir())
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the run took %v", took)
	}
	if result.Test == nil || len(result.Epochs) < 2 {
		t.Errorf("%d epochs, test %v", len(result.Epochs), result.Test)
	}
}

// TestPrepare checks that the recipe auto fills in the open options, leaves given ones alone, and
// changes nothing when it is applied again.
func TestPrepare(t *testing.T) {
	task := newTask(t, 9)
	c := run.Config{Tune: run.RecipeOptions(lookup(t, method.SPTLoRA), run.RecipeAuto)}
	if _, err := task.Effective(c.Tune); err == nil || !strings.Contains(err.Error(), "has not chosen") {
		t.Errorf("options that are still open: error %v", err)
	}
	_, choices, err := task.Prepare(t.Context(), &c, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Tune.Began = time.Time{}
	chosen, err := task.Effective(c.Tune)
	if err != nil {
		t.Fatal(err)
	}
	if o := chosen; o.Train.BatchSize != 8 || o.Train.LR == 0 || o.Train.Patience == 0 || len(o.Budgets) != 1 || o.Train.Steps != choices.Steps || choices.Trainings != 1 || !o.Probe || !o.NoRefit {
		t.Errorf("options %+v, choices %+v", o, choices)
	}
	if choices.Expected.Total() <= 0 || choices.ImageSize != 16 || choices.Side != 16 {
		t.Errorf("choices %+v", choices)
	}
	again := run.Config{Tune: chosen}
	if _, _, err := task.Prepare(t.Context(), &again, nil); err != nil {
		t.Fatal(err)
	}
	again.Tune.Began = time.Time{}
	if !reflect.DeepEqual(again.Tune, chosen) {
		t.Errorf("applied again: %+v, expected %+v", again.Tune, chosen)
	}
	given := run.Config{Tune: run.RecipeOptions(lookup(t, method.LoRA), run.RecipeAuto)}
	given.Tune.Rank, given.Tune.Train.Epochs, given.Tune.Train.LR, given.Tune.NoRefit = 2, 7, 0.5, false
	if _, choices, err = task.Prepare(t.Context(), &given, nil); err != nil {
		t.Fatal(err)
	}
	if o := given.Tune; o.Rank != 2 || o.Train.Epochs != 7 || o.Train.LR != 0.5 || len(o.Budgets) > 0 || choices.Trainings != 2 || o.Train.WarmupEpochs != 0.7 {
		t.Errorf("options %+v, choices %+v", o, choices)
	}
	short := run.Config{Tune: run.RecipeOptions(lookup(t, method.LoRA), run.RecipeAuto)}
	short.Tune.TimeLimit = 1e-3
	if _, _, err = task.Prepare(t.Context(), &short, nil); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("error %v for a time limit of a millisecond", err)
	}
	// measuring has used up the time
	slow := run.Config{Tune: run.RecipeOptions(lookup(t, method.LoRA), run.RecipeAuto)}
	slow.Tune.TimeLimit, slow.Tune.Began = 60, time.Now().Add(-50*time.Second)
	_, _, err = newTask(t, 9).Prepare(t.Context(), &slow, nil)
	var option *run.OptionError
	if !errors.As(err, &option) || option.Option != "time" || !strings.Contains(err.Error(), "measuring its speed") {
		t.Errorf("a time limit that passed while preparing: %v", err)
	}
}

// TestImageSize checks that the recipe auto compares image sizes for small images, and takes a size
// that the probe allows, with one label and with several. With a time limit, the precision is that
// of backend.TimedPrecision.
func TestImageSize(t *testing.T) {
	c := backbone.Config{ImageSize: 224, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 32, EmbedDim: 16, Depth: 1, HiddenDim: 32}}
	model, photos := filepath.Join(t.TempDir(), "model.safetensors"), t.TempDir()
	if err := colours.Model(c).Save(model, checkpoint.F32, nil); err != nil {
		t.Fatal(err)
	}
	const side = 100
	table := "path,label\n"
	for i, s := range colours.Samples(30, side, 0) {
		m := image.NewRGBA(image.Rect(0, 0, side, side))
		for k := range side * side {
			copy(m.Pix[4*k:], append(slices.Clone(s.Image.Pix[3*k:3*k+3]), 255))
		}
		name := filepath.Join([]string{"red", "green", "blue"}[i%3], fmt.Sprintf("%d.png", i))
		table += name + "," + []string{"red", "green|cold", "blue|cold"}[i%3] + "\n"
		path := filepath.Join(photos, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(png.Encode(f, m), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(photos, "list.csv")
	if err := os.WriteFile(list, []byte(table), 0o666); err != nil {
		t.Fatal(err)
	}
	folders, several := run.DataConfig{Path: photos, Layout: "imagefolder"}, run.DataConfig{Path: list, LabelDelimiter: "|"}
	for _, given := range []struct {
		data run.DataConfig
		size int
	}{{folders, 0}, {folders, 224}, {several, 0}} {
		config := run.Config{Model: run.ModelConfig{Path: model, NumHeads: 2, ImageSize: given.size}, Data: given.data, Tune: run.RecipeOptions(lookup(t, method.LoRA), run.RecipeAuto)}
		config.Tune.Train.Epochs = 1
		config.Compute.Device = "cpu"
		timed := config
		timed.Tune.TimeLimit = 1000
		if _, err := spt.Open(t.Context(), &timed, nil); err != nil {
			t.Fatal(err)
		}
		task, err := spt.Open(t.Context(), &config, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := cmp.Or(backend.TimedPrecision("cpu"), backend.F32); timed.Compute.Precision != want || config.Compute.Precision != backend.F32 {
			t.Errorf("precision %s with a time limit, expected %s; %s without", timed.Compute.Precision, want, config.Compute.Precision)
		}
		task, choices, err := task.Prepare(t.Context(), &config, nil)
		if err != nil {
			t.Fatal(err)
		}
		var sizes []int
		for _, s := range choices.Sizes {
			sizes = append(sizes, s.Pixels)
		}
		// a probe on these colours is right at every size, so the smallest size wins
		want, tried := 128, []int{224, 128}
		if given.size > 0 {
			want, tried = 224, nil
		}
		if choices.Side != side || !slices.Equal(sizes, tried) || task.Model().Config.ImageSize != want || config.Model.ImageSize != want {
			t.Errorf("image size %d of %s given: side %d, tried %v, chose %d; expected %v and %d", given.size, given.data.Path, choices.Side, sizes, task.Model().Config.ImageSize, tried, want)
		}
		if _, err := task.Tune(t.Context(), config.Tune, filepath.Join(t.TempDir(), "run"), nil); err != nil {
			t.Error(err)
		}
	}
}
