package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/train"
)

// events returns the events of a short run.
func events() []progress.Event {
	return []progress.Event{
		{Stage: progress.Images, Done: 1, Total: 2},
		{Stage: progress.Images, Done: 2, Total: 2},
		{Stage: progress.Plan, Candidate: "0.4M", Detail: &plan.Plan{Budget: 400_000, Cost: plan.Cost{Total: 399_000}}},
		{Stage: progress.Train, Candidate: "0.4M", Epochs: 2, Done: 1, Total: 1, Loss: 2},
		{Stage: progress.Epoch, Candidate: "0.4M", Epochs: 2, Detail: train.Epoch{Epoch: 1, TrainLoss: 2, ValLoss: 1.5, ValAccuracy: 0.625}},
		{Stage: progress.Train, Candidate: "0.4M", Epochs: 2, Epoch: 1, Done: 1, Total: 1, Loss: 1},
		{Stage: progress.Epoch, Candidate: "0.4M", Epochs: 2, Epoch: 1, Detail: train.Epoch{Epoch: 2, TrainLoss: 1, ValLoss: 1.25, ValAccuracy: 0.75}},
		{Stage: progress.Test, Done: 7, Total: 7},
	}
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	a := &app{stderr: &out}
	p := a.reporter()
	for _, e := range events() {
		p.event(e)
	}
	p.close()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for i, want := range []string{`2 images`, `^plan for budget 0.4M tunes 399000 of 400000 `, `^training for budget 0.4M, epoch 1 of 2: .*2\.0000`, `^training for budget 0.4M, epoch 2 of 2: .*1\.0000`, `7 images`} {
		if len(lines) != 5 || !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Fatalf("line %d does not match %q in:\n%s", i+1, want, out.String())
		}
	}
}

// TestProgressBars checks that on a terminal each stage draws on one line of at most 80 columns,
// and that the next output starts on a new line.
func TestProgressBars(t *testing.T) {
	var out bytes.Buffer
	a := &app{stderr: &out, terminal: true}
	p := a.reporter()
	for _, e := range events() {
		p.event(e)
	}
	p.close()
	text := out.String()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, want := range []string{"images", "plan for budget 0.4M tunes 399000", "budget 0.4M: epoch 2/2", "testing"} {
		if len(lines) != 4 || !strings.Contains(lines[i], want) {
			t.Fatalf("line %d does not hold %q in:\n%q", i+1, want, text)
		}
	}
	if !strings.Contains(lines[2], "val accuracy 62.50%") {
		t.Errorf("the bar does not show the last epoch: %q", lines[2])
	}
	for _, line := range append(lines[:1:1], lines[2:]...) {
		for drawn := range strings.SplitSeq(line, "\r") {
			if n := len([]rune(drawn)); n > 80 {
				t.Errorf("%d columns are drawn: %q", n, drawn)
			}
		}
	}
}

// TestFetchProgress checks that a download is shown as one line, or as a bar that counts bytes. The
// bar fits the terminal also if the name of the file is long.
func TestFetchProgress(t *testing.T) {
	const file = "some/folder/model-00001-of-00002.safetensors"
	for _, bars := range []bool{false, true} {
		var out bytes.Buffer
		p := &reporter{times: new(stageTimes), w: &out, bars: bars}
		for _, done := range []int{1_500_000_000, 4_999_000_000, 5_000_000_000} {
			p.event(progress.Event{Stage: progress.Download, Item: file, Done: int64(done), Total: 5_000_000_000})
		}
		p.close()
		if !bars {
			if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, file) || !strings.Contains(got, "5000.0 MB") {
				t.Errorf("got %q, want one line with %s and 5000.0 MB", got, file)
			}
			continue
		}
		if !strings.Contains(out.String(), "…01-of-00002.safetensors") || !strings.Contains(out.String(), "GB") {
			t.Errorf("got %q", out.String())
		}
		for drawn := range strings.SplitSeq(out.String(), "\r") {
			if n := len([]rune(strings.TrimRight(drawn, " \n"))); n > 80 {
				t.Errorf("%d columns are drawn: %q", n, drawn)
			}
		}
	}
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	for _, terminal := range []bool{false, true} {
		a := &app{stdout: &out, stderr: &out, terminal: terminal, quiet: true}
		p := a.reporter()
		for _, e := range events() {
			p.event(e)
		}
		p.close()
	}
	if out.Len() > 0 {
		t.Errorf("--quiet shows %q", out.String())
	}
}

// TestFlagValuesRoundTrip checks that the text of a value sets the same value again. The comparison
// of flags with a stored run relies on this.
func TestFlagValuesRoundTrip(t *testing.T) {
	var mean [3]float32
	var source string
	for _, c := range []struct {
		value pflag.Value
		texts []string // pairs: the given text, and the text of the value
	}{
		{numberValue[float64]{new(float64), shares, true}, []string{"0.25", "0.25", "0", "0", "1e-1", "0.1"}},
		{new(memoryValue), []string{"0", "0", "1GiB", "1GiB", "1024MiB", "1GiB", "0.5GiB", "512MiB", "1000", "1kB", "1234", "1234B"}},
		{&channelsValue{&mean, &source}, []string{"0.5,0.25,1", "0.5,0.25,1", "0.485, 0.456, 0.406", "0.485,0.456,0.406"}},
		{new(modelValue), []string{"demo", "demo", "/a/../b", "/b", "hf:a/b@refs/pr/1:c/d.npz", "hf:a/b@refs/pr/1:c/d.npz"}},
	} {
		for i := 0; i < len(c.texts); i += 2 {
			for _, text := range []string{c.texts[i], c.texts[i+1]} {
				if err := c.value.Set(text); err != nil {
					t.Fatalf("%s %q: %v", c.value.Type(), text, err)
				}
				if got := c.value.String(); got != c.texts[i+1] {
					t.Errorf("%s %q reads %q, want %q", c.value.Type(), text, got, c.texts[i+1])
				}
			}
		}
	}
}
