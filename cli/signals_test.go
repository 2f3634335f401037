//go:build linux

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

// phases lists the kinds of work of the commands. The table also has the phase "writing" of
// predict, which writes tables of any length.
var phases = []string{"opening", "hashing", "decoding", "listing", "scoring", "training", "evaluating", "downloading"}

// interruption is a command that receives a signal during a phase. It runs in a folder of its own.
// In args, DIR is the folder with the inputs of all commands.
type interruption struct {
	verb, phase string // phase may be several, for a reason
	reason      string // why the command does not have the phases; it then has no args
	args        string

	// how the test holds the command in the phase, or finds that the phase has begun
	copies string // files and folders of the inputs to copy to the folder first
	hold   string // the command waits when it opens this file
	later  int    // the command opens the file so many times before it waits
	slow   string // strace delays the reading of this folder
	sync   bool   // strace delays the end of the writing of files
	// "stall": the hub stops within a file; "hash": the cache holds much of a huge file; "cached":
	// the cache holds a huge file
	hub     string
	open    string  // the command has opened a file whose path matches
	says    string  // the output matches
	written string  // a file whose path matches this pattern has content
	seconds float64 // the command has used so many seconds of processor time

	signal syscall.Signal // default SIGINT
	input  bool           // the command reads a line of standard input, and waits for the next
	expect string         // the messages match
	// The command that the messages name finishes, and gives the same delta as the run in the
	// folder reference of the inputs.
	reference string
	again     bool     // the same command finishes, and continues the download
	absent    []string // the command leaves no such file
}

// options of runs that take about a second
const (
	tuneOptions  = " --recipe vtab --device cpu --budget 300,600 --rank 2 --epochs 4 --batch-size 16 --score-batches 1000 --score-batch-size 1 "
	trainOptions = " --device cpu --method lora --rank 1 --epochs 3 --batch-size 8 "
)

// interruptions returns the table. Each command must have an entry for every phase.
func interruptions() []interruption {
	const began = `(?m)^run folder`
	table := []interruption{
		{verb: "", phase: "all", reason: "prints its help"},
		{verb: "help", phase: "all", reason: "prints the help of a command"},
		{verb: "completion", phase: "all", reason: "prints a script"},
		{verb: "version", phase: "all", reason: "prints the version"},
		{verb: "data", phase: "all", reason: "prints its help"},
		{verb: "data tasks", phase: "all", reason: "prints a table in the program"},
		{verb: "models", phase: "all", reason: "counts the work of backbones for about a second, and reads no file"},

		{verb: "tune", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "tune --model vit.safetensors --data DIR/split --out run" + tuneOptions, absent: []string{"run"}},
		{verb: "tune", phase: "hashing", copies: "data", hold: "data/red/03.png", args: "tune --model DIR/vit.safetensors --data data --group-duplicates --out run" + tuneOptions, absent: []string{"run"}},
		{verb: "tune", phase: "listing", copies: "table", hold: "table/list.csv", args: "tune --model DIR/vit.safetensors --data table/list.csv --out run" + tuneOptions, absent: []string{"run"}},
		{verb: "tune", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "tune --model DIR/vit.safetensors --data data --out run" + tuneOptions, absent: []string{"run"}, signal: syscall.SIGTERM},
		// A resumed run decodes the images after it has told how to continue.
		{verb: "tune", phase: "decoding", copies: "data begun", hold: "data/red/03.png", args: "tune --resume begun --model DIR/vit.safetensors --data data", expect: "spt tune --resume begun"},
		{verb: "tune", phase: "scoring", says: began, args: "tune --model DIR/vit.safetensors --data DIR/split --out run" + tuneOptions, reference: "tuned"},
		{verb: "tune", phase: "training", written: "run/candidates/600/metrics.jsonl", args: "tune --model DIR/vit.safetensors --data DIR/split --out run" + tuneOptions, reference: "tuned", expect: "interrupted: training stopped"},
		{verb: "tune", phase: "training", written: "run/metrics.jsonl", args: "tune --model DIR/vit.safetensors --data DIR/split --out run" + tuneOptions, reference: "tuned", signal: syscall.SIGTERM},
		{verb: "tune", phase: "evaluating", says: `(?m)^training, epoch 4 of 4`, args: "tune --model DIR/vit.safetensors --data DIR/split --out run" + tuneOptions, reference: "tuned"},

		{verb: "score", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "score --model vit.safetensors --data DIR/split --out s", absent: []string{"s"}},
		{verb: "score", phase: "listing", copies: "table", hold: "table/list.csv", args: "score --model DIR/vit.safetensors --data table/list.csv --out s", absent: []string{"s"}},
		{verb: "score", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "score --model DIR/vit.safetensors --data data --out s", absent: []string{"s"}},
		{verb: "score", phase: "scoring", says: "(?m)^checked", args: "score --model demo --data DIR/split --score-batches 1000 --device cpu --out s", absent: []string{"s"}},
		{verb: "score", phase: "evaluating", says: "(?m)^checked", args: "score --model demo --data DIR/split --probe-head --device cpu --out s", absent: []string{"s"}},
		{verb: "score", phase: "training", reason: "only scores"},

		{verb: "plan", phase: "opening", copies: "tuned/scores.safetensors", hold: "scores.safetensors", args: "plan --scores scores.safetensors --budget 300 --out p", absent: []string{"p"}},
		{verb: "plan", phase: "opening", copies: "tuned/plan.json", hold: "plan.json", args: "plan --compare DIR/tuned/plan.json plan.json"},
		{verb: "plan", phase: "listing decoding scoring training evaluating", reason: "reads no images"},

		{verb: "train", phase: "opening", copies: "tuned/plan.json", hold: "plan.json", args: "train --model DIR/vit.safetensors --data DIR/split --plan plan.json --out run", absent: []string{"run"}},
		{verb: "train", phase: "listing", copies: "table", hold: "table/list.csv", args: "train --model DIR/vit.safetensors --data table/list.csv --out run" + trainOptions, absent: []string{"run"}},
		{verb: "train", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "train --model DIR/vit.safetensors --data data --out run" + trainOptions, absent: []string{"run"}},
		{verb: "train", phase: "training", says: began, args: "train --model DIR/vit.safetensors --data DIR/split --out run" + trainOptions, reference: "trained", signal: syscall.SIGHUP},
		// The disk does not deliver an image in the second epoch. The state must be saved all the
		// same.
		{verb: "train", phase: "training", copies: "data", hold: "data/red/03.png", later: 2, args: "train --model DIR/vit.safetensors --data data --cache 0 --val-fraction 0 --out run" + trainOptions, expect: "training stopped(.|\n)*spt train --resume run"},
		// The validation takes most of the time of an epoch.
		{verb: "train", phase: "evaluating", written: "run/metrics.jsonl", args: "train --model DIR/vit.safetensors --data DIR/validated --out run" + trainOptions, reference: "validated-run"},
		{verb: "train", phase: "scoring", reason: "only trains"},

		{verb: "eval", phase: "opening", copies: "tuned/spt_delta.safetensors tuned/spt_delta.json", hold: "spt_delta.safetensors", args: "eval --delta . --model DIR/vit.safetensors --data DIR/split"},
		{verb: "eval", phase: "listing", copies: "table", hold: "table/list.csv", args: "eval --delta DIR/tuned --data table/list.csv --layout table"},
		{verb: "eval", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "eval --delta DIR/other --data data --split all"},
		{verb: "eval", phase: "evaluating", says: "(?m)^device", args: "eval --delta DIR/tuned --data DIR/many --split all --device cpu"},
		{verb: "eval", phase: "scoring training", reason: "only evaluates"},

		{verb: "predict", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "predict --model vit.safetensors DIR/data"},
		{verb: "predict", phase: "listing", copies: "table", hold: "table/list.csv", args: "predict --model DIR/vit.safetensors table/list.csv"},
		{verb: "predict", phase: "listing", input: true, args: "predict --model DIR/vit.safetensors -"},
		{verb: "predict", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "predict --model DIR/vit.safetensors data", signal: syscall.SIGTERM},
		{verb: "predict", phase: "evaluating", says: `\.png`, args: "predict --device cpu --delta DIR/tuned DIR/many"},
		{verb: "predict", phase: "evaluating", seconds: 0.7, args: "predict --device cpu --delta DIR/tuned --out p.csv DIR/many", absent: []string{"p.csv"}},
		{verb: "predict", phase: "writing", sync: true, written: ".spt-*.tmp", args: "predict --device cpu --delta DIR/tuned --out p.csv DIR/data", absent: []string{"p.csv"}},
		{verb: "predict", phase: "scoring training", reason: "only predicts"},

		{verb: "merge", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "merge --delta DIR/tuned --model vit.safetensors --out m.safetensors", absent: []string{"m.safetensors"}},
		{verb: "merge", phase: "listing", copies: "table", hold: "table/list.csv", args: "merge --delta DIR/tuned --data table/list.csv --out m.safetensors", absent: []string{"m.safetensors"}},
		{verb: "merge", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "merge --delta DIR/tuned --probe data --out m.safetensors", absent: []string{"m.safetensors"}},
		{verb: "merge", phase: "evaluating", seconds: 0.7, args: "merge --delta DIR/tuned --probe DIR/many --out m.safetensors", absent: []string{"m.safetensors"}},
		{verb: "merge", phase: "scoring training", reason: "only merges"},

		{verb: "export", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "export --delta DIR/tuned --model vit.safetensors --format timm --out m", absent: []string{"m"}},
		{verb: "export", phase: "listing", copies: "table", hold: "table/list.csv", args: "export --delta DIR/tuned --data table/list.csv --format timm --out m", absent: []string{"m"}},
		{verb: "export", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "export --delta DIR/tuned --probe data --format timm --out m", absent: []string{"m"}},
		{verb: "export", phase: "evaluating", seconds: 0.7, args: "export --delta DIR/tuned --probe DIR/many --format timm --out m", absent: []string{"m"}},
		{verb: "export", phase: "scoring training", reason: "only exports"},

		{verb: "data verify", phase: "opening", copies: "table", hold: "table/list.csv", args: "data verify table/list.csv"},
		{verb: "data verify", phase: "listing", slow: "DIR/split/test/red", args: "data verify DIR/split"},
		{verb: "data verify", phase: "decoding", copies: "data", hold: "data/red/03.png", args: "data verify data"},
		// Decoding and hashing images of 36 million pixels takes longer than a second.
		{verb: "data verify", phase: "hashing", seconds: 0.3, args: "data verify DIR/large"},
		{verb: "data verify", phase: "scoring training evaluating downloading", reason: "only reads a data set"},

		{verb: "data diff", phase: "opening", copies: "table", hold: "table/list.csv", args: "data diff DIR/data table/list.csv"},
		{verb: "data diff", phase: "listing", slow: "DIR/split/test/red", args: "data diff DIR/data DIR/split"},
		{verb: "data diff", phase: "decoding", reason: "decodes no image"},
		{verb: "data diff", phase: "hashing", copies: "data", hold: "data/red/03.png", args: "data diff DIR/data data"},
		{verb: "data diff", phase: "scoring training evaluating downloading", reason: "only reads data sets"},

		{verb: "inspect", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "inspect vit.safetensors"},
		{verb: "inspect", phase: "hashing", hub: "cached", open: "/blobs/", args: "inspect --verify hf:tests/vit"},
		{verb: "inspect", phase: "decoding listing scoring training evaluating", reason: "reads no images"},

		{verb: "devices", phase: "opening", slow: "DIR/plugins", args: "devices"},
		{verb: "devices", phase: "hashing decoding listing scoring training evaluating downloading", reason: "lists devices and plug-ins"},

		{verb: "demo", phase: "scoring", says: "embedded in this program", args: "demo --device cpu --method spt-lora"},
		{verb: "demo", phase: "training", seconds: 0.5, args: "demo --device cpu --method lora"},
		{verb: "demo", phase: "evaluating", says: "epoch 10 of 10", args: "demo --device cpu --method linear --epochs 1"},
		{verb: "demo", phase: "opening hashing decoding listing downloading", reason: "reads no files"},

		{verb: "sweep", phase: "all", reason: "prints its help"},
		{verb: "sweep plan", phase: "opening", copies: "vit.safetensors sweep.yaml", hold: "vit.safetensors", args: "sweep plan sweep.yaml --out out", absent: []string{"out"}},
		{verb: "sweep plan", phase: "listing", copies: "vit.safetensors table sweep-table.yaml", hold: "table/list.csv", args: "sweep plan sweep-table.yaml --out out", absent: []string{"out"}},
		{verb: "sweep plan", phase: "decoding scoring training evaluating", reason: "reads no images"},
		{verb: "sweep run", phase: "scoring", copies: "sweep", says: "begins", args: "sweep run sweep", expect: "to continue: spt sweep run sweep"},
		{verb: "sweep run", phase: "training", copies: "sweep", written: "sweep/runs/*/metrics.jsonl", args: "sweep run sweep", expect: "interrupted: training stopped(.|\n)*spt sweep run sweep"},
		{verb: "sweep run", phase: "opening hashing decoding listing evaluating downloading", reason: "works with the code of tune"},
		{verb: "sweep submit", phase: "all", reason: "writes a script and ends the program of the engine with itself"},
		{verb: "sweep status", phase: "all", reason: "reads the small files of a sweep folder"},
		{verb: "sweep collect", phase: "all", reason: "reads the small files of a sweep folder"},
		{verb: "table", phase: "all", reason: "reads the small files of a sweep folder"},

		{verb: "report", phase: "opening", copies: "tuned", hold: "tuned/result.json", args: "report tuned --out r.html", absent: []string{"r.html"}},
		{verb: "report", phase: "listing", slow: "DIR/split/test/red", args: "report DIR/tuned --out r.html", absent: []string{"r.html"}},
		{verb: "report", phase: "writing", sync: true, written: ".spt-*.tmp", args: "report DIR/tuned --out r.html", absent: []string{"r.html"}},
		// until it is interrupted
		{verb: "report", phase: "evaluating", says: "live page", args: "report DIR/tuned --live 127.0.0.1:0"},
		{verb: "report", phase: "hashing decoding scoring training downloading", reason: "reads results, and decodes a few images"},

		{verb: "pretrain", phase: "decoding", says: "images of each class", args: "pretrain --out b", absent: []string{"b.training"}},
		{verb: "pretrain", phase: "training", says: "epoch 1 of 4", args: "pretrain --out b --images-per-class 1 --epochs 4", expect: "spt pretrain --out b .*--resume"},
		{verb: "pretrain", phase: "evaluating", reason: "validates with the code of train, in an epoch of seconds"},
		{verb: "pretrain", phase: "opening hashing listing scoring downloading", reason: "reads no files"},

		{verb: "bench", phase: "opening", copies: "vit.safetensors", hold: "vit.safetensors", args: "bench --weights vit.safetensors"},
		{verb: "bench", phase: "opening", copies: "tuned/plan.json", hold: "plan.json", args: "bench --weights DIR/vit.safetensors --plan plan.json"},
		{verb: "bench", phase: "scoring", seconds: 0.9, args: "bench --method score --steps 1000"},
		{verb: "bench", phase: "training", seconds: 0.9, args: "bench --method lora --steps 1000"},
		{verb: "bench", phase: "training", says: "timing lora", args: "bench --suite --device cpu --model tiny --batch 8 --only timing.lora --out r"},
		{verb: "bench", phase: "training", says: "over batch: 4", args: "bench --scaling --only step.over.batch"},
		{verb: "bench", phase: "listing", says: "opening over images: 100000", args: "bench --scaling --only opening"},
		{verb: "bench", phase: "evaluating", seconds: 0.9, args: "bench --method forward --steps 10000"},
		{verb: "bench", phase: "decoding", reason: "decodes no images"},
	}
	// Every command that takes a model downloads it, and hashes what an earlier download has left.
	for _, c := range []struct {
		verb, args string
		again      bool
	}{
		{"tune", "tune --recipe vtab --model hf:tests/vit --data DIR/data --device cpu --method lora --epochs 1 --out run", true},
		{"score", "score --model hf:tests/vit --data DIR/data --device cpu --out s", false},
		{"plan", "plan --scores DIR/tuned/scores.safetensors --model hf:tests/vit --budget 1% --out p", true},
		{"train", "train --model hf:tests/vit --data DIR/data --out run" + trainOptions, false},
		{"eval", "eval --delta DIR/tuned --model hf:tests/vit", false},
		{"predict", "predict --model hf:tests/vit DIR/data", false},
		{"merge", "merge --delta DIR/tuned --model hf:tests/vit --out m.safetensors", false},
		{"export", "export --delta DIR/tuned --model hf:tests/vit --format timm --out m", false},
		{"inspect", "inspect hf:tests/vit", true},
		{"bench", "bench --weights hf:tests/vit", false},
		{"sweep plan", "sweep plan DIR/sweep-hub.yaml --out out", false},
	} {
		table = append(table, interruption{verb: c.verb, phase: "downloading", hub: "stall", written: "hf/*/blobs/*.incomplete", args: c.args, again: c.again, expect: "the next download continues this one"})
		if c.verb != "inspect" {
			table = append(table, interruption{verb: c.verb, phase: "hashing", hub: "hash", open: `/blobs/.*\.incomplete$`, args: c.args})
		}
	}
	return table
}

// TestSignals sends a signal to every command in every phase of its work. The command must end
// within a second, with exit code 130 and a message. If it has begun a run, the message names the
// command that continues the run, and the result has the same bytes as that of a run without a
// stop.
func TestSignals(t *testing.T) {
	table := interruptions()
	for _, c := range commands() {
		verb := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "spt"), " ")
		for _, phase := range phases {
			if !slices.ContainsFunc(table, func(i interruption) bool {
				return i.verb == verb && (i.phase == "all" || slices.Contains(strings.Fields(i.phase), phase))
			}) {
				t.Errorf("the table has no entry for spt %s during %s", verb, phase)
			}
		}
	}
	p := newPlace(t, 12)
	p.makeInputs()
	// Most commands wait for their end, so more of them run at a time than there are processors.
	var running sync.WaitGroup
	slots := make(chan bool, 6)
	numbers := map[string]int{}
	for _, i := range table {
		if i.args == "" {
			continue
		}
		name := strings.ReplaceAll(i.verb, " ", "-") + "-" + i.phase
		if numbers[name]++; numbers[name] > 1 {
			name += fmt.Sprint("-", numbers[name])
		}
		slots <- true
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(name, func(t *testing.T) { i.check(t, p, name) })
		})
	}
	running.Wait()
}

// makeInputs makes the inputs of the commands of interruptions.
func (p *place) makeInputs() {
	check := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	// Links are fast to make. All images of a class are equal, so a training learns nothing, but
	// takes its time.
	for folder, sizes := range map[string]map[string]int{"split": {"train": 100, "val": 50, "test": 600}, "validated": {"train": 8, "val": 500}} {
		for split, n := range sizes {
			for _, class := range []string{"red", "blue"} {
				check(os.MkdirAll(p.path(folder, split, class), 0o777))
				for i := range n {
					check(os.Link(p.path("data", class, "00.png"), p.path(folder, split, class, fmt.Sprint(i, ".png"))))
				}
			}
		}
	}
	// links to the test images, seven times: a folder may be read eight times
	for _, class := range []string{"red", "blue"} {
		check(os.MkdirAll(p.path("many", class), 0o777))
		for i := range 7 {
			check(os.Symlink(p.path("split", "test", class), p.path("many", class, fmt.Sprint(i))))
		}
	}
	check(errors.Join(os.Mkdir(p.path("hub"), 0o777), makeModel(p.path("hub", "model.safetensors"), 1, 5, 16, 16, "")))
	check(os.MkdirAll(p.path("plugins"), 0o777))
	check(os.CopyFS(p.path("table", "images"), os.DirFS(p.path("data", "red"))))
	list := "path,label\n"
	for i := range 12 {
		list += fmt.Sprintf("images/%02d.png,%d\n", i, i%2)
	}
	check(os.WriteFile(p.path("table", "list.csv"), []byte(list), 0o666))
	check(errors.Join(os.MkdirAll(p.path("large", "a"), 0o777), os.MkdirAll(p.path("large", "b"), 0o777)))
	var file bytes.Buffer
	check((&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&file, image.NewGray(image.Rect(0, 0, 6000, 6000))))
	for i := range 8 {
		check(os.WriteFile(p.path("large", string("ab"[i%2]), fmt.Sprint(i, ".png")), file.Bytes(), 0o666))
	}
	for name, spec := range map[string][2]string{"sweep.yaml": {"vit.safetensors", p.path("split")}, "sweep-table.yaml": {"vit.safetensors", "table/list.csv"}, "sweep-hub.yaml": {"hf:tests/vit", p.path("data")}} {
		text := "config: {compute: {device: cpu}, tune: {score: {batches: 1000, batch_size: 1}, train: {epochs: 4, batch_size: 16}}}\n" +
			"models: ['" + spec[0] + "']\ntasks: ['" + spec[1] + "']\nmethods: [spt-lora]\nbudgets: [600]\n"
		check(os.WriteFile(p.path(name), []byte(text), 0o666))
	}
	p.do("sweep", "plan", "sweep.yaml", "--out", "sweep")
	for _, args := range []string{
		"tune --quiet --keep-scores --model vit.safetensors --data split --out tuned" + tuneOptions,
		"tune --quiet --model vit.safetensors --data data --out other" + tuneOptions,
		"train --quiet --model vit.safetensors --data split --out trained" + trainOptions,
		"train --quiet --model vit.safetensors --data validated --out validated-run" + trainOptions,
	} {
		p.do(strings.Fields(args)...)
	}
	// the folder of a run that was stopped early
	check(errors.Join(os.Mkdir(p.path("begun"), 0o777), os.WriteFile(p.path("begun", run.ConfigFile), p.read("other", run.ConfigFile), 0o666)))
}

// output is the output of a process.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(data)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// ignored reports whether the program would ignore a signal, because its parent does.
func ignored(s syscall.Signal) bool { return s != 0 && signal.Ignored(s) }

// check runs the command in a folder of its own, with the given name, and interrupts it.
func (i interruption) check(t *testing.T, inputs *place, name string) {
	if ignored(i.signal) {
		t.Skipf("%v is ignored here: run the test without nohup", i.signal)
	}
	p := &place{t, inputs.path("of", name), inputs.spt}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(p.dir, 0o777))
	for _, name := range strings.Fields(i.copies) {
		to := p.path(filepath.Base(name))
		if stat, err := os.Stat(inputs.path(name)); err == nil && stat.IsDir() {
			must(os.CopyFS(to, os.DirFS(inputs.path(name))))
		} else {
			must(os.WriteFile(to, inputs.read(name), 0o666))
		}
	}
	expand := func(text string) []string { return strings.Fields(strings.ReplaceAll(text, "DIR", inputs.dir)) }
	hub := &slowHub{hub: hubOf("tests/vit", "1", inputs.path("hub")), stall: i.hub == "stall"}
	server := httptest.NewServer(i.misstate(hub))
	defer server.Close()
	i.fillCache(p, inputs)
	args := expand(i.args)
	command := func(args ...string) *exec.Cmd {
		c := p.command(args[0], args[1:]...)
		c.Env = append(os.Environ(), "HF_ENDPOINT="+server.URL, "HF_HUB_CACHE="+p.path("hf"), "PJRT_PLUGIN_LIBRARY_PATH="+inputs.path("plugins"))
		if i.hub == "cached" {
			c.Env = append(c.Env, "HF_HUB_OFFLINE=1")
		}
		return c
	}
	all := append([]string{p.spt}, args...)
	var delay []string // what strace delays
	switch {
	case i.slow != "":
		delay = []string{"-P", expand(i.slow)[0], "-e", "trace=getdents64", "-e", "inject=getdents64:delay_enter=2000000"}
	case i.sync:
		delay = []string{"-e", "trace=fsync", "-e", "inject=fsync:delay_enter=2000000"}
	}
	if delay != nil {
		if err := exec.Command("strace", "-o", os.DevNull, "true").Run(); err != nil {
			t.Skipf("strace cannot trace here: %v", err)
		}
		// The delay ends before the test gives up: the process stays until strace has seen its end.
		all = slices.Concat([]string{"strace", "-D", "-f", "-qq", "-o", p.path("strace")}, delay, all)
	}
	begun := i.begun(p, inputs)
	if i.hold != "" {
		f, waiting, err := lease(p.path(i.hold))
		// a process that starts has the files of this one for an instant
		for errors.Is(err, unix.EAGAIN) {
			time.Sleep(time.Millisecond)
			f, waiting, err = lease(p.path(i.hold))
		}
		if err != nil {
			t.Skipf("the file system has no leases: %v", err)
		}
		defer func() { f.Close() }()
		later := i.later
		begun = func(int, string) bool {
			switch {
			case f == nil: // the command may still read the file
				f, waiting, _ = lease(p.path(i.hold))
			case waiting() && later > 0:
				f.Close()
				f, later = nil, later-1
			default:
				return waiting()
			}
			return false
		}
	}
	c := command(all...)
	var out output
	stderr := &output{}
	c.Stdout, c.Stderr = &out, io.MultiWriter(&out, stderr)
	if i.input {
		in, to, err := os.Pipe()
		must(err)
		defer in.Close()
		defer to.Close()
		_, err = io.WriteString(to, "red.png\n")
		must(err)
		c.Stdin = in
		begun = func(int, string) bool { return unread(in) == 0 }
	}
	must(c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for deadline := time.Now().Add(time.Minute); !begun(c.Process.Pid, out.String()); time.Sleep(3 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("%s ended before %s: %v\n%s", i.args, i.phase, err, &out)
		default:
		}
		if time.Now().After(deadline) {
			_ = c.Process.Kill()
			t.Fatalf("%s does not begin %s\n%s", i.args, i.phase, &out)
		}
	}
	signal := i.signal
	if signal == 0 {
		signal = syscall.SIGINT
	}
	start := time.Now()
	must(c.Process.Signal(signal))
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = c.Process.Kill()
		<-ended
		t.Fatalf("%s does not end after %v during %s\n%s", i.args, signal, i.phase, &out)
	}
	// The program itself ends after interruptGrace. The machine may be busy.
	took, messages := time.Since(start), stderr.String()
	t.Logf("ended after %v: %s", took.Round(time.Millisecond), messages[max(0, strings.LastIndex(messages, "spt: interrupted")):])
	if code := c.ProcessState.ExitCode(); code != exitInterrupted || took > 3*time.Second {
		t.Errorf("%s: exit code %d, %v after %v; expected %d within a second\n%s", i.args, code, took, signal, exitInterrupted, messages)
	}
	if !strings.Contains(messages, "spt: interrupted") || goNames.MatchString(messages) || !regexp.MustCompile(i.expect).MatchString(messages) {
		t.Errorf("%s: the messages do not tell about the interruption, or not %q:\n%s", i.args, i.expect, messages)
	}
	if temporary, err := leftovers(p.dir); err != nil || slices.ContainsFunc(temporary, func(path string) bool { return strings.HasSuffix(path, ".tmp") }) {
		t.Errorf("%s left %v, %v", i.args, temporary, err)
	}
	for _, name := range i.absent {
		if _, err := os.Stat(p.path(name)); err == nil {
			t.Errorf("%s left %s", i.args, name)
		}
	}
	_, resume, found := strings.Cut(messages, "to continue: spt ")
	if i.reference != "" {
		if !found {
			t.Fatalf("%s does not tell how to continue:\n%s", i.args, messages)
		}
		if text, err := command(append([]string{p.spt, "--quiet"}, strings.Fields(resume)...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", resume, err, text)
		}
		for _, file := range []string{delta.TensorsName, delta.FileName} {
			if !bytes.Equal(placeless(p.read("run", file)), placeless(inputs.read(i.reference, file))) {
				t.Errorf("%s, continued: %s differs from that of a run without a stop", i.args, file)
			}
		}
		if left, err := leftovers(p.dir); err != nil || left != nil {
			t.Errorf("%s, continued: the run left %v, %v", i.args, left, err)
		}
	} else if found && i.expect == "" {
		t.Errorf("%s tells how to continue, but there is nothing to continue:\n%s", i.args, messages)
	}
	if i.again {
		hub.set(false, 0)
		if text, err := command(append([]string{p.spt}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s, once more: %v\n%s", i.args, err, text)
		}
		p.checkDownload(inputs, hub)
	}
}

// begun returns a function that reports whether the process with the given pid and output is in the
// phase.
func (i interruption) begun(p, inputs *place) func(pid int, out string) bool {
	switch {
	case i.slow != "":
		return func(pid int, _ string) bool { return readsFolder(pid, strings.ReplaceAll(i.slow, "DIR", inputs.dir)) }
	case i.open != "":
		pattern := regexp.MustCompile(i.open)
		return func(pid int, _ string) bool { return hasOpen(pid, pattern) }
	case i.written != "":
		return func(int, string) bool {
			paths, _ := filepath.Glob(p.path(i.written)) // the pattern is right
			return slices.ContainsFunc(paths, func(path string) bool {
				stat, err := os.Stat(path)
				return err == nil && stat.Size() > 0
			})
		}
	case i.seconds > 0:
		return func(pid int, _ string) bool { return processorTime(pid) >= i.seconds }
	}
	pattern := regexp.MustCompile(i.says)
	return func(_ int, out string) bool { return pattern.MatchString(out) }
}

// hugeFile is the size of a file that takes minutes to hash, in bytes.
const hugeFile = 1 << 38

// misstate returns a hub that states the size hugeFile for the weights, if the command is to hash
// them.
func (i interruption) misstate(hub http.Handler) http.Handler {
	if i.hub != "hash" {
		return hub
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("ETag", `"`+strings.Repeat("a", 64)+`"`)
			w.Header().Set("Content-Length", fmt.Sprint(hugeFile))
			return
		}
		hub.ServeHTTP(w, r)
	})
}

// fillCache places a file of the size hugeFile, without blocks on the disk, in the cache of the
// hub, if the command is to hash it.
func (i interruption) fillCache(p, inputs *place) {
	sum := strings.Repeat("a", 64)
	repo := p.path("hf", "models--tests--vit")
	blob := filepath.Join(repo, "blobs", sum)
	snapshot := filepath.Join(repo, "snapshots", strings.Repeat("1", 40))
	switch i.hub {
	case "hash":
		blob += ".incomplete"
	case "cached":
	default:
		return
	}
	err := errors.Join(os.MkdirAll(filepath.Dir(blob), 0o777), os.MkdirAll(snapshot, 0o777), os.MkdirAll(filepath.Join(repo, "refs"), 0o777), os.WriteFile(blob, nil, 0o666), os.Truncate(blob, hugeFile))
	if err == nil && i.hub == "cached" {
		err = errors.Join(os.Symlink("../../blobs/"+sum, filepath.Join(snapshot, "model.safetensors")),
			os.WriteFile(filepath.Join(repo, "refs", "main"), []byte(strings.Repeat("1", 40)), 0o666))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// backbonePath matches the line of spt_delta.json with the path of the backbone, which depends on
// the place of the delta.
var backbonePath = regexp.MustCompile(`(?m)^ *"path": .*\n`)

// placeless returns the bytes of a file of a delta without the path of the backbone.
func placeless(data []byte) []byte { return backbonePath.ReplaceAll(data, nil) }
