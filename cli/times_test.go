package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/progress"
)

// TestStageTimes checks that the time between two events belongs to the stage of the second, that
// notes do not count, and that the stages sum to the whole time.
func TestStageTimes(t *testing.T) {
	var s stageTimes
	s.add(progress.Images) // before begin
	if n := len(s.seconds()); n != 0 {
		t.Fatalf("%d stages before the begin", n)
	}
	began := time.Now().Add(-100 * time.Second)
	s.begin(began)
	s.add(opening)
	for _, next := range []progress.Stage{progress.Train, progress.Note, progress.Epoch, progress.Test} {
		s.last = s.last.Add(-10 * time.Second) // as if ten more seconds had passed
		s.add(next)
	}
	got := s.seconds()
	for stage, want := range map[progress.Stage]float64{opening: 100, progress.Train: 30, progress.Test: 10} {
		if v := got[stage]; v < want || v > want+1 {
			t.Errorf("stage %s took %.2f s, want %.0f", stage, v, want)
		}
	}
	if len(got) != 3 || !strings.HasPrefix(s.String(), "140 s in all: 100 s opening, 30 s training, 10 s testing") {
		t.Errorf("%v: %s", got, &s)
	}
}
