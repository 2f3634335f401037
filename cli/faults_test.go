package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
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
	p := newPlace(t, 6)
	tune := func(out string) []string {
		return []string{"tune", "--recipe", "vtab", "--quiet", "--device", "cpu", "--model", "vit.safetensors", "--data", "data", "--budget", "300,400", "--rank", "1", "--epochs", "2", "--batch-size", "4", "--out", out}
	}
	p.do(tune("whole")...)
	want := p.read("whole", delta.TensorsName)
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
			log := p.path(out + ".log")
			code, messages := p.call(strace, append([]string{"-f", "-qq", "-o", log, "-e", "trace=" + fault.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", fault.call, fault.cause, n), p.spt}, tune(out)...)...)
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
			if _, err := os.Stat(p.path(out, run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
				again = tune(out)
			}
			if code, messages := p.call(p.spt, again...); code != 0 {
				t.Errorf("%s, resumed: exit code %d, %s", out, code, messages)
				continue
			}
			if got, err := os.ReadFile(p.path(out, delta.TensorsName)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, resumed: the delta differs from that of a run without failures, %v", out, err)
			}
			if left, err := leftovers(p.path(out)); err != nil || left != nil {
				t.Errorf("%s, resumed: the run left %v, %v", out, left, err)
			}
		}
	}
	if injected < 12 {
		t.Errorf("%d runs with a failed operation, expected at least 12", injected)
	}
}
