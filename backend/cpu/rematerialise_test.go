package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/gomlx/compute"
)

// TestRematerialise checks that rematerialisation makes the arena of a training step of two blocks
// smaller, and changes results only by rounding.
func TestRematerialise(t *testing.T) {
	r := &recorder{backend: newBackend(t)}
	s := stateful
	s.depth = 2
	dims, _ := s.inputs()
	again := compiled(t, r, s.graph, dims...).(*executable)
	tasks := r.tasks
	r.options.rematerialiseSize = math.MaxInt // nothing is computed again
	kept := compiled(t, r, s.graph, dims...).(*executable)
	saved := kept.arenaBytes - again.arenaBytes
	activation := 4 * s.batch * s.tokens * s.width
	t.Logf("arena %d bytes, %d without: %.1f activations saved", again.arenaBytes, kept.arenaBytes, float64(saved)/float64(activation))
	// The results of the MLP and the norms of the second block need not stay in memory until the
	// backward pass.
	if saved < activation {
		t.Errorf("the arena has %d bytes and %d without rematerialisation; expected to save at least one activation of %d", again.arenaBytes, kept.arenaBytes, activation)
	}
	if err := new(shadow).check(again, tasks); err != nil {
		t.Error(err)
	}
	want := execute(t, compiled(t, r.plain, s.graph, dims...), s.upload(t, r.plain), nil)
	for name, x := range map[string]compute.Executable{"with": again, "without": kept} {
		for i, got := range execute(t, x, s.upload(t, r.backend), nil) {
			near(t, fmt.Sprintf("%s rematerialisation, output %d", name, i), got, want[i], 1e-5)
		}
	}
}
