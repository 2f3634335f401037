package run_test

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sptune/spt/run"
)

// TestCreateAtOnce checks that only one of several runs can begin in a folder.
func TestCreateAtOnce(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "run")
		var group sync.WaitGroup
		var created atomic.Int64
		for range 8 {
			group.Go(func() {
				_, err := run.Create(dir, &run.Config{})
				if err == nil {
					created.Add(1)
				} else if _, ok := errors.AsType[*run.OptionError](err); !ok || !strings.Contains(err.Error(), "already holds a run") {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if n := created.Load(); n != 1 {
			t.Errorf("%d runs began", n)
		}
		if _, _, err := run.Open(dir); err != nil {
			t.Error(err)
		}
	}
}
