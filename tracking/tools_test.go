//go:build unix

package tracking_test

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/tracking"
	"github.com/sptune/spt/train"
)

// TestTools runs a small run that is interrupted and resumed, and compares what TensorBoard and a
// real MLflow server read with the run folder. The server is killed while the run works, and starts
// again. .ci/tracking runs the test. It sets SPT_TRACKING_PYTHON to a Python interpreter with
// tensorboard, and SPT_TRACKING_MLFLOW to the program mlflow.
func TestTools(t *testing.T) {
	python, program := os.Getenv("SPT_TRACKING_PYTHON"), os.Getenv("SPT_TRACKING_MLFLOW")
	if python == "" {
		t.Skip("SPT_TRACKING_PYTHON is not set; .ci/tracking sets it")
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	o := tracking.Options{TensorBoard: filepath.Join(dir, "logs")}
	start, kill := func() {}, func() {}
	if program != "" {
		o.MLflow, start, kill = mlflowServer(t, program, dir)
		start()
		waitFor(t, o.MLflow)
	}

	data := filepath.Join(dir, "data")
	writeImages(t, data)
	c := &run.Config{Model: run.ModelConfig{Path: embedded.Name}, Data: run.DataConfig{Path: data, ValFraction: 0.4, TestFraction: 0.2}}
	c.Compute.Device = "cpu"
	task, err := spt.Open(t.Context(), c, nil)
	check(err)
	recipe := train.VTAB().WithEpochs(3)
	recipe.BatchSize = 8
	options, err := task.Effective(run.TuneOptions{Method: "spt-lora", Budgets: []plan.Budget{plan.MustParseBudget("3%"), plan.MustParseBudget("3000")}, Train: recipe, PaperProtocol: true})
	check(err)
	options.Score.Batches = 2
	c.Tune = options
	folder := filepath.Join(dir, "photos")
	_, err = task.Create(t.Context(), folder, c, nil)
	check(err)

	// The first part ends in the second candidate.
	tracker, err := tracking.New(folder, o)
	check(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = task.Tune(ctx, options, folder, tracker.Watch(func(e progress.Event) {
		if e.Stage == progress.Epoch && e.Candidate == "3000" {
			cancel()
		}
	}))
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the interrupted run ends with %v", err)
	}
	check(tracker.Close(t.Context()))

	// The second part has no server until the final training.
	kill()
	tracker, err = tracking.New(folder, o)
	check(err)
	started := false
	result, err := task.Tune(t.Context(), options, folder, tracker.Watch(func(e progress.Event) {
		if e.Stage == progress.Epoch && e.Candidate == "" && !started {
			started = true
			start()
		}
	}))
	check(err)
	begin := time.Now()
	err = tracker.Close(t.Context())
	t.Logf("Close took %v: %v", time.Since(begin).Round(time.Millisecond), err)
	if _, late := errors.AsType[*tracking.DeliveryError](err); err != nil && (!late || o.MLflow == "") {
		t.Fatal(err)
	}

	if result.Calibrated == nil {
		t.Fatal("the run has no temperature, so it does not test all metrics")
	}

	// Afterwards, with a report.
	if o.MLflow != "" {
		waitFor(t, o.MLflow)
	}
	check(os.WriteFile(filepath.Join(folder, run.ReportFile), []byte("<!DOCTYPE html><title>photos</title>"), 0o666))
	for range 2 { // the second time sends nothing
		check(tracking.Send(t.Context(), folder, o, nil))
	}
	args := []string{filepath.Join("testdata", "compare.py"), folder, o.TensorBoard}
	if o.MLflow != "" {
		args = append(args, o.MLflow)
	}
	output, err := exec.Command(python, args...).CombinedOutput()
	t.Logf("%s", output)
	check(err)
}

// mlflowServer returns the address of a server in the folder dir, and the functions that start and
// kill it.
func mlflowServer(t *testing.T, program, dir string) (address string, start, kill func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	log, err := os.Create(filepath.Join(dir, "mlflow.log"))
	if err != nil {
		t.Fatal(err)
	}
	var server *exec.Cmd
	start = func() {
		server = exec.Command(program, "server", "--backend-store-uri", "sqlite:///"+filepath.Join(dir, "mlflow.db"),
			"--artifacts-destination", filepath.Join(dir, "artifacts"), "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "1")
		server.Stdout, server.Stderr = log, log
		server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := server.Start(); err != nil {
			t.Error(err)
		}
	}
	kill = func() {
		if server != nil && server.Process != nil {
			// an error means that it has ended
			_ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL)
			_ = server.Wait()
			server = nil
		}
	}
	t.Cleanup(func() {
		kill()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the server: %s", text[max(0, len(text)-3000):])
		}
		log.Close()
	})
	return fmt.Sprintf("http://127.0.0.1:%d", port), start, kill
}

// waitFor waits until the server answers.
func waitFor(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if answer, err := http.Get(address + "/health"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the MLflow server does not answer within 2 minutes")
		}
	}
}

// writeImages makes two classes of 65 images. Every fifth image has the colour of the other class,
// so that no training predicts all images correctly.
func writeImages(t *testing.T, root string) {
	t.Helper()
	colours := map[string]color.RGBA{"blue": {20, 20, 220, 255}, "red": {220, 20, 20, 255}}
	for class, other := range map[string]string{"blue": "red", "red": "blue"} {
		if err := os.MkdirAll(filepath.Join(root, class), 0o777); err != nil {
			t.Fatal(err)
		}
		for i := range 65 {
			c := colours[class]
			if i%5 == 0 {
				c = colours[other]
			}
			m := image.NewRGBA(image.Rect(0, 0, 32, 32))
			for p := range 32 * 32 {
				c.G = uint8(i * p % 97)
				m.SetRGBA(p%32, p/32, c)
			}
			f, err := os.Create(filepath.Join(root, class, fmt.Sprintf("%02d.png", i)))
			if err == nil {
				err = errors.Join(png.Encode(f, m), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
