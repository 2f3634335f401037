package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

// TestKills kills a run at random moments, and continues it until it ends. Nothing may be refused,
// the delta must be that of a run without a stop, and the folder may hold no other files. With
// SPT_FAULTS=all the test kills more often.
//
// A training is saved every ten seconds, which is longer than the run. So the test also interrupts
// the run, and then kills it while it continues from the saved state.
func TestKills(t *testing.T) {
	kills := numberOfKills(t)
	p := newPlace(t, 12)
	tune := func(out string) []string {
		return []string{"tune", "--recipe", "vtab", "--quiet", "--device", "cpu", "--model", "vit.safetensors", "--data", "data", "--budget", "300,400", "--rank", "1", "--epochs", "10", "--batch-size", "4", "--out", out}
	}
	start := time.Now()
	p.do(tune("whole")...)
	whole := time.Since(start)
	r := rand.New(rand.NewPCG(1, 2))
	for n, killed := 0, 0; killed < kills; n++ {
		out := fmt.Sprint("run-", n)
		// command returns the command that begins or continues the run.
		command := func() *exec.Cmd {
			if _, err := os.Stat(p.path(out, run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
				return p.command(p.spt, tune(out)...)
			}
			return p.command(p.spt, "tune", "--quiet", "--resume", out)
		}
		for stops := 0; stops < 6 && killed < kills; stops++ {
			signal := os.Kill
			if r.IntN(3) == 0 {
				signal = os.Interrupt
			}
			if !stop(t, command(), signal, time.Duration(r.Float64()*float64(whole))) {
				break
			}
			if signal == os.Kill {
				killed++
			}
		}
		c := command()
		if text, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c.Args, err, text)
		}
		p.checkRun(out, "whole")
	}
}

// numberOfKills returns how often a test kills processes: 6 times, or 50 times with SPT_FAULTS=all.
// It skips the test on systems without signals.
func numberOfKills(t *testing.T) int {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a system with signals: run on Linux or macOS")
	}
	if os.Getenv("SPT_FAULTS") == "all" {
		return 50
	}
	return 6
}

// stop starts a command and sends it a signal after the given time. It reports whether the signal
// ended the command.
func stop(t *testing.T, c *exec.Cmd, signal os.Signal, after time.Duration) bool {
	t.Helper()
	var messages bytes.Buffer
	c.Stderr = &messages
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = c.Process.Signal(signal) }) // it may have ended
	err := c.Wait()
	timer.Stop()
	// An interrupt before the program handles signals ends it with -1, as a kill does.
	if code := c.ProcessState.ExitCode(); err != nil && code != -1 && !(signal == os.Interrupt && code == exitInterrupted) {
		t.Fatalf("%v: %v\n%s", c.Args, err, &messages)
	}
	return err != nil
}

// checkRun checks that the finished run in a folder has the files and the delta of another run.
func (p *place) checkRun(out, whole string) {
	p.t.Helper()
	for _, file := range []string{delta.TensorsName, delta.FileName} {
		if !bytes.Equal(p.read(out, file), p.read(whole, file)) {
			p.t.Errorf("%s: %s differs from that of a run without a stop", out, file)
		}
	}
	files := func(folder string) (names []string) {
		if err := fs.WalkDir(os.DirFS(p.path(folder)), ".", func(path string, _ fs.DirEntry, err error) error {
			names = append(names, path)
			return err
		}); err != nil {
			p.t.Fatal(err)
		}
		return names
	}
	if got, want := files(out), files(whole); strings.Join(got, "\n") != strings.Join(want, "\n") {
		p.t.Errorf("%s holds the files %q, expected %q", out, got, want)
	}
}

// TestKilledDownloads kills the program while it downloads, alone or while another process waits
// for the same file. The next download must continue. The cache must then hold the weights of the
// hub, and no part of them. With SPT_FAULTS=all the test kills more often.
func TestKilledDownloads(t *testing.T) {
	inputs := newPlace(t, 1)
	if err := errors.Join(os.Mkdir(inputs.path("hub"), 0o777), makeModel(inputs.path("hub", "model.safetensors"), 1, 5, 64, 16, "")); err != nil {
		t.Fatal(err)
	}
	size := int64(len(inputs.read("hub", "model.safetensors")))
	kills := 2
	if os.Getenv("SPT_FAULTS") == "all" {
		kills = 10
	}
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct {
		name        string
		two, killed bool // two processes download; the first one is killed
	}{
		{"one", false, true},
		{"first of two", true, true},
		{"two at once", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &place{t, t.TempDir(), inputs.spt}
			hub := &slowHub{hub: hubOf("tests/vit", "1", inputs.path("hub"))}
			server := httptest.NewServer(hub)
			defer server.Close()
			start := func() *exec.Cmd {
				c := p.command(p.spt, "inspect", "--quiet", "hf:tests/vit")
				c.Env = append(os.Environ(), "HF_ENDPOINT="+server.URL, "HF_HUB_CACHE="+p.path("hf"))
				c.Stderr = os.Stderr
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				return c
			}
			await := func(what string, done func() bool) {
				t.Helper()
				for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("%s does not happen", what)
					}
				}
			}
			// received returns the number of bytes that an unfinished download has received.
			received := func() int64 {
				// the pattern is right
				paths, _ := filepath.Glob(p.path("hf", "*", "blobs", "*.incomplete"))
				if len(paths) == 0 {
					return 0
				}
				stat, err := os.Stat(paths[0])
				if err != nil {
					return 0
				}
				return stat.Size()
			}
			const pause = 5 * time.Millisecond // a second for 200 kB
			if !c.two {
				for n := range kills {
					hub.set(false, pause)
					least := received() + 1 + r.Int64N(size/int64(2*kills))
					first := start()
					await("a download of some bytes", func() bool { return received() >= least })
					if err := first.Process.Kill(); err != nil {
						t.Fatal(err)
					}
					_ = first.Wait() // killed
					if ranges, _ := hub.requested(); n > 0 && (len(ranges) != 1 || ranges[0] == "") {
						t.Errorf("the hub received requests for the ranges %q, expected one request for the rest", ranges)
					}
				}
				hub.set(false, 0)
				if err := start().Wait(); err != nil {
					t.Fatal(err)
				}
				p.checkDownload(inputs, hub)
				return
			}
			hub.set(false, pause)
			first := start()
			await("a download of some bytes", func() bool { return received() > 0 })
			second := start()
			await("the request of the second process", func() bool { _, asked := hub.requested(); return asked == 2 })
			if c.killed {
				if err := first.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if err := first.Wait(); (err != nil) != c.killed {
				t.Errorf("the first process: %v", err)
			}
			if err := second.Wait(); err != nil {
				t.Errorf("the second process: %v", err)
			}
			ranges, _ := hub.requested()
			if c.killed && (len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=")) || !c.killed && len(ranges) != 1 {
				t.Errorf("the hub received requests for the ranges %q", ranges)
			}
			p.checkCache(inputs)
		})
	}
}
