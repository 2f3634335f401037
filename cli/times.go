package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/progress"
)

// stageTimes measures how long the stages of a command take. The time between two events belongs to
// the stage of the second one, so that of a training includes its compilation. The zero value is
// ready for use.
type stageTimes struct {
	mu    sync.Mutex
	last  time.Time
	order []progress.Stage // in the order of their first events
	spent map[progress.Stage]time.Duration
}

// opening is the stage before the first event of a run: the program starts, and opens the backbone
// and the data set.
const opening progress.Stage = "open"

// begin starts the first stage at the given time.
func (t *stageTimes) begin(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = at
}

// add ends the part of a stage that an event reports. It does nothing before begin.
func (t *stageTimes) add(s progress.Stage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.last.IsZero() || s == progress.Note:
		return
	case s == progress.Epoch:
		s = progress.Train
	}
	now := time.Now()
	if _, ok := t.spent[s]; !ok {
		if t.spent == nil {
			t.spent = map[progress.Stage]time.Duration{}
		}
		t.order = append(t.order, s)
	}
	t.spent[s] += now.Sub(t.last)
	t.last = now
}

// seconds returns the seconds of each stage.
func (t *stageTimes) seconds() map[progress.Stage]float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	seconds := make(map[progress.Stage]float64, len(t.spent))
	for s, d := range t.spent {
		seconds[s] = d.Seconds()
	}
	return seconds
}

// String returns the time of all stages, and of each stage that took a hundredth of it.
func (t *stageTimes) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all time.Duration
	for _, d := range t.spent {
		all += d
	}
	var parts []string
	for _, s := range t.order {
		if d := t.spent[s]; 100*d >= all {
			parts = append(parts, fmt.Sprintf("%s %s", wording.Seconds(d.Seconds()), stageName(progress.Event{Stage: s})))
		}
	}
	return wording.Seconds(all.Seconds()) + " in all: " + strings.Join(parts, ", ")
}
