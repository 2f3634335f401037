package report

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sptune/spt/run"
)

// watchEvery is the time between two looks at a run folder.
const watchEvery = 500 * time.Millisecond

// Watch calls changed whenever the page of the run in the folder dir would change, until ctx ends.
// It looks at the sizes and times of the files, so the run may go on in another process. A folder
// that does not exist yet is a run that has not begun.
func Watch(ctx context.Context, dir string, changed func()) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for before := state(dir); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := state(dir); now != before {
			before = now
			changed()
		}
	}
}

// state returns a text that changes with the files of a run.
func state(dir string) (text string) {
	folder, c, err := run.Open(dir)
	folders := []run.Folder{folder}
	if err == nil {
		folders = append(folders, candidates(folder, c)...)
	}
	for _, f := range folders {
		for _, name := range []string{run.ConfigFile, run.MetricsFile, run.PlanFile, run.ResultFile} {
			if info, err := os.Stat(f.Path(name)); err == nil {
				text += fmt.Sprintln(f, name, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return text
}
