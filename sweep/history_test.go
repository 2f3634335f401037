package sweep

import (
	"os"
	"reflect"
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

// TestStatusOfSome checks that a failed job that a filter leaves out blocks the jobs that need it.
func TestStatusOfSome(t *testing.T) {
	f := Folder(t.TempDir())
	all := []Job{
		{Header: jobHeader, ID: "first", Stage: Select, Task: "birds", Seed: 0},
		{Header: jobHeader, ID: "second", Stage: Final, Task: "birds", Seed: 1, Candidates: [][]string{{"first"}}},
		{Header: jobHeader, ID: "third", Stage: Final, Task: "cars", Seed: 1},
	}
	if _, err := f.Save(&Jobs{Spec: &Spec{}, All: all}); err != nil {
		t.Fatal(err)
	}
	if err := f.record("first", attempt{Event: ended, Code: run.ExitInput, Error: "broken", Final: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		where []string
		want  Status
	}{
		{nil, Status{Jobs: 3, Failed: 1, Blocked: 1, Open: 1}},
		{[]string{"seed=1"}, Status{Jobs: 2, Blocked: 1, Open: 1}},
		{[]string{"task=birds", "seed=1"}, Status{Jobs: 1, Blocked: 1}},
		{[]string{"seed=0"}, Status{Jobs: 1, Failed: 1}},
	} {
		s, err := f.Status(0, filter(t, c.where...))
		if s.Failures = nil; err != nil || !reflect.DeepEqual(s, c.want) {
			t.Errorf("%s: %+v, %v; expected %+v", c.where, s, err, c.want)
		}
	}
	if _, err := f.Run(t.Context(), Options{List: "jobs.txt", Where: filter(t, "seed=0")}); err == nil || !strings.Contains(err.Error(), "give one of them") {
		t.Errorf("a list and conditions: error %v", err)
	}
}
