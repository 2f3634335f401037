package tracking_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/tracking"
	"github.com/sptune/spt/train"
)

// script is a run that a test plays, without a training: two candidates of three epochs, and the
// final training.
type script struct {
	t      *testing.T
	folder run.Folder
	epochs map[string][]train.Epoch // of each training, by name
	report progress.Func
}

const epochs = 3

var names = []string{"600", "0.5%", ""} // of the trainings, in order

// begin makes a run folder with that name.
func begin(t *testing.T, name string) *script {
	t.Helper()
	c := &run.Config{Started: time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC),
		Model: run.ModelConfig{Path: "vit.safetensors", Fingerprint: "model", ImageSize: 224},
		Data:  run.DataConfig{Path: "photos", Classes: 3, Train: 90, Val: 10, Samples: "data"},
		Tune: run.TuneOptions{Method: "spt-lora", Budgets: []plan.Budget{plan.MustParseBudget("600"), plan.MustParseBudget("0.5%")},
			Train: train.VTAB().WithEpochs(epochs)}}
	folder, err := run.Create(filepath.Join(t.TempDir(), name), c)
	if err != nil {
		t.Fatal(err)
	}
	return &script{t: t, folder: folder, epochs: map[string][]train.Epoch{}}
}

// figures returns the figures of an epoch of a training.
func figures(name string, epoch int) train.Epoch {
	i := float64(slices.Index(names, name)*10 + epoch)
	e := train.Epoch{Epoch: epoch, LR: 1e-3 / i, TrainLoss: 1 / i, TrainAccuracy: 1 - 1/i, Seconds: 1.25 * i, ImagesPerSecond: 100 / i}
	if name != "" {
		e.ValLoss, e.ValAccuracy = 2/i, 1-2/i
	}
	return e
}

// dir returns the folder of a training.
func (s *script) dir(name string) run.Folder {
	if name == "" {
		return s.folder
	}
	return s.folder.Candidate(name)
}

// epoch plays the next epoch of a training, in the order of train.Run: the event, then the file.
func (s *script) epoch(name string) {
	s.t.Helper()
	e := figures(name, len(s.epochs[name])+1)
	s.epochs[name] = append(s.epochs[name], e)
	s.report.Report(progress.Event{Stage: progress.Train, Candidate: name, Done: 1, Total: 1, Epoch: e.Epoch - 1, Epochs: epochs})
	s.report.Report(progress.Event{Stage: progress.Epoch, Candidate: name, Epoch: e.Epoch - 1, Epochs: epochs, Detail: e})
	s.save(name)
}

func (s *script) save(name string) {
	s.t.Helper()
	err := os.MkdirAll(string(s.dir(name)), 0o777)
	if err == nil {
		err = s.dir(name).SaveMetrics(s.epochs[name])
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// play plays a part of the run: the epochs with the numbers from first to before last, of 9.
func (s *script) play(first, last int) {
	s.t.Helper()
	for i := first; i < last; i++ {
		s.epoch(names[i/epochs])
	}
	if last == len(names)*epochs {
		s.finish()
	}
}

// result returns the result of the run.
func (s *script) result() *run.Result {
	val := figures("600", epochs).ValAccuracy
	return &run.Result{Finished: time.Date(2026, 5, 4, 5, 0, 0, 0, time.UTC), Method: "spt-lora", Budget: plan.MustParseBudget("600"), LR: 1e-3, Rank: 4,
		Counts: peft.Counts{Structured: 500, Entries: 80, Head: 30}, Val: &val, Epochs: s.epochs[""], Seconds: 77, TrainedOn: "train+val",
		Test:    &objective.Evaluation{Images: 10, Accuracy: 0.9, Loss: 0.4, Metrics: map[string]float64{"map": 0.7, "kappa": 0.1}},
		Classes: []string{"cat", "dog", "fox"}, MetricsOf: "test", Posthoc: evaluate.Posthoc{Temperature: 1.7},
		Metrics: &evaluate.Metrics{Images: 10, Correct: 9, Top5: 0.99, BalancedAccuracy: 0.91, Macro: evaluate.Means{F1: 0.92}, Kappa: 0.8, LogLoss: 0.41,
			Calibration: evaluate.Calibration{ECE: 0.2}, Confusion: []evaluate.Cell{{Target: 0, Predicted: 0, Images: 4}, {Target: 1, Predicted: 1, Images: 5}, {Target: 2, Predicted: 0, Images: 1}}},
		Calibrated: &run.Calibrated{LogLoss: 0.3, Calibration: evaluate.Calibration{ECE: 0.05}}}
}

func (s *script) finish() {
	s.t.Helper()
	err := errors.Join(os.WriteFile(s.folder.Path(run.PlanFile), []byte("plan"), 0o666),
		os.WriteFile(s.folder.Path(delta.FileName), []byte("{}"), 0o666),
		os.WriteFile(s.folder.Path(run.PredictionsFile), []byte("predictions"), 0o666),
		os.WriteFile(s.folder.Path(run.ReportFile), []byte("<html>"), 0o666),
		os.WriteFile(s.folder.Path(delta.TensorsName), bytes.Repeat([]byte("x"), 200_000), 0o666),
		run.SaveResult(s.folder, s.result()))
	if err != nil {
		s.t.Fatal(err)
	}
}

// wantMetrics returns the metrics of the first n epochs of the run, by key and step.
func wantMetrics(n int) map[string]float64 {
	want := map[string]float64{}
	for i := range n {
		name := names[i/epochs]
		e, group := figures(name, i%epochs+1), ""
		if name != "" {
			group = "candidates/" + strings.ReplaceAll(name, "%", "pct") + "/"
		}
		add := func(metric string, v float64) { want[fmt.Sprintf("%s%s@%d", group, metric, e.Epoch)] = v }
		add("train_loss", e.TrainLoss)
		add("train_accuracy", e.TrainAccuracy)
		add("lr", e.LR)
		add("images_per_second", e.ImagesPerSecond)
		add("epoch_seconds", e.Seconds)
		if name != "" {
			add("val_loss", e.ValLoss)
			add("val_accuracy", e.ValAccuracy)
		}
	}
	if n == len(names)*epochs {
		for metric, v := range map[string]float64{"test_accuracy": 0.9, "test_loss": 0.4, "test_map": 0.7, "val_accuracy": figures("600", epochs).ValAccuracy,
			"test_top5": 0.99, "test_balanced_accuracy": 0.91, "test_macro_f1": 0.92, "test_kappa": 0.8, "test_log_loss": 0.41, "test_ece": 0.2, "test_ece_calibrated": 0.05, "temperature": 1.7,
			"tuned_parameters": 580, "head_parameters": 30, "training_seconds": 77} {
			want[fmt.Sprintf("%s@%d", metric, epochs)] = v
		}
	}
	return want
}

// check compares the only run of the server with the first n epochs of the run.
func (f *fakeMLflow) check(s *script, n int, status string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.runs) != 1 {
		f.t.Fatalf("the server has %d runs, want 1", len(f.runs))
	}
	r, want := f.runs[0], wantMetrics(n)
	for key, v := range want {
		if got, has := r.metrics[key]; !has || got != v {
			f.t.Errorf("metric %s is %v, %v; want %v", key, got, has, v)
		}
	}
	if len(r.metrics) != len(want) || r.status != status || r.name != filepath.Base(string(s.folder)) || r.start != 1777863721987 {
		f.t.Errorf("%d metrics, want %d; status %s, want %s; name %s, start %d", len(r.metrics), len(want), r.status, status, r.name, r.start)
	}
	for key, v := range map[string]string{"method": "spt-lora", "budget": "600, 0.5%", "lr": "0.001", "epochs": "3", "seed": "0", "model": "vit.safetensors", "dropout": "0.1"} {
		if r.params[key] != v {
			f.t.Errorf("param %s is %q, want %q", key, r.params[key], v)
		}
	}
	if r.tags["spt_data_fingerprint"] != "data" || len(r.tags["spt_run"]) != 16 {
		f.t.Errorf("tags %v", r.tags)
	}
	if n < len(names)*epochs {
		return
	}
	if r.params["chosen_budget"] != "600" || r.params["rank"] != "4" || r.end != 1777870800000 {
		f.t.Errorf("params %v, end %d", r.params, r.end)
	}
	files := []string{run.ConfigFile, run.ResultFile, run.PlanFile, run.MetricsFile, run.PredictionsFile, run.ReportFile, delta.FileName, delta.TensorsName}
	for _, name := range files {
		data, err := os.ReadFile(s.folder.Path(name))
		if err != nil || r.files[name] != string(data) {
			f.t.Errorf("%s differs on the server: %v", name, err)
		}
	}
	drawn, err := png.DecodeConfig(strings.NewReader(r.files["confusion_matrix.png"]))
	if err != nil || drawn.Width <= 3*48 || drawn.Height <= 3*48 { // three cells and the names
		f.t.Errorf("the drawing of the confusion matrix: %v, %v", drawn, err)
	}
	if f.uploads != len(files)+1 {
		f.t.Errorf("%d files, want %d and the drawing", f.uploads, len(files))
	}
}

// follow starts a tracker of the run.
func (s *script) follow(o tracking.Options) *tracking.Tracker {
	s.t.Helper()
	tracker, err := tracking.New(string(s.folder), o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.report = tracker.Watch(nil)
	return tracker
}

// TestLive follows a run with a server that works. Every epoch must arrive while the run works.
func TestLive(t *testing.T) {
	s, f := begin(t, "photos"), newFake(t)
	tracker := s.follow(tracking.Options{MLflow: f.URL})
	for i := range len(names) * epochs {
		s.epoch(names[i/epochs])
		// 15 of the result
		f.wait(fmt.Sprintf("epoch %d", i), func() bool { return len(f.runs) == 1 && len(f.runs[0].metrics) == len(wantMetrics(i+1))-15*(i/8) })
	}
	s.finish()
	if err := tracker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.check(s, 9, "FINISHED")
	// The times grow by the seconds of the epochs.
	if got := f.runs[0].times["candidates/0.5pct/lr@1"]; got != 1777863721987+1250*(1+2+3+11) {
		t.Errorf("the second candidate begins at %d", got)
	}
	// Once more, from the folder: nothing is sent twice.
	if err := tracking.Send(t.Context(), string(s.folder), tracking.Options{MLflow: f.URL}, nil); err != nil {
		t.Fatal(err)
	}
	f.check(s, 9, "FINISHED")
}

// TestSend sends an unfinished run, and the rest of it later. A lost file and a moved folder change
// nothing.
func TestSend(t *testing.T) {
	for _, lose := range []bool{false, true} {
		s, f := begin(t, "photos"), newFake(t)
		t.Setenv("MLFLOW_EXPERIMENT_NAME", "mine")
		send := func() {
			t.Helper()
			if err := tracking.Send(t.Context(), string(s.folder), tracking.Options{MLflow: f.URL + "/"}, nil); err != nil {
				t.Fatal(err)
			}
		}
		send()
		s.play(0, 5)
		send()
		f.check(s, 5, "RUNNING")
		if lose {
			if err := os.Remove(s.folder.Path(run.MLflowFile)); err != nil {
				t.Fatal(err)
			}
			moved := run.Folder(filepath.Join(t.TempDir(), "photos"))
			if err := os.Rename(string(s.folder), string(moved)); err != nil {
				t.Fatal(err)
			}
			s.folder = moved
		}
		s.play(5, 9)
		send()
		f.check(s, 9, "FINISHED")
		if !slices.Equal(f.experiments, []string{"mine"}) {
			t.Errorf("experiments %q", f.experiments)
		}
	}
	if err := tracking.Send(t.Context(), t.TempDir(), tracking.Options{}, nil); err == nil {
		t.Error("Send takes a folder without a run")
	}
}

// TestResume interrupts a run, kills another one after events that are not in the folder, and
// resumes both.
func TestResume(t *testing.T) {
	s, f := begin(t, "photos"), newFake(t)
	o := tracking.Options{MLflow: f.URL, TensorBoard: t.TempDir()}
	tracker := s.follow(o)
	s.play(0, 4)
	if err := tracker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.check(s, 4, "KILLED")

	// The program is killed between an event and the file, and the state of the training is older:
	// epochs 4 and 5 are trained again.
	tracker = s.follow(o)
	s.epoch("0.5%")
	s.epochs["0.5%"] = s.epochs["0.5%"][:1]
	f.wait("5 epochs", func() bool { return len(f.runs[0].metrics) == len(wantMetrics(5)) })
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	_ = tracker.Close(stopped) // as good as killed
	s.save("0.5%")

	tracker = s.follow(o)
	s.play(4, 9)
	if err := tracker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.check(s, 9, "FINISHED")
	checkBoard(t, o.TensorBoard, s)
}

// TestGap checks that an epoch whose event came before the tracker began, but whose line was not in
// the file yet, is not lost.
func TestGap(t *testing.T) {
	s, f := begin(t, "photos"), newFake(t)
	s.play(0, 1)
	o := tracking.Options{MLflow: f.URL, TensorBoard: t.TempDir()}
	// in the state of the training only
	s.epochs["600"] = append(s.epochs["600"], figures("600", 2))
	tracker := s.follow(o)
	s.play(2, 9)
	if err := tracker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.check(s, 9, "FINISHED")
	checkBoard(t, o.TensorBoard, s)
}

// hang holds a request until the client gives up.
func hang(_ int, _ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// closes closes the connection within the answer.
func closes(_ int, w http.ResponseWriter, _ *http.Request) bool {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"run\":")
		conn.Close()
	}
	return true
}

func answers(status int, text string) func(int, http.ResponseWriter, *http.Request) bool {
	return func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		fmt.Fprint(w, text)
		return true
	}
}

// TestFailures checks that no failure of a server delays the run or fails it, that Close ends in
// time with a DeliveryError, and that everything arrives once when the server works again.
func TestFailures(t *testing.T) {
	for name, fail := range map[string]func(int, http.ResponseWriter, *http.Request) bool{
		"hangs": hang, "closes": closes, "500": answers(500, ""), "401": answers(401, "no"), "429": answers(429, ""), "garbage": answers(200, "<html>"), "empty": answers(200, "{}"),
		"from the fourth request on": func(n int, w http.ResponseWriter, r *http.Request) bool { return n > 3 && closes(n, w, r) },
		"every second request":       func(n int, w http.ResponseWriter, r *http.Request) bool { return n%2 == 1 && closes(n, w, r) },
	} {
		for _, lost := range []bool{false, true} {
			if lost && name != "closes" && name != "every second request" {
				continue
			}
			t.Run(fmt.Sprint(name, ", done ", lost), func(t *testing.T) {
				t.Parallel()
				s, f := begin(t, "photos"), newFake(t)
				f.lost = lost
				f.set(fail)
				o := tracking.Options{MLflow: strings.Replace(f.URL, "://", "://me:secret@", 1)}
				tracker := s.follow(o)
				start := time.Now()
				s.play(0, 9)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("the run takes %v", took)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				start = time.Now()
				err := tracker.Close(ctx)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("Close takes %v", took)
				}
				undelivered, ok := errors.AsType[*tracking.DeliveryError](err)
				if name != "every second request" && (!ok || undelivered.Place != "MLflow at "+f.URL || !strings.Contains(undelivered.Missing, "metrics")) {
					t.Errorf("the error is %v", err)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("the error tells the password: %v", err)
				}
				f.set(nil)
				if err := tracking.Send(t.Context(), string(s.folder), o, nil); err != nil {
					t.Fatal(err)
				}
				f.check(s, 9, "FINISHED")
				if data, err := os.ReadFile(s.folder.Path(run.MLflowFile)); err != nil || bytes.Contains(data, []byte("secret")) {
					t.Errorf("%s: %v", data, err)
				}
			})
		}
	}
}

// TestRefused checks the same for an address at which nothing listens, and that the user is told
// while the run works.
func TestRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	listener.Close()
	s := begin(t, "photos")
	tracker, err := tracking.New(string(s.folder), tracking.Options{MLflow: address})
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	s.report = tracker.Watch(func(e progress.Event) {
		if e.Stage == progress.Note {
			notes = append(notes, e.Item)
		}
	})
	s.play(0, 2)
	for deadline := time.Now().Add(10 * time.Second); len(notes) == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.report.Report(progress.Event{Stage: progress.Train})
	}
	s.play(2, 9)
	if len(notes) != 1 || !strings.Contains(notes[0], address) {
		t.Errorf("notes %q", notes)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = tracker.Close(ctx)
	if _, ok := errors.AsType[*tracking.DeliveryError](err); !ok || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the error is %v", err)
	}
}

// TestRecovery checks that a tracker delivers everything once the server works again, within Close.
func TestRecovery(t *testing.T) {
	s, f := begin(t, "photos"), newFake(t)
	f.set(answers(503, ""))
	tracker := s.follow(tracking.Options{MLflow: f.URL})
	s.play(0, 9)
	time.AfterFunc(100*time.Millisecond, func() { f.set(nil) })
	if err := tracker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.check(s, 9, "FINISHED")
}

// TestUploadElsewhere checks the note about files that the server does not take.
func TestUploadElsewhere(t *testing.T) {
	s, f := begin(t, "photos"), newFake(t)
	f.uri = "s3://bucket/"
	s.play(0, 9)
	var notes []string
	err := tracking.Send(t.Context(), string(s.folder), tracking.Options{MLflow: f.URL}, func(e progress.Event) { notes = append(notes, e.Item) })
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "s3://bucket/run0") || !strings.Contains(notes[0], string(s.folder)) {
		t.Errorf("%v, notes %q", err, notes)
	}
	if f.uploads != 0 || f.runs[0].status != "FINISHED" {
		t.Errorf("%d uploads, status %s", f.uploads, f.runs[0].status)
	}
}

// TestDeletedRun checks that a run that a user has deleted on the server is made again.
func TestDeletedRun(t *testing.T) {
	s, f := begin(t, "photos"), newFake(t)
	o := tracking.Options{MLflow: f.URL}
	s.play(0, 9)
	for range 2 {
		if err := tracking.Send(t.Context(), string(s.folder), o, nil); err != nil {
			t.Fatal(err)
		}
		f.check(s, 9, "FINISHED")
		f.runs, f.uploads = nil, 0
	}
}

// TestNotBegun checks a tracker of a run that never begins, and one without places.
func TestNotBegun(t *testing.T) {
	f := newFake(t)
	for _, o := range []tracking.Options{{MLflow: f.URL, TensorBoard: t.TempDir()}, {}} {
		tracker, err := tracking.New(filepath.Join(t.TempDir(), "no"), o)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		tracker.Watch(func(progress.Event) { seen++ })(progress.Event{Stage: progress.Score})
		if err := tracker.Close(t.Context()); err != nil || seen != 1 || len(f.runs) != 0 {
			t.Errorf("%v, %d events, %d runs", err, seen, len(f.runs))
		}
	}
}

// TestOptions checks what is refused before a run begins.
func TestOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for option, o := range map[string]tracking.Options{"mlflow": {MLflow: "ftp://me:secret@host"}, "tensorboard": {TensorBoard: file}} {
		_, err := tracking.New("runs/x", o)
		if e, ok := errors.AsType[*run.OptionError](err); !ok || e.Option != option || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", option, err)
		}
	}
}

// TestResultMatrix checks that Send leaves out the drawing of a confusion matrix that is too large
// to draw, and that a cell outside the matrix is an error that names the file.
func TestResultMatrix(t *testing.T) {
	s := begin(t, "photos")
	s.play(0, 9)
	many := s.result()
	for i := range 5000 {
		many.Classes = append(many.Classes, fmt.Sprint("class ", i))
	}
	if err := run.SaveResult(s.folder, many); err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	o := tracking.Options{MLflow: f.URL, TensorBoard: t.TempDir()}
	if err := tracking.Send(t.Context(), string(s.folder), o, nil); err != nil {
		t.Fatal(err)
	}
	if _, has := f.runs[0].files["confusion_matrix.png"]; has || f.runs[0].metrics["test_kappa@3"] != 0.8 {
		t.Errorf("5000 classes: a drawing %v, metrics %v", has, f.runs[0].metrics)
	}
	outside := s.result()
	outside.Metrics.Confusion[0].Predicted = 3
	if err := run.SaveResult(s.folder, outside); err != nil {
		t.Fatal(err)
	}
	err := tracking.Send(t.Context(), string(s.folder), o, nil)
	if _, ok := errors.AsType[*run.InputError](err); !ok || !strings.Contains(err.Error(), run.ResultFile) || !strings.Contains(err.Error(), "class 3") {
		t.Errorf("a cell outside the matrix: %v", err)
	}
}

// checkBoard compares the folder of TensorBoard with that of a run that is written at once.
func checkBoard(t *testing.T, dir string, s *script) {
	t.Helper()
	once := t.TempDir()
	if err := tracking.Send(t.Context(), string(s.folder), tracking.Options{TensorBoard: once}, nil); err != nil {
		t.Fatal(err)
	}
	read := func(dir string) map[string]string {
		files := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			if len(data) == 0 {
				return err // replaced by another file
			}
			if files[filepath.Dir(name)] != "" {
				t.Errorf("%s holds two files", filepath.Dir(name))
			}
			files[filepath.Dir(name)] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	got, want := read(dir), read(once)
	if len(want) != 3 || len(got) != len(want) {
		t.Errorf("%d files, want %d of 3", len(got), len(want))
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s differs from a run that is written at once", name)
		}
	}
	for _, name := range []string{"photos/final", "photos/candidates/600", "photos/candidates/0.5%"} {
		if want[filepath.FromSlash(name)] == "" {
			t.Errorf("there is no file in %s", name)
		}
	}
}

// TestSameName checks that two runs whose folders have one name get two folders in TensorBoard.
func TestSameName(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // again: each finds its folder
		for seed := range 2 {
			s := begin(t, "photos")
			_, c, err := run.Open(string(s.folder))
			if err != nil {
				t.Fatal(err)
			}
			c.Tune.Train.Seed = uint64(seed)
			if err := errors.Join(os.RemoveAll(string(s.folder))); err != nil {
				t.Fatal(err)
			}
			if s.folder, err = run.Create(string(s.folder), &c); err != nil {
				t.Fatal(err)
			}
			s.play(0, 9)
			if err := tracking.Send(t.Context(), string(s.folder), tracking.Options{TensorBoard: dir}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "photos" || !strings.HasPrefix(entries[1].Name(), "photos-") {
		t.Errorf("%v, %v", entries, err)
	}
}
