package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

// TestFailedOperations makes operations on files fail, one after the other, in a run that strace
// traces. The run must end with a message, and the resumed run must give the same delta as a run
// without failures and leave no temporary file. strace counts the calls of each thread, so a case
// can be several failures.
//
// The test makes a few calls of each kind fail. With SPT_FAULTS=all it continues until a run makes
// no further call.
func TestFailedOperations(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err == nil {
		err = exec.Command(strace, "-o", os.DevNull, "true").Run()
	}
	if err != nil {
		t.Skipf("strace cannot trace here: %v", err)
	}
	dir := t.TempDir()
	spt := filepath.Join(dir, "spt") // TestMain runs the program under this name
	self, err := os.Executable()
	if err == nil {
		err = errors.Join(os.Symlink(self, spt), makeImages(filepath.Join(dir, "data"), 6), makeModel(filepath.Join(dir, "vit.safetensors"), 1, 5, 16, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	tune := func(out string) []string {
		return []string{"tune", "--quiet", "--device", "cpu", "--model", "vit.safetensors", "--data", "data", "--budget", "300,400", "--rank", "1", "--epochs", "2", "--batch-size", "4", "--out", out}
	}
	// call runs the program in dir and returns its exit code and messages.
	call := func(command string, args ...string) (code int, messages string) {
		c := exec.Command(command, args...)
		c.Dir = dir
		var stderr bytes.Buffer
		c.Stderr = &stderr
		if err := c.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), stderr.String()
	}
	if code, messages := call(spt, tune("whole")...); code != 0 {
		t.Fatalf("exit code %d: %s", code, messages)
	}
	want, err := os.ReadFile(filepath.Join(dir, "whole", delta.TensorsName))
	if err != nil {
		t.Fatal(err)
	}
	injected := 0
	for _, fault := range []struct{ call, cause string }{{"fsync", "EIO"}, {"renameat", "EIO"}, {"mkdirat", "ENOSPC"}, {"unlinkat", "EACCES"}, {"openat", "EMFILE"}} {
		numbers := []int{1, 2, 4, 9}
		if os.Getenv("SPT_FAULTS") == "all" {
			numbers = nil
			for n := range 400 {
				numbers = append(numbers, n+1)
			}
		}
		for _, n := range numbers {
			out := fmt.Sprintf("%s-%d", fault.call, n)
			log := filepath.Join(dir, out+".log")
			code, messages := call(strace, append([]string{"-f", "-qq", "-o", log, "-e", "trace=" + fault.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", fault.call, fault.cause, n), spt}, tune(out)...)...)
			trace, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(trace, []byte("(INJECTED)")) {
				break // the run makes no further call
			}
			injected++
			if !slices.Contains([]int{0, exitFailed, exitUsage, exitInput}, code) || code != 0 && !strings.HasPrefix(messages, "spt: ") || strings.Contains(messages, "goroutine") {
				t.Errorf("%s: exit code %d, %s", out, code, messages)
			}
			again := []string{"tune", "--quiet", "--resume", out}
			if _, err := os.Stat(filepath.Join(dir, out, run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
				again = tune(out)
			}
			if code, messages := call(spt, again...); code != 0 {
				t.Errorf("%s, resumed: exit code %d, %s", out, code, messages)
				continue
			}
			if got, err := os.ReadFile(filepath.Join(dir, out, delta.TensorsName)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, resumed: the delta differs from that of a run without failures, %v", out, err)
			}
			err = filepath.WalkDir(filepath.Join(dir, out), func(path string, d fs.DirEntry, err error) error {
				if name := d.Name(); strings.HasSuffix(name, ".tmp") || name == run.TrainStateFile {
					t.Errorf("%s, resumed: the run left %s", out, path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	if injected < 12 {
		t.Errorf("%d runs with a failed operation, expected at least 12", injected)
	}
}
