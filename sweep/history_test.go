package sweep

import (
	"os"
	"strings"
	"testing"

	"github.com/sptune/spt/run"
)

// TestHistory counts the attempts in logs of jobs, also where a killed process has written a part
// of a line.
func TestHistory(t *testing.T) {
	start := attempt{Event: began}
	failure := attempt{Event: ended, Code: run.ExitFailed, Error: "first line\nthe disk is full"}
	for name, c := range map[string]struct {
		log      []attempt
		torn     string
		attempts int
		failed   bool // with a limit of three attempts
	}{
		"new":                    {nil, "", 0, false},
		"killed":                 {[]attempt{start}, "", 1, false},
		"killed while it writes": {[]attempt{start, failure, start}, `{"kind":"attempt","ver`, 2, true},
		"killed three times":     {[]attempt{start, start, start}, "", 3, true},
		"failed and killed":      {[]attempt{start, failure, start, failure, start}, "", 3, true},
		"saved":                  {[]attempt{start, {Event: ended, Code: run.ExitInterrupted, Saved: true}, start, {Event: ended, Code: run.ExitInterrupted, Saved: true}, start}, "", 1, false},
		"bad input":              {[]attempt{start, {Event: ended, Code: run.ExitInput, Error: "broken", Final: true}}, "", 1, true},
	} {
		f := Folder(t.TempDir())
		for _, a := range c.log {
			if err := f.record("job", a); err != nil {
				t.Fatal(err)
			}
		}
		if c.torn != "" {
			file, err := os.OpenFile(f.log("job"), os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = file.WriteString(c.torn)
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = file.Close()
		}
		if c.torn != "" { // the next line is whole
			if err := f.record("job", start); err != nil {
				t.Fatal(err)
			}
			c.attempts++
		}
		h, err := f.history("job")
		if err != nil || h.attempts != c.attempts || h.failed(3) != c.failed {
			t.Errorf("%s: %d attempts, failed %v, %v; expected %d, %v", name, h.attempts, h.failed(3), err, c.attempts, c.failed)
		}
	}
	f := Folder(t.TempDir())
	long := failure
	long.Error = strings.Repeat("long ", 100_000) + failure.Error
	if err := f.record("job", long); err != nil {
		t.Fatal(err)
	}
	if h, err := f.history("job"); err != nil || lastLine(h.last.Error) != "the disk is full" {
		t.Errorf("a long error: %v, %v", h.last.Error, err)
	}
	if got := lastLine(failure.Error); got != "the disk is full" {
		t.Errorf("the last line is %q", got)
	}
}
