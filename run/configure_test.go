package run_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// nodes parses YAML documents.
func nodes(t *testing.T, texts ...string) (all []*yamlfile.Node) {
	t.Helper()
	for _, text := range texts {
		n, err := yamlfile.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// configure returns the configuration of YAML documents.
func configure(t *testing.T, texts ...string) run.Config {
	t.Helper()
	c, err := run.Configure(nodes(t, texts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestConfigureDefaults checks that keys that are not given take the recipe of the method.
func TestConfigureDefaults(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c := configure(t, "model: {path: vit.safetensors}\ndata: {path: images}")
	want := run.Config{Tune: run.TuneOptions{Method: method.SPTLoRA, Train: train.VTAB()}}
	want.Compute.Devices, want.Data.ValFraction, want.Data.TestFraction = 1, 0.1, 0.1
	want.Model.Path, want.Data.Path = filepath.Join(wd, "vit.safetensors"), filepath.Join(wd, "images")
	if !reflect.DeepEqual(c, want) {
		t.Errorf("found %+v, expected %+v", c, want)
	}
	for text, holds := range map[string]func(run.Config) bool{
		"model: {path: demo}": func(c run.Config) bool { return c.Model.Path == "demo" },
		"tune: {method: ssf}": func(c run.Config) bool { return c.Tune.Train.LR == 5e-3 && c.Tune.Train.DropPath == 0 },
		"tune: {method: linear}": func(c run.Config) bool {
			return len(c.Tune.LRs) == 3 && c.Tune.MethodRates && c.Tune.Train.LR == 1e-2
		},
		"tune: {method: linear, train: {lr: 1}}": func(c run.Config) bool { return c.Tune.LRs == nil && c.Tune.Train.LR == 1 },
		"tune: {method: linear, lrs: [0.1, 1]}":  func(c run.Config) bool { return len(c.Tune.LRs) == 2 && !c.Tune.MethodRates },
		"tune: {train: {epochs: 20, seed: 7}}": func(c run.Config) bool {
			return c.Tune.Train.WarmupEpochs == 2 && c.Tune.Score.Seed == 7
		},
		"tune: {train: {epochs: 20, warmup_epochs: 0, seed: 7}, score: {seed: 1}}": func(c run.Config) bool {
			return c.Tune.Train.WarmupEpochs == 0 && c.Tune.Score.Seed == 1
		},
		"data: {task: cub}": func(c run.Config) bool {
			i := c.Data.Images
			return i.Resize == "direct-crop" && i.RandomCrop && i.HorizontalFlip
		},
		"data: {task: cub, images: {resize: direct}}": func(c run.Config) bool {
			i := c.Data.Images
			return i.Resize == "direct" && !i.RandomCrop && i.HorizontalFlip
		},
		"model: {mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}": func(c run.Config) bool { return c.Model.Preprocessing == run.GivenPreprocessing },
		`{"tune": {"budgets": ["0.2M", "1%"]}}`: func(c run.Config) bool {
			return reflect.DeepEqual(c.Tune.Budgets, []plan.Budget{plan.MustParseBudget("0.2M"), plan.MustParseBudget("1%")})
		},
	} {
		if c := configure(t, text); !holds(c) {
			t.Errorf("%s: %+v", text, c)
		}
	}
}

// TestConfigureLayers decodes nodes one on top of the other.
func TestConfigureLayers(t *testing.T) {
	c := configure(t, "tune: {method: linear, lrs: [0.1, 1], train: {epochs: 10}}", "", "tune: {method: lora, rank: 2, train: {lr: 0.5}}")
	if c.Tune.Method != method.LoRA || c.Tune.Rank != 2 || c.Tune.LRs != nil || c.Tune.Train.LR != 0.5 || c.Tune.Train.WarmupEpochs != 1 || c.Tune.Train.DropPath != 0.1 {
		t.Errorf("%+v", c.Tune)
	}

	// A recorded run keeps what it recorded, until a later node changes the model or the data.
	recorded := `{"kind": "run", "version": 1, "spt": "v0.1", "started": "2026-01-02T03:04:05Z",
		"model": {"path": "/a", "fingerprint": "f", "image_size": 32},
		"data": {"path": "/d", "layout": "imagefolder", "val_fraction": 0.2, "split": "s", "classes": 3, "train": 9, "val": 1, "test": 1, "samples": "p", "images": {"resize": "crop"}},
		"tune": {"method": "spt-lora", "rank": 4, "plan": {"module": "lora", "rank": 4, "alpha": 10, "beta": 5, "compat": ""}, "train": {"epochs": 3, "warmup_epochs": 1, "lr": 0.1}}}`
	c = configure(t, recorded)
	if c.Kind != "" || c.Spt != "" || !c.Started.IsZero() || c.Model.Fingerprint != "f" || c.Data.Samples != "p" || c.Data.Val != 1 || c.Tune.Train.Epochs != 3 || c.Tune.Train.WarmupEpochs != 1 {
		t.Errorf("%+v", c)
	}
	if c = configure(t, recorded, "data: {images: {workers: 2}}"); c.Data.Samples != "p" || c.Data.Images.Workers != 2 {
		t.Errorf("%+v", c.Data)
	}
	if c = configure(t, recorded, "model: {path: /b}\ndata: {path: /e}"); c.Model != (run.ModelConfig{Path: "/b"}) || !reflect.DeepEqual(c.Data, run.DataConfig{Path: "/e", ValFraction: 0.2, TestFraction: 0.1, Images: run.ImageOptions{Resize: "crop"}}) {
		t.Errorf("%+v, %+v", c.Model, c.Data)
	}
	if c = configure(t, recorded, "model: {image_size: 64}\ndata: {split_seed: 1}"); c.Model.Fingerprint != "" || c.Model.Path != "/a" || c.Data.Samples != "" || c.Data.Layout != "imagefolder" {
		t.Errorf("%+v, %+v", c.Model, c.Data)
	}
	if c = configure(t, recorded, "tune: {method: spt-adapter, rank: 2}"); c.Tune.Method != "spt-adapter" || c.Tune.Plan.Module != "" || c.Tune.Plan.Rank != 2 {
		t.Errorf("%+v", c.Tune.Plan)
	}

	// Recorded class weights stay until a later node changes the data, the file or the sampling.
	weighted := `{"data": {"path": "/d", "samples": "p"}, "tune": {"train": {"class_weights": "auto", "class_weight_values": [0.5, 1.5]}}}`
	for node, kept := range map[string]bool{"": true, "tune: {train: {lr: 0.1}}": true, "data: {path: /e}": false, "tune: {train: {class_weights: w.json}}": false, "tune: {train: {balanced_sampling: true}}": false} {
		c := configure(t, weighted, node)
		if (c.Tune.Train.ClassWeightValues != nil) != kept || c.Tune.Train.ClassWeights != "auto" && !filepath.IsAbs(c.Tune.Train.ClassWeights) {
			t.Errorf("%q: class weights %q, %v", node, c.Tune.Train.ClassWeights, c.Tune.Train.ClassWeightValues)
		}
	}

	// The zero configuration of every method, as config.json encodes it, can be read.
	for _, m := range method.Methods() {
		c := configure(t, "tune: {method: "+string(m)+"}")
		c.Header = jsonfile.Header{Kind: jsonfile.Run, Version: 1}
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		c.Header, c.Tune.MethodRates = jsonfile.Header{}, false
		if again := configure(t, string(data)); !reflect.DeepEqual(again, c) {
			t.Errorf("%s: found %+v, expected %+v", m, again, c)
		}
	}
}

// TestConfigureErrors checks that errors name the line and the column.
func TestConfigureErrors(t *testing.T) {
	for text, want := range map[string]string{
		"tune:\n  metod: ssf":                                 `line 2, column 3: key "metod" is unknown; did you mean "method"?`,
		"tune:\n  method: lroa":                               `line 2, column 11: tune.method: method "lroa" is unknown; did you mean "lora"?`,
		"data: {task: cifer}":                                 `line 1, column 14: data.task: task "cifer" is unknown`,
		"train: {}":                                           `line 1, column 8: the key train configures a run of 'spt train'`,
		"kind: result":                                        `line 1, column 7: the kind of the file is "result", expected a configuration`,
		"version: 2":                                          `line 1, column 10: the configuration has version 2`,
		"tune: {train: {epochs: 0}}":                          `line 1, column 24: tune.train.epochs: epochs 0: expected at least 1`,
		"tune: {lrs: [0.1, 20]}":                              `line 1, column 13: tune.lrs: learning rate 20`,
		"tune: {method: linear, plan: {alpha: 3}}":            `line 1, column 38: tune.plan.alpha: method linear takes no alpha`,
		"tune: {method: lora, score: {criterion: random}}":    `tune.score.criterion: method lora takes no criterion`,
		"tune: {method: ssf, rank: 3}":                        `tune.rank: method ssf takes no rank`,
		"tune: {budget: 0.2M}":                                `line 1, column 16: tune.budget: a run of all stages has a list of budgets; write budgets: [0.2M]`,
		"tune: {method: ssf, budgets: [1%]}":                  `tune.budgets: method ssf takes no budget`,
		"tune: {method: full, train: {dropout: 0}}":           `tune.train.dropout: method full takes no dropout`,
		"tune: {method: lora, score: {compat: release}}":      `tune.score.compat: method lora takes no compat`,
		"tune: {plan: {module: adapter}}":                     `tune.plan.module: "adapter" contradicts the method spt-lora, which has "lora"`,
		"tune: {rank: 2, plan: {rank: 3}}":                    `tune.plan.rank: rank 3 contradicts tune.rank, which is 2`,
		"tune: {score: {batches: -1}}":                        `line 1, column 25: tune.score.batches: scoring -1 batches`,
		"objective: guess":                                    `line 1, column 12: objective: objective "guess" is unknown`,
		"compute: {precision: f16}":                           `compute.precision: precision "f16" is unknown`,
		"data: {layout: heap}":                                `data.layout: layout "heap"`,
		"tune: {train: {epochs: 5, warmup_epochs: 10, x: 1}}": `key "x" is unknown`,
		"tune: {train: {epochs: 5, warmup_epochs: 10}}":       `tune.train.warmup_epochs: warm-up epochs 10`,
	} {
		_, err := run.Configure(nodes(t, text)...)
		if input := (*run.InputError)(nil); !errors.As(err, &input) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, expected %q", text, err, want)
		}
	}
}

// TestEveryKey writes a configuration with a value in every field as JSON, and decodes it as a
// document.
func TestEveryKey(t *testing.T) {
	var c, back run.Config
	fill(t, reflect.ValueOf(&c).Elem())
	data, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	n, err := yamlfile.Parse(data)
	if err == nil {
		err = yamlfile.Decode(n, &back)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if again, err := json.Marshal(&back); err != nil || string(again) != string(data) {
		t.Errorf("%v\n%s\nbecame\n%s", err, data, again)
	}
}

// fill sets v, and all that v holds, to values other than zero.
func fill(t *testing.T, v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *plan.Budget:
		*x = plan.MustParseBudget("7")
		return
	case *time.Time:
		*x = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
				fill(t, v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0))
		fill(t, v.Index(1))
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key)
		fill(t, value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint64:
		v.SetUint(4)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(0.5)
	default:
		t.Fatalf("a field has the type %s", v.Type())
	}
}
