package report_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/report"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

var config = backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}

// newTask returns a task with a tiny backbone and images whose class is their colour. val and test
// are the numbers of images.
func newTask(t *testing.T, classes []string, val, test int) *spt.Task {
	t.Helper()
	data, err := dataset.New("colours", classes, colours.Samples(36, 16, 0), colours.Samples(val, 16, 7), colours.Samples(test, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(config), data)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

var colourNames = []string{"red", "green", "blue"}

// tuned runs a method in the folder dir, and returns what a report shows of it.
func tuned(t *testing.T, task *spt.Task, m method.Method, dir string, change func(*run.TuneOptions)) *report.Run {
	t.Helper()
	o := run.TuneOptions{Method: m, Train: train.VTAB().WithEpochs(3)}
	if row, err := method.Lookup(m); err == nil && row.Scores {
		o.Rank, o.Budgets = 1, []plan.Budget{plan.MustParseBudget("400"), plan.MustParseBudget("12%")}
	}
	o.Train.BatchSize, o.Train.LR = 12, 1e-2
	if change != nil {
		change(&o)
	}
	if _, err := task.Tune(t.Context(), o, dir, nil); err != nil {
		t.Fatal(err)
	}
	return opened(t, dir)
}

func opened(t *testing.T, dir string) *report.Run {
	t.Helper()
	r, err := report.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// written returns the HTML of a page.
func written(t *testing.T, p *report.Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sections returns the ids of the sections of a page.
func sections(page string) (ids []string) {
	for _, m := range regexp.MustCompile(`<section id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

var allSections = []string{"answer", "curves", "confusion", "classes", "mistakes", "reliability", "budget", "data", "configuration"}

// TestRun checks the page of a finished run: its sections in their order, its numbers against
// result.json and against counts of the predictions, its pictures, and that it refers to nothing
// outside of itself.
func TestRun(t *testing.T) {
	task := newTask(t, colourNames, 60, 30)
	r := tuned(t, task, method.SPTLoRA, filepath.Join(t.TempDir(), "run"), nil)
	if err := r.AddData(t.Context(), report.Sources{Data: task.Data()}); err != nil {
		t.Fatal(err)
	}
	page := written(t, &report.Page{Runs: []*report.Run{r}})
	if got := sections(page); !slices.Equal(got, allSections) {
		t.Errorf("sections %v, expected %v", got, allSections)
	}
	right := 0
	for _, image := range r.Evaluation.Images {
		if image.Top[0].Class == image.Target {
			right++
		}
	}
	accuracy := r.Result.Test.Accuracy
	if float64(right)/30 != accuracy || r.Evaluation.Metrics.Top1 != accuracy {
		t.Errorf("%d of 30 predictions are right, but the accuracy is %v and top-1 %v", right, accuracy, r.Evaluation.Metrics.Top1)
	}
	low, high := evaluate.Wilson(right, 30, 0.95)
	for _, want := range []string{
		"<b>" + wording.Percent(accuracy) + "</b>", fmt.Sprintf("%d of 30 images right", right), wording.Percent(low) + " to " + wording.Percent(high),
		wording.Thousands(r.Result.Counts.Tuned()), "<dt>size of the delta</dt>", "linear probe", "not measured", ">chosen<", r.Config.Data.Samples, "36 training, 60 validation and 30 test",
		"spt tune --config", `<body>`, "Most sensitive weights", "Tuned parameters", "data:image/jpeg;base64,",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := strings.Count(page, "data:image/jpeg"); n < 3+min(30-right, 24) {
		t.Errorf("the page has %d pictures", n)
	}
	// what it could load from elsewhere
	for _, m := range regexp.MustCompile(`(?i)(src|href|url|action)\s*[=(]\s*["']?([^"'\s>)]*)`).FindAllStringSubmatch(page, -1) {
		if v := m[2]; v != "" && !strings.HasPrefix(v, "#") && !strings.HasPrefix(v, "data:") {
			t.Errorf("the page refers to %q", m[0])
		}
	}
	if strings.Contains(page, "http://") && strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, "") != page &&
		strings.Contains(strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, ""), "http://") {
		t.Error("the page holds an address")
	}
	if again := written(t, &report.Page{Runs: []*report.Run{r}}); again != page {
		t.Error("the same run gives another page")
	}
}

// TestKinds checks the pages of other runs: what they lack, and what they say instead.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		name      string
		val, test int
		method    method.Method
		change    func(*run.TuneOptions)
		lacks     []string // sections
		says      string
	}{
		{"no validation", 0, 30, method.LoRA, nil, nil, "test accuracy: "},
		{"no test", 30, 0, method.LoRA, nil, nil, "validation accuracy: "},
		{"neither", 0, 0, method.LoRA, nil, []string{"confusion", "classes", "mistakes", "reliability"}, "its accuracy is not known"},
		{"two images", 9, 2, method.LoRA, nil, nil, "A test of 2 images says little"},
		{"linear", 9, 30, method.Linear, nil, []string{"budget"}, "test accuracy: "},
		{"validation only", 30, 30, method.SPTLoRA, func(o *run.TuneOptions) { o.ValidationOnly = true }, []string{"budget"}, "The validation images chose between the candidates"},
		{"paper protocol", 9, 30, method.LoRA, func(o *run.TuneOptions) { o.PaperProtocol = true }, nil, "test-max (paper protocol)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := newTask(t, colourNames, c.val, c.test)
			r := tuned(t, task, c.method, t.TempDir(), c.change)
			if err := r.AddData(t.Context(), report.Sources{Data: task.Data()}); err != nil {
				t.Fatal(err)
			}
			page := written(t, &report.Page{Runs: []*report.Run{r}})
			want := slices.DeleteFunc(slices.Clone(allSections), func(id string) bool { return slices.Contains(c.lacks, id) })
			if got := sections(page); !slices.Equal(got, want) {
				t.Errorf("sections %v, expected %v", got, want)
			}
			if !strings.Contains(page, c.says) {
				t.Errorf("the page does not say %q", c.says)
			}
		})
	}
}

// TestGoingOn checks the page of a run after each of its epochs, as another process sees it.
func TestGoingOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	task := newTask(t, colourNames, 9, 9)
	if _, err := task.Create(t.Context(), dir, &run.Config{Tune: run.TuneOptions{Method: method.LoRA, Train: train.VTAB().WithEpochs(5)}}, nil); err != nil {
		t.Fatal(err)
	}
	page := written(t, &report.Page{Runs: []*report.Run{opened(t, dir)}, Live: true})
	if !strings.Contains(page, "no epoch is finished yet") || !strings.Contains(page, "<body data-live>") {
		t.Errorf("the page of a run that has not begun to train: %.3000s", page)
	}
	folder := run.Folder(dir)
	candidate := folder.Candidate("lora")
	if err := os.MkdirAll(string(candidate), 0o777); err != nil {
		t.Fatal(err)
	}
	var epochs []train.Epoch
	for i := range 5 {
		epochs = append(epochs, train.Epoch{Epoch: i + 1, TrainLoss: 2 / float64(i+1), TrainAccuracy: 0.5, ValLoss: 1, ValAccuracy: 0.25})
		if err := candidate.SaveMetrics(epochs); err != nil {
			t.Fatal(err)
		}
		page := written(t, &report.Page{Runs: []*report.Run{opened(t, dir)}})
		if want := fmt.Sprintf("<span data-epoch>%d</span>", i+1); !strings.Contains(page, want) {
			t.Errorf("the page after epoch %d lacks %s", i+1, want)
		}
		if got := sections(page); !slices.Equal(got, []string{"answer", "curves", "configuration"}) {
			t.Errorf("sections %v", got)
		}
	}
}

// TestRuns checks the page of several runs: distinct names, the linear probe beside the others, and
// the paired comparison against a count.
func TestRuns(t *testing.T) {
	task := newTask(t, colourNames, 9, 30)
	root := t.TempDir()
	var runs []*report.Run
	for i, m := range []method.Method{method.Linear, method.LoRA, method.SPTLoRA} {
		runs = append(runs, tuned(t, task, m, filepath.Join(root, fmt.Sprint(i), "same name"), nil))
	}
	page := written(t, &report.Page{Runs: runs})
	ids := sections(page)
	if ids[0] != "runs" || !slices.Contains(ids, "run-3-budget") || len(ids) != len(slices.Compact(slices.Sorted(slices.Values(ids)))) {
		t.Errorf("sections %v", ids)
	}
	for _, r := range runs {
		if !strings.Contains(page, string(r.Folder)) {
			t.Errorf("runs of the same name are not told apart by %s", r.Folder)
		}
	}
	difference := 100 * (runs[1].Result.Test.Accuracy - runs[0].Result.Test.Accuracy)
	for _, want := range []string{fmt.Sprintf("%+.2f points by tuning", difference), fmt.Sprintf(`">%+.2f</td>`, difference)} {
		// html/template writes a plus sign as an entity
		if !strings.Contains(strings.ReplaceAll(page, "&#43;", "+"), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	other := tuned(t, newTask(t, []string{"r", "g", "b"}, 9, 30), method.LoRA, filepath.Join(root, "other"), nil)
	if page := written(t, &report.Page{Runs: append(runs, other)}); !strings.Contains(page, "different data sets") {
		t.Error("runs of different data sets are compared without a note")
	}
	for len(runs) <= report.MaxDetailed {
		runs = append(runs, runs...)
	}
	if ids := sections(written(t, &report.Page{Runs: runs})); !slices.Equal(ids, []string{"runs"}) {
		t.Errorf("a page of many runs has the sections %v", ids)
	}
}

// TestHostileNames checks that names are written as text.
func TestHostileNames(t *testing.T) {
	names := []string{`<script>window.hacked=1</script>`, `"><img src=x onerror=hacked()>`, strings.Repeat("long ", 60) + "\u202e🦓 قطة"}
	task := newTask(t, names, 9, 30)
	r := tuned(t, task, method.LoRA, filepath.Join(t.TempDir(), "<b>run</b>"), nil)
	if err := r.AddData(t.Context(), report.Sources{Data: task.Data()}); err != nil {
		t.Fatal(err)
	}
	page := written(t, &report.Page{Runs: []*report.Run{r}})
	for _, bad := range []string{"<script>window", "<img src=x", "<b>run"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if n := strings.Count(page, "<script"); n != 1 {
		t.Errorf("the page has %d scripts", n)
	}
}

// TestBounds checks the size and the time of the page of 50,000 predictions of 1,000 classes.
func TestBounds(t *testing.T) {
	const images, classes = 50_000, 1000
	p := &evaluate.Predictions{Logits: make([]float32, 0, images*classes)}
	for c := range classes {
		p.Classes = append(p.Classes, fmt.Sprintf("class %04d", c))
	}
	row := make([]float32, classes)
	state := uint32(1)
	for i := range images {
		for c := range row {
			state = state*1664525 + 1013904223
			row[c] = float32(state>>8) / (1 << 24)
		}
		row[i%classes] += float32(i%7) / 8 // right in a part of the cases
		row[(i+i%5)%classes] += 0.5
		if err := p.Add([]string{fmt.Sprintf("test/class %04d/%05d.jpg", i%classes, i)}, []int32{int32(i % classes)}, row); err != nil {
			t.Fatal(err)
		}
	}
	e, err := report.NewEvaluation("test", p, 0)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	page := written(t, &report.Page{Title: "large", Evaluated: &report.Evaluated{Evaluation: e}})
	t.Logf("%d bytes in %v, accuracy %.3f, %d cells", len(page), time.Since(start), e.Metrics.Top1, len(e.Metrics.Confusion))
	if len(page) > 3_000_000 {
		t.Errorf("the page has %d bytes, expected at most 3 million", len(page))
	}
	if !strings.Contains(page, "shows the 100 of 1,000 classes with the most errors") {
		t.Error("the page does not say that it leaves classes out")
	}
	// runs with as many pictures as a page shows, of noise, which JPEG cannot compress
	noise := make([]uint8, 112*112*3)
	for i := range noise {
		state = state*1664525 + 1013904223
		noise[i] = uint8(state >> 24)
	}
	data, err := dataset.New("noise", p.Classes, []dataset.Sample{{Image: &dataset.RGB{Width: 112, Height: 112, Pix: noise}, Target: dataset.Class(0)}, {Path: "x", Target: dataset.Class(1)}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	described, err := report.NewData(t.Context(), data, 0)
	if err != nil || described.Samples[0].Picture.Image == "" || described.Samples[1].Picture.Missing == "" {
		t.Fatal(described, err)
	}
	picture := described.Samples[0].Picture
	picture.Map = picture.Image
	e.Pictures = map[string]report.Picture{}
	for _, image := range e.Images {
		e.Pictures[image.Path] = picture
	}
	var runs []*report.Run
	for i := range report.MaxDetailed {
		runs = append(runs, &report.Run{Name: fmt.Sprint("run ", i), Result: &run.Result{}, Evaluation: e})
	}
	if page := written(t, &report.Page{Runs: runs}); len(page) > 3_000_000 {
		t.Errorf("a picture of noise takes %d bytes, and the page of %d runs %d, expected at most 3 million", len(picture.Image), len(runs), len(page))
	}
}
