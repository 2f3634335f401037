package memory_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/jpeg"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone/catalogue"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/memory"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

var peaks = flag.Bool("peaks", false, "measure the peaks of all cases of TestPeak, which takes some minutes")

// peakCase is a run whose peak TestPeak measures.
type peakCase struct {
	Model  string // in the catalogue; the weights are random
	Size   int    // of the images, in px
	Batch  int
	Method method.Method
	Images int // training images
}

// childVariable is the name of the environment variable that makes the test binary run a case.
const childVariable = "SPT_TEST_MEMORY_CASE"

func TestMain(m *testing.M) {
	// As the command line does. The estimate depends on it, and so does the measurement.
	debug.SetGCPercent(25)
	if text := os.Getenv(childVariable); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// options returns the options of the run.
func (c peakCase) options() run.TuneOptions {
	o := run.TuneOptions{Method: c.Method, NoValidation: true, Train: train.VTAB().WithEpochs(1), Score: sensitivity.Options{Batches: 2}}
	o.Train.BatchSize = c.Batch
	return o
}

// task returns the task of the run. folder holds the images.
func (c peakCase) task(folder string) (*spt.Task, *dataset.Dataset, error) {
	data, err := dataset.Open(context.Background(), folder, dataset.OpenOptions{TestFraction: 0.1})
	if err != nil {
		return nil, nil, err
	}
	b, ok := catalogue.Find(c.Model)
	if !ok {
		return nil, nil, errors.New("no backbone " + c.Model)
	}
	b.Config.NumClasses, b.Config.ImageSize = len(data.Classes), c.Size
	task, err := spt.New(bench.Model(b.Config), data)
	return task, data, err
}

// child runs the case in text, in the working folder, and prints its peak in bytes.
func child(text string) error {
	var c peakCase
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	task, _, err := c.task("images")
	if err != nil {
		return err
	}
	if _, err := task.Tune(context.Background(), c.options(), "run", nil); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kB, err := strconv.ParseInt(fields[1], 10, 64)
			fmt.Println(kB << 10)
			return err
		}
	}
	return errors.New("/proc/self/status has no VmHWM")
}

// estimate returns the footprint that Foresee returns before the run.
func (c peakCase) estimate(t *testing.T, folder string) memory.Footprint {
	task, data, err := c.task(folder)
	if err != nil {
		t.Fatal(err)
	}
	m, o := task.Model(), c.options()
	row, err := method.Lookup(c.Method)
	if err != nil {
		t.Fatal(err)
	}
	r := memory.Run{Backend: task.Backend(), Model: m, Objective: objective.SingleLabel, Train: o.Train,
		TrainImages: data.Train, OtherImages: data.Test, Transform: dataset.Transform{Size: c.Size}}
	var s peft.Selection
	if row.Scores {
		r.Score = &o.Score
		s = memory.Scored(m.Config, row.Module, plan.DefaultRank)
	} else if s, err = row.Select(m.Config, o.Options); err != nil {
		t.Fatal(err)
	}
	if r.Tuning, err = peft.New(m.Config, s); err != nil {
		t.Fatal(err)
	}
	f, err := memory.Foresee(r)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPeak compares the estimate with the greatest resident memory of a process that runs the case.
func TestPeak(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("the system does not tell the peak of a process")
	}
	cases := []peakCase{{"vit_tiny", 96, 16, "spt-lora", 48}}
	if *peaks {
		cases = nil
		for _, size := range []int{96, 224} {
			for _, batch := range []int{8, 16, 64} {
				for _, m := range []method.Method{"spt-lora", "lora", "full"} {
					cases = append(cases, peakCase{"vit_tiny", size, batch, m, 160})
				}
			}
		}
		for _, m := range []method.Method{"spt-lora", "lora", "full"} {
			cases = append(cases, peakCase{"vit_base", 224, 16, m, 48})
		}
		cases = append(cases, peakCase{"swin_tiny", 224, 16, "spt-lora", 48}, peakCase{"convnext_tiny", 224, 16, "spt-lora", 48}, peakCase{"vit_tiny", 224, 16, "linear", 160})
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s-%d-%d-%s", c.Model, c.Size, c.Batch, c.Method), func(t *testing.T) {
			folder := t.TempDir()
			writeImages(t, filepath.Join(folder, "images"), c.Images)
			want := c.estimate(t, filepath.Join(folder, "images"))
			text, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0])
			cmd.Dir, cmd.Env, cmd.Stderr = folder, append(os.Environ(), childVariable+"="+string(text)), os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			ratio := float64(want.Total()) / float64(got)
			t.Logf("| %s, %d px, batch %d, %s | %d | %d | %.2f | %+v", c.Model, c.Size, c.Batch, c.Method, want.Total()/1e6, got/1e6, ratio, want)
			if ratio < 0.9 || ratio > 1.25 {
				t.Errorf("the estimate is %.2f times the measured peak, expected 0.9 to 1.25", ratio)
			}
		})
	}
}

// writeImages writes JPEG files of 320×240 px in two class folders.
func writeImages(t *testing.T, folder string, n int) {
	random := rand.New(rand.NewPCG(1, 0))
	for i := range n {
		m := image.NewGray(image.Rect(0, 0, 320, 240))
		for j := range m.Pix {
			m.Pix[j] = byte(j/8 + random.IntN(32))
		}
		path := filepath.Join(folder, strconv.Itoa(i%2), fmt.Sprintf("%d.jpg", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(jpeg.Encode(f, m, nil), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
