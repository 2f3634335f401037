package spt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// imageFolder returns a folder with two class folders, each with 20 images of one colour.
func imageFolder(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for class, c := range map[string]color.RGBA{"blue": {20, 20, 220, 255}, "red": {220, 20, 20, 255}} {
		if err := os.Mkdir(filepath.Join(root, class), 0o777); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			m := image.NewRGBA(image.Rect(0, 0, 32, 32))
			for p := range 32 * 32 {
				c := c
				c.G = uint8(i * p % 97)
				m.SetRGBA(p%32, p/32, c)
			}
			var encoded bytes.Buffer
			if err := png.Encode(&encoded, m); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, class, fmt.Sprintf("%02d.png", i)), encoded.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// TestLibraryRun compares a run of a Task from New, which is interrupted and resumed from its
// folder, with a run of a Task from Open. Both must leave the same files.
func TestLibraryRun(t *testing.T) {
	root := imageFolder(t)
	open := dataset.OpenOptions{ValFraction: 0.2, TestFraction: 0.3, Seed: 7}
	options := run.TuneOptions{Method: "spt-lora", Budgets: []plan.Budget{plan.MustParseBudget("3%")}, Options: method.Options{Rank: 2}, Train: train.VTAB().WithEpochs(2)}

	// From a configuration, as the command line does.
	c := &run.Config{
		Model: run.ModelConfig{Path: embedded.Name},
		Data:  run.DataConfig{Path: root, ValFraction: open.ValFraction, TestFraction: open.TestFraction, SplitSeed: open.Seed},
	}
	c.Compute.Device = "cpu"
	task, err := spt.Open(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	configured := filepath.Join(t.TempDir(), "run")
	want, err := task.Tune(t.Context(), options, configured, nil)
	if err != nil {
		t.Fatal(err)
	}

	// From a model and a data set, interrupted, and continued from the folder.
	data, err := dataset.Open(t.Context(), root, open)
	if err != nil {
		t.Fatal(err)
	}
	model, err := embedded.Model(len(data.Classes))
	if err != nil {
		t.Fatal(err)
	}
	if task, err = spt.New(model, data); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := task.Tune(ctx, options, made, func(e progress.Event) {
		if e.Stage == progress.Train && e.Candidate == "" {
			cancel()
		}
	}); err == nil {
		t.Fatal("the run was not interrupted")
	}
	_, resumed, err := run.Open(made)
	if err != nil {
		t.Fatal(err)
	}
	if task, err = spt.Resume(t.Context(), made, &resumed, nil); err != nil {
		t.Fatal(err)
	}
	got, err := task.Tune(t.Context(), resumed.Tune, made, nil)
	if err != nil {
		t.Fatal(err)
	}

	if got.Test == nil || got.Test.Images != 12 || !reflect.DeepEqual(got.Test, want.Test) {
		t.Errorf("test result %+v, expected the result of the Task from Open, %+v", got.Test, want.Test)
	}
	for _, name := range []string{run.ConfigFile, run.ResultFile} {
		var files [2]map[string]any
		for i, dir := range []string{configured, made} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = json.Unmarshal(text, &files[i])
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, varies := range []string{"started", "finished", "seconds", "candidates", "epochs"} {
				delete(files[i], varies)
			}
		}
		if !reflect.DeepEqual(files[0], files[1]) {
			t.Errorf("%s: the run of the Task from New has\n%v\nthe run of the Task from Open has\n%v", name, files[1], files[0])
		}
	}
}

// TestTrainRunRefusesOtherOptions checks that TrainRun refuses other options in the folder of a
// finished training.
func TestTrainRunRefusesOtherOptions(t *testing.T) {
	data, err := dataset.Open(t.Context(), imageFolder(t), dataset.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	model, err := embedded.Model(len(data.Classes))
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(model, data)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	o := run.TrainOptions{Method: method.Linear, Train: train.VTAB().WithEpochs(1)}
	if _, err := task.TrainRun(t.Context(), o, nil, dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := task.TrainRun(t.Context(), o, nil, dir, nil); err != nil {
		t.Errorf("the same options: %v", err)
	}
	other := run.TrainOptions{Method: "bitfit", Train: train.VTAB().WithEpochs(1)}
	var option *run.OptionError
	if _, err := task.TrainRun(t.Context(), other, nil, dir, nil); !errors.As(err, &option) {
		t.Errorf("other options: %v", err)
	}
}

// TestUnregisteredObjective checks that Tune refuses an unregistered objective before training,
// because its delta could not be loaded.
func TestUnregisteredObjective(t *testing.T) {
	data, err := dataset.Open(t.Context(), imageFolder(t), dataset.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	model, err := embedded.Model(len(data.Classes))
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(model, data, spt.WithObjective(unregistered{objective.SingleLabel}))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	var option *run.OptionError
	if _, err := task.Tune(t.Context(), run.TuneOptions{Method: method.Linear, Train: train.VTAB().WithEpochs(1)}, dir, nil); !errors.As(err, &option) || option.Option != "objective" {
		t.Errorf("an unregistered objective: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made")
	}
}

type unregistered struct{ objective.Objective }

func (unregistered) Name() string { return "unregistered" }

// TestChangedFiles checks that a run notices an image that changed while it ran.
func TestChangedFiles(t *testing.T) {
	root := imageFolder(t)
	for _, change := range []bool{false, true} {
		dir := t.TempDir()
		c := &run.Config{Model: run.ModelConfig{Path: embedded.Name}, Data: run.DataConfig{Path: root, ValFraction: 0.2, TestFraction: 0.3},
			Tune: run.TuneOptions{Method: method.Linear, Train: train.VTAB().WithEpochs(2)}}
		task, err := spt.Open(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		changed := filepath.Join(root, "red", "03.png")
		noted := ""
		r, err := task.Tune(t.Context(), c.Tune, dir, func(e progress.Event) {
			switch {
			case e.Stage == progress.Note:
				noted = e.Item
			case e.Stage == progress.Epoch && change:
				other, err := os.ReadFile(filepath.Join(root, "blue", "03.png"))
				if err == nil {
					err = os.WriteFile(changed, append(other, 0), 0o666)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if change {
			want = []string{changed}
		}
		if !reflect.DeepEqual(r.Changed, want) || (noted != "") != change {
			t.Errorf("changed %v, note %q, expected %v", r.Changed, noted, want)
		}
	}
}

// TestPortableFolder checks that the default run folder of a data set with a strange name has a
// name that every system allows.
func TestPortableFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	data, err := dataset.New("a:b*\x1b\"c\xff.", []string{"red", "green", "blue"}, colours.Samples(9, 16, 0), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(config), data)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := task.Create(t.Context(), "", &run.Config{Tune: run.TuneOptions{Method: method.LoRA}}, nil)
	if want := filepath.Join(run.DefaultRoot, "a_b___c\ufffd.-lora"); err != nil || dir != want {
		t.Errorf("folder %q, %v, expected %q", dir, err, want)
	}
}
