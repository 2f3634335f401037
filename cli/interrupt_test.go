package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sptune/spt/internal/atomicfile"
)

// TestSupervise checks that a command that does not react to an interrupt ends after a second, and
// leaves no temporary file. A training may save its state first.
func TestSupervise(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		for _, training := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			var stderr strings.Builder
			a := &app{stderr: &stderr}
			a.training.Store(training)
			release := make(chan struct{})
			ended := make(chan struct{})
			go func() {
				time.Sleep(time.Second)
				cancel()
				time.Sleep(5 * time.Second)
				close(release)
			}()
			start := time.Now()
			code := a.supervise(ctx, func() int {
				defer close(ended)
				// The command ignores the interrupt while it writes a file.
				_ = atomicfile.Write(filepath.Join(dir, "out"), func(io.Writer) error {
					<-release
					return nil
				})
				return 7
			})
			took := time.Since(start)
			switch {
			case training && (code != 7 || took != 6*time.Second):
				t.Errorf("training: exit code %d after %s, expected 7 after 6s", code, took)
			case !training && (code != exitInterrupted || took != time.Second+interruptGrace || stderr.String() != "spt: interrupted\n"):
				t.Errorf("exit code %d after %s with %q, expected %d after %s", code, took, stderr.String(), exitInterrupted, time.Second+interruptGrace)
			}
			if !training {
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("the command left %v, %v", left, err)
				}
			}
			<-ended
		}
	})
}
