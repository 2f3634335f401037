package spt

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// fileState is what a change of a file changes.
type fileState struct {
	size     int64
	modified time.Time
}

// fileStates returns the states of the files that a run reads: the images and the checkpoint. A
// missing file has no state.
func (t *Task) fileStates() map[string]fileState {
	states := map[string]fileState{}
	for _, path := range append(t.data.Files(), t.model.Path) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			states[path] = fileState{info.Size(), info.ModTime()}
		}
	}
	return states
}

// recordChanges lists in r the files that changed after the Task checked its images, and reports
// them. The run has read some of them before their change and some after it, so its result may
// describe neither.
func (t *Task) recordChanges(r *run.Result, report progress.Func) {
	now := t.fileStates()
	for path, before := range t.states {
		if now[path] != before {
			r.Changed = append(r.Changed, path)
		}
	}
	slices.Sort(r.Changed)
	if n := len(r.Changed); n > 0 {
		report.Report(progress.Event{Stage: progress.Note, Item: fmt.Sprintf("files that the run reads changed while it ran: %d, the first is %s; the result may be wrong, so repeat the run", n, r.Changed[0])})
	}
}
